"""A page on which labels are checked, with made-up images and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bccp.labels.findings import Finding
from bccp.reporting.suspects_page import PageSummary, write_suspects_page

CLASSES = ["ant", "bee", "cow"]
EVIL = '</script><img src=x onerror="document.title=1">\'&amp;,"quoted"\nline'
"""A name that would be a picture, a script and a line of a table, where any of these were made of it."""


def picture(image: str, size: tuple[int, int] = (300, 200)) -> Image.Image:
    """A smooth picture of its own for each id."""
    rng = np.random.default_rng(list(image.encode()))
    small = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def found(n_images: int, at_most: float | None = 0.5, **changes: Any) -> Finding:
    """A finding of wrong labels."""
    about = {"verdict": "found", "at_least": 0.2, "at_most": at_most, "n_images": n_images, "n_surely": 2, "n_audited": 0}
    return Finding(**(about | {"n_unsure": 0, "n_no_class": 0, "trusted": False} | changes))


def rows(n_images: int, *, n_random: int = 2, classes: Sequence[str] = CLASSES, names: Mapping[int, str] | None = None) -> pd.DataFrame:
    """Rows of so many images, the first one with the highest rank, the last ones drawn at random; ``names`` gives some other ids."""
    images = [(names or {}).get(n, f"{classes[n % len(classes)]}/{n:04d}.png") for n in range(n_images)]
    table = {
        "image": images,
        "label": "",
        "chosen": ["random" if n >= n_images - n_random else "" for n in range(n_images)],
        "given_label": [classes[n % len(classes)] for n in range(n_images)],
        "p_wrong": [f"{1 - n / n_images:.6f}" for n in range(n_images)],
        "suggested_label": [classes[(n + 1) % len(classes)] for n in range(n_images)],
        "posterior": [f"{0.9 - n / n_images / 2:.6f}" for n in range(n_images)],
        "user": "",
        "rank": range(1, n_images + 1),
        "nearest_suggested": "sure/suggested.png",
        "nearest_given": [f"sure/{classes[n % len(classes)]}.png" for n in range(n_images)],
        "group": images,
    }
    return pd.DataFrame(table)


def write(path: Path, table: pd.DataFrame, **options: Any) -> PageSummary:
    """Write the page of these rows."""
    given = {"finding": found(len(table)), "classes": CLASSES, "originals": picture, "links": {}} | options
    return write_suspects_page(path, rows=table, **given)
