"""Images whose classes a backbone's features hardly tell apart: surfaces of one material with subtle defects, drawn here."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("sound", "scratch", "pits", "stain")
SIDE = 192
"""In px."""

STRENGTH = 30
"""Of a defect, in grey levels of 255; the grain around it has a standard deviation of some 12."""


def make_textures(path: Path, n_images: int, *, seed: int = 0) -> None:
    """Write a zip of PNG files, a folder for each of ``CLASSES``.

    Parameters
    ----------
    path : Path
    n_images : int
        In all; the classes have equally many, or one more.
    seed : int
    """
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(n_images):
            kind = CLASSES[number % len(CLASSES)]
            file = io.BytesIO()
            Image.fromarray(surface(kind, np.random.default_rng([seed, number]))).save(file, "PNG")
            archive.writestr(f"{kind}/{number:04d}.png", file.getvalue())


def surface(kind: str, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a surface (``SIDE``, ``SIDE``, 3): grain along one direction and uneven light, which say nothing of the class, and a defect."""
    stretched = Image.fromarray(rng.normal(size=(2 * SIDE, SIDE)).astype(np.float32)).resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)
    turned = np.asarray(stretched.rotate(float(rng.uniform(0, 180)), Image.Resampling.BILINEAR))
    inside = np.s_[SIDE // 2 : SIDE // 2 + SIDE, SIDE // 2 : SIDE // 2 + SIDE]  # beyond a circle, a turned square is empty
    coarse = Image.fromarray(rng.normal(size=(3, 3)).astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grey = rng.uniform(100, 160) + 12 * turned[inside] + 14 * np.asarray(coarse) + 5 * rng.normal(size=(SIDE, SIDE))
    tint = 1 + 0.04 * rng.normal(size=3)
    grey += STRENGTH * rng.choice([-1, 1]) * _defect(kind, rng)
    return np.asarray((grey[:, :, None] * tint).clip(0, 255).round(), np.uint8)


def _defect(kind: str, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Where it is, from 0 to 1, shape (``SIDE``, ``SIDE``)."""
    mask = Image.new("L", (SIDE, SIDE))
    draw, (x, y) = ImageDraw.Draw(mask), rng.uniform(0.2 * SIDE, 0.8 * SIDE, 2)
    if kind == "scratch":
        angle, length = rng.uniform(0, np.pi), rng.uniform(0.15, 0.35) * SIDE
        draw.line([(x, y), (x + length * np.cos(angle), y + length * np.sin(angle))], fill=255, width=2)
    elif kind == "pits":
        for _ in range(int(rng.integers(3, 7))):
            a, b = rng.normal((x, y), 0.08 * SIDE)
            draw.ellipse([a - 3, b - 3, a + 3, b + 3], fill=255)
    elif kind == "stain":
        a, b = rng.uniform(0.06, 0.14, 2) * SIDE
        draw.ellipse([x - a, y - b, x + a, y + b], fill=150)
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(6 if kind == "stain" else 0.8)), np.float32) / 255
