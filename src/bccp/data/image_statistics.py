"""Statistics of pixels: the quality of an image, and how it looks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.data.array_types import Float, Images, UInt8

SIDE_PX = 64
"""Larger pictures are made smaller before they are measured: what is sharp at this size is sharp enough."""


DARK, BRIGHT, MOST_PIXELS = 50, 225, 0.95
"""A picture is dark, or bright, where this share of its pixels is below, or above, so many grey levels of 255."""


BLURRED = 0.12
"""Standard deviation of the Laplacian over that of the grey levels, below which a picture is blurred."""


FLAT_LEVELS = 2.0
"""A pixel whose right and lower neighbours differ from it by less is flat."""


_GREY = np.array([0.299, 0.587, 0.114], np.float32)


_CHUNK_BYTES = 2**24


GRID_SIDE = 4


LOOKS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("less contrast", "more contrast"),
    "colour": ("less colour", "more colour"),
    "red": ("greener", "redder"),
    "yellow": ("bluer", "yellower"),
    "fine detail": ("less fine detail", "more fine detail"),
    "medium detail": ("less medium detail", "more medium detail"),
    "coarse detail": ("fewer large shapes", "more large shapes"),
    "upright edges": ("more level edges", "more upright edges"),
    "black": ("less black", "more black"),
    "white": ("less white", "more white"),
    "flat": ("fewer flat areas", "more flat areas"),
}
"""What a picture is described by, with the words for less and more of it; the layout, a grid of grey levels, has no words."""


def quality(images: Images) -> pd.DataFrame:
    """Tell how bright and how sharp pictures are.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, S, S, 3), or a view of such
        Read in chunks.

    Returns
    -------
    DataFrame
        N rows: ``brightness`` and ``contrast`` in grey levels, ``sharpness`` (standard deviation of the Laplacian over ``contrast``),
        ``dark`` and ``bright`` (shares of pixels).
    """
    return _streamed(_quality, images, np.arange(images.shape[0]))


def looks(images: Images, positions: npt.NDArray[np.integer]) -> pd.DataFrame:
    """Describe pictures by a few figures.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, S, S, 3), or a view of such
        Read in chunks.
    positions : ndarray of int, shape (n,)
        Those that are wanted.

    Returns
    -------
    DataFrame
        n rows; a column for each of :data:`LOOKS`, and ``layout 0`` to ``layout 15``.
    """
    return _streamed(_looks, images, positions)


def _streamed(describe: Callable[[UInt8], pd.DataFrame], images: Images, positions: npt.NDArray[np.integer]) -> pd.DataFrame:
    step = max(1, _CHUNK_BYTES // (12 * images.shape[1] ** 2))  # as float32
    parts = [describe(images[positions[start : start + step]]) for start in range(0, len(positions), step)]
    return pd.concat(parts, ignore_index=True).astype(np.float64)


def _quality(pixels: UInt8) -> pd.DataFrame:
    grey = block_means(pixels) @ _GREY  # (n, s, s), 0..255
    contrast = _spread(grey)
    sharpness = _spread(_laplacian(grey)) / np.maximum(contrast, 1e-6)
    shares = {"dark": _mean(grey < DARK), "bright": _mean(grey > BRIGHT)}
    return pd.DataFrame({"brightness": _mean(grey), "contrast": contrast, "sharpness": sharpness, **shares})


def _looks(pixels: UInt8) -> pd.DataFrame:
    colours = block_means(pixels)  # (n, s, s, 3), 0..255
    grey = colours @ _GREY  # (n, s, s)
    across, down = np.abs(np.diff(grey, axis=2)), np.abs(np.diff(grey, axis=1))
    half = _halved(grey)
    quarter = _halved(half)
    red, green, blue = (colours[..., channel] for channel in range(3))
    brightness = _mean(grey)
    told = {
        "brightness": brightness,
        "contrast": _spread(grey),
        "colour": _mean(colours.max(axis=3) - colours.min(axis=3)),
        "red": _mean(red - green),
        "yellow": _mean((red + green) / 2 - blue),
        "fine detail": np.log1p(_spread(_laplacian(grey))),
        "medium detail": np.log1p(_spread(np.diff(half, axis=1)) + _spread(np.diff(half, axis=2))),
        "coarse detail": np.log1p(_spread(np.diff(quarter, axis=1)) + _spread(np.diff(quarter, axis=2))),
        "upright edges": np.log1p(_mean(across)) - np.log1p(_mean(down)),
        "black": _mean(grey < 10),
        "white": _mean(grey > 245),
        "flat": _mean((across[:, :-1] < FLAT_LEVELS) & (down[:, :, :-1] < FLAT_LEVELS)),
    }
    layout = {f"layout {i}": cell for i, cell in enumerate((_grid(grey) - brightness[:, None]).T)}
    return pd.DataFrame(told | layout)


def _laplacian(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    around: npt.NDArray[np.float32] = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    around -= 4 * grey[:, 1:-1, 1:-1]
    return around


def block_means(pixels: UInt8) -> npt.NDArray[np.float32]:
    """Pictures of less than twice :data:`SIDE_PX`, each pixel the mean of a block."""
    n, side = pixels.shape[:2]
    block = max(1, side // SIDE_PX)
    if block == 1:
        return pixels.astype(np.float32)
    kept = side // block
    rows = pixels[:, : kept * block, : kept * block].reshape(n, kept, block, -1).sum(axis=2, dtype=np.uint32).reshape(n, kept, -1, 3)
    sums = np.zeros((n, kept, kept, 3), np.float32)
    for start in range(block):
        sums += rows[:, :, start::block]
    sums /= block * block
    return sums


def _halved(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    side = grey.shape[1] // 2 * 2
    even = grey[:, :side, :side]
    halved: npt.NDArray[np.float32] = even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]
    halved /= 4
    return halved


def _grid(grey: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Grey levels of 4 x 4 fields, shape (n, 16)."""
    edges = np.linspace(0, grey.shape[1], GRID_SIDE + 1).astype(int)
    spans = list(pairwise(edges.tolist()))
    fields = [grey[:, top:bottom, left:right].mean(axis=(1, 2)) for top, bottom in spans for left, right in spans]
    return np.stack(fields, axis=1)


def _mean(values: npt.NDArray[Any]) -> Float:
    means: Float = values.mean(axis=(1, 2), dtype=np.float64)
    return means


def _spread(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Standard deviation of each picture (n, h, w); 0 where nothing is left of it."""
    return values.std(axis=(1, 2)) if values[0].size else np.zeros(len(values), np.float32)
