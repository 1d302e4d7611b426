"""Pictures within a page: made small as they are decoded, encoded as WebP, and each embedded once."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from PIL import Image

from bccp.core.runtime.threads import default_threads
from bccp.data.decoding import metadata
from bccp.data.decoding.grey_levels import Range
from bccp.data.decoding.image_files import decode, to_rgb


class PictureSize(NamedTuple):
    """How pictures are embedded.

    Attributes
    ----------
    own, near : int
        Longest side of an image that is asked about, and of one beside it, in px; smaller images stay as they are.
    quality : int
        Of WebP, 1 to 100.
    effort : int
        Of its encoder, 0 to 6: from 2 on it takes half again as long as at 0, for a quarter less bytes.
    """

    own: int
    near: int
    quality: int
    effort: int


PICTURE_SIZES = (
    PictureSize(320, 184, 82, 0),
    PictureSize(320, 184, 82, 2),
    PictureSize(260, 152, 78, 2),
    PictureSize(200, 120, 70, 2),
    PictureSize(200, 120, 55, 2),
    PictureSize(200, 120, 40, 2),
    PictureSize(200, 120, 28, 2),
)
"""From the best to the smallest: the first one with which all rows of a page are within its limit is taken."""

_LOSSLESS_PX = 64
_BLOCK_BYTES = 60
"""Of what stands around a picture in the page."""


class _Encoded(NamedTuple):
    """A WebP file, and its width and height in px."""

    data: bytes
    size: tuple[int, int]


class EmbeddedPictures:
    """Pictures of a page, by number.

    Parameters
    ----------
    originals : callable
        Gives an image by its id: RGB and upright. Raises ``KeyError``, ``OSError`` or ``ValueError`` where there is none. It is called from
        several threads.
    size : PictureSize

    Attributes
    ----------
    data : list of str
        WebP in base64.
    sizes : list of (int, int)
        Width and height in px.
    """

    def __init__(self, originals: Callable[[str], Image.Image], size: PictureSize) -> None:
        self._originals, self._size = originals, size
        self.data: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self._numbers: dict[str, int] = {}
        self._encoded: dict[str, _Encoded | None] = {}

    def encode(self, images: Mapping[str, int]) -> None:
        """Encode images that are going to be added, each with the longest side given, in threads: the work is done outside of Python."""
        fresh = [image for image in images if image not in self._numbers]
        with ThreadPoolExecutor(default_threads()) as pool:
            self._encoded = dict(zip(fresh, pool.map(lambda image: self._encode(image, images[image]), fresh), strict=True))

    def add(self, image: str) -> int:
        """Embed an image that was encoded, unless it is embedded already, and return its number; -1 where there is no picture of it."""
        if image not in self._numbers:
            encoded = self._encoded[image]
            self._numbers[image] = -1 if encoded is None else len(self.data)
            if encoded is not None:
                self.data.append(base64.b64encode(encoded.data).decode("ascii"))
                self.sizes.append(encoded.size)
        return self._numbers[image]

    def _encode(self, image: str, longest_px: int) -> _Encoded | None:
        try:
            return encode_picture(self._originals(image), longest_px, self._size.quality, effort=self._size.effort)
        except (KeyError, OSError, ValueError):
            return None

    def n_bytes(self, first: int = 0) -> int:
        """Bytes that the pictures from a number on take in the page."""
        return sum(len(data) + _BLOCK_BYTES for data in self.data[first:])

    def forget(self, first: int) -> None:
        """Take out the pictures from a number on."""
        del self.data[first:], self.sizes[first:]
        self._numbers = {image: number for image, number in self._numbers.items() if number < first}


def encode_picture(image: Image.Image, longest_px: int, quality: int, *, effort: int = 2) -> _Encoded:
    """Make a picture small and encode it as WebP, without anything that its file says beside the pixels.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB.
    longest_px : int
        A longer picture is made so long, in its own proportions.
    quality : int
        1 to 100; a picture of up to 64 px keeps all of its pixels as they are.
    effort : int
        As of :class:`PictureSize`.

    Returns
    -------
    data : bytes
    size : (int, int)
        Width and height in px.
    """
    longer = max(image.size)
    if longer > longest_px:
        width, height = (max(1, round(side * longest_px / longer)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=effort, lossless=longer <= _LOSSLESS_PX, icc_profile=b"", exif=b"", xmp=b"")
    return _Encoded(stream.getvalue(), image.size)


def decode_small(data: bytes, longest_px: int, scale: Range = None) -> Image.Image:
    """Decode a file for a small picture of it; call it within :func:`bccp.data.decoding.image_files.pillow_limits`.

    Parameters
    ----------
    data : bytes
        A whole file.
    longest_px : int
        Of the small picture. A JPEG is decoded at an eighth, a quarter or half of its size where that is still twice as long.
    scale : Range
        Of grey values of more than 8 bits.

    Returns
    -------
    PIL.Image.Image
        RGB, upright.

    Raises
    ------
    UnreadableImageError
        As :func:`bccp.data.decoding.image_files.decode`.
    """
    if data.startswith(b"\xff\xd8\xff"):
        with suppress(Exception), Image.open(io.BytesIO(data), formats=("JPEG", "MPO")) as opened:  # as for the decoder: whatever it is
            width, height = opened.size
            share = 2 * longest_px / max(width, height)
            if share < 1:
                opened.draft(None, (round(width * share), round(height * share)))
                opened.load()
                return to_rgb(metadata.turned_upright(opened)[0])
    return decode(data).rgb(scale)
