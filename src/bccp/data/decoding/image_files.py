"""An image file's bytes decoded to an upright picture, whatever the file's format and mode, with faults of its metadata overlooked."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from bccp.data.decoding import metadata
from bccp.data.decoding.file_kinds import RAW, is_heic, kind_of
from bccp.data.decoding.grey_levels import Range, is_deep_mode, to_8_bits

IMAGE_FORMATS = (
    "PNG", "JPEG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "QOI", "PCX", "TGA",
)  # fmt: skip
"""Formats that are read (MPO is a kind of JPEG). Left out: what Pillow starts another program for (EPS), and rarities. HEIF is read too
where pi-heif is installed."""

_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

_SAMPLES = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
"""TIFF's sample formats in words."""

MAX_PIXELS = 100_000_000
"""The default of ``preprocessing.max_pixels``."""

_KEPT_BLOCKS = 64
"""Blocks of 16 MB that Pillow keeps for the next picture. No more than were in use at once: so the peak of the memory stays as it is, and
the system need not clear new pages for each large picture, up to a fifth of the time that it takes."""


class UnreadableImageError(Exception):
    """A file gives no picture; the message is the reason, ``kind`` or ``kind: detail``, that the quarantine lists."""


class TooManyPixelsError(UnreadableImageError):
    """A file whose header announces more pixels than are decoded."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"decompression bomb: more than preprocessing.max_pixels={limit} pixels")


@dataclass(frozen=True)
class DecodedFile:
    """A picture as its file holds it.

    Attributes
    ----------
    image : PIL.Image.Image
        Upright, full size, any mode.
    mode, format : str
        Pillow's names for what the file held.
    is_unsigned : bool
        Integers of 32 bits without a sign, which Pillow takes for signed ones.
    is_min_white : bool
        Grey values of more than 8 bits, of which low ones are bright.
    is_reduced : bool
        Colours of 16 bits a channel, of which Pillow keeps the upper 8.
    metadata_ignored : bool
        Metadata could not be read: an orientation may be missing.
    """

    image: Image.Image
    mode: str
    format: str
    is_unsigned: bool = False
    is_min_white: bool = False
    is_reduced: bool = False
    metadata_ignored: bool = False

    @functools.cached_property
    def is_deep(self) -> bool:
        """True for grey values of more than 8 bits, which a range scales."""
        return is_deep_mode(self.image.mode)

    @functools.cached_property
    def values(self) -> npt.NDArray[Any]:
        """Grey values as the file holds them, shape (H, W), of a deep picture."""
        pixels: npt.NDArray[Any] = np.asarray(self.image)
        return pixels.view(np.uint32) if self.is_unsigned else pixels

    def rgb(self, scale: Range = None) -> Image.Image:
        """Convert it to RGB; transparent parts become white.

        Parameters
        ----------
        scale : Range
            What becomes black and white where it is deep: see :mod:`bccp.data.decoding.grey_levels`.

        Raises
        ------
        UnreadableImageError
            A mode without a way to RGB, or values that are not finite.
        """
        try:
            if self.is_deep:
                return Image.fromarray(to_8_bits(self.values, scale, min_is_white=self.is_min_white)).convert("RGB")
            return to_rgb(self.image)
        except ValueError as error:
            raise UnreadableImageError(f"damaged image: {error}") from error

    def identity(self) -> Image.Image:
        """The RGB picture that its fingerprints are of: it depends on nothing but its own values, whatever the range of the set.

        It is scaled by the range of the type; by its own lowest and highest values where nothing would be left of them.
        """
        picture = self.rgb()
        if self.is_deep and not np.ptp(np.asarray(picture)):
            return self.rgb("file")
        return picture


@contextmanager
def pillow_limits(max_pixels: int) -> Iterator[None]:
    """Have Pillow refuse truncated files and bombs as errors, tell nothing through warnings and use its memory again; set back at the end.

    These are settings of the whole process: enter this once around all decoding, before any threads start.

    Parameters
    ----------
    max_pixels : int
        A file whose header announces more pixels is refused before it is decoded.
    """
    memory: Any = Image.core  # type: ignore[attr-defined]  # documented, but not typed
    before, blocks = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES), memory.get_blocks_max()
    Image.init()  # loads the decoders, which two threads must not do at once
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = max_pixels, False
        memory.set_blocks_max(max(blocks, _KEPT_BLOCKS))
        try:
            yield
        finally:
            memory.set_blocks_max(blocks)  # frees what is kept beyond
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def decode(data: bytes, *, max_pixels: int | None = None) -> DecodedFile:
    """Decode a file's bytes to an upright picture; call it within ``pillow_limits``.

    Of an animation the first frame counts, of a file of several pages the first page. Embedded colour profiles are not applied. Where
    metadata keep the pixels from being read, they are left out.

    Parameters
    ----------
    data : bytes
        A whole file.
    max_pixels : int, optional
        A limit below that of ``pillow_limits``.

    Returns
    -------
    DecodedFile

    Raises
    ------
    UnreadableImageError
        The bytes are no image, a damaged one, or one of too many pixels.
    """
    if not data:
        raise UnreadableImageError("empty file")
    try:
        return _decoded(data, max_pixels=max_pixels)
    except (UnreadableImageError, MemoryError):  # the latter tells about this machine, not about the file
        raise
    except Exception as error:  # decoders of damaged files raise anything: struct.error, zlib.error, IndexError, ...
        if (bare := metadata.stripped(data)) is not None:
            try:
                return _decoded(bare.data, bare.orientation, metadata_ignored=True, max_pixels=max_pixels)
            except (UnreadableImageError, MemoryError):
                raise
            except Exception as still:
                raise UnreadableImageError(_reason(still, bare.data)) from error
        raise UnreadableImageError(_reason(error, data)) from error


def _decoded(data: bytes, orientation: int | None = None, *, metadata_ignored: bool = False, max_pixels: int | None = None) -> DecodedFile:
    """Decode; a known ``orientation`` takes the place of the file's own."""
    is_tiff, is_min_white, samples = data.startswith((b"II", b"MM")), False, None
    if is_tiff:
        if metadata.is_raw_thumbnail(data):
            raise UnreadableImageError(f"{RAW} (its first image is but a thumbnail)")
        data, is_min_white = metadata.with_black_zero(data)
        samples = metadata.tiff_samples(data)
    formats = ("HEIF",) if is_heic(data) and _heif_is_read() else IMAGE_FORMATS
    try:
        with Image.open(io.BytesIO(data), formats=formats) as opened:
            if max_pixels is not None and opened.width * opened.height > max_pixels:
                raise TooManyPixelsError(max_pixels)
            mode, file_format = opened.mode, opened.format or ""
            is_reduced = not is_deep_mode(mode) and any(";16" in str(tile.args) for tile in opened.tile)
            if is_tiff:
                _expect_native_order(opened)
            opened.load()
            readable = True
            if orientation is None:
                image, readable = metadata.turned_upright(opened)
            else:
                image = metadata.turned(opened, orientation)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise TooManyPixelsError(int(Image.MAX_IMAGE_PIXELS or 0)) from None
    is_unsigned = mode == "I" and samples == ([32], [1])
    if mode == "L" and samples == ([8], [2]):  # signed, which Pillow takes for unsigned
        image, mode = Image.fromarray(np.asarray(image).view(np.int8).astype(np.int32)), "I"
    return DecodedFile(image, mode, file_format, is_unsigned, is_min_white, is_reduced, metadata_ignored or not readable)


def _expect_native_order(opened: Image.Image) -> None:
    """Have what libtiff gives read in the machine's order of bytes, which it has whatever the file's: Pillow does so for unsigned integers
    alone, and turns the bytes of signed ones and of floats round.
    """
    if isinstance(opened, ImageFile.ImageFile) and [tile.codec_name for tile in opened.tile] == ["libtiff"]:
        (tile,) = opened.tile
        if isinstance(tile.args, tuple):
            raw_mode = re.sub(r"^([IF];\d+)B?([SF])$", r"\1N\2", str(tile.args[0]))
            opened.tile = [tile._replace(args=(raw_mode, *tile.args[1:]))]


def _reason(error: Exception, data: bytes) -> str:
    """Error of a file that gives no picture."""
    if (kind := kind_of(data)) and not (is_heic(data) and _heif_is_read()):
        return kind
    if metadata.is_raw(data):
        return f"{RAW} (TIFF)"
    if isinstance(error, UnidentifiedImageError):
        if (samples := metadata.tiff_samples(data)) is not None:
            bits, kinds = "+".join(map(str, samples[0])), "+".join(_SAMPLES.get(kind, "unknown") for kind in sorted(set(samples[1])))
            return f"TIFF file that Pillow does not read: samples of {bits} bits, {kinds}; save it with 8 or 16 bits, or as 32-bit float"
        if data.startswith(_MAGIC) or data[4:12] in (b"ftypavif", b"ftypavis"):
            return "damaged image: its header cannot be read, or it is of a kind that Pillow does not read"
        return "not an image"
    detail = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", str(error)).split()) or type(error).__name__
    return f"{'truncated' if 'truncated' in detail.lower() else 'damaged'} image: {detail}"


@functools.cache
def _heif_is_read() -> bool:
    """Import pi-heif, which lets Pillow read HEIF files; return True where it is installed."""
    try:
        import pi_heif
    except ImportError:
        return False
    pi_heif.register_heif_opener()
    return True


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of up to 8 bits a channel to RGB; transparent parts become white.

    Parameters
    ----------
    image : PIL.Image.Image
        Upright; any such mode.

    Returns
    -------
    PIL.Image.Image
        Mode RGB.

    Raises
    ------
    ValueError
        A mode without a way to RGB.
    """
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        canvas = Image.new("RGB", colours.size, "white")
        canvas.paste(colours, mask=colours.getchannel("A"))
        return canvas
    return image if image.mode == "RGB" else image.convert("RGB")


def is_image(data: bytes) -> bool:
    """Return True for bytes that begin like an image of a format that is read."""
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS):
            return True
    except Exception:  # as in ``decode``
        return is_heic(data) and _heif_is_read()


def header_size(data: bytes) -> tuple[int, int] | None:
    """Read a picture's size from its header; call it within ``pillow_limits``.

    Parameters
    ----------
    data : bytes
        A file, or as much of its beginning as holds the header; no pixel is decoded.

    Returns
    -------
    tuple of int and int, or None
        Width and height in px, not yet turned upright. None for what is no readable header of a picture.
    """
    if data.startswith((b"II", b"MM")) and metadata.is_raw_thumbnail(data):
        return None
    try:
        with Image.open(io.BytesIO(data), formats=("HEIF",) if is_heic(data) and _heif_is_read() else IMAGE_FORMATS) as opened:
            return opened.size
    except MemoryError:
        raise
    except Exception:  # as in ``decode``
        return None
