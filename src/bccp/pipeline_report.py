"""The report of a pipeline: ``make report [RUN=…]``, or ``python -m bccp.pipeline_report [run]``; made at a pipeline's end too.

It leaves ``report.html``, one page that needs no network, beside the run's ``summary.json``. The same page goes to the ledger, as an
artifact of the pipeline's run, and to W&B, into the pipeline's group: there without any picture of an image where
``tracking.upload_images=false``. W&B gets it of a pipeline that has tested a model, and is not one of a sweep's many jobs.
"""

from __future__ import annotations

import os
import sys
import uuid
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bccp import wandb_mirror
from bccp.backends import ledger_uri
from bccp.endings import exit_status, told
from bccp.errors import BCCPError
from bccp.home import home, scratch
from bccp.masking import first_line
from bccp.pipeline_page import page
from bccp.pipeline_story import read_story
from bccp.pipelines import read_summary
from bccp.run_summary import PAGE
from bccp.step_context import Context
from bccp.tracking import Ledger

NAME = "pipeline_report"
"""The job type in W&B."""


def write_report(summary: Mapping[str, Any], folder: Path, ledger: Ledger | None) -> Path:
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
    fresh = folder / f".{PAGE}-{uuid.uuid4().hex}"
    try:
        fresh.write_text(page(read_story(summary, folder, ledger)), encoding="utf-8")
        fresh.replace(folder / PAGE)
    finally:
        fresh.unlink(missing_ok=True)
    return folder / PAGE


def conclude(summary: Mapping[str, Any], folder: Path, ledger: Ledger | None, context: Context | None) -> None:
    """Make the page at a pipeline's end and record it; what keeps it from being made is one line, and does not fail the pipeline.

    Parameters
    ----------
    summary, folder, ledger
        As for :func:`write_report`.
    context : Context or None
        Of the pipeline's steps; None where it has not come so far as to have a run.
    """
    try:
        made = write_report(summary, folder, ledger)
        if ledger is not None and context is not None:
            ledger.client.log_artifact(context.parent_run_id, str(made))
            judged = any((step["name"], step["status"]) == ("test", "ran") for step in summary["steps"])
            if judged and summary["status"] == "finished" and context.wandb != "disabled" and context.sweep is None:
                _record_in_wandb(summary, made, ledger, context)
    except Exception as error:
        if summary["status"] == "finished":  # else the error that ended the pipeline is what counts
            said = first_line(told(error))
            print(f"warning: the report is not made or not recorded ({said}): make report RUN={folder} tries again", flush=True)


def _record_in_wandb(summary: Mapping[str, Any], made: Path, ledger: Ledger, context: Context) -> None:
    lost = "bccp.wandb_lost" in ledger.client.get_run(context.parent_run_id).data.tags  # the server has not answered a step
    mirror = wandb_mirror.WandbMirror(
        mode="offline" if lost else context.wandb,
        to=context,
        group=context.pipeline,
        name=f"{NAME}-{context.pipeline}",
        step=NAME,
        config={"bccp.pipeline": context.pipeline, "pipeline": context.config},
        home=ledger.home,
    )
    exit_code = 1
    try:
        if context.upload_images:
            mirror.log_page(made)
        else:
            with scratch(NAME) as place:
                (place / PAGE).write_text(page(read_story(summary, made.parent, ledger, pixels=False)), encoding="utf-8")
                mirror.log_page(place / PAGE)
        exit_code = 0
    finally:
        mirror.finish(exit_code)


def find_folder(given: str) -> Path:
    """The folder of a run.

    Parameters
    ----------
    given : str
        The folder, its ``summary.json``, its name under the home's ``outputs``, the pipeline's MLflow run id, or nothing for the newest.

    Returns
    -------
    Path

    Raises
    ------
    BCCPError
        If there is no summary.
    """
    outputs = home() / "outputs"
    if not given:
        found = sorted(outputs.glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise BCCPError(f"no run is in {outputs}: run the pipeline first (make run), or give the folder of one: make report RUN=folder")
        return found[-1].parent
    for place in (Path(given).expanduser().resolve(), outputs / given, _folder_of(given)):
        folder = place.parent if place.name == "summary.json" else place
        if (folder / "summary.json").is_file():
            return folder
    raise BCCPError(
        f"RUN={given} is no finished or failed run: give a folder that has a summary.json, its name, or a pipeline's MLflow run id"
    )


def _folder_of(run_id: str) -> Path:
    """Where the pipeline of an MLflow run has left its summary."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(Ledger(ledger_uri(None)[0]).client.get_run(run_id).data.tags.get("bccp.folder", "/nowhere"))
    except MlflowException:
        return Path("/nowhere")


def main(arguments: Sequence[str]) -> int:
    """Say where a run's page is, made if it is missing, and open it where there is a screen; the exit status."""
    return exit_status(lambda: _show(arguments[0] if arguments else ""))


def _show(run: str) -> None:
    folder = find_folder(run)
    if not (folder / PAGE).exists():
        summary = read_summary(folder / "summary.json", option="RUN")
        write_report(summary, folder, Ledger(ledger_uri(summary["config"].get("tracking", {}).get("mlflow_uri"))[0]))
    print(f"report: {folder / PAGE}", flush=True)
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open((folder / PAGE).as_uri())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
