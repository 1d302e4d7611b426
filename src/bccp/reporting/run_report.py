"""The report of a pipeline (``bccp report``), made at a pipeline's end too.

It leaves ``report.html``, one page that needs no network, beside the run's ``summary.json``. The same page goes to the ledger, as an
artifact of the pipeline's run, and to W&B, into the pipeline's group: there without any picture of an image where
``tracking.upload_images=false``. W&B gets it of a pipeline that has tested a model, and is not one of a sweep's many jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bccp.core import naming
from bccp.core.exit_codes import to_bccp_error
from bccp.core.home import scratch
from bccp.core.redaction import first_line
from bccp.core.run_summary import PAGE
from bccp.core.step_context import Context
from bccp.reporting import html
from bccp.reporting.run_data import read_story
from bccp.reporting.run_page import page
from bccp.tracking import finished_runs, wandb_run
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.tags import PIPELINE_TAG, WANDB_LOST_TAG

_NAME = "pipeline_report"
"""The job type in W&B."""


def _write_report(summary: Mapping[str, Any], folder: Path, ledger: Ledger | None) -> Path:
    """Make the page, whole or not at all.

    Parameters
    ----------
    summary : mapping
        What ``summary.json`` holds, or is going to.
    folder : Path
        The run folder.
    ledger : Ledger or None
        That has the artifacts of the steps.

    Returns
    -------
    Path
    """
    folder.mkdir(parents=True, exist_ok=True)
    html.save(folder / PAGE, page(read_story(summary, folder, ledger)))
    return folder / PAGE


def conclude_run(summary: Mapping[str, Any], folder: Path, ledger: Ledger | None, context: Context | None) -> None:
    """Make the page at a pipeline's end and record it; what keeps it from being made is one line, and does not fail the pipeline.

    Parameters
    ----------
    summary, folder, ledger
        As for :func:`_write_report`.
    context : Context or None
        Of the pipeline's steps; None where it has not come so far as to have a run.
    """
    try:
        made = _write_report(summary, folder, ledger)
        if ledger is not None and context is not None:
            ledger.client.log_artifact(context.parent_run_id, str(made))
            judged = any((step["name"], step["status"]) == ("test", "ran") for step in summary["steps"])
            if judged and summary["status"] == "finished" and context.wandb != "disabled" and context.sweep is None:
                _record_in_wandb(summary, made, ledger, context)
    except Exception as error:
        if summary["status"] == "finished":  # else the error that ended the pipeline is what counts
            said = first_line(to_bccp_error(error))
            print(f"warning: the report is not made or not recorded ({said}): bccp report {folder} tries again", flush=True)


def _record_in_wandb(summary: Mapping[str, Any], made: Path, ledger: Ledger, context: Context) -> None:
    lost = WANDB_LOST_TAG in ledger.client.get_run(context.parent_run_id).data.tags  # the server has not answered a step
    mirror = wandb_run.WandbMirror(
        mode="offline" if lost else context.wandb,
        to=context,
        group=context.pipeline,
        name=naming.part_name(_NAME, context.pipeline),
        step=_NAME,
        config={PIPELINE_TAG: context.pipeline, "pipeline": context.config},
        home=ledger.home,
    )
    exit_code = 1
    try:
        if context.upload_images:
            mirror.log_page(made)
        else:
            with scratch(_NAME) as place:
                (place / PAGE).write_text(page(read_story(summary, made.parent, ledger, pixels=False)), encoding="utf-8")
                mirror.log_page(place / PAGE)
        exit_code = 0
    finally:
        mirror.finish(exit_code)


def report_on(run: str) -> Path:
    """The page of a run that :func:`bccp.tracking.finished_runs.folder` finds, made if it is missing."""
    folder = finished_runs.folder(run, option="RUN")
    if not (folder / PAGE).exists():
        summary = finished_runs.read_summary(folder / "summary.json", option="RUN")
        _write_report(summary, folder, Ledger(ledger_uri(summary["config"].get("tracking", {}).get("mlflow_uri"))[0]))
    return folder / PAGE
