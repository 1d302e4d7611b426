"""What a folder or an archive holds: a list of files to stream, made without unpacking anything and without trusting a name or a size.

No member of an archive is ever written under its own name, so none can escape; names that try to are refused all the same, and so are links
and devices. Archives that unpack to more than is allowed, by what they declare or by what they give, are refused, and so are those whose
ratio is that of a decompression bomb.
"""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import lzma
import math
import os
import re
import stat
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from bccp.core.errors import BCCPError, nearest
from bccp.data.layout import IMAGE_SUFFIXES, day_name

CHUNK_BYTES = 1 << 20

MAX_FILES = 2_000_000
"""More files than this in one source are refused: their index alone would fill the memory."""

MAX_RATIO = 500
"""Unpacked : packed size of an archive from which it is taken for a bomb. Deflate reaches 1,032, and images hardly 50."""

RATIO_FREE_BYTES = 100_000_000
"""Archives that unpack to less than this may have any ratio."""

_MAX_HEADER_BYTES = 64 << 20  # a tar's extended header is read in one piece: no true one is as large as this

_SYSTEM_FOLDERS = frozenset(
    {
        "__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder",  # macOS
        "$recycle.bin", "$winreagent", "system volume information", "found.000",  # Windows
        "lost+found", "lost.dir", "__pycache__",
        "@eadir", "@tmp", "@sharebin", "@synoeastream", "#recycle", "#snapshot",  # Synology
        "@__thumb", "@recycle", "@recently-snapshot", "@transcode", "~snapshot",  # QNAP, NetApp
    }
)  # fmt: skip
"""Folders that systems and file servers make, in lower case, beside those that begin with a dot."""

_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"})

CODE_PAGES = ("cp932", "gbk", "big5", "cp949", "cp866", "cp1251", "cp1252", "cp850", "cp1250", "cp852")
"""Code pages in which programs write the names in zip files."""

_WIDER = {"shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "big5": "cp950", "euc_kr": "cp949"}
"""What programs write of which people name the standard."""

_COMMON_ROWS = {"gbk": (0xB0, 0xD7, 3755, 20_000), "big5": (0xA4, 0xC6, 5401, 7652), "cp949": (0xB0, 0xC8, 6700, 6000)}
"""First and last lead byte of the common characters, how many these are, and how many others there are."""

_HANGUL = (
    "이다는을가에의하고한지도로기사자인대리나어시은정보수스과아일서제주해전장부원상조비구동유진화성만여위무선미안신강경우계생방라양드트마오"
    "그할세공소실적개물품불새폴더파란빨노검흰고양강꽃나무"
)
"""The commonest syllables of Korean, which tell it from Chinese in the same bytes."""

_WESTERN, _CENTRAL = "àáâãäåæçèéêëìíîïñòóôõöøùúûüß", "ąáâäćčçďđęěéëíîłľńňóôöőřśšşťţúůüűýźżžß"
_LATIN = {"cp1252": _WESTERN, "cp850": _WESTERN, "cp1250": _CENTRAL, "cp852": _CENTRAL}
"""The lower-case letters beyond ASCII of the languages that a code page is used for."""

_TYPOGRAPHY = "\u2013\u2014\u2018\u2019\u201c\u201d\u2026\u00b0\u00b2\u00b3\u20ac"

_PRIOR = {"gbk": 0.5, "cp1252": 1.5, "cp850": 1.5}
"""What decides between code pages in which names are as likely."""

_LATIN_SHARE = 0.1
"""Of the letters of such languages, those that are not ASCII."""

_DAMAGE = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError, OverflowError, NotImplementedError)

_COMPRESSED: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


@dataclass(frozen=True)
class File:
    """A file of a source.

    Attributes
    ----------
    name : str
        POSIX path relative to the source's root.
    size : int
        Bytes, as the source declares them.
    open : callable
        Opens it for reading.
    path : Path or None
        Where it lies, if it is a file by itself on this machine.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    path: Path | None = None


class Listing:
    """The files of a source, collected under the limits that hold for every source.

    Parameters
    ----------
    shown : str
        How errors name the source.
    max_bytes : int
        What the files may sum up to.

    Attributes
    ----------
    files : list of File
    left_out_names : Counter of str
        For each part of their names for which they were left out (:func:`hidden_part`), how many.
    folders : set of str
        All folders but hidden ones and a system's.
    """

    def __init__(self, shown: str, max_bytes: int) -> None:
        self.shown = shown
        self.max_bytes = max_bytes
        self.files: list[File] = []
        self.left_out_names: Counter[str] = Counter()
        self.folders: set[str] = set()
        self._total = 0

    @property
    def left_out(self) -> int:
        """Number of files that were left out."""
        return self.left_out_names.total()

    def add(self, name: str, size: int, opener: Callable[[], IO[bytes]], path: Path | None = None) -> None:
        """Take a file, or count it as left out.

        Raises
        ------
        BCCPError
            If its name cannot be written to a table, or there are too many files or bytes.
        """
        if len(self.files) + self.left_out == MAX_FILES:
            raise BCCPError(f"{self.shown} holds more than {MAX_FILES:,} files: give at most so many")
        if hidden := hidden_part(name):
            self.left_out_names[hidden] += 1
            return
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name):
            raise BCCPError(f"{self.shown} holds a file named {name!r}: rename it without control characters, in UTF-8")
        self.files.append(File(name, size, opener, path))
        self._total += size
        if self._total > self.max_bytes:
            raise too_large(self.shown, self.max_bytes)

    def add_folder(self, name: str) -> None:
        """Take note of a folder, which may turn out to be empty."""
        if name and not is_hidden(name) and not re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name):
            self.folders.add(name)

    def empty_folders(self, files: Sequence[File]) -> list[str]:
        """The folders without a file in them, below the wrapper folders that :meth:`finished` has stripped from ``files``, sorted."""
        filled = {parent for file in self.files for parent in itertools.accumulate(file.name.split("/")[:-1], "{}/{}".format)}
        whole = min((file.name for file in self.files if file.name.endswith(files[0].name)), key=len)
        top = whole.removesuffix(files[0].name)
        return sorted(name.removeprefix(top) for name in self.folders - filled if name.startswith(top) and name != top)

    def finished(self, subfolder: str | None = None) -> list[File]:
        """The files with wrapper folders stripped, sorted by name.

        Parameters
        ----------
        subfolder : str, optional
            POSIX path of a folder of the source; what lies outside does not count.

        Raises
        ------
        BCCPError
            If there are none, or two have one name.
        """
        if not self.files:
            hidden = f" (but {self.left_out} hidden or of a system)" if self.left_out else ""
            raise BCCPError(f"{self.shown} holds no files{hidden}: say where there are images")
        top = f"{subfolder.strip('/')}/" if subfolder else ""
        depth, wanted = top.count("/"), unicodedata.normalize("NFC", top)
        inside = [file for file in self.files if unicodedata.normalize("NFC", file.name).startswith(wanted)] if top else self.files
        if not inside:
            tops = sorted({file.name.partition("/")[0] for file in self.files if "/" in file.name})
            raise BCCPError(
                f"{self.shown} holds no folder data.subfolder={subfolder!r}{nearest(top[:-1], tops)}: name one of its folders, or null"
            )
        names = strip_wrappers([file.name.split("/", depth)[-1] for file in inside])
        files = sorted((replace(file, name=name) for name, file in zip(names, inside, strict=True)), key=lambda f: f.name)
        for before, after in itertools.pairwise(files):
            if before.name == after.name:
                raise BCCPError(f"{self.shown} holds two files named {after.name!r}: remove or rename one")
        return files


def too_large(shown: str, max_bytes: int) -> BCCPError:
    """The refusal of a source over its limit."""
    return BCCPError(f"{shown} holds more than data.max_bytes={max_bytes} bytes: raise data.max_bytes if that is right")


def is_hidden(name: str) -> bool:
    """Return True for a file that is hidden or a system's own: see :func:`hidden_part`.

    Examples
    --------
    >>> is_hidden("cat/.DS_Store"), is_hidden("__MACOSX/cat/1.png"), is_hidden("cat/1.png")
    (True, True, False)
    """
    return bool(hidden_part(name))


def hidden_part(name: str) -> str:
    """The first part of a path that begins with a dot, or is a folder or file that a system, a file server or a notebook makes; or none.

    Examples
    --------
    >>> hidden_part("cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg"), hidden_part("$Recycle.Bin/1.png"), hidden_part("cat/1.png")
    ('@eaDir', '$Recycle.Bin', '')
    """
    *folders, file = name.split("/")
    found = [part for part in folders if part.startswith(".") or part.casefold() in _SYSTEM_FOLDERS]
    if not found and (file.startswith(".") or file.casefold() in _SYSTEM_FILES | _SYSTEM_FOLDERS):  # the last one may be a folder
        return file
    return found[0] if found else ""


def strip_wrappers(names: list[str]) -> list[str]:
    """Take sole top folders away that only wrap the others.

    Parameters
    ----------
    names : list of str
        POSIX paths.

    Returns
    -------
    list of str
        In the same order. A sole top folder is a wrapper if it holds folders and no images; loose files beside or in it that are no images
        do not matter. ``monday`` and ``tuesday`` are days and stay.

    Examples
    --------
    >>> strip_wrappers(["bottles/full/1.png", "bottles/empty/2.png", "bottles/README.txt"])
    ['full/1.png', 'empty/2.png', 'README.txt']
    >>> strip_wrappers(["cat/1.png", "cat/2.png"])
    ['cat/1.png', 'cat/2.png']
    """
    while True:
        tops = {name.partition("/")[0] for name in names if "/" in name}
        if len(tops) != 1 or day_name(top := tops.pop()):
            return names
        loose = [name for name in names if name.removeprefix(f"{top}/").count("/") == 0]
        if any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in loose) or len(loose) == len(names):  # noqa: PTH122
            return names
        names = [name.removeprefix(f"{top}/") for name in names]


def list_folder(root: Path, shown: str, max_bytes: int) -> Listing:
    """List a local folder, whole tree.

    Links to files are followed where they lead to a file in the same folder.

    Raises
    ------
    BCCPError
        If it holds a link that leads out of it or to a folder, or something that is neither file nor folder, or cannot be read.
    """
    root = root.resolve()
    listing = Listing(shown, max_bytes)

    def refuse(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        if is_hidden(name):  # such as lost+found, which is root's
            listing.add(name, 0, root.open)  # type: ignore[arg-type]
            return
        raise BCCPError(f"{shown}: {error.filename} cannot be read ({error.strerror}): make it readable") from error

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        prefix = Path(folder).relative_to(root).as_posix() + "/" if folder != str(root) else ""
        listing.add_folder(prefix[:-1])
        linked = [name for name in subfolders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114
        for name in (*names, *linked):
            path = Path(folder, name)
            size = 0 if is_hidden(prefix + name) else _file_size(path, root, prefix + name, shown)
            listing.add(prefix + name, size, lambda path=path: path.open("rb"), path)  # type: ignore[misc]
    return listing


def _file_size(path: Path, root: Path, name: str, shown: str) -> int:
    """The size of a file in the folder ``root``; anything else is refused by its name."""
    try:
        about = path.lstat()
        if stat.S_ISLNK(about.st_mode):
            target = path.resolve(strict=True)
            if not target.is_file() or not target.is_relative_to(root):
                raise BCCPError(f"{shown} holds a link, {name!r}, that leads to no file within it: put a copy of the images there")
            about = target.stat()
    except (OSError, RuntimeError) as error:  # a link to nowhere; a circle of links
        raise BCCPError(f"{shown} holds {name!r}, which leads nowhere or cannot be read: remove it or make it readable") from error
    if not stat.S_ISREG(about.st_mode):
        raise BCCPError(f"{shown} holds {name!r}, which is neither a file nor a folder: remove it")
    return about.st_size


def archive_kind(path: Path) -> str | None:
    """What kind of archive a file is, by its first bytes: ``zip``, ``tar``, ``compressed`` (gzip, bzip2, xz), or None."""
    with path.open("rb") as stream:
        head = stream.read(tarfile.BLOCKSIZE)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")):
        return "zip"
    if head.startswith(tuple(_COMPRESSED)):
        return "compressed"
    return "tar" if _is_tar(head) else None


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:  # an empty tar is a block of zeros, to which tarfile has an error of its own
        return len(head) == tarfile.BLOCKSIZE and not any(head)
    return True


@contextmanager
def open_archive(path: Path, shown: str, max_bytes: int, *, scratch: Path, zip_encoding: str | None = None) -> Iterator[Listing]:
    """Open a zip or tar file; its files can be read within the block, in any order.

    Parameters
    ----------
    path : Path
    shown : str
        How errors name it.
    max_bytes : int
        What it may unpack to.
    scratch : Path
        A folder for the uncompressed tar of a compressed one. The file there has no name, so not even a killed process leaves it behind.
    zip_encoding : str, optional
        The code page of names in a zip file that does not say that they are in UTF-8.

    Raises
    ------
    BCCPError
        If it is no such archive, damaged, encrypted or unsafe; the module's text says what that means.
    """
    kind = archive_kind(path)
    if kind == "zip":
        with _reading(shown):
            archive = zipfile.ZipFile(path)
        with archive:
            listing = _list_zip(archive, Listing(shown, max_bytes), zip_encoding)
            _refuse_bomb(sum(info.file_size for info in archive.infolist()), path.stat().st_size, shown)
            yield listing
    elif kind == "tar":
        with _BoundedReader(io.FileIO(path)) as stream:
            yield _list_tar(stream, Listing(shown, max_bytes))
    elif kind == "compressed":
        with tempfile.TemporaryFile(dir=scratch, buffering=0) as plain:
            with _reading(shown):
                _decompress(path, plain, shown, max_bytes)
            plain.seek(0)
            if not _is_tar(plain.read(tarfile.BLOCKSIZE)):
                raise _no_archive(path, shown)
            plain.seek(0)
            yield _list_tar(_BoundedReader(plain), Listing(shown, max_bytes))
    else:
        raise _no_archive(path, shown)


def read_chunks(file: File, shown: str) -> Iterator[bytes]:
    """Stream a file's bytes.

    Parameters
    ----------
    file : File
    shown : str
        How errors name its source.

    Raises
    ------
    BCCPError
        If it cannot be read, or has not the size that was declared: no more than that is ever given.
    """
    count = 0
    try:
        with file.open() as stream:
            while chunk := stream.read(CHUNK_BYTES):
                count += len(chunk)
                if count > file.size:
                    break
                yield chunk
    except BCCPError:
        raise
    except Exception as error:  # sources are many: each file system and archive format has errors of its own
        raise BCCPError(f"{shown}: {file.name!r} cannot be read ({_one_line(error)}): mend or remove it") from error
    if count != file.size:
        much = "more" if count > file.size else "fewer"
        raise BCCPError(f"{shown}: {file.name!r} has {much} bytes than the {file.size} declared: it is damaged or was changed meanwhile")


@contextmanager
def _reading(shown: str) -> Iterator[None]:
    """Tell in one sentence what the readers of archives raise over damaged ones."""
    try:
        yield
    except _DAMAGE as error:
        raise BCCPError(f"{shown} is damaged or was cut off ({_one_line(error)}): fetch it again") from error
    except OSError as error:
        if error.errno is not None:  # the disk's and not the decompressor's
            raise
        raise BCCPError(f"{shown} is damaged ({_one_line(error)}): fetch it again") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _no_archive(path: Path, shown: str) -> BCCPError:
    with path.open("rb") as stream:
        page = stream.read(512).lstrip().lower().startswith((b"<!doctype", b"<html"))
    return BCCPError(f"{shown} is {'a web page and ' if page else ''}no archive: give a zip or tar file (also .tar.gz, .tar.bz2, .tar.xz)")


def _member_name(raw: str, shown: str) -> str:
    """A member's name without empty and ``.`` parts; a name that leads out of the archive is refused."""
    if raw.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", raw):
        raise BCCPError(f"{shown} holds a member with an absolute path, {raw!r}: give an archive whose paths are relative")
    if ".." in re.split(r"[/\\]", raw):
        raise BCCPError(f"{shown} holds a member that leads out of it, {raw!r}: give an archive without '..' in its paths")
    return "/".join(part for part in raw.split("/") if part not in ("", "."))


def _refuse_special(name: str, kind: str, shown: str) -> None:
    raise BCCPError(f"{shown} holds a {kind}, {name!r}: give an archive of plain files and folders")


def _refuse_bomb(unpacked: int, packed: int, shown: str) -> None:
    if unpacked > RATIO_FREE_BYTES and unpacked > MAX_RATIO * packed:
        raise BCCPError(
            f"{shown} unpacks to over {MAX_RATIO} times its size, as a decompression bomb does: "
            "if it is none, unpack it and give the folder (data.source=folder)"
        )


def _list_zip(archive: zipfile.ZipFile, listing: Listing, encoding: str | None) -> Listing:
    shown = listing.shown
    names = _zip_names(archive.infolist(), shown, encoding)
    for info, raw in zip(archive.infolist(), names, strict=True):
        name = _member_name(raw, shown)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if raw.endswith("/") or kind == stat.S_IFDIR:
            listing.add_folder(name.rstrip("/"))
            continue
        if not is_hidden(name):
            if kind not in (0, stat.S_IFREG):
                _refuse_special(name, "link" if kind == stat.S_IFLNK else "device", shown)
            if info.flag_bits & 0x41:
                raise BCCPError(f"{shown} is encrypted ({name!r}): unpack it with its password and give the folder (data.source=folder)")
        listing.add(name, info.file_size, lambda info=info: archive.open(info))  # type: ignore[misc]
    return listing


def _zip_names(members: Sequence[zipfile.ZipInfo], shown: str, encoding: str | None) -> list[str]:
    """The members' names as their maker meant them, with slashes: some Windows programs write backslashes.

    A name is in UTF-8 where its flag or an extra field says so, else in ``encoding``, else in UTF-8, as many write it without saying so.
    The bytes are decoded before backslashes are looked for, as 0x5C is the second byte of characters in Shift-JIS, GBK and Big5.

    Raises
    ------
    BCCPError
        If a name is in none of these.
    """
    names: list[str] = []
    unknown: list[bytes] = []
    for info in members:
        raw = None if info.flag_bits & 0x800 else info.orig_filename.encode("cp437")  # as which zipfile has read it
        name = info.orig_filename if raw is None else _unicode_path(info, raw)
        if raw is not None and name is None:
            try:
                name = raw.decode(_WIDER.get(encoding, encoding) if encoding else "utf-8")
            except UnicodeDecodeError as error:
                if encoding:
                    raise BCCPError(
                        f"data.zip_encoding={encoding} cannot be that of {shown}, which holds a member named {raw!r}: give another one"
                    ) from error
                name = info.orig_filename
                if not is_hidden(name.replace("\\", "/")):
                    unknown.append(raw)
        names.append((name or "").partition("\0")[0].replace("\\", "/"))
    if unknown:
        raise _unknown_code_page(unknown, shown)
    return names


def _unicode_path(info: zipfile.ZipInfo, raw: bytes) -> str | None:
    """The name in Info-ZIP's extra field 0x7075, if there is one that belongs to the name in the header."""
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        body, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == 0x7075 and len(body) >= 5 and body[0] == 1 and struct.unpack("<L", body[1:5])[0] == zlib.crc32(raw):
            return body[5:].decode("utf-8", "replace")
    return None


def _unknown_code_page(names: Sequence[bytes], shown: str) -> BCCPError:
    sample = min(names, key=len)
    guess = guess_code_page(names)
    looks = f": they look like {guess} ({sample.decode(guess)!r}); set data.zip_encoding={guess}" if guess else ": set data.zip_encoding"
    return BCCPError(
        f"{shown} has names that are neither ASCII nor UTF-8, such as {sample!r}, and does not say in which code page they are{looks} or "
        f"another of {', '.join(page for page in CODE_PAGES if page != guess)}, …"
    )


def guess_code_page(names: Sequence[bytes]) -> str | None:
    """Guess the code page of names: the one of :data:`CODE_PAGES` in which they are likeliest; None: none that they could be in.

    Names are short, and general detectors, which are made for pages of text, mistake them. Here a code page gives each character a
    probability by how common its part of the code page is, and a hundredth each time that Latin and other letters meet.

    Examples
    --------
    >>> guess_code_page(["\u732b/\u8868.png".encode("cp932")]), guess_code_page(["K\u00e4se.png".encode("cp1252")])
    ('cp932', 'cp1252')
    """
    parts = list(dict.fromkeys(part for name in names for part in re.split(rb"[\x00-\x2f]", name) if not part.isascii()))[:1000]
    likelihoods = {page: _log_likelihood(parts, page) for page in CODE_PAGES}
    best = max(likelihoods, key=likelihoods.__getitem__)
    return best if likelihoods[best] > -math.inf else None


def _log_likelihood(parts: Sequence[bytes], page: str) -> float:
    """The log probability of names in a code page."""
    total = _PRIOR.get(page, 0.0)
    is_latin = page in _LATIN
    for raw in parts:
        try:
            text = raw.decode(page)
        except UnicodeDecodeError:
            return -math.inf
        for before, letter, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
            if letter in "\\{}|~^[]@`":  # rather a character's second byte
                total += math.log(0.002)
            if before.islower() and letter.isupper():
                total += math.log(0.05)
            if letter.isascii():
                continue
            total += math.log(_LATIN_SHARE if is_latin else 1) + math.log(_probability(letter, page))
            if not is_latin:
                total += math.log(0.01) * sum(other.isascii() and other.isalpha() for other in (before, after))
            elif letter.isalpha() and not before.isalpha() and not after.isalpha():  # such a word is rare
                total += math.log(0.05)
    return total


def _probability(letter: str, page: str) -> float:
    """The probability of a character that is not ASCII in a code page."""
    if page in _LATIN:
        common = _LATIN[page]
        if letter in common:
            return 0.75 / len(common)
        return 0.18 / len(common) if letter.lower() in common else 0.05 / len(_TYPOGRAPHY) if letter in _TYPOGRAPHY else 0.02 / 60
    if page in ("cp866", "cp1251"):
        cyrillic = "\u0410" <= letter <= "\u044f"
        return 0.01 / 60 if not cyrillic else 0.8 / 32 if letter.islower() else 0.19 / 32
    lead, trail = (*letter.encode(page), 0)[:2]
    if page == "cp932":
        if "\u3041" <= letter <= "\u30fc":  # kana
            return 0.45 / 170
        return 0.45 / 2965 if 0x88 <= lead <= 0x97 else 0.1 / 4000 if trail else 0.05 / 63
    if page == "cp949" and letter in _HANGUL:
        return 0.6 / len(_HANGUL)
    first, last, n_common, n_others = _COMMON_ROWS[page]
    return 0.95 / n_common if first <= lead <= last and (trail >= 0xA1 or page == "big5") else 0.05 / n_others


def _list_tar(stream: io.BufferedReader, listing: Listing) -> Listing:
    shown = listing.shown
    with _reading(shown):
        archive = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 - it lives as long as its stream
        for member in archive:
            name = _member_name(member.name, shown)
            if member.isdir():
                listing.add_folder(name.rstrip("/"))
                continue
            if not is_hidden(name):
                if member.issym() or member.islnk():
                    _refuse_special(name, "link", shown)
                if not member.isreg():
                    _refuse_special(name, "device", shown)
            listing.add(name, member.size, lambda member=member: _tar_member(archive, member))  # type: ignore[misc]
    # tarfile takes any odd header for the end; the true end is a block of zeros
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE).count(0) != tarfile.BLOCKSIZE:
        raise BCCPError(f"{shown} is damaged or was cut off (no end of the tar file): fetch it again")
    return listing


def _tar_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(member)
    if stream is None:
        raise tarfile.ReadError(f"{member.name!r} holds no data")
    return stream


class _BoundedReader(io.BufferedReader):
    """A file of which no header can ask for gigabytes at once: tarfile reads as much as a header says."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError("a header of impossible size")
        return super().read(size)


def _decompress(path: Path, plain: IO[bytes], shown: str, max_bytes: int) -> None:
    """Write the tar within a compressed one, and stop where it grows over its limits."""
    with path.open("rb") as stream:
        head = stream.read(6)
    opener = next(opener for magic, opener in _COMPRESSED.items() if head.startswith(magic))
    packed, unpacked = path.stat().st_size, 0
    with opener(path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            unpacked += len(chunk)
            _refuse_bomb(unpacked, packed, shown)
            if unpacked > max_bytes + CHUNK_BYTES:  # the tar's own headers are not counted too exactly
                raise too_large(shown, max_bytes)
            plain.write(chunk)
