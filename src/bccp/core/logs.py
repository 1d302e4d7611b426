"""A step's log: a file in the run folder with what the step and the libraries that it uses have said, warnings and errors included."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from bccp.core import progress
from bccp.core.redaction import redact_text

SAID = logging.getLogger("bccp.said")
"""Lines that are printed too; they are for the log, and not for the handlers of others."""
SAID.propagate = False
SAID.setLevel(logging.INFO)
SAID.addHandler(logging.NullHandler())  # without a file they go nowhere


def emit(line: str) -> None:
    """Print a line, and write it into the log."""
    progress.line(line)
    SAID.info(line.strip())


class _File(logging.FileHandler):
    """A file that shows no password, and keeps a full disk to itself: a log fails no step."""

    def format(self, record: logging.LogRecord) -> str:
        """A line, or several, without secrets in URLs."""
        return redact_text(super().format(record))

    def close(self) -> None:
        """Write what is left, if there is room."""
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Nothing."""


@contextmanager
def logged(path: Path | None) -> Iterator[None]:
    """Within the block, write down what is said, logged and warned of; an error that ends the block too, with its traceback.

    Parameters
    ----------
    path : Path or None
        The file, which is begun anew; None, or where it cannot be written: nothing is.
    """
    handler = _opened(path)
    if handler is None:
        yield
        return
    root, show = logging.getLogger(), warnings.showwarning

    def note(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None, line: Any = None
    ) -> None:
        SAID.warning(warnings.formatwarning(message, category, filename, lineno, line).rstrip())
        show(message, category, filename, lineno, file, line)

    started = time.perf_counter()
    for logger in (root, SAID):
        logger.addHandler(handler)
    warnings.showwarning = note
    try:
        yield
        SAID.info("finished after %.1f s", time.perf_counter() - started)
    except BaseException as error:
        SAID.error("ended after %.1f s", time.perf_counter() - started, exc_info=error)
        raise
    finally:
        if warnings.showwarning is note:
            warnings.showwarning = show
        for logger in (root, SAID):
            logger.removeHandler(handler)
        handler.close()


def _opened(path: Path | None) -> logging.FileHandler | None:
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _File(path, mode="w", encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    return handler
