"""What the jobs of a sweep came to, as tables: what was swept, means and intervals over seeds, the best settings.

What was swept is told from what differs between the jobs. Keys that end with ``random_seed`` are seeds, over which figures are averaged;
the others are axes. A setting is one value of each axis, and an axis that a job's configuration ignores (the ratio where
``cp_sampling.type=none``) has no value in it, so that jobs that did the same are one setting.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from scipy.special import stdtrit

from bccp.core import automatic, config, config_schema
from bccp.core.redaction import redact
from bccp.core.run_summary import HEADLINES

COMPARED_METRICS = ("test/accuracy", "train/val_accuracy", "bayes_cutoff/f1", "bayes_cutoff/auroc")
"""What settings are compared by, as far as jobs have measured it: shares, the higher the better."""

VALIDATION = "train/val_accuracy"
"""The figure that a setting may be chosen by, as no test image has a part in it."""

_CONFIDENCE = 0.95

_SEED = "random_seed"
_CONDITIONS = ("main.", "data.", "segregation.", "noisy_labels.")
_WITHOUT_EFFECT = ("tracking.", "hydra", "main.cache", "main.threads", "main.env_manager")
_NEVER_IGNORED = frozenset({"noisy_labels.label", "bayes_cutoff.enabled"})  # they tell what the others are ignored for
_LINK = re.compile(r"\$\{([\w.]+)\}")
_HIDDEN = re.compile(r"\$\{oc\.env:BCCP_SECRET_\w+\}")


@dataclass(frozen=True)
class Job:
    """A job of a sweep.

    Attributes
    ----------
    number : int
    status : str
        ``finished``, ``failed``, ``unfinished`` (killed, or still going on) or ``not started``.
    error : str
    overrides : tuple of str
        As Hydra gave them to the job.
    config : dict
        By section, as ``summary.json`` has it.
    metrics : dict of str to float
        Finite ones.
    seconds, work_seconds : float
        Of all its steps.
    n_ran, n_reused : int
        Steps.
    """

    number: int
    status: str
    error: str = ""
    overrides: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    work_seconds: float = 0.0
    n_ran: int = 0
    n_reused: int = 0


@dataclass(frozen=True)
class Axis:
    """A key that was swept and is no seed.

    Attributes
    ----------
    key : str
    name : str
        The key, without its section where that is clear.
    values : tuple of str
        Numbers in order, other values as they first come.
    """

    key: str
    name: str
    values: tuple[str, ...]

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(_number(value) is not None for value in self.values)

    @property
    def condition(self) -> bool:
        """Whether it says what the pipeline is given (data, noise), rather than what one may choose."""
        return self.key.startswith(_CONDITIONS)


@dataclass(frozen=True)
class SweepData:
    """The jobs of a sweep, put together.

    Attributes
    ----------
    name : str
        Its id.
    jobs : list of Job
    table : DataFrame
        One row a job: ``job, status, error, overrides``, the value of each axis and seed as text (empty where it is ignored), the figures,
        and ``seconds, work_seconds, steps_reused``.
    axes : tuple of Axis
    seeds : tuple of str
        Keys.
    """

    name: str
    jobs: list[Job]
    table: pd.DataFrame
    axes: tuple[Axis, ...]
    seeds: tuple[str, ...]

    @property
    def keys(self) -> list[str]:
        """Of the axes."""
        return [axis.key for axis in self.axes]

    @property
    def figures(self) -> list[str]:
        """Those of :data:`COMPARED_METRICS` that a finished job has."""
        done = self.table[self.table["status"] == "finished"]
        return [name for name in COMPARED_METRICS if name in done and done[name].notna().any()]


def job_record(number: int, summary: Any, overrides: Sequence[str] = ()) -> Job:
    """Make a job's record of what it has left, whatever that is.

    Parameters
    ----------
    number : int
    summary : object
        What ``summary.json`` holds, or None where there is none that can be read.
    overrides : sequence of str

    Returns
    -------
    Job
        ``unfinished`` where the summary is none. Nothing in it shows a password.
    """
    said: tuple[str, ...] = tuple(_HIDDEN.sub("(hidden)", str(redact(text))) for text in overrides)
    if not isinstance(summary, Mapping) or summary.get("status") not in ("finished", "failed"):
        return Job(number, "unfinished", "it left no summary: it was killed, or is still going on", said)
    summary = redact(summary)
    steps = [step for step in _as(list, summary.get("steps")) if isinstance(step, Mapping)]
    statuses = [step.get("status") for step in steps]
    return Job(
        number,
        summary["status"],
        str(summary.get("error") or ""),
        said,
        _as(dict, summary.get("config")),
        {str(name): float(value) for name, value in _as(dict, summary.get("metrics")).items() if _finite(value)},
        sum(float(step["seconds"]) for step in steps if _finite(step.get("seconds"))),
        sum(float(step["work_seconds"]) for step in steps if _finite(step.get("work_seconds"))),
        statuses.count("ran"),
        statuses.count("reused"),
    )


def never_started(jobs: Sequence[Job], planned: Iterable[Sequence[str]]) -> list[Job]:
    """The jobs that a sweep has planned and of which nothing is there.

    Parameters
    ----------
    jobs : sequence of Job
        Those that have left something.
    planned : iterable of sequences of str
        The overrides of each, in the order of their numbers.

    Returns
    -------
    list of Job
    """
    there = {job.overrides for job in jobs}
    records = [job_record(number, None, overrides) for number, overrides in enumerate(planned)]
    if not there & {job.overrides for job in records}:
        return []  # the plan is another's
    return [dataclasses.replace(job, status="not started", error="") for job in records if job.overrides not in there]


def gather(name: str, jobs: Iterable[Job]) -> SweepData:
    """Put the jobs of a sweep together.

    Parameters
    ----------
    name : str
        The sweep's id.
    jobs : iterable of Job
        At least one.

    Returns
    -------
    Sweep
    """
    ordered = sorted(jobs, key=lambda job: job.number)
    settings = [_settings(job) for job in ordered]
    swept = _swept(ordered, settings)
    seeds = tuple(key for key in swept if key.rpartition(".")[2] == _SEED)
    keys = [key for key in swept if key not in seeds]
    axes = tuple(Axis(key, _short(key, keys), _in_order(one.get(key, "") for one in settings)) for key in keys)
    rows = []
    for job, one in zip(ordered, settings, strict=True):
        told: dict[str, Any] = {"job": job.number, "status": job.status, "error": job.error, "overrides": " ".join(job.overrides)}
        told |= {key: one.get(key, "") for key in swept}
        told |= {figure: job.metrics.get(figure, math.nan) for figure in HEADLINES}
        rows.append(told | {"seconds": round(job.seconds, 1), "work_seconds": round(job.work_seconds, 1), "steps_reused": job.n_reused})
    table = pd.DataFrame(rows)
    unmeasured = [figure for figure in HEADLINES if bool(table[figure].isna().all())]
    return SweepData(name, ordered, table.drop(columns=unmeasured), axes, seeds)


def seed_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean of independent values, and half the width of its 95% interval by Student's t.

    Parameters
    ----------
    values : sequence of float
        At least one.

    Returns
    -------
    mean, half : float
        ``half`` is NaN for a single value, which tells nothing of how it varies.

    Examples
    --------
    >>> interval([0.8, 0.9])  # doctest: +ELLIPSIS
    (0.85, 0.635...)
    >>> interval([0.8])
    (0.8, nan)
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return mean, math.nan
    quantile = float(stdtrit(n - 1, (1 + _CONFIDENCE) / 2))
    return mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(n)


def aggregate(table: pd.DataFrame, keys: Sequence[str], seeds: Sequence[str], figure: str) -> pd.DataFrame:
    """Average a figure of the finished jobs over their seeds.

    Parameters
    ----------
    table : DataFrame
        As in :class:`SweepData`.
    keys : sequence of str
        What makes a setting; none: all jobs are one.
    seeds : sequence of str
    figure : str

    Returns
    -------
    DataFrame
        One row a setting in the order of the jobs: ``keys``, ``n`` (seeds), ``mean``, ``half`` (as :func:`seed_interval` gives it). Jobs of
        one seed and setting, which are no independent trials, count as one.
    """
    by_setting: dict[tuple[str, ...], dict[tuple[str, ...], list[float]]] = {}
    done = table[(table["status"] == "finished") & table[figure].notna()] if figure in table else table[:0]
    for row in done.to_dict("records"):
        setting = tuple(str(row[key]) for key in keys)
        by_setting.setdefault(setting, {}).setdefault(tuple(str(row[seed]) for seed in seeds), []).append(float(row[figure]))
    rows = [
        (*setting, len(trials), *seed_interval([math.fsum(v) / len(v) for v in trials.values()])) for setting, trials in by_setting.items()
    ]
    return pd.DataFrame(rows, columns=[*keys, "n", "mean", "half"])


@dataclass(frozen=True)
class Best:
    """The best setting under one condition.

    Attributes
    ----------
    condition, setting : dict of str to str
        Values by the name of the axis; those that are ignored are left out.
    figures : dict of str to (float, float)
        Mean and half width of its figures.
    n : int
        Seeds that it was tried with.
    n_others : int
        Other settings under this condition.
    n_within : int or None
        How many of them have a mean within its interval, or above; None where it has no interval.
    """

    condition: dict[str, str]
    setting: dict[str, str]
    figures: dict[str, tuple[float, float]]
    n: int
    n_others: int
    n_within: int | None


def best(sweep: SweepData, figure: str) -> list[Best]:
    """The best setting by a figure, under each condition (what the pipeline was given), in the order of the jobs."""
    means = {name: aggregate(sweep.table, sweep.keys, sweep.seeds, name).to_dict("records") for name in sweep.figures}
    conditions = [axis for axis in sweep.axes if axis.condition]
    choices = [axis for axis in sweep.axes if not axis.condition]
    rivals: dict[tuple[str, ...], list[dict[Any, Any]]] = {}
    for row in means.get(figure, []):
        rivals.setdefault(tuple(row[axis.key] for axis in conditions), []).append(row)
    found = []
    for rows in rivals.values():
        top = max(rows, key=lambda row: row["mean"])
        within = None if math.isnan(top["half"]) else sum(row["mean"] >= top["mean"] - top["half"] for row in rows) - 1
        same = {name: [row for row in table if all(row[key] == top[key] for key in sweep.keys)] for name, table in means.items()}
        figures = {name: (float(row["mean"]), float(row["half"])) for name, only in same.items() for row in only}
        condition, setting = ({axis.name: top[axis.key] for axis in axes if top[axis.key]} for axes in (conditions, choices))
        found.append(Best(condition, setting, figures, int(top["n"]), len(rows) - 1, within))
    return found


def describe_sweep(axes: Sequence[Axis], values: Mapping[Any, Any]) -> str:
    """A setting in words: what it has of each axis that it does not ignore."""
    return ", ".join(f"{axis.name}={values[axis.key]}" for axis in axes if values[axis.key]) or "the only setting"


def _swept(jobs: Sequence[Job], settings: Sequence[Mapping[str, str]]) -> list[str]:
    """The keys that differ: those that the jobs were given, and others where finished jobs differ by more than these explain."""
    given = dict.fromkeys(key for job in jobs for text in job.overrides for key, _, _ in _parsed(text))
    swept = [key for key in given if not key.startswith(_WITHOUT_EFFECT) and len({one.get(key, "") for one in settings}) > 1]
    done = [one for job, one in zip(jobs, settings, strict=True) if job.status == "finished"]
    for key in dict.fromkeys(key for one in done for key in one):
        if key.startswith(_WITHOUT_EFFECT) or key in swept or len({one.get(key, "") for one in done}) == 1:
            continue
        known = {tuple(one.get(name, "") for name in swept) for one in done}
        if len({tuple(one.get(name, "") for name in [*swept, key]) for one in done}) > len(known):
            swept.append(key)
    return swept


def _settings(job: Job) -> dict[str, str]:
    """What a job ran with, by key, as text: empty where its configuration ignores it."""
    given = [one for text in job.overrides for one in _parsed(text)]
    said = job.config or {key: value for key, value, _ in given}  # a job that was killed has left its overrides only
    flat = dict(config.flatten(said))
    values = {key: text for key, _, text in given} | {key: _text(_followed(key, flat)) for key in flat}
    return values | dict.fromkeys(_ignored(flat) & values.keys(), "")


@functools.cache
def _parsed(text: str) -> tuple[tuple[str, Any, str], ...]:
    """Key, value and the value's text of an override; nothing where it sets none."""
    try:
        override = OverridesParser.create().parse_override(text)
        if override.is_delete() or override.is_sweep_override():
            return ()
        value = override.value()
    except HydraException:  # what a file that is no more whole may hold
        return ()
    plain = isinstance(value, bool | int | float | str | None)
    return ((override.key_or_group, value, _text(value) if plain else override.get_value_element_as_str()),)


@functools.cache
def _defaults() -> dict[str, Any]:
    """``config.yaml``, by key."""
    values = config.defaults()
    return dict(config.flatten({name: values[name] for name in values if name not in ("defaults", "hydra")}))


@functools.cache
def source_of(key: str) -> str:
    """The key that a key of ``config.yaml`` is a link to, through all links; itself where it is none."""
    parts = key.split(".")
    for depth in range(len(parts), 1, -1):
        link = _LINK.fullmatch(str(_defaults().get(".".join(parts[:depth]))))
        if link:
            return source_of(".".join([link[1], *parts[depth:]]))
    return key


def _followed(key: str, flat: Mapping[str, Any]) -> Any:
    """A value of a configuration, through links to other keys; the summary of a job that was refused at once still has them."""
    value, seen = flat[key], {key}
    while (link := _LINK.fullmatch(str(value))) and link[1] in flat and link[1] not in seen:
        seen.add(link[1])
        value = flat[link[1]]
    return value


def _ignored(given: Mapping[str, Any]) -> set[str]:
    """The keys of the steps' sections that neither their own step nor one that is linked to them heeds, under values by key."""
    flat = _defaults() | dict(given)
    built_in = flat.get("data.source") == automatic.BUILT_IN
    flat["noisy_labels.source"] = automatic.label_source(
        flat["noisy_labels.source"], flat.get("noisy_labels.feedback_file"), built_in=built_in
    )
    asked, heeded = set(), set()
    for step in ("segregation", "noisy_labels", "bayes_cutoff", "cp_sampling", "train", "test"):
        section = _built(config_schema.section_type(step), f"{step}.", flat)
        asked |= {f"{step}.{name}" for name, _ in config.flatten(dataclasses.asdict(section))}
        heeded |= {f"{step}.{name}" for name, _ in config.flatten(config_schema.relevant(section))}
    return asked - heeded - {source_of(key) for key in heeded} - _NEVER_IGNORED


def _built(kind: type[Any], prefix: str, flat: Mapping[str, Any]) -> Any:
    """A section, unchecked, of what a configuration and the defaults say; what a newer version does not know is left out."""
    made: dict[str, Any] = {}
    hints: dict[str, Any] = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        key, hint = f"{prefix}{item.name}", hints[item.name]
        if dataclasses.is_dataclass(hint):
            made[item.name] = _built(typing.cast("type[Any]", hint), f"{key}.", flat)
        else:
            made[item.name] = _followed(key, flat) if key in flat else None
    return kind(**made)


def _text(value: Any) -> str:
    """A value in one spelling: equal numbers are equal texts."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return config.encode(value)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _in_order(values: Iterable[str]) -> tuple[str, ...]:
    different = tuple(dict.fromkeys(value for value in values if value))
    numbers = {value: _number(value) for value in different}
    return tuple(sorted(different, key=lambda value: numbers[value] or 0.0)) if None not in numbers.values() else different


def _short(key: str, keys: Sequence[str]) -> str:
    name = key.rpartition(".")[2]
    return name if [other.rpartition(".")[2] for other in keys].count(name) == 1 else key


def _as(kind: type[Any], value: Any) -> Any:
    return value if isinstance(value, kind) else kind()


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
