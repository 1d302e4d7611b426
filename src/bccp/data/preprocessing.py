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
import re
import warnings
import zipfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from bccp.core import progress
from bccp.core.errors import BCCPError, few
from bccp.data import own_tables, tables
from bccp.data.label_tables.columns import Columns
from bccp.data.label_tables.in_data import AUTO, REPORTED, DataLabels, find_labels, is_companion
from bccp.data.label_tables.votes import VOTES, votes_table
from bccp.data.layout import KnownNames, Layout, Place, recognize
from bccp.data.scan_filters import Cleanup, clean_up

IMAGE_FORMATS = (
    "PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "QOI", "PCX", "TGA",
)  # fmt: skip
"""Formats that are read (MPO is a kind of JPEG). Left out: what Pillow starts another program for (EPS), and rarities."""

FLAT_STD = 2.0
"""Standard deviation in grey levels (of 255) below which a picture counts as nearly constant."""

EXTREME_ASPECT = 5.0
"""Longer side : shorter side from which a picture's shape is reported as an anomaly."""

TINY_PX = 8
"""Pictures with a side shorter than this are reported as an anomaly."""

POOL_MIN_BYTES = 3000
"""Mean file size from which threads pay (measured): decoding smaller files is mostly Python, which runs in one thread at a time."""

CHUNK_FILES = 256
_CHUNK_BYTES = 4_000_000
HASH_STRIP_BYTES = 4_000_000
_EXAMPLES = 20
_GREY_PX = 32

# Rows 0..7 of the type-II DCT on 32 points, the scale that scipy's unnormalised transform has: shape (8, 32).
_DCT = 2 * np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(_GREY_PX) + 1) / (2 * _GREY_PX))

T = TypeVar("T")
R = TypeVar("R")


class UnreadableImageError(Exception):
    """A file gives no picture; the message is the reason, ``kind`` or ``kind: detail``, that the quarantine lists."""


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
    """

    sha256: str
    phash: str
    width: int
    height: int
    mode: str
    format: str
    pixels: bytes


@contextmanager
def pillow_limits(max_pixels: int) -> Iterator[None]:
    """Have Pillow refuse truncated files and bombs as errors, and tell nothing through warnings; set back at the end.

    These are settings of the whole process: enter this once around all decoding, before any threads start.

    Parameters
    ----------
    max_pixels : int
        A file whose header announces more pixels is refused before it is decoded.
    """
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    Image.init()  # loads the decoders, which two threads must not do at once
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def decode(data: bytes) -> tuple[Image.Image, str, str]:
    """Decode a file's bytes to an upright RGB picture; call it within ``pillow_limits``.

    Of an animation the first frame counts, of a file of several pages the first page. Embedded colour profiles are not applied.

    Parameters
    ----------
    data : bytes
        A whole file.

    Returns
    -------
    image : PIL.Image.Image
        Mode RGB, full size.
    mode, format : str
        Pillow's names for what the file held.

    Raises
    ------
    UnreadableImageError
        The bytes are no image, a damaged one, or one of too many pixels.
    """
    if not data:
        raise UnreadableImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as opened:
            opened.load()
            return to_rgb(opened), opened.mode, opened.format or ""
    except UnidentifiedImageError:
        raise UnreadableImageError("not an image") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"more than preprocessing.max_pixels={Image.MAX_IMAGE_PIXELS} pixels"
        raise UnreadableImageError(f"decompression bomb: {limit}") from None
    except MemoryError:
        raise  # tells about this machine, not about the file
    except Exception as error:  # decoders of damaged files raise anything: struct.error, zlib.error, IndexError, ...
        detail = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", str(error)).split()) or type(error).__name__
        kind = "truncated image" if "truncated" in detail.lower() else "damaged image"
        raise UnreadableImageError(f"{kind}: {detail}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a picture upright by its EXIF orientation and convert any mode to RGB; transparent parts become white.

    Pictures of more than 8 bits keep their top 8: 16-bit integers are divided by 257. Integers beyond 16 bits, and floats beyond both 0..1
    and 0..255, are stretched from their minimum and maximum to 0..255.

    Parameters
    ----------
    image : PIL.Image.Image
        Decoded; any mode.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    ValueError
        A mode without a way to RGB, or floats that are not finite.
    """
    upright = ImageOps.exif_transpose(image) if image.getexif() else image
    if upright.mode.startswith(("I", "F")):
        upright = Image.fromarray(_to_8_bits(np.asarray(upright)))
    if upright.has_transparency_data:
        colours = upright.convert("RGBA")
        canvas = Image.new("RGB", colours.size, "white")
        canvas.paste(colours, mask=colours.getchannel("A"))
        return canvas
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _to_8_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Grey values of any kind, shape (H, W), as uint8; see ``to_rgb``."""
    grey = values.astype(np.float64)
    low, high = float(grey.min()), float(grey.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("pixels that are not finite numbers")
    full = (1.0 if high <= 1 else 255.0) if values.dtype.kind == "f" else 65535.0
    if low < 0 or high > full:
        grey, full = grey - low, max(high - low, 1e-300)
    return np.rint(grey * (255 / full)).astype(np.uint8)


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
    """SHA-256 over an RGB picture's size and pixels, 64 hex digits; strip by strip, for a large picture's copy would double its memory."""
    width, height = image.size
    sha = hashlib.sha256(f"{width}x{height}\n".encode())
    rows = max(1, HASH_STRIP_BYTES // (3 * width))
    if rows >= height:
        sha.update(image.tobytes())
    else:
        for top in range(0, height, rows):
            sha.update(image.crop((0, top, width, min(top + rows, height))).tobytes())
    return sha.hexdigest()


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
    layout : {"auto", "classes", "subfolders"}
        See :func:`bccp.data.layout.recognize`.
    table, columns
        Which table of labels in the data counts, and what its columns mean: see :func:`bccp.data.label_tables.in_data.find_labels`. Where
        annotators are told apart, ``votes.csv`` is written, too.
    labelled_elsewhere : bool, default False
        Labels come from a file outside of the data: images in no class folders are taken without a label.
    needs_classes : bool, default True
        Otherwise classes may be too few or too small to be learnt from, or unknown.
    called : callable, optional
        How errors name the image of an id.

    Returns
    -------
    dict
        The report.

    Raises
    ------
    BCCPError
        Folders whose layout is not understood, no image in a class folder, no readable one, too many unreadable ones, or classes too few
        or too small.
    """
    with pillow_limits(max_pixels):
        manifest, quarantine, placing = _stream(
            archive,
            folder / "images.npy",
            lambda files: _placing(files, layout, table, columns or Columns(key="data.columns"), labelled_elsewhere=labelled_elsewhere),
            image_size=image_size,
            resize=resize,
            threads=threads,
            cleanup=cleanup,
        )
    report = describe(manifest, quarantine) | {"image_size": image_size, "resize": resize}
    if notes := placing.notes:
        report["layout"] = notes
    if placing.told:
        report[REPORTED] = {"tables": list(placing.told.tables), "named": table != AUTO}
    if cleanup:
        report["cleanup"] = list(cleanup)
    told = quarantine.assign(image=quarantine["image"].map(called))
    check_readable(manifest, told, max_rejected_rate=max_rejected_rate, needs_classes=needs_classes)
    if needs_classes and not placing.unlabelled:
        _check_classes(manifest)
    if placing.told and placing.told.votes:
        tables.write(votes_table(placing.told.votes), folder / VOTES)
    tables.write(manifest, folder / "manifest.csv")
    tables.write(quarantine, folder / "quarantine.csv")
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return report


@dataclass(frozen=True)
class _Placing:
    """What gives each image its day, split and label: the folders, or tables beside the images, or for the label nothing.

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
        """Whether a file is none of the images."""
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


def _stream(
    archive: Path,
    array: Path,
    find_placing: Callable[[zipfile.ZipFile], _Placing],
    *,
    image_size: int,
    resize: str,
    threads: int,
    cleanup: Cleanup,
) -> tuple[pd.DataFrame, pd.DataFrame, _Placing]:
    """Read, decode and write in chunks; the manifest and the quarantine tell of all files."""
    with zipfile.ZipFile(archive) as files:
        placing = find_placing(files)
        entries = [entry for entry in files.infolist() if not _is_no_candidate(files, entry) and not placing.is_left_out(entry.filename)]
        entries.sort(key=lambda entry: entry.filename)
        images = [entry.filename for entry in entries]
        workers = threads if sum(entry.file_size for entry in entries) >= POOL_MIN_BYTES * len(entries) else 1

        def read(chunk: list[zipfile.ZipInfo]) -> list[DecodedPicture | str]:
            return pictures([files.read(entry) for entry in chunk], image_size=image_size, resize=resize, cleanup=cleanup)

        chunks = _in_order(read, _chunks(entries, picture_bytes=3 * image_size**2), workers)
        outcomes = (outcome for chunk in chunks for outcome in chunk)
        return *_write_rows(array, images, outcomes, image_size=image_size, placing=placing), placing


def _is_no_candidate(files: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a folder, or a table such as an export leaves beside the images."""
    if entry.is_dir() or not own_tables.may_be_own_table(entry.filename):
        return entry.is_dir()
    with files.open(entry) as opened:
        return own_tables.is_own_table(entry.filename, opened.read(own_tables.HEAD_BYTES))


def pictures(files: Sequence[bytes], *, image_size: int, resize: str, cleanup: Cleanup = ()) -> list[DecodedPicture | str]:
    """Decode, fingerprint, clean up and resize some files; call it within ``pillow_limits``.

    Parameters
    ----------
    files : sequence of bytes, length n
        Whole files.
    image_size, resize
        See ``fit``.
    cleanup
        See :func:`bccp.data.scan_filters.clean_up`.

    Returns
    -------
    list of Picture or str, length n
        The picture, or the reason why there is none.
    """
    greys: list[bytes] = []
    outcomes: list[tuple[str, int, int, str, str, bytes] | str] = []
    for data in files:
        try:
            image, mode, kind = decode(data)
        except UnreadableImageError as error:
            outcomes.append(str(error))
            continue
        grey = image.convert("L")
        if grey.size != (_GREY_PX, _GREY_PX):
            grey = grey.resize((_GREY_PX, _GREY_PX), Image.Resampling.LANCZOS)
        greys.append(grey.tobytes())
        pixels = fit_to_square(clean_up(image, cleanup), image_size, resize).tobytes()
        outcomes.append((pixel_digest(image), *image.size, mode, kind, pixels))
    stack = np.frombuffer(b"".join(greys), np.uint8).reshape(-1, _GREY_PX, _GREY_PX)
    hashes = iter(perceptual_hashes(stack))
    return [found if isinstance(found, str) else DecodedPicture(found[0], next(hashes), *found[1:]) for found in outcomes]


def is_image(data: bytes) -> bool:
    """Return True for bytes that begin like an image of a format that is read."""
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS):
            return True
    except Exception:  # as in ``decode``
        return False


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
    path: Path, images: Sequence[str], outcomes: Iterable[DecodedPicture | str], *, image_size: int, placing: _Placing
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Append each usable picture to a .npy file, and list it or the reason why there is none.

    Plain writes and not a memory map: the pages of a map that were written to would count as this process's memory.
    """
    rows: list[tuple[str | int, ...]] = []
    rejected: list[tuple[str, str]] = []
    with path.open("wb") as file:
        _write_header(file, 0, image_size)
        for n, (image, outcome) in enumerate(zip(images, outcomes, strict=True), start=1):
            progress.show("files", n, len(images))
            where = placing.place(image)
            if isinstance(outcome, str):
                rejected.append((image, outcome))
            elif where is None:
                rejected.append((image, "in no class folder"))
            else:
                o, (day, split, label) = outcome, where
                rows.append((image, len(rows), label, day, o.sha256, o.phash, o.width, o.height, o.mode, o.format, split))
                file.write(o.pixels)
        file.seek(0)
        _write_header(file, len(rows), image_size)
    names = ["image", "row", "label", "day", "sha256", "phash", "width", "height", "mode", "format", "given_split"]
    manifest = pd.DataFrame(rows, columns=names)
    if not placing.layout.splits or (placing.told and manifest.loc[manifest["label"] != "", "given_split"].nunique() < 2):
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


def describe(manifest: pd.DataFrame, quarantine: pd.DataFrame) -> dict[str, Any]:
    """Report on the images: how many, of what kinds and sizes, which repeat, which look odd.

    Parameters
    ----------
    manifest : DataFrame
        One row an image: ``image, label, day, sha256, phash, width, height, mode, format``.
    quarantine : DataFrame
        ``image, reason``.

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
        "nearly_constant": manifest["phash"] == "",
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
