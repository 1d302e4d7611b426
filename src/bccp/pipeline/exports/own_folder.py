"""A local folder that a command writes as a whole, and replaces as long as nobody has changed it since.

The files are written into a folder beside the place, which takes it by one rename, also where an earlier result stands there and the system
can exchange two folders (``renameat2`` of Linux, ``renamex_np`` of macOS). Elsewhere the earlier one is moved aside first; what a killed
process has left aside is put back, or deleted, by the next that comes.

Every file's size and SHA-256 are in :data:`MANIFEST` within the folder. The times of files are not looked at: they survive an edit by some
programs and do not survive a copy, and reading the files again costs no more than it did to read the images that they were made of.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from bccp.core.digests import file_digest
from bccp.core.errors import BCCPError
from bccp.core.home import abandoned, home, scratch_owner
from bccp.core.paths import expanded

MANIFEST = ".bccp-clean.json"
"""In the folder: who wrote it, and the size and SHA-256 of each of its other files."""

_WRITTEN_BY = "bccp clean"

_BY_VIEWERS = frozenset({".ds_store", ".directory", "thumbs.db", "desktop.ini"})
"""Files that a desktop leaves in a folder that somebody only looks at, in lower case."""

_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


class OwnFolder:
    """A place for a folder that is written as a whole.

    Parameters
    ----------
    out : str or Path
        The folder, which need not exist.
    option : str, default "--out"
        What named it, for messages.
    """

    def __init__(self, out: str | Path, *, option: str = "--out") -> None:
        self.place = expanded(out, option=option).resolve()
        self._shown = f"{option} {self.place}"

    def check(self) -> None:
        """Refuse a place that cannot be written, or holds anything but a folder of this kind as it was written.

        Raises
        ------
        BCCPError
        """
        out = self.place
        try:
            above = next(parent for parent in out.parents if parent.exists())
            writable = above.is_dir() and os.access(out.parent if out.parent.exists() else above, os.W_OK | os.X_OK)
            taken = out.exists() and not out.is_dir()
        except OSError as error:
            raise BCCPError(f"{self._shown} cannot be read ({error.strerror}): choose another folder") from error
        if not above.is_dir():
            raise BCCPError(f"{self._shown} cannot be made, as {above} is a file and no folder: choose another folder")
        if not writable or out == out.parent:
            raise BCCPError(f"{self._shown} cannot be made, as nothing may be written into {above}: choose another folder")
        if taken:
            raise BCCPError(f"{self._shown} is a file, and nothing is overwritten: choose another folder")
        try:  # permissions do not tell: nobody may write into /proc
            Path(tempfile.mkdtemp(prefix=f".{scratch_owner()}.", dir=above)).rmdir()
        except OSError as error:
            raise BCCPError(f"{self._shown} cannot be made in {above} ({error.strerror}): choose another folder") from error
        if change := change_in(out):
            raise self._refusal(change)

    def _refusal(self, change: str) -> BCCPError:
        return BCCPError(f"{self._shown} {change}: choose another folder, or move this one away first")

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Give an empty folder to fill, which takes the place at the block's end; an error leaves the place as it was.

        Yields
        ------
        Path

        Raises
        ------
        BCCPError
            If the place cannot be written, or somebody has changed what stands there.
        """
        out = self.place
        fresh = out.with_name(f".{out.name}.{scratch_owner()}.partial")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                self._clear_up()
            fresh.mkdir()
            yield fresh
            _write_manifest(fresh)
            with self._lock():
                self._take_place(fresh)
        except OSError as error:
            raise BCCPError(
                f"{error.filename or out} cannot be written ({error.strerror or error}): make room, or choose another folder with --out"
            ) from error
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _lock(self) -> FileLock:
        """Keep other processes of this home away from the place."""
        locks = home() / "locks"
        locks.mkdir(exist_ok=True)
        return FileLock(locks / f"out-{hashlib.sha256(os.fsencode(self.place)).hexdigest()[:16]}.lock")

    def _clear_up(self) -> None:
        """Put back or delete what killed processes have left beside the place."""
        out, begins = self.place, f".{self.place.name}."
        for left in out.parent.iterdir():
            if not re.search(r"\.(partial|aside)$", left.name) or not left.name.startswith(begins):
                continue
            if not abandoned(left.name.removeprefix(begins)):
                continue
            if left.suffix == ".aside" and not out.exists():
                left.rename(out)
            else:
                shutil.rmtree(left)

    def _take_place(self, fresh: Path) -> None:
        """Put the folder into its place; what stood there is compared when it is out of everybody's way, and put back if it was changed."""
        out = self.place
        if not out.exists() or not any(out.iterdir()):
            with suppress(FileNotFoundError):
                out.rmdir()  # some systems rename onto no folder, not even an empty one
            fresh.rename(out)
            return
        if _exchange(fresh, out):
            if change := change_in(fresh):
                _exchange(fresh, out)
                raise self._refusal(change)
            return  # what stood there is deleted where the fresh folder was
        aside = fresh.with_suffix(".aside")
        out.rename(aside)
        try:
            if change := change_in(aside):
                raise self._refusal(change)
            fresh.rename(out)
        except BaseException:
            aside.rename(out)
            raise
        shutil.rmtree(aside)


def change_in(folder: Path) -> str:
    """Say in half a sentence why a folder must not be replaced.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    str
        Empty where the folder does not exist, is empty, or holds just the files that its manifest lists.
    """
    if not folder.exists():
        return ""
    try:
        found, folders = _contents(folder)
        if not found and not folders:
            return ""
        listed = _read_manifest(folder)
        if listed is None:
            return f"is not empty, and {_WRITTEN_BY} did not write it"
        found.pop(MANIFEST, None)
        change = _first_change(found, listed)
        if not change and (more := sorted(folders - {parent for name in listed for parent in _parents(name)})):
            change = f"the folder {more[0]!r} is new"
    except OSError as error:
        return f"cannot be read ({error.filename}: {error.strerror})"
    return f"was changed since {_WRITTEN_BY} wrote it ({change})" if change else ""


def _first_change(found: dict[str, Path], listed: dict[str, dict[str, Any]]) -> str:
    if new := sorted(set(found) - set(listed)):
        return f"{new[0]!r} is new"
    if gone := sorted(set(listed) - set(found)):
        return f"{gone[0]!r} is gone"
    of_other_size = (name for name, path in found.items() if path.is_symlink() or path.stat().st_size != listed[name]["bytes"])
    of_other_bytes = (name for name, path in found.items() if file_digest(path) != listed[name]["sha256"])
    changed = next(of_other_size, None) or next(of_other_bytes, None)
    return f"{changed!r} is another file" if changed else ""


def _contents(folder: Path) -> tuple[dict[str, Path], set[str]]:
    """The files below a folder and the folders below it, by POSIX path; what a desktop leaves behind does not count."""
    files: dict[str, Path] = {}
    folders: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for place, inside, names in os.walk(folder, onerror=refuse):
        top = Path(place)
        folders |= {(top / name).relative_to(folder).as_posix() for name in inside}
        files |= {(top / name).relative_to(folder).as_posix(): top / name for name in names if name.casefold() not in _BY_VIEWERS}
    return files, folders


def _parents(name: str) -> list[str]:
    return [parent.as_posix() for parent in Path(name).parents][:-1]


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]] | None:
    """The files that a folder's manifest lists; None where there is no such manifest."""
    try:
        about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {str(name): {"bytes": int(one["bytes"]), "sha256": str(one["sha256"])} for name, one in about["files"].items()}
        return listed if about["written_by"] == _WRITTEN_BY else None
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_manifest(folder: Path) -> None:
    """List the files of a folder; equal files make an equal list."""
    files, _ = _contents(folder)
    listed = {name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for name, path in sorted(files.items())}
    text = json.dumps({"written_by": _WRITTEN_BY, "files": listed}, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap their names at one stroke; False where this system or file system cannot."""
    if os.name != "posix":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        swap = 2  # RENAME_SWAP
        failed = library.renamex_np(*names, ctypes.c_uint(swap))
    elif hasattr(library, "renameat2"):
        here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        failed = library.renameat2(here, names[0], here, names[1], ctypes.c_uint(swap))
    else:
        return False
    if failed and (number := ctypes.get_errno()) not in _UNSUPPORTED:
        raise OSError(number, os.strerror(number), str(other))
    return not failed
