"""What a pipeline reused, in W&B: one run, of the job type ``reused``, that has used whatever the reused steps read and made.

It has the pipeline's configuration and the figures of those steps, so that one that ran nothing stands among the others of its sweep.
Online it is made at the pipeline's end. Offline nothing of W&B is imported: the ledger has which runs were reused, and a tag of the
pipeline's run asks :mod:`bccp.tracking.wandb_sync` for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bccp.core import config_schema, step_graph
from bccp.core.step_graph import MAKER, PIXEL_ARTIFACTS
from bccp.tracking.store import Ledger
from bccp.tracking.tags import MLFLOW_RUN_KEY, PIPELINE_TAG, REUSED_PREFIX, WANDB_REUSED_TAG
from bccp.tracking.versions import split_version, versions_made, versions_read
from bccp.tracking.wandb_run import WandbMirror

JOB_TYPE = "reused"
"""In W&B."""


def ask(ledger: Ledger, pipeline: str, group: str) -> None:
    """Note that W&B has yet to be told.

    Parameters
    ----------
    ledger : Ledger
    pipeline : str
        The id of the pipeline's run, whose tags ``bccp.reused.<step>`` say what was reused.
    group : str
        W&B's group of the pipeline.
    """
    ledger.tag(pipeline, {WANDB_REUSED_TAG: group})


def asked(ledger: Ledger) -> list[str]:
    """The ids of the finished pipelines that W&B has yet to be told of, the oldest first."""
    found = ledger.search(f"tags.`{WANDB_REUSED_TAG}` LIKE '%' and attributes.status = 'FINISHED'", limit=1000)
    return [run.info.run_id for run in reversed(found)]


def tell(ledger: Ledger, pipeline: str) -> int | None:
    """Make the run in W&B; made again, it stays the one that it is.

    Parameters
    ----------
    ledger : Ledger
    pipeline : str
        The id of a pipeline's run that :func:`ask` was called for.

    Returns
    -------
    int or None
        The number of artifacts used; None where W&B has stopped answering: what it lacks is in its own records, as a step's would be.

    Raises
    ------
    BCCPError
        If one of the artifacts is no longer what it was.
    """
    run = ledger.client.get_run(pipeline)
    tags, values = run.data.tags, settings(run.data.params)
    tracking = tracking_of(values.pop("tracking"))
    steps = {step: ledger.client.get_run(tags[f"{REUSED_PREFIX}{step}"]) for step in step_graph.STEPS if f"{REUSED_PREFIX}{step}" in tags}
    versions = [version for run in steps.values() for version in (*sorted(versions_read(run)), *sorted(versions_made(run)))]
    folders = {version: ledger.fetch(version) for version in versions if split_version(version)[0] in MAKER}
    mirror = WandbMirror(
        mode="online",
        to=tracking,
        group=tags[WANDB_REUSED_TAG],
        name=f"{JOB_TYPE}-{tags[PIPELINE_TAG]}",
        step=JOB_TYPE,
        config={MLFLOW_RUN_KEY: pipeline, PIPELINE_TAG: tags[PIPELINE_TAG], "pipeline": values},
        home=ledger.home,
        run_id=f"{JOB_TYPE}_{pipeline}",
    )
    exit_code = 1
    try:
        for version, folder in folders.items():
            name, digest = split_version(version)
            mirror.use(name, digest, folder, pixels=name in PIXEL_ARTIFACTS)
        for step, reused in steps.items():
            mirror.log({name: v for name, v in reused.data.metrics.items() if name.startswith(f"{step}/") and "/epoch_" not in name})
        exit_code = 0
    finally:
        mirror.finish(exit_code)
    ledger.client.delete_tag(pipeline, WANDB_REUSED_TAG)
    return None if mirror.lost else len(folders)


def settings(params: Mapping[str, str]) -> dict[str, Any]:
    """A pipeline's configuration by section, from its run's parameters; ``mlflow run`` has added one without a section."""
    values: dict[str, Any] = {}
    for name, text in params.items():
        *sections, key = name.split(".")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        if sections:
            place[key] = _value(text)
    return values


def tracking_of(section: Mapping[str, Any]) -> config_schema.Tracking:
    """The section ``tracking`` of :func:`settings`; a name that is a number has become one there."""
    names = {key: None if section[key] is None else str(section[key]) for key in ("wandb_entity", "wandb_project")}
    return config_schema.Tracking(**(dict(section) | names))


def _value(text: str) -> Any:
    """What :func:`bccp.core.config.encode` has written."""
    try:
        return json.loads(text)
    except ValueError:
        return text
