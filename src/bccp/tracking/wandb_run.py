"""The mirror in Weights & Biases: the same runs, figures and artifacts as in the ledger, with lineage.

``disabled`` gives an object that does nothing, so no caller asks which it has. Offline, everything is recorded under the home; what W&B's
own records cannot hold, the inputs, is noted beside them. :mod:`bccp.tracking.wandb_sync` uploads both. Online the same note is kept until
W&B has everything, so that nothing is lost where the server dies or the process is killed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bccp.core.home import scratch, temporary_files_in
from bccp.core.processes import process_start
from bccp.core.runtime.wandb_import import import_wandb
from bccp.tracking.wandb_artifacts import alias, log_artifact, upload_input
from bccp.tracking.wandb_client import absent, no_answer, start_run

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

NOTE = "bccp.json"
"""In the folder of a W&B run that is not, or not wholly, on W&B: what :mod:`bccp.tracking.wandb_sync` has to do."""


MOST_ROWS = 50
"""Rows of a table in W&B, of which each may have a thumbnail."""

THUMBNAIL_PX = 96
"""The longer side of a thumbnail."""


class Mirror(Protocol):
    """What a step tells W&B."""

    lost: bool
    """Whether a run that was to be online is recorded offline, as the server did not answer."""

    def use(self, name: str, digest: str, folder: Path, *, pixels: bool, origin: str | None = None) -> None:
        """An input was read, from a folder of the ledger; ``origin`` is its ``entity/project`` where it came from W&B."""

    def publish(self, name: str, digest: str, folder: Path, *, pixels: bool, aliases: Sequence[str] = ()) -> None:
        """An output was stored; with ``pixels`` it holds parts of images. ``aliases`` are names for this version beside its own."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Figures of the step."""

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Figures of successive epochs."""

    def log_picture(self, path: Path, *, pixels: bool) -> None:
        """A picture; with ``pixels`` it shows parts of images."""

    def log_page(self, path: Path) -> None:
        """A page (HTML) that shows no part of any image."""

    def log_table(self, name: str, rows: Sequence[Mapping[Any, Any]], pictures: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Rows of a table, each with the image that it is about."""

    def finish(self, exit_code: int) -> None:
        """The step has ended."""


class NoMirror:
    """``tracking.wandb=disabled``."""

    lost = False

    def use(self, name: str, digest: str, folder: Path, *, pixels: bool, origin: str | None = None) -> None:
        """Do nothing."""

    def publish(self, name: str, digest: str, folder: Path, *, pixels: bool, aliases: Sequence[str] = ()) -> None:
        """Do nothing."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Do nothing."""

    def log_picture(self, path: Path, *, pixels: bool) -> None:
        """Do nothing."""

    def log_page(self, path: Path) -> None:
        """Do nothing."""

    def log_table(self, name: str, rows: Sequence[Mapping[Any, Any]], pictures: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Do nothing."""

    def finish(self, exit_code: int) -> None:
        """Do nothing."""


class WandbDestination(Protocol):
    """Where on W&B a run goes, and what with it: a part of ``config.Tracking`` and of ``step.Context``."""

    @property
    def wandb_entity(self) -> str | None:
        """A user or team; None: the key's own."""

    @property
    def wandb_project(self) -> str:
        """The project."""

    @property
    def upload_images(self) -> bool:
        """Whether pixels may leave."""

    @property
    def init_timeout(self) -> float:
        """Seconds to wait for the server at the start."""

    @property
    def finish_timeout(self) -> float:
        """Seconds to wait for the rest of the uploads at the end."""


class WandbMirror:
    """A W&B run, online or offline.

    Parameters
    ----------
    mode : str
        ``online`` or ``offline``.
    to : Destination
    group : str
        The pipeline's id, or the sweep's.
    name : str
        The run's name.
    step : str
        The step's name, W&B's job type.
    config : mapping
        The step's resolved section, and what else runs are compared by.
    home : Path
        Where W&B's records go.
    run_id : str, optional
        W&B's id of the run; what W&B has under it is taken up again.
    """

    def __init__(
        self,
        *,
        mode: str,
        to: WandbDestination,
        group: str,
        name: str,
        step: str,
        config: Mapping[str, Any],
        home: Path,
        run_id: str | None = None,
    ) -> None:
        self._wandb = import_wandb()
        self._step, self._upload_images, self.lost = step, to.upload_images, False
        place: dict[str, Any] = {"entity": to.wandb_entity, "project": to.wandb_project, "group": group}
        timeouts = {"init_timeout": to.init_timeout, "finish_timeout": to.finish_timeout}
        self._where = place | {"dir": str(home), "settings": timeouts}
        about: dict[str, Any] = self._where | {"job_type": step, "name": name, "config": dict(config)}
        if run_id is not None:
            about |= {"id": run_id, "resume": "allow"}
        try:
            self._run = start_run(mode=mode, **about)
        except (self._wandb.errors.Error, TimeoutError) as error:
            if mode != "online":
                raise
            self._lose(error)
            # not under the same id, which wandb's own process keeps for what it could not start
            fresh = {key: value for key, value in about.items() if key not in ("id", "resume")}
            self._run = start_run(mode="offline", **fresh)
        self._note: dict[str, Any] = {"run": self._run.id, **place}
        self._note |= {"step": step, "started": time.time(), "host": socket.gethostname()}
        self._note |= {"process": (os.getpid(), process_start(os.getpid()))}
        self._note |= {"exit_code": None, "inputs": [], "outputs": []}
        self._write_note()
        define_metrics(self._run, step)

    @property
    def _online(self) -> bool:
        return not self._run.offline and not self.lost

    def _lose(self, error: BaseException) -> None:
        if not self.lost:
            print(f"  warning: not on W&B ({no_answer(error)}): recorded offline, `bccp wandb sync` uploads it later", flush=True)
        self.lost = True

    def _withheld(self, pixels: bool) -> bool:
        return pixels and not self._upload_images

    def _write_note(self) -> None:
        place = Path(self._run.dir).parent / NOTE
        fresh = place.with_suffix(".part")
        fresh.write_text(json.dumps(self._note), encoding="utf-8")
        fresh.replace(place)

    def use(self, name: str, digest: str, folder: Path, *, pixels: bool, origin: str | None = None) -> None:
        """Note the input and, online, enter it as an edge of the lineage; an input that W&B does not have is uploaded first."""
        own = f"{name}:{alias(digest)}"
        reference = f"{origin}/{own}" if origin else own
        entry = {"reference": reference, "name": name, "digest": digest, "folder": str(folder), "without_files": self._withheld(pixels)}
        self._note["inputs"].append(entry)
        self._write_note()
        if not self._online:
            return
        try:
            try:
                self._run.use_artifact(reference)
            except (self._wandb.errors.CommError, ValueError) as error:
                if not absent(error):
                    raise
                upload_input(entry, **self._where)
                self._run.use_artifact(own)
        except (self._wandb.errors.Error, ValueError, OSError) as error:
            self._lose(error)

    def publish(self, name: str, digest: str, folder: Path, *, pixels: bool, aliases: Sequence[str] = ()) -> None:
        """Log the artifact with its version as alias and metadata; without its files where they hold pixels that may not leave."""
        entry: dict[str, Any] = {"name": name, "digest": digest, "folder": str(folder), "without_files": self._withheld(pixels)}
        entry |= {"aliases": list(aliases)} if aliases else {}
        self._note["outputs"].append(entry)
        self._write_note()
        log_artifact(self._run, entry)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log and keep as summary."""
        self._run.log(dict(metrics))

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """One row an epoch."""
        for epoch, row in enumerate(rows, start=1):
            self._run.log({f"{self._step}/epoch": epoch, **row})

    def log_picture(self, path: Path, *, pixels: bool) -> None:
        """Log a PNG file."""
        if not self._withheld(pixels):
            self._run.log({f"{self._step}/{path.stem}": self._wandb.Image(str(path))})

    def log_page(self, path: Path) -> None:
        """Log an HTML file."""
        with scratch("page") as folder, temporary_files_in(folder):  # wandb copies what it uploads
            self._run.log({f"{self._step}/{path.stem}": self._wandb.Html(path.read_text(encoding="utf-8"), inject=False)})

    def log_table(self, name: str, rows: Sequence[Mapping[Any, Any]], pictures: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Log the first rows with thumbnails; without them where pixels may not leave."""
        rows, shown = rows[:MOST_ROWS], not self._withheld(True)
        columns = [*(["picture"] if shown else []), *(rows[0] if rows else [])]
        table = self._wandb.Table(columns=columns, allow_mixed_types=True)
        thumbnails = ([self._wandb.Image(_thumbnail(picture))] for picture in pictures) if shown else repeat([])
        for row, thumbnail in zip(rows, thumbnails, strict=False):
            table.add_data(*thumbnail, *row.values())
        with scratch("table") as folder, temporary_files_in(folder):  # wandb copies what it uploads
            self._run.log({f"{self._step}/{name}": table})

    def finish(self, exit_code: int) -> None:
        """End the W&B run; the note stays where W&B does not have everything."""
        try:
            self._run.finish(exit_code=exit_code)
        except Exception as error:  # a timeout, or wandb's own process is gone: the step has done its work all the same
            self._lose(error)
        if self._online:
            (Path(self._run.dir).parent / NOTE).unlink()
        else:
            self._note["exit_code"] = exit_code
            self._write_note()


def _thumbnail(pixels: npt.NDArray[np.uint8]) -> Any:
    """A picture of at most :data:`THUMBNAIL_PX` a side, from pixels (H, W, 3)."""
    from PIL import Image  # only steps that draw have it

    picture = Image.fromarray(pixels)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return picture


def define_metrics(run: Any, step: str) -> None:
    """Draw a step's figures of epochs over the epoch."""
    run.define_metric(f"{step}/epoch")
    run.define_metric(f"{step}/epoch_*", step_metric=f"{step}/epoch")
