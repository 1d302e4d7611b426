"""The plan of a sweep: its jobs, how many different runs of each step they need, and what they need from outside; nothing is run."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from bccp.core import automatic, automatic_models, config, config_schema, step_graph
from bccp.core.errors import BCCPError
from bccp.core.home import keep_within_home
from bccp.core.overrides import check_overrides, first_flag
from bccp.core.registries import BACKBONES
from bccp.core.step_graph import MAKER
from bccp.pipeline.compose import compose
from bccp.pipeline.plan import Plan
from bccp.tracking import wandb_client

_REMOTE = {"archive": "the address", "gdrive": "Google Drive", "kaggle": "Kaggle", "fsspec": "the store", "artifact": "W&B"}


_TELLING = frozenset(
    {"corruption", "embedding", "execute_steps", "init", "model", "noise", "type", "user_accuracy", "wandb", "weights"}
)  # fmt: skip
"""The last parts of keys that say what is needed from outside, or what is simulated."""

_PHOTOGRAPH_PX = 1000.0
"""A shorter side that a photograph may have."""


@dataclass(frozen=True)
class Need:
    """What jobs need from outside.

    Attributes
    ----------
    what : str
    missing : str or None
        What is missing, and what would do; None: nothing that can be told beforehand.
    note : str
        What is known of it.
    """

    what: str
    missing: str | None = None
    note: str = ""


@dataclass
class SweepPlan:
    """What a sweep would do.

    Attributes
    ----------
    n_jobs : int or None
        None where the sweeper chooses as it goes.
    swept : dict of str to list of str
        The values of each key that differs between jobs.
    steps : dict of str to int
        Different runs of each step, in run order: jobs whose parameters and inputs agree share one. Finished ones are reused.
    refused : list of str
        Why jobs could not run, each sentence once.
    needs : list of Need
    """

    n_jobs: int | None
    swept: dict[str, list[str]]
    steps: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)

    def text(self) -> str:
        """Lines for the user."""
        lines = [f"jobs: {self.n_jobs if self.n_jobs is not None else 'as many as the search makes'}"]
        lines += [f"  {key}: {', '.join(values)}" for key, values in self.swept.items()]
        total = sum(self.steps.values())
        lines.append(f"different runs of steps: {total} (finished ones are reused)")
        lines += [f"  {step:<14} {n}" for step, n in self.steps.items()]
        lines.append("from outside: " + ("nothing" if not self.needs else ""))
        lines += [f"  {need.what}" + (f": {need.missing or need.note}" if need.missing or need.note else "") for need in self.needs]
        lines += [f"refused: {sentence}" for sentence in self.refused]
        return "\n".join(line.rstrip() for line in lines)


def plan_sweep(words: Sequence[str]) -> SweepPlan:
    """Plan a sweep from Hydra's words.

    Parameters
    ----------
    words : sequence of str
        Overrides, without flags.

    Raises
    ------
    BCCPError
        If an override cannot be used.
    """
    if flag := first_flag(words):
        raise BCCPError(f"a sweep is planned from section.key=value and +group=name, so {flag} is not accepted: leave it out")
    parsed = OverridesParser.create().parse_overrides(check_overrides(words))
    composed = compose([str(one.input_line) for one in parsed if not one.is_sweep_override()], with_hydra=True)
    params = [f"{key}={value}" for key, value in (composed.hydra.sweeper.get("params") or {}).items()]
    by_key = {one.get_key_element(): one for one in [*OverridesParser.create().parse_overrides(params), *parsed]}
    sweeping = [one for one in by_key.values() if one.is_sweep_override()]
    made = SweepPlan(None, {one.key_or_group: _values(one) for one in sweeping})
    seen: dict[str, set[str]] = {step: set() for step in step_graph.STEPS}
    n_jobs, needs = 0, dict[Need, None]()
    for one in job_configs(composed, sweeping):
        n_jobs += 1
        try:
            if isinstance(one, BCCPError):
                raise one
            if not _sweeps_over_source(sweeping):
                automatic.refuse_idle_simulation(one)
        except BCCPError as error:
            made.refused += [str(error)] if str(error) not in made.refused else []
            continue
        for step, digest in _runs(one).items():
            seen[step].add(digest)
        needs |= dict.fromkeys(_needs(one))
    made.n_jobs = n_jobs if all(one.is_discrete_sweep() for one in sweeping) else None
    made.steps = {step: len(digests) for step, digests in seen.items() if digests}
    made.needs = [need for need in needs if need.what]
    return made


def check_plan(composed: DictConfig, planned: Sequence[Override]) -> None:
    """Refuse a sweep whose jobs lack something from outside.

    Parameters
    ----------
    composed : DictConfig
        Of the sweep.
    planned : sequence of Override
        What the sweeper makes jobs of.

    Raises
    ------
    BCCPError
        What is missing first.
    """
    telling = [one for one in planned if one.is_sweep_override() and one.key_or_group.rpartition(".")[2] in _TELLING]
    for one in job_configs(composed, telling):
        if not isinstance(one, BCCPError):  # which the job tells
            if not _sweeps_over_source(planned):
                automatic.refuse_idle_simulation(one)
            for need in _needs(one):
                if need.missing:
                    raise BCCPError(need.missing)


def job_configs(composed: DictConfig, sweeping: Sequence[Override]) -> Iterator[config_schema.Config | BCCPError]:
    """Yield the configuration of each job, or the error that it would end with; one alone where values are not discrete.

    Parameters
    ----------
    composed : DictConfig
        With the values that all jobs have; swept keys have any.
    sweeping : sequence of Override
        One for each key that is swept over. Groups that are swept over are left out: every job counts with the sweep's own.
    """
    values = OmegaConf.masked_copy(composed, [str(name) for name in composed if name != "hydra"])
    OmegaConf.set_struct(values, False)
    discrete = [one for one in sweeping if one.is_discrete_sweep()]
    for words in BasicSweeper.split_arguments(discrete, None)[0] if discrete else [[]]:
        for override in OverridesParser.create().parse_overrides(list(words)):
            if "/" not in override.key_or_group and override.key_or_group not in config.ADDED:
                with open_dict(values):
                    OmegaConf.update(values, override.key_or_group, override.value())
        try:
            yield config.load(values, base=Path.cwd())
        except BCCPError as error:
            yield error
        except OmegaConfBaseException as error:
            yield BCCPError(str(error).splitlines()[0])


def _sweeps_over_source(planned: Sequence[Override]) -> bool:
    """Return True where jobs differ in the source of their labels: options of a simulation are moot for those without one."""
    return any(one.key_or_group in ("noisy_labels", "noisy_labels.source") and one.is_sweep_override() for one in planned)


def _values(override: Override) -> list[str]:
    return [str(value) for value in override.sweep_string_iterator()] if override.is_discrete_sweep() else [override.get_value_string()]


def _runs(checked: config_schema.Config) -> dict[str, str]:
    """A digest of each step that a job needs: of its parameters and of the steps whose outputs it reads.

    Jobs of one data set have images of one size. As long as that is not known, they are counted as those of photographs.
    """
    checked = copy.deepcopy(checked)
    automatic_models.resolve(checked, _PHOTOGRAPH_PX)
    made: dict[str, str] = {}
    plan_of_job = Plan(checked)
    for step in plan_of_job.needed(plan_of_job.asked):
        section = checked.section(step)
        parts: list[Any] = [config_schema.relevant(section), [made[MAKER[artifact]] for artifact in plan_of_job.reads(step)]]
        if step == "fetch_data":
            parts.append(section.path)
        made[step] = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return made


def _needs(checked: config_schema.Config) -> Iterator[Need]:
    """Yield what a job needs from outside."""
    steps = checked.main.execute_steps
    isolated = Plan(checked).isolated  # which models there are is then for the steps' environments to say
    data = checked.data
    if "fetch_data" in steps and data.source in _REMOTE and not (data.source == "archive" and "://" not in str(data.path)):
        key = os.environ.get("KAGGLE_KEY") or os.environ.get("KAGGLE_API_TOKEN")
        note = "a key is set" if key else "no KAGGLE_USERNAME and KAGGLE_KEY are set, which private data need"
        yield Need(f"data from {_REMOTE[data.source]}, {data.path}", note=note if data.source == "kaggle" else "")
    for step in steps:
        used = {} if isolated else config_schema.relevant(checked.section(step))
        if "model" in used and used["model"] != config_schema.AUTO and (used["model"] not in BACKBONES or used["weights"]):
            yield _weights(used["model"], used["weights"])
        if used.get("embedding", "monday_model") != "monday_model":
            yield _embedding(used["embedding"])
    if "train" in steps and checked.train.init.startswith("models:/"):
        yield Need(f"the registered model {checked.train.init}")
    try:
        online = wandb_client.resolve_mode(checked.tracking.wandb) == "online"
    except BCCPError as error:
        yield Need("a W&B login", missing=str(error))
    else:
        if online:
            yield Need("W&B", note="a key or login is there")


def _embedding(name: str) -> Need:
    """What an embedding needs, which must be known."""
    keep_within_home()
    from bccp.models.embeddings import check_embedding  # torch takes seconds to import

    try:
        check_embedding(name)
    except BCCPError as error:
        return Need(f"the embedding {name}", missing=str(error))
    return Need(f"the embedding {name}")


def _weights(model: str, weights: str | None) -> Need:
    """What a published model needs, which its name must be known for."""
    what = f"the model {model}" + (f" with the weights {weights}" if weights else "")
    keep_within_home()
    from bccp.models.classifier import check_names  # torch takes seconds to import

    try:
        published = check_names(model, weights)
    except BCCPError as error:
        return Need(what, missing=str(error))
    if published is None:
        return Need("")
    if isinstance(published, Path):
        return Need(what, note="its weights are installed")
    import torch

    there = Path(torch.hub.get_dir(), "checkpoints", str(published.url).rpartition("/")[2]).exists()
    return Need(what, note="its weights are here already" if there else f"its weights are downloaded when first used ({published.url})")
