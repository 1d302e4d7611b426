"""Whether images may be mirrored: whether left and right matter to their classes, as a quick linear probe sees it.

N training and M validation images, K classes. Of photographs the mirror image is as likely as the image; of digits, letters or signs it
is another thing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bccp.data.array_types import Float, Float32, Images, Index

GRID = 16
"""The probe sees at most this many cells along each side."""

MOST_IMAGES = 5000
"""Of each set, evenly spaced in their order."""

RIDGE = 1.0
"""Penalty of the probe, in mean squares of a feature."""

MOST_LOSS = 1 / 3
"""Share of its recall above chance that the probe may lose on mirrored images."""

MOST_CLASS_LOSS = 0.5
"""The same for each single class, where the loss is beyond doubt."""

_SURE = 3.0
"""Standard errors beyond which something is beyond doubt."""

MIRROR_CHUNK_BYTES = 32 * 2**20


def mirror_symmetric(images: Images, labels: npt.ArrayLike, val_images: Images, val_labels: npt.ArrayLike) -> bool:
    """Tell whether the classes look the same in a mirror.

    A ridge regression on small versions of the training images is asked about the validation images as they are and mirrored.

    Parameters
    ----------
    images : array-like of uint8, shape (N, S, S, 3)
        At most ``MOST_IMAGES`` are read, a batch at a time.
    labels : array-like of int, shape (N,)
        Class indices from 0 up.
    val_images, val_labels
        The same of other images.

    Returns
    -------
    bool
        True if the probe's mean recall over the classes is beyond doubt above chance, mirroring costs it at most ``MOST_LOSS`` of what
        it is above chance, and costs no class more than ``MOST_CLASS_LOSS`` of its own beyond doubt. So it is False where there is too
        little to tell.

    Examples
    --------
    >>> digits = np.load("digits.npy")  # doctest: +SKIP
    >>> mirror_symmetric(digits[:900], labels[:900], digits[900:], labels[900:])  # doctest: +SKIP
    False
    """
    chosen, val_chosen = _spread(len(images)), _spread(len(val_images))
    given, truth = np.asarray(labels, np.int64)[chosen], np.asarray(val_labels, np.int64)[val_chosen]
    present = np.unique(given)
    if len(present) < 2 or not len(truth):
        return False
    weights, bias = _probe(shrink_images(images, chosen), given, present)
    small = shrink_images(val_images, val_chosen)
    right, right_mirrored = (present[(_flat(seen) @ weights + bias).argmax(1)] == truth for seen in (small, small[:, :, ::-1]))
    chance = 1 / len(present)
    classes = np.unique(truth)
    recall, mirrored = (np.array([hits[truth == k].mean() for k in classes]) for hits in (right, right_mirrored))
    error = np.sqrt(sum(chance * (1 - chance) / (truth == k).sum() for k in classes)) / len(classes)
    above = recall.mean() - chance
    if above <= _SURE * error or mirrored.mean() - chance < (1 - MOST_LOSS) * above:
        return False
    lost = np.array([(right & ~right_mirrored)[truth == k].sum() for k in classes])
    won = np.array([(~right & right_mirrored)[truth == k].sum() for k in classes])
    sure = lost - won > _SURE * np.sqrt(lost + won)
    return not bool((sure & (recall - mirrored > MOST_CLASS_LOSS * (recall - chance))).any())


def _spread(n: int) -> Index:
    return np.unique(np.linspace(0, max(0, n - 1), min(n, MOST_IMAGES)).round().astype(np.int64))


def shrink_images(images: Images, chosen: Index) -> Float32:
    """Images as means over at most GRID x GRID cells, which may share pixels; float32, shape (n, GRID, GRID, 3)."""
    side = images[chosen[:1]].shape[1]
    cells = min(side, GRID)
    edges, pixels = np.linspace(0, side, cells + 1), np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    share = (np.clip(overlap, 0, None) * cells / side).astype(np.float32)  # (cells, side), rows sum to 1
    n_parts = -(-len(chosen) * side**2 * 12 // MIRROR_CHUNK_BYTES)
    parts = []
    for idx in np.array_split(chosen, n_parts):
        rows = np.tensordot(np.asarray(images[idx], np.float32) / 255, share, (1, 1))  # (n, side, 3, cells)
        parts.append(np.tensordot(rows, share, (1, 1)).transpose(0, 2, 3, 1))
    return np.concatenate(parts)


def _flat(small: Float32) -> Float:
    return small.reshape(len(small), -1).astype(np.float64)


def _probe(small: Float32, labels: Index, present: Index) -> tuple[Float, Float]:
    """Weights and bias of a ridge regression on one-hot labels, in which every class counts alike."""
    features, targets = _flat(small), np.asarray(labels[:, None] == present, np.float64)
    weight = (targets / targets.sum(0)).sum(1) / len(present)  # sums to 1
    mean, target_mean = weight @ features, weight @ targets
    features -= mean
    weighted = features * weight[:, None]
    squares = weighted.T @ features
    penalty = RIDGE * max(np.trace(squares) / len(squares), np.finfo(np.float64).tiny)
    weights = np.linalg.solve(squares + penalty * np.eye(len(squares)), weighted.T @ (targets - target_mean))
    return weights, target_mean - mean @ weights
