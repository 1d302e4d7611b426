"""Generic augmentation of a batch: a small affine change, then a few grey rectangles.

It stands for no particular weather: what Tuesday's camera does to images is never imitated, as no one knows tomorrow's. Images are not
mirrored, as digits and letters must not be. n images of S x S px; everything is drawn on the CPU, so that a seed means the same on every
device.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

ROTATION = 10.0
"""Degrees, at most, either way."""

SHIFT = 0.06
"""Sides of the image, at most, either way along each axis."""

LOG_SCALE = 0.1
"""Natural logarithm of the scale, at most, either way."""

RECTANGLES = 3
"""At most; each number from 0 up is as likely."""

SIDE = (0.1, 0.4)
"""Width and height of a rectangle, in sides of the image; its centre may lie anywhere, so the edge may cut it off."""


def generic(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Change a batch of images: :func:`move`, then :func:`erase`.

    Parameters
    ----------
    images : Tensor of float, shape (n, C, S, S)
        In [0, 1]. Left as they are.
    generator : Generator
        On the CPU.

    Returns
    -------
    Tensor of float, shape (n, C, S, S)
        In [0, 1].
    """
    return erase(move(images, generator=generator), generator=generator)


def move(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Rotate, scale and shift each image; beyond its edges the edge goes on. Shapes as for :func:`generic`."""
    angle, log_scale, right, down = torch.rand(4, len(images), generator=generator) * 2 - 1
    angle, scale = angle * math.radians(ROTATION), torch.exp(log_scale * LOG_SCALE)
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    # grid_sample's coordinates run from -1 to 1: a side is 2 long
    rows = [torch.stack([cosine, -sine, 2 * SHIFT * right], 1), torch.stack([sine, cosine, 2 * SHIFT * down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1).to(images.device), list(images.shape), align_corners=False)  # (n, S, S, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def erase(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Cover each image with 0 to ``RECTANGLES`` rectangles, each of one random grey. Shapes as for :func:`generic`.

    References
    ----------
    Z. Zhong, L. Zheng, G. Kang, S. Li, Y. Yang: "Random Erasing Data Augmentation", AAAI 2020.
    """
    n, _, height, width = images.shape
    n_rectangles = torch.randint(RECTANGLES + 1, (n,), generator=generator)
    draws = torch.rand(5, RECTANGLES, n, 1, generator=generator)
    sides = SIDE[0] + (SIDE[1] - SIDE[0]) * draws[:2]
    in_rows = (_pixel_centres(height) - draws[2]).abs() <= sides[0] / 2  # (RECTANGLES, n, height)
    in_columns = (_pixel_centres(width) - draws[3]).abs() <= sides[1] / 2
    in_rows &= (torch.arange(RECTANGLES)[:, None] < n_rectangles)[:, :, None]
    grey = torch.full((n, height, width), -1.0)
    for rows, columns, shade in zip(in_rows, in_columns, draws[4], strict=True):
        grey = torch.where(rows[:, :, None] & columns[:, None, :], shade[:, :, None], grey)
    grey = grey[:, None].to(images.device)  # (n, 1, height, width)
    return torch.where(grey < 0, images, grey)


def _pixel_centres(n_pixels: int) -> Tensor:
    """In sides of the image."""
    return (torch.arange(n_pixels) + 0.5) / n_pixels
