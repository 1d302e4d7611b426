"""The mirror in Weights & Biases: the same runs, figures and artifacts as in the ledger, with lineage.

``disabled`` gives an object that does nothing, so no caller asks which it has. Offline, everything is recorded under the home for a later
sync.
"""

from __future__ import annotations

import netrc
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from bccp.errors import BCCPError

_TIMEOUT_SECONDS = 30


class Mirror(Protocol):
    """What a step tells W&B."""

    def use(self, name: str, digest: str) -> None:
        """An input was read."""

    def publish(self, name: str, digest: str, folder: Path, *, pixels: bool) -> None:
        """An output was stored; with ``pixels`` it holds parts of images."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Figures of the step."""

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Figures of successive epochs."""

    def log_picture(self, path: Path, *, pixels: bool) -> None:
        """A picture; with ``pixels`` it shows parts of images."""

    def finish(self, exit_code: int) -> None:
        """The step has ended."""


class NoMirror:
    """``tracking.wandb=disabled``."""

    def use(self, name: str, digest: str) -> None:
        """Do nothing."""

    def publish(self, name: str, digest: str, folder: Path, *, pixels: bool) -> None:
        """Do nothing."""

    def log(self, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Do nothing."""

    def log_picture(self, path: Path, *, pixels: bool) -> None:
        """Do nothing."""

    def finish(self, exit_code: int) -> None:
        """Do nothing."""


class WandbMirror:
    """A W&B run, online or offline.

    Parameters
    ----------
    mode : str
        ``online`` or ``offline``.
    entity, project : str
    group : str
        The pipeline's id.
    step : str
        The step's name, W&B's job type.
    config : mapping
        The step's resolved section.
    home : Path
        Where offline records go.
    upload_images : bool
        Whether pixels may leave.
    """

    def __init__(
        self,
        *,
        mode: str,
        entity: str | None,
        project: str,
        group: str,
        step: str,
        config: Mapping[str, Any],
        home: Path,
        upload_images: bool,
    ) -> None:
        for name in ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME"):
            os.environ.pop(name, None)  # a parent's run is not this step's
        import wandb

        self._wandb: Any = wandb
        self._upload_images = upload_images
        self._online = mode == "online"
        settings = wandb.Settings(
            silent=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            console="off",
            init_timeout=_TIMEOUT_SECONDS,
        )
        try:
            self._run = self._start(mode, entity, project, group, step, config, home, settings)
        except (wandb.errors.CommError, wandb.errors.UsageError, TimeoutError) as error:
            if not self._online:
                raise
            print(f"  warning: W&B does not answer ({str(error).splitlines()[0][:120]}): this step is recorded offline", flush=True)
            self._online = False
            self._run = self._start("offline", entity, project, group, step, config, home, settings)
        self._run.define_metric(f"{step}/epoch")
        self._run.define_metric(f"{step}/epoch_*", step_metric=f"{step}/epoch")
        self._step = step

    def _start(
        self,
        mode: str,
        entity: str | None,
        project: str,
        group: str,
        step: str,
        config: Mapping[str, Any],
        home: Path,
        settings: Any,
    ) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries that wandb imports, about themselves
            return self._wandb.init(
                mode=mode,
                entity=entity,
                project=project,
                group=group,
                job_type=step,
                name=f"{step}-{group}",
                config=dict(config),
                dir=str(home),
                settings=settings,
            )

    def use(self, name: str, digest: str) -> None:
        """Online, an edge of the lineage; offline, a note in the run's config for the sync to replay."""
        if self._online:
            try:
                self._run.use_artifact(f"{name}:{alias(digest)}")
                return
            except (self._wandb.errors.CommError, ValueError) as error:
                print(f"  warning: W&B has no {name}:{alias(digest)} ({str(error).splitlines()[0][:100]})", flush=True)
        self._run.config.update({f"bccp.input.{name}": digest}, allow_val_change=True)

    def publish(self, name: str, digest: str, folder: Path, *, pixels: bool) -> None:
        """Log the artifact with its version as alias and metadata; without its files where they hold pixels that may not leave."""
        artifact = self._wandb.Artifact(name, type=name, metadata={"version": digest})
        if pixels and not self._upload_images:
            with artifact.new_file("version.txt", mode="w") as stream:
                stream.write(f"{name}:{digest}\nThe files stayed at home: tracking.upload_images=false\n")
        else:
            for path in sorted(folder.rglob("*")):
                if path.is_file():  # immutable: W&B reads the ledger's own file instead of keeping a copy
                    artifact.add_file(str(path), name=path.relative_to(folder).as_posix(), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact, aliases=[alias(digest)])

    def log(self, metrics: Mapping[str, float]) -> None:
        """Log and keep as summary."""
        self._run.log(dict(metrics))

    def log_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """One row an epoch."""
        for epoch, row in enumerate(rows, start=1):
            self._run.log({f"{self._step}/epoch": epoch, **row})

    def log_picture(self, path: Path, *, pixels: bool) -> None:
        """Log a PNG file."""
        if self._upload_images or not pixels:
            self._run.log({f"{self._step}/{path.stem}": self._wandb.Image(str(path))})

    def finish(self, exit_code: int) -> None:
        """End the W&B run."""
        self._run.finish(exit_code=exit_code)


def alias(digest: str) -> str:
    """The W&B alias of a version: ``d-`` and its first 12 hex digits."""
    return f"d-{digest[:12]}"


def resolve_mode(configured: str) -> str:
    """Turn ``auto`` into ``online`` where a key or a login exists, else ``offline``.

    Raises
    ------
    BCCPError
        If ``online`` is asked for without a key or login.
    """
    if configured not in ("auto", "online"):
        return configured
    if os.environ.get("WANDB_MODE") in ("offline", "disabled") and configured == "auto":
        return os.environ["WANDB_MODE"]
    if _has_login():
        return "online"
    if configured == "online":
        raise BCCPError("tracking.wandb=online needs a key: set WANDB_API_KEY or run `wandb login`, or use tracking.wandb=offline")
    return "offline"


def _has_login() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc().authenticators(host.partition(":")[0]) is not None or netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
