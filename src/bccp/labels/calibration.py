"""Calibration of class probabilities before Bayes' rule: temperature, smoothing of the noise matrix, share of guesses, class offsets."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bccp.data.array_types import Float
from bccp.labels.posterior import (
    TINY,
    TOLERANCE,
    NoiseFit,
    clipped_log,
    combine,
    estimate_noise_matrix,
    fit_noise,
    for_each_block,
    given_probability,
    share_out,
)

SMOOTHINGS = (3.0, 10.0, 30.0, 100.0, 1000.0)
"""Pseudo-labels a class among which :func:`choose_smoothing` chooses: from nearly free rows to one error rate for all."""

SOFTNESSES = (1.5, 2.0, 3.0, 4.0)
"""Temperatures of a guess among which :func:`choose_guesses` chooses: how weak the eyes are."""

OFFSET_PRIOR = 10.0
"""Precision of the normal prior of a class's offset, in images: so many have to speak for an offset of 1 to believe one of a half."""

TEMPERATURES = (0.4, 10.0)
"""The least and the greatest temperature. At 0.4 odds of 2 to 1 have become 6 to 1; at 10 odds of 1000 to 1 have become 2 to 1."""

MODEST, CAUTION = 0.65, 0.9
"""See :func:`most_believed`; chosen on digits and on photographs, with uniform noise, pair noise, a weak model's confusions, and people's
own labels on the photographs: all of them are then within three points of the F1 at their own best temperature, most within one."""

_COLUMNS = 16
"""How many columns are sorted at once."""

_OFFSET_ROUNDS, _OFFSET_TOLERANCE = 30, 0.003
"""Newton steps towards the offsets at most, and the step under which they end."""


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
    scores = np.asarray(logprobs, np.float64)
    found = np.empty(scores.shape)
    for_each_block(scores.shape, lambda rows: _soften(scores[rows], temperature, found[rows]))
    return found


def temper(probs: npt.ArrayLike, temperature: float) -> Float:
    """:func:`apply_temperature` to probabilities, shape (N, K); one that was rounded to 0 is not impossible."""
    table = np.asarray(probs, np.float64)
    found = np.empty(table.shape)
    for_each_block(table.shape, lambda rows: _soften(clipped_log(table[rows]), temperature, found[rows]))
    return found


def _guesses(probs: npt.ArrayLike, softness: float, given: npt.ArrayLike) -> Float:
    """The probability of each image's given label at a temperature, shape (N,)."""
    table, labels = np.asarray(probs, np.float64), np.asarray(given, np.int64)
    found = np.empty(len(table))

    def guess(rows: slice) -> None:
        softened = clipped_log(table[rows])
        _soften(softened, softness, softened)
        found[rows] = given_probability(softened, labels[rows])

    for_each_block(table.shape, guess)
    return found


def _soften(scores: Float, temperature: float, out: Float) -> None:
    """Softmax of ``scores / temperature``, shape (m, K), into ``out``."""
    np.divide(scores, temperature, out=out)
    out -= out.max(axis=1, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis=1, keepdims=True)


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
    logprobs, classes = clipped_log(probs), np.asarray(labels, np.int64)
    if not len(classes):
        return 1.0

    def likelihood(temperature: float) -> float:
        own = given_probability(apply_temperature(logprobs, temperature), classes)
        return float(np.sort(np.log(np.maximum(own, TINY))).sum())

    return _climb(likelihood, 1.0, step=2.0)


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
    return _best_smoothing(probs, given, candidates)[0]


def _best_smoothing(probs: npt.ArrayLike, given: npt.ArrayLike, candidates: Sequence[float] = SMOOTHINGS) -> tuple[float, float]:
    """The smoothing of :func:`choose_smoothing`, and the left-out likelihood of the labels with it."""
    reached = {s: fit_noise(probs, given, smoothing=s, tolerance=ROUGH_TOLERANCE).left_out_likelihood() for s in candidates}
    best = max(reached, key=lambda s: reached[s])
    return best, reached[best]


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
        guesses = _guesses(mean_probs, softness, given)
        return fit_noise(probs, given, smoothing=smoothing, guesses=guesses, tolerance=ROUGH_TOLERANCE).left_out_likelihood()

    return max(SOFTNESSES, key=likelihood)


def choose_temperature(
    mean_probs: npt.ArrayLike,
    given: npt.ArrayLike,
    *,
    start: float = 1.0,
    smoothing: float = 10.0,
    step: float = 1.5,
    most: float | None = None,
    known: Mapping[float, float] | None = None,
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
    known : mapping of float to float, optional
        Left-out likelihoods of the labels by temperature, with this smoothing, which need not be computed again.

    Returns
    -------
    float
        Within ``TEMPERATURES``, to 1%. It is the first maximum uphill of ``start``: where the labels say nothing about the
        temperature, ``start`` stands.
    """
    logprobs = clipped_log(mean_probs)

    def likelihood(temperature: float) -> float:
        if known and temperature in known:
            return known[temperature]
        probs = apply_temperature(logprobs, temperature)
        return fit_noise(probs, given, smoothing=smoothing, tolerance=ROUGH_TOLERANCE).left_out_likelihood()

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
    offsets, shifted = np.zeros(start.shape[1]), start
    judged = judge(start)
    plain = judged[1]
    for _ in range(_OFFSET_ROUNDS):
        slope = _sorted_sums(np.subtract, judged[0], shifted) - OFFSET_PRIOR * offsets
        curvature = _sorted_sums(lambda p: p * (1 - p), shifted) + OFFSET_PRIOR
        del judged, shifted  # before as large ones are made
        step = np.clip(slope / curvature, -0.5, 0.5)
        offsets = offsets + step
        offsets -= offsets.mean()
        shifted = _shifted(start, offsets)
        judged = judge(shifted)
        if np.abs(step).max() < _OFFSET_TOLERANCE:
            break
    return (offsets, shifted) if judged[1] - plain > len(offsets) - 1 else (np.zeros(len(offsets)), start)


def _shifted(probs: Float, offsets: Float) -> Float:
    """Probabilities, shape (N, K), with offsets of their logarithms, shape (K,)."""
    found = np.empty(probs.shape)
    for_each_block(probs.shape, lambda rows: _soften(clipped_log(probs[rows]) + offsets, 1.0, found[rows]))
    return found


def _sorted_sums(of: Callable[..., Float], *tables: Float) -> Float:
    """Sum each column of a function of tables, shape (N, K), in the order of the values: the images' order does not matter to the bit."""
    n_columns = tables[0].shape[1]
    edges = np.linspace(0, n_columns, -(-n_columns // _COLUMNS) + 1).astype(int)
    parts = [np.s_[..., start:end] for start, end in itertools.pairwise(edges)]
    found = np.empty(n_columns)

    def add_up(number: int) -> None:
        values = of(*(table[parts[number]] for table in tables))
        values.sort(axis=0)
        values.sum(axis=0, out=found[parts[number]])

    share_out(len(parts), add_up, tables[0].size)
    return found


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
    smoothing, reached = _best_smoothing(temper(mean_probs, start), given)
    temperature = choose_temperature(mean_probs, given, start=start, smoothing=smoothing, most=most, known={start: reached})
    softness = None if most is None else choose_guesses(mean_probs, given, temperature=temperature, smoothing=smoothing)

    def guesses(probs: Float) -> Float | None:
        return None if softness is None else _guesses(probs, softness / temperature, given)

    def rough(probs: Float) -> tuple[Float, float]:
        found = fit_noise(probs, given, smoothing=smoothing, guesses=guesses(probs), tolerance=ROUGH_TOLERANCE)
        return found.posterior(), found.left_out_likelihood()

    offsets, probs = choose_offsets(temper(mean_probs, temperature), rough)
    fit = estimate_noise_matrix(probs, given, smoothing=smoothing, guesses=guesses(probs), tolerance=TOLERANCE)
    return Judgement(temperature, smoothing, softness, offsets, probs, fit)


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
    logprobs, evidence = clipped_log(mean_probs), np.asarray(likelihood, np.float64)

    def value(probs: Float) -> float:
        # sorted, so that the images' order does not matter to the bit
        return float(np.sort(np.log(np.maximum((probs * evidence).sum(axis=1), TINY))).sum())

    temperature = _climb(lambda t: value(apply_temperature(logprobs, t)), 1.0, step=1.5, most=most)
    tempered = apply_temperature(logprobs, temperature)
    return temperature, *choose_offsets(tempered, lambda probs: (combine(probs, evidence), value(probs)))


ROUGH_TOLERANCE = 1e-6
"""Tolerance of EM where likelihoods are only compared."""


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
