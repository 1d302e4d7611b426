"""What a step is given: its section, its inputs by version, a place for its outputs, and a run to report to.

The same ``run(step)`` of a step's ``run.py`` is called by the orchestrator in its own process (``main.env_manager=local``) and by
:func:`bccp.pipeline.step_runner.command_line` when MLflow starts the step as a project of its own.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bccp.core import logs, naming
from bccp.core.errors import BCCPError
from bccp.core.exit_codes import run_status
from bccp.core.home import checkpoint_path, scratch
from bccp.core.runtime import device
from bccp.core.step_context import Context
from bccp.core.step_graph import PIXEL_ARTIFACTS
from bccp.pipeline import cache_keys
from bccp.tracking import wandb_run
from bccp.tracking.lineage import ancestor
from bccp.tracking.store import Ledger
from bccp.tracking.tags import INPUT_PREFIX, KEY_PARTS_TAG, KEY_TAG, PIPELINE_TAG, STEP_TAG
from bccp.tracking.versions import qualified

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Stopwatch:
    """Counts the seconds of a step's own work: it can be stopped and started in nested blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since: float | None = None

    @contextmanager
    def going(self, wanted: bool) -> Iterator[None]:
        """Count (or do not count) within the block; afterwards as before it."""
        before = self._since is not None
        self._switch(wanted)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, wanted: bool) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now if wanted else None


@dataclass
class RunningStep:
    """A running step; see the module's text.

    Attributes
    ----------
    name : str
    config : dataclass
        The step's section.
    inputs : dict of str to str
        Version (64 hex digits) of each input artifact, by name; ``other:digest`` where another artifact stands in for it.
    outputs : dict of str to str
        Version of each artifact published so far.
    metrics : dict of str to float
        What :meth:`log_metrics` was given so far.
    reports : dict of str to str
        Where each :meth:`report` is, by name.
    checkpoint : Path or None
        Where the work in progress, the step's own or what it shares, may keep what it has come to, for the next attempt with the same key;
        deleted when that work has finished.
    """

    name: str
    config: Any
    inputs: dict[str, str]
    context: Context
    ledger: Ledger
    run_id: str
    mirror: wandb_run.Mirror
    outputs: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    reports: dict[str, str] = field(default_factory=dict)
    checkpoint: Path | None = None
    _watch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def work_seconds(self) -> float:
        """Seconds of the step's own work, without imports, fetching, publishing and reporting."""
        return self._watch.seconds

    @property
    def threads(self) -> int:
        """Numeric threads, at least 1."""
        return self.context.threads

    @property
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""
        return device.device_type()

    def has_input(self, name: str) -> bool:
        """Whether this input was given."""
        return name in self.inputs

    def input(self, name: str) -> Path:
        """Return the folder of an input artifact, verified and not to be changed."""
        with self._watch.going(False):
            return self.ledger.fetch(qualified(name, self.inputs[name]))

    @contextmanager
    def output(self, name: str) -> Iterator[Path]:
        """A folder to fill, published under this name when the block ends well, and gone when it does not."""
        with _folder(name) as folder:
            yield folder
            with self._watch.going(False):
                self.outputs[name], place = self.ledger.publish(self.run_id, name, folder)
                self.mirror.publish(name, self.outputs[name], place, pixels=name in PIXEL_ARTIFACTS)

    def shared(self, name: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        """Work that steps share, as a run of its own: done once a key (``main.cache=false``: once a pipeline), by whoever asks first.

        W&B gets none of it: it follows from the step's inputs, which W&B has, and may be larger than they are.

        Parameters
        ----------
        name : str
            The artifact's name.
        key : mapping
            Everything that the result depends on, as plain values; versions of the packages and of the code that ``compute`` is part of are
            added.
        compute : callable
            Fills the folder that it is given; a function of the module that does the work.

        Returns
        -------
        Path
            The artifact's folder, not to be changed.
        """
        parts = {"shared": name, "parameters": dict(key), **cache_keys.shared_parts(compute.__module__)}
        checkpoint = checkpoint_for(name, cache_keys.parts_key(parts), self.context)

        def work(folder: Path) -> None:
            before, self.checkpoint = self.checkpoint, checkpoint
            try:
                with self._watch.going(True):
                    compute(folder)
            finally:
                self.checkpoint = before

        with self._watch.going(False):
            place = shared_artifact(name, parts, work, ledger=self.ledger, context=self.context, reader=self.run_id, emit=self.emit)
            checkpoint.unlink(missing_ok=True)
            return place

    def ancestor(self, name: str) -> Path | None:
        """The folder of an artifact that went into this step's inputs (:func:`bccp.tracking.lineage.ancestor`), not to be changed; None,
        and said in one line, where it is gone.
        """
        with self._watch.going(False):
            version = ancestor(self.ledger, self.inputs, name)
            if version is None:
                return None
            try:
                folder = self.ledger.fetch(qualified(name, version))
            except BCCPError as error:
                self.emit(f"does without {name}: {error}")
                return None
            self.ledger.tag(self.run_id, {f"{INPUT_PREFIX}{name}": version})
            return folder

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Report figures; they stand as ``step/name`` on the run, on the pipeline's run and in the summary."""
        with self._watch.going(False):
            named = {f"{self.name}/{name}": float(value) for name, value in metrics.items()}
            self.metrics |= named
            self.ledger.log_metrics(self.run_id, named)
            self.mirror.log(named)

    def log_history(self, history: Iterable[Mapping[str, float]]) -> None:
        """Report figures of successive epochs, as ``step/epoch_<name>``."""
        with self._watch.going(False):
            rows = [{f"{self.name}/epoch_{name}": float(v) for name, v in row.items()} for row in history]
            self.ledger.log_history(self.run_id, rows, first_step=1)
            self.mirror.log_history(rows)

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        """Report a picture (PNG); ``pixels`` says that it shows parts of images."""
        with self._watch.going(False):
            self.ledger.client.log_artifact(self.run_id, str(path), artifact_path="pictures")
            self.mirror.log_picture(path, pixels=pixels)

    @contextmanager
    def report(self, name: str) -> Iterator[Path]:
        """A folder to fill with files for people to look at, logged when the block ends well; no artifact's version has it.

        A copy of them lies in the run folder, by the step's name, where people look for it.
        """
        with _folder(name) as folder:
            yield folder
            with self._watch.going(False):
                self.ledger.client.log_artifacts(self.run_id, str(folder), artifact_path=name)
                self.reports[name] = self.ledger.report_address(self.run_id, name)
                if self.context.folder:
                    place = Path(self.context.folder) / self.name
                    shutil.copytree(folder, place, dirs_exist_ok=True)
                    self.reports[name] = str(place)

    def log_table(self, name: str, rows: Sequence[Mapping[Any, Any]], pictures: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Report rows of a table, each with the image (H, W, 3) that it is about; W&B shows them, the first ones only."""
        with self._watch.going(False):
            self.mirror.log_table(name, rows, pictures)

    def emit(self, line: str) -> None:
        """Print one line of output."""
        logs.emit(f"  {self.name}: {line}")


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """An empty folder of this name, gone when the block ends."""
    with scratch(name) as parent:
        folder = parent / name
        folder.mkdir()
        yield folder


def checkpoint_for(name: str, key: str, context: Context) -> Path:
    """Where the work of a name and key keeps what it has come to; with ``main.cache=false`` each pipeline has a place of its own."""
    return checkpoint_path(name, key if context.cache else cache_keys.parts_key({"key": key, "pipeline": context.pipeline}))


def shared_artifact(
    name: str,
    parts: Mapping[str, Any],
    compute: Callable[[Path], None],
    *,
    ledger: Ledger,
    context: Context,
    reader: str,
    emit: Callable[[str], None],
) -> Path:
    """Find an artifact by a key, or compute it as a run of its own (``main.cache=false``: once a pipeline).

    Parameters
    ----------
    name : str
        The artifact's name.
    parts : mapping
        Of the key, as plain values.
    compute : callable
        Fills the folder that it is given.
    ledger : Ledger
    context : Context
        Of the pipeline that asks for it.
    reader : str
        The id of the run that reads it, which is tagged with it.
    emit : callable
        Is given a line where another process computes it, and is waited for.

    Returns
    -------
    Path
        The artifact's folder, not to be changed.
    """
    key = cache_keys.parts_key(parts)
    lock = ledger.lock(f"{name}-{key[:16]}", lambda: emit(f"waits for {name}, which another process computes"))
    with lock if context.cache else nullcontext():  # nobody's result is waited for where none is taken
        found = ledger.find(name, key, parent=None if context.cache else context.parent_run_id)
        version = found.outputs[name] if found else _compute_shared(name, key, parts, compute, ledger, context)
        ledger.tag(reader, {f"{INPUT_PREFIX}{name}": version})
        return ledger.fetch(f"{name}:{version}")


def _compute_shared(
    name: str, key: str, parts: Mapping[str, Any], compute: Callable[[Path], None], ledger: Ledger, context: Context
) -> str:
    tags = {STEP_TAG: name, PIPELINE_TAG: context.pipeline}
    run_id = ledger.start(naming.part_name(name, context.pipeline), parent=context.parent_run_id, tags=tags)
    try:
        with _folder(name) as folder:
            compute(folder)
            version, _ = ledger.publish(run_id, name, folder)
        ledger.tag(run_id, {KEY_TAG: key, KEY_PARTS_TAG: json.dumps(parts)})
        ledger.end(run_id, "FINISHED")
    except BaseException as error:
        ledger.end(run_id, run_status(error))
        raise
    return version
