"""Uploads what W&B does not have yet: runs that were recorded offline, or whose server died, their artifacts and the lineage.

W&B's own ``wandb sync`` uploads runs and what they made. Which inputs they read it cannot know, as W&B offline records none: that stands in
the note beside each run (:mod:`bccp.tracking.wandb_run`), and is replayed here. A note is deleted when all of its run is on W&B. What was
reused stands in the ledger (:mod:`bccp.tracking.wandb_reused`).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess  # nosec B404
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bccp.core.errors import BCCPError
from bccp.core.home import home, keep_within_home, moved_along
from bccp.core.processes import lives
from bccp.core.redaction import first_line
from bccp.core.runtime.wandb_import import import_wandb, own_scratch
from bccp.tracking import wandb_reused
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.wandb_artifacts import log_artifact, upload_input
from bccp.tracking.wandb_client import absent, has_login, open_api, start_run
from bccp.tracking.wandb_run import NOTE, define_metrics

PATIENCE = {"WANDB__GRAPHQL_RETRY_MAX": "4", "WANDB__FILE_STREAM_RETRY_MAX": "4", "WANDB__FILE_TRANSFER_RETRY_MAX": "4"}
"""How often W&B tries again while it uploads, as environment variables: a dead server is told in a minute, not in a quarter of an hour."""


@dataclass(frozen=True)
class Recorded:
    """A run that is not, or not wholly, on W&B.

    Attributes
    ----------
    folder : Path
        W&B's record of it.
    note : dict
        What :class:`bccp.tracking.wandb_run.WandbMirror` noted beside it.
    """

    folder: Path
    note: dict[str, Any]

    @property
    def going_on(self) -> bool:
        """Whether a process still writes it, as far as can be told: of another host's it cannot."""
        return self.note["exit_code"] is None and not self.killed

    @property
    def killed(self) -> bool:
        """Whether its process, on this host, is no more but has not ended it."""
        return self.note["exit_code"] is None and self.note["host"] == socket.gethostname() and not lives(*self.note["process"])

    @property
    def moved(self) -> bool:
        """Return True where the home was moved or copied since: W&B's own record names files where they were then."""
        return any(str(moved_along(entry["folder"])) != entry["folder"] for entry in (*self.note["inputs"], *self.note["outputs"]))

    @property
    def online(self) -> bool:
        """Whether it began online; W&B's record of such a run lacks its artifacts."""
        return self.folder.name.startswith("run-")

    @property
    def uploaded(self) -> bool:
        """Whether W&B has what is in its own record of the run."""
        return any(self.folder.glob("*.wandb.synced"))


def recorded(place: Path) -> list[Recorded]:
    """The runs below W&B's folder that have a note, the oldest first."""
    notes = [note for kind in ("offline-run-*", "run-*") for note in place.glob(f"{kind}/{NOTE}")]
    runs = [Recorded(note.parent, json.loads(note.read_text(encoding="utf-8"))) for note in notes]
    return sorted(runs, key=lambda run: run.note["started"])


def sync(mlflow_uri: str | None = None) -> str:
    """Upload everything; what is on W&B already is left as it is.

    Parameters
    ----------
    mlflow_uri : str, optional
        ``tracking.mlflow_uri`` of the pipelines whose reused steps W&B is to be told of.

    Returns
    -------
    str
        One line about what was done.

    Raises
    ------
    BCCPError
        If there is no account, W&B does not answer, or something could not be uploaded. What could be is, and doing it again does the rest.
    """
    keep_within_home()
    lock = FileLock(home() / "wandb-sync.lock")
    try:
        with lock.acquire(blocking=False):
            return _sync(recorded(home() / "wandb"), _existing(ledger_uri(mlflow_uri)[0]))
    except Timeout as error:
        raise BCCPError("another process uploads to W&B from this home already: wait until it has ended") from error


def _existing(uri: str) -> Ledger | None:
    """The ledger; none is made where there is none."""
    return Ledger(uri) if not uri.startswith("sqlite:///") or Path(uri.removeprefix("sqlite:///")).exists() else None


def _sync(runs: Sequence[Recorded], ledger: Ledger | None) -> str:
    todo = [run for run in runs if not run.going_on]
    reused = [(ledger, pipeline) for pipeline in wandb_reused.asked(ledger)] if ledger else []
    n_runs = len(todo) + len(reused)
    waiting = f"; {len(runs) - len(todo)} that still go on are left for later" if len(todo) < len(runs) else ""
    if not n_runs:
        return f"W&B: no run recorded in {home()} is left to upload{waiting}"
    if not has_login():
        raise BCCPError("uploading to W&B needs an account: set WANDB_API_KEY or run `wandb login`")
    api = open_api()
    n_done, n_edges, n_empty, failed, damaged = 0, 0, 0, [], []
    try:
        for (_, entity), group in groupby(todo, key=lambda run: (run.note["group"], run.note["entity"] or api.default_entity)):
            pipeline = list(group)
            _upload([run.folder for run in pipeline if not run.uploaded and not run.killed], entity)
            for run in pipeline:
                # on its own: a record that cannot be read ends the whole call
                said = _upload([run.folder], entity) if run.killed and not run.uploaded else ""
                if "Failed to read" in said:  # killed before the first of it was on the disk
                    (run.folder / NOTE).unlink()
                    n_empty += 1
                elif run.uploaded:
                    n_edges += _finish(api, run, entity)
                    n_done += 1
                else:
                    failed.append(run.folder.name)
        for store, pipeline_run in reused:  # after those that made what they used
            try:
                n_used = wandb_reused.tell(store, pipeline_run)
            except BCCPError as error:
                damaged.append(error)
                continue
            if n_used is None:
                raise TimeoutError("it has stopped answering")
            n_edges += n_used
            n_done += 1
    except (import_wandb().errors.Error, ValueError, OSError) as error:
        raise BCCPError(f"{n_runs - n_done} of {n_runs} runs are not on W&B ({first_line(error)}): call this again") from error
    if failed:
        raise BCCPError(f"{len(failed)} of {n_runs} runs are not on W&B (`wandb sync` does not upload {failed[0]}): call this again")
    if damaged:
        raise BCCPError(f"{len(damaged)} of {n_runs} runs are not on W&B: {damaged[0]}")
    killed = f"; {n_empty} that were killed left nothing to upload" if n_empty else ""
    return f"W&B: {n_done} runs and {n_edges} input edges uploaded{killed}{waiting}"


def _upload(folders: Sequence[Path], entity: str) -> str:
    """Let ``wandb sync`` upload a pipeline's runs and what they made; it marks in the folder what it has uploaded. What it says."""
    if not folders:
        return ""
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", "--entity", entity, *map(str, folders)]
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_SILENT")} | PATIENCE
    environment["TMPDIR"] = str(own_scratch())
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stderr  # nosec B603


def _finish(api: Any, run: Recorded, entity: str) -> int:
    """Add what W&B's own record of a run lacks, and delete its note; the number of inputs."""
    where = {"entity": entity, "project": run.note["project"], "group": run.note["group"], "dir": str(home()), "settings": {}}
    if (run.online or run.moved) and run.note["outputs"]:
        _log_outputs(run, where)
    _replay(api, run, where)
    (run.folder / NOTE).unlink()
    return len(run.note["inputs"])


def _log_outputs(run: Recorded, where: Mapping[str, Any]) -> None:
    """Take a run up again to log what it made; what W&B has already stays the version that it is."""
    taken_up = start_run(mode="online", id=run.note["run"], resume="must", **where)
    define_metrics(taken_up, run.note["step"])  # taking up loses them
    for made in run.note["outputs"]:
        log_artifact(taken_up, made)
    killed = run.note["exit_code"] is None
    taken_up.finish(exit_code=1 if killed else run.note["exit_code"])


def _replay(api: Any, run: Recorded, where: Mapping[str, Any]) -> None:
    """Enter a run's inputs as edges of the lineage, as ``use_artifact`` does online; those that W&B lacks are uploaded first."""
    project = f"{where['entity']}/{where['project']}"
    uploaded = api.run(f"{project}/{run.note['run']}")
    for used in run.note["inputs"]:
        reference = used["reference"] if "/" in used["reference"] else f"{project}/{used['reference']}"
        try:
            artifact = api.artifact(reference)
        except (ValueError, import_wandb().errors.Error) as error:
            if not absent(error):
                raise
            upload_input(used, **where)
            artifact = api.artifact(f"{project}/{used['reference'].rpartition('/')[2]}")
        uploaded.use_artifact(artifact)
