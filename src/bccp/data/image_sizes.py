"""Sizes of the images in an archive, from their headers: no picture is decoded."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

import numpy as np

from bccp.data.decoding.file_kinds import kind_of
from bccp.data.decoding.image_files import header_size, pillow_limits

FILE = "image_sizes.json"
"""Of the folder that :func:`write` fills."""

_HEAD_BYTES = 65_536
"""Of each file so many are read first: as much as holds the header of a photograph with a preview and a profile in front of it."""


def shorter_sides(archive: Path) -> list[int]:
    """Read the shorter side of each image.

    Parameters
    ----------
    archive : Path
        Zip file. What is no image, or one whose header cannot be read, is passed over.

    Returns
    -------
    list of int
        In px, in the order of the archive.
    """
    with pillow_limits(sys.maxsize), zipfile.ZipFile(archive) as files:
        sizes = [_size(files, entry) for entry in files.infolist() if not entry.is_dir()]
    return [min(size) for size in sizes if size is not None]


def _size(files: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[int, int] | None:
    """Size of an image by the beginning of its file, or by the whole file where some formats need it."""
    try:
        with files.open(entry) as file:
            head = file.read(_HEAD_BYTES)
        size = header_size(head)
        return header_size(files.read(entry)) if size is None and entry.file_size > len(head) and not kind_of(head) else size
    except (zipfile.BadZipFile, OSError, EOFError):
        return None


def write(archive: Path, folder: Path) -> None:
    """Write the number of readable images of an archive and the median of their shorter sides; arguments as for :func:`shorter_sides`."""
    sides = shorter_sides(archive)
    found = {"images": len(sides), "median_shorter_side": float(np.median(sides)) if sides else None}
    (folder / FILE).write_text(json.dumps(found) + "\n", encoding="utf-8")


def median_shorter_side(folder: Path) -> float | None:
    """The median, in px, that :func:`write` has left; None where no image could be read."""
    found: float | None = json.loads((folder / FILE).read_text(encoding="utf-8"))["median_shorter_side"]
    return found
