"""Finished pipelines, found by what a user calls them: a run's id or its first digits, a run folder or its name, or a ``summary.json``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bccp.core import automatic, config, config_schema, step_graph
from bccp.core.errors import BCCPError
from bccp.core.home import home, moved_along
from bccp.core.paths import expanded
from bccp.core.redaction import redact
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.tags import FOLDER_TAG, INPUT_PREFIX, OUTPUT_PREFIX, REUSED_PREFIX
from bccp.tracking.versions import qualified

_SHORTEST = 6
"""Digits that name a run or a run folder."""


@dataclass(frozen=True)
class Pipeline:
    """What a finished pipeline has left.

    Attributes
    ----------
    shown : str
        The pipeline, for the user.
    versions : dict of str to str
        Of the artifacts that its steps read and made, those of reused and left-out steps too.
    metrics : dict of str to float
    config : dict of str to str
        The text of each key's value, by ``section.key``.
    tracking : dict of str to str
        The same of where and how it was recorded, which says nothing of a result.
    """

    shown: str
    versions: dict[str, str]
    metrics: dict[str, float]
    config: dict[str, str]
    tracking: dict[str, str] = field(default_factory=dict)

    @property
    def simulated(self) -> tuple[str, ...]:
        """Simulated parts: ``labels``, ``images``, both or neither (:func:`bccp.core.automatic.simulated_parts`)."""
        return automatic.simulated_parts(self._sections())

    def refuse_simulated(self, what: str) -> None:
        """Refuse to go on with simulated labels or corrupted images of a user's own data.

        Parameters
        ----------
        what : str
            What the user asked for, as the beginning of a sentence.

        Raises
        ------
        BCCPError
            If there are any.
        """
        if self.simulated and automatic.is_own_data(self._sections()):
            raise BCCPError(
                f"{what} {self.shown}, whose {' and '.join(self.simulated)} were simulated (noisy_labels.source=simulated): choose a run "
                "without a simulation, or say --simulated"
            )

    def _sections(self) -> dict[str, dict[str, str]]:
        sections: dict[str, dict[str, str]] = {}
        for key, text in self.config.items():
            section, _, name = key.partition(".")
            sections.setdefault(section, {})[name] = text
        return sections


def find(named: str, ledger: Ledger, *, option: str) -> Pipeline:
    """Find what a finished pipeline has left.

    Parameters
    ----------
    named : str
        Its run id, or at least 6 of the digits that it begins with; the path or the name of its run folder, or the 6 digits that this ends
        with; or the path of its ``summary.json``.
    ledger : Ledger
        See :func:`configured_uri`.
    option : str
        How errors call what was given, such as ``RUN``.

    Raises
    ------
    BCCPError
        If there is none, or it did not finish.
    """
    summary = summary_file(named, option=option)
    if summary is None:
        return of_run(_run(named, ledger, option=option), ledger)
    said = read_summary(summary, option=option)
    if said.get("status") != "finished":
        raise BCCPError(f"{summary} is of a run that did not finish: choose another")
    versions = {name: version for step in said["steps"] for name, version in step["outputs"].items()}
    texts = {name: config.encode(value) for name, value in config.flatten(said["config"])}
    return Pipeline(str(summary), versions, dict(said.get("metrics", {})), _settings(texts), _tracking(texts))


def newest(ledger: Ledger, *, with_artifact: str, digest: str = "") -> Pipeline | None:
    """The newest finished pipeline that has read or made an artifact, of this version where one is given; or None."""
    runs = search(ledger, f"tags.`{FOLDER_TAG}` LIKE '%' and attributes.status = 'FINISHED'")
    found = (of_run(run, ledger) for run in runs)
    having = (pipeline for pipeline in found if with_artifact in pipeline.versions)
    return next((pipeline for pipeline in having if pipeline.versions[with_artifact].startswith(digest)), None)


def of_run(run: Any, ledger: Ledger) -> Pipeline:
    """What the ledger knows of a pipeline's own run."""
    texts = run.data.params
    return Pipeline(f"run {run.info.run_id}", _versions(run, ledger), dict(run.data.metrics), _settings(texts), _tracking(texts))


def configured_uri(named: str, *, option: str) -> str | None:
    """The ledger that a summary's run was recorded in, where it was configured; a password is not in it, but may be in the environment."""
    summary = summary_file(named, option=option) if named else None
    uri = read_summary(summary, option=option)["config"].get("tracking", {}).get("mlflow_uri") if summary else None
    inherited = os.environ.get("MLFLOW_TRACKING_URI", "")
    return inherited if uri and uri == redact(inherited) else uri


def summary_file(named: str, *, option: str) -> Path | None:
    """The summary that an argument names: its path, its folder's, or the folder's name under ``outputs``; None where it is neither."""
    outputs = home() / "outputs"
    job = re.sub(r"-(\d+)$", r"/\1", named)  # as bccp.core.naming calls job N of a sweep, which lies in the sweep's folder
    for place in (expanded(named, option=option), outputs / named, outputs / job):
        path = place / "summary.json" if place.is_dir() else place
        if path.is_file():
            return path
    path = expanded(named, option=option)
    path = path / "summary.json" if path.is_dir() else path
    if path.suffix or len(path.parts) > 1:
        raise BCCPError(f"{option}={named} does not exist: give the run id of a pipeline or its summary.json")
    return None


def folder(named: str, *, option: str) -> Path:
    """The folder of a run, finished or failed, which has a ``summary.json``.

    Parameters
    ----------
    named : str
        As for :func:`find`; empty: the newest of the home.
    option : str
        How errors call what was given.

    Raises
    ------
    BCCPError
        If there is none, or several are meant.
    """
    outputs = home() / "outputs"
    if not named:
        found = sorted(outputs.glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise BCCPError(f"no run is in {outputs}: run the pipeline first (bccp run), or give the folder of one: bccp report folder")
        return found[-1].parent
    with suppress(BCCPError):  # it is told below
        if summary := summary_file(named, option=option):
            return summary.parent.resolve()
    runs = named_runs(named, Ledger(ledger_uri(None)[0]))
    if len(runs) > 1:
        raise BCCPError(f"{option}={named} is the beginning or end of {len(runs)} runs' names: give more of it")
    for run in runs:
        place = moved_along(run.data.tags.get(FOLDER_TAG, "/nowhere"))
        if (place / "summary.json").is_file():
            return place
    raise BCCPError(
        f"{option}={named} is no finished or failed run: give a folder that has a summary.json, its name, or a pipeline's MLflow run id"
    )


def named_runs(named: str, ledger: Ledger) -> list[Any]:
    """The runs of MLflow that an id names, or the pipelines' that a part of their id or folder's name does; two where it is ambiguous."""
    from mlflow.exceptions import MlflowException

    try:
        return [ledger.client.get_run(named)]
    except MlflowException:
        return called(named, ledger)


def search(ledger: Ledger, wanted: str, *, limit: int = 100) -> list[Any]:
    """Runs of all experiments, the latest first."""
    experiments = [experiment.experiment_id for experiment in ledger.client.search_experiments()]
    return list(ledger.client.search_runs(experiments, wanted, order_by=["attributes.start_time DESC"], max_results=limit))


def read_summary(path: Path, *, option: str) -> dict[str, Any]:
    """What a ``summary.json`` holds, of a pipeline that has finished or failed.

    Raises
    ------
    BCCPError
        If it cannot be read, or is not what a pipeline writes.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        mappings = [said, said["config"], said["config"].get("tracking", {}), said.get("metrics", {}), *said["steps"]]
        mappings += [step["outputs"] for step in said["steps"]]
        whole = all(isinstance(mapping, dict) for mapping in mappings)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise _no_summary(path, option) from error
    if not whole:
        raise _no_summary(path, option)
    return dict(said)


def _no_summary(path: Path, option: str) -> BCCPError:
    return BCCPError(f"{option}={path} is no summary of a run: give a summary.json as the pipeline writes it")


def _run(named: str, ledger: Ledger, *, option: str) -> Any:
    """A pipeline's own run, by its id or name or a part of these."""
    runs = named_runs(named, ledger)
    if not runs:
        raise BCCPError(f"{option}={named} is not in {redact(ledger.uri)}: give the run id of a pipeline or its summary.json")
    if len(runs) > 1:
        raise BCCPError(f"{option}={named} is the beginning or end of {len(runs)} runs' names: give more of it")
    if FOLDER_TAG not in runs[0].data.tags or runs[0].info.status != "FINISHED":
        raise BCCPError(f"{option}={named} is no pipeline that finished: give the id of a whole run, not of a step's")
    return runs[0]


def called(named: str, ledger: Ledger) -> list[Any]:
    """The pipelines whose names a text is a part of; whatever has become of them."""
    if not re.fullmatch(rf"[\w-]{{{_SHORTEST},}}", named, flags=re.ASCII):
        return []
    folders = search(ledger, f"tags.`{FOLDER_TAG}` LIKE '%{named}'", limit=2)
    return folders or search(ledger, f"tags.`{FOLDER_TAG}` LIKE '%' and attributes.run_id LIKE '{named}%'", limit=2)


def _versions(pipeline: Any, ledger: Ledger) -> dict[str, str]:
    """Versions that the steps of a pipeline's run read and made, those of reused and left-out steps too."""
    client, tags = ledger.client, pipeline.data.tags
    runs = [client.get_run(value) for name, value in tags.items() if name.startswith(REUSED_PREFIX)]
    runs += search(ledger, f"tags.`mlflow.parentRunId` = '{pipeline.info.run_id}' and attributes.status = 'FINISHED'")
    versions: dict[str, str] = {}
    for kind in (INPUT_PREFIX, OUTPUT_PREFIX):
        for run in runs:
            versions |= {name.removeprefix(kind): value for name, value in run.data.tags.items() if name.startswith(kind)}
    if "segregated_data" in versions and "clean_data" not in versions:
        segregated = ledger.fetch(qualified("segregated_data", versions["segregated_data"]))
        versions["clean_data"] = json.loads((segregated / "clean_data.json").read_text(encoding="utf-8"))["clean_data"]
    if "clean_data" in versions and "raw_data" not in versions:  # preprocessing was left out: its own run knows
        versions |= raw_of(versions["clean_data"], ledger)
    return versions


def raw_of(clean_data: str, ledger: Ledger) -> dict[str, str]:
    """The ``raw_data`` that a version of ``clean_data`` was made of, by name; nothing where no run tells."""
    makers = search(ledger, f"tags.`{OUTPUT_PREFIX}clean_data` = '{clean_data}' and attributes.status = 'FINISHED'")
    found = [run.data.tags[f"{INPUT_PREFIX}raw_data"] for run in makers if f"{INPUT_PREFIX}raw_data" in run.data.tags]
    return {"raw_data": found[0]} if found else {}


def data_source_of(clean_data: str, ledger: Ledger) -> str | None:
    """Find the ``data.source`` that a version of ``clean_data`` was fetched from; None where no run tells."""
    raw = raw_of(clean_data, ledger).get("raw_data")
    makers = search(ledger, f"tags.`{OUTPUT_PREFIX}raw_data` = '{raw}' and attributes.status = 'FINISHED'") if raw else []
    return next((str(run.data.params["source"]) for run in makers if "source" in run.data.params), None)


def _settings(flat: Mapping[str, str]) -> dict[str, str]:
    """What belongs to the steps' sections: what was passed to ``mlflow run`` and where runs are recorded says nothing of a result."""
    sections = {"main", *map(config_schema.section_name, step_graph.STEPS)}
    return {key: value for key, value in flat.items() if key.partition(".")[0] in sections}


def _tracking(flat: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in flat.items() if key.startswith("tracking.")}
