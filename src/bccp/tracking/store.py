"""The ledger: runs and versioned artifacts in MLflow, which is the only store.

An artifact is a folder. Its version is the SHA-256 over the sorted (path, SHA-256 of the file) pairs, so equal content has equal versions
everywhere. A run carries the versions that it made as tags ``bccp.output.<name>``, those that it read as ``bccp.input.<name>``, and the key
under which its work can be found again as ``bccp.key``.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import shutil
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bccp.core.digests import folder_digest
from bccp.core.errors import BCCPError
from bccp.core.exit_codes import exit_status, to_bccp_error
from bccp.core.home import discard, home, keep_within_home, scratch
from bccp.core.processes import importing, lives, process_start
from bccp.core.proxies import proxy_note
from bccp.core.redaction import first_line, redact
from bccp.tracking.backends import Uninterrupted, create_sqlite, ledger_uri, local_path, prepare_postgresql
from bccp.tracking.relocation import follow_home
from bccp.tracking.tags import HOST_TAG, KEY_PARTS_TAG, KEY_TAG, OUTPUT_PREFIX, PID_TAG, PIPELINE_TAG, STARTED_TAG, STEP_TAG
from bccp.tracking.versions import split_version

EXPERIMENT = "bccp"
TAG_LIMIT = 5000
"""Characters that every MLflow store takes in a tag and in a parameter."""

_ADOPTED_WITHIN_SECONDS = 86_400.0  # what is between is the building of an environment


@dataclass(frozen=True)
class FinishedRun:
    """A run that ended well, and what it left.

    Attributes
    ----------
    run_id : str
    outputs : dict of str to str
        Version of each artifact by name.
    metrics : dict of str to float
    key_parts : dict
        What the run's key was made of.
    artifact_uri : str
        Where its artifacts are.
    """

    run_id: str
    outputs: dict[str, str]
    metrics: dict[str, float]
    key_parts: dict[str, Any]
    artifact_uri: str


class Ledger:
    """The MLflow store, opened; see the module's text.

    Parameters
    ----------
    uri : str
        From :func:`ledger_uri`.

    Raises
    ------
    BCCPError
        If the store cannot be opened or does not answer.
    """

    @importing()
    def __init__(self, uri: str) -> None:
        keep_within_home()
        self.uri = uri
        self.home = home()
        self._verified: dict[tuple[str, str], Path] = {}
        if uri.startswith("http"):  # one clear answer in seconds, not minutes of retries
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        for name in ("alembic", "mlflow", "urllib3"):  # after the import, which sets its own level
            logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised too, and told once
        try:
            if uri.startswith("sqlite:///"):
                create_sqlite(uri, self.home)
                follow_home(Path(uri.removeprefix("sqlite:///")), self.home)
            with prepare_postgresql(uri, self.home) if uri.startswith("postgresql") else nullcontext():
                self.client: Any = MlflowClient(tracking_uri=uri)
                if not uri.startswith("http"):
                    self.client = Uninterrupted(self.client)
                self.experiment_id = self._experiment()
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            if uri.startswith("sqlite"):
                damaged = BCCPError(
                    f"the store {uri} cannot be opened ({first_line(error)}): restore it, or move it away to begin a new one"
                )
                raise (known if isinstance(known := to_bccp_error(error), BCCPError) else damaged) from error
            raise BCCPError(
                f"the tracking server {redact(uri)} does not answer ({first_line(error)}{proxy_note(uri)}): start it, or unset "
                "MLFLOW_TRACKING_URI and tracking.mlflow_uri to record in BCCP_HOME"
            ) from error

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            from mlflow.exceptions import MlflowException

            own = None if self.uri.startswith("http") else (self.home / "artifacts").as_uri()
            try:
                self.client.create_experiment(EXPERIMENT, artifact_location=own)
                found = self.client.get_experiment_by_name(EXPERIMENT)
            except MlflowException:  # another process was first
                found = self.client.get_experiment_by_name(EXPERIMENT)
                if found is None:
                    raise
        if found.artifact_location.startswith("s3://") and importlib.util.find_spec("boto3") is None:
            raise BCCPError(
                f"{self.uri} keeps its artifacts in {found.artifact_location}, which needs the package boto3: install it, or "
                "let the server hand them out (its option --artifacts-destination)"
            )
        place = local_path(found.artifact_location)
        self._inside = place is not None and place.is_relative_to(self.home)
        if place is not None and not self._inside and not place.is_dir() and not self.uri.startswith("http"):
            raise BCCPError(
                f"the store {redact(self.uri)} keeps its artifacts in {place}, which is not there: put that folder back, or record in "
                "another store (tracking.mlflow_uri, MLFLOW_TRACKING_URI)"
            )
        return str(found.experiment_id)

    def attach_run(self, run_id: str | None) -> str | None:
        """The run that ``mlflow run`` has made for this process, if it is in this ledger and keeps its files in the home or remotely."""
        from mlflow.exceptions import MlflowException

        if not run_id:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException:
            return None
        place = local_path(run.info.artifact_uri)
        return run_id if place is None or place.is_relative_to(self.home) else None

    def start(self, name: str, *, parent: str | None = None, run_id: str | None = None, tags: Mapping[str, str] | None = None) -> str:
        """Open a run (or take over one that ``mlflow run`` made) and sign it with host, process and start time."""
        signed = {
            HOST_TAG: socket.gethostname(),
            PID_TAG: str(os.getpid()),
            STARTED_TAG: process_start(os.getpid()),
            **(tags or {}),
        }
        if run_id is not None:
            from mlflow.entities import RunTag

            self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in signed.items()])  # at once: another may mend meanwhile
            self.client.update_run(run_id, name=name)
            return run_id
        if parent is not None:
            signed["mlflow.parentRunId"] = parent
        experiment = self.experiment_id if parent is None else self.client.get_run(parent).info.experiment_id
        run = self.client.create_run(experiment, tags=signed, run_name=name)
        return str(run.info.run_id)

    def report_address(self, run_id: str, folder: str) -> str:
        """Address of a folder of a run's artifacts for people: a path, or where a server hands them out its page, for a browser."""
        run = self.client.get_run(run_id).info
        place = local_path(run.artifact_uri)
        if place is None and self.uri.startswith("http"):
            return f"{self.uri.rstrip('/')}/#/experiments/{run.experiment_id}/runs/{run_id}/artifacts/{folder}"
        return f"{place or run.artifact_uri}/{folder}"

    def end(self, run_id: str, status: str) -> None:
        """Close a run as FINISHED, FAILED or KILLED; where the store does not take one of the latter two, the next start mends it."""
        from mlflow.exceptions import MlflowException

        with suppress(*(() if status == "FINISHED" else (MlflowException, OSError))):
            self.client.set_terminated(run_id, status)

    def end_all(self, pipeline: str, status: str) -> None:
        """Close the runs of a pipeline that an exception ended; what the store does not take now, the next start mends."""
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException, OSError):
            for run in self.search(f"tags.`{PIPELINE_TAG}` = '{pipeline}' and attributes.status = 'RUNNING'", limit=1000):
                self.end(run.info.run_id, status)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; a value over the store's limit goes on in ``<name>.1``, ``<name>.2`` and so forth, which :func:`tag_value` joins."""
        for name, value in tags.items():
            for number, start in enumerate(range(0, max(len(value), 1), TAG_LIMIT)):
                self.client.set_tag(run_id, f"{name}.{number}" if number else name, value[start : start + TAG_LIMIT])

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Record parameters in one batch; names that ``mlflow run`` has recorded already keep its (quoted) values.

        They are for people to look at: what is longer than the store's limit ends with an ellipsis there, and is whole in ``summary.json``.
        """
        from mlflow.entities import Param

        known = self.client.get_run(run_id).data.params
        batch = [
            Param(name, value if len(value) <= TAG_LIMIT else f"{value[: TAG_LIMIT - 1]}…")
            for name, value in params.items()
            if name not in known
        ]
        for start in range(0, len(batch), 100):
            self.client.log_batch(run_id, params=batch[start : start + 100])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record metrics in one batch."""
        self.log_history(run_id, [dict(metrics)], first_step=step)

    def log_history(self, run_id: str, history: Iterable[Mapping[str, float]], *, first_step: int = 0) -> None:
        """Record metrics of successive steps (epochs) in as few calls as the store allows."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [
            Metric(name, float(value), now, first_step + step) for step, metrics in enumerate(history) for name, value in metrics.items()
        ]
        for start in range(0, len(batch), 1000):
            self.client.log_batch(run_id, metrics=batch[start : start + 1000])

    def publish(self, run_id: str, name: str, folder: Path) -> tuple[str, Path]:
        """Store a folder as an artifact of a run; it becomes visible under its version only when it is whole.

        Parameters
        ----------
        run_id : str
            The run that made it.
        name : str
            The artifact's name.
        folder : Path
            What to store. In a local store the folder is moved, not copied.

        Returns
        -------
        version : str
            64 hex digits.
        place : Path
            Where its files are now, on this machine.
        """
        digest = folder_digest(folder)
        root = local_path(self.client.get_run(run_id).info.artifact_uri)
        if root is not None:
            self._check_place(root)
            place = root / name
            root.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            shutil.move(folder, place)
        else:
            self.client.log_artifacts(run_id, str(folder), artifact_path=name)
            place = self._keep_copy(name, digest, folder)
        self.client.set_tag(run_id, f"{OUTPUT_PREFIX}{name}", digest)
        self._verified[name, digest] = place
        return digest, place

    def _check_place(self, folder: Path) -> None:
        """Refuse to write where the home is not: another process may know it by another path, and have changed the store's addresses."""
        if self._inside and not folder.is_relative_to(self.home):
            raise BCCPError(
                f"another process uses BCCP_HOME={self.home} by another path, and so the store keeps artifacts in {folder}: let all "
                "processes at one time use the home by one path"
            )

    def full_digest(self, version: str) -> str:
        """The 64 hex digits of a version that may be given by its first 12 or more."""
        name, digest = split_version(version)
        if len(digest) == 64:
            return digest
        for copy in self._copy_place(name, digest).parent.glob(f"{name}-{digest}*"):
            return copy.name.removeprefix(f"{name}-")
        runs = self.search(f"tags.`{OUTPUT_PREFIX}{name}` LIKE '{digest}%' and attributes.status = 'FINISHED'", limit=1)
        if not runs:
            raise BCCPError(f"no artifact {version} is in {self.uri}: run the step that makes {name} first")
        return str(runs[0].data.tags[f"{OUTPUT_PREFIX}{name}"])

    def fetch(self, version: str) -> Path:
        """Find an artifact by ``name:digest`` (12 digits or more), verify it, and return its folder, which is not to be changed.

        Raises
        ------
        BCCPError
            If there is none, or its bytes are no longer what they were.
        """
        name, digest = split_version(version)
        if (name, digest) in self._verified and self._verified[name, digest].is_dir():
            return self._verified[name, digest]
        cached = self._copy_place(name, digest)
        damaged: BCCPError | None = None
        if len(digest) == 64 and cached.exists():
            try:
                return self._verify(name, digest, cached)
            except BCCPError as error:
                damaged = error
        for run in self.search(f"tags.`{OUTPUT_PREFIX}{name}` LIKE '{digest}%' and attributes.status = 'FINISHED'", limit=20):
            digest = run.data.tags[f"{OUTPUT_PREFIX}{name}"]
            try:
                return self._open(run.info.artifact_uri, name, digest)
            except BCCPError as error:
                damaged = error
        raise damaged or BCCPError(f"no artifact {version} is in {self.uri}: run the step that makes {name} first")

    def _open(self, artifact_uri: str, name: str, digest: str) -> Path:
        root = local_path(artifact_uri)
        if root is not None:
            return self._verify(name, digest, root / name)
        place = self._copy_place(name, digest)
        if place.exists():
            with suppress(BCCPError):  # of a copy that was changed there is a better one
                return self._verify(name, digest, place)
        with scratch("download") as folder:
            from mlflow.artifacts import download_artifacts

            fetched = download_artifacts(artifact_uri=f"{artifact_uri}/{name}", dst_path=str(folder), tracking_uri=self.uri)
            return self._verify(name, digest, self._keep_copy(name, digest, Path(fetched)))

    def _copy_place(self, name: str, digest: str) -> Path:
        return self.home / "cache" / "artifacts" / f"{name}-{digest}"

    def import_artifact(self, name: str, folder: Path) -> str:
        """Take in an artifact that was made elsewhere; its version. The folder is moved."""
        digest = folder_digest(folder)
        self._keep_copy(name, digest, folder)
        return digest

    def _keep_copy(self, name: str, digest: str, folder: Path) -> Path:
        place = self._copy_place(name, digest)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and folder_digest(place) != digest:
            discard(place)
        if not place.exists():
            try:
                folder.rename(place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process was first
                    raise
        return place

    def _verify(self, name: str, digest: str, folder: Path) -> Path:
        """Check a folder's bytes once a process."""
        known = self._verified.get((name, digest))
        if known is not None and known.is_dir():
            return known
        if not folder.is_dir():
            raise BCCPError(f"the artifact {name}:{digest[:12]} is gone from {folder}: run its step again with main.cache=false")
        if folder_digest(folder) != digest:
            raise BCCPError(f"the artifact {name}:{digest[:12]} in {folder} was changed: run its step again with main.cache=false")
        self._verified[name, digest] = folder
        return folder

    def find(self, step: str, key: str, *, parent: str | None = None) -> FinishedRun | None:
        """The latest finished run of a step with this key (within a parent run) whose artifacts are all intact, or None."""
        wanted = f"tags.`{KEY_TAG}` = '{key}' and tags.`{STEP_TAG}` = '{step}' and attributes.status = 'FINISHED'"
        wanted += f" and tags.`mlflow.parentRunId` = '{parent}'" if parent else ""
        for run in self.search(wanted, limit=5):
            finished = _finished(run)
            if self.damaged(finished) is None:  # else it is as if it had never run
                return finished
        return None

    def damaged(self, run: FinishedRun) -> str | None:
        """The first output of a finished run that is not what it was, or gone, as ``name:digest``; None where all are intact."""
        for name, digest in run.outputs.items():
            try:
                self._open(run.artifact_uri, name, digest)
            except BCCPError:
                return f"{name}:{digest[:12]}"
        return None

    def finished(self, step: str) -> list[FinishedRun]:
        """The last 50 finished runs of a step, whatever their keys, latest first."""
        return [_finished(run) for run in self.search(f"tags.`{STEP_TAG}` = '{step}' and attributes.status = 'FINISHED'", limit=50)]

    def search(self, wanted: str, *, limit: int) -> list[Any]:
        """The latest runs that MLflow's filter lets through, whatever their experiment, latest first."""
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, wanted, order_by=["attributes.start_time DESC"], max_results=limit))

    def close_orphaned_runs(self) -> int:
        """Close the runs of this host whose process is no more (a SIGKILL left them RUNNING); returns how many.

        A run that ``mlflow run`` made names no host until a process takes it over; none does so after a day.
        """
        wanted = f"tags.`{HOST_TAG}` = '{socket.gethostname()}' and attributes.status = 'RUNNING'"
        left = [
            run.info.run_id for run in self.search(wanted, limit=1000) if not lives(int(run.data.tags[PID_TAG]), run.data.tags[STARTED_TAG])
        ]
        too_old = int(1000 * (time.time() - _ADOPTED_WITHIN_SECONDS))
        wanted = f"tags.`mlflow.source.type` = 'PROJECT' and attributes.status = 'RUNNING' and attributes.start_time < {too_old}"
        made = self.client.search_runs([self.experiment_id], wanted)
        left += [run.info.run_id for run in made if HOST_TAG not in run.data.tags]
        left = [run_id for run_id in left if self.client.get_run(run_id).info.status == "RUNNING"]  # not ended in between
        for run_id in left:
            self.end(run_id, "KILLED")
        return len(left)

    @contextmanager
    def lock(self, name: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Hold a name among the processes that share this home; ``on_wait`` is called where another holds it."""
        folder = self.home / "locks"
        folder.mkdir(exist_ok=True)
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            on_wait()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def tag_value(tags: Mapping[str, str], name: str) -> str:
    """Return the whole value of a tag that :meth:`Ledger.tag` has set, empty where there is none."""
    parts = [tags.get(name, "")]
    while more := tags.get(f"{name}.{len(parts)}"):
        parts.append(more)
    return "".join(parts)


def _finished(run: Any) -> FinishedRun:
    tags = run.data.tags
    prefix = OUTPUT_PREFIX
    return FinishedRun(
        run_id=run.info.run_id,
        outputs={name.removeprefix(prefix): value for name, value in tags.items() if name.startswith(prefix)},
        metrics=dict(run.data.metrics),
        key_parts=json.loads(tag_value(tags, KEY_PARTS_TAG) or "{}"),
        artifact_uri=run.info.artifact_uri,
    )


if __name__ == "__main__":  # prepares the home and tells `make` where to record
    sys.exit(exit_status(lambda: print(Ledger(ledger_uri(None)[0]).uri)))
