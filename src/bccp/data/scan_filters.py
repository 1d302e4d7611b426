"""Clean-up of scanned or handwritten documents, at full size, before a picture is resized: through OpenCV.

Every filter looks at a square around each pixel; beyond the picture's edges the edge goes on.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from bccp.core import user_code
from bccp.core.errors import BCCPError
from bccp.core.registries import FILTERS
from bccp.data.array_types import UInt8

Cleanup = Sequence[Mapping[str, Mapping[str, Any]]]
"""Filters in order, each a name of ``bccp.core.registries.FILTERS`` or of a user's own function, with all its parameters."""


def clean_up(image: Image.Image, cleanup: Cleanup) -> Image.Image:
    """Filter a picture.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB, of any size. Left as it is.
    cleanup : sequence of mapping
        ``erosion``: the darkest of ``size`` x ``size`` px, so that dark ink grows; ``dilation``: the lightest, so that specks and thin dark
        lines go; ``median_filter``: the median; each channel for itself. ``adaptive_threshold``: white where the grey level is above the
        (Gaussian) mean of ``block`` x ``block`` px minus ``offset``, else black, so that shadows of the paper go.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, of the same size; the picture itself where there is nothing to do.
    """
    if not cleanup:
        return image
    pixels: UInt8 = np.array(image)  # (H, W, 3)
    for step in cleanup:
        for name, parameters in step.items():
            pixels = FILTERS[name](pixels, **parameters) if name in FILTERS else _filtered(name, pixels, parameters)
    return Image.fromarray(pixels)


def _filtered(name: str, pixels: UInt8, parameters: Mapping[str, Any]) -> UInt8:
    """Apply a user's own filter."""
    own = FILTERS.find(name)
    accepted = "give a function that turns uint8 pixels (H, W, 3) into others of the same shape"
    try:
        found = own(pixels, **parameters)
    except Exception as error:
        raise BCCPError(f"preprocessing.cleanup: {name} fails on a picture ({user_code.describe_error(error)}): {accepted}") from error
    if not isinstance(found, np.ndarray) or found.shape != pixels.shape or found.dtype != np.uint8:
        kind = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
        raise BCCPError(f"preprocessing.cleanup: {name} makes {kind} of uint8 {pixels.shape}: {accepted}")
    return found


def erosion(pixels: UInt8, *, size: int) -> UInt8:
    """See :func:`clean_up`; (H, W, 3) to (H, W, 3), as for all of them."""
    found: UInt8 = import_opencv().erode(pixels, np.ones((size, size), np.uint8), borderType=import_opencv().BORDER_REPLICATE)
    return found


def dilation(pixels: UInt8, *, size: int) -> UInt8:
    """See :func:`clean_up`."""
    found: UInt8 = import_opencv().dilate(pixels, np.ones((size, size), np.uint8), borderType=import_opencv().BORDER_REPLICATE)
    return found


def median_filter(pixels: UInt8, *, size: int) -> UInt8:
    """See :func:`clean_up`."""
    found: UInt8 = import_opencv().medianBlur(pixels, size)
    return found


def adaptive_threshold(pixels: UInt8, *, block: int, offset: int) -> UInt8:
    """See :func:`clean_up`."""
    cv2 = import_opencv()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    white = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY, block, offset)
    found: UInt8 = np.repeat(white[:, :, None], 3, axis=2)
    return found


@functools.cache
def import_opencv() -> Any:
    """Imported only where something is cleaned up; the threads that decode are as many as are wanted."""
    try:
        import cv2
    except ImportError as error:
        raise BCCPError(
            f"preprocessing.cleanup needs OpenCV, which cannot be imported ({error}): pip install opencv-python-headless"
        ) from error
    cv2.setNumThreads(1)
    return cv2
