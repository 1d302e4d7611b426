"""Trained models by the names that a user may have at hand: of a registry, a run, an artifact, a folder, or of W&B."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from bccp.core.digests import folder_digest
from bccp.core.errors import BCCPError
from bccp.core.paths import expanded
from bccp.tracking import finished_runs, registry, wandb_artifacts
from bccp.tracking.store import Ledger
from bccp.tracking.tags import INPUT_PREFIX, LEFT_OUT_PREFIX, MODEL_TAG, OUTPUT_PREFIX, REUSED_PREFIX

UNREGISTERED = "model"
"""Name of a model that is none of a registry: that of its artifact."""


class NamedModel(NamedTuple):
    """The files of a model, and what it is.

    Attributes
    ----------
    folder : Path
        Holds ``model.json``.
    name : str
        Of the registered model, or :data:`UNREGISTERED`.
    version : int or None
        Of the registered model.
    digest : str
        Version of the artifact ``model``, 64 hex digits.
    """

    folder: Path
    name: str
    version: int | None
    digest: str


def find_named(ledger: Ledger, model: str, folder: Path, *, option: str = "MODEL") -> NamedModel:
    """Find a model.

    Parameters
    ----------
    ledger : Ledger
    model : str
        ``models:/name@alias``, ``models:/name/version``, ``name@alias``, ``model:<digest>``, a pipeline as for
        :func:`bccp.tracking.finished_runs.find`, the id of its step train or test, a folder that holds ``model.json``, a file in it, or
        ``entity/project/model:d-<digits>`` of W&B.
    folder : Path
        Where to put what has to be copied.
    option : str
        What gave the name, for messages.

    Raises
    ------
    BCCPError
        If there is none.
    """
    if not model:
        raise BCCPError(f"which model? give {option}=models:/name@alias, a run's id or model:<digest>")
    place = expanded(model, option=option)
    place = place.parent if place.name in ("model.json", "model.pt") and place.is_file() else place
    if (place / "model.json").is_file():
        return _unregistered(place)
    if re.fullmatch(r"model:(d-)?[0-9a-f]{12,64}", model):
        return _unregistered(ledger.fetch(model))
    if re.fullmatch(r"models:/[^/@]+(@|/)[^/@]+|[^/@:]+@[^/@:]+", model):
        version = registry.find_version(ledger, model if model.startswith("models:/") else f"models:/{model}", option=option)
        found = registry.fetch_model(ledger, version, folder)
        return NamedModel(found, str(version.name), int(version.version), str(version.tags.get(MODEL_TAG) or folder_digest(found)))
    if re.fullmatch(r"([^/:@]+/){1,2}[^/:@]+:[^/:@]+", model):
        wandb_artifacts.download(model, folder)
        if not (folder / "model.json").is_file():
            raise BCCPError(f"{option}={model} holds no model of the step train (no model.json): name an artifact `model`")
        return _unregistered(folder)
    return _unregistered(ledger.fetch(f"model:{_model_of_run(ledger, model, option)}"))


def _unregistered(folder: Path) -> NamedModel:
    return NamedModel(folder, UNREGISTERED, None, folder_digest(folder))


def _model_of_run(ledger: Ledger, run_id: str, option: str) -> str:
    """The version of the model that a run, or a pipeline's step, has made or read."""
    client = ledger.client
    if (summary := finished_runs.summary_file(run_id, option=option)) is not None:
        steps = finished_runs.read_summary(summary, option=option)["steps"]
        made = [step["outputs"]["model"] for step in steps if "model" in step["outputs"]]
        if not made:
            raise BCCPError(f"the run {summary} has made no model: give a pipeline's run in which the step train took part")
        return str(made[0])
    runs = finished_runs.named_runs(run_id, ledger)
    if not runs:
        raise BCCPError(f"{option}={run_id} is neither a registered model (models:/name@alias) nor a run in {ledger.uri}: give one of them")
    if len(runs) > 1:
        raise BCCPError(f"{option}={run_id} is the beginning or end of {len(runs)} runs' names: give more of it")
    run = runs[0]
    run_id = run.info.run_id
    reused = [client.get_run(value) for name, value in run.data.tags.items() if name.startswith((REUSED_PREFIX, LEFT_OUT_PREFIX))]
    nested = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}' and attributes.status = 'FINISHED'")
    for tag in (f"{OUTPUT_PREFIX}model", f"{INPUT_PREFIX}model"):
        for one in (run, *nested, *reused):
            if tag in one.data.tags:
                return str(one.data.tags[tag])
    raise BCCPError(f"the run {run_id} has made no model: give a pipeline's run in which the step train took part")
