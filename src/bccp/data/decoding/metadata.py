"""What an image file says besides its pixels: read as far as it can be, and cut out where it keeps the pixels from being read.

Only the orientation matters here. Colour profiles, texts and resolutions are not used, so that a fault in them is no fault of the picture.
Nothing here touches pixels: what is damaged in them stays damaged.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from PIL import Image

ORIENTATION = 0x0112
PHOTOMETRIC, BITS_PER_SAMPLE, SAMPLE_FORMAT = 262, 258, 339

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture upright, by the value of EXIF's tag Orientation; 1 is upright, and 0 says nothing."""

_PIXEL_TAGS = frozenset(
    {254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339, 347, 529, 530, 531, 532}
)
"""Tags of TIFF without which the pixels cannot be read; all others are about them."""

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGERS = {1: "B", 3: "H", 4: "L", 6: "b", 7: "B", 8: "h", 9: "l", 16: "Q", 17: "q"}


class Stripped(NamedTuple):
    """A file without its metadata.

    Attributes
    ----------
    data : bytes
        The file with what its pixels need.
    orientation : int or None
        EXIF's value, 1 to 8, of metadata that were left out, 1 where they have none; None where the file still brings its own.
    """

    data: bytes
    orientation: int | None


@dataclass(frozen=True)
class TiffDirectory:
    """The first directory of a TIFF file, or of EXIF, which is laid out as one.

    Attributes
    ----------
    data : bytes
    order : {"<", ">"}
        Of bytes.
    big : bool
        BigTIFF.
    start : int
        Where the first entry lies.
    announced : int
        How many entries there should be; the data may end before.
    """

    data: bytes
    order: str
    big: bool
    start: int
    announced: int

    @classmethod
    def first(cls, data: bytes) -> TiffDirectory | None:
        """Find it; None where the data are no TIFF file, or end before it."""
        order = {b"II": "<", b"MM": ">"}.get(data[:2])
        if order is None:
            return None
        try:
            (version,) = struct.unpack_from(f"{order}H", data, 2)
            if version not in (42, 43):
                return None
            big = version == 43
            (place,) = struct.unpack_from(f"{order}{'Q' if big else 'L'}", data, 8 if big else 4)
            (announced,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, place)
        except struct.error:
            return None
        return cls(data, order, big, place + (8 if big else 2), announced)

    @property
    def entry_bytes(self) -> int:
        """Size of an entry."""
        return 20 if self.big else 12

    def entries(self) -> Iterator[tuple[int, int, int, int]]:
        """Tag, type, number of values, and place in the data, of each whole entry."""
        for number in range(min(self.announced, (len(self.data) - self.start) // self.entry_bytes)):
            place = self.start + number * self.entry_bytes
            yield (*struct.unpack_from(f"{self.order}HH{'Q' if self.big else 'L'}", self.data, place), place)

    def numbers(self, tag: int) -> list[int]:
        """Integer values of a tag; none where it is missing, of another type, or beyond the data."""
        inside = 8 if self.big else 4
        for found, kind, count, place in self.entries():
            if found == tag and kind in _INTEGERS and 0 < count <= 64:
                at = place + self.entry_bytes - inside
                try:
                    if count * _SIZES[kind] > inside:
                        (at,) = struct.unpack_from(f"{self.order}{'Q' if self.big else 'L'}", self.data, at)
                    return list(struct.unpack_from(f"{self.order}{count}{_INTEGERS[kind]}", self.data, at))
                except struct.error:
                    return []
        return []

    @property
    def is_whole(self) -> bool:
        """True where all entries that are announced are there."""
        return self.start + self.announced * self.entry_bytes <= len(self.data)


def turned_upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """Turn a decoded picture by its EXIF or XMP orientation.

    Returns
    -------
    image : PIL.Image.Image
        The same where it is upright, or its orientation is not known.
    readable : bool
        False where there is an orientation, or metadata that may well hold one, and it cannot be read.
    """
    blob = image.info.get("exif")
    blob = blob if isinstance(blob, bytes) else b""
    try:
        value = image.getexif().get(ORIENTATION)
        readable = value is not None or _is_whole_exif(blob)
    except Exception:  # of metadata that may hold anything: struct.error, ValueError, SyntaxError, UnicodeError, ...
        value = _exif_orientation(blob)
        readable = value is not None
    if value is None:
        return image, readable
    number = _orientation_number(value)
    readable &= number is not None
    turn = _TURNS.get(number or 1)
    return (image if turn is None else image.transpose(turn)), readable


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Turn a picture by a value of EXIF's tag Orientation."""
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _orientation_number(value: Any) -> int | None:
    """Convert a tag's value of any type to an orientation: 1 to 8, 1 also for 0, which says nothing; None for anything else."""
    if isinstance(value, tuple | list) and value:
        value = value[0]
    if isinstance(value, bytes):
        value = value[0] if len(value) == 1 else value.decode("latin-1").strip("\0 ")
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return max(int(number), 1) if number in range(9) else None


def _without_prefix(exif: bytes) -> bytes:
    return re.sub(rb"^(Exif\x00\x00){1,2}", b"", exif)


def _is_whole_exif(exif: bytes) -> bool:
    """Return True for EXIF data that hold all that they announce, and for none at all."""
    if not exif:
        return True
    directory = TiffDirectory.first(_without_prefix(exif))
    return directory is not None and directory.is_whole


def _exif_orientation(exif: bytes) -> int | None:
    """The orientation, read by itself, whatever else the EXIF data hold."""
    directory = TiffDirectory.first(_without_prefix(exif))
    found = directory.numbers(ORIENTATION) if directory else []
    return found[0] if found else None


def stripped(data: bytes) -> Stripped | None:
    """Leave out of a JPEG, PNG, AVIF or TIFF file what its pixels do not need.

    Parameters
    ----------
    data : bytes
        A file that cannot be read as it is.

    Returns
    -------
    Stripped or None
        None where there is nothing to leave out. The orientation of a TIFF or AVIF file stays in it.
    """
    if data.startswith(b"\xff\xd8"):
        found = _stripped_jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        found = _stripped_png(data)
    elif data[4:12] in (b"ftypavif", b"ftypavis"):
        found = _without_exif_entries(data)
    else:
        found = _stripped_tiff(data)
    return found if found is not None and found.data != data else None


def _stripped_jpeg(data: bytes) -> Stripped | None:
    """Leave out comments and application segments, but for whole ones of JFIF and Adobe, by which colours are told."""
    kept, place, orientation = [b"\xff\xd8"], 2, 1
    while True:
        place = data.find(b"\xff", place)
        if place < 0 or place + 4 > len(data):
            return None
        marker = data[place + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            place += 1  # padding, or stray bytes, which decoders skip too
            continue
        if marker in (0xDA, 0xD9):
            kept.append(data[place:])
            return Stripped(b"".join(kept), orientation)
        end = place + 2 + max(int.from_bytes(data[place + 2 : place + 4], "big"), 2)
        segment = data[place:end]
        content = segment[4:]
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            orientation = _orientation_number(_exif_orientation(content)) or 1
        telling = (marker == 0xE0 and content.startswith(b"JFIF\0") and len(content) >= 14) or (
            marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12
        )
        if telling or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        place = end


def _stripped_png(data: bytes) -> Stripped:
    """Leave out ancillary chunks, but for transparency."""
    kept, place, orientation = [data[:8]], 8, 1
    while place + 8 <= len(data):
        kind = data[place + 4 : place + 8]
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if kind == b"eXIf":
            orientation = _orientation_number(_exif_orientation(data[place + 8 : end - 4])) or 1
        if kind == b"tRNS" or not kind[:1].islower():
            kept.append(data[place:end])
        place = end
    return Stripped(b"".join([*kept, data[place:]]), orientation)


def _stripped_tiff(data: bytes) -> Stripped | None:
    """Leave out of the first directory what is not about the pixels; further directories are no longer found."""
    directory = TiffDirectory.first(data)
    if directory is None:
        return None
    number, offset = ("Q", "Q") if directory.big else ("H", "L")
    kept = [data[place : place + directory.entry_bytes] for tag, _, _, place in directory.entries() if tag in _PIXEL_TAGS]
    if (orientation := directory.numbers(ORIENTATION)) and orientation[0] in _TURNS:
        kept.append(next(data[place : place + directory.entry_bytes] for tag, _, _, place in directory.entries() if tag == ORIENTATION))
        kept.sort(key=lambda entry: struct.unpack_from(f"{directory.order}H", entry)[0])
    begin = directory.start - (8 if directory.big else 2)
    head = struct.pack(f"{directory.order}{number}", len(kept)) + b"".join(kept) + struct.pack(f"{directory.order}{offset}", 0)
    return Stripped(data[:begin] + head + data[begin + len(head) :], None)


def _without_exif_entries(data: bytes) -> Stripped:
    """Empty the directory of EXIF data within a container, in place, so that all other places in it stay where they are."""
    changed = bytearray(data)
    for found in re.finditer(rb"II\*\x00\x08\x00\x00\x00|MM\x00\*\x00\x00\x00\x08", data):
        changed[found.end() : found.end() + 2] = b"\x00\x00"
    return Stripped(bytes(changed), None)


def with_black_zero(data: bytes) -> tuple[bytes, bool]:
    """Have a TIFF file of more than 8 bits whose zero is white (min-is-white) read as though it were black.

    Pillow turns such tones round for up to 8 bits, but not beyond, where it reads some of these files as they are and others not at all.

    Returns
    -------
    data : bytes
        With another photometric interpretation where that was needed.
    is_min_white : bool
        Whether tones are to be turned round after decoding.
    """
    directory = TiffDirectory.first(data)
    if directory is None or directory.numbers(PHOTOMETRIC)[:1] != [0] or max(directory.numbers(BITS_PER_SAMPLE), default=1) <= 8:
        return data, False
    place = next(place for tag, _, _, place in directory.entries() if tag == PHOTOMETRIC)
    kind = struct.unpack_from(f"{directory.order}H", data, place + 2)[0]
    at = place + (12 if directory.big else 8)
    value = struct.pack(f"{directory.order}{_INTEGERS[kind]}", 1)
    return data[:at] + value + data[at + len(value) :], True


def is_raw_thumbnail(data: bytes) -> bool:
    """Return True for a camera's raw file (TIFF) whose first image is a thumbnail: a reduced one (bit 0 of NewSubfileType), in a DNG file
    or where the full one has a directory of its own (SubIFDs).
    """
    directory = TiffDirectory.first(data)
    if directory is None or not (directory.numbers(254) or [0])[0] & 1:
        return False
    return not {50706, 330}.isdisjoint(tag for tag, *_ in directory.entries())


def is_raw(data: bytes) -> bool:
    """Return True for an unreadable TIFF file that is a camera's raw file: by DNGVersion, mosaic colours, or cameras' own compressions."""
    directory = TiffDirectory.first(data)
    if directory is None:
        return False
    mosaic = (directory.numbers(PHOTOMETRIC) or [0])[0] in (32803, 34892)
    own = (directory.numbers(259) or [1])[0] in (32767, 32769, 32770, 34713, 65535)
    return mosaic or own or 50706 in (tag for tag, *_ in directory.entries())


def tiff_samples(data: bytes) -> tuple[list[int], list[int]] | None:
    """Bits per sample and sample formats (1: unsigned, 2: signed, 3: float) of a TIFF file; None where the data are none."""
    directory = TiffDirectory.first(data)
    return None if directory is None else (directory.numbers(BITS_PER_SAMPLE) or [1], directory.numbers(SAMPLE_FORMAT) or [1])
