"""Every way to choose the replay, under one signature: from none and all, over classes in equal numbers, to closest pairs.

N is the number of images in the reuse buffer (Monday's training images), ordered by image id, K the number of their classes, D the size of
an embedding. ``herding`` and ``diverse`` see embeddings scaled to length 1; one that is zero has no direction and stays zero.

References
----------
S.-A. Rebuffi, A. Kolesnikov, G. Sperl, C. H. Lampert, "iCaRL: Incremental Classifier and Representation Learning", CVPR 2017 (herding).
O. Sener, S. Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018 (diverse: k-centre greedy).
A. Prabhu, P. H. S. Torr, P. K. Dokania, "GDumb: A Simple Approach that Questions Our Progress in Continual Learning", ECCV 2020 (the same
number of each class).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bccp.core import user_code
from bccp.core.errors import BCCPError
from bccp.core.registries import SAMPLERS, SamplerEntry
from bccp.data.array_types import Float, Float32, Index
from bccp.data.closest_pairs import closest_pairs, random_sample
from bccp.data.dataset import FeatureView

Embeddings = npt.NDArray[np.floating] | FeatureView
_Labels = npt.NDArray[np.integer]

CHUNK_ROWS = 4096
CANDIDATES = 1024  # of the images farthest from all centres: as many as can become centres before all distances are brought up to date
_SAME = 1e-5  # squared distances of unit vectors below this are rounding (float32): such images count as equal
_ROUNDING = 1e-6  # of sums of dot products
_ZERO = 1e-30  # a vector shorter than this has no direction
GRAM_ROWS = 8192  # up to 256 MB; a class of more images has its dot products computed pick by pick, which is slower


@dataclass(frozen=True)
class Sample:
    """The chosen images.

    Attributes
    ----------
    image_idx : ndarray of int64, shape (n,)
        Positions in the reuse buffer, none twice.
    pair : ndarray of int64, shape (n,)
        Number of the pair that an image belongs to, -1 where the sampler makes no pairs.
    distance : ndarray of float64, shape (n,)
        Distance of that pair, NaN where there is none.
    """

    image_idx: Index
    pair: Index
    distance: Float

    @classmethod
    def single(cls, image_idx: npt.ArrayLike) -> Sample:
        """Images that are in no pair, in ascending order."""
        ascending = np.sort(np.asarray(image_idx, dtype=np.int64))
        return cls(ascending, np.full(len(ascending), -1, dtype=np.int64), np.full(len(ascending), np.nan))


class Sampler(Protocol):
    """Chooses images for the replay.

    Parameters
    ----------
    embeddings : ndarray of float or FeatureView, shape (N, D), or None
        Finite; may be memory-mapped. None where the entry in ``bccp.core.registries.SAMPLERS`` needs none.
    labels : ndarray of int, shape (N,)
        Class of each image.
    n_chosen : int
        How many, 0 to N; ``none`` and ``all`` ignore it. Pairs need an even number.
    rng : Generator
        What is drawn is drawn from it; equal states give equal samples.

    Returns
    -------
    Sample
        Of ``n_chosen`` images.

    Raises
    ------
    BCCPError
        Of pairs: if the buffer does not hold so many.
    """

    def __call__(self, embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator) -> Sample:
        """Choose."""
        ...


def sample_none(embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator) -> Sample:
    """Choose no image."""
    return Sample.single([])


def sample_all(embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator) -> Sample:
    """Choose every image."""
    return Sample.single(np.arange(len(labels)))


def sample_randomly(embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator) -> Sample:
    """Choose uniformly."""
    return Sample.single(random_sample(len(labels), n_chosen=n_chosen, rng=rng))


def sample_classes_alike(embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator) -> Sample:
    """Choose as many of each class as :func:`class_budgets` says, uniformly within the class."""
    classes, counts = np.unique(labels, return_counts=True)
    budgets = class_budgets(counts, n_chosen=n_chosen, rng=rng)
    chosen = [rng.choice(np.flatnonzero(labels == k), budget, replace=False) for k, budget in zip(classes, budgets, strict=True)]
    return Sample.single(np.concatenate(chosen) if chosen else [])


def sample_by_herding(embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator) -> Sample:
    """Choose as many of each class as :func:`class_budgets` says, by :func:`herd`; the rng decides only which classes get the remainder."""
    vectors = _given(embeddings)
    classes, counts = np.unique(labels, return_counts=True)
    budgets = class_budgets(counts, n_chosen=n_chosen, rng=rng)
    chosen: list[Index] = [np.zeros(0, dtype=np.int64)]
    for k, budget in zip(classes, budgets, strict=True):
        if budget:
            members = np.flatnonzero(labels == k)
            chosen.append(members[herd(vectors[members], n_chosen=int(budget))])
    return Sample.single(np.concatenate(chosen))


def sample_diversely(embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator) -> Sample:
    """Choose over the whole buffer, whatever the classes, by :func:`spread`, from a first image that is drawn uniformly."""
    vectors = _given(embeddings)
    if not n_chosen:
        return Sample.single([])
    return Sample.single(spread(vectors, n_chosen=n_chosen, first=int(rng.integers(len(vectors)))))


def _pairs_by(metric: str) -> Sampler:
    def sample(embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator) -> Sample:
        """Choose closest pairs."""
        pairs = closest_pairs(_given(embeddings), labels, n_pairs=n_chosen // 2, metric=metric, rng=rng)
        numbers = np.arange(n_chosen // 2)
        return Sample(np.concatenate([pairs.first_idx, pairs.second_idx]), np.tile(numbers, 2), np.tile(pairs.distance, 2))

    return sample


sample_l1_pairs = _pairs_by("l1_norm")
sample_l2_pairs = _pairs_by("l2_norm")
sample_cosine_pairs = _pairs_by("cosine_similarity")


def find_sampler(name: str) -> tuple[Sampler, SamplerEntry]:
    """The sampler of a name in ``bccp.core.registries.SAMPLERS``, or of a user's own function, and what has to be known of it.

    A user's own function may give positions in place of a :class:`Sample`, and is given embeddings unless it has the attribute
    ``needs_embeddings`` with the value False.

    Raises
    ------
    BCCPError
        If there is no such function.
    """
    found = SAMPLERS.find(name)
    if name in SAMPLERS:
        return found, SAMPLERS.entries[name]
    return functools.partial(_checked, name, found), SamplerEntry("", needs_embeddings=getattr(found, "needs_embeddings", True))


def _checked(
    name: str, own: Callable[..., Any], embeddings: Embeddings | None, labels: _Labels, *, n_chosen: int, rng: np.random.Generator
) -> Sample:
    """Call a user's own sampler, and refuse what is no choice of images."""
    accepted = f"give a function that returns positions of images, none twice, from 0 to {len(labels) - 1}"
    try:
        found = own(embeddings, labels, n_chosen=n_chosen, rng=rng)
        sample = found if isinstance(found, Sample) else Sample.single(found)
    except BCCPError:
        raise
    except Exception as error:
        raise BCCPError(f"cp_sampling.type: {name} fails ({user_code.describe_error(error)}): {accepted}") from error
    positions = sample.image_idx
    if positions.ndim != 1 or len(np.unique(positions)) != len(positions) or not ((positions >= 0) & (positions < len(labels))).all():
        raise BCCPError(f"cp_sampling.type: {name} chooses an image twice, or one that is not there: {accepted}")
    return sample


def class_budgets(counts: npt.ArrayLike, *, n_chosen: int, rng: np.random.Generator) -> Index:
    """Share a number of images out: the same number to every class as far as it has them, what small classes leave to the larger ones.

    Parameters
    ----------
    counts : array-like of int, shape (K,)
        How many images each class has.
    n_chosen : int
        From 0 to their sum.
    rng : Generator
        Decides which of the classes that have more get one more, where the number cannot be shared out evenly.

    Returns
    -------
    ndarray of int64, shape (K,)
        Sums to ``n_chosen``; two classes that are not used up differ by at most 1.

    Examples
    --------
    >>> class_budgets([2, 50, 50], n_chosen=12, rng=np.random.default_rng(0))
    array([2, 5, 5])
    """
    counts = np.asarray(counts, dtype=np.int64)
    # the number that every class can give, as far as it has so many: the highest that does not give too many
    low, high = 0, int(counts.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(counts, middle).sum() <= n_chosen else (low, middle - 1)
    budgets: Index = np.minimum(counts, low)
    larger = np.flatnonzero(counts > low)
    budgets[rng.permutation(larger)[: n_chosen - budgets.sum()]] += 1
    return budgets


def herd(vectors: Embeddings, *, n_chosen: int) -> Index:
    """Choose images of one class, one after the other, each so that the mean of the chosen comes nearest to the mean of all.

    Means are those of the vectors scaled to length 1, and are not scaled again. Sums are kept in float64, dot products of two images in
    float32. Of equally good images the one with the smallest position is taken.

    Parameters
    ----------
    vectors : ndarray of float, shape (n, D)
        The class's embeddings. A float32 copy is made, and for up to 8192 images the (n, n) dot products are held.
    n_chosen : int
        0 to n.

    Returns
    -------
    ndarray of int64, shape (n_chosen,)
        Positions, in the order of the choice: fewer are a prefix of more.
    """
    unit = _unit(vectors, _scales(vectors))
    products = unit @ unit.T if len(unit) <= GRAM_ROWS else None
    mean = unit.mean(axis=0, dtype=np.float64)
    towards = _dots(unit, mean)
    # |n m - s - x|² for the n-th choice, m the mean and s the sum of the chosen, is up to what does not depend on x: |x|² - 2 x·(n m - s)
    found, score = np.zeros(n_chosen, dtype=np.int64), np.empty(len(unit))
    rest = unit.any(axis=1).astype(np.float64)  # |x|² + 2 x·s
    for number in range(n_chosen):
        np.multiply(towards, -2 * (number + 1), out=score)
        score += rest
        best = found[number] = _first_least(score)
        rest += 2 * (products[best] if products is not None else unit @ unit[best]).astype(np.float64)
        rest[best] = np.inf
    return found


def spread(vectors: Embeddings, *, n_chosen: int, first: int) -> Index:
    """Choose images one after the other, each the one farthest from all that are chosen (k-centre greedy; Euclidean, unit vectors).

    The choice is that of the plain greedy procedure, but distances from all images are computed to many centres at a time, by one matrix
    product: distances only fall, so that while a candidate among the farthest is farther than any image that is no candidate *was*, it is
    the farthest of all. Distances are computed in float32; those that are rounding count as 0. Of equally far images the one with the
    smallest position is taken.

    Parameters
    ----------
    vectors : ndarray of float, shape (N, D)
        May be memory-mapped: read in chunks.
    n_chosen : int
        1 to N.
    first : int
        Position of the image to start with.

    Returns
    -------
    ndarray of int64, shape (n_chosen,)
        Positions, in the order of the choice: fewer are a prefix of more.
    """
    n_images = len(vectors)
    scales = _scales(vectors)
    farness = np.full(n_images, np.inf, dtype=np.float32)  # squared distance from the nearest centre; -1 for a centre
    found = np.zeros(n_chosen, dtype=np.int64)
    found[0], n_found = first, 1
    _approach(farness, vectors, scales, found[:1])
    while n_found < n_chosen:
        candidates, bound = _farthest(farness, CANDIDATES)
        distances = _squared_distances(vectors[candidates], scales[candidates], _unit(vectors[candidates], scales[candidates]))
        chosen = _among(distances, farness[candidates], candidates, bound, n_chosen - n_found)
        found[n_found : n_found + len(chosen)] = chosen
        n_found += len(chosen)
        _approach(farness, vectors, scales, chosen)
    return found


def _farthest(farness: Float32, n_wanted: int) -> tuple[Index, tuple[float, int]]:
    """The farthest images, ascending in position, and (farness, position) of the next one after them."""
    if len(farness) <= n_wanted:
        return np.arange(len(farness)), (-np.inf, 0)
    bound = np.partition(farness, -n_wanted)[-n_wanted]
    above, at = np.flatnonzero(farness > bound), np.flatnonzero(farness == bound)
    n_at = n_wanted - len(above)
    candidates = np.sort(np.concatenate([above, at[:n_at]]))
    if n_at < len(at):
        return candidates, (float(bound), int(at[n_at]))
    rest = np.where(farness < bound, farness, -np.inf)
    return candidates, (float(rest.max()), int(rest.argmax()))


def _among(distances: Float32, farness: Float32, positions: Index, bound: tuple[float, int], n_wanted: int) -> Index:
    """The next centres, as far as they are certain to be among the candidates; their squared ``distances`` are (n, n)."""
    chosen: list[int] = []
    while len(chosen) < n_wanted:
        best = int(farness.argmax())
        far, position = float(farness[best]), int(positions[best])
        if far < 0 or (far, -position) < (bound[0], -bound[1]):
            break
        chosen.append(position)
        np.minimum(farness, distances[best], out=farness)
        farness[best] = -1
    return np.array(chosen, dtype=np.int64)


def _approach(farness: Float32, vectors: Embeddings, scales: Float32, centres: Index) -> None:
    """Lower the images' squared distances from the nearest centre, in place, by new centres."""
    unit = _unit(vectors[centres], scales[centres])
    for start in range(0, len(vectors), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        np.minimum(farness[chunk], _squared_distances(vectors[chunk], scales[chunk], unit).min(axis=1), out=farness[chunk])
    farness[centres] = -1


def _squared_distances(vectors: Embeddings, scales: Float32, centres: Float32) -> Float32:
    """From vectors (n, D), times their scales, to centres (m, D) of length 1 or 0; float32 of shape (n, m), from 0 up."""
    squared: Float32 = np.asarray(vectors, dtype=np.float32) @ centres.T
    squared *= -2 * scales[:, np.newaxis]
    squared += (scales > 0)[:, np.newaxis]  # the squared lengths, 1 or 0
    squared += centres.any(axis=1)
    squared[squared < _SAME] = 0
    return squared


def _scales(vectors: Embeddings) -> Float32:
    """What each vector (N, D) is multiplied with to have length 1, 0 for a zero vector; float32 of shape (N,)."""
    scales = np.zeros(len(vectors), dtype=np.float32)
    for start in range(0, len(vectors), CHUNK_ROWS):
        chunk = np.asarray(vectors[start : start + CHUNK_ROWS], dtype=np.float64)
        lengths = np.sqrt(np.einsum("nd,nd->n", chunk, chunk))
        np.divide(1, lengths, out=scales[start : start + CHUNK_ROWS], where=lengths > _ZERO, casting="same_kind")
    return scales


def _unit(vectors: Embeddings, scales: Float32) -> Float32:
    """Vectors (n, D) times their scales, as a float32 copy."""
    return np.asarray(vectors, dtype=np.float32) * scales[:, np.newaxis]


def _dots(unit: Float32, vector: Float) -> Float:
    """Dot products of unit vectors (n, D) with one vector (D,), in float64."""
    parts = [unit[start : start + CHUNK_ROWS].astype(np.float64) @ vector for start in range(0, len(unit), CHUNK_ROWS)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _first_least(score: Float) -> int:
    """The smallest position of a value that is, but for rounding, the least."""
    return int(np.argmax(score <= score.min() + _ROUNDING))


def _given(embeddings: Embeddings | None) -> Embeddings:
    if embeddings is None:
        raise ValueError("this sampler needs embeddings")
    return embeddings
