"""Augmentation of a batch: generic (a small affine change, then a few grey rectangles), mirroring, and mixup.

The generic one stands for no particular weather: what Tuesday's camera does to images is never imitated, as no one knows tomorrow's. It
does not mirror images, as digits and letters must not be; see ``bccp.data.flip_symmetry``. n images of S x S px; everything is drawn on the
CPU, so that a seed means the same on every device.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

_ROTATION = 10.0
"""Degrees, at most, either way."""

SHIFT = 0.06
"""Sides of the image, at most, either way along each axis."""

LOG_SCALE = 0.1
"""Natural logarithm of the scale, at most, either way."""

RECTANGLES = 3
"""At most; each number from 0 up is as likely."""

SIDE = (0.1, 0.4)
"""Width and height of a rectangle, in sides of the image; its centre may lie anywhere, so the edge may cut it off."""


def generic(images: Tensor, *, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Change a batch of images: :func:`move`, then :func:`erase`.

    Parameters
    ----------
    images : Tensor of float, shape (n, C, S, S)
        In [0, 1]. Left as they are.
    generator : Generator
        On the CPU.
    strength : float
        Above 0: factor of all that is at most so large.

    Returns
    -------
    Tensor of float, shape (n, C, S, S)
        In [0, 1].
    """
    return erase(move(images, generator=generator, strength=strength), generator=generator, strength=strength)


def move(images: Tensor, *, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Rotate, scale and shift each image; beyond its edges the edge goes on. Shapes as for :func:`generic`."""
    angle, log_scale, right, down = torch.rand(4, len(images), generator=generator) * 2 - 1
    angle, scale = angle * math.radians(_ROTATION * strength), torch.exp(log_scale * (LOG_SCALE * strength))
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    # grid_sample's coordinates run from -1 to 1: a side is 2 long
    farthest = 2 * SHIFT * strength
    rows = [torch.stack([cosine, -sine, farthest * right], 1), torch.stack([sine, cosine, farthest * down], 1)]
    grid = F.affine_grid(torch.stack(rows, 1).to(images.device), list(images.shape), align_corners=False)  # (n, S, S, 2)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def erase(images: Tensor, *, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Cover each image with 0 to ``RECTANGLES`` rectangles, each of one random grey. Shapes as for :func:`generic`.

    References
    ----------
    Z. Zhong, L. Zheng, G. Kang, S. Li, Y. Yang: "Random Erasing Data Augmentation", AAAI 2020.
    """
    n, _, height, width = images.shape
    n_rectangles = torch.randint(RECTANGLES + 1, (n,), generator=generator)
    draws = torch.rand(5, RECTANGLES, n, 1, generator=generator)
    sides = strength * (SIDE[0] + (SIDE[1] - SIDE[0]) * draws[:2])
    in_rows = (_pixel_centres(height) - draws[2]).abs() <= sides[0] / 2  # (RECTANGLES, n, height)
    in_columns = (_pixel_centres(width) - draws[3]).abs() <= sides[1] / 2
    in_rows &= (torch.arange(RECTANGLES)[:, None] < n_rectangles)[:, :, None]
    grey = torch.full((n, height, width), -1.0)
    for rows, columns, shade in zip(in_rows, in_columns, draws[4], strict=True):
        grey = torch.where(rows[:, :, None] & columns[:, None, :], shade[:, :, None], grey)
    grey = grey[:, None].to(images.device)  # (n, 1, height, width)
    return torch.where(grey < 0, images, grey)


def mirror(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Exchange left and right in each image with probability 1/2. Shapes as for :func:`generic`."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None].to(images.device), images.flip(-1), images)


def mix(inputs: Tensor, targets: Tensor, weights: Tensor, *, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup: blend each image with another one of the batch, and their targets alike.

    One share λ ~ Beta(alpha, alpha) is drawn for the batch. A loss that is linear in the target becomes λ times the image's own weighted
    loss and 1 - λ times the other's.

    Parameters
    ----------
    inputs : Tensor of float, shape (n, ...)
        Images or features.
    targets : Tensor of float, shape (n, K)
        Rows sum to 1.
    weights : Tensor of float, shape (n,)
        Not negative.
    alpha : float
        Above 0.
    generator : Generator
        On the CPU.

    Returns
    -------
    inputs, targets, weights : Tensor of float
        Shapes as given; rows of targets sum to 1, or to 0 where the weight is 0.

    References
    ----------
    H. Zhang, M. Cisse, Y. Dauphin, D. Lopez-Paz: "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    # torch has no Beta distribution that is drawn from a generator
    seed = int(torch.randint(2**62, (1,), generator=generator))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    other = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    own_weight, other_weight = share * weights, (1 - share) * weights[other]
    mixed = own_weight + other_weight
    counted = own_weight[:, None] * targets + other_weight[:, None] * targets[other]
    return share * inputs + (1 - share) * inputs[other], counted / torch.where(mixed > 0, mixed, 1)[:, None], mixed


def _pixel_centres(n_pixels: int) -> Tensor:
    """In sides of the image."""
    return (torch.arange(n_pixels) + 0.5) / n_pixels
