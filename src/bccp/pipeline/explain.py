"""Explains why a step would run, or be reused, under a configuration (``bccp why``); nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bccp.core import automatic, automatic_models, config, config_schema
from bccp.core.errors import BCCPError
from bccp.core.overrides import first_flag
from bccp.pipeline.compose import compose
from bccp.pipeline.plan import Plan, nearest_run
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.versions import qualified


@dataclass(frozen=True)
class StepExplanation:
    """What would become of a step, and why.

    Attributes
    ----------
    step : str
    would : {"run", "run later", "be added", "be reused", "be left out", "not run"}
        ``run later``: an earlier step would have to run first, and until then the versions of this one's inputs are not known.
        ``be added``: it would have to be added to ``main.execute_steps``.
    reason : str
        A sentence, or its beginning, which the differences end.
    run_id : str or None
        The finished run that it is compared with, or whose outputs would be used.
    differences : list of str
        Known differences from that run (:func:`bccp.pipeline.cache_keys.key_differences`).
    """

    step: str
    would: str
    reason: str
    run_id: str | None = None
    differences: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The explanation in lines of text."""
        return [self.reason, *(f"  {one}" for one in self.differences)]


def explain(step: str, plan: Plan, ledger: Ledger) -> list[StepExplanation]:
    """Explain whether a step would run, and why.

    Parameters
    ----------
    step : str
        One of ``STEPS``.
    plan : Plan
        Of the configuration. The versions that earlier steps have made are entered.
    ledger : Ledger

    Returns
    -------
    list of StepExplanation
        That of the step alone where all its inputs are known. Else that of the first step that would have to run, then those after it of
        which something is known to differ, and last the step's own.
    """
    if step not in plan.needed(plan.asked):
        return [StepExplanation(step, "not run", f"{step} would not run: main.execute_steps leaves it out, and no step in it needs it")]
    if step in plan.asked and not plan.config.main.cache:
        return [StepExplanation(step, "run", f"{step} would run: main.cache=false")]
    needed, run_id = plan.needed([step]), ""
    for number, name in enumerate(needed):
        key, parts = plan.key(name, ledger)
        found = ledger.find(name, key)
        if found is None:
            first = _why_not_found(name, plan, ledger, parts)
            return [first, *_known_to_differ(step, needed[number + 1 :], first, plan, ledger)]
        plan.versions |= found.outputs
        run_id = found.run_id
        if name == "fetch_data":
            _resolve_by_data(plan.config, found.outputs["raw_data"], ledger)
    if step in plan.asked:
        sentence, would = f"{step} would be reused: run {run_id[:8]} has the same key, and its outputs are intact", "be reused"
    else:
        sentence, would = f"{step} is left out: the outputs of run {run_id[:8]}, which has the same key, would be used", "be left out"
    return [StepExplanation(step, would, sentence, run_id)]


def _resolve_by_data(checked: config_schema.Config, raw_data: str, ledger: Ledger) -> None:
    if automatic.depends_on_days(checked):
        from bccp.pipeline import data_days  # imports pandas, which few explanations need

        data_days.resolve(checked, ledger.fetch(qualified("raw_data", raw_data)))
    if automatic_models.waiting(checked):
        from bccp.pipeline import data_images

        data_images.resolve(checked, raw_data, ledger)


def _why_not_found(name: str, plan: Plan, ledger: Ledger, parts: dict[str, Any]) -> StepExplanation:
    asked = name in plan.asked
    begins, would = (f"{name} would run", "run") if asked else (f"{name} would have to be added to main.execute_steps", "be added")
    near = nearest_run(ledger, name, parts)
    if near is None:
        return StepExplanation(name, would, f"{begins}: it has never finished here")
    run, changes = near
    if not changes:
        reason = f"{begins}: run {run.run_id[:8]} has the same key, but its output {ledger.damaged(run)} was changed or is gone"
        return StepExplanation(name, would, reason, run.run_id)
    return StepExplanation(name, would, f"{begins}: what differs from the nearest finished run, {run.run_id[:8]}, is", run.run_id, changes)


def _known_to_differ(step: str, names: Sequence[str], first: StepExplanation, plan: Plan, ledger: Ledger) -> Iterator[StepExplanation]:
    """Explain what is known of steps whose inputs are not."""
    for name in names:
        near = nearest_run(ledger, name, plan.key(name, ledger)[1], with_inputs=False)
        run_id, changes = (near[0].run_id, near[1]) if near else (None, [])
        changes = [one for one in changes if one.partition(" ")[0] not in automatic.unresolved(plan.config)]
        if name == step or changes:
            reason = f"{name}: {first.step} would have to run first, and until then it is not known what {name} reads"
            if changes:
                reason += f"; what differs besides from the nearest finished run, {str(run_id)[:8]}, is"
            yield StepExplanation(name, "run later", reason, run_id, changes)


def explain_options(step: str, words: Sequence[str]) -> list[StepExplanation]:
    """Explain a step under options, with the store that they name.

    Parameters
    ----------
    step : str
        One of ``config.STEPS``.
    words : sequence of str
        Hydra overrides.

    Returns
    -------
    list of StepExplanation
        As of :func:`explain`.

    Raises
    ------
    BCCPError
        If an option cannot be used, or is one of Hydra's flags.
    """
    if flag := first_flag(words):
        raise BCCPError(f"one run is explained, so {flag} is not accepted: give OPTIONS without it, and one value for each key")
    checked = config.load(compose(words), base=Path.cwd())
    automatic.refuse_idle_simulation(checked)
    uri, note = ledger_uri(checked.tracking.mlflow_uri)
    if note:
        print(note, flush=True)
    return explain(step, Plan(checked), Ledger(uri))
