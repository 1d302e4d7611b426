"""Brings images from a source and packs them into one archive of known bytes.

Whatever the source is (a folder, an archive, a cloud), it becomes a list of files, which are streamed one by one, in the order of their
names, into ``images.zip``: uncompressed, with one date and one permission, so that equal images are equal bytes wherever they came from.
An image's id is its path in the source, below the wrapper folders (:func:`bccp.data.archives.strip_wrappers`). Nothing that was fetched is
run.
"""

from __future__ import annotations

import hashlib
import io
import re
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bccp.core import progress, user_code
from bccp.core.digests import digest_once, file_digest
from bccp.core.errors import BCCPError, few, nearest
from bccp.core.home import scratch
from bccp.core.paths import expanded, where_relative
from bccp.core.redaction import redact_url
from bccp.core.registries import SOURCES
from bccp.data import archives, downloads
from bccp.data.archives import File, Listing
from bccp.data.layout import day_name

if TYPE_CHECKING:
    import pandas as pd

    from bccp.core.config_schema import Data

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold

_LOCAL = ("archive ", "folder ")
"""How fingerprints of what lies on this machine begin."""

_TRUSTED, _NEW = "monday/", "tuesday/"
""":data:`bccp.data.layout.DAYS` as folders."""


@dataclass(frozen=True)
class Fetched:
    """What was packed.

    Attributes
    ----------
    files : DataFrame
        One row a file, sorted by ``image``: ``image`` (its id), ``bytes``, ``sha256`` (64 hex digits).
    left_out : dict of str to int
        Hidden files, and files of a system, that were not taken: how many, by the part of their names that tells them.
    """

    files: pd.DataFrame
    left_out: Mapping[str, int]


def fetch(
    data: Data,
    archive: Path,
    *,
    cache: Path,
    fetch_ledger: Callable[[str], Path],
    fetch_wandb: Callable[[str, Path], Path] = downloads.from_wandb,
) -> Fetched:
    """Bring a source's files and pack them.

    Parameters
    ----------
    data : Data
        The section ``data`` of the configuration. ``data.sha256`` is the checksum of the archive's bytes, compared before anything in it is
        read; where the source is a folder it is that of its files (:func:`files_digest`), known only after they were read.
    archive : Path
        The zip file to make.
    cache : Path
        A folder for downloads, kept from run to run.
    fetch_ledger : callable
        Gives the folder of an artifact ``name:digest`` of the ledger.
    fetch_wandb : callable
        Downloads an artifact ``entity/project/name:alias`` of W&B into a folder and gives its path.

    Returns
    -------
    Fetched

    Raises
    ------
    BCCPError
        If there is nothing to fetch, it cannot be fetched or read, is unsafe, or has another checksum. The zip file is then of no use.
    """
    cache.mkdir(parents=True, exist_ok=True)
    to = FetchContext(cache, fetch_ledger, fetch_wandb)
    with source(data).bring(to) as brought, _opened(brought, data, cache) as (listing, verified):
        files = listing.finished(data.subfolder)
        empty = listing.empty_folders(files)
        if data.trusted:
            files, empty = beside_trusted(files, Path(data.trusted), data.max_bytes), []
        table = pack(files, archive, shown=listing.shown, empty_folders=empty)
    if data.sha256 and not verified:
        own = table[table["image"].str.startswith(_NEW)] if data.trusted else table
        names = own["image"].str.removeprefix(_NEW) if data.trusted else own["image"]
        _verify(files_digest(names.tolist(), own["sha256"].tolist()), data.sha256, listing.shown)
    return Fetched(table, dict(listing.left_out_names.most_common()))


def beside_trusted(files: Sequence[File], trusted: Path, max_bytes: int) -> list[File]:
    """Put the images of a folder whose labels are right under ``monday/``, and all others under ``tuesday/``.

    Parameters
    ----------
    files : sequence of File
        Of a source; those that lie in ``trusted`` themselves are taken for trusted only.
    trusted : Path
    max_bytes : int
        What the trusted ones may sum up to.

    Returns
    -------
    list of File
        Sorted by name.

    Raises
    ------
    BCCPError
        If the folder cannot be read, nothing is left beside it, or the source has days of its own.
    """
    shown = f"data.trusted={trusted}"
    root = trusted.resolve()
    if not root.is_dir():
        raise missing(trusted, shown, "a folder of class folders") if not root.exists() else BCCPError(f"{shown} is a file: give a folder")
    others = [file for file in files if file.path is None or not file.path.resolve().is_relative_to(root)]
    if not others:
        raise BCCPError(f"{shown} holds all images there are, so that no label is left to judge: give a folder of trusted images only")
    if days := sorted({top for file in others if day_name(top := file.name.partition("/")[0])}):
        raise BCCPError(f"{shown} is one too many, as the data has days of its own ({few(days)}): leave data.trusted out")
    right = archives.list_folder(root, shown, max_bytes).finished()
    return [
        *(replace(file, name=f"{_TRUSTED}{file.name}") for file in right),
        *(replace(file, name=f"{_NEW}{file.name}") for file in others),
    ]


def refuse_change(data: Data, fingerprint: str) -> None:
    """Refuse local data that were changed while they were read, and so are neither what they were nor what they have become.

    Parameters
    ----------
    data : Data
    fingerprint : str
        Of :func:`source_fingerprint`, before anything was read.

    Raises
    ------
    BCCPError
    """
    if fingerprint.startswith(_LOCAL) and source_fingerprint(data) != fingerprint:
        raise BCCPError(f"{_shown(data)} was changed while it was read: run again once nothing writes to it any more")


def pack(files: Sequence[File], archive: Path, *, shown: str, empty_folders: Sequence[str] = ()) -> pd.DataFrame:
    """Stream files into a zip file whose bytes depend on their names and contents only.

    Parameters
    ----------
    files : sequence of File
        In the order in which they are to stand.
    archive : Path
        The zip file to make.
    shown : str
        How errors name the source.
    empty_folders : sequence of str
        Folders that get an entry of their own, for they may be classes without an image.

    Returns
    -------
    DataFrame
        Columns ``image, bytes, sha256``, in the order of ``files``.
    """
    import pandas as pd  # not at the top: to tell a source's fingerprint needs none of it

    rows: list[tuple[str, int, str]] = []
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for number, file in enumerate(files, start=1):
            progress.show("files copied", number, len(files))
            entry = zipfile.ZipInfo(file.name, _DATE)
            entry.create_system = 3  # Unix, also where it is made on another system
            entry.external_attr = 0o100644 << 16
            entry.file_size = file.size  # over 2 GB it decides on the format of the entry
            digest = hashlib.sha256()
            with packed.open(entry, "w") as target:
                for chunk in archives.read_chunks(file, shown):
                    digest.update(chunk)
                    target.write(chunk)
            rows.append((file.name, file.size, digest.hexdigest()))
        for folder in empty_folders:
            entry = zipfile.ZipInfo(f"{folder}/", _DATE)
            entry.create_system, entry.external_attr = 3, 0o40755 << 16 | 0x10
            packed.writestr(entry, b"")
    return pd.DataFrame(rows, columns=["image", "bytes", "sha256"])


def files_digest(names: Sequence[str], digests: Sequence[str]) -> str:
    r"""The checksum of a folder: SHA-256 over the lines ``name\0sha256\n`` of its files, sorted by name; 64 hex digits.

    Names are image ids, as ``files.csv`` lists them.
    """
    lines = (f"{name}\0{digest}\n" for name, digest in sorted(zip(names, digests, strict=True)))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def digits(max_bytes: int) -> Listing:
    """The 1,797 handwritten digits that come with scikit-learn, as PNG files of 8 x 8 grey pixels, ``<digit>/digit_<number>.png``.

    References
    ----------
    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    bunch = load_digits()
    listing = Listing("data.source=digits", max_bytes)
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8), stored as 0..16
    for number, (pixels, digit) in enumerate(zip(grey, bunch.target, strict=True)):
        picture = io.BytesIO()
        Image.fromarray(pixels).save(picture, "PNG", compress_level=0)  # stored: the same bytes whichever zlib is installed
        content = picture.getvalue()
        listing.add(f"{digit}/digit_{number:04d}.png", len(content), lambda content=content: io.BytesIO(content))  # type: ignore[misc]
    return listing


def source_fingerprint(data: Data) -> str:
    """What a source holds, in few characters, for the key of the step: equal fingerprints, equal images.

    Local data count by their content. Remote data count by ``data.sha256``, else by what the server tells of their version, else by their
    address alone; then ``data.refresh`` makes each fingerprint a new one.

    Parameters
    ----------
    data : Data
        The section ``data`` of the configuration.

    Returns
    -------
    str
        Holds neither a URL nor a key.

    Raises
    ------
    BCCPError
        If a local source is not there or cannot be read, or a server does not answer.
    """
    found = source(data).fingerprint()
    if data.trusted:
        root = Path(data.trusted)
        if not root.is_dir():
            raise missing(root, f"data.trusted={root}", "a folder of class folders")
        found += f" beside {_folder_digest(root, replace(data, path=data.trusted))}"
    return found


def source(data: Data) -> Source:
    """The source that a section of the configuration names."""
    kind = SOURCES.find(data.source)
    made: Source = kind(data) if data.source in SOURCES else _Own(data, kind)
    return made


@dataclass(frozen=True)
class FetchContext:
    """Where a source brings its images, and whom it may ask.

    Attributes
    ----------
    cache : Path
        A folder for downloads, kept from run to run.
    fetch_ledger, fetch_wandb : callable
        See :func:`fetch`.
    """

    cache: Path
    fetch_ledger: Callable[[str], Path]
    fetch_wandb: Callable[[str, Path], Path]


class Source(Protocol):
    """A place that images come from, made from the section ``data`` of the configuration."""

    def __init__(self, data: Data) -> None: ...

    def fingerprint(self) -> str:
        """What it holds, in few characters: see :func:`source_fingerprint`."""
        ...

    def bring(self, to: FetchContext) -> AbstractContextManager[Path | Listing]:
        """Give the images as a file or folder of this machine, or as a list of files that are read where they are, within the block."""
        ...


class Digits:
    """The digits of scikit-learn (:func:`digits`)."""

    def __init__(self, data: Data) -> None:
        self.data = data
        if data.path:
            raise BCCPError(
                f"data.source=digits takes no data.path={data.path}: set data.source to folder, archive, … or leave the path out"
            )

    def fingerprint(self) -> str:
        """By the release that brings them."""
        return f"digits of scikit-learn {metadata.version('scikit-learn')}"

    @contextmanager
    def bring(self, to: FetchContext) -> Iterator[Listing]:
        """Drawn on the fly."""
        yield digits(self.data.max_bytes)


class _Placed:
    """A source that ``data.path`` places; its subclasses say what differs."""

    def __init__(self, data: Data) -> None:
        if not data.path:
            raise BCCPError(f"data.source={data.source} needs data.path: say where the images are")
        self.data, self.place, self.shown = data, data.path, _shown(data)

    def local(self) -> Path | None:
        """The file or folder on this machine, looked at; None where the source is elsewhere."""
        return None

    def version(self) -> str | None:
        """What can be told of a remote source's version; None: nothing."""
        return None

    def address(self) -> str:
        """The place in one spelling."""
        return self.place

    def download(self, limits: downloads.Limits) -> AbstractContextManager[Path]:
        """Bring a remote source to this machine."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Of local data by their content, of remote ones by checksum, version or address."""
        if (local := self.local()) is not None:
            return f"{_LOCAL[0]}{file_digest(local)}" if local.is_file() else f"{_LOCAL[1]}{_folder_digest(local, self.data)}"
        if self.data.sha256:
            return f"sha256 {self.data.sha256.lower()}"
        version, address = self.version(), self.address()
        if version is None:
            version = f"unversioned {uuid.uuid4().hex}" if self.data.refresh else "unversioned"
        return f"{self.data.source} {hashlib.sha256(address.encode()).hexdigest()[:16]} {version}"

    @contextmanager
    def bring(self, to: FetchContext) -> Iterator[Path | Listing]:
        """As it lies here, or downloaded."""
        if (local := self.local()) is not None:
            yield local
            return
        data = self.data
        limits = downloads.Limits(shown=self.shown, cache=to.cache, refresh=data.refresh, max_bytes=data.max_bytes, sha256=data.sha256)
        with self.download(limits) as path:
            yield path


class Folder(_Placed):
    """A folder of this machine."""

    def local(self) -> Path:
        """Refused where it is a file, or holds nothing but an archive."""
        path = _existing(self.place, self.shown, "a folder")
        if not path.is_dir():
            raise BCCPError(f"{self.shown} is a file: set data.source=archive if it is a zip or tar file, or give a folder")
        if inside := sole_archive(path):
            raise BCCPError(f"{self.shown} holds nothing but the archive {inside.name!r}: set data.source=archive data.path={inside}")
        return path


class Archive(_Placed):
    """A zip or tar file, of this machine or behind a URL."""

    def local(self) -> Path | None:
        """Refused where it is a folder."""
        if _is_url(self.place):
            return None
        path = _existing(self.place, self.shown, "an archive")
        if path.is_dir():
            raise BCCPError(f"{self.shown} is a folder: set data.source=folder, or give a zip or tar file")
        return path

    def version(self) -> str | None:
        """As the server tells it."""
        return downloads.url_version(self.place, self.shown)

    def download(self, limits: downloads.Limits) -> AbstractContextManager[Path]:
        """From its URL."""
        return downloads.from_url(self.place, limits)


class Drive(_Placed):
    """A file that is shared on Google Drive."""

    def address(self) -> str:
        """Its id."""
        return downloads.drive_id(self.place)[0]

    def download(self, limits: downloads.Limits) -> AbstractContextManager[Path]:
        """From Google Drive."""
        return downloads.from_drive(self.place, limits)


class Kaggle(_Placed):
    """A data set of Kaggle."""

    def version(self) -> str | None:
        """Only a handle can name it."""
        return "in the handle" if downloads.names_version(self.place) else None

    def download(self, limits: downloads.Limits) -> AbstractContextManager[Path]:
        """By kagglehub."""
        return downloads.from_kaggle(self.place, limits)


class Fsspec(_Placed):
    """A file or folder of any file system that fsspec reads."""

    def local(self) -> Path | None:
        """Where it is one of this machine."""
        return downloads.open_remote(self.place, self.shown).local if re.match(r"(file|local)://|/", self.place) else None

    def version(self) -> str | None:
        """As the file system tells it."""
        return downloads.open_remote(self.place, self.shown).version

    def download(self, limits: downloads.Limits) -> AbstractContextManager[Path]:
        """A single file."""
        return downloads.from_fsspec(self.place, limits)

    @contextmanager
    def bring(self, to: FetchContext) -> Iterator[Path | Listing]:
        """Read a remote folder from where it is."""
        if self.local() is None and "" not in (remote := downloads.open_remote(self.place, self.shown)).files:
            yield remote.listing(self.shown, self.data.max_bytes)
            return
        with super().bring(to) as brought:
            yield brought


class Artifact(_Placed):
    """A version of ``raw_data`` or of another artifact, of this machine's ledger or of W&B."""

    def fingerprint(self) -> str:
        """Of the ledger: its version, which is its digest."""
        return super().fingerprint() if "/" in self.place else f"artifact {self.place}"

    def version(self) -> str | None:
        """In its name, or as W&B tells it."""
        fixed = re.search(r":(v[0-9]+|d-[0-9a-f]{12})$", self.place)
        return fixed[1] if fixed else downloads.wandb_version(self.place)

    @contextmanager
    def bring(self, to: FetchContext) -> Iterator[Path]:
        """From the ledger, or from W&B where the place names an entity or project."""
        if "/" not in self.place:
            yield to.fetch_ledger(self.place)
            return
        with scratch("download") as folder:
            yield to.fetch_wandb(self.place, folder)


class _Own:
    """A user's own source, by a class of theirs that is made from the section ``data``.

    Its method ``fingerprint()`` tells as text what the source holds; ``fetch(folder)`` puts the images into the empty folder, a folder a
    class, or returns the folder or archive that has them.
    """

    def __init__(self, data: Data, kind: Callable[[Data], Any]) -> None:
        self.name = data.source
        self.own = self._call("it cannot be made", kind, data)

    def _call(self, what: str, function: Callable[..., Any], *given: Any) -> Any:
        try:
            return function(*given)
        except BCCPError:
            raise
        except Exception as error:
            raise BCCPError(
                f"data.source={self.name}: {what} ({user_code.describe_error(error)}): give a class that is made from the section data, "
                "with the methods fingerprint() and fetch(folder)"
            ) from error

    def fingerprint(self) -> str:
        """What its own method says."""
        return f"{self.name} {self._call('fingerprint fails', lambda: self.own.fingerprint())}"

    @contextmanager
    def bring(self, to: FetchContext) -> Iterator[Path]:
        """What its own method fetches."""
        with scratch("download") as folder:
            place = self._call("fetch fails", lambda: self.own.fetch(folder))
            yield folder if place is None else Path(place)


def _folder_digest(folder: Path, data: Data) -> str:
    listing = archives.list_folder(folder, _shown(data), data.max_bytes)
    files = listing.finished()

    def read(file: File) -> str:
        digest = hashlib.sha256()
        for chunk in archives.read_chunks(file, _shown(data)):
            digest.update(chunk)
        return digest.hexdigest()

    digests = [digest_once(file.path, partial(read, file)) if file.path else read(file) for file in files]
    empty = [f"{name}/" for name in listing.empty_folders(files)]
    return files_digest([*(file.name for file in files), *empty], [*digests, *empty])


def _shown(data: Data) -> str:
    """How errors name the source."""
    place = data.path
    return f"data.path={redact_url(place) if '://' in place else place}" if place else f"data.source={data.source}"


def _is_url(place: str) -> bool:
    return place.lower().startswith(("http://", "https://"))


def _existing(place: str, shown: str, wanted: str) -> Path:
    if "://" in place:
        raise BCCPError(f"{shown} is a URL: set data.source={'archive' if _is_url(place) else 'fsspec'}")
    path = expanded(place, option="data.path")
    if not path.exists():
        raise missing(path, shown, wanted)
    return path


def missing(path: Path, shown: str, wanted: str) -> BCCPError:
    """The refusal of what is not there, with what looks like it."""
    siblings = [sibling.name for sibling in path.parent.iterdir()] if path.parent.is_dir() else []
    base = "" if "://" in shown else where_relative(path)  # a URL is relative to nothing
    return BCCPError(f"{shown} does not exist{nearest(path.name, siblings)}{base}: give {wanted} that does")


def sole_archive(folder: Path) -> Path | None:
    """The archive in a folder that holds nothing else, if that is so; of a ``raw_data`` it is that of the images."""
    if (folder / "files.csv").is_file() and (folder / "images.zip").is_file():
        return folder / "images.zip"
    inside = [path for path in folder.iterdir() if not archives.is_hidden(path.name)]
    return inside[0] if len(inside) == 1 and inside[0].is_file() and archives.archive_kind(inside[0]) else None


@contextmanager
def _opened(brought: Path | Listing, data: Data, cache: Path) -> Iterator[tuple[Listing, bool]]:
    """List what was brought, for reading within the block; and whether its checksum has been compared."""
    if isinstance(brought, Listing):
        yield brought, False
        return
    archive = brought if brought.is_file() else sole_archive(brought)
    if archive is None:
        yield archives.list_folder(brought, _shown(data), data.max_bytes), False
        return
    if data.sha256:
        _verify(file_digest(archive), data.sha256, _shown(data))
    with archives.open_archive(archive, _shown(data), data.max_bytes, scratch=cache, zip_encoding=data.zip_encoding) as listing:
        yield listing, True


def _verify(found: str, wanted: str, shown: str) -> None:
    if found != wanted.lower():
        raise BCCPError(f"{shown} has the SHA-256 checksum {found}, not data.sha256={wanted.lower()}: correct one of them")
