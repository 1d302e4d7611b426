"""How a command ends: with its status, and after an error with one line on stderr that says what it was and what would do."""

from __future__ import annotations

import sys
from collections.abc import Callable

from bccp.errors import BCCPError
from bccp.tracking import told


def exit_status(work: Callable[[], object], *, interrupted: str = "interrupted") -> int:
    """Do what a command is for.

    Parameters
    ----------
    work : callable
        Does it; what it returns does not count.
    interrupted : str
        What to say after Ctrl-C.

    Returns
    -------
    int
        0; 1 after an error that :func:`bccp.tracking.told` knows, 130 after Ctrl-C. Any other error is raised: it is a fault in BCCP.
    """
    try:
        work()
    except KeyboardInterrupt:
        return failed(interrupted, 130)
    except Exception as error:
        if not isinstance(known := told(error), BCCPError):
            raise
        return failed(str(known))
    return 0


def failed(sentence: str, status: int = 1) -> int:
    """Say on stderr, after all other lines, why a command ends; its status."""
    sys.stdout.flush()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return status
