"""Image files of kinds that Pillow does not write, and faults in others, byte by byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_FORMATS = {"u": 1, "i": 2, "f": 3, "b": 1}
_LETTERS = {1: "B", 3: "H", 4: "L", 5: "LL", 10: "ll"}

Tag = tuple[int, int, tuple[int, ...] | bytes]
"""Number, type and values of a TIFF tag; of rationals numerator and denominator in turn."""


def tiff(
    pixels: npt.NDArray[np.generic],
    *,
    photometric: int | None = 1,
    order: str = "<",
    deflated: bool = False,
    strip_rows: int | None = None,
    tile: int | None = None,
    bits: int | None = None,
    tags: Iterable[Tag] = (),
    next_page: bytes = b"",
) -> bytes:
    """A TIFF file of one page.

    Parameters
    ----------
    pixels : ndarray, shape (H, W) or (H, W, channels)
        Of any kind of number; bool: one bit.
    photometric : int, optional
        0: low values are white; 1: they are black; 2: RGB. None: the tag is missing.
    order : {"<", ">"}
        Of bytes.
    deflated : bool
        Compressed, which sends Pillow through libtiff.
    strip_rows, tile : int, optional
        Height of a strip, or side of a tile, in px; without both one strip.
    bits : int, optional
        Packed so, for unsigned numbers of fewer bits than their type has.
    tags : iterable of Tag
        More tags; one of the own numbers takes their place.
    """
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    depth = bits or (1 if pixels.dtype == bool else 8 * pixels.dtype.itemsize)

    def packed(part: npt.NDArray[np.generic]) -> bytes:
        if part.dtype == bool:
            data = np.packbits(part, axis=1).tobytes()
        elif bits:
            wide = part[..., None].astype(np.uint32) >> np.arange(bits - 1, -1, -1, dtype=np.uint32) & 1
            data = np.packbits(wide.reshape(part.shape[0], -1).astype(np.uint8), axis=1).tobytes()
        else:
            data = part.astype(part.dtype.newbyteorder(order)).tobytes()
        return zlib.compress(data) if deflated else data

    if tile:
        full = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile, *pixels.shape[2:]), pixels.dtype)
        full[:height, :width] = pixels
        spans = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
        pieces = [packed(full[top : top + tile, left : left + tile]) for top, left in spans]
    else:
        rows = strip_rows or height
        pieces = [packed(pixels[top : top + rows]) for top in range(0, height, rows)]
    body, places = b"", []
    for piece in pieces:
        places.append(8 + len(body))
        body += piece + b"\0" * (len(piece) % 2)
    sizes = tuple(len(piece) for piece in pieces)
    own: dict[int, tuple[int, tuple[int, ...] | bytes]] = {
        256: (4, (width,)),
        257: (4, (height,)),
        258: (3, (depth,) * channels),
        259: (3, (8 if deflated else 1,)),
        277: (3, (channels,)),
        339: (3, (_FORMATS[pixels.dtype.kind],) * channels),
    }
    if tile:
        own |= {322: (4, (tile,)), 323: (4, (tile,)), 324: (4, tuple(places)), 325: (4, sizes)}
    else:
        own |= {273: (4, tuple(places)), 278: (4, (strip_rows or height,)), 279: (4, sizes)}
    if photometric is not None:
        own[262] = (3, (photometric,))
    own |= {number: (kind, values) for number, kind, values in tags}
    return _directory(own, order, 8 + len(body), head=_head(order, 8 + len(body)) + body)


def exif(tags: Iterable[Tag], order: str = "<", *, prefix: bytes = b"Exif\0\0") -> bytes:
    """EXIF data with these tags."""
    return prefix + _directory({number: (kind, values) for number, kind, values in tags}, order, 8, head=_head(order, 8))


def _head(order: str, place: int) -> bytes:
    return (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HL", 42, place)


def _directory(tags: dict[int, tuple[int, tuple[int, ...] | bytes]], order: str, place: int, *, head: bytes) -> bytes:
    entries, more = b"", b""
    beyond = place + 2 + 12 * len(tags) + 4
    for number, (kind, values) in sorted(tags.items()):
        if isinstance(values, bytes):
            count, content = len(values), values
        else:
            letters = _LETTERS[kind]
            count = len(values) // len(letters)
            content = struct.pack(f"{order}{letters * count}", *values)
        entry = struct.pack(f"{order}HHL", number, kind, count)
        if len(content) > 4:
            entry += struct.pack(f"{order}L", beyond + len(more))
            more += content + b"\0" * (len(content) % 2)
        else:
            entry += content.ljust(4, b"\0")
        entries += entry
    return head + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}L", 0) + more


def jpeg_with(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG file with more segments behind its start; a marker and its content, or with the marker 0 bytes as they are."""
    more = (content if marker == 0 else struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for marker, content in segments)
    return data[:2] + b"".join(more) + data[2:]


def png_chunk(kind: bytes, content: bytes, *, checksum: int | None = None) -> bytes:
    """A chunk of a PNG file, with its own checksum or with another."""
    return (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content) if checksum is None else checksum)
    )


def png_with(data: bytes, *chunks: bytes, at_end: bool = False) -> bytes:
    """A PNG file with more chunks, behind its header or before its end."""
    place = len(data) - 12 if at_end else 33
    return data[:place] + b"".join(chunks) + data[place:]
