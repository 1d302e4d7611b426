"""Closest pair sampling: which trusted images are replayed beside the new ones.

N is the number of images in the reuse buffer (Monday's training images), K the number of their classes, D the size of an embedding.

Each round draws one random unused image of every class that still has any, and a random anchor class among these; the drawn image of the
anchor class and the drawn image of another class that lies nearest to it are kept as a pair. *Only these two leave the pool*: the others
may be drawn again. (Removing every drawn image would run the buffer dry at a ratio of 2/K.)

References
----------
S. Lee, N. Jeong, J. Je, S.-Y. Lee, "BCCP: An MLOps Framework for Self-cleansing Real-Time Data Noise via Bayesian Cut-off-based Closest
Pair Sampling", IEEE AIxDKE 2024.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bccp.core.errors import BCCPError, nearest
from bccp.data.array_types import Float, Index
from bccp.data.dataset import FeatureView

_ROUNDS_AT_ONCE = 512


@dataclass(frozen=True)
class Pairs:
    """Pairs of images of different classes, in the order in which they were drawn.

    Attributes
    ----------
    first_idx : ndarray of int64, shape (P,)
        The anchors, as positions in the reuse buffer.
    second_idx : ndarray of int64, shape (P,)
        For each its nearest drawn image of another class. No position occurs twice in the two arrays together.
    distance : ndarray of float64, shape (P,)
        Their distance, from 0 up.
    """

    first_idx: Index
    second_idx: Index
    distance: Float


def n_pairs_for(ratio: float, n_images: int) -> int:
    """How many pairs a ratio of the reuse buffer is: round(ratio · N / 2), and never more than N images hold.

    Parameters
    ----------
    ratio : float
        Share of the buffer to replay, 0 to 1.
    n_images : int
        N.

    Returns
    -------
    int
        0 to N // 2.

    Examples
    --------
    >>> n_pairs_for(0.5, 50_000)
    12500
    """
    return min(round(ratio * n_images / 2), n_images // 2)


def random_sample(n_images: int, *, n_chosen: int, rng: np.random.Generator) -> Index:
    """Choose images uniformly, without replacement.

    Parameters
    ----------
    n_images : int
        N.
    n_chosen : int
        How many, 0 to N.
    rng : Generator

    Returns
    -------
    ndarray of int64, shape (n_chosen,)
        Positions in the reuse buffer, ascending.
    """
    return np.sort(rng.choice(n_images, size=n_chosen, replace=False)).astype(np.int64)


def l1_distances(vectors: Float, anchor: int) -> Float:
    """Sums of absolute differences of all ``vectors`` (K, D) from the one in row ``anchor``, shape (K,)."""
    return np.asarray(np.abs(vectors - vectors[anchor]).sum(axis=1))


def l2_distances(vectors: Float, anchor: int) -> Float:
    """Euclidean distances of all ``vectors`` (K, D) from the one in row ``anchor``, shape (K,)."""
    difference = vectors - vectors[anchor]
    return np.asarray(np.sqrt(np.square(difference, out=difference).sum(axis=1)))


def cosine_distances(vectors: Float, anchor: int) -> Float:
    """One minus the cosine of the angle between all ``vectors`` (K, D) and the one in row ``anchor``, shape (K,), from 0 to 2.

    A zero vector has no direction; its distance to everything is 1, as to what is orthogonal.
    """
    lengths = np.sqrt((vectors * vectors).sum(axis=1))
    lengths *= lengths[anchor]
    lengths[lengths == 0] = 1  # the product is 0 there, and so the cosine
    cosine = (vectors * vectors[anchor]).sum(axis=1) / lengths
    return np.asarray(np.maximum(1 - cosine, 0))  # rounding can lead below 0


DISTANCES: dict[str, Callable[[Float, int], Float]] = {
    "l1_norm": l1_distances,
    "l2_norm": l2_distances,
    "cosine_similarity": cosine_distances,
}
"""The distances by the values of ``cp_sampling.type``."""


def closest_pairs(
    embeddings: npt.NDArray[np.floating] | FeatureView,
    labels: npt.NDArray[np.integer],
    *,
    n_pairs: int,
    metric: str,
    rng: np.random.Generator,
) -> Pairs:
    """Draw pairs of different classes that lie close together.

    Each round takes K + 1 uniform numbers of ``rng``, one a class (in the order of the classes, used up or not) and one for the anchor, so
    fewer pairs are a prefix of more. Distances are computed in float64. Of equally near images the one with the smallest position is taken.

    Parameters
    ----------
    embeddings : ndarray of float or FeatureView, shape (N, D)
        One finite vector an image, ordered by image id; may be memory-mapped: K of its rows are read a round.
    labels : ndarray of int, shape (N,)
        Class of each image.
    n_pairs : int
        How many pairs, from 0 up.
    metric : str
        A key of :data:`DISTANCES`.
    rng : Generator
        Is advanced by whole blocks of rounds.

    Returns
    -------
    Pairs

    Raises
    ------
    BCCPError
        If fewer than two classes have unused images before all pairs are drawn; the message tells the ratio that can be reached with the
        same draws. If the metric is unknown.
    """
    if metric not in DISTANCES:
        raise BCCPError(f"cp_sampling.type={metric} is no distance: use one of {', '.join(DISTANCES)}" + nearest(metric, DISTANCES))
    measure = DISTANCES[metric]
    vectors = embeddings if isinstance(embeddings, FeatureView) else np.asarray(embeddings)  # a memory map's own indexing is slow
    pool = _Pool(np.asarray(labels))
    pairs = Pairs(np.zeros(n_pairs, np.int64), np.zeros(n_pairs, np.int64), np.zeros(n_pairs))
    for number, uniform in enumerate(_uniforms(n_pairs, pool.n_classes + 1, rng)):
        if pool.n_alive < 2:
            raise BCCPError(_too_large(n_pairs, number, len(vectors)))
        slots = pool.draw(uniform[:-1])
        drawn_idx = pool.images[slots]
        anchor = int(uniform[-1] * pool.n_alive)
        drawn = vectors[drawn_idx].astype(np.float64)  # (K, D)
        distance = measure(drawn, anchor)
        distance[anchor] = np.inf
        other = int(np.lexsort((drawn_idx, distance))[0])
        pairs.first_idx[number], pairs.second_idx[number] = drawn_idx[anchor], drawn_idx[other]
        pairs.distance[number] = distance[other]
        pool.remove(anchor, other, slots)
    return pairs


class _Pool:
    """The unused images: class by class in one array, where a removed image changes places with the last unused one of its class."""

    def __init__(self, labels: npt.NDArray[np.integer]) -> None:
        self.images = np.argsort(labels, kind="stable").astype(np.int64)
        counts = np.unique(labels, return_counts=True)[1]
        self.n_classes = len(counts)
        self._alive = np.arange(self.n_classes)  # classes that have unused images; the arrays below are parallel to it
        self._start = np.cumsum(counts) - counts
        self._count = counts

    @property
    def n_alive(self) -> int:
        """Number of classes that have unused images."""
        return len(self._alive)

    def draw(self, uniform: Float) -> Index:
        """One slot of ``images`` for each class that has unused ones, from uniform numbers (K,) in [0, 1)."""
        return np.asarray(self._start + (uniform[self._alive] * self._count).astype(np.int64))

    def remove(self, first: int, second: int, slots: Index) -> None:
        """Use up the images drawn for two of the classes that :meth:`draw` gave slots of."""
        for which in (first, second):
            self._count[which] -= 1
            last = self._start[which] + self._count[which]
            self.images[slots[which]] = self.images[last]
        if not self._count[first] or not self._count[second]:
            left = self._count > 0
            self._alive, self._start, self._count = self._alive[left], self._start[left], self._count[left]


def _uniforms(n_rounds: int, width: int, rng: np.random.Generator) -> Iterator[Float]:
    """One row of uniform numbers a round, drawn many rounds at once: the stream is the same as row by row."""
    for start in range(0, n_rounds, _ROUNDS_AT_ONCE):
        yield from rng.random((min(_ROUNDS_AT_ONCE, n_rounds - start), width))


def _too_large(wanted: int, reached: int, n_images: int) -> str:
    ratio = math.floor(2e4 * reached / n_images) / 1e4  # rounded down, so that it can be reached indeed
    return (
        f"cp_sampling.ratio asks for {wanted} pairs of Monday's {n_images} training images, but after {reached} pairs fewer than two "
        f"classes have unused images: use cp_sampling.ratio={ratio:g} or less"
    )
