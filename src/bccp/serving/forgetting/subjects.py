"""What is to be forgotten, and how it is recognised in tables, files and archives."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import html
import io
import json
import lzma
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bccp.core.digests import file_digest
from bccp.data.archives import CHUNK_BYTES, archive_kind
from bccp.data.label_tables.grids import UnreadTableError, decoded

_TABLES = frozenset({".csv", ".tsv"})
_TEXTS = _TABLES | {".html", ".htm", ".json", ".jsonl", ".log", ".md", ".svg", ".txt", ".yaml", ".yml", ""}
"""Endings of files that may name something; W&B's own files have none."""

_LARGEST_TEXT = 256 << 20
_LARGEST_CELL = 1 << 24
_USER_COLUMN = "user"
_DAMAGE = (
    OSError,
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
_DECOMPRESSORS: tuple[Callable[[Path], Any], ...] = (gzip.open, bz2.open, lzma.open)


@dataclass(frozen=True)
class Image:
    """An image file.

    Attributes
    ----------
    sha256 : str
        Of its bytes, 64 lower-case hexadecimal digits.
    """

    sha256: str

    @property
    def shown(self) -> str:
        """For people."""
        return f"the image {self.sha256[:12]}"

    def in_text(self, text: str, *, is_table: bool, foreign: bool) -> bool:
        """Whether a text has its digest."""
        return self.sha256 in text


@dataclass(frozen=True)
class User:
    """A person who labels images.

    Attributes
    ----------
    name : str
        As tables have it: the person's name, or the hash that stands for it.
    hashed : str or None
        What the service's store has instead of the name; None where there is no key, and so nothing was hashed.
    """

    name: str
    hashed: str | None

    @property
    def shown(self) -> str:
        """For people."""
        return f"the user {self.name!r}"

    @property
    def names(self) -> frozenset[str]:
        """All that stands for the user."""
        return frozenset(name for name in (self.name, self.hashed) if name)

    def in_text(self, text: str, *, is_table: bool, foreign: bool) -> bool:
        """Whether a text names the user.

        Parameters
        ----------
        text : str
        is_table : bool
            Its cells count then: those of the column ``user`` where it has one.
        foreign : bool
            Whether it is somebody else's, so that all cells of a table count, and the name in other texts. In our own texts the same word
            may be a class, or an account; only W&B's tables count among them.
        """
        if self.hashed is not None and self.hashed in text:
            return True
        if not any(spelling in text for spelling in self._spellings):
            return False
        if is_table:
            return self._in_table(text, foreign=foreign)
        return self._is_quoted(text) if foreign else self._in_wandb_table(text)

    def is_cell(self, cell: str) -> bool:
        """Whether a cell is the name, or lists it among others."""
        return cell.strip() in self.names or any(part.strip() in self.names for part in re.split("[;|]", cell))

    @property
    def _spellings(self) -> list[str]:
        """The name as text files have it: plain, and as JSON, HTML and CSV write its signs and letters."""
        spelt = (self.name, json.dumps(self.name)[1:-1], html.escape(self.name), self.name.replace('"', '""'))
        return list(dict.fromkeys(spelt))

    def _in_table(self, text: str, *, foreign: bool) -> bool:
        csv.field_size_limit(_LARGEST_CELL)
        first = text.partition("\n")[0]
        with suppress(csv.Error):
            rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff")), delimiter="\t" if "\t" in first else ","))
            header = [cell.strip().lower() for cell in rows[0]] if rows else []
            if _USER_COLUMN in header:
                return self._in_column(rows[1:], header.index(_USER_COLUMN))
            return foreign and any(self.is_cell(cell) for row in rows for cell in row)
        return False

    def _in_column(self, rows: Sequence[Sequence[Any]], column: int) -> bool:
        return any(len(row) > column and self.is_cell(str(row[column])) for row in rows)

    def _in_wandb_table(self, text: str) -> bool:
        try:
            table = json.loads(text)
        except (ValueError, RecursionError):
            return False
        columns = table.get("columns") if isinstance(table, dict) else None
        return isinstance(columns, list) and _USER_COLUMN in columns and self._in_column(table.get("data", []), columns.index(_USER_COLUMN))

    def _is_quoted(self, text: str) -> bool:
        """Whether the name stands between what separates names, in JSON, HTML or YAML: as part of a sentence it may be any word."""
        name = "|".join(map(re.escape, self._spellings))
        return re.search(rf"""(?:^|["'>;,|\[:-])\s*(?:{name})\s*(?:["'<;,|\]:]|$)""", text, flags=re.MULTILINE) is not None


Subject = Image | User


def is_text(name: str) -> bool:
    """Whether a file of this name may be text that names something."""
    return PurePosixPath(name).suffix.lower() in _TEXTS


def holds(subject: Subject, path: Path, *, foreign: bool = True) -> bool:
    """Whether a file is the subject, names it, or is an archive of such a file; a file that is gone meanwhile does not.

    Parameters
    ----------
    subject : Image or User
    path : Path
    foreign : bool, default True
        Whether it may be a table of somebody else's.
    """
    with suppress(*_DAMAGE):
        if isinstance(subject, Image) and file_digest(path) == subject.sha256:
            return True
        is_small = path.stat().st_size <= _LARGEST_TEXT
        if is_text(path.name) and is_small and _names(subject, path.name, path.read_bytes(), foreign=foreign):
            return True
        return any(True for _ in members_with(subject, path))
    return False


def members_with(subject: Subject, path: Path) -> Iterator[str]:
    """Names of an archive's members that are the subject or name it; none of what is no archive, or is damaged from there on."""
    with suppress(*_DAMAGE):
        kind = archive_kind(path)
        if kind == "zip":
            with zipfile.ZipFile(path) as archive:
                for info in archive.infolist():
                    if not info.is_dir() and _may_hold(subject, info.filename):
                        with archive.open(info) as stream:
                            if _holds_stream(subject, info.filename, stream):
                                yield info.filename
            return
        if kind == "compressed" and not tarfile.is_tarfile(path):
            if _may_hold(subject, path.stem) and any(_holds_compressed(subject, path, decompress) for decompress in _DECOMPRESSORS):
                yield path.stem
            return
        if kind is not None:
            with tarfile.open(path) as packed:
                for member in packed:
                    file = packed.extractfile(member) if member.isfile() and _may_hold(subject, member.name) else None
                    if file is not None and _holds_stream(subject, member.name, file):
                        yield member.name


def _holds_compressed(subject: Subject, path: Path, decompress: Callable[[Path], Any]) -> bool:
    with suppress(*_DAMAGE), closing(decompress(path)) as stream:
        return _holds_stream(subject, path.stem, stream)
    return False


def _may_hold(subject: Subject, name: str) -> bool:
    return isinstance(subject, Image) or is_text(name)


def _holds_stream(subject: Subject, name: str, stream: IO[bytes]) -> bool:
    found, text = hashlib.sha256(), bytearray()
    while chunk := stream.read(CHUNK_BYTES):
        found.update(chunk)
        if is_text(name) and len(text) <= _LARGEST_TEXT:
            text += chunk
    if isinstance(subject, Image) and found.hexdigest() == subject.sha256:
        return True
    return bool(text) and _names(subject, name, bytes(text), foreign=True)


def _names(subject: Subject, name: str, data: bytes, *, foreign: bool) -> bool:
    is_table = PurePosixPath(name).suffix.lower() in _TABLES
    return subject.in_text(_decoded(data), is_table=is_table, foreign=foreign)


def _decoded(data: bytes) -> str:
    """A text in UTF-8 or UTF-16, or else as old programs write it."""
    try:
        return decoded(data)
    except UnreadTableError:
        pass
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")
