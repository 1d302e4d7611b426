"""From image files of every kind to one array of equal pictures, and a report on what came in.

N files lie in an archive; the readable ones become rows of a uint8 array of shape (n, S, S, 3). Files stream through in chunks, so memory
does not grow with N except for the table. What is decided about a file depends on that file alone and on the layout of the folders: the
number of threads changes nothing.

Unreadable files are quarantined with a reason. The pictures carry two fingerprints: a SHA-256 of the decoded pixels (equal: the same
picture) and a perceptual hash of 64 bits (equal: nearly the same picture).

References
----------
N. Krawetz, "Looks Like It", The Hacker Factor Blog, 2011 (the perceptual hash by DCT).
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from bccp.core import progress
from bccp.core.errors import BCCPError, few
from bccp.data import own_tables, tables
from bccp.data.decoding import grey_levels
from bccp.data.decoding.grey_levels import Range, ValueCounts, chosen_range, is_deep_mode, kind_of_values
from bccp.data.decoding.image_files import MAX_PIXELS, UnreadableImageError, decode, pillow_limits
from bccp.data.duplicates import FLAT_STD, is_nearly_constant, told_apart
from bccp.data.label_tables.columns import Columns
from bccp.data.label_tables.in_data import AUTO, REPORTED, DataLabels, find_labels, is_companion
from bccp.data.label_tables.votes import VOTES, votes_table
from bccp.data.layout import KnownNames, Layout, Place, recognize
from bccp.data.scan_filters import Cleanup, clean_up

TEXT_SUFFIXES = frozenset(
    {
        "", ".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".html", ".htm",
        ".log", ".py", ".ipynb", ".doc", ".docx",
    }
)  # fmt: skip
"""A folder of nothing but such files that are no images is not taken for a class that was lost."""

EXTREME_ASPECT = 5.0
"""Longer side : shorter side from which a picture's shape is reported as an anomaly."""

TINY_PX = 8
"""Pictures with a side shorter than this are reported as an anomaly."""

POOL_MIN_BYTES = 3000
"""Mean file size from which threads pay (measured): decoding smaller files is mostly Python, which runs in one thread at a time."""

CHUNK_FILES = 256
_CHUNK_BYTES = 4_000_000
STREAMED_BYTES = 1_000_000
_EXAMPLES = 20
_GREY_PX = 32

# Rows 0..7 of the type-II DCT on 32 points, the scale that scipy's unnormalised transform has: shape (8, 32).
_DCT = 2 * np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(_GREY_PX) + 1) / (2 * _GREY_PX))

_NO_REMEDY = "truncated image|damaged image|decompression bomb|not an image"
"""How reasons begin that tell nothing but what is wrong."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class DecodedPicture:
    """What is kept of one decoded file.

    Attributes
    ----------
    sha256 : str
        Of the full-size RGB pixels and their size, 64 hex digits.
    phash : str
        16 hex digits, or empty where there is too little in the picture to tell it from others.
    width, height : int
        Full size in px, upright.
    mode, format : str
        Pillow's names for what the file held.
    pixels : bytes
        S * S * 3 bytes: rows, columns, RGB.
    metadata_ignored, is_reduced : bool
        See :class:`bccp.data.decoding.image_files.DecodedFile`.
    kind : str
        ``integer`` or ``float`` where the file held grey values of more than 8 bits, else empty.
    counts : ValueCounts or None
        Of these values.
    """

    sha256: str
    phash: str
    width: int
    height: int
    mode: str
    format: str
    pixels: bytes
    metadata_ignored: bool = False
    is_reduced: bool = False
    kind: str = ""
    counts: ValueCounts | None = None


def fit_to_square(image: Image.Image, size: int, how: str) -> Image.Image:
    """Bring a picture to size x size px with an antialiased bicubic filter.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB.
    size : int
        Side of the result in px.
    how : {"stretch", "pad", "crop"}
        ``stretch`` changes the shape, ``pad`` keeps it between black borders, ``crop`` keeps it and cuts the middle square out.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, (size, size).
    """
    width, height = image.size
    if width == height == size:
        return image
    if how == "pad":
        scale = size / max(width, height)
        inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
        canvas = Image.new("RGB", (size, size), "black")
        inner = image.resize((inner_width, inner_height), Image.Resampling.BICUBIC)
        canvas.paste(inner, ((size - inner_width) // 2, (size - inner_height) // 2))
        return canvas
    if how == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return image.resize((size, size), Image.Resampling.BICUBIC)


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 over an RGB picture's size and pixels, 64 hex digits; a large picture is streamed, for a copy would double its memory."""
    width, height = image.size
    sha = hashlib.sha256(f"{width}x{height}\n".encode())
    if 3 * width * height <= STREAMED_BYTES:
        sha.update(image.tobytes())
    else:
        image.save(_PixelSink(sha.update, skipped=len(f"P6\n{width} {height}\n255\n")), "PPM")
    return sha.hexdigest()


class _PixelSink(io.BytesIO):
    """A file to save a PPM picture to, which hands on what follows the header: Pillow packs pixels nowhere faster, and in small blocks."""

    def __init__(self, hand_on: Callable[[bytes], object], *, skipped: int) -> None:
        super().__init__()
        self.hand_on, self.skipped = hand_on, skipped

    def write(self, block: Any) -> int:
        """Take a block of bytes."""
        self.hand_on(block[self.skipped :])
        self.skipped = max(0, self.skipped - len(block))
        return len(block)


def perceptual_hashes(grey: npt.NDArray[np.uint8]) -> list[str]:
    """64-bit perceptual hashes of small grey pictures.

    A bit says whether one of the 8 x 8 lowest DCT coefficients lies above their median; the bits are those of ImageHash's ``phash``. A
    picture that is nearly constant, or that leaves half of the coefficients at their median (plain stripes), has too little in it: its
    hash would be rounding noise or that of all its like, would call unlike pictures duplicates, and is left empty.

    Parameters
    ----------
    grey : ndarray of uint8, shape (n, 32, 32)
        Luminance, resized by a Lanczos filter.

    Returns
    -------
    list of str, length n
        16 hex digits, or an empty string.
    """
    # Rounding takes away the noise of the sums, far below the steps that a change of one grey level makes.
    coefficients = np.round(_DCT @ grey.astype(np.float64) @ _DCT.T, 6).reshape(len(grey), 64)
    medians = np.median(coefficients, axis=1, keepdims=True)
    clear = (np.abs(coefficients - medians) > 1e-5).sum(axis=1) > 32
    telling = clear & (grey.std(axis=(1, 2)) >= FLAT_STD)
    packed = np.packbits(coefficients > medians, axis=1)
    return [bits.tobytes().hex() if good else "" for bits, good in zip(packed, telling, strict=True)]


def clean(
    archive: Path,
    folder: Path,
    *,
    image_size: int,
    resize: str,
    max_rejected_rate: float,
    max_pixels: int,
    threads: int,
    cleanup: Cleanup = (),
    layout: str = "auto",
    table: str | None = None,
    columns: Columns | None = None,
    labelled_elsewhere: bool = False,
    scale: Range | Literal["auto"] = "auto",
    near_copy_tolerance: float | None = None,
    allow_lost_classes: bool = False,
    needs_classes: bool = True,
    called: Callable[[str], str] = str,
) -> dict[str, Any]:
    """Write ``images.npy``, ``manifest.csv``, ``quarantine.csv`` and ``report.json`` from an archive of image files.

    Rows are in the order of the sorted image ids, without gaps. The outputs do not depend on ``threads``.

    Parameters
    ----------
    archive : Path
        A zip file whose entries are named by the image ids.
    folder : Path
        Where to write; it exists.
    image_size : int
        Side of the square pictures, in px.
    resize : {"stretch", "pad", "crop"}
        See ``fit``.
    max_rejected_rate : float
        In [0, 1]; a larger share of unusable files is an error.
    max_pixels : int
        Larger pictures are taken for decompression bombs.
    threads : int
        Threads that decode, where files are large enough for threads to pay.
    cleanup : sequence
        See :func:`bccp.data.scan_filters.clean_up`; the fingerprints are those of the picture before it.
    layout : {"auto", "classes", "subfolders", "monday"}
        See :func:`bccp.data.layout.recognize`.
    table, columns
        Which table of labels in the data counts, and what its columns mean: see :func:`bccp.data.label_tables.in_data.find_labels`. Where
        annotators are told apart, ``votes.csv`` is written, too.
    labelled_elsewhere : bool, default False
        Labels come from a file outside of the data: images in no class folders are taken without a label.
    scale : Range or "auto"
        What becomes black and white of grey values of more than 8 bits (:mod:`bccp.data.decoding.grey_levels`); ``auto``: chosen by all of
        them.
    near_copy_tolerance : float, optional
        See :func:`bccp.data.duplicates.told_apart`; without it an equal perceptual hash makes near copies.
    allow_lost_classes : bool, default False
        Go on without a class of which nothing can be read.
    needs_classes : bool, default True
        Otherwise classes may be too few or too small to be learnt from, or unknown, or lost.
    called : callable, optional
        How errors name the image of an id.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    BCCPError
        Folders whose layout is not understood, no image in a class folder, no readable one, too many unreadable ones, a class that is lost,
        or classes too few or too small.
    """
    array = folder / "images.npy"
    with pillow_limits(max_pixels):
        manifest, quarantine, streamed = _stream(
            archive,
            array,
            lambda files: _placing(files, layout, table, columns or Columns(key="data.columns"), labelled_elsewhere=labelled_elsewhere),
            image_size=image_size,
            resize=resize,
            threads=threads,
            cleanup=cleanup,
            scale=scale,
        )
    placing = streamed.placing
    images = np.load(array, mmap_mode="r") if len(manifest) else np.empty((0, image_size, image_size, 3), np.uint8)
    by_hash = manifest["phash"]
    manifest["phash"] = told_apart(manifest, images, tolerance=near_copy_tolerance)
    report = describe(manifest, quarantine, images) | {"image_size": image_size, "resize": resize}
    if notes := placing.notes:
        report["layout"] = notes
    if placing.told:
        report[REPORTED] = {"tables": list(placing.told.tables), "named": table != AUTO}
    if cleanup:
        report["cleanup"] = list(cleanup)
    if max_pixels != MAX_PIXELS:
        report["max_pixels"] = max_pixels
    if n_told_apart := int((manifest["phash"] != by_hash).sum()):
        report["told_apart"] = n_told_apart
    report |= streamed.reported()
    if remedies := _remedies(quarantine):
        report["remedies"] = remedies
    told = quarantine.assign(image=quarantine["image"].map(called))
    check_readable(manifest, told, max_rejected_rate=max_rejected_rate, needs_classes=needs_classes)
    if needs_classes and not placing.unlabelled:
        lost = lost_classes(streamed.places, manifest)
        if lost and not allow_lost_classes:
            raise BCCPError(f"{_lost_sentence(lost, told)}: mend or remove them, or go on by preprocessing.allow_lost_classes=true")
        if lost:
            report["lost_classes"] = _lost_sentence(lost, told)
        _check_classes(manifest)
    if placing.told and placing.told.votes:
        tables.write(votes_table(placing.told.votes), folder / VOTES)
    tables.write(manifest, folder / "manifest.csv")
    tables.write(quarantine, folder / "quarantine.csv")
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


@dataclass(frozen=True)
class _Placing:
    """Source of each image's day, split and label: the folders, or tables beside the images, or for the label nothing.

    Attributes
    ----------
    layout : Layout
    told : DataLabels or None
        Labels from tables; the folders' do not count then.
    unlabelled : bool
        No image has a label.
    """

    layout: Layout
    told: DataLabels | None
    unlabelled: bool

    @property
    def notes(self) -> list[str]:
        """A line each on what was recognised."""
        of_folders = [] if self.told or self.unlabelled else self.layout.notes
        return [*of_folders, *(self.told.notes if self.told else ())]

    def is_left_out(self, name: str) -> bool:
        """Return True for a file that is none of the images."""
        return (self.told is not None or self.unlabelled) and is_companion(name)

    def place(self, image: str) -> Place | None:
        """Day, split and label of an image; None where it lies in no class folder."""
        place = self.layout.place(image)
        if self.told is None and not self.unlabelled:
            return place
        label = self.told.labels.get(image, "") if self.told else ""
        return (place or Place("", "", ""))._replace(label=label)


def _placing(files: zipfile.ZipFile, asked: str, table: str | None, columns: Columns, *, labelled_elsewhere: bool) -> _Placing:
    """Find out where the labels are; refuse files of which neither folders nor tables tell them."""
    sizes = {entry.filename: entry.file_size for entry in files.infolist() if not entry.is_dir()}
    layout = recognize(sizes, asked)
    has_classes = bool(layout.days) or len(layout.classes) > 1
    try:
        told = find_labels(sizes, files.read, layout, asked=table, columns=columns)
    except BCCPError:
        if not labelled_elsewhere or table != AUTO:
            raise
        told = None
    unlabelled = told is None and labelled_elsewhere and not has_classes
    if layout.problem and told is None and not unlabelled:
        hint = "" if has_classes else "; or give a table of their labels, image,label, beside them or as noisy_labels.feedback_file"
        raise BCCPError(layout.problem + hint)
    return _Placing(layout, told, unlabelled)


def _remedies(quarantine: pd.DataFrame) -> list[dict[str, Any]]:
    """The reasons of files that are something else than a picture that is read, with their number and the first of them."""
    known = quarantine[quarantine["reason"].str.contains(": ") & ~quarantine["reason"].str.match(_NO_REMEDY)]
    return [
        {"reason": reason, "files": len(files), "example": files["image"].iloc[0]} for reason, files in known.groupby("reason", sort=True)
    ]


@dataclass
class _Streamed:
    """Findings of one stream through all files, besides their pictures.

    Attributes
    ----------
    placing : _Placing
        What gives the images their places.
    scale : Range
        What grey values of more than 8 bits are scaled by.
    values : dict of str to ValueCounts
        These values, by kind.
    metadata_ignored, reduced : list of str
        Images whose metadata could not be read, and coloured ones of 16 bits a channel.
    places : dict of (str, str) to list of str
        The files of each day and class that may be images, readable or not; none for an empty folder.
    """

    placing: _Placing
    scale: Range = None
    values: dict[str, ValueCounts] = field(default_factory=dict)
    metadata_ignored: list[str] = field(default_factory=list)
    reduced: list[str] = field(default_factory=list)
    places: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def reported(self) -> dict[str, Any]:
        """For the report: only what there is to tell."""
        told: dict[str, Any] = {} if self.scale is None else {"range": self.scale}
        if self.values:
            told["grey_values"] = {kind: grey_levels.described(counts, kind, self.scale) for kind, counts in sorted(self.values.items())}
        for name, images in (("metadata_ignored", self.metadata_ignored), ("reduced_to_8_bits", self.reduced)):
            if images:
                told[name] = {"images": len(images), "examples": images[:_EXAMPLES]}
        return told


def _stream(
    archive: Path,
    array: Path,
    find_placing: Callable[[zipfile.ZipFile], _Placing],
    *,
    image_size: int,
    resize: str,
    threads: int,
    cleanup: Cleanup,
    scale: Range | Literal["auto"],
) -> tuple[pd.DataFrame, pd.DataFrame, _Streamed]:
    """Read, decode and write in chunks; the manifest and the quarantine tell of all files.

    Where a range is to be chosen by the whole set, pictures of more than 8 bits are written by that of their type first, and those that
    another one was then chosen for once more. So a set without such pictures is read once.
    """
    with zipfile.ZipFile(archive) as files:
        placing = find_placing(files)
        entries = [entry for entry in files.infolist() if not _is_no_candidate(files, entry) and not placing.is_left_out(entry.filename)]
        entries.sort(key=lambda entry: entry.filename)
        images = [entry.filename for entry in entries]
        workers = threads if sum(entry.file_size for entry in entries) >= POOL_MIN_BYTES * len(entries) else 1
        found = _Streamed(placing, None if scale == "auto" else scale)

        def read(chunk: list[zipfile.ZipInfo]) -> tuple[list[DecodedPicture | str], dict[str, ValueCounts]]:
            data = [files.read(entry) for entry in chunk]
            some = pictures(data, image_size=image_size, resize=resize, cleanup=cleanup, scale=found.scale)
            return _with_counts_summed(some, [placing.place(entry.filename) is not None for entry in chunk])

        def outcomes() -> Iterator[DecodedPicture | str]:
            for some, values in _in_order(read, _chunks(entries, picture_bytes=3 * image_size**2), workers):
                for kind, counts in values.items():
                    found.values[kind] = ValueCounts.sum([found.values[kind], counts]) if kind in found.values else counts
                yield from some

        manifest, quarantine = _write_rows(array, images, outcomes(), image_size=image_size, found=found)
        for folder in (entry.filename for entry in files.infolist() if entry.is_dir()):
            if (where := placing.place(f"{folder}image")) is not None:
                found.places.setdefault((where[0], where[2]), [])
        if scale == "auto" and (chosen := chosen_range(found.values)) is not None:
            found.scale = chosen
            deep = manifest.loc[manifest["mode"].map(is_deep_mode), ["image", "row"]]
            row = dict(zip(deep["image"], deep["row"], strict=True))

            def again(chunk: list[zipfile.ZipInfo]) -> list[tuple[int, bytes]]:
                whole = [(row[entry.filename], decode(files.read(entry)).rgb(chosen)) for entry in chunk]
                return [(n, fit_to_square(clean_up(image, cleanup), image_size, resize).tobytes()) for n, image in whole]

            some_entries = [entry for entry in entries if entry.filename in row]
            _rewrite_rows(array, _in_order(again, _chunks(some_entries, picture_bytes=3 * image_size**2), workers), len(manifest))
        return manifest, quarantine, found


def _is_no_candidate(files: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    """Return True for a folder, and for a table such as an export leaves beside the images."""
    if entry.is_dir() or not own_tables.may_be_own_table(entry.filename):
        return entry.is_dir()
    with files.open(entry) as opened:
        return own_tables.is_own_table(entry.filename, opened.read(own_tables.HEAD_BYTES))


def _with_counts_summed(
    some: Sequence[DecodedPicture | str], placed: Sequence[bool]
) -> tuple[list[DecodedPicture | str], dict[str, ValueCounts]]:
    """Pictures without their counts of values, and the sums of those of pictures that have a place, by kind."""
    parts: dict[str, list[ValueCounts]] = {}
    for one, has_place in zip(some, placed, strict=True):
        if isinstance(one, DecodedPicture) and one.counts is not None and has_place:
            parts.setdefault(one.kind, []).append(one.counts)
    light = [replace(one, counts=None) if isinstance(one, DecodedPicture) and one.counts is not None else one for one in some]
    return light, {kind: ValueCounts.sum(of_kind) for kind, of_kind in parts.items()}


def _rewrite_rows(path: Path, chunks: Iterable[list[tuple[int, bytes]]], n_rows: int) -> None:
    """Replace some pictures in a .npy file of ``n_rows``."""
    with path.open("r+b") as file:
        for row, pixels in (one for chunk in chunks for one in chunk):
            file.seek(-(n_rows - row) * len(pixels), io.SEEK_END)
            file.write(pixels)


def pictures(
    files: Sequence[bytes], *, image_size: int, resize: str, cleanup: Cleanup = (), scale: Range = None
) -> list[DecodedPicture | str]:
    """Decode, fingerprint, clean up and resize some files; call it within ``pillow_limits``.

    Parameters
    ----------
    files : sequence of bytes, length n
        Whole files.
    image_size, resize
        See :func:`fit_to_square`.
    cleanup
        See :func:`bccp.data.scan_filters.clean_up`.
    scale
        Of grey values of more than 8 bits: see :mod:`bccp.data.decoding.grey_levels`. The fingerprints do not depend on it.

    Returns
    -------
    list of DecodedPicture or str, length n
        The picture, or the reason why there is none.
    """
    found = [_one_picture(data, image_size=image_size, resize=resize, cleanup=cleanup, scale=scale) for data in files]
    greys = b"".join(one[0] for one in found if not isinstance(one, str))
    hashes = iter(perceptual_hashes(np.frombuffer(greys, np.uint8).reshape(-1, _GREY_PX, _GREY_PX)))
    return [one if isinstance(one, str) else replace(one[1], phash=next(hashes)) for one in found]


def _one_picture(data: bytes, *, image_size: int, resize: str, cleanup: Cleanup, scale: Range) -> tuple[bytes, DecodedPicture] | str:
    """Decode a file to the grey pixels of its perceptual hash and to a picture without the hash, or to the reason why there is none.

    A function of its own, so that nothing of the full-size picture is held while the next one is decoded.
    """
    try:
        decoded = decode(data)
        identity = decoded.identity()
    except UnreadableImageError as error:
        return str(error)
    grey = identity.convert("L")
    if grey.size != (_GREY_PX, _GREY_PX):
        grey = grey.resize((_GREY_PX, _GREY_PX), Image.Resampling.LANCZOS)
    image = decoded.rgb(scale) if decoded.is_deep else identity
    pixels = fit_to_square(clean_up(image, cleanup), image_size, resize).tobytes()
    kind, counts = (kind_of_values(decoded.values), ValueCounts.of(decoded.values)) if decoded.is_deep else ("", None)
    return grey.tobytes(), DecodedPicture(
        sha256=pixel_digest(identity),
        phash="",
        width=image.width,
        height=image.height,
        mode=decoded.mode,
        format=decoded.format,
        pixels=pixels,
        metadata_ignored=decoded.metadata_ignored,
        is_reduced=decoded.is_reduced,
        kind=kind,
        counts=counts,
    )


def _chunks(entries: Iterable[zipfile.ZipInfo], *, picture_bytes: int) -> Iterator[list[zipfile.ZipInfo]]:
    """Cut the work into pieces of bounded memory, the same ones whatever the number of threads."""
    chunk: list[zipfile.ZipInfo] = []
    held = 0
    for entry in entries:
        chunk.append(entry)
        held += entry.file_size + picture_bytes
        if held >= _CHUNK_BYTES or len(chunk) == CHUNK_FILES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _in_order(work: Callable[[T], R], tasks: Iterator[T], workers: int) -> Iterator[R]:
    """Results in the order of the tasks, at most two tasks a worker in flight."""
    if workers == 1:
        yield from map(work, tasks)
        return
    with ThreadPoolExecutor(workers) as pool:
        flying: deque[Future[R]] = deque(pool.submit(work, task) for task in islice(tasks, 2 * workers))
        while flying:
            result = flying.popleft().result()
            flying.extend(pool.submit(work, task) for task in islice(tasks, 1))
            yield result


def _write_rows(
    path: Path, images: Sequence[str], outcomes: Iterable[DecodedPicture | str], *, image_size: int, found: _Streamed
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Append each usable picture to a .npy file, and list it or the reason why there is none.

    What is found besides goes to ``found``. Plain writes and not a memory map: the pages of a map that were written to would count as this
    process's memory.
    """
    rows: list[tuple[str | int, ...]] = []
    rejected: list[tuple[str, str]] = []
    with path.open("wb") as file:
        _write_header(file, 0, image_size)
        for n, (image, outcome) in enumerate(zip(images, outcomes, strict=True), start=1):
            progress.show("files read", n, len(images))
            where = found.placing.place(image)
            if where is not None and not (isinstance(outcome, str) and PurePosixPath(image).suffix.lower() in TEXT_SUFFIXES):
                day, _, label = where
                found.places.setdefault((day, label), []).append(image)
            if isinstance(outcome, str):
                rejected.append((image, outcome))
            elif where is None:
                rejected.append((image, "in no class folder"))
            else:
                o, (day, split, label) = outcome, where
                rows.append((image, len(rows), label, day, o.sha256, o.phash, o.width, o.height, o.mode, o.format, split))
                file.write(o.pixels)
                found.metadata_ignored += [image] if o.metadata_ignored else []
                found.reduced += [image] if o.is_reduced else []
        file.seek(0)
        _write_header(file, len(rows), image_size)
    names = ["image", "row", "label", "day", "sha256", "phash", "width", "height", "mode", "format", "given_split"]
    manifest = pd.DataFrame(rows, columns=names)
    if not found.placing.layout.splits or (found.placing.told and manifest.loc[manifest["label"] != "", "given_split"].nunique() < 2):
        del manifest["given_split"]
    return manifest, pd.DataFrame(rejected, columns=["image", "reason"])


def _write_header(file: io.BufferedWriter, n_images: int, image_size: int) -> None:
    """A .npy header; NumPy leaves room in it for the first axis to grow, so its length does not depend on ``n_images``."""
    shape = (n_images, image_size, image_size, 3)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def check_readable(manifest: pd.DataFrame, quarantine: pd.DataFrame, *, max_rejected_rate: float, needs_classes: bool) -> None:
    """Refuse files of which too many cannot be used.

    Parameters
    ----------
    manifest : DataFrame
        One row an image.
    quarantine : DataFrame
        Columns ``image, reason``.
    max_rejected_rate : float
        In [0, 1].
    needs_classes : bool
        Whether images have to lie in class folders.

    Raises
    ------
    BCCPError
        Names the first culprit and what would be accepted.
    """
    total = len(manifest) + len(quarantine)
    first = f"{quarantine['image'].iloc[0]!r} ({quarantine['reason'].iloc[0]})" if len(quarantine) else "there are no files"
    if not len(manifest):
        where = " in a class folder" if needs_classes else ""
        raise BCCPError(f"none of the {total} files is a readable image{where}; the first: {first}")
    if len(quarantine) > max_rejected_rate * total:
        raise BCCPError(
            f"{len(quarantine)} of {total} files cannot be used ({len(quarantine) / total:.2%}, more than "
            f"preprocessing.max_rejected_rate={max_rejected_rate:g}); the first: {first}; mend or remove them, or raise the key"
        )


def lost_classes(places: Mapping[tuple[str, str], Sequence[str]], manifest: pd.DataFrame) -> dict[tuple[str, str], list[str]]:
    """Find classes of which nothing can be read.

    Parameters
    ----------
    places : mapping of (str, str) to sequence of str
        Day and class of all files that may be images, readable or not.
    manifest : DataFrame
        ``day, label`` of those that are.

    Returns
    -------
    dict of (str, str) to list of str
        Day and class, sorted, with the files.
    """
    read = set(zip(manifest["day"], manifest["label"], strict=True))
    return {where: list(files) for where, files in sorted(places.items()) if where not in read and where[1]}


def _lost_sentence(lost: Mapping[tuple[str, str], Sequence[str]], quarantine: pd.DataFrame) -> str:
    """Find the classes of which nothing can be read, each with the reason."""
    reason = dict(zip(quarantine["image"], quarantine["reason"], strict=True))
    parts = []
    for (day, label), files in list(lost.items())[:_EXAMPLES]:
        shown = f"{label!r}{f' of {day}' if day else ''}"
        first = next((f", {name!r}: {reason[name]}" for name in files if name in reason), "")
        parts.append(f"{shown} ({len(files)} {'file' if len(files) == 1 else 'files'}{first})" if files else f"{shown} (an empty folder)")
    more = f" and {len(lost) - _EXAMPLES} more" if len(lost) > _EXAMPLES else ""
    return f"no image can be read of the {'class' if len(lost) == 1 else 'classes'} {'; '.join(parts)}{more}"


def _check_classes(manifest: pd.DataFrame) -> None:
    """Refuse images that nothing can be learned from; a label in the column ``label`` may be empty (unknown).

    Raises
    ------
    BCCPError
        Names the class and what would be accepted.
    """
    per_class = manifest.loc[manifest["label"] != "", "label"].value_counts().sort_index()
    if len(per_class) < 2:
        named = f"all labelled images are of one class, {per_class.index[0]!r}" if len(per_class) else "no image has a class folder"
        raise BCCPError(f"{named}: at least two class folders with images are needed")
    single = per_class.index[per_class == 1].tolist()
    if single:
        alike = KnownNames(set(per_class.index) - set(single)).describe_similar(single[0])
        raise BCCPError(f"only one image in the class {few(single)}{alike}: each class needs at least two, and more to be split well")


def describe(manifest: pd.DataFrame, quarantine: pd.DataFrame, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """Report on the images: how many, of what kinds and sizes, which repeat, which look odd.

    Parameters
    ----------
    manifest : DataFrame
        One row an image: ``image, label, day, sha256, phash, width, height, mode, format``.
    quarantine : DataFrame
        ``image, reason``.
    images : ndarray of uint8, shape (n, S, S, 3)
        Their pictures, in the order of ``row``.

    Returns
    -------
    dict
        Ready for JSON, in a fixed order; examples are cut to the first 20.
    """
    total = len(manifest) + len(quarantine)
    exact = _repeated(manifest, "sha256")
    near = _repeated(manifest[manifest["phash"] != ""].drop_duplicates("sha256"), "phash")
    long, short = manifest[["width", "height"]].max(axis=1), manifest[["width", "height"]].min(axis=1)
    odd = {
        "extreme_aspect_ratio": long >= EXTREME_ASPECT * short,
        "nearly_constant": is_nearly_constant(manifest, lambda rows: [images[row].mean(axis=2).std() for row in rows]),
        "tiny": short < TINY_PX,
    }
    return {
        "images": len(manifest),
        "rejected": len(quarantine),
        "rejected_rate": len(quarantine) / total if total else 0.0,
        "rejected_by_reason": _counts(quarantine["reason"].str.split(":").str[0]),
        "classes": _counts(manifest.loc[manifest["label"] != "", "label"]),
        "unlabelled": int((manifest["label"] == "").sum()),
        "days": _counts(manifest.loc[manifest["day"] != "", "day"]),
        "formats": _counts(manifest["format"] + " " + manifest["mode"]),
        "size_px": {side: _spread(manifest[side]) for side in ("width", "height")},
        "exact_duplicates": _groups(manifest, exact),
        "near_duplicates": _groups(manifest, near),
        "anomalies": {
            name: {"images": int(mask.sum()), "examples": manifest.loc[mask, "image"].head(_EXAMPLES).tolist()}
            for name, mask in odd.items()
        },
    }


def notes(report: Mapping[str, Any]) -> list[str]:
    """List what the user of an unusual set has to know, a line each.

    Parameters
    ----------
    report : mapping
        From :func:`clean`.
    """
    lines = [grey_levels.sentence(kind, told, report.get("range")) for kind, told in report.get("grey_values", {}).items()]
    for one in report.get("remedies", []):
        lines.append(f"{one['files']} {'file' if one['files'] == 1 else 'files'}, such as {one['example']!r}: {one['reason']}")
    if reduced := report.get("reduced_to_8_bits"):
        what = "colour images have 16 bits a channel, of which the upper 8 are used (preprocessing.range does not concern them)"
        lines.append(f"{reduced['images']} {what}, such as {reduced['examples'][0]!r}")
    if ignored := report.get("metadata_ignored"):
        what = "images have metadata that cannot be read, and perhaps an orientation in them: they were ignored"
        lines.append(f"{ignored['images']} {what}, such as {ignored['examples'][0]!r}")
    if n := report.get("told_apart"):
        lines.append(f"{n} images share another's perceptual hash and differ by more than preprocessing.near_copy_tolerance: no copies")
    if lost := report.get("lost_classes"):
        lines.append(f"preprocessing.allow_lost_classes=true: {lost}")
    return lines


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items()))


def _spread(values: pd.Series[int]) -> dict[str, float]:
    if not len(values):
        return {}
    return {"min": int(values.min()), "median": float(values.median()), "max": int(values.max())}


def _repeated(manifest: pd.DataFrame, key: str) -> list[list[int]]:
    """Positions (index labels) of images that share a value of ``key``, group by group in the order of the first."""
    shared = manifest[manifest.duplicated(key, keep=False)]
    return [group.index.tolist() for _, group in shared.groupby(key, sort=False)]


def _groups(manifest: pd.DataFrame, groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Count groups of repeated images, the copies in them beyond the first, and the groups whose labels contradict each other."""
    examples, conflicts = [], []
    for group in groups:
        members = manifest.loc[list(group)]
        example = members["image"].head(_EXAMPLES).tolist()
        examples.append(example)
        if members.loc[members["label"] != "", "label"].nunique() > 1:
            conflicts.append(example)
    return {
        "groups": len(groups),
        "copies": sum(len(group) - 1 for group in groups),
        "across_classes": len(conflicts),
        "examples": examples[:_EXAMPLES],
        "examples_across_classes": conflicts[:_EXAMPLES],
    }
