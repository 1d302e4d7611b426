"""The jobs of a sweep: what became of each, and the log of a running one."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from omegaconf import OmegaConf

from bccp.core.home import clear_scratch
from bccp.core.processes import Interrupted, end_with
from bccp.core.redaction import redact, redact_text

PARENT = "BCCP_SWEEP"
"""Environment variable of the processes that run a sweep's jobs on this machine: id and start of the one that they end with."""


TABLE_METRICS = ("test/accuracy", "train/val_accuracy", "bayes_cutoff/f1")
"""What the table shows of each job, as far as it was measured; the first that was measured is also told when the job ends."""


LOG = "job.log"
"""In a job's folder: what the job has said, which a terminal would show of a single run."""


LONGEST_LIST = 10


@dataclass(frozen=True)
class JobEnd:
    """What a job came to.

    Attributes
    ----------
    name : str
        Its number, the name of its folder.
    status : str
        ``finished`` or ``failed``.
    error : str or None
    seconds : float
    metrics : dict of str to float
    overrides : tuple of str
    """

    name: str
    status: str
    error: str | None
    seconds: float
    metrics: dict[str, float]
    overrides: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The error without the name of the job's log."""
        return (self.error or "").partition(" (its log: ")[0]

    def line(self, swept: Collection[str], like: str | None = None) -> str:
        """One line, to be printed when it ends; ``like`` names an earlier job that has failed with the same error."""
        failed = f"failed as [{like}]" if like else f"failed: {self.error}"
        came_to = failed if self.error else f"finished in {spell_seconds(self.seconds)}"
        came_to += next((f", {name} {self.metrics[name]:.4f}" for name in TABLE_METRICS if name in self.metrics and not self.error), "")
        return f"[{self.name}] {self.setting(swept)}{came_to}"

    def setting(self, swept: Collection[str]) -> str:
        """Its values of the swept keys."""
        chosen = [text for text in self.overrides if text.partition("=")[0].lstrip("+") in swept]
        return " ".join(chosen).replace("\\", "") + ": " if chosen else ""


def jobs(folder: Path) -> list[JobEnd]:
    """The jobs of a sweep that have ended so far, in the order of their numbers."""
    return [read_job(path, folder) for path in summary_files(folder)]


def summary_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("summary.json"), key=lambda path: (len(path.parent.name), path))


def read_job(path: Path, folder: Path) -> JobEnd:
    summary = json.loads(path.read_text(encoding="utf-8"))
    overrides = path.parent / ".hydra" / "overrides.yaml"
    words = OmegaConf.to_object(OmegaConf.load(overrides)) if overrides.is_file() else []
    return JobEnd(
        name=path.parent.relative_to(folder).as_posix(),
        status=summary["status"],
        error=summary["error"],
        seconds=sum(step["seconds"] for step in summary["steps"]),
        metrics=summary["metrics"],
        overrides=tuple(str(redact(word)) for word in words) if isinstance(words, list) else (),
    )


@contextmanager
def job(folder: Path) -> Iterator[None]:
    """Around a job of a sweep, in whatever process: what it says goes to :data:`LOG` in its folder, and it ends with the sweep."""
    parent = os.environ.get(PARENT, "").split()
    elsewhere = parent[:1] != [str(os.getpid())]
    if parent and elsewhere and _WATCHER not in {thread.name for thread in threading.enumerate()}:
        end_with([(int(parent[0]), parent[1])])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("w", encoding="utf-8", errors="backslashreplace") as file:
            log = _Log(file)
            with redirect_stdout(log), redirect_stderr(log), _descriptors_to(file) if elsewhere else nullcontext():
                yield
            log.write("\n" if log.begun else "")
    except (KeyboardInterrupt, Interrupted) as stopped:
        if elsewhere:  # a launcher's process would take the next job
            clear_scratch()
            os._exit(128 + (stopped.number if isinstance(stopped, Interrupted) else 2))
        raise


_WATCHER = "end-with"


@contextmanager
def _descriptors_to(file: TextIO) -> Iterator[None]:
    """Let processes that are started within the block, such as steps in environments of their own, write to a file too.

    Only where the whole process is the job's: the one that started the sweep tells of its jobs meanwhile.
    """
    before = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in before:
            os.dup2(file.fileno(), number)
        yield
    finally:
        for number, kept in before:
            os.dup2(kept, number)
            os.close(kept)


class _Log(io.TextIOBase):
    """A stream that hands whole lines on to a file, without passwords in URLs.

    A library may keep it longer than the file is open: what it says then is dropped.

    Attributes
    ----------
    begun : str
        A line that has no end yet.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.begun = ""

    def write(self, text: str) -> int:
        """Write what is a whole line now."""
        *lines, self.begun = (self.begun + text).split("\n")
        if lines and not self._file.closed:
            with suppress(OSError):  # a full disk fails what the job is for, with a better sentence
                self._file.write("".join(f"{redact_text(line)}\n" for line in lines))
                self._file.flush()
        return len(text)

    def flush(self) -> None:
        """Nothing waits but a line that has no end yet."""

    def fileno(self) -> int:
        """That of the file, for processes which are to inherit it."""
        return self._file.fileno()


def spell_seconds(seconds: float) -> str:
    """A duration in its largest sensible unit."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
