"""Figures of a classifier's probabilities, with weights on the images: many sets of weights at once, so that a bootstrap is quick.

N images, K classes, B sets of weights. A bootstrap's resample is a set of weights too: how often each image was drawn. Figures agree with
scikit-learn's of the same names at ``zero_division=0`` and with ``sample_weight``; what is not defined (no image, no image of the class, or
none of any other) is nan.

References
----------
B. Efron, R. Tibshirani: "An Introduction to the Bootstrap", 1993 (percentile intervals). C. Guo, G. Pleiss, Y. Sun, K. Weinberger: "On
Calibration of Modern Neural Networks", ICML 2017 (calibration error).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bccp.core import user_code
from bccp.core.errors import BCCPError
from bccp.data.array_types import Float, Index, Mask

N_BINS = 15
"""Of confidence, equally wide, for the calibration error."""

COVERAGE = 0.95
"""Of the intervals."""

RESAMPLED_AT_ONCE = 2**20
"""Weights that are held at once, as long as one set has no more."""


class Measured(NamedTuple):
    """Figures for each set of weights.

    Attributes
    ----------
    pooled : dict of str to ndarray of float64, shape (B,)
        By name, of all images together.
    by_class : dict of str to ndarray of float64, shape (B, K)
        Each class against the others.
    """

    pooled: dict[str, Float]
    by_class: dict[str, Float]


class Bins(NamedTuple):
    """Images by confidence: the bins of :data:`N_BINS` that hold any.

    Attributes
    ----------
    confidence, accuracy : ndarray of float64, shape (n,)
        Their means.
    n_images : ndarray of int64, shape (n,)
    """

    confidence: Float
    accuracy: Float
    n_images: Index


class Counts:
    """What metrics are computed from; each part is computed once, when the first of them asks for it.

    Parameters
    ----------
    weights : ndarray of int or float, shape (B, N)
    label_idx : ndarray of int64, shape (N,)
    probs : ndarray of float, shape (N, K)
    top_k : int
    """

    def __init__(self, weights: npt.NDArray[np.number], label_idx: Index, probs: npt.NDArray[np.floating], top_k: int) -> None:
        self.weights, self.label_idx, self.probs, self.top_k, self.n_classes = weights, label_idx, probs, top_k, probs.shape[1]

    @cached_property
    def predicted(self) -> Index:
        """The likeliest class of each image, shape (N,)."""
        found: Index = self.probs.argmax(axis=1)
        return found

    @cached_property
    def right(self) -> Mask:
        """Whether it is the label, shape (N,)."""
        return np.equal(self.predicted, self.label_idx)

    @cached_property
    def total(self) -> Float:
        """Sum of the weights, shape (B,)."""
        found: Float = self.weights.sum(axis=1, dtype=np.float64)
        return found

    @cached_property
    def n_true(self) -> Float:
        """Weight of the images of each class, shape (B, K)."""
        return _sums(self.weights, self.label_idx, self.n_classes)

    @cached_property
    def n_predicted(self) -> Float:
        """Weight of the images that are predicted to be of each class, shape (B, K)."""
        return _sums(self.weights, self.predicted, self.n_classes)

    @cached_property
    def n_right(self) -> Float:
        """Weight of those that are of it, shape (B, K)."""
        return _sums(self.weights * self.right, self.label_idx, self.n_classes)

    @cached_property
    def precision(self) -> Float:
        """By class, shape (B, K); 0 where nothing is predicted to be of it."""
        return _ratio(self.n_right, self.n_predicted)

    @cached_property
    def recall(self) -> Float:
        """By class, shape (B, K); 0 where nothing is of it."""
        return _ratio(self.n_right, self.n_true)

    @cached_property
    def f1(self) -> Float:
        """By class, shape (B, K); 0 where it does not occur."""
        return _ratio(2 * self.n_right, self.n_true + self.n_predicted)

    @cached_property
    def areas(self) -> tuple[Float, Float]:
        """Area under the ROC curve and average precision by class, each of shape (B, K); nan where not defined."""
        found = [ranking_areas(self.weights, self.label_idx == k, self.probs[:, k]) for k in range(self.n_classes)]
        auroc, average_precision = (np.stack([area[number] for area in found], axis=1) for number in (0, 1))
        return auroc, average_precision

    def share(self, values: Float) -> Float:
        """Sums (B,) as shares of the total weight; nan where that is 0."""
        return _ratio(values, self.total, undefined=np.nan)

    def macro(self, values: Float) -> Float:
        """Mean of figures by class (B, K) over the classes that occur among labels or predictions, shape (B,)."""
        occurs = self.n_true + self.n_predicted > 0
        return _ratio((values * occurs).sum(axis=1), occurs.sum(axis=1), undefined=np.nan)

    def weighted(self, values: Float) -> Float:
        """Mean of figures by class (B, K), weighted by the classes' images, shape (B,)."""
        return self.share((values * self.n_true).sum(axis=1))


def accuracy(counts: Counts) -> Float:
    """Share of right predictions."""
    return counts.share(counts.n_right.sum(axis=1))


def top_k_accuracy(counts: Counts) -> Float | None:
    """Share of images whose label is among the k likeliest classes; None where there are no more classes than that."""
    if counts.top_k >= counts.n_classes:
        return None
    among = among_likeliest(counts.label_idx, counts.probs, counts.top_k)
    return counts.share((counts.weights * among).sum(axis=1, dtype=np.float64))


def calibration_error(counts: Counts) -> Float:
    """Mean distance of confidence and accuracy over bins of confidence."""
    off = counts.right - counts.probs.max(axis=1).astype(np.float64)
    errors = _sums(counts.weights * off, confidence_bins(counts.probs), N_BINS)
    return counts.share(np.abs(errors).sum(axis=1))


def matthews(counts: Counts) -> Float:
    """Matthews' correlation for K classes; 0 where all labels or all predictions are of one class."""
    return np.where(counts.total > 0, _matthews(counts.n_true, counts.n_predicted, counts.n_right), np.nan)


def mean_over_defined(values: Float) -> Float:
    """Mean of figures by class (B, K) over the classes that have one, shape (B,)."""
    return _ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1), undefined=np.nan)


class Metric(NamedTuple):
    """A figure of a classifier.

    Attributes
    ----------
    compute : callable
        From :class:`Counts` to the figure of each set of weights, shape (B,); None where it makes no sense for these classes.
    lowest, highest : float
        What it can be.
    with_interval : bool
        Its interval is a figure of the run too; that of others is in the table alone.
    """

    compute: Callable[[Counts], Float | None]
    lowest: float = 0.0
    highest: float = 1.0
    with_interval: bool = False


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, with_interval=True),
    "top_k_accuracy": Metric(top_k_accuracy),
    "calibration_error": Metric(calibration_error),
    "precision_macro": Metric(lambda counts: counts.macro(counts.precision)),
    "precision_weighted": Metric(lambda counts: counts.weighted(counts.precision)),
    "recall_macro": Metric(lambda counts: counts.macro(counts.recall)),
    "recall_weighted": Metric(lambda counts: counts.weighted(counts.recall)),
    "f1_macro": Metric(lambda counts: counts.macro(counts.f1), with_interval=True),
    "f1_weighted": Metric(lambda counts: counts.weighted(counts.f1)),
    "mcc": Metric(matthews, lowest=-1.0),
    "auroc_macro": Metric(lambda counts: mean_over_defined(counts.areas[0])),
    "average_precision_macro": Metric(lambda counts: mean_over_defined(counts.areas[1])),
}
"""Figures of all images together; a new one is a line here, and appears in every table and report."""

CLASS_METRICS: dict[str, Callable[[Counts], Float]] = {
    "precision": lambda counts: np.where(counts.n_true > 0, counts.precision, np.nan),
    "recall": lambda counts: np.where(counts.n_true > 0, counts.recall, np.nan),
    "f1": lambda counts: np.where(counts.n_true > 0, counts.f1, np.nan),
    "auroc": lambda counts: counts.areas[0],
    "average_precision": lambda counts: counts.areas[1],
}
"""Figures of each class against the others, shape (B, K)."""


def own(name: str) -> Metric:
    """A user's own figure, by the dotted name of its function.

    The function is called with the labels (N,), the probabilities (N, K) and one set of weights (N,), and returns a number or nan.

    Raises
    ------
    BCCPError
        If there is no such function; when it is called, if it fails or gives no number.
    """
    function = user_code.import_object(name, "test.metrics")

    def compute(counts: Counts) -> Float:
        try:
            return np.array([float(function(counts.label_idx, counts.probs, row)) for row in counts.weights])
        except Exception as error:
            raise BCCPError(
                f"test.metrics: {name} fails ({user_code.describe_error(error)}): give a function of label_idx (N,), "
                "probs (N, K) and weights (N,) that returns a number"
            ) from error

    return Metric(compute, lowest=-np.inf, highest=np.inf)


def measure(
    weights: npt.NDArray[np.number],
    label_idx: Index,
    probs: npt.NDArray[np.floating],
    *,
    top_k: int,
    more: Mapping[str, Metric] = MappingProxyType({}),
) -> Measured:
    """All figures.

    Parameters
    ----------
    weights : ndarray of int or float, shape (B, N)
        From 0 up.
    label_idx : ndarray of int64, shape (N,)
        Classes from 0 to K - 1.
    probs : ndarray of float, shape (N, K)
        P(class | image); rows sum to 1.
    top_k : int
        A prediction is also counted as right where the label is among so many likeliest classes; left out where K is no more than that.
    more : mapping of str to Metric
        Beside :data:`METRICS`.

    Returns
    -------
    Measured
        ``pooled``: :data:`METRICS` and more, where ``_macro`` is the mean over the classes that occur among labels or predictions (of
        areas: over those that some images are of and some are not), ``_weighted`` that by their images. ``by_class``:
        :data:`CLASS_METRICS`.
    """
    counts = Counts(weights, label_idx, probs, top_k)
    pooled = {name: metric.compute(counts) for name, metric in (METRICS | dict(more)).items()}
    by_class = {name: compute(counts) for name, compute in CLASS_METRICS.items()}
    return Measured({name: values for name, values in pooled.items() if values is not None}, by_class)


def ranking_areas(weights: npt.NDArray[np.number], positive: Mask, scores: npt.NDArray[np.floating]) -> tuple[Float, Float]:
    """The area under the ROC curve, and the average precision.

    Parameters
    ----------
    weights : ndarray of int or float, shape (B, N)
        From 0 up.
    positive : ndarray of bool, shape (N,)
    scores : ndarray of float, shape (N,)
        High where an image is taken to be positive; equal ones pass a threshold together.

    Returns
    -------
    auroc, average_precision : ndarray of float64, shape (B,)
        nan where one kind of image is lacking.
    """
    order = np.argsort(-scores, kind="stable")
    place = np.flatnonzero(positive[order])  # of the positive images in the order of falling scores, (P,)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of each group of equal scores
    group = np.searchsorted(last, place)
    end, start = last[group] + 1, np.append(0, last + 1)[group]
    taken, of_positive = _running(weights[:, order]), _running(weights[:, order[place]])
    right, right_before = of_positive[:, np.searchsorted(place, end)], of_positive[:, np.searchsorted(place, start)]  # (B, P)
    wrong, wrong_before = taken[:, end] - right, taken[:, start] - right_before
    weight, n_right = weights[:, order[place]], of_positive[:, -1].astype(np.float64)
    n_wrong = taken[:, -1] - n_right
    defined = (n_right > 0) & (n_wrong > 0)
    # of each positive image's weight: the share of the others that it is ahead of, those with its own score by half
    ahead = (weight * (n_wrong[:, np.newaxis] - (wrong + wrong_before) / 2)).sum(axis=1)
    precise = (weight * _ratio(right, right + wrong)).sum(axis=1)
    areas = [_ratio(ahead, n_right * n_wrong), _ratio(precise, n_right)]
    return np.where(defined, areas[0], np.nan), np.where(defined, areas[1], np.nan)


def among_likeliest(label_idx: Index, probs: npt.NDArray[np.floating], top_k: int) -> Mask:
    """Whether a label is among the k likeliest classes, shape (N,); of equally likely ones the first count, as for ``argmax``."""
    own = np.take_along_axis(probs, label_idx[:, np.newaxis], axis=1)  # (N, 1)
    before = (probs > own) | ((probs == own) & (np.arange(probs.shape[1]) < label_idx[:, np.newaxis]))
    return np.asarray(before.sum(axis=1) < top_k)


def confidence_bins(probs: npt.NDArray[np.floating]) -> Index:
    """The bin of each image by the probability of its prediction, 0 to :data:`N_BINS` - 1; a bin holds its upper end."""
    upper: Index = np.ceil(probs.max(axis=1).astype(np.float64) * N_BINS).astype(np.int64)
    return np.minimum(np.maximum(upper - 1, 0), N_BINS - 1)


def reliability(label_idx: Index, probs: npt.NDArray[np.floating]) -> Bins:
    """Confidence and accuracy by bin of confidence; see :func:`measure`."""
    bins = confidence_bins(probs)
    n_images = np.bincount(bins, minlength=N_BINS)
    held = n_images > 0
    means = [np.bincount(bins, weights=of, minlength=N_BINS)[held] / n_images[held] for of in (probs.max(1), probs.argmax(1) == label_idx)]
    return Bins(means[0], means[1], n_images[held].astype(np.int64))


def resamples(n_images: int, n_resamples: int, rng: np.random.Generator) -> Iterator[npt.NDArray[np.int32]]:
    """Draw as many images as there are, with replacement, again and again.

    Parameters
    ----------
    n_images : int
        N, at least 1.
    n_resamples : int
    rng : Generator

    Yields
    ------
    ndarray of int32, shape (b, N)
        How often each image was drawn; rows sum to N. A few at a time, ``n_resamples`` together.
    """
    at_once = max(1, RESAMPLED_AT_ONCE // n_images)
    for first in range(0, n_resamples, at_once):
        rows = min(at_once, n_resamples - first)
        drawn = rng.integers(0, n_images, (rows, n_images)) + n_images * np.arange(rows)[:, np.newaxis]
        yield np.bincount(drawn.ravel(), minlength=rows * n_images).reshape(rows, n_images).astype(np.int32)


def interval(value: float, resampled: Float, *, lowest: float = 0.0, highest: float = 1.0) -> tuple[float, float]:
    """A percentile interval around a figure.

    Parameters
    ----------
    value : float
        The figure of the images as they are.
    resampled : ndarray of float64, shape (B,)
        The same of resamples; nan where it is not defined.
    lowest, highest : float
        What the figure can be.

    Returns
    -------
    low, high : float
        Of :data:`COVERAGE`. Moved by as much as the resamples' mean lies off the figure: the calibration error of a resample is larger, for
        one, and its percentiles would leave the figure out. nan where most resamples have no figure, as without any.
    """
    defined = resampled[~np.isnan(resampled)]
    if not len(resampled) or 2 * len(defined) < len(resampled):
        return float("nan"), float("nan")
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(defined, [tail, 1 - tail]) + (value - defined.mean())
    return float(min(value, max(low, lowest))), float(max(value, min(high, highest)))


def _sums(weights: npt.NDArray[np.number], code: Index, n_codes: int) -> Float:
    """The weights (B, N) summed by code (N,), shape (B, n_codes)."""
    cells = code + n_codes * np.arange(len(weights))[:, np.newaxis]
    sums: Float = np.bincount(cells.ravel(), weights=weights.ravel(), minlength=len(weights) * n_codes).astype(np.float64, copy=False)
    return sums.reshape(len(weights), n_codes)


def _running(weights: npt.NDArray[np.number]) -> npt.NDArray[np.number]:
    """Sums of the first 0 to n weights of each set, shape (B, n + 1)."""
    sums = np.zeros((len(weights), weights.shape[1] + 1), weights.dtype)
    np.cumsum(weights, axis=1, dtype=weights.dtype, out=sums[:, 1:])
    return sums


def _ratio(numerator: npt.NDArray[np.number], denominator: npt.NDArray[np.number], undefined: float = 0.0) -> Float:
    ratio: Float = np.divide(numerator, denominator, out=np.full(np.shape(numerator), undefined), where=denominator > 0)
    return ratio


def _matthews(n_true: Float, n_predicted: Float, n_right: Float) -> Float:
    """Matthews' correlation for K classes, from sums (B, K); 0 where all labels or all predictions are of one class."""
    total = n_true.sum(axis=1)
    together = n_right.sum(axis=1) * total - (n_true * n_predicted).sum(axis=1)
    spread = (total**2 - (n_true**2).sum(axis=1)) * (total**2 - (n_predicted**2).sum(axis=1))
    return _ratio(together, np.sqrt(np.maximum(spread, 0)))
