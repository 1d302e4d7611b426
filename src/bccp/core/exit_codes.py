"""Exit statuses of commands, and the one line on stderr that says after an error what it was and what would do."""

from __future__ import annotations

import errno
import re
import shutil
import sys
from collections.abc import Callable

from bccp.core.errors import BCCPError
from bccp.core.home import home
from bccp.core.redaction import redact_text

_LONGEST_NAME = 60
"""Characters shown of a name that no file can have."""


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
        0; 1 (2 where an extra is missing) after an error that :func:`bccp.core.exit_codes.to_bccp_error` knows, 130 after Ctrl-C. Any other
        error is raised: it is a fault in BCCP.
    """
    try:
        work()
    except KeyboardInterrupt:
        return failed(interrupted, 130)
    except Exception as error:
        if not isinstance(known := to_bccp_error(error), BCCPError):
            raise
        return failed(str(known), known.exit_status)
    return 0


def failed(sentence: str, status: int = 1) -> int:
    """Say on stderr, after all other lines, why a command ends; its status."""
    sys.stdout.flush()
    print(f"error: {sentence}", file=sys.stderr, flush=True)
    return status


def to_bccp_error(error: Exception) -> Exception:
    """Turn a refused write, a name too long for a file, or a server that has gone into a :class:`BCCPError`; return others as they are."""
    if isinstance(error, BCCPError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BCCPError(f"the disk that holds {error.filename or home()} is full: make room or set BCCP_HOME to another disk")
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO):
        return BCCPError(f"{error.filename or home()} cannot be written ({error.strerror}): set BCCP_HOME to a folder you may write to")
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return BCCPError(f"the name {str(error.filename)[:_LONGEST_NAME]}… is too long for a file: give a shorter one")
    no_room = "disk I/O error" in str(error) and shutil.disk_usage(home()).free < 100_000  # SQLite has not enough for its index in memory
    if no_room or "database or disk is full" in str(error):
        return BCCPError(f"the disk that holds {home()} is full: make room or set BCCP_HOME to another disk")
    if "attempt to write a readonly database" in str(error):
        return BCCPError(f"the store in {home()} cannot be written: make it writable or set BCCP_HOME to another folder")
    text = redact_text(str(error))
    if gone := re.search(r"API request to (https?://[^/\s]+)\S* failed|server closed the connection|connection to server at", text):
        server = f"the tracking server {gone[1]}" if gone[1] else "the tracking server"
        return BCCPError(f"{server} has stopped answering: start it and run again; finished steps are kept")
    return error


def run_status(error: BaseException) -> str:
    """The status of a run that an exception ended: FAILED for errors, KILLED for interrupts."""
    return "FAILED" if isinstance(error, Exception) else "KILLED"
