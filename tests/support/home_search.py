"""A search of a whole folder for bytes, also in archives, compressed files and pictures that pages embed."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

_EMBEDDED = re.compile(rb"data:image/\w+;base64,([A-Za-z0-9+/=]+)")

_COMPRESSED = {b"\x1f\x8b": gzip.decompress, b"BZh": bz2.decompress, b"\xfd7zXZ\x00": lzma.decompress}


def places_with(folder: Path, *needles: bytes) -> set[str]:
    """Files below a folder, and members of archives, that hold one of some bytes, in their content or their name."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found |= {place for place, data in _contents(name, path.read_bytes()) if any(n in data or n in place.encode() for n in needles)}
    return found


def _contents(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, data
    if data.startswith(b"PK") and zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from _contents(f"{name}!{member}", archive.read(member))
        return
    for magic, decompress in _COMPRESSED.items():
        if data.startswith(magic):
            yield from _contents(f"{name}!", decompress(data))
            return
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as packed:
            for member in packed:
                if member.isfile():
                    yield from _contents(f"{name}!{member.name}", packed.extractfile(member).read())
    except tarfile.TarError:
        pass
    for number, text in enumerate(_EMBEDDED.findall(data)):
        yield f"{name}!{number}", np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")).tobytes()
