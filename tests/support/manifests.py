"""Manifests of ``clean_data``."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd


def manifest(counts: Mapping[str, int], *, day: str = "", prefix: str = "") -> pd.DataFrame:
    """A manifest of so many images of each class."""
    rows = [(f"{prefix}{label}/{i:04d}.png", label) for label, n in counts.items() for i in range(n)]
    return pd.DataFrame({"image": [r[0] for r in rows], "row": range(len(rows)), "label": [r[1] for r in rows], "day": day})
