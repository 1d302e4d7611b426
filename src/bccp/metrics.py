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

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bccp.array_types import Float, Index, Mask

N_BINS = 15
"""Of confidence, equally wide, for the calibration error."""

COVERAGE = 0.95
"""Of the intervals."""

_AT_ONCE = 2**20
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


def measure(weights: npt.NDArray[np.number], label_idx: Index, probs: npt.NDArray[np.floating], *, top_k: int) -> Measured:
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

    Returns
    -------
    Measured
        ``pooled``: accuracy, top_k_accuracy, precision, recall and f1 (``_macro`` over the classes that occur among labels or predictions,
        ``_weighted`` by their images), mcc (Matthews' correlation), auroc_macro and average_precision_macro (one class against the others,
        over those that some images are of and some are not), calibration_error. ``by_class``: precision, recall, f1, auroc,
        average_precision.
    """
    n_classes = probs.shape[1]
    predicted = probs.argmax(axis=1)
    right = predicted == label_idx
    total = weights.sum(axis=1, dtype=np.float64)
    n_true = _sums(weights, label_idx, n_classes)
    n_predicted = _sums(weights, predicted, n_classes)
    n_right = _sums(weights * right, label_idx, n_classes)
    found = {"precision": _ratio(n_right, n_predicted), "recall": _ratio(n_right, n_true), "f1": _ratio(2 * n_right, n_true + n_predicted)}
    occurs = n_true + n_predicted > 0
    pooled = {"accuracy": n_right.sum(axis=1)}
    if top_k < n_classes:
        pooled["top_k_accuracy"] = (weights * among_likeliest(label_idx, probs, top_k)).sum(axis=1, dtype=np.float64)
    errors = _sums(weights * (right - probs.max(axis=1).astype(np.float64)), confidence_bins(probs), N_BINS)
    pooled["calibration_error"] = np.abs(errors).sum(axis=1)
    pooled = {name: _ratio(values, total, undefined=np.nan) for name, values in pooled.items()}
    for name, values in found.items():
        pooled[f"{name}_macro"] = _ratio((values * occurs).sum(axis=1), occurs.sum(axis=1), undefined=np.nan)
        pooled[f"{name}_weighted"] = _ratio((values * n_true).sum(axis=1), total, undefined=np.nan)
    pooled["mcc"] = np.where(total > 0, _matthews(n_true, n_predicted, n_right), np.nan)
    by_class = {name: np.where(n_true > 0, values, np.nan) for name, values in found.items()}
    areas = [ranking_areas(weights, label_idx == k, probs[:, k]) for k in range(n_classes)]
    for number, name in enumerate(("auroc", "average_precision")):
        by_class[name] = np.stack([area[number] for area in areas], axis=1)
        defined = ~np.isnan(by_class[name])
        pooled[f"{name}_macro"] = _ratio(np.nansum(by_class[name], axis=1), defined.sum(axis=1), undefined=np.nan)
    return Measured(pooled, by_class)


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
    at_once = max(1, _AT_ONCE // n_images)
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
