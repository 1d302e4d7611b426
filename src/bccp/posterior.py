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
cannot be told apart is a user who errs from a classifier that errs in the same way: an image of a 3 which p calls an 8 with certainty makes
a right label look wrong. Every such image lowers the estimated accuracy of the users; that is why p must be out of sample and
calibrated (:func:`choose_temperature`), and why a classifier that was fitted to the given labels will not do: it agrees with
them, the identity matrix explains everything, and nothing is ever found.

References
----------
A. P. Dawid, A. M. Skene: "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied Statistics 28, 1979.
C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger: "On Calibration of Modern Neural Networks", ICML 2017 (temperature).
H. Akaike: "A New Look at the Statistical Model Identification", IEEE Transactions on Automatic Control 19, 1974 (offsets).
Z. C. Lipton, C. Elkan, B. Naryanaswamy: "Optimal Thresholding of Classifiers to Maximize F1 Measure", ECML 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bccp.array_types import Float, Index

SMOOTHINGS = (3.0, 10.0, 30.0, 100.0, 1000.0)
"""Pseudo-labels a class among which :func:`choose_smoothing` chooses: from nearly free rows to one error rate for all."""

MODEST, CAUTION = 0.65, 0.9
"""See :func:`most_believed`; chosen on digits and on photographs, with uniform noise, pair noise, a weak model's confusions, and people's
own labels on the photographs: all of them are then within three points of the F1 at their own best temperature, most within one."""

SOFTNESSES = (1.5, 2.0, 3.0, 4.0)
"""Temperatures of a guess among which :func:`choose_guesses` chooses: how weak the eyes are."""

NO_GUESSES = 8.0
"""The prior of the share of guesses is worth this many labels that are none: 0 is the likeliest share until labels speak against it."""

OFFSET_PRIOR = 10.0
"""Precision of the normal prior of a class's offset, in images: so many have to speak for an offset of 1 to believe one of a half."""

TOLERANCE = 1e-8
"""Of EM: the gain of a round per image, in nats, under which it stops."""

TEMPERATURES = (0.4, 10.0)
"""The least and the greatest temperature. At 0.4 odds of 2 to 1 have become 6 to 1; at 10 odds of 1000 to 1 have become 2 to 1."""


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


@dataclass(frozen=True)
class Judgement:
    """Given labels, judged.

    Attributes
    ----------
    temperature : float
        Of p(z | x).
    smoothing : float
        Pseudo-labels a class.
    softness : float or None
        Temperature of a guess; None where no label is taken for one.
    offsets : ndarray of float64, shape (K,)
        Of log p(z | x), at the temperature.
    probs : ndarray of float64, shape (N, K)
        p(z = j | x) with temperature and offsets; rows sum to 1.
    fit : NoiseFit
        The noise matrix and the posterior.
    """

    temperature: float
    smoothing: float
    softness: float | None
    offsets: Float
    probs: Float
    fit: NoiseFit


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
    right = _given_probability(probs, given)
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
    prior, labels = _checked(probs, given)
    if not smoothing > 0:
        raise ValueError(f"smoothing={smoothing} must be above 0")
    guess = np.zeros(len(prior)) if guesses is None else np.asarray(guesses, np.float64)
    # sums of floats depend on their order: take one that belongs to the values, not to the images' places
    order = _canonical_order(prior, labels)
    prior, labels, guess = prior[order], labels[order], guess[order]
    n_images, n_classes = prior.shape
    pseudo = smoothing * uniform_noise(estimate_user_accuracy(prior, labels), n_classes)  # (K, K)

    def visit(noise: Float, share: float) -> _Place:
        meant = (1 - share) * (prior * noise.T[labels]).sum(axis=1)  # (N,), P(y, no guess | x)
        evidence = meant + share * guess  # (N,), P(y | x)
        reached = float(np.log(evidence).sum() + (pseudo * np.log(noise)).sum()) + NO_GUESSES * float(np.log1p(-share))
        counts = _count(prior * ((1 - share) / evidence)[:, np.newaxis], labels) * noise + pseudo  # (K, K), expected labels
        n_guessed = float((share * guess / evidence).sum())
        better = counts / counts.sum(axis=1, keepdims=True), n_guessed / (n_images + NO_GUESSES)
        return _Place(noise, share, reached, counts, n_guessed, better)

    here, iterations = visit(pseudo / smoothing, 0.0 if guesses is None else _FIRST_SHARE), 1
    while iterations < max_iter:
        before, here = here, visit(*here.better)
        iterations += 1
        if here.reached - before.reached <= tolerance * n_images:
            break
        far = _leap(before, here)
        if far is not None and iterations < max_iter:
            leapt = visit(*far)
            iterations += 1
            here = leapt if leapt.reached >= here.reached else here
    noise, share, reached, counts, n_guessed, _ = here
    likelihood = (1 - share) * noise.T[labels] + share * guess[:, np.newaxis]  # (N, K), P(y | z = j, x)
    joint = prior * likelihood  # (N, K), P(z = j, y | x)
    evidence = joint.sum(axis=1, keepdims=True)  # (N, 1), P(y | x)
    # each label's row and share without itself
    no_guess = (1 - share) * prior * noise.T[labels] / evidence  # (N, K), P(z = j, no guess | x, y)
    without = (counts.T[labels] - no_guess) / (counts.sum(axis=1) - no_guess)
    others = (n_guessed - share * guess / evidence[:, 0]) / (n_images - 1 + NO_GUESSES)
    left_out = float(np.log((prior * ((1 - others)[:, np.newaxis] * without + (others * guess)[:, np.newaxis])).sum(axis=1)).sum())
    back = np.argsort(order)
    return NoiseFit(noise, (joint / evidence)[back], reached, left_out, iterations, share, likelihood[back])


def apply_temperature(logprobs: npt.ArrayLike, temperature: float) -> Float:
    """Make probabilities softer (temperature above 1) or sharper (below 1).

    Parameters
    ----------
    logprobs : array-like, shape (N, K)
        Log probabilities or logits; any constant may be added to a row. -inf is a probability of 0.
    temperature : float
        Above 0.

    Returns
    -------
    ndarray of float64, shape (N, K)
        Softmax of ``logprobs / temperature``; rows sum to 1.

    Examples
    --------
    >>> apply_temperature(np.log([[0.2, 0.8]]), 0.5).round(4).tolist()
    [[0.0588, 0.9412]]
    """
    scaled = np.asarray(logprobs, np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float64)


def temper(probs: npt.ArrayLike, temperature: float) -> Float:
    """:func:`apply_temperature` to probabilities, shape (N, K); one that was rounded to 0 is not impossible."""
    return apply_temperature(_log(probs), temperature)


def fit_temperature(probs: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """The temperature under which trusted labels are likeliest.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(z = j | x) of held-out images; rows sum to 1.
    labels : array-like of int, shape (N,)
        Their true labels.

    Returns
    -------
    float
        Within ``TEMPERATURES``, to 1%; 1 for N = 0. Where every image is right by far, the likelihood grows without end
        towards 0 and the least temperature is returned.
    """
    logprobs, classes = _log(probs), np.asarray(labels, np.int64)
    if not len(classes):
        return 1.0

    def likelihood(temperature: float) -> float:
        own = _given_probability(apply_temperature(logprobs, temperature), classes)
        return float(np.sort(np.log(np.maximum(own, _TINY))).sum())

    return _climb(likelihood, 1.0, step=2.0)


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
    prior, labels = _checked(probs, given)
    n_classes = prior.shape[1]
    n_given = np.bincount(labels, minlength=n_classes)
    # sorted sums, so that the images' order does not matter to the bit
    own = _given_probability(prior, labels)
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


def choose_smoothing(probs: npt.ArrayLike, given: npt.ArrayLike, *, candidates: Sequence[float] = SMOOTHINGS) -> float:
    """How much the classes' rows of the noise matrix have in common, by the left-out likelihood of the labels.

    Parameters
    ----------
    probs, given
        As for :func:`estimate_noise_matrix`.
    candidates : sequence of float
        Pseudo-labels a class, above 0.

    Returns
    -------
    float
        The best candidate; of equal ones the first.
    """
    return max(candidates, key=lambda s: estimate_noise_matrix(probs, given, smoothing=s, tolerance=_ROUGH).left_out_likelihood)


def choose_guesses(mean_probs: npt.ArrayLike, given: npt.ArrayLike, *, temperature: float, smoothing: float) -> float:
    """How weak the eyes are that guess, by the left-out likelihood of the labels.

    Parameters
    ----------
    mean_probs : array-like, shape (N, K)
        p(z = j | x); rows sum to 1.
    given : array-like of int, shape (N,)
        The given labels.
    temperature : float
        Of p(z | x), while the softnesses are compared.
    smoothing : float
        As for :func:`estimate_noise_matrix`.

    Returns
    -------
    float
        Temperature of ``mean_probs`` as they see it, of ``SOFTNESSES``; of equal ones the first.
    """
    probs = temper(mean_probs, temperature)

    def likelihood(softness: float) -> float:
        guesses = _given_probability(temper(mean_probs, softness), given)
        return estimate_noise_matrix(probs, given, smoothing=smoothing, guesses=guesses, tolerance=_ROUGH).left_out_likelihood

    return max(SOFTNESSES, key=likelihood)


def choose_temperature(
    mean_probs: npt.ArrayLike,
    given: npt.ArrayLike,
    *,
    start: float = 1.0,
    smoothing: float = 10.0,
    step: float = 1.5,
    most: float | None = None,
) -> float:
    """The temperature of p(z | x) under which the given labels are likeliest.

    A classifier is no longer calibrated on images that look different; Monday's validation cannot tell, but the new labels can: where p
    is too sharp, they contradict it more than any noise matrix explains. The matrix is fitted anew to each temperature. In sample,
    one with many cells explains too much and prefers sharp p; with the left-out likelihood the temperature came within a tenth of the one
    that the true labels choose on digits with uniform noise. But where users err as the classifier does, on the images and towards the
    classes that look alike to both, labels are likeliest under a p that is much too soft, and hardly any is found wrong: hence ``most``.

    Parameters
    ----------
    mean_probs : array-like, shape (N, K)
        p(z = j | x); rows sum to 1.
    given : array-like of int, shape (N,)
        The given labels.
    start : float
        Where the search begins, within ``TEMPERATURES``.
    smoothing : float
        As for :func:`estimate_noise_matrix`.
    step : float
        Factor between the temperatures of the uphill walk, above 1.
    most : float, optional
        The greatest temperature that is believed (:func:`most_believed`).

    Returns
    -------
    float
        Within ``TEMPERATURES``, to 1%. It is the first maximum uphill of ``start``: where the labels say nothing about the
        temperature, ``start`` stands.
    """
    logprobs = _log(mean_probs)

    def likelihood(temperature: float) -> float:
        probs = apply_temperature(logprobs, temperature)
        return estimate_noise_matrix(probs, given, smoothing=smoothing, tolerance=_ROUGH).left_out_likelihood

    return _climb(likelihood, start, step=step, most=most)


def choose_offsets(probs: npt.ArrayLike, judge: Callable[[Float], tuple[Float, float]]) -> tuple[Float, Float]:
    """How much rarer or more frequent each class is than a classifier says, and its probabilities put right.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(z = j | x); rows sum to 1.
    judge : callable
        Takes p(z | x) with offsets, of shape (N, K), and gives the posterior P(z = j | x, y), of the same shape, and the log-likelihood
        of the labels, in nats.

    Returns
    -------
    offsets : ndarray of float64, shape (K,)
        Of log p, with mean 0: those at which the classes' shares of p and of the posterior are as unequal as the prior asks for
        (``OFFSET_PRIOR``; the slope of the log-likelihood with respect to an offset is the difference of the two). All 0 where the
        log-likelihood does not gain more than K - 1 nats by them, which K - 1 free parameters might by chance.
    probs : ndarray of float64, shape (N, K)
        With the offsets; rows sum to 1.
    """
    start: Float = np.asarray(probs, np.float64)
    logprobs, offsets, shifted = _log(start), np.zeros(start.shape[1]), start
    believed, plain = judge(start)
    for _ in range(_OFFSET_ROUNDS):
        # sorted sums, so that the images' order does not matter to the bit
        slope = np.sort(believed - shifted, axis=0).sum(axis=0) - OFFSET_PRIOR * offsets
        curvature = np.sort(shifted * (1 - shifted), axis=0).sum(axis=0) + OFFSET_PRIOR
        step = np.clip(slope / curvature, -0.5, 0.5)
        offsets = offsets + step
        offsets -= offsets.mean()
        shifted = apply_temperature(logprobs + offsets, 1.0)
        believed, reached = judge(shifted)
        if np.abs(step).max() < _OFFSET_TOLERANCE:
            break
    return (offsets, shifted) if reached - plain > len(offsets) - 1 else (np.zeros(len(offsets)), start)


def most_believed(validation_temperature: float) -> float:
    """The greatest temperature that new labels may ask for, where p is a mean over dropout masks.

    Such a mean is too modest: on trusted images it wants a temperature below 1. New images that look different want a higher one, but so do
    labels that err as the classifier does; the two are hard to tell apart, and too soft a p is the costlier error.

    Parameters
    ----------
    validation_temperature : float
        That fits trusted held-out images (:func:`fit_temperature`).

    Returns
    -------
    float
        ``MODEST``, or ``CAUTION`` times the validation's temperature if that is more.
    """
    return max(MODEST, CAUTION * validation_temperature)


def judge_by_trusted_model(mean_probs: npt.ArrayLike, given: npt.ArrayLike, *, start: float, most: float | None = None) -> Judgement:
    """Judge given labels by a model that was fitted to other, trusted images.

    Parameters
    ----------
    mean_probs : array-like, shape (N, K)
        p(z = j | x), the mean over stochastic passes; rows sum to 1.
    given : array-like of int, shape (N,)
        The given labels.
    start : float
        Where the search for the temperature begins.
    most : float, optional
        The greatest temperature that is believed (:func:`most_believed`). Where one is known, labels may be guesses: under a free
        temperature, a soft p explains all guesses away.

    Returns
    -------
    Judgement
        The smoothing is chosen at ``start``, then the temperature with that smoothing, then the softness of guesses, then the offsets:
        chosen together, a soft p, free rows of the matrix, guesses and offsets make up for each other.
    """
    smoothing = choose_smoothing(temper(mean_probs, start), given)
    temperature = choose_temperature(mean_probs, given, start=start, smoothing=smoothing, most=most)
    softness = None if most is None else choose_guesses(mean_probs, given, temperature=temperature, smoothing=smoothing)

    def fit(probs: Float, tolerance: float) -> NoiseFit:
        guesses = None if softness is None else _given_probability(temper(probs, softness / temperature), given)
        return estimate_noise_matrix(probs, given, smoothing=smoothing, guesses=guesses, tolerance=tolerance)

    def rough(probs: Float) -> tuple[Float, float]:
        found = fit(probs, _ROUGH)
        return found.posterior, found.left_out_likelihood

    offsets, probs = choose_offsets(temper(mean_probs, temperature), rough)
    return Judgement(temperature, smoothing, softness, offsets, probs, fit(probs, TOLERANCE))


def judge_by_student(mean_probs: npt.ArrayLike, likelihood: npt.ArrayLike, *, most: float | None = None) -> tuple[float, Float, Float]:
    """Judge given labels anew by a model that was trained on their posteriors.

    Such a model has seen every label, as far as it was believed, and so it agrees with them: a noise matrix estimated with it would find
    too little noise. What is known of the users therefore stays as it was found by the model that had not seen their labels, and only
    p(z | x) is new, with the temperature and the offsets under which the labels are likeliest.

    Parameters
    ----------
    mean_probs : array-like, shape (N, K)
        p(z = j | x); rows sum to 1.
    likelihood : array-like, shape (N, K)
        P(y | z = j) of each image's label, or of all labels that users gave it; each row up to a factor.
    most : float, optional
        The greatest temperature that is believed (:func:`most_believed`).

    Returns
    -------
    temperature : float
        Within ``TEMPERATURES``, to 1%: the first maximum of the likelihood uphill of 1.
    offsets : ndarray of float64, shape (K,)
        Of log p(z | x), at this temperature (:func:`choose_offsets`).
    probs : ndarray of float64, shape (N, K)
        p(z | x) with both; rows sum to 1. With ``likelihood``, it gives the posterior (:func:`combine`).
    """
    logprobs, evidence = _log(mean_probs), np.asarray(likelihood, np.float64)

    def value(probs: Float) -> float:
        # sorted, so that the images' order does not matter to the bit
        return float(np.sort(np.log(np.maximum((probs * evidence).sum(axis=1), _TINY))).sum())

    temperature = _climb(lambda t: value(apply_temperature(logprobs, t)), 1.0, step=1.5, most=most)
    tempered = apply_temperature(logprobs, temperature)
    return temperature, *choose_offsets(tempered, lambda probs: (combine(probs, evidence), value(probs)))


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


_ROUGH = 1e-6
"""Tolerance of EM where likelihoods are only compared."""

_OFFSET_ROUNDS, _OFFSET_TOLERANCE = 30, 0.003
"""Newton steps towards the offsets at most, and the step under which they end."""

_FIRST_SHARE = 0.05
"""Of guesses, where EM begins."""

_TINY = float(np.finfo(np.float64).tiny)


class _Place(NamedTuple):
    """Where EM has come to: the log-likelihood there, the expected numbers of labels and guesses, and the matrix and share they ask for."""

    noise: Float
    share: float
    reached: float
    counts: Float
    n_guessed: float
    better: tuple[Float, float]


def _leap(before: _Place, here: _Place) -> tuple[Float, float] | None:
    """Where the last round of EM and the next one point to; None where that is invalid, or no further than the next round itself.

    References
    ----------
    R. Varadhan, C. Roland: "Simple and Globally Convergent Methods for Accelerating the Convergence of Any EM Algorithm", Scandinavian
    Journal of Statistics 35, 2008 (SQUAREM, third step length).
    """
    first, second, third = (np.append(noise, share) for noise, share in (before[:2], here[:2], here.better))
    step, change = second - first, third - 2 * second + first
    length = float(np.sqrt((step @ step) / (change @ change))) if change.any() else 0.0
    end = first + 2 * length * step + length**2 * change
    noise, share = end[:-1].reshape(here.noise.shape), float(end[-1])
    if length <= 1 or not (noise > 0).all() or not 0 <= share < 1:
        return None
    return noise / noise.sum(axis=1, keepdims=True), share


def _checked(probs: npt.ArrayLike, given: npt.ArrayLike) -> tuple[Float, Index]:
    prior, labels = np.asarray(probs, np.float64), np.asarray(given, np.int64)
    if prior.ndim != 2 or labels.shape != prior.shape[:1] or prior.shape[1] < 2:
        raise ValueError(f"probs {prior.shape} must be (N, K) with K at least 2, and given {labels.shape} be (N,)")
    if len(labels) and not 0 <= labels.min() <= labels.max() < prior.shape[1]:
        raise ValueError(f"given labels run from {labels.min()} to {labels.max()}: 0 to {prior.shape[1] - 1} are accepted")
    return prior, labels


def _given_probability(probs: npt.ArrayLike, given: npt.ArrayLike) -> Float:
    """The probability of each image's given label, shape (N,)."""
    return np.take_along_axis(np.asarray(probs, np.float64), np.asarray(given, np.int64)[:, np.newaxis], axis=1)[:, 0]


def _log(probs: npt.ArrayLike) -> Float:
    # a probability that was rounded to 0 is not impossible
    return np.asarray(np.log(np.maximum(np.asarray(probs, np.float64), _TINY)))


def _canonical_order(prior: Float, labels: Index) -> Index:
    """An order by given label, then by the row's bytes: equal for the same images in any order, up to rows that are the same."""
    rows = np.ascontiguousarray(prior)
    by_bytes = np.argsort(rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0], kind="stable")
    return np.asarray(by_bytes[np.argsort(labels[by_bytes], kind="stable")], np.int64)


def _count(shares: Float, labels: Index) -> Float:
    """Sum of column j over the images with label k, shape (K, K); the labels are sorted."""
    counts = np.zeros((shares.shape[1],) * 2)
    present, first = np.unique(labels, return_index=True)
    if len(present):
        counts[:, present] = np.add.reduceat(shares, first, axis=0).T
    return counts


def _climb(value: Callable[[float], float], start: float, *, step: float, most: float | None = None) -> float:
    """The first maximum uphill of ``start`` within ``TEMPERATURES``, at most ``most``, to 1%: equal factors, then a golden section."""
    low, high = (float(bound) for bound in np.log((TEMPERATURES[0], min(TEMPERATURES[1], most or TEMPERATURES[1]))))
    known: dict[float, float] = {}

    def at(x: float) -> float:
        if x not in known:
            known[x] = value(float(np.exp(x)))
        return known[x]

    width = float(np.log(step))
    x = min(max(float(np.log(start)), low), high)
    direction = 1 if at(min(x + width, high)) >= at(max(x - width, low)) else -1
    while at(beyond := min(max(x + direction * width, low), high)) > at(x):
        x = beyond
    left, right = max(x - width, low), min(x + width, high)
    golden = float(np.sqrt(5) - 1) / 2
    a, b = right - golden * (right - left), left + golden * (right - left)
    while right - left > 0.02:
        if at(a) >= at(b):
            right, b = b, a
            a = right - golden * (right - left)
        else:
            left, a = a, b
            b = left + golden * (right - left)
    return float(np.exp(max(known, key=lambda place: known[place])))
