"""Finds the images that the cells of a table mean: names, paths from elsewhere, URLs, names without their extension.

A table is made where its images lay at the time, which is seldom where they lie now. So a cell is compared as a whole first, then by the
folders that both know, and only where that leaves one image. What is decided is decided for the whole table: where some cell is a path
below the data's root, a path that leads elsewhere names another image, though a file has the same name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from bccp.data.layout import IMAGE_SUFFIXES, split_name

AMBIGUOUS = ""
"""What a cell means that fits several images: none of them."""


@dataclass(frozen=True)
class _Index:
    """The images by what a cell may say: whole ids, their ends, and both without an extension. Keys are in the form NFC."""

    whole: Mapping[str, str]
    ends: Mapping[str, Sequence[str]]
    stems: Mapping[str, str | None]
    stem_ends: Mapping[str, Sequence[str]]


def nfc(name: str) -> str:
    """A name in the form in which equal-looking ones are equal."""
    return unicodedata.normalize("NFC", name)


def has_image_suffix(cell: str) -> bool:
    """Return True for a cell that ends like the name of an image file, as a path or as a URL."""
    return any(_stem(path) != path for path in readings(cell)[:2])


def readings(cell: str) -> list[str]:
    """The paths that a cell may mean, POSIX, the likeliest first.

    Parameters
    ----------
    cell : str
        A path of any system, a URL, or what Label Studio makes of either.

    Examples
    --------
    >>> readings("/data/upload/3/1f2e3d4c-cat%201.jpg")
    ['data/upload/3/1f2e3d4c-cat%201.jpg', 'data/upload/3/1f2e3d4c-cat 1.jpg', 'data/upload/3/cat%201.jpg', 'data/upload/3/cat 1.jpg']
    >>> readings(r"C:\\photos\\a.png"), readings("https://host/b/a.png?sig=x")
    (['C:/photos/a.png'], ['https:/host/b/a.png?sig=x', 'b/a.png'])
    """
    plain = cell.strip()
    found = [plain]
    if "?" in plain or "://" in plain:
        try:
            parts = urlsplit(plain)
        except ValueError:  # brackets that are no address
            parts = None
        if parts is not None:
            served = parse_qs(parts.query).get("d", []) if parts.path.endswith("/local-files/") else []
            found += served or [parts.path]
    found += [unquote(text) for text in found if "%" in text]
    paths = [re.sub(r"/+", "/", text.replace("\\", "/")).removeprefix("/") for text in found]
    paths = [re.sub(r"^(\./)+", "", path) for path in paths]
    # Label Studio puts eight digits before the name of an uploaded file
    uploads = [re.sub(r"(^|.*/)upload/((?:.*/)?)[0-9a-f]{8}-(?=[^/]+$)", r"\1upload/\2", path) for path in paths if "upload/" in path]
    return list(dict.fromkeys(path for path in (*paths, *uploads) if path))


def find_images(cells: Sequence[str], images: Iterable[str], *, table: str = "") -> list[str | None]:
    """Find the image that each cell of a table's column means.

    Parameters
    ----------
    cells : sequence of str
    images : iterable of str
        The ids of the data's images.
    table : str, optional
        Where the table lies among them, as an id: paths are first taken as relative to its folder, and where several images fit, those
        of the split that its name tells (``train.csv``) come first.

    Returns
    -------
    list of (str or None)
        For each cell an id, :data:`AMBIGUOUS` where several images fit, or None where none does.
    """
    ids = sorted(images)
    folder = f"{table.rpartition('/')[0]}/" if "/" in table else ""
    known = frozenset(ids)
    within = [image for image in ids if image.startswith(folder)]
    index = _index(within, folder) if folder and within else _index(ids, "")
    split = split_name(table.rpartition("/")[2].rpartition(".")[0])
    meant = {cell: [nfc(path) for path in readings(cell)] for cell in dict.fromkeys(cells)}
    found = {cell: _exact(cell, paths, known, index) or _by_end(paths, index, split) for cell, paths in meant.items()}
    if not any(found.values()) and _all_differ(ids):
        # nothing lies where the table says: all of it was moved, and file names alone tell the images apart
        found = {cell: _by_name(paths, index) for cell, paths in meant.items()}
    if not any(found.values()):
        found = _by_number(list(meant), ids)
    return [found[cell] for cell in cells]


def _index(ids: Sequence[str], folder: str) -> _Index:
    whole: dict[str, str] = {}
    stems: dict[str, str | None] = {}
    ends: defaultdict[str, list[str]] = defaultdict(list)
    stem_ends: defaultdict[str, list[str]] = defaultdict(list)
    for image in ids:
        key = nfc(image.removeprefix(folder))
        whole[key] = AMBIGUOUS if key in whole else image
        stem = _stem(key)
        stems[stem] = None if stem in stems else image
        for by_end, text in ((ends, key), (stem_ends, stem)):
            parts = text.split("/")
            for start in range(1, len(parts)):
                by_end["/".join(parts[start:])].append(image)
    return _Index(whole, ends, stems, stem_ends)


def _exact(cell: str, paths: Sequence[str], known: Collection[str], index: _Index) -> str | None:
    """The image with just this id, or one that differs in how it is written only."""
    for text in (cell, cell.strip()):
        if text in known:
            return text
    return next((index.whole[path] for path in paths if path in index.whole), None)


def _by_end(paths: Sequence[str], index: _Index, split: str) -> str | None:
    """The image whose id ends the cell, or the one whose id the cell ends; with or without an extension."""
    several = None
    for path in paths:
        parts = path.split("/")
        # an end without any folder says nothing of where the image was: it counts for whole tables, or where the cell is no more
        ends = ["/".join(parts[start:]) for start in range(max(1, len(parts) - 1))]
        for end in ends:
            if end in index.whole:
                return index.whole[end]
        for stem in map(_stem, ends):
            if image := index.stems.get(stem):
                return image
        for fitting in (index.ends.get(path, ()), index.stem_ends.get(_stem(path), ())):
            of_split = [image for image in fitting if split and split in map(split_name, image.split("/")[:-1])]
            if len(fitting) == 1 or len(of_split) == 1:
                return (of_split or fitting)[0]
            several = AMBIGUOUS if fitting else several
        if index.stems.get(_stem(path), "") is None:
            several = AMBIGUOUS
    return several


def _by_name(paths: Sequence[str], index: _Index) -> str | None:
    """The image of this file name, wherever it lies."""
    for path in paths:
        name = path.rpartition("/")[2]
        if name in index.whole:
            return index.whole[name]
        for fitting in (index.ends.get(name, ()), index.stem_ends.get(_stem(name), ())):
            if len(fitting) == 1:
                return fitting[0]
        if image := index.stems.get(_stem(name)):
            return image
    return None


def _by_number(cells: Sequence[str], ids: Sequence[str]) -> dict[str, str | None]:
    """The images whose names are the cells' numbers, with zeros before them or without, where all are numbers."""
    stems = [_stem(image.rpartition("/")[2]) for image in ids]
    numbers = [_stem(cell.strip()) for cell in cells]
    if not all(re.fullmatch("[0-9]+", text) for text in (*stems, *numbers)) or len(set(map(int, stems))) < len(stems):
        return dict.fromkeys(cells)
    images = {int(stem): image for stem, image in zip(stems, ids, strict=True)}
    return {cell: images.get(int(number)) for cell, number in zip(cells, numbers, strict=True)}


def _stem(path: str) -> str:
    """A path without the extension of an image; other dots belong to the name."""
    base, dot, suffix = path.rpartition(".")
    return base if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES and base and not base.endswith("/") else path


def _all_differ(ids: Sequence[str]) -> bool:
    names = [image.rpartition("/")[2] for image in ids]
    return len(set(names)) == len(names)
