"""Made-up embeddings of Monday's images, as samplers get them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def make_buffer(counts: list[int], *, dims: int = 7, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Embeddings and shuffled labels with these many images a class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return rng.standard_normal((len(labels), dims), dtype=np.float32), labels
