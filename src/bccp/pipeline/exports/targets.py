"""Where ``bccp export-data`` writes: a local folder, which appears when it is whole, or a URL of any file system that fsspec opens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from bccp.core.errors import BCCPError, MissingExtraError
from bccp.core.home import abandoned, scratch_owner
from bccp.core.paths import expanded
from bccp.core.redaction import first_line, redact_url
from bccp.core.runtime import extras


class Sink(Protocol):
    """A file that is written from its beginning to its end."""

    def write(self, part: bytes, /) -> object:
        """Append to it."""


class Target(Protocol):
    """A place for files.

    Attributes
    ----------
    shown : str
        The place, for the user.
    """

    shown: str

    def check_free(self) -> None:
        """Refuse a place that holds something.

        Raises
        ------
        BCCPError
        """

    def writing(self) -> AbstractContextManager[None]:
        """Take files within the block; what was written goes when an error ends it."""

    def create(self, name: str) -> AbstractContextManager[Sink]:
        """Make a file by its path within the place."""

    def put_list(self, name: str, content: bytes) -> None:
        """Write the list of all files, at once, after them."""

    def path(self, name: str) -> str:
        """A file's path, for the user."""


def find(out: str) -> Target:
    """Open a target.

    Parameters
    ----------
    out : str
        A local path, or a URL; ``file://`` is local too.

    Raises
    ------
    BCCPError
        If the URL's protocol is unknown, or the package that it needs is missing.
    """
    if not re.match(r"[\w+.:-]+://", out):
        return LocalTarget(Path(out))
    with _in_one_sentence(redact_url(out)):
        import fsspec

        try:
            system, root = fsspec.core.url_to_fs(out)
        except ImportError as error:
            module = getattr(error.__cause__ or error, "name", None) or out.partition(":")[0]
            package = extras.distribution(module.partition(".")[0])
            sentence = f"OUT={redact_url(out)} needs the package {package}, which is not installed: pip install {package}"
            raise MissingExtraError(sentence) from error
    if "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol):
        return LocalTarget(Path(root))
    return RemoteTarget(system, root, redact_url(out))


class LocalTarget:
    """A folder that takes its place when it is whole.

    Parameters
    ----------
    out : Path
    """

    def __init__(self, out: Path) -> None:
        self.out = expanded(out, option="OUT").resolve()
        self.shown = str(self.out)
        self._partial = self.out.with_name(f".{self.out.name}.{scratch_owner()}.partial")

    def check_free(self) -> None:
        """Refuse a file, and a folder that holds something or cannot be made."""
        out = self.out
        try:
            taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
            above = next(parent for parent in out.parents if parent.exists())
            above_is_folder = above.is_dir()
        except OSError as error:
            raise BCCPError(f"OUT={out} cannot be read ({error.strerror}): choose another folder") from error
        if taken:
            raise BCCPError(f"OUT={out} is not an empty folder, and nothing is overwritten: choose another, or delete it first")
        if not above_is_folder:
            raise BCCPError(f"OUT={out} cannot be made, as {above} is a file and no folder: choose another folder")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write into a folder beside the place, which is renamed at the end, or deleted."""
        self.check_free()
        out = self.out
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            for stale in out.parent.glob(f".{_literal(out.name)}.*.partial"):  # of a process that was killed
                if abandoned(stale.name.removeprefix(f".{out.name}.")):
                    shutil.rmtree(stale)
            self._partial.mkdir()
            yield
            self._partial.replace(out)
        except OSError as error:
            raise BCCPError(
                f"{error.filename or out} cannot be written ({error.strerror or error}): make room, or choose another folder with OUT="
            ) from error
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    @contextmanager
    def create(self, name: str) -> Iterator[Sink]:
        """Make a file, and the folders above it."""
        place = self._partial / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("xb") as sink:
            yield sink

    def put_list(self, name: str, content: bytes) -> None:
        """Write a file."""
        (self._partial / name).write_bytes(content)

    def path(self, name: str) -> str:
        """A file's path once the folder has its name."""
        return str(self.out / name)


class RemoteTarget:
    """A place in a file system that fsspec opens; nothing is renamed there, so the list, which comes last, says that all is whole.

    Parameters
    ----------
    system : fsspec.AbstractFileSystem
    root : str
        The place's path within it.
    shown : str
        The URL without its secrets.
    """

    def __init__(self, system: Any, root: str, shown: str) -> None:
        self.system, self.root, self.shown = system, root.rstrip("/"), shown.rstrip("/")
        self._begun: list[str] = []

    def check_free(self) -> None:
        """Refuse a file, and a folder that holds something."""
        with _in_one_sentence(self.shown):
            self.system.invalidate_cache()
            try:
                found = self.system.ls(self.root, detail=True)
            except FileNotFoundError:
                found = []
        own = self.root.strip("/")  # stores of objects list an empty folder's own mark
        if any(one["name"].strip("/") != own or (one["type"] == "file" and not one["name"].endswith("/")) for one in found):
            raise BCCPError(f"OUT={self.shown} is not an empty folder, and nothing is overwritten: choose another, or delete it first")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Delete the files, as far as that is possible, where an error ends the block."""
        self.check_free()
        try:
            yield
        except BaseException:
            with suppress(Exception):  # whatever it was that failed may fail here too; without a list nothing passes for whole
                for place in reversed(self._begun):
                    with suppress(FileNotFoundError):
                        self.system.rm_file(place)
            raise

    @contextmanager
    def create(self, name: str) -> Iterator[Sink]:
        """Send a file."""
        place = f"{self.root}/{name}"
        with _in_one_sentence(self.shown):
            try:
                stream = self.system.open(place, "wb")
            except FileNotFoundError:  # a system with folders; one with buckets only is not asked to make any
                self.system.makedirs(place.rpartition("/")[0], exist_ok=True)
                stream = self.system.open(place, "wb")
        self._begun.append(place)
        try:
            yield _Sending(stream, self.shown)
        except BaseException:
            with suppress(Exception):  # it is deleted anyway
                stream.close()
            raise
        with _in_one_sentence(self.shown):
            stream.close()

    def put_list(self, name: str, content: bytes) -> None:
        """Send a file in one request."""
        place = f"{self.root}/{name}"
        self._begun.append(place)
        with _in_one_sentence(self.shown):
            self.system.pipe_file(place, content)

    def path(self, name: str) -> str:
        """A file's URL."""
        return f"{self.shown}/{name}"


class _Sending:
    """A file far away; only what it does itself is put down to it."""

    def __init__(self, stream: Any, shown: str) -> None:
        self._stream, self._shown = stream, shown

    def write(self, part: bytes) -> None:
        with _in_one_sentence(self._shown):
            self._stream.write(part)


@contextmanager
def _in_one_sentence(shown: str) -> Iterator[None]:
    """Tell why a file system failed; they raise errors of all kinds."""
    try:
        yield
    except BCCPError:
        raise
    except Exception as error:
        kind, reason = type(error).__name__, first_line(error)
        said = kind if reason == kind else f"{kind}: {reason}"
        raise BCCPError(f"OUT={shown} cannot be written ({said}): check the URL, the network and the environment's keys") from error


def _literal(name: str) -> str:
    """A name as a pattern for itself."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
