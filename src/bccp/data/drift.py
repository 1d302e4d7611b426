"""Difference of two sets of images: the energy distance of their statistics, with a permutation test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.data.array_types import Float, Images, Mask
from bccp.data.duplicates import duplicate_groups
from bccp.data.image_statistics import GRID_SIDE, LOOKS, looks

MOST_COMPARED = 500
"""Images of a side that drift is measured on, drawn at random: distances of all pairs are 8 MB then, whatever the size of the data."""


PERMUTATIONS, SURE = 999, 0.01
"""Of the test for drift, and the p-value up to which it is no chance."""


LEAST_COMPARED = 5
"""Fewer different images of a side tell nothing of drift."""


@dataclass(frozen=True)
class Drift:
    """Distance of new images from known ones.

    Attributes
    ----------
    distance : float
        Normalised energy distance: 0 where both look alike, 1 where each set is a single picture and the two differ.
    p_value : float
        How often a random exchange of images between the two sets gives as much, at least 1 / (permutations + 1).
    changes : dict of str to float
        By name of :data:`LOOKS`: mean of the new minus mean of the known, in pooled standard deviations; the largest first.
    n_known, n_new : int
        Images compared.
    """

    distance: float
    p_value: float
    changes: dict[str, float]
    n_known: int
    n_new: int

    @property
    def words(self) -> str:
        """What has changed most, in words."""
        told = [LOOKS[name][int(change > 0)] for name, change in self.changes.items() if abs(change) >= 0.2]
        return ", ".join(told[:3])


def drift(
    known: Images,
    new: Images,
    *,
    rng: np.random.Generator,
    strata: tuple[Sequence[str], Sequence[str]] | None = None,
    permutations: int = PERMUTATIONS,
) -> Drift:
    """Test whether new images look like known ones.

    Parameters
    ----------
    known, new : ndarray of uint8, shape (n, S, S, 3) and (m, S, S, 3), or views of such
        At least two each. At most :data:`MOST_COMPARED` of each, drawn at random, are read.
    rng : Generator
    strata : two sequences of str, optional
        The class of each image. Images are then exchanged within their class only, so that the test is exact where a class has its share
        of both sets by design, and a change of the classes' shares is not taken for one of their looks.
    permutations : int

    Returns
    -------
    Drift
    """
    sides = [draw_sample(images.shape[0], MOST_COMPARED, rng=rng) for images in (known, new)]
    told = pd.concat([looks(images, side) for images, side in zip((known, new), sides, strict=True)], ignore_index=True)
    is_new = np.repeat([False, True], [len(side) for side in sides])
    labels = [np.asarray(of, dtype=object)[side] for of, side in zip(strata, sides, strict=True)] if strata else None
    stratum = pd.factorize(np.concatenate(labels))[0] if labels else np.zeros(len(told), np.int64)
    scaled = _scaled(told.to_numpy())  # the columns of LOOKS, then the grid's
    scaled[:, len(LOOKS) :] /= GRID_SIDE  # the grid's 16 fields together count as one
    distance, p_value = energy_test(distances(scaled), is_new, stratum=stratum, permutations=permutations, rng=rng)
    change = {name: float(scaled[is_new, i].mean() - scaled[~is_new, i].mean()) for i, name in enumerate(LOOKS)}
    ordered = dict(sorted(change.items(), key=lambda item: -abs(item[1])))
    return Drift(distance, p_value, ordered, len(sides[0]), len(sides[1]))


def draw_sample(n: int, most: int, *, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """At most so many of n positions, at random, sorted."""
    return np.sort(rng.choice(n, min(n, most), replace=False, shuffle=False))


def _scaled(values: Float) -> Float:
    """Columns with mean 0 and standard deviation 1 over all rows, so that no exchange of rows changes them; constant ones are 0."""
    spread = values.std(axis=0)
    scaled: Float = (values - values.mean(axis=0)) / np.where(spread > 1e-9, spread, np.inf)
    return scaled.clip(-10, 10)


def distances(points: Float) -> Float:
    """Euclidean distances (n, n) of all pairs of points (n, D)."""
    squares = (points**2).sum(axis=1)
    between: Float = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    np.fill_diagonal(between, 0)
    return between


def energy_test(
    between: Float, is_new: Mask, *, stratum: npt.NDArray[np.int64], permutations: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Energy distance of two sets, and its p-value under exchanges within strata.

    Parameters
    ----------
    between : ndarray, shape (n, n)
        Distances of all pairs; the diagonal is 0.
    is_new : ndarray of bool, shape (n,)
        Which set each point is in; at least two points in each.
    stratum : ndarray of int, shape (n,)
    permutations : int
    rng : Generator

    Returns
    -------
    distance : float
        In [0, 1]: (2 A - B - C) / 2 A, where A is the mean distance between the sets, and B and C those within them, over pairs of
        different points, so that chance does not raise it; 0 where it would be negative.
    p_value : float
        In [1 / (permutations + 1), 1].
    """
    drawn = np.empty((len(is_new), permutations + 1))
    drawn[:, 0] = is_new
    for one in np.unique(stratum):
        own = np.flatnonzero(stratum == one)
        drawn[own, 1:] = rng.permuted(np.tile(is_new[own], (permutations, 1)), axis=1).T
    n_new, n_known = int(is_new.sum()), int((~is_new).sum())
    within_new = np.einsum("ij,ij->j", drawn, between @ drawn)
    across = between.sum(axis=1) @ drawn - within_new
    within_known = between.sum() - 2 * across - within_new
    apart = across / (n_new * n_known)
    energy = 2 * apart - within_new / (n_new * (n_new - 1)) - within_known / (n_known * (n_known - 1))
    chance = energy[1:] >= energy[0] - 1e-9 * max(apart[0], 1e-300)
    distance = max(float(energy[0]), 0.0) / (2 * apart[0]) if apart[0] > 0 else 0.0
    return float(distance), float((1 + chance.sum()) / (1 + permutations))


def once_each(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a manifest without copies and near copies of images before them, which are no independent evidence of drift."""
    groups = duplicate_groups(table["sha256"].tolist(), table["phash"].tolist())
    return table[~pd.Series(groups, index=table.index).duplicated()]


def drifted(known: Images, new: Images, *, rng: np.random.Generator, strata: tuple[list[str], list[str]] | None = None) -> Drift | None:
    """Measure drift (:func:`drift`); None where there are too few images."""
    if min(known.shape[0], new.shape[0]) < LEAST_COMPARED:
        return None
    return drift(known, new, rng=rng, strata=strata)
