"""Pictures that data checks look at, and limits that nothing is over."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from bccp.core import config_schema
from bccp.data import preprocessing

ALL_CHECKS = tuple(field.name for field in dataclasses.fields(config_schema.Checks))


NO_LIMITS = config_schema.Checks(**dict.fromkeys(ALL_CHECKS))


def picture(seed: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """A colour pattern with sharp edges, another for each seed."""
    rng = np.random.default_rng(seed)
    pattern = rng.integers(30, 220, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(pattern).resize(size, Image.Resampling.NEAREST)


def cleaned(folder: Path, pictures: dict[str, Image.Image | bytes], *, image_size: int = 48, resize: str = "stretch") -> Path:
    """The ``clean_data`` of some pictures."""
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name, image in pictures.items():
            if isinstance(image, Image.Image):
                image.save(folder / "one.png")
                image = (folder / "one.png").read_bytes()
            archive.writestr(name, image)
    clean = folder / "clean"
    clean.mkdir()
    preprocessing.clean(
        folder / "images.zip", clean, image_size=image_size, resize=resize, max_rejected_rate=1, max_pixels=10**7, threads=1
    )
    return clean
