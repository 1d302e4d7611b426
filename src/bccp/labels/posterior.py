"""What a given label is worth: the posterior of the true label, and all that it needs, estimated from the labels themselves.

N images, K classes. Image i has a given label y, from a user who may be wrong, and an unknown true label z. A classifier that never saw
y says ``probs[i, j] = p(z = j | x_i)``. The users are described by one noise matrix, ``noise[j, k] = P(y = k | z = j)``; its rows sum
to 1. Given z, the label does not depend on the image. Then

    P(z = j | x, y)  ∝  p(z = j | x) · noise[j, y]                         the label posterior
    P(y | x)         =  Σ_j p(z = j | x) · noise[j, y]                     the marginal likelihood of a given label

The second line is linear in the matrix, so the log-likelihood of all labels is concave in it: there is one maximum, and EM (Dawid and
Skene's, with a classifier in place of the first annotator) climbs to it from wherever it starts.

People err more on images that are hard to tell, and towards the classes that these resemble. So a share of the labels may be *guesses*:
what somebody with weaker eyes than the classifier says of the image, drawn from p at a higher temperature and independent of z given the
image. Then P(y | z = j, x) = (1 - share) · noise[j, y] + share · guess(y | x), and EM estimates the share too. A guess says nothing of z;
the more of a label's chance is a guess, the less p is moved by it.

New images mislead a classifier, and it comes to favour some classes. So log p may be shifted by an offset a class, the same for all images:
where the likeliest offsets make the labels likelier by more than as many parameters do by chance, they are believed.

What can be known. The classifier names the classes, so a matrix without a diagonal is found too, even if every label is wrong. What
cannot be told apart is a user who errs from a classifier that errs in the same way: an image of a 3 which p calls an 8 with certainty
makes a right label look wrong. Every such image lowers the estimated accuracy of the users; that is why p must be out of sample and
calibrated (:func:`bccp.labels.calibration.choose_temperature`), and why a classifier that was fitted to the given labels will not do: it
agrees with them, the identity matrix explains everything, and nothing is ever found.

References
----------
A. P. Dawid, A. M. Skene: "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied Statistics 28, 1979.
C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: "On Calibration of Modern Neural Networks", ICML 2017 (temperature).
H. Akaike: "A New Look at the Statistical Model Identification", IEEE Transactions on Automatic Control 19, 1974 (offsets).
Z. C. Lipton, C. Elkan, B. Naryanaswamy: "Optimal Thresholding of Classifiers to Maximize F1 Measure", ECML 2014.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bccp.data.array_types import Float, Index

NO_GUESSES = 8.0
"""The prior of the share of guesses is worth this many labels that are none: 0 is the likeliest share until labels speak against it."""


TOLERANCE = 1e-8
"""Of EM: the gain of a round per image, in nats, under which it stops."""


@dataclass(frozen=True)
class NoiseFit:
    """What EM found.

    Attributes
    ----------
    noise_matrix : ndarray of float64, shape (K, K)
        P(y = k | z = j); rows sum to 1; all entries above 0.
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y) under it; rows sum to 1.
    log_likelihood : float
        Of the labels, in nats, plus the prior's term: what EM climbs.
    left_out_likelihood : float
        Of the labels, in nats, each under the matrix without its own contribution. It does not rise just because the matrix has learned
        the labels by heart, and is therefore what temperatures and smoothings are compared by.
    iterations : int
        Of EM, its leaps among them.
    guess_share : float
        Share of the labels that are guesses, in [0, 1).
    likelihood : ndarray of float64, shape (N, K)
        P(y | z = j, x) of each image's label.
    """

    noise_matrix: Float
    posterior: Float
    log_likelihood: float
    left_out_likelihood: float
    iterations: int
    guess_share: float
    likelihood: Float


def label_posterior(probs: npt.ArrayLike, given: npt.ArrayLike, noise: npt.ArrayLike) -> Float:
    """P(z = j | x, y), by Bayes' rule.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(z = j | x), not negative; rows sum to 1.
    given : array-like of int, shape (N,)
        The given labels y, 0 to K - 1.
    noise : array-like, shape (K, K)
        P(y = k | z = j); rows sum to 1.

    Returns
    -------
    ndarray of float64, shape (N, K)
        Rows sum to 1. Where no class explains the label (all products are 0) the label says nothing, and the row is p(z | x).

    Examples
    --------
    >>> label_posterior([[0.5, 0.5]], [1], [[0.9, 0.1], [0.1, 0.9]]).round(3).tolist()
    [[0.1, 0.9]]
    """
    return combine(probs, np.asarray(noise, np.float64).T[np.asarray(given, np.int64)])


def estimate_user_accuracy(probs: npt.ArrayLike, given: npt.ArrayLike) -> float:
    """P(y = z), if a wrong label is any other class with the same chance: the simplest noise, one number.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(z = j | x); rows sum to 1; K at least 2.
    given : array-like of int, shape (N,)
        The given labels.

    Returns
    -------
    float
        Strictly between 0 and 1. It maximises Σ log(a·p + (1 - a)·(1 - p)/(K - 1)), p the probability of the given label, plus half a right
        and half a wrong pseudo-label (1/2 for N = 0). The sum is concave, and the slope's only zero is found by bisection.
    """
    right = given_probability(probs, given)
    wrong = (1 - right) / (np.shape(probs)[1] - 1)
    low, high = 0.0, 1.0
    for _ in range(50):  # to a width of 1e-15
        a = (low + high) / 2
        slope = np.sum((right - wrong) / (a * right + (1 - a) * wrong)) + 0.5 / a - 0.5 / (1 - a)
        low, high = (a, high) if slope > 0 else (low, a)
    return (low + high) / 2


def uniform_noise(accuracy: float, n_classes: int) -> Float:
    """The noise matrix of users who are right with one probability, and else name any other class alike.

    Parameters
    ----------
    accuracy : float
        In [0, 1].
    n_classes : int
        K, at least 2.

    Returns
    -------
    ndarray of float64, shape (K, K)
        Rows sum to 1.
    """
    matrix = np.full((n_classes, n_classes), (1 - accuracy) / (n_classes - 1))
    np.fill_diagonal(matrix, accuracy)
    return matrix


def estimate_noise_matrix(
    probs: npt.ArrayLike,
    given: npt.ArrayLike,
    *,
    smoothing: float = 10.0,
    guesses: npt.ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    max_iter: int = 1000,
) -> NoiseFit:
    """Estimate P(y | z) and the posterior of the true labels by EM.

    Each row of the matrix has a Dirichlet prior worth ``smoothing`` labels, whose mean is the uniform noise that fits these labels best
    (:func:`estimate_user_accuracy`). So a class without images gets that uniform row, one with three images stays near
    it, and one with hundreds says what its own row is.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(z = j | x), from a model that was not fitted to these labels; not negative, rows sum to 1; K at least 2.
    given : array-like of int, shape (N,)
        The given labels, 0 to K - 1. Classes may be missing.
    smoothing : float
        Pseudo-labels a class, above 0.
    guesses : array-like, shape (N,), optional
        guess(y | x) of each image's label, if it is a guess; without them no label is one.
    tolerance : float
        EM stops when a round gains less than this per image, in nats.
    max_iter : int
        Rounds of EM at most, at least 1; each leap in the rounds' direction, kept where the log-likelihood does not fall, counts as one.

    Returns
    -------
    NoiseFit
        Permuting the images permutes the posterior and changes nothing else, to the bit. The log-likelihood never falls from
        round to round.

    Raises
    ------
    ValueError
        For arrays that do not fit each other, fewer than 2 classes, or a smoothing that is not above 0.
    """
    fitted = fit_noise(probs, given, smoothing=smoothing, guesses=guesses, tolerance=tolerance, max_iter=max_iter)
    return NoiseFit(
        np.ascontiguousarray(fitted.by_label.T),
        fitted.posterior(),
        fitted.reached,
        fitted.left_out_likelihood(),
        fitted.iterations,
        fitted.share,
        fitted.likelihood(),
    )


def fit_noise(
    probs: npt.ArrayLike,
    given: npt.ArrayLike,
    *,
    smoothing: float = 10.0,
    guesses: npt.ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    max_iter: int = 1000,
) -> FittedNoise:
    """Do what :func:`estimate_noise_matrix` does, but compute of its result only what is asked for."""
    prior, labels = checked_labels(probs, given)
    if not smoothing > 0:
        raise ValueError(f"smoothing={smoothing} must be above 0")
    guess = np.zeros(len(prior)) if guesses is None else np.asarray(guesses, np.float64)
    few = prior.shape[1] <= FEW_CLASSES
    # sums of floats depend on their order: take one that belongs to the values, not to the images' places
    order = canonical_order(prior, labels)
    if not few:
        order = order[np.argsort(np.bincount(labels)[labels[order]], kind="stable")]
    prior, labels, guess = _taken(prior, order), labels[order], guess[order]
    accuracy, share = estimate_user_accuracy(prior, labels), 0.0 if guesses is None else _FIRST_SHARE
    em = (_FewClasses if few else _ManyClasses)(prior, labels, guess, smoothing, accuracy)
    here, iterations = em.visit(em.start(share)), 1
    while iterations < max_iter:
        before, here = here, em.visit(here.better, here)
        iterations += 1
        if here.reached - before.reached <= tolerance * len(prior):
            break
        far = em.leap_ahead(before, here)
        del before
        if far is not None and iterations < max_iter:
            leapt = em.visit(far)
            iterations += 1
            here = leapt if leapt.reached >= here.reached else here
    return FittedNoise(prior, labels, guess, order, here.reached, float(here.place[-1]), here.n_guessed, *em.conclude(here), iterations)


def confident_noise_matrix(probs: npt.ArrayLike, given: npt.ArrayLike, *, smoothing: float = 10.0) -> Float:
    """P(y | z), counted on the images that a model is sure of, even if it was fitted to labels as wrong as these.

    A model that was fitted to wrong labels is unsure of everything, but more so of some classes than of others. So an image counts as class
    j if p(j | x) is at least what images labelled j have in the mean, and as the likeliest of several such classes.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(label = j | x) from held-out folds; rows sum to 1; K at least 2.
    given : array-like of int, shape (N,)
        The given labels. Classes may be missing: no image counts as one that is no one's label.
    smoothing : float
        Pseudo-labels a class, spread like the uniform noise that fits the counts, above 0.

    Returns
    -------
    ndarray of float64, shape (K, K)
        Rows sum to 1; all entries above 0.

    References
    ----------
    C. Northcutt, L. Jiang, I. Chuang: "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021.
    """
    prior, labels = checked_labels(probs, given)
    n_classes = prior.shape[1]
    n_given = np.bincount(labels, minlength=n_classes)
    # sorted sums, so that the images' order does not matter to the bit
    own = given_probability(prior, labels)
    usual = np.array([np.sort(own[labels == k]).sum() / n if n else np.inf for k, n in enumerate(n_given)])  # (K,)
    sure = np.where(prior >= usual, prior, -1.0)
    counted = sure.max(axis=1) >= 0
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (sure.argmax(axis=1)[counted], labels[counted]), 1)
    accuracy = (np.trace(counts) + 0.5) / (counts.sum() + 1)
    counts += smoothing * uniform_noise(accuracy, n_classes)
    return np.asarray(counts / counts.sum(axis=1, keepdims=True), np.float64)


def remove_noise(probs: npt.ArrayLike, noise: npt.ArrayLike) -> Float:
    """p(z | x) from p(y | x) = Σ_j p(z = j | x) · noise[j, y].

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(y = k | x); rows sum to 1.
    noise : array-like, shape (K, K)
        P(y = k | z = j); rows sum to 1.

    Returns
    -------
    ndarray of float64, shape (N, K)
        ``probs`` times the inverse of the matrix, made probabilities again: at least 1% / K each before rows are scaled to 1. Directions in
        which the matrix keeps less than a tenth of what it keeps at most are left out, so that a singular one does no harm.

    References
    ----------
    G. Patrini, A. Rozza, A. Menon, R. Nock, L. Qu: "Making Deep Neural Networks Robust to Label Noise", CVPR 2017 (backward correction).
    """
    mixed = np.asarray(probs, np.float64)
    pure = np.maximum(mixed @ np.linalg.pinv(np.asarray(noise, np.float64), rcond=0.1), 0.01 / mixed.shape[1])
    return np.asarray(pure / pure.sum(axis=1, keepdims=True), np.float64)


def without_noise(mean_probs: npt.ArrayLike, given: npt.ArrayLike) -> Float:
    """p(z | x) of models that were fitted to other images' given labels: the noise that they learned is counted and taken out.

    Such a model says p(y | x), a mixture of the noise matrix's rows. Taken for p(z | x) it would agree with the labels, and no noise be
    found. So the noise is counted where the model is sure (:func:`confident_noise_matrix`) and taken out (:func:`remove_noise`). It rests
    on two assumptions: for most images the true class is plain to see (else too much noise is found), and most labels of a class are
    right (nothing else says what the classes are).

    Parameters
    ----------
    mean_probs : array-like, shape (N, K)
        p(y = j | x) of each image, from a model that was fitted neither to it nor to a duplicate of it; rows sum to 1.
    given : array-like of int, shape (N,)
        The given labels.

    Returns
    -------
    ndarray of float64, shape (N, K)
        Rows sum to 1.
    """
    return remove_noise(mean_probs, confident_noise_matrix(mean_probs, given))


def combine(probs: npt.ArrayLike, likelihood: npt.ArrayLike) -> Float:
    """P(z = j | x, y) ∝ p(z = j | x) · P(y | z = j), shape (N, K); a row that is 0 everywhere is p(z | x)."""
    prior = np.asarray(probs, np.float64)
    joint = prior * np.asarray(likelihood, np.float64)
    joint = np.where(joint.sum(axis=1, keepdims=True) > 0, joint, prior)
    return np.asarray(joint / joint.sum(axis=1, keepdims=True), np.float64)


def expected_f1_cutoff(p_wrong: npt.ArrayLike) -> float:
    """The cut-off under which "the label is wrong" has the highest expected F1.

    Of n labels that are cut off, Σ p are wrong in expectation; with P = Σ p over all labels the F1 is 2·Σ p / (n + P). The best cut takes
    the largest p, and one more is worth taking as long as its p is above half of the F1 reached: so the cut-off is F1 / 2.

    Parameters
    ----------
    p_wrong : array-like, shape (N,)
        P(given label wrong), in [0, 1].

    Returns
    -------
    float
        In [0, 0.5]; labels *strictly* above it are cut off, equal ones are never parted. 0 where all are 0 (nothing is cut off) or N = 0.

    References
    ----------
    Lipton, Elkan and Naryanaswamy, see the module's text.

    Examples
    --------
    >>> expected_f1_cutoff([1.0, 1.0, 0.0, 0.0])
    0.5
    """
    falling = np.sort(np.asarray(p_wrong, np.float64))[::-1]
    if not falling.any():
        return 0.0
    found = np.cumsum(falling)
    return float(np.max(found / (np.arange(1, len(falling) + 1) + found[-1])))


_FIRST_SHARE = 0.05
"""Of guesses, where EM begins."""

TINY = float(np.finfo(np.float64).tiny)

BLOCK_BYTES = 2**18
"""Of a block of rows: a few such arrays fit into a core's second-level cache."""

SERIAL = 8192
"""Scalar products of so many numbers or fewer BLAS does not share out among threads, which would change the sums, and take longer."""

MANY_CELLS, MOST_THREADS = 500_000, 4
"""Arrays of so many numbers are worked on by several threads, at most so many: memory is what limits more of them."""

FEW_CLASSES = 64
"""With more classes, sums are taken in the order that is quickest; with so few or fewer, in one that has never changed, to the bit."""


class _Place(NamedTuple):
    """State of EM and of its next round; places are matrix and share of guesses in one vector, shape (K² + 1,)."""

    place: Float
    reached: float
    """The log-likelihood there."""
    counts: Float
    """The expected number of labels of each cell, shape (K, K); of many classes, of each true class, shape (K,)."""
    n_guessed: float
    """The expected number of guesses."""
    better: Float
    towards: float = 0.0
    """Of many classes: the squared length of the step that led here,"""
    bend: float = 0.0
    """and of what the next step differs from it by."""


def _parts(place: Float) -> tuple[Float, float]:
    """The matrix, shape (K, K), a view, and the share of guesses."""
    n_classes = math.isqrt(len(place) - 1)
    return place[:-1].reshape(n_classes, n_classes), float(place[-1])


@dataclass(frozen=True)
class FittedNoise:
    """Last state of EM, and the labels that it was fitted to; posterior and likelihoods are computed when they are asked for.

    Temporary arrays are of a block of rows, so that they stay in the processor's cache and take no memory to speak of.
    """

    prior: Float
    labels: Index
    guess: Float
    order: Index
    reached: float
    share: float
    n_guessed: float
    by_label: Float
    """The noise matrix with a row a label, shape (K, K),"""
    counts_by_label: Float
    """and the expected number of labels of each of its cells."""
    n_counted: Float
    """Of each true class, shape (K,)."""
    iterations: int

    def left_out_likelihood(self) -> float:
        """See :class:`NoiseFit`."""
        share, evidence_without = self.share, np.empty(len(self.labels))

        def leave_out(rows: slice) -> None:
            prior, guess, labels = self.prior[rows], self.guess[rows], self.labels[rows]
            own, likelihood = self._likelihood_of(rows)
            likelihood *= prior
            evidence = likelihood.sum(axis=1, keepdims=True)  # (m, 1), P(y | x)
            # each label's row and share without itself
            no_guess = (1 - share) * prior
            no_guess *= own
            no_guess /= evidence  # (m, K), P(z = j, no guess | x, y)
            without = self.counts_by_label[labels]
            without -= no_guess
            without /= np.subtract(self.n_counted, no_guess, out=no_guess)
            others = (self.n_guessed - share * guess / evidence[:, 0]) / (len(self.labels) - 1 + NO_GUESSES)
            without *= (1 - others)[:, np.newaxis]
            without += (others * guess)[:, np.newaxis]
            without *= prior
            without.sum(axis=1, out=evidence_without[rows])

        for_each_block(self.prior.shape, leave_out)
        return float(np.log(evidence_without).sum())

    def posterior(self) -> Float:
        """P(z = j | x, y), shape (N, K), in the order of the images."""
        found = np.empty(self.prior.shape)

        def judge(rows: slice) -> None:
            joint = self.prior[rows] * self._likelihood_of(rows)[1]  # P(z = j, y | x)
            found[self.order[rows]] = joint / joint.sum(axis=1, keepdims=True)

        for_each_block(found.shape, judge)
        return found

    def likelihood(self) -> Float:
        """P(y | z = j, x) of each image's label, shape (N, K), in the order of the images."""
        found = np.empty(self.prior.shape)

        def put(rows: slice) -> None:
            found[self.order[rows]] = self._likelihood_of(rows)[1]

        for_each_block(found.shape, put)
        return found

    def _likelihood_of(self, rows: slice) -> tuple[Float, Float]:
        """P(y | z = j) of the labels of some rows and P(y | z = j, x), both of shape (m, K)."""
        own = self.by_label[self.labels[rows]]
        return own, (1 - self.share) * own + self.share * self.guess[rows, np.newaxis]


class _FewClasses:
    """Rounds of EM over images that are sorted by label."""

    def __init__(self, prior: Float, labels: Index, guess: Float, smoothing: float, accuracy: float) -> None:
        self.prior, self.labels, self.guess, self.smoothing = prior, labels, guess, smoothing
        self.pseudo = smoothing * uniform_noise(accuracy, prior.shape[1])  # (K, K)
        self.present, self.first = np.unique(labels, return_index=True)

    def start(self, share: float) -> Float:
        """The place where EM begins."""
        return np.append(self.pseudo / self.smoothing, share)

    def visit(self, place: Float, _: _Place | None = None) -> _Place:
        """The round from a place."""
        noise, share = _parts(place)
        meant = (1 - share) * self._products(noise)  # (N,), P(y, no guess | x)
        evidence = meant + share * self.guess  # (N,), P(y | x)
        log_prior = float((self.pseudo * np.log(noise)).sum())
        reached = float(np.log(evidence).sum() + log_prior) + NO_GUESSES * float(np.log1p(-share))
        by_label = np.zeros(noise.shape)
        if len(self.present):
            by_label[self.present] = np.add.reduceat(self.prior * ((1 - share) / evidence)[:, np.newaxis], self.first, axis=0)
        counts, better = by_label.T * noise + self.pseudo, np.empty_like(place)  # expected labels, and the matrix that they ask for
        np.divide(counts, counts.sum(axis=1, keepdims=True), out=_parts(better)[0])
        n_guessed = float((share * self.guess / evidence).sum())
        better[-1] = n_guessed / (len(self.prior) + NO_GUESSES)
        return _Place(place, reached, counts, n_guessed, better)

    def _products(self, noise: Float) -> Float:
        """Σ_j prior[i, j] · noise[j, labels[i]], shape (N,)."""
        by_label, found = np.ascontiguousarray(noise.T), np.empty(len(self.prior))

        def multiply(rows: slice) -> None:
            product = by_label.take(self.labels[rows], axis=0)
            product *= self.prior[rows]
            product.sum(axis=1, out=found[rows])

        for_each_block(self.prior.shape, multiply)
        return found

    def leap_ahead(self, before: _Place, here: _Place) -> Float | None:
        """See :func:`leap_ahead`."""
        return leap_ahead(before, here)

    def conclude(self, here: _Place) -> tuple[Float, Float, Float]:
        """By label, the noise matrix and the expected labels, both of shape (K, K), and the latter's sums by true class."""
        noise, _ = _parts(here.place)
        return np.ascontiguousarray(noise.T), np.ascontiguousarray(here.counts.T), here.counts.sum(axis=1)


class _ManyClasses:
    """Rounds of EM over images that are sorted by how many others have their label, then by label; few passes over memory.

    A matrix has a row a label here, and the rows lie as the images do: so the rows of a block of labels, all with equally many images, and
    these images' rows of p are two neighbouring parts of memory, which are read once for both sums over p and stay in the cache between.
    """

    def __init__(self, prior: Float, labels: Index, guess: Float, smoothing: float, accuracy: float) -> None:
        self.prior, self.guess, self.accuracy = prior, guess, accuracy
        n_classes = prior.shape[1]
        self.right, self.wrong = smoothing * accuracy, smoothing * (1 - accuracy) / (n_classes - 1)  # pseudo-labels a cell
        n_images = np.bincount(labels, minlength=n_classes)
        self.labels = np.argsort(n_images, kind="stable")
        """The label of each row."""
        self.blocks: list[tuple[slice, slice, Float, tuple[Index, Index]]] = []
        """Rows, their images, p of these by row, shape (m, n, K), and the cells of right labels."""
        edges = np.append(0, np.cumsum(n_images[self.labels])).tolist()
        counts, firsts, sizes = np.unique(n_images[self.labels], return_index=True, return_counts=True)
        for n, first, size in zip(counts.tolist(), firsts.tolist(), sizes.tolist(), strict=True):
            height = max(1, BLOCK_BYTES // (n_classes * (1 + n)))
            for start in range(first, first + size, height):
                rows = slice(start, min(start + height, first + size))
                images = slice(edges[rows.start], edges[rows.stop])
                own = np.arange(rows.stop - rows.start), self.labels[rows]
                self.blocks.append((rows, images, prior[images].reshape(len(own[0]), n, n_classes), own))

    def start(self, share: float) -> Float:
        """The place where EM begins."""
        return np.append(uniform_noise(self.accuracy, len(self.labels))[self.labels], share)

    def visit(self, place: Float, before: _Place | None = None) -> _Place:
        """The round from a place; with the place before, of which this is ``better``, also how far the steps go and bend."""
        noise, share = _parts(place)
        evidence, better = np.empty(len(self.prior)), np.empty_like(place)
        wanted, _ = _parts(better)  # the expected labels at first, then the matrix that they ask for
        sums = np.empty((len(self.blocks), len(noise)))

        def ask(number: int) -> None:
            rows, images, prior, own = self.blocks[number]
            counts, chance = wanted[rows], evidence[images].reshape(prior.shape[:2])
            if len(noise) <= SERIAL:
                np.vecdot(prior, noise[rows, np.newaxis], out=chance)
            else:
                np.einsum("lij,lj->li", prior, noise[rows], out=chance)
            if share:
                chance *= 1 - share
                chance += share * self.guess[images].reshape(chance.shape)
            np.einsum("li,lij->lj", (1 - share) / chance, prior, out=counts)
            counts *= noise[rows]
            counts += self.wrong
            counts[own] += self.right - self.wrong
            counts.sum(axis=0, out=sums[number])

        share_out(len(self.blocks), ask, self.prior.size)
        n_counted = sums.sum(axis=0)
        blocks = list(row_blocks(noise.shape))
        measured = np.zeros((len(blocks), 3))

        def divide(number: int) -> None:
            rows = blocks[number]
            here, found = noise[rows], wanted[rows]
            found /= n_counted
            measured[number, 0] = _sum_of_logs(here)
            if before is not None:
                step = here - _parts(before.place)[0][rows]
                measured[number, 1] = np.einsum("ij,ij->", step, step)
                change = np.subtract(found, here) - step
                measured[number, 2] = np.einsum("ij,ij->", change, change)

        share_out(len(blocks), divide, noise.size)
        logs, towards, bend = measured.sum(axis=0).tolist()
        log_prior = self.wrong * logs + (self.right - self.wrong) * float(np.log(noise[np.arange(len(noise)), self.labels]).sum())
        reached = float(np.log(evidence).sum()) + log_prior + NO_GUESSES * float(np.log1p(-share))
        n_guessed = float((share * self.guess / evidence).sum())
        better[-1] = n_guessed / (len(self.prior) + NO_GUESSES)
        return _Place(place, reached, n_counted, n_guessed, better, towards, bend)

    def leap_ahead(self, before: _Place, here: _Place) -> Float | None:
        """See :func:`leap_ahead`."""
        shares = [float(place[-1]) for place in (before.place, here.place, here.better)]
        step, change = shares[1] - shares[0], shares[2] - 2 * shares[1] + shares[0]
        towards, bend = here.towards + step**2, here.bend + change**2
        length = math.sqrt(towards / bend) if bend else 0.0
        share = shares[0] + 2 * length * step + length**2 * change
        if length <= 1 or not 0 <= share < 1:
            return None
        end = np.empty_like(here.place)
        end[-1] = share
        noise, total = _parts(end)[0], np.zeros(len(self.labels))
        first, second, third = (_parts(place)[0] for place in (before.place, here.place, here.better))
        for rows in row_blocks(noise.shape):
            part = np.multiply(third[rows], length**2, out=noise[rows])
            part += (2 * length * (1 - length)) * second[rows]
            part += (1 - length) ** 2 * first[rows]
            if not part.min() > 0:
                return None  # mostly in the first block, so that the others need no threads
            total += part.sum(axis=0)
        noise /= total
        return end

    def conclude(self, here: _Place) -> tuple[Float, Float, Float]:
        """By label, the noise matrix and the expected labels, both of shape (K, K), and the latter's sums by true class."""
        noise, wanted = _parts(here.place)[0], _parts(here.better)[0]
        by_label, counts = np.empty_like(noise), np.empty_like(noise)
        by_label[self.labels], counts[self.labels] = noise, wanted * here.counts
        return by_label, counts, here.counts


def _sum_of_logs(cells: Float) -> float:
    """Σ log over cells that are above 1e-19; a logarithm of sixteen cells' product takes no longer than one of a cell."""
    flat = cells.reshape(-1)
    end = len(flat) - len(flat) % 16
    return float(np.log(np.multiply.reduce(flat[:end].reshape(16, -1), axis=0)).sum() + np.log(flat[end:]).sum())


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the rows of an (N, K) array of float64, each of at most ``BLOCK_BYTES``, or of one row."""
    size = max(1, BLOCK_BYTES // (8 * shape[1]))
    return (slice(start, start + size) for start in range(0, shape[0], size))


def for_each_block(shape: tuple[int, ...], work: Callable[[slice], None]) -> None:
    """Do something with each of :func:`row_blocks`; of large arrays in several threads, as blocks do not depend on each other."""
    blocks = list(row_blocks(shape))
    share_out(len(blocks), lambda number: work(blocks[number]), shape[0] * shape[1])


def share_out(n_parts: int, work: Callable[[int], object], n_cells: int) -> None:
    """Do each of so many parts of the work, which do not depend on each other; on large arrays in several threads."""
    n_threads = 1
    if n_cells >= MANY_CELLS:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        n_threads = min(int(wanted) if wanted.isdigit() else cores, cores, MOST_THREADS, n_parts)

    def some(first: int) -> None:
        for number in range(first, n_parts, n_threads):
            work(number)

    if n_threads <= 1:
        some(0)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(some, range(n_threads)))


def leap_ahead(before: _Place, here: _Place) -> Float | None:
    """Where the last round of EM and the next one point to; None where that is invalid, or no further than the next round itself.

    References
    ----------
    R. Varadhan, C. Roland: "Simple and Globally Convergent Methods for Accelerating the Convergence of Any EM Algorithm", Scandinavian
    Journal of Statistics 35, 2008 (SQUAREM, third step length).
    """
    step, change = here.place - before.place, here.better - 2 * here.place + before.place
    bend = float(change @ change)
    length = float(np.sqrt(float(step @ step) / bend)) if bend else 0.0
    if length <= 1:
        return None
    end = before.place + 2 * length * step + length**2 * change
    noise, share = _parts(end)
    if end.min() < 0 or not noise.min() > 0 or share >= 1:
        return None
    noise /= noise.sum(axis=1, keepdims=True)
    return np.asarray(end)


def _taken(table: Float, order: Index) -> Float:
    """The rows of a table in an order."""
    found = np.empty(table.shape)

    def take(rows: slice) -> None:
        np.take(table, order[rows], axis=0, out=found[rows], mode="clip")  # the other mode would need a buffer

    for_each_block(table.shape, take)
    return found


def checked_labels(probs: npt.ArrayLike, given: npt.ArrayLike) -> tuple[Float, Index]:
    prior, labels = np.asarray(probs, np.float64), np.asarray(given, np.int64)
    if prior.ndim != 2 or labels.shape != prior.shape[:1] or prior.shape[1] < 2:
        raise ValueError(f"probs {prior.shape} must be (N, K) with K at least 2, and given {labels.shape} be (N,)")
    if len(labels) and not 0 <= labels.min() <= labels.max() < prior.shape[1]:
        raise ValueError(f"given labels run from {labels.min()} to {labels.max()}: 0 to {prior.shape[1] - 1} are accepted")
    return prior, labels


def given_probability(probs: npt.ArrayLike, given: npt.ArrayLike) -> Float:
    """The probability of each image's given label, shape (N,)."""
    return np.take_along_axis(np.asarray(probs, np.float64), np.asarray(given, np.int64)[:, np.newaxis], axis=1)[:, 0]


def clipped_log(probs: npt.ArrayLike) -> Float:
    # a probability that was rounded to 0 is not impossible
    return np.asarray(np.log(np.maximum(np.asarray(probs, np.float64), TINY)))


def canonical_order(prior: Float, labels: Index) -> Index:
    """An order by given label, then by the row's bytes: equal for the same images in any order, up to rows that are the same."""
    rows = np.ascontiguousarray(prior)
    by_bytes = np.argsort(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0], kind="stable")
    return np.asarray(by_bytes[np.argsort(labels[by_bytes], kind="stable")], np.int64)
