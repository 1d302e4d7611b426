"""Small image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, classes: dict[str, int], *, seed: int = 0, size: int = 16) -> Path:
    """Make a folder of class folders of small, clearly different images."""
    for number, (label, count) in enumerate(classes.items()):
        rng = np.random.default_rng([seed, number])
        prototype = rng.integers(0, 256, (4, 4, 3))
        (folder / label).mkdir(parents=True)
        for index in range(count):
            noisy = np.clip(np.kron(prototype, np.ones((size // 4, size // 4, 1))) + rng.normal(0, 40, (size, size, 3)), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(folder / label / f"{index:03d}.png")
    return folder
