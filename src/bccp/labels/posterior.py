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
    noise, share = _parts(fitted.here.place)
    return NoiseFit(
        noise.copy(),  # without what else the place holds
        fitted.posterior(),
        fitted.here.reached,
        fitted.left_out_likelihood(),
        fitted.iterations,
        share,
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
    # sums of floats depend on their order: take one that belongs to the values, not to the images' places
    order = canonical_order(prior, labels)
    prior, labels, guess = prior[order], labels[order], guess[order]
    n_images, n_classes = prior.shape
    pseudo = smoothing * uniform_noise(estimate_user_accuracy(prior, labels), n_classes)  # (K, K)
    rows = _SortedRows(prior, labels)

    def visit(place: Float) -> _Place:
        noise, share = _parts(place)
        meant = (1 - share) * rows.products(noise)  # (N,), P(y, no guess | x)
        evidence = meant + share * guess  # (N,), P(y | x)
        reached = float(np.log(evidence).sum() + _log_prior(noise, pseudo)) + NO_GUESSES * float(np.log1p(-share))
        by_class = np.ascontiguousarray(rows.sums((1 - share) / evidence).T)  # rows that lie as those of the matrix do
        counts, better = np.empty_like(noise), np.empty_like(place)  # expected labels, and the matrix that they ask for
        wanted, _ = _parts(better)

        def ask(block: slice) -> None:
            counted = counts[block]
            np.multiply(by_class[block], noise[block], out=counted)
            counted += pseudo[block]
            np.divide(counted, counted.sum(axis=1, keepdims=True), out=wanted[block])

        for_each_block(noise.shape, ask)
        n_guessed = float((share * guess / evidence).sum())
        better[-1] = n_guessed / (n_images + NO_GUESSES)
        return _Place(place, reached, counts, n_guessed, better)

    here, iterations = visit(np.append(pseudo / smoothing, 0.0 if guesses is None else _FIRST_SHARE)), 1
    while iterations < max_iter:
        before, here = here, visit(here.better)
        iterations += 1
        if here.reached - before.reached <= tolerance * n_images:
            break
        far = leap_ahead(before, here)
        del before
        if far is not None and iterations < max_iter:
            leapt = visit(far)
            iterations += 1
            here = leapt if leapt.reached >= here.reached else here
    return FittedNoise(prior, labels, guess, order, here, iterations)


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
    """The expected number of labels of each cell, shape (K, K)."""
    n_guessed: float
    """The expected number of guesses."""
    better: Float


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
    here: _Place
    iterations: int

    def left_out_likelihood(self) -> float:
        """See :class:`NoiseFit`."""
        _, share = _parts(self.here.place)
        n_counted, counts_by_label = self.here.counts.sum(axis=1), np.ascontiguousarray(self.here.counts.T)
        evidence_without = np.empty(len(self.labels))
        likelihood_of = self._likelihood_of()

        def leave_out(rows: slice) -> None:
            prior, guess = self.prior[rows], self.guess[rows]
            own, likelihood = likelihood_of(rows)
            evidence = (prior * likelihood).sum(axis=1, keepdims=True)  # (m, 1), P(y | x)
            # each label's row and share without itself
            no_guess = (1 - share) * prior * own / evidence  # (m, K), P(z = j, no guess | x, y)
            without = (counts_by_label[self.labels[rows]] - no_guess) / (n_counted - no_guess)
            others = (self.here.n_guessed - share * guess / evidence[:, 0]) / (len(self.labels) - 1 + NO_GUESSES)
            evidence_without[rows] = (prior * ((1 - others)[:, np.newaxis] * without + (others * guess)[:, np.newaxis])).sum(axis=1)

        for_each_block(self.prior.shape, leave_out)
        return float(np.log(evidence_without).sum())

    def posterior(self) -> Float:
        """P(z = j | x, y), shape (N, K), in the order of the images."""
        found, likelihood_of = np.empty(self.prior.shape), self._likelihood_of()

        def judge(rows: slice) -> None:
            joint = self.prior[rows] * likelihood_of(rows)[1]  # P(z = j, y | x)
            found[self.order[rows]] = joint / joint.sum(axis=1, keepdims=True)

        for_each_block(found.shape, judge)
        return found

    def likelihood(self) -> Float:
        """P(y | z = j, x) of each image's label, shape (N, K), in the order of the images."""
        found, likelihood_of = np.empty(self.prior.shape), self._likelihood_of()

        def put(rows: slice) -> None:
            found[self.order[rows]] = likelihood_of(rows)[1]

        for_each_block(found.shape, put)
        return found

    def _likelihood_of(self) -> Callable[[slice], tuple[Float, Float]]:
        """From rows to P(y | z = j) of their labels and P(y | z = j, x), both of shape (m, K)."""
        noise, share = _parts(self.here.place)
        by_label = np.ascontiguousarray(noise.T)

        def likelihood_of(rows: slice) -> tuple[Float, Float]:
            own = by_label[self.labels[rows]]
            return own, (1 - share) * own + share * self.guess[rows, np.newaxis]

        return likelihood_of


class _SortedRows:
    """p(z | x) of images that are sorted by label, and the two sums over it of which a round of EM consists."""

    def __init__(self, prior: Float, labels: Index) -> None:
        self.prior, self.labels = prior, labels
        self.present, self.first = np.unique(labels, return_index=True)

    def products(self, noise: Float) -> Float:
        """Σ_j prior[i, j] · noise[j, labels[i]], shape (N,)."""
        by_label = np.ascontiguousarray(noise.T)
        found = np.empty(len(self.prior))

        def multiply(rows: slice) -> None:
            product = by_label.take(self.labels[rows], axis=0)
            if FEW_CLASSES < len(noise) <= SERIAL:
                np.vecdot(product, self.prior[rows], out=found[rows])
                return
            product *= self.prior[rows]
            product.sum(axis=1, out=found[rows])

        for_each_block(self.prior.shape, multiply)
        return found

    def sums(self, weights: Float) -> Float:
        """Σ_i prior[i, j] · weights[i] over the images i with label k, at [k, j], shape (K, K)."""
        n_images, n_classes = self.prior.shape
        if n_classes > FEW_CLASSES:
            from scipy import sparse  # only here: a second

            ends = np.searchsorted(self.labels, np.arange(n_classes + 1))
            return np.asarray(sparse.csr_array((weights, np.arange(n_images), ends), shape=(n_classes, n_images)) @ self.prior)
        found = np.zeros((n_classes, n_classes))
        if len(self.present):
            found[self.present] = np.add.reduceat(self.prior * weights[:, np.newaxis], self.first, axis=0)
        return found


def _log_prior(noise: Float, pseudo: Float) -> float:
    """Σ pseudo · log noise over all cells; ``pseudo`` has one value on the diagonal and one beside it."""
    if len(noise) <= FEW_CLASSES:
        return float((pseudo * np.log(noise)).sum())
    # a logarithm of eight cells' product takes no longer than one of a cell; a cell is above 1e-30
    cells = noise.reshape(-1)
    end = len(cells) - len(cells) % 8
    logs = float(np.log(np.multiply.reduce(cells[:end].reshape(8, -1), axis=0)).sum() + np.log(cells[end:]).sum())
    own, other = float(pseudo[0, 0]), float(pseudo[0, 1])
    return other * logs + (own - other) * float(np.log(np.diagonal(noise)).sum())


def row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the rows of an (N, K) array of float64, each of at most ``BLOCK_BYTES``, or of one row."""
    size = max(1, BLOCK_BYTES // (8 * shape[1]))
    return (slice(start, start + size) for start in range(0, shape[0], size))


def for_each_block(shape: tuple[int, ...], work: Callable[[slice], None]) -> None:
    """Do something with each of :func:`row_blocks`; of large arrays in several threads, as blocks do not depend on each other."""
    blocks = list(row_blocks(shape))
    n_threads = 1
    if shape[0] * shape[1] >= MANY_CELLS:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        n_threads = min(int(wanted) if wanted.isdigit() else cores, cores, MOST_THREADS, len(blocks))

    def some(first: int) -> None:
        for block in blocks[first::n_threads]:
            work(block)

    if n_threads <= 1:
        some(0)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(some, range(n_threads)))


def _parts_of(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of a vector, of at most ``SERIAL`` numbers."""
    size = min(SERIAL, BLOCK_BYTES // 8)
    return (slice(start, min(start + size, shape[0])) for start in range(0, shape[0], size))


def leap_ahead(before: _Place, here: _Place) -> Float | None:
    """Where the last round of EM and the next one point to; None where that is invalid, or no further than the next round itself.

    References
    ----------
    R. Varadhan, C. Roland: "Simple and Globally Convergent Methods for Accelerating the Convergence of Any EM Algorithm", Scandinavian
    Journal of Statistics 35, 2008 (SQUAREM, third step length).
    """
    whole = here.place.shape
    towards = bend = 0.0
    for part in _parts_of(whole):  # which stay in the cache; a small matrix is one part
        step = here.place[part] - before.place[part]
        change = here.better[part] - 2 * here.place[part] + before.place[part]
        towards, bend = towards + float(step @ step), bend + float(change @ change)
    length = float(np.sqrt(towards / bend)) if bend else 0.0
    if length <= 1:
        return None
    end = np.empty(whole)
    for part in _parts_of(whole):
        step = here.place[part] - before.place[part]
        change = here.better[part] - 2 * here.place[part] + before.place[part]
        np.add(before.place[part] + 2 * length * step, length**2 * change, out=end[part])
        if end[part].min() < 0:
            return None
    noise, share = _parts(end)
    if not noise.min() > 0 or share >= 1:
        return None
    for rows in row_blocks(noise.shape):
        noise[rows] /= noise[rows].sum(axis=1, keepdims=True)
    return end


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
