"""Image files that arrive: what they show, or which problem they are; and a bound on the pixels that are decoded at once."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from bccp.data.decoding.image_files import UnreadableImageError, header_size

SMALL_BYTES = 65_536
SMALL_PIXELS = 2**15
"""PNG and JPEG files of at most so many bytes and pixels are decoded where the model answers: a hop to another thread and back takes as
long.
"""

_MOST_CHUNKS, _MOST_SEGMENTS, _MOST_SCANS = 20_000, 1_000, 100
"""Parts of a PNG file, of a JPEG file's head, and passes over a JPEG picture: at most a few hundred, ten and ten in files of cameras and
programs (a PNG chunk has 4 or 8 kB and more).
"""

_MOST_QOI_BYTES = 5_000_000
"""Of a format that Pillow decodes in Python: a second and more for a million bytes."""

_ONE_AFTER_ANOTHER = (b"\xff\xc0", b"\xff\xc1")
"""Markers of JPEG pictures that are no progressive ones."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")

Kind = Literal["empty", "not-an-image", "truncated", "bomb", "busy", "failed"]


class Problem(NamedTuple):
    """Reason for which an image has no answer.

    Attributes
    ----------
    kind : str
        ``empty, not-an-image, truncated`` (or damaged), ``bomb`` (too many pixels), ``busy`` (no memory for it at present) or ``failed``
        (the model, or its owner's own filter, failed).
    detail : str
        The reason in words.
    """

    kind: Kind
    detail: str


def may_be_small(data: bytes) -> bool:
    """Return True for a file that its size and kind let be decoded where the model answers; its pixels are not yet known.

    Only for these two kinds is what the header announces sure to be what is decoded.
    """
    return len(data) <= SMALL_BYTES and data.startswith((b"\x89PNG\r\n", b"\xff\xd8\xff"))


def problem(error: Exception) -> Problem:
    """The problem that an error of decoding is."""
    if isinstance(error, MemoryError):
        return Problem("busy", "there is no memory to decode the image at present")
    if not isinstance(error, UnreadableImageError):
        return Problem("failed", "the image could not be prepared for the model")
    said = str(error).replace("preprocessing.max_pixels=", "")
    begins: dict[str, Kind] = {
        "empty file": "empty",
        "truncated image": "truncated",
        "damaged image": "truncated",
        "decompression bomb": "bomb",
    }
    return Problem(next((kind for start, kind in begins.items() if said.startswith(start)), "not-an-image"), said)


def takes_for_ever(data: bytes) -> bool:
    """Return True for a PNG, JPEG or QOI file of so many small parts that its decoder, which nothing stops, would take minutes or hours.

    Each pass over a large JPEG picture takes a tenth of a second, and as few as 20 bytes.
    """
    if data.startswith(b"\x89PNG\r\n"):
        place = 8
        for _ in range(_MOST_CHUNKS):
            if place >= len(data):
                return False
            place += 12 + int.from_bytes(data[place : place + 4])
        return place < len(data)
    if data.startswith(b"qoif"):
        return len(data) > _MOST_QOI_BYTES
    if not data.startswith(b"\xff\xd8\xff"):
        return False
    place, n_components = 2, b"none"
    for _ in range(_MOST_SEGMENTS):
        marker = _MARKER.search(data, place)
        if marker is None:
            return False
        if marker[0] in _ONE_AFTER_ANOTHER:
            n_components = data[marker.end() + 7 : marker.end() + 8]
        if marker[0] == b"\xff\xda":
            if data[marker.end() + 2 : marker.end() + 3] == n_components:  # all of the picture, in one pass
                return False
            return data.count(b"\xff\xda", place) > _MOST_SCANS and _n_scans(data, place) > _MOST_SCANS
        place = _behind(data, marker)
    return True


def _n_scans(data: bytes, place: int) -> int:
    """Passes of a JPEG file, up to one too many; what looks like one in metadata, or behind the picture's end, is none."""
    n_scans = 0
    while n_scans <= _MOST_SCANS and (marker := _MARKER.search(data, place)) is not None and marker[0] != b"\xff\xd9":
        n_scans += marker[0] == b"\xff\xda"
        place = _behind(data, marker)
    return n_scans


def _behind(data: bytes, marker: re.Match[bytes]) -> int:
    """Where the segment of a marker ends."""
    if marker[0] in (b"\xff\x01", b"\xff\xd8"):  # these two have no length
        return marker.end()
    return marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])


def announced_pixels(data: bytes) -> int | None:
    """Number of pixels that a file's header announces; None where it cannot be read. Call it within ``pillow_limits``."""
    size = header_size(data)
    return None if size is None else size[0] * size[1]


class PixelBudget:
    """A bound on the pixels that are being decoded; who comes first is let in first.

    Parameters
    ----------
    most : int
        Pixels at once.
    """

    def __init__(self, most: int) -> None:
        self.most, self.used = most, 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def room(self, pixels: int, *, deadline: float, given_up: Callable[[], bool]) -> Iterator[bool]:
        """Wait for room, and keep it for the block.

        Parameters
        ----------
        pixels : int
            More than all there are count as all.
        deadline : float
            By ``time.monotonic``.
        given_up : callable
            Asked whenever :meth:`wake` is called: True ends the wait.

        Yields
        ------
        bool
            False where there was none in time.
        """
        pixels, me = min(pixels, self.most), object()

        def ready() -> bool:
            return given_up() or (self._waiting[0] is me and self.used + pixels <= self.most)

        with self._changed:
            self._waiting.append(me)
            try:
                granted = self._changed.wait_for(ready, timeout=max(0.0, deadline - time.monotonic())) and not given_up()
                self.used += pixels if granted else 0
            finally:
                self._waiting.remove(me)
                self._changed.notify_all()
        try:
            yield granted
        finally:
            if granted:
                with self._changed:
                    self.used -= pixels
                    self._changed.notify_all()

    def wake(self) -> None:
        """Have all who wait ask again whether they are still wanted."""
        with self._changed:
            self._changed.notify_all()
