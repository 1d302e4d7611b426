"""Image files by the SHA-256 of their bytes: each whole or not there at all, whatever ends the process."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

KNOWN_SECONDS = 600.0
"""For which an image that was seen is taken to be known; then its row is renewed."""

_N_KNOWN = 10_000
_DIGEST = re.compile("[0-9a-f]{64}")


class ImageFiles:
    """A folder of image files, ``ab/abcd…`` without endings, and of those in ``unfinished`` that are being written.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unfinished = folder / "unfinished"
        self._token, self._numbers = uuid.uuid4().hex, itertools.count()
        self._known: OrderedDict[str, tuple[float, Path]] = OrderedDict()  # when each was last renewed, by the monotonic clock

    def path(self, sha256: str) -> Path:
        """Where the file of a digest lies, or would.

        Raises
        ------
        ValueError
            If that is no digest of 64 lower-case hexadecimal digits.
        """
        if not _DIGEST.fullmatch(sha256):
            raise ValueError(f"{sha256[:80]!r} is no SHA-256 digest")
        return self.folder.joinpath(sha256[:2], sha256)

    def put(self, sha256: str, data: bytes) -> None:
        """Keep a file, where it is not there already.

        Parameters
        ----------
        sha256 : str
            Digest of ``data``; not computed again.
        data : bytes

        Raises
        ------
        OSError
            If it cannot be written; nothing is left of it then.
        """
        place = self.path(sha256)
        with suppress(FileNotFoundError):
            if place.stat().st_size == len(data):  # else a power cut took its bytes
                return
        # all are made in one folder: ext4 looks for a free inode near that, and 256 folders lie in as many places
        temporary = self._unfinished / f"{self._token}-{next(self._numbers)}"
        try:
            self._write(temporary, data)
            try:
                temporary.replace(place)
            except FileNotFoundError:
                place.parent.mkdir(mode=0o700, exist_ok=True)
                temporary.replace(place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _write(self, path: Path, data: bytes) -> None:
        """Write a new file; few calls to the system, as after each the thread waits for others of the process."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            handle = os.open(path, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)  # in the folder of all, which is not made anew where somebody took it away
            handle = os.open(path, flags, 0o600)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(handle, rest) :]
        finally:
            os.close(handle)

    def read(self, sha256: str) -> bytes | None:
        """Return a file's bytes; None where it is not there, or no longer what its name says."""
        try:
            data = self.path(sha256).read_bytes()
        except FileNotFoundError:
            return None
        return data if hashlib.sha256(data).hexdigest() == sha256 else None

    def delete(self, sha256: str) -> bool:
        """Delete a file; False where there was none."""
        self._known.pop(sha256, None)
        try:
            self.path(sha256).unlink()
        except FileNotFoundError:
            return False
        return True

    def sync(self, sha256: str) -> None:
        """Have the disk hold a file, bytes and name, for a power cut; one that is not there is passed over."""
        place = self.path(sha256)
        for path in (place, place.parent):
            try:
                handle = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def files(self, *, older_than: float) -> Iterator[Path]:
        """Files that were written so many seconds ago; what killed processes have not finished is deleted on the way."""
        latest = time.time() - older_than
        for folder in (self._unfinished, *sorted(self.folder.glob("[0-9a-f][0-9a-f]"))):
            for path in folder.glob("*"):
                with suppress(FileNotFoundError):  # another process sweeps, too
                    if path.stat().st_mtime > latest:
                        continue
                    if folder == self._unfinished:
                        path.unlink()
                    elif _DIGEST.fullmatch(path.name):
                        yield path

    def is_known(self, sha256: str, *, kept: bool) -> bool:
        """Return True for an image that was remembered in the last minutes and, if it is to be kept, has its file still."""
        if (known := self._known.get(sha256)) is None or time.monotonic() - known[0] > KNOWN_SECONDS:
            return False
        return not kept or known[1].exists()

    def remember(self, sha256: str) -> None:
        """Take an image for known from now on; the longest known is forgotten where there are many."""
        self._known[sha256] = time.monotonic(), self.path(sha256)
        self._known.move_to_end(sha256)
        while len(self._known) > _N_KNOWN:
            self._known.popitem(last=False)

    def check_writable(self) -> None:
        """Write an empty file and delete it.

        Raises
        ------
        OSError
        """
        path = self._unfinished / f"{self._token}-{next(self._numbers)}"
        self._write(path, b"")
        path.unlink()
