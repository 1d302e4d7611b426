"""SHA-256 digests of files and folders, computed once per process for a file that has not changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path


def folder_digest(folder: Path) -> str:
    """The version of a folder: SHA-256 over its sorted (POSIX path, SHA-256 of the file) pairs, 64 hex digits."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    lines = (f"{name}\0{file_digest(files[name])}\n" for name in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""

    def read() -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return digest_once(path, read)


def digest_once(path: Path, read: Callable[[], str]) -> str:
    """A file's digest as this process has read it before, where the file is still the same, and else as it is read now.

    So a sweep's later jobs do not read all images again. A file is the same while its place on the disk, its size, and the times of its
    last writing and of its last change of any kind are; the latter cannot be set by hand.

    Parameters
    ----------
    path : Path
    read : callable
        Reads it.

    Returns
    -------
    str
    """
    settled, state = time.time_ns() - SETTLED_NS, _state(path)
    if state in _digests:
        return _digests[state]
    digest = read()
    if state[-1] < settled and _state(path) == state:  # else it may change once more without another time
        _digests[state] = digest
    return digest


def _state(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


_digests: dict[tuple[int, ...], str] = {}
SETTLED_NS = 5_000_000_000  # more than the coarsest clock of a file system
