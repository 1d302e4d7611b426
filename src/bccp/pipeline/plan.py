"""What a configuration asks for: which steps are needed, what each reads, and under which key its finished run is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bccp.core import config_schema, step_graph
from bccp.core.step_graph import MAKER, SPECS
from bccp.pipeline import cache_keys, environments
from bccp.pipeline.step_runner import resolve_external_refs
from bccp.tracking.store import FinishedRun, Ledger

LABEL_STEPS = frozenset({"noisy_labels", "bayes_cutoff", "cp_sampling"})
"""With true labels these may be left out altogether: labels pass through, nothing is replayed."""


class Plan:
    """The steps of one configuration; versions become known as steps are run or found.

    Parameters
    ----------
    checked : Config

    Attributes
    ----------
    asked : list of str
        ``main.execute_steps``.
    manager : str
        What the steps' environments are made by; ``local``: they run in this process.
    isolated : bool
        Whether each step runs in an environment of its own.
    versions : dict of str to str
        Version of each artifact that is known, by name.

    Raises
    ------
    BCCPError
        If the manager's command is missing.
    """

    def __init__(self, checked: config_schema.Config) -> None:
        self.config = checked
        self.asked: list[str] = checked.main.execute_steps
        self.manager: str = cache_keys.started_by() if checked.main.env_manager == "auto" else checked.main.env_manager
        environments.check_tool(self.manager)
        self.isolated = self.manager != "local"
        self.versions: dict[str, str] = {}
        self.passes_through = checked.noisy_labels.label == "ground_truth" and not LABEL_STEPS & set(self.asked)

    def needed(self, wanted: Sequence[str]) -> list[str]:
        """Some steps and those whose outputs they read, directly or not, in run order."""
        needed, todo = set(), list(wanted)
        while todo:
            name = todo.pop()
            if name not in needed:
                needed.add(name)
                todo += [MAKER[artifact] for artifact in self.reads(name)]
        return [name for name in step_graph.STEPS if name in needed]

    def reads(self, name: str) -> list[str]:
        """The artifacts that a step reads."""
        spec = SPECS[name]
        reads = list(spec.all_inputs)
        if self.passes_through:
            made_by_label_steps = {output for step in LABEL_STEPS for output in SPECS[step].all_outputs}
            reads = [artifact for artifact in reads if artifact not in made_by_label_steps]
            if name == "train":
                reads.append("true_labels")
        return reads

    def inputs(self, name: str) -> dict[str, str]:
        """The versions that a step reads, by name."""
        inputs = {artifact: self.versions[artifact] for artifact in self.reads(name) if artifact in self.versions}
        if self.passes_through and name == "train":  # the true labels stand in for cleansed ones
            inputs["cleansed_labels"] = f"true_labels:{inputs.pop('true_labels')}"
        return inputs

    def key(self, name: str, ledger: Ledger) -> tuple[str, dict[str, Any]]:
        """A step's key and what it is made of (:func:`bccp.pipeline.cache_keys.step_key`), once the versions that it reads are known."""
        section = self.config.section(name)
        resolved = resolve_external_refs(name, section, ledger)
        return cache_keys.step_key(name, section, self.inputs(name), isolated=self.isolated, resolved=resolved)


def nearest_run(ledger: Ledger, name: str, parts: Mapping[str, Any], *, with_inputs: bool = True) -> tuple[FinishedRun, list[str]] | None:
    """Find the finished run of a step whose key differs least from one with these parts.

    Parameters
    ----------
    ledger : Ledger
    name : str
        The step.
    parts : mapping
        From :func:`bccp.pipeline.cache_keys.step_key`.
    with_inputs : bool
        Compare the versions of the inputs too; false where they are not known yet.

    Returns
    -------
    run : FinishedRun
    differences : list of str
        Empty where the run has the same key, but its outputs are damaged or gone. None in place of both where no run has finished.
    """
    runs = [(run, cache_keys.key_differences(name, run.key_parts, parts, with_inputs=with_inputs)) for run in ledger.finished(name)]
    return min(runs, key=lambda found: len(found[1]), default=None)
