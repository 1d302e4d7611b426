"""Context of a running step: the interface to its options, inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class Context:
    """What all steps of a pipeline share; an isolated step gets it as JSON in ``BCCP_CONTEXT``.

    Attributes
    ----------
    ledger_uri : str
    wandb : str
        ``online``, ``offline`` or ``disabled``.
    wandb_entity : str or None
    wandb_project : str
    upload_images : bool
    pipeline : str
        The pipeline's id; W&B's group where it is not part of a sweep.
    threads : int
        Numeric threads of a step.
    sweep : str or None
        The id of the sweep that the pipeline is part of, W&B's group.
    config : dict
        The pipeline's whole configuration, for W&B, where runs are compared by it; empty for a step alone.
    parent_run_id : str or None
        The pipeline's MLflow run.
    init_timeout, finish_timeout : float
        Seconds to wait for W&B at a step's start and end.
    process : tuple of int and str, or None
        Id and start of the orchestrator's process, which an isolated step does not outlive.
    cache : bool
        ``main.cache``; false: work shared by steps is not taken from other pipelines.
    folder : str or None
        The run folder, which gets a log of each step; None: a step alone has none.
    package : str or None
        The folder through which an isolated step's ``run.py`` imports ``bccp``; None: ``src`` of its checkout.
    """

    ledger_uri: str
    wandb: str
    wandb_entity: str | None
    wandb_project: str
    upload_images: bool
    pipeline: str
    threads: int
    sweep: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    parent_run_id: str | None = None
    init_timeout: float = 30.0
    finish_timeout: float = 120.0
    process: tuple[int, str] | None = None
    cache: bool = True
    folder: str | None = None
    package: str | None = None

    def log(self, step: str) -> Path | None:
        """The file of a step's log."""
        return Path(self.folder) / f"{step}.log" if self.folder else None


class Step(Protocol):
    """A running step, as its own functions see it: configuration, inputs, a place for outputs, and a run to report to.

    Attributes
    ----------
    name : str
        One of ``STEPS``.
    config : dataclass
        The step's section of the configuration.
    inputs : dict of str to str
        Version (64 hex digits) of each input artifact, by name; ``other:digest`` where another artifact stands in for it.
    outputs : dict of str to str
        Version of each artifact published so far.
    reports : dict of str to str
        Address of each finished :meth:`report`, by name.
    checkpoint : Path or None
        File in which the work in progress, the step's own or what it shares, may keep its state for the next attempt with the same key;
        deleted when that work has finished.
    context : Context
    ledger : Ledger
        The store; declared in :mod:`bccp.tracking.store`, which knows this package.
    mirror : Mirror
        The step's run in W&B.
    run_id : str
        The step's run in MLflow.
    """

    name: str
    config: Any
    inputs: dict[str, str]
    outputs: dict[str, str]
    reports: dict[str, str]
    checkpoint: Path | None
    context: Context
    ledger: Any
    mirror: Any
    run_id: str

    @property
    def threads(self) -> int:
        """Numeric threads, at least 1."""

    @property
    def device(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""

    def has_input(self, name: str) -> bool:
        """Return True if this input was given."""

    def input(self, name: str) -> Path:
        """Return the folder of an input artifact, verified and not to be changed."""

    def output(self, name: str) -> AbstractContextManager[Path]:
        """Give a folder to fill; it is published under this name when the block ends without an error, and deleted otherwise."""

    def shared(self, name: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        """Return the folder of an artifact that several steps share, computed once per key."""

    def ancestor(self, name: str) -> Path | None:
        """Return the folder of an artifact that went into this step's inputs; None, with one line logged, where it is gone."""

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics under ``step/name``, on the run, on the pipeline's run and in the summary."""

    def log_history(self, history: Iterable[Mapping[str, float]]) -> None:
        """Log the metrics of successive epochs under ``step/epoch_<name>``."""

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        """Log a picture (PNG); ``pixels`` marks one that shows parts of images."""

    def report(self, name: str) -> AbstractContextManager[Path]:
        """Give a folder to fill with files for people; it is logged when the block ends without an error, and is no artifact."""

    def log_table(self, name: str, rows: Sequence[Mapping[Any, Any]], pictures: Iterable[npt.NDArray[np.uint8]]) -> None:
        """Log rows of a table, each with the image (H, W, 3) that it describes; W&B shows the first of them."""

    def emit(self, line: str) -> None:
        """Print one line of output."""
