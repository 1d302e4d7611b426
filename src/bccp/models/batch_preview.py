"""The picture of what training sees: the images of its first batch, augmented, in a grid."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from bccp.core.home import scratch
from bccp.core.step_context import Step
from bccp.data.array_types import UInt8
from bccp.models import torchvision_compat  # noqa: F401 - torchvision imports only after torchvision_compat

from torchvision.utils import save_image  # isort: skip

_MOST_IMAGES = 64

_SIDE = 96
"""Of an image in the grid, in px."""


def log_batch(step: Step, images: UInt8) -> None:
    """Log ``first_batch.png`` with the step's run; with ``tracking.upload_images=false`` it stays away from W&B.

    Parameters
    ----------
    step : Step
    images : ndarray of uint8, shape (n, S, S, 3)
        At most :data:`_MOST_IMAGES` are shown.
    """
    with scratch("picture") as folder:
        draw_batch(images, folder / "first_batch.png")
        step.log_picture(folder / "first_batch.png", pixels=True)


def draw_batch(images: UInt8, path: Path) -> None:
    """Write a grid of images (n, S, S, 3), as nearly square as it can be, each about :data:`_SIDE` px wide: small ones pixel by pixel."""
    shown = torch.from_numpy(images[:_MOST_IMAGES]).permute(0, 3, 1, 2) / 255
    if shown.shape[-1] <= _SIDE:
        shown = F.interpolate(shown, scale_factor=_SIDE // shown.shape[-1], mode="nearest")
    else:
        shown = F.interpolate(shown, _SIDE, mode="bilinear", antialias=True)
    save_image(shown, path, nrow=math.ceil(len(shown) ** 0.5), padding=4, pad_value=1)
