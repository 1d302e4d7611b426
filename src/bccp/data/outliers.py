"""Images that belong to no class: those far from all others by their features.

N images with D features. An image's distance is the mean over its nearest neighbours, by the angle between features whose roots were
taken: a backbone's few large features would decide alone otherwise. How far is too far is told by the folder itself: the bulk of its
distances gives centre and width of a normal distribution, and an image stands out where not one of a folder of this size would be as far.

It has to be far for the folder and for its class: beside bottles before a white wall, street scenes are far from each other, and a class
all the same. A given label decides nothing else, for it may be wrong.

References
----------
Y. Sun, Y. Ming, X. Zhu, Y. Li: "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022.
F. Perronnin, J. Sánchez, T. Mensink: "Improving the Fisher Kernel for Large-Scale Image Classification", ECCV 2010 (the roots).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri

from bccp.data.array_types import Float, Float32, Index, Mask

NEIGHBOURS, FEWEST_NEIGHBOURS = 20, 5
"""Other pictures that a distance is the mean over, at most half as many as there are in the class: of fewer, images of no class hide
behind others of their own kind. A class that has no more pictures than the second number is not judged."""

LEAST_PICTURES = 30
"""Fewer different pictures tell nothing of what is far."""

EXPECTED = 0.01
"""An image stands out where at most so many images of such a folder are expected as far away. Tails are often longer than a normal one: of
clean folders one in ten has such an image, which then mostly is an odd one."""

BULK = (0.75, 0.9, 0.95)
"""Quantiles of the distances by which their width above the median is told; the greatest counts, for tails may be long."""

MOST_COMPARED = 5000
"""Pictures among which neighbours are looked for; of more, so many are drawn."""

_PRECISION = 1e-5

_BLOCK_CELLS = 2**21
"""Similarities, or features, that are held at once."""


class Features(Protocol):
    """Features of N images: an array (N, D), or a view that reads them from disk when it is indexed."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, positions: Any, /) -> npt.NDArray[Any]:
        """Features of some images, (n, D)."""


@dataclass(frozen=True)
class Outliers:
    """How far each of N images is from the others.

    Attributes
    ----------
    distance : ndarray of float64, shape (N,)
        1 - cosine, mean over the neighbours; NaN where not judged.
    expected : ndarray of float64, shape (N,)
        Images of a folder of this size that would be as far by chance, from 0 to about N / 2; NaN where not judged.
    """

    distance: Float
    expected: Float

    @property
    def found(self) -> Mask:
        """Images that stand out, shape (N,)."""
        return self.expected <= EXPECTED

    @property
    def n_judged(self) -> int:
        """Images that were judged."""
        return int(np.isfinite(self.expected).sum())


def measure_outliers(features: Features, given: Index, groups: Index) -> Outliers:
    """Measure how far images are from all others.

    Parameters
    ----------
    features : array-like of float, shape (N, D)
        A backbone's, or pixels; read in blocks. Best not centred: then an image of another kind has features that the rest lacks.
    given : ndarray of int64, shape (N,)
        The given labels.
    groups : ndarray of int64, shape (N,)
        Images of one group are copies, which are no neighbours of each other; the first of a group stands for it.

    Returns
    -------
    Outliers

    Notes
    -----
    Time grows as N · min(N, 5,000) · D.
    """
    _, first = np.unique(groups, return_index=True)
    distance, expected = np.full(len(given), np.nan), np.full(len(given), np.nan)
    if len(first) < LEAST_PICTURES:
        return Outliers(distance, expected)
    pictures = np.bincount(given[first], minlength=given.max() + 1)  # of each class
    asked = np.where(pictures > FEWEST_NEIGHBOURS, np.clip(pictures // 2, FEWEST_NEIGHBOURS, NEIGHBOURS), 0)[given]
    means = _mean_distances(features, groups, first)  # column k: of the k + 1 nearest
    relative = np.full(len(given), np.nan)
    for label in np.flatnonzero(pictures > FEWEST_NEIGHBOURS).tolist():
        chosen = given == label
        distance[chosen] = means[chosen, asked[chosen] - 1]
        relative[chosen] = distance[chosen] / max(float(np.median(distance[first[given[first] == label]])), _PRECISION)
    for count in np.unique(asked[asked > 0]).tolist():
        chosen, away = asked == count, means[:, count - 1]
        expected[chosen] = ndtr(-_standardized(away, away[first]))[chosen]
    judged = first[np.isfinite(relative[first])]
    if len(judged):
        expected = len(first) * np.maximum(expected, ndtr(-_standardized(relative, relative[judged])))
    return Outliers(distance, expected)


def _standardized(values: Float, reference: Float) -> Float:
    """Values in widths above the reference's median; the widest of what :data:`BULK` tells."""
    median, *upper = np.quantile(reference, [0.5, *BULK])
    width = max(float(q - median) / float(ndtri(share)) for q, share in zip(upper, BULK, strict=True))
    return (values - median) / width if width > 0 else np.zeros(len(values))


def _mean_distances(features: Features, groups: Index, first: Index) -> Float:
    """Mean distances to the nearest 1, 2, … pictures, shape (N, neighbours); rounded to what float32 products of any order agree in."""
    compared = first
    if len(first) > MOST_COMPARED:
        compared = first[np.sort(np.random.default_rng(0).choice(len(first), MOST_COMPARED, replace=False))]
    known = np.concatenate([_directions(features[compared[rows]]) for rows in _blocks(len(compared), features[:1].shape[1])])
    means = np.empty((len(groups), NEIGHBOURS))
    for rows in _blocks(len(groups), max(known.shape)):
        near = 1 - _directions(features[np.arange(rows.start, rows.stop)]) @ known.T
        near[groups[rows, np.newaxis] == groups[compared]] = np.inf
        nearest = np.sort(np.partition(near, NEIGHBOURS - 1, axis=1)[:, :NEIGHBOURS], axis=1)
        means[rows] = np.cumsum(nearest, axis=1, dtype=np.float64) / np.arange(1, NEIGHBOURS + 1)
    return np.asarray(np.round(means / _PRECISION) * _PRECISION, np.float64)


def _directions(features: npt.NDArray[Any]) -> Float32:
    """Signed roots of features, rows of length 1."""
    roots = features.astype(np.float32)
    roots = np.sign(roots) * np.sqrt(np.abs(roots))
    roots /= np.maximum(np.sqrt(np.square(roots).sum(axis=1, keepdims=True)), np.float32(1e-12))
    return roots


def _blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    size = max(1, _BLOCK_CELLS // max(n_columns, 1))
    return (slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size))
