"""Image files that arrive: what they show, or which problem they are; and a bound on the pixels that are decoded at once."""

from __future__ import annotations

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
