"""Statistics of the benchmarks: intervals, paired differences, calibration, and what a cut-off costs each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

N_BINS = 15
N_DRAWS = 200


class Estimate(NamedTuple):
    """A mean and the half-width of its 95% interval (Student's t), which is nan for fewer than two values."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        """The lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The upper end."""
        return self.mean + self.half


class Calibration(NamedTuple):
    """How far P(wrong) is off.

    Attributes
    ----------
    raw : float
        Expected calibration error, in [0, 1].
    perfect : float
        What a judge whose P(wrong) is exactly right has on so many images, in the mean.
    debiased : float
        ``raw - perfect``, not below 0. Right on average for a perfect judge but for the floor; it takes up to ``perfect`` too much from one
        that is far off, so that ``raw`` belongs beside it.
    """

    raw: float
    perfect: float
    debiased: float


def read_seeds(text: str) -> range:
    """A number of seeds (``3``: 1 to 3), or which ones (``4-6``)."""
    first, sign, last = text.partition("-")
    return range(int(first), int(last) + 1) if sign else range(1, int(first) + 1)


def estimate(values: Sequence[float] | Float) -> Estimate:
    """Mean and 95% half-width of one value a seed; nan without values."""
    array = np.asarray(values, np.float64)
    if not len(array):
        return Estimate(float("nan"), float("nan"))
    if len(array) == 1:
        return Estimate(float(array[0]), float("nan"))
    return Estimate(float(array.mean()), float(stats.t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))))


def interval(values: Sequence[float] | Float) -> str:
    """Mean and 95% half-width as text."""
    found = estimate(values)
    return f"{found.mean:.4f} ± {found.half:.4f}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Float:
    """Differences by seed, over the seeds that both have, in their order."""
    return np.array([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())], np.float64)


def f1(flagged: npt.ArrayLike, wrong: npt.ArrayLike) -> float:
    """F1 of flagging wrong labels, both of shape (N,); 0 where nothing is flagged or wrong."""
    found, bad = np.asarray(flagged, np.bool_), np.asarray(wrong, np.bool_)
    total = int(found.sum() + bad.sum())
    return 2 * int((found & bad).sum()) / total if total else 0.0


def calibration_error(p_wrong: npt.ArrayLike, wrong: npt.ArrayLike) -> float:
    """Expected calibration error over ``N_BINS`` bins of equal width, weighted by their sizes; both of shape (N,)."""
    p, bad = np.asarray(p_wrong, np.float64), np.asarray(wrong, np.float64)
    return float(np.abs(np.bincount(_bins(p), p - bad, minlength=N_BINS)).sum() / len(p))


def calibration(p_wrong: npt.ArrayLike, wrong: npt.ArrayLike, *, rng: np.random.Generator, draws: int = N_DRAWS) -> Calibration:
    """Calibration error, and how much of it is the sampling noise of so few images.

    Parameters
    ----------
    p_wrong : array-like, shape (N,)
        Stated P(given label wrong), in [0, 1]; pooled over seeds. N at least 1.
    wrong : array-like of bool, shape (N,)
    rng : Generator
    draws : int
        How often labels are drawn by the stated P(wrong), to see what a perfect judge would get.

    Returns
    -------
    Calibration
    """
    p = np.asarray(p_wrong, np.float64)
    raw = calibration_error(p, wrong)
    perfect = float(np.mean([calibration_error(p, rng.random(len(p)) < p) for _ in range(draws)]))
    return Calibration(raw, perfect, max(0.0, raw - perfect))


def right_dropped(above: npt.ArrayLike, given: npt.ArrayLike, wrong: npt.ArrayLike) -> tuple[float, int]:
    """How much worse than all the worst class is hit.

    Parameters
    ----------
    above : array-like of bool, shape (N,)
        Whether the label is cut off; pooled over seeds.
    given : array-like of int, shape (N,)
        Given labels.
    wrong : array-like of bool, shape (N,)

    Returns
    -------
    ratio : float
        The greatest share of a class's right labels above the cut-off, over the overall share; nan where there are none.
    n_dropped : int
        Right labels above the cut-off.
    """
    labels, right = np.asarray(given, np.int64), ~np.asarray(wrong, np.bool_)
    dropped = right & np.asarray(above, np.bool_)
    if not dropped.any():
        return float("nan"), 0
    n_right = np.bincount(labels[right])
    n_dropped = np.bincount(labels[dropped], minlength=len(n_right))
    worst = np.max(n_dropped[n_right > 0] / n_right[n_right > 0])
    return float(worst / (dropped.sum() / right.sum())), int(dropped.sum())


def gap_closed(noisy: npt.ArrayLike, cleaned: npt.ArrayLike, true: npt.ArrayLike, *, least: float) -> tuple[float, Mask]:
    """Share of the accuracy lost to wrong labels that cleaning wins back.

    Parameters
    ----------
    noisy, cleaned, true : array-like, shape (C,)
        Accuracy in each cell, in [0, 1].
    least : float
        Cells with a smaller gap between noisy and true labels do not count.

    Returns
    -------
    share : float
        Σ (cleaned - noisy) / Σ (true - noisy) over the cells that count; nan without any.
    counts : ndarray of bool, shape (C,)
    """
    low, mid, high = (np.asarray(values, np.float64) for values in (noisy, cleaned, true))
    counts = high - low >= least - 1e-12
    gap = float((high - low)[counts].sum())
    return (float((mid - low)[counts].sum()) / gap if gap > 0 else float("nan")), counts


def _bins(p: Float) -> Index:
    return np.clip((p * N_BINS).astype(np.int64), 0, N_BINS - 1)
