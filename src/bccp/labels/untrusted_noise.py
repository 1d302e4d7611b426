"""Noise of the given labels where nothing is trusted: two models of it, each fitted together with the temperature of the judge.

N images with given labels y, K classes. A judge that was not fitted to these labels gives scores s (N, K), and p(z = j | x) is the softmax
of s / t for the true label z. An overconfident judge and wrong labels look alike, for both make labels improbable; they are told apart by
fitting t, which touches all classes, and the noise, which touches given labels, at once, over a grid of t. No trusted image anchors the
temperature here, which :mod:`bccp.labels.anchored_noise` has; so posteriors are averages over the whole grid.

* **uniform**: a label is right with chance 1 - e, else any other class alike. Averaged over t and e, without the prior odds that none is
  wrong of :mod:`bccp.labels.anchored_noise`: in a small folder of plain pictures a judge that is unsure of all alike explains the labels as
  well as one that is sure beside some wrong ones, and odds of 3 made it say 1% for 10%.
* **matrix**: P(y = k | z = j) has a row a class, each lent ``SMOOTHING`` labels of the uniform noise that the matrix itself amounts to.
  EM at each t; its likelihood leaves each label out of its own row, so that a matrix gains little by learning labels by heart.

A matrix explains a judge's own confusions as easily as people's. Its likelihood alone says nothing of which they are
(:mod:`bccp.labels.untrusted_judge` puts that to the test).

Memory: some five arrays (N, K) of float64 and as many (K, K), whatever the grid. EM sums by label, in N · K steps a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from bccp.data.array_types import Float, Index
from bccp.labels.anchored_noise import ERROR_PRIOR, ERROR_RATES, uniform_likelihoods
from bccp.labels.posterior import given_probability, uniform_noise

TEMPERATURES = np.geomspace(0.2, 6.0, 24)
"""Of p(z | x)."""

SMOOTHING = 20.0
"""Labels of uniform noise that each row of the matrix is lent."""

FIRST_ERRORS = 0.1
"""Share of wrong labels where EM begins."""

LEAST_ERRORS, MOST_ERRORS = 1e-4, 0.95
"""Bounds of the share of wrong labels that a row's pseudo-labels have."""

LEAST_ROUNDS, MOST_ROUNDS = 7, 150
"""Of EM; after the least it ends with a round that gains little."""

TOLERANCE = 1e-6
"""Gain of a round per image, in nats, under which EM ends."""

_TINY = 1e-300
"""In place of a probability that was rounded to 0."""

_NEGLIGIBLE = 1e-6
"""Weight, as a share of the greatest, under which a temperature is left out of the average."""


@dataclass(frozen=True)
class NoiseOverTemperatures:
    """What the given labels say of the noise under a model.

    Attributes
    ----------
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y), averaged over the grid; rows sum to 1.
    log_likelihood : float
        Of the labels at the best parameters, with the prior of the share of wrong labels, in nats. Comparable between the models.
    temperature : float
        Of p(z | x): the likeliest.
    noise_matrix : ndarray of float64, shape (K, K)
        P(y = k | z = j) at that temperature; rows sum to 1.
    """

    posterior: Float
    log_likelihood: float
    temperature: float
    noise_matrix: Float


def fit_uniform_noise(scores: Float, given: Index) -> NoiseOverTemperatures:
    """Fit the uniform model.

    Parameters
    ----------
    scores : ndarray of float64, shape (N, K)
        Of images that the judge was not fitted to with their own given labels; K at least 2.
    given : ndarray of int64, shape (N,)
        0 to K - 1.

    Returns
    -------
    NoiseOverTemperatures
        ``log_likelihood`` is the grid's maximum; cells are weighted by likelihood, prior and their width in e, and the likeliest of them
        has the temperature and matrix.
    """
    n_classes = scores.shape[1]
    own = [given_probability(softmax(scores / t, axis=1), given) for t in TEMPERATURES.tolist()]
    values = np.array([uniform_likelihoods(chance, n_classes) for chance in own]) + ERROR_PRIOR * np.log1p(-ERROR_RATES)
    weights = values + np.log(np.gradient(ERROR_RATES))
    weights = np.exp(weights - weights.max())
    best_t, best_e = np.unravel_index(int(weights.argmax()), weights.shape)
    weights[weights < _NEGLIGIBLE] = 0
    weights /= weights.sum()
    posterior = np.zeros(scores.shape)
    for i in np.flatnonzero(weights.sum(axis=1)).tolist():
        # of a label's posterior only P(y | x), the divisor, depends on the image beyond p; so the sum over e is one factor an image
        right, wrong = np.zeros(len(given)), np.zeros(len(given))
        for j in np.flatnonzero(weights[i]).tolist():
            error = float(ERROR_RATES[j]) / (n_classes - 1)
            chance = (1 - float(ERROR_RATES[j])) * own[i] + error * (1 - own[i])
            right += weights[i, j] * (1 - float(ERROR_RATES[j])) / chance
            wrong += weights[i, j] * error / chance
        probs = softmax(scores / TEMPERATURES[i], axis=1)
        mine = probs[np.arange(len(given)), given] * right
        probs *= wrong[:, np.newaxis]
        probs[np.arange(len(given)), given] = mine
        posterior += probs
    posterior /= posterior.sum(axis=1, keepdims=True)
    matrix = uniform_noise(1 - float(ERROR_RATES[best_e]), n_classes)
    return NoiseOverTemperatures(posterior, float(values.max()), float(TEMPERATURES[best_t]), matrix)


def fit_matrix_noise(scores: Float, given: Index) -> NoiseOverTemperatures:
    """Fit the matrix model; parameters as for :func:`fit_uniform_noise`.

    Returns
    -------
    NoiseOverTemperatures
        Temperatures are weighted by the likelihood that leaves each label out.
    """
    order = np.argsort(given, kind="stable")
    labelled, blocks = scores[order], list(_blocks(given, scores.shape[1]))
    fits: list[_MatrixFit] = []
    for temperature in TEMPERATURES.tolist():
        fits.append(_expect_and_maximise(labelled, temperature, blocks))
        best = max(fits, key=lambda fit: fit.log_likelihood)
        fits = [fit for fit in fits if fit.log_likelihood > best.log_likelihood + np.log(_NEGLIGIBLE)]
    posterior = np.zeros(scores.shape)
    for fit in fits:
        joint = softmax(labelled / fit.temperature, axis=1)
        for label, rows in blocks:
            joint[rows] *= fit.by_label[label]
        joint *= np.exp(fit.log_likelihood - best.log_likelihood) / np.maximum(joint.sum(axis=1, keepdims=True), _TINY)
        posterior[order] += joint
    posterior /= posterior.sum(axis=1, keepdims=True)
    return NoiseOverTemperatures(posterior, best.log_likelihood, best.temperature, np.ascontiguousarray(best.by_label.T))


class _MatrixFit(NamedTuple):
    """A temperature, the noise matrix with a row a label, shape (K, K), and the likelihood that leaves each label out, in nats."""

    temperature: float
    by_label: Float
    log_likelihood: float


def _expect_and_maximise(scores: Float, temperature: float, blocks: list[tuple[int, slice]]) -> _MatrixFit:
    """EM at one temperature, of images sorted by label."""
    probs = softmax(scores / temperature, axis=1)
    n_images, n_classes = probs.shape
    errors, last = FIRST_ERRORS, -np.inf
    by_label = uniform_noise(1 - errors, n_classes)
    counts, evidence = np.zeros((n_classes, n_classes)), np.empty(n_images)  # expected labels, a row a label
    pseudo = SMOOTHING * by_label
    for done in range(MOST_ROUNDS):
        for label, rows in blocks:
            np.dot(probs[rows], by_label[label], out=evidence[rows])
            np.dot(1 / np.maximum(evidence[rows], _TINY), probs[rows], out=counts[label])
        counts *= by_label
        value, total = float(np.log(np.maximum(evidence, _TINY)).sum()), float(counts.sum())
        errors = min(max((total - float(np.trace(counts))) / (n_images + ERROR_PRIOR), LEAST_ERRORS), MOST_ERRORS)
        pseudo = SMOOTHING * uniform_noise(1 - errors, n_classes)
        by_label = counts + pseudo
        by_label /= counts.sum(axis=0) + SMOOTHING
        if value - last < TOLERANCE * n_images and done + 1 >= LEAST_ROUNDS:
            break
        last = value
    counts += pseudo
    n_of_class, left_out = counts.sum(axis=0), 0.0
    for label, rows in blocks:
        joint = probs[rows] * by_label[label]
        joint /= np.maximum(joint.sum(axis=1, keepdims=True), _TINY)  # the posterior
        others = np.maximum(counts[label] - joint, 1e-12) / (n_of_class - joint)
        left_out += float(np.log((probs[rows] * others).sum(axis=1)).sum())
    return _MatrixFit(temperature, by_label, left_out + ERROR_PRIOR * float(np.log1p(-errors)))


def _blocks(given: Index, n_classes: int) -> Iterator[tuple[int, slice]]:
    """Each label that is given, and its images among all that are sorted by label."""
    ends = np.cumsum(np.bincount(given, minlength=n_classes))
    starts = np.append(0, ends[:-1])
    return ((label, slice(int(starts[label]), int(ends[label]))) for label in np.flatnonzero(ends > starts).tolist())
