"""Brings remote data to disk: from a URL, Google Drive, Kaggle, any fsspec file system, or W&B.

Downloads land in a cache. What stands there is whole: a download is written beside its place and moved there at its end, and a lock keeps
other processes away meanwhile. A copy is used again while the server says that nothing has changed.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, TypeVar

from filelock import FileLock

from bccp.core import progress
from bccp.core.digests import file_digest, folder_digest
from bccp.core.errors import BCCPError
from bccp.core.proxies import proxy_note
from bccp.core.redaction import redact_text
from bccp.core.runtime.wandb_import import import_wandb
from bccp.data.archives import CHUNK_BYTES, Listing, too_large

TIMEOUT_SECONDS = 10
"""How long a server may be silent."""

ATTEMPTS = 2

_MEGABYTE = 1_000_000

_PROXY_STATUSES = (407, 502, 503, 504)
"""Answers that a proxy may give in the place of a server."""

PAUSE_SECONDS = 1.0
"""Wait between two attempts."""

_T = TypeVar("_T")

_VERSION_KEYS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c", "generation", "version_id", "VersionId", "last_commit", "mtime",
                 "LastModified", "last_modified", "updated", "created")  # fmt: skip
"""What file systems call a file's version, best first."""


@dataclass(frozen=True)
class Slot:
    """A place in the cache for one remote thing.

    Attributes
    ----------
    data : Path
        The thing, a file or a folder: whole, or not there.
    about : Path
        JSON with its SHA-256 and what the server said of its version.
    part : Path
        An empty folder to download into.
    """

    data: Path
    about: Path
    part: Path

    def kept(self) -> dict[str, Any] | None:
        """What is known about the copy, or None where there is none or its bytes are no longer what they were."""
        if not (self.about.is_file() and self.data.exists()):
            return None
        about: dict[str, Any] = json.loads(self.about.read_text(encoding="utf-8"))
        return about if about["sha256"] == _digest(self.data) else None

    def keep(self, fresh: Path, about: Mapping[str, Any]) -> None:
        """Put a whole download into its place."""
        self.about.unlink(missing_ok=True)
        if self.data.is_dir():
            shutil.rmtree(self.data)
        else:
            self.data.unlink(missing_ok=True)
        fresh.replace(self.data)
        written = self.part / "about"
        written.write_text(json.dumps({**about, "sha256": _digest(self.data)}), encoding="utf-8")
        written.replace(self.about)


def _digest(path: Path) -> str:
    return folder_digest(path) if path.is_dir() else file_digest(path)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How to download.

    Attributes
    ----------
    shown : str
        How errors name the source.
    cache : Path
        Where downloads are kept.
    refresh : bool
        Download again, whatever the server says of its version.
    max_bytes : int
        A file of more bytes is refused, by what it declares and by what it gives.
    sha256 : str or None
        A copy in the cache with this checksum is right without asking the server.
    """

    shown: str
    cache: Path
    refresh: bool
    max_bytes: int
    sha256: str | None = None


def slot_name(key: str) -> str:
    """How the files of a key's slot are named, before their endings: 32 hex digits."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


@contextmanager
def slot(cache: Path, key: str) -> Iterator[Slot]:
    """Hold the place of one remote thing in the cache, named by a key that is not shown (a URL may hold a password)."""
    cache.mkdir(parents=True, exist_ok=True)
    place = cache / slot_name(key)
    part, lock = place.with_suffix(".part"), place.with_suffix(".lock")
    with FileLock(lock):
        lock.touch()  # tells when it was last used
        shutil.rmtree(part, ignore_errors=True)  # a killed process has left it
        part.mkdir()
        try:
            yield Slot(place, place.with_suffix(".json"), part)
        finally:
            shutil.rmtree(part, ignore_errors=True)


class _NetworkError(Exception):
    """Why a request failed, and whether another attempt may help."""

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Turn what a request of a URL can raise into one kind of error, which names the proxy that may be the cause."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        through = proxy_note(url) if error.code in _PROXY_STATUSES else ""
        raise _NetworkError(f"the server answers {error.code} {error.reason}{through}", lasting=error.code < 500) from error
    except urllib.error.URLError as error:
        raise _NetworkError(f"{error.reason}{proxy_note(url)}") from error
    except TimeoutError as error:
        raise _NetworkError(f"no answer within {TIMEOUT_SECONDS} seconds{proxy_note(url)}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _NetworkError(f"{type(error).__name__}: {error}{proxy_note(url)}") from error


def _tried(shown: str, attempt: Callable[[], _T], attempts: int = ATTEMPTS) -> _T:
    """Make a request, once more where that may help, and tell in one sentence why it failed."""
    try:
        return attempt()
    except _NetworkError as error:
        if error.lasting or attempts == 1:
            raise BCCPError(f"{shown} cannot be fetched ({error}): check the address and the network") from error
    time.sleep(PAUSE_SECONDS)
    return _tried(shown, attempt, attempts - 1)


def _request(url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> http.client.HTTPResponse:
    """Open a URL; its scheme is http or https, which the callers have seen to."""
    quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(quoted, method=method, headers={"User-Agent": "bccp", **(headers or {})})  # nosec B310
    response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)  # nosec B310
    return response


def _said(headers: Message) -> dict[str, str | None]:
    """What a server says of a file's version."""
    return {name: headers.get(name) for name in ("ETag", "Last-Modified", "Content-Length")}


def url_version(url: str, shown: str) -> str | None:
    """Ask a server for a file's version: its ETag, else its date and length; None where it tells neither.

    Raises
    ------
    BCCPError
        If it does not answer, or refuses.
    """

    def ask(method: str) -> dict[str, str | None]:
        with _network(url), _request(url, method=method) as response:
            return _said(response.headers)

    def attempt() -> dict[str, str | None]:
        try:
            return ask("HEAD")
        except _NetworkError as error:
            if not error.lasting:
                raise
            return ask("GET")  # some servers answer no HEAD; the body is not read

    said = _tried(shown, attempt)
    if said["ETag"]:
        return f"etag {said['ETag']}"
    return f"date {said['Last-Modified']} length {said['Content-Length']}" if said["Last-Modified"] else None


@contextmanager
def from_url(url: str, limits: Limits) -> Iterator[Path]:
    """Download a file over http(s), unless the copy in the cache is still right.

    Yields
    ------
    Path
        The file; no other process replaces it within the block.

    Raises
    ------
    BCCPError
        If the server does not answer, refuses, breaks off, or sends too much.
    """
    with slot(limits.cache, f"url {url}") as place:
        kept = None if limits.refresh else place.kept()
        if kept is None or kept["sha256"] != (limits.sha256 or "").lower():
            fresh = place.part / "file"
            said = _tried(limits.shown, lambda: _download(url, fresh, kept, limits))
            if said is not None:
                place.keep(fresh, said)
        yield place.data


def _download(url: str, fresh: Path, kept: Mapping[str, Any] | None, limits: Limits) -> dict[str, str | None] | None:
    """Write a URL's body to ``fresh`` and return what the server said of it; None where it is the copy that is kept."""
    conditions = {}
    if kept is not None and kept["ETag"]:
        conditions["If-None-Match"] = kept["ETag"]
    elif kept is not None and kept["Last-Modified"]:
        conditions["If-Modified-Since"] = kept["Last-Modified"]
    try:
        with _network(url):
            response = _request(url, headers=conditions)
    except _NetworkError as error:
        if conditions and isinstance(error.__cause__, urllib.error.HTTPError) and error.__cause__.code == 304:
            return None
        raise
    with response:
        said = _said(response.headers)
        if conditions and kept is not None and all(kept[name] == value for name, value in said.items()):
            return None  # the server heeds no conditions, but it is the same file
        length = int(told) if (told := said["Content-Length"] or "").isdigit() else None
        count = 0
        if length is not None and length > limits.max_bytes:
            raise too_large(limits.shown, limits.max_bytes)
        with fresh.open("wb") as stream:
            while chunk := _read(response):
                count += len(chunk)
                if count > limits.max_bytes:
                    raise too_large(limits.shown, limits.max_bytes)
                stream.write(chunk)
                if length is not None:
                    progress.show("MB downloaded", count // _MEGABYTE, length // _MEGABYTE)
    if length is not None and count != length:
        raise _NetworkError(f"the server broke off after {count} of {length} bytes")
    return said


def _read(response: http.client.HTTPResponse) -> bytes:
    with _network(response.url):
        return response.read(CHUNK_BYTES)


@contextmanager
def _library(shown: str, advice: str) -> Iterator[None]:
    """Tell in one sentence why a library could not fetch something; they raise errors of all kinds."""
    try:
        yield
    except BCCPError:
        raise
    except Exception as error:
        reason = _reason(error)
        if "proxy" in f"{type(error).__name__} {error}".lower():
            reason += proxy_note("https://server.invalid")  # which proxy the library asks, not for whom
        raise BCCPError(f"{shown} cannot be fetched ({type(error).__name__}{': ' if reason else ''}{reason}): {advice}") from error


def _reason(error: Exception) -> str:
    """An error's text in one line, short and without what URLs may hide."""
    text = re.sub(r"HTTPS?ConnectionPool\(host='([^']+)'.*", r"no connection to \1", " ".join(str(error).split()))
    return redact_text(text)[:200]


def drive_id(text: str) -> tuple[str, str | None]:
    """A Google Drive id, and whether it is a ``file`` or a ``folder`` (None: not told by its spelling).

    Raises
    ------
    BCCPError
        If the text is neither an id nor a link to a file or folder.

    Examples
    --------
    >>> drive_id("https://drive.google.com/file/d/1AbCdEfGhIjKlMn/view?usp=sharing")
    ('1AbCdEfGhIjKlMn', 'file')
    """
    for kind, pattern in (("folder", r"/folders/([-\w]{10,})"), ("file", r"/d/([-\w]{10,})"), ("file", r"[?&]id=([-\w]{10,})")):
        if "://" in text and (found := re.search(pattern, text)):
            return found[1], kind
    if re.fullmatch(r"[-\w]{10,}", text):
        return text, None
    raise BCCPError(
        f"data.path={text!r} is no Google Drive id: give the id of a file or folder, or the link that Drive's Share button copies"
    )


@contextmanager
def from_drive(text: str, limits: Limits) -> Iterator[Path]:
    """Download a file or folder that Google Drive shares with everybody who has the link.

    Drive tells no version: the copy in the cache is used again unless it is to be refreshed.

    Yields
    ------
    Path
        The file or folder.
    """
    number, kind = drive_id(text)
    with slot(limits.cache, f"gdrive {number}") as place:
        if limits.refresh or place.kept() is None:
            fresh = place.part / "drive"
            with _library(limits.shown, "share it with anyone who has the link, and check the id and the network"):
                _fetch_drive(number, kind, fresh, limits)
            place.keep(fresh, {})
        yield place.data


def _fetch_drive(number: str, kind: str | None, fresh: Path, limits: Limits) -> None:
    import gdown
    import requests

    def watch(count: int, total: int | None) -> None:
        if max(count, total or 0) > limits.max_bytes:
            raise too_large(limits.shown, limits.max_bytes)

    options: dict[str, Any] = {"quiet": True, "use_cookies": False, "timeout": TIMEOUT_SECONDS, "retries": ATTEMPTS - 1}
    if kind != "folder":
        try:
            gdown.download(id=number, output=str(fresh), progress=watch, **options)
        except BCCPError:
            raise
        except Exception as error:  # gdown wraps what the network raised
            away = (requests.ConnectionError, requests.Timeout)
            if kind == "file" or isinstance(error, away) or isinstance(error.__cause__, away):
                raise
            fresh.unlink(missing_ok=True)  # an id alone does not tell: it may be a folder's
        else:
            return
    gdown.download_folder(id=number, output=str(fresh), **options)


def names_version(handle: str) -> bool:
    """Whether a Kaggle handle names its version; what is no handle is refused."""
    found = re.fullmatch(r"[-\w.]+/[-\w.]+(/versions/[0-9]+)?", handle)
    if not found:
        raise BCCPError(f"data.path={handle!r} is no Kaggle handle: write owner/dataset, or owner/dataset/versions/3")
    return found[1] is not None


@contextmanager
def from_kaggle(handle: str, limits: Limits) -> Iterator[Path]:
    """Download a Kaggle data set into the cache, where kagglehub keeps versions apart.

    Keys are taken from the environment only, not from files in somebody's home.

    Yields
    ------
    Path
        A folder.
    """
    names_version(handle)  # refuses what is none
    advice = "check the handle and the network; private data need KAGGLE_USERNAME and KAGGLE_KEY in the environment"
    with slot(limits.cache, "kaggle") as place:  # one lock: kagglehub has none
        nobody = str(place.part)
        settings = {"KAGGLEHUB_CACHE": str(limits.cache / "kaggle"), "KAGGLEHUB_VERBOSITY": "error"}
        with _environment({**settings, "HOME": nobody, "KAGGLE_CONFIG_DIR": nobody}), _library(limits.shown, advice):
            import kagglehub

            folder = Path(kagglehub.dataset_download(handle, force_download=limits.refresh))
        yield folder


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass(frozen=True)
class Remote:
    """A place in a file system that fsspec opens.

    Attributes
    ----------
    system : fsspec.AbstractFileSystem
    root : str
        The place's path within it.
    files : dict of str to dict
        What the file system says of each file: by its path relative to ``root``, or by ``""`` where the place is a file itself.
    """

    system: Any
    root: str
    files: dict[str, dict[str, Any]]

    @property
    def local(self) -> Path | None:
        """The place as a local path, if it is one."""
        protocol = self.system.protocol
        return Path(self.root) if "file" in ((protocol,) if isinstance(protocol, str) else protocol) else None

    @property
    def version(self) -> str | None:
        """SHA-256 over what the file system says of the files' versions; None where it says nothing of one of them."""
        lines = []
        for name, info in sorted(self.files.items()):
            said = next((f"{key} {info[key]}" for key in _VERSION_KEYS if info.get(key)), None)
            if said is None:
                return None
            lines.append(f"{name}\0{info.get('size')}\0{said}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def listing(self, shown: str, max_bytes: int) -> Listing:
        """The files of a folder, to be streamed from where they are."""
        listing = Listing(shown, max_bytes)
        for name, info in self.files.items():
            if ".." in name.split("/"):
                raise BCCPError(f"{shown} holds a file whose path leads out of it, {name!r}: rename it")
            size = info.get("size")
            if size is None:
                raise BCCPError(f"{shown}: the file system tells no size of {name!r}: give an archive instead of a folder")
            listing.add(name, size, lambda path=info["name"]: self.system.open(path, "rb"))  # type: ignore[misc]
        return listing


def open_remote(url: str, shown: str) -> Remote:
    """Look at a file or folder through fsspec.

    Raises
    ------
    BCCPError
        If the protocol is unknown, its package or key is missing, or nothing is there.
    """
    advice = "check the URL, the network and the environment's keys, and install the package of its protocol"
    with _library(shown, advice):
        import fsspec

        system, root = fsspec.core.url_to_fs(url)
        system.invalidate_cache()
        info = system.info(root)
        if info["type"] == "file":
            return Remote(system, root, {"": info})
        prefix = root.rstrip("/") + "/"
        found = system.find(root, detail=True)
        return Remote(system, root, {path.removeprefix(prefix): about for path, about in found.items() if not path.endswith("/")})


@contextmanager
def from_fsspec(url: str, limits: Limits) -> Iterator[Path]:
    """Copy a file from an fsspec file system into the cache, unless the copy there has the same version.

    Yields
    ------
    Path
        The file.
    """
    remote = open_remote(url, limits.shown)
    with slot(limits.cache, f"fsspec {url}") as place:
        kept = None if limits.refresh else place.kept()
        if kept is None or remote.version is None or kept["version"] != remote.version:
            fresh = place.part / "file"
            with _library(limits.shown, "check the network and try again"), remote.system.open(remote.root, "rb") as source:
                _copy(source, fresh, limits)
            place.keep(fresh, {"version": remote.version})
        yield place.data


def _copy(source: IO[bytes], fresh: Path, limits: Limits) -> None:
    count = 0
    with fresh.open("wb") as copy:
        while chunk := source.read(CHUNK_BYTES):
            count += len(chunk)
            if count > limits.max_bytes:
                raise too_large(limits.shown, limits.max_bytes)
            copy.write(chunk)


def from_wandb(reference: str, folder: Path) -> Path:
    """Download ``entity/project/name:alias`` from W&B into a folder."""
    with _library(f"data.path={reference}", "check the name and the network, and log in to W&B or set WANDB_API_KEY"):
        return Path(_wandb_artifact(reference).download(root=str(folder)))


def wandb_version(reference: str) -> str:
    """The digest that W&B has for an artifact's version."""
    with _library(f"data.path={reference}", "check the name and the network, and log in to W&B or set WANDB_API_KEY"):
        return str(_wandb_artifact(reference).digest)


def _wandb_artifact(reference: str) -> Any:
    return import_wandb().Api(timeout=TIMEOUT_SECONDS).artifact(reference)
