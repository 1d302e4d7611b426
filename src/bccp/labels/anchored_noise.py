"""Noise of the given labels and temperature of the judge, fitted together: models of the labels, compared by their likelihood.

N images with given labels y, K classes. A judge that was not fitted to these labels gives scores s (N, K), and p(z = j | x) is the softmax
of s / t. An overconfident judge (too small a temperature t) and wrong labels look alike: both make labels improbable. So t and the noise
are fitted at once, over a grid of temperatures. Where trusted images are at hand, judged out of fold by the same judges, they *anchor* t:
their log-likelihood at each temperature is added to that of the given labels, and a weak judge is then not taken for careless people.
Without an anchor the given labels alone decide.

Two models of P(y | z = j), and each of them with guesses:

* **uniform**: right with chance 1 - e, else any other class alike;
* **matrix**: a row of its own for each class, lent ``MATRIX_SMOOTHING`` labels of uniform noise (:mod:`bccp.labels.posterior`);
* **guesses**: a share of the labels is drawn from the judge's own doubt, p at a higher temperature, whatever the true class is.

Every label is left out of its own row of a matrix when its likelihood is measured, so that models of different size can be compared. A
model is taken where it gains more nats than it costs: a matrix of chance confusions is never likelier by much, guesses are by nothing.

Where both a matrix and guesses are found, neither model is true: the matrix ascribes to a class what belongs to its hardest images, and
finds too few wrong labels; guesses alone ascribe to the image what belongs to its class, and find too many. Both together, each
posterior counting half, were within three points of the share that people got wrong on photographs, where each alone was up to seven off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, softmax

from bccp.data.array_types import Float, Index
from bccp.labels.posterior import FittedNoise, combine, fit_noise, given_probability, uniform_noise

TEMPERATURES = np.geomspace(0.2, 6.0, 36)
"""Of p(z | x); a tenth apart."""

NO_ANCHOR = np.zeros(len(TEMPERATURES))
"""In place of :func:`anchor`'s result where nothing is trusted."""

ERROR_RATES = np.concatenate([[0.001, 0.002, 0.005], np.arange(0.01, 0.8, 0.01)])
"""Shares of wrong labels of the uniform model."""

ERROR_PRIOR = 5.0
"""Exponent of (1 - e) in the prior of the share of wrong labels, Beta(1, 6): few are wrong until labels speak against it."""

NO_ERRORS = 3.0
"""Prior odds that none is wrong, against that prior. A weak judge cannot tell 4% of wrong labels from none, and would say 3 to 5%."""

GUESS_PRIOR = 8.0
"""The same of the share of guesses, as in :data:`bccp.labels.posterior.NO_GUESSES`."""

MATRIX_SMOOTHING = 100.0
"""Labels of uniform noise that each row of the matrix is lent."""

UNIFORM_SMOOTHING = 1e5
"""So many that no row differs from uniform noise."""

SOFTNESSES = (1.5, 2.0, 3.0)
"""Temperatures of a guess, in those of the judge."""

GUESS_COST = 1.5
"""Nats that guesses have to gain: by chance a share that cannot fall below 0 does so in one case of twenty-five. Where there are none they
gain 0.1 beside a matrix, and up to 1.4 beside uniform noise; people's own 2 to 14 and 50 to 180."""

OFFSET_PRIOR, OFFSET_ROUNDS = 10.0, 50
"""Images of each class that are lent to the shares by which class offsets are found, and rounds of EM towards these."""

_TOLERANCE = 1e-6
"""Of EM, as likelihoods are only compared."""

_OUT_OF_REACH = 2000.0
"""Nats below the anchor's best at which a temperature is not tried."""

_NEGLIGIBLE = 1e-3
"""Weight under which noise is left out of the average."""


class LabelNoise(NamedTuple):
    """How labels come about, with all parameters.

    Attributes
    ----------
    temperature : float
        Of p(z | x).
    noise_matrix : ndarray of float64, shape (K, K)
        P(y = k | z = j) of labels that are no guess; rows sum to 1.
    guess_share : float
        Share of the labels that are guesses.
    softness : float or None
        Temperature of guesses, in those of the judge; None where no label is one.
    """

    temperature: float
    noise_matrix: Float
    guess_share: float = 0.0
    softness: float | None = None

    def probabilities(self, scores: Float) -> Float:
        """p(z = j | x) of scores (n, K), shape (n, K)."""
        return np.asarray(softmax(scores / self.temperature, axis=1), np.float64)

    def posterior(self, scores: Float, given: Index) -> Float:
        """P(z = j | x, y) by scores (n, K) and given labels (n,), shape (n, K)."""
        likelihood = np.ascontiguousarray(self.noise_matrix.T)[given]
        if self.softness is not None:
            guess = given_probability(softmax(scores / (self.softness * self.temperature), axis=1), given)
            likelihood = (1 - self.guess_share) * likelihood + self.guess_share * guess[:, np.newaxis]
        return combine(self.probabilities(scores), likelihood)


@dataclass(frozen=True)
class NoiseEstimate:
    """What the given labels say of the noise under a model.

    Attributes
    ----------
    model : str
    log_likelihood : float
        Of the labels and the anchor at the best parameters, with the priors of the shares of errors and guesses, in nats.
    best : tuple of LabelNoise
        The likeliest; of two models that are averaged, the likeliest of each.
    weighted : tuple of (float, LabelNoise)
        What the posterior is averaged over; the weights sum to 1.
    """

    model: str
    log_likelihood: float
    best: tuple[LabelNoise, ...]
    weighted: tuple[tuple[float, LabelNoise], ...]

    def posterior(self, scores: Float, given: Index) -> Float:
        """P(z = j | x, y), averaged, shape (N, K), of the scores (N, K) and labels (N,) that it was fitted to."""
        return _mean([(weight, noise.posterior(scores, given)) for weight, noise in self.weighted])

    def teach(self, scores: Float, given: Index) -> Float:
        """P(z = j | x, y) by another judge's scores (n, K) under the likeliest parameters, shape (n, K)."""
        return _mean([(1.0, noise.posterior(scores, given)) for noise in self.best])

    def probabilities(self, scores: Float) -> Float:
        """p(z = j | x) at the best temperature, shape (n, K)."""
        return _mean([(1.0, noise.probabilities(scores)) for noise in self.best])

    @property
    def noise_matrix(self) -> Float:
        """P(y = k | z = j) of labels that are no guess, shape (K, K)."""
        return _mean([(1.0, noise.noise_matrix) for noise in self.best])

    @property
    def temperature(self) -> float:
        """Of p(z | x)."""
        return float(np.exp(np.mean([np.log(noise.temperature) for noise in self.best])))

    @property
    def guess_share(self) -> float:
        """Share of the labels that are guesses."""
        return float(np.mean([noise.guess_share for noise in self.best]))

    @property
    def softness(self) -> float | None:
        """Temperature of guesses, in those of the judge; None where no label is one."""
        found = [noise.softness for noise in self.best if noise.softness is not None]
        return float(np.mean(found)) if found else None


class NoiseChoice(NamedTuple):
    """The models that were compared, and the one that was taken.

    Attributes
    ----------
    estimate : NoiseEstimate
    offsets : ndarray of float64, shape (K,)
        Of the scores, for new images of other class shares; the estimate is of the scores with them.
    log_likelihoods : dict of str to float
        In nats, by model.
    costs : dict of str to float
        Nats that a model has to gain, by model; the highest difference of the two was taken.
    offsets_gain : float
        Of that difference by offsets, taken or not.
    """

    estimate: NoiseEstimate
    offsets: Float
    log_likelihoods: dict[str, float]
    costs: dict[str, float]
    offsets_gain: float = 0.0

    @property
    def value(self) -> float:
        """Nats of the model that was taken, less its cost."""
        return max(reached - self.costs[model] for model, reached in self.log_likelihoods.items())


def anchor(scores: Float, labels: Index, *, worth: float | None = None) -> Float:
    """Log-likelihood of trusted labels at each of ``TEMPERATURES``.

    Parameters
    ----------
    scores : ndarray of float64, shape (N, K)
        Of trusted images, by judges that were not fitted to them.
    labels : ndarray of int64, shape (N,)
        Their true labels.
    worth : float, optional
        So many images count, where there are more: for trusted images that look unlike the new ones, on which the judge may be more
        overconfident. By default all count.

    Returns
    -------
    ndarray of float64, shape (T,)
        In nats.
    """
    own, least = labels[:, np.newaxis], np.log(1e-12)
    logs = [np.take_along_axis(log_softmax(scores / t, axis=1), own, axis=1) for t in TEMPERATURES]
    total = np.array([np.maximum(of_image, least).sum() for of_image in logs])
    return total if worth is None else total * min(1.0, worth / max(len(labels), 1))


def matrix_cost(n_given: int, n_classes: int, n_trusted: int) -> float:
    """Nats that a matrix has to gain over uniform noise, for N given labels, K classes and so many trusted images.

    At least 10, and a two-hundredth of the labels. The last term is for the judge's own confusions on classes that it has seen a few
    images of: each new image repeats them, and a matrix learns them.
    """
    return max(10.0, 0.005 * n_given, n_classes / 2 * n_given / max(n_trusted, 1))


def choose_noise_and_offsets(scores: Float, given: Index, anchored: Float, *, cost: float) -> NoiseChoice:
    """Choose a model as :func:`choose_noise` does, with and without class offsets.

    Parameters
    ----------
    scores, given, anchored
        As for :func:`choose_noise`.
    cost : float
        Nats that a matrix has to gain, and offsets too: both are explanations that a class at a time makes up.

    Returns
    -------
    NoiseChoice
        With offsets, where they gain their cost: images of other classes than the trusted ones are then not taken for wrong labels.
        Where the classes' shares are the same, offsets follow the noise, gain up to two thirds of the cost, and would do harm.
    """
    plain = choose_noise(scores, given, anchored, cost_of_matrix=cost)
    offsets = class_offsets(scores, given, plain.estimate)
    shifted = choose_noise(scores + offsets, given, anchored, cost_of_matrix=cost)
    gain = shifted.value - plain.value
    return shifted._replace(offsets=offsets, offsets_gain=gain) if gain >= cost else plain._replace(offsets_gain=gain)


def class_offsets(scores: Float, given: Index, estimate: NoiseEstimate) -> Float:
    """Offsets of scores, (K,) with mean 0, under which p and the posterior have the same class shares: EM, the noise staying as it is."""
    offsets = np.zeros(scores.shape[1])
    for _ in range(OFFSET_ROUNDS):
        moved = scores + offsets
        expected, found = estimate.probabilities(moved).sum(axis=0), estimate.teach(moved, given).sum(axis=0)
        offsets = offsets + estimate.temperature * np.log((found + OFFSET_PRIOR) / (expected + OFFSET_PRIOR))
        offsets -= offsets.mean()
    return offsets


def choose_noise(scores: Float, given: Index, anchored: Float, *, cost_of_matrix: float) -> NoiseChoice:
    """Fit all models, and take the one whose likelihood exceeds its cost by most.

    Parameters
    ----------
    scores : ndarray of float64, shape (N, K)
        Of images that the judge was not fitted to with their own given labels.
    given : ndarray of int64, shape (N,)
    anchored : ndarray of float64, shape (T,)
        From :func:`anchor`.
    cost_of_matrix : float
        In nats (:func:`matrix_cost`).

    Returns
    -------
    NoiseChoice
        With a matrix and guesses, the estimate is averaged with that of guesses alone.
    """
    found = [fit_uniform(scores, given, anchored), fit_matrix(scores, given, anchored)]
    found += [fit_guesses(scores, given, anchored, smoothing=smoothing) for smoothing in (UNIFORM_SMOOTHING, MATRIX_SMOOTHING)]
    values = {estimate.model: estimate.log_likelihood for estimate in found}
    costs = dict(zip(values, (0.0, cost_of_matrix, GUESS_COST, cost_of_matrix + GUESS_COST), strict=True))
    best = max(found, key=lambda estimate: estimate.log_likelihood - costs[estimate.model])
    if best is found[3]:
        halves = tuple((weight / 2, noise) for estimate in found[2:] for weight, noise in estimate.weighted)
        best = NoiseEstimate(best.model, best.log_likelihood, found[2].best + found[3].best, halves)
    return NoiseChoice(best, np.zeros(scores.shape[1]), values, costs)


def fit_uniform(scores: Float, given: Index, anchored: Float = NO_ANCHOR) -> NoiseEstimate:
    """Fit the uniform model on the grid of temperatures and error rates.

    Parameters
    ----------
    scores : ndarray of float64, shape (N, K)
    given : ndarray of int64, shape (N,)
    anchored : ndarray of float64, shape (T,)
        From :func:`anchor`.

    Returns
    -------
    NoiseEstimate
        ``log_likelihood`` is the grid's maximum; the best parameters are those of the likeliest cell, by its width and the prior odds of
        no wrong label (``NO_ERRORS``).
    """
    n_classes = scores.shape[1]
    right = 1 - ERROR_RATES
    values = np.full((len(TEMPERATURES), len(ERROR_RATES)), -np.inf)
    for i in np.flatnonzero(anchored > anchored.max() - _OUT_OF_REACH):
        values[i] = uniform_likelihoods(given_probability(softmax(scores / TEMPERATURES[i], axis=1), given), n_classes)
    values += ERROR_PRIOR * np.log(right) + anchored[:, np.newaxis]
    widths = np.gradient(ERROR_RATES)
    widths[0] += NO_ERRORS / (ERROR_PRIOR + 1)  # the prior's integral is 1 / (ERROR_PRIOR + 1)
    weights = values + np.log(widths)
    weights = np.exp(weights - weights.max())
    weights[weights < _NEGLIGIBLE * weights.sum()] = 0
    weights /= weights.sum()

    def noise(i: int, j: int) -> LabelNoise:
        return LabelNoise(float(TEMPERATURES[i]), uniform_noise(float(right[j]), n_classes))

    cells = [(float(weights[i, j]), noise(i, j)) for i, j in np.argwhere(weights).tolist()]
    return NoiseEstimate("uniform", float(values.max()), (max(cells, key=lambda cell: cell[0])[1],), tuple(cells))


def uniform_likelihoods(own: Float, n_classes: int) -> Float:
    """Log-likelihood of labels at each of ``ERROR_RATES``, shape (E,), by the probability of each image's label, shape (N,)."""
    rates = zip((1 - ERROR_RATES).tolist(), (ERROR_RATES / (n_classes - 1)).tolist(), strict=True)
    return np.array([np.log(right * own + wrong * (1 - own) + 1e-300).sum() for right, wrong in rates])


def fit_matrix(scores: Float, given: Index, anchored: Float = NO_ANCHOR, *, smoothing: float = MATRIX_SMOOTHING) -> NoiseEstimate:
    """Fit the matrix model by EM at the temperatures around the best.

    Parameters
    ----------
    scores, given, anchored
        As for :func:`fit_uniform`.
    smoothing : float
        Labels of uniform noise that each row is lent, above 0.

    Returns
    -------
    NoiseEstimate
        Temperatures are weighted by the likelihood.
    """

    def fit(probs: Float, temperature: float) -> FittedNoise:
        return fit_noise(probs, given, smoothing=smoothing, tolerance=_TOLERANCE)

    return _over_temperatures("matrix", fit, scores, anchored, None)


def fit_guesses(scores: Float, given: Index, anchored: Float = NO_ANCHOR, *, smoothing: float) -> NoiseEstimate:
    """Fit the model with guesses, of the likeliest of ``SOFTNESSES``, as :func:`fit_matrix` does."""

    def with_softness(softness: float) -> NoiseEstimate:
        def fit(probs: Float, temperature: float) -> FittedNoise:
            guesses = given_probability(softmax(scores / (softness * temperature), axis=1), given)
            return fit_noise(probs, given, smoothing=smoothing, guesses=guesses, tolerance=_TOLERANCE)

        return _over_temperatures(name, fit, scores, anchored, softness)

    name = "uniform with guesses" if smoothing == UNIFORM_SMOOTHING else "matrix with guesses"
    return max((with_softness(softness) for softness in SOFTNESSES), key=lambda estimate: estimate.log_likelihood)


def _over_temperatures(
    name: str, fit: Callable[[Float, float], FittedNoise], scores: Float, anchored: Float, softness: float | None
) -> NoiseEstimate:
    """Climb to the likeliest temperature from the anchor's, or from 1 without an anchor, and on to both sides while they count."""
    known: dict[int, tuple[float, LabelNoise]] = {}

    def value(i: int) -> float:
        if not 0 <= i < len(TEMPERATURES):
            return -np.inf
        if i not in known:
            temperature = float(TEMPERATURES[i])
            fitted = fit(softmax(scores / temperature, axis=1), temperature)
            right = np.trace(fitted.counts_by_label) / fitted.counts_by_label.sum()
            priors = ERROR_PRIOR * np.log(right) + GUESS_PRIOR * np.log1p(-fitted.share)
            reached = float(fitted.left_out_likelihood() + priors + anchored[i])
            known[i] = reached, LabelNoise(temperature, fitted.by_label.T.copy(), fitted.share, softness)
        return known[i][0]

    best = int(np.argmax(anchored)) if anchored.any() else int(np.argmin(np.abs(np.log(TEMPERATURES))))
    while (beyond := max((best, best - 1, best + 1), key=value)) != best:
        best = beyond
    for step in (-1, 1):
        i = best + step
        while value(i) > value(best) + np.log(_NEGLIGIBLE):
            i += step
    weights = {i: float(np.exp(reached - value(best))) for i, (reached, _) in sorted(known.items())}
    total = sum(weight for weight in weights.values() if weight > _NEGLIGIBLE)
    weighted = tuple((weight / total, known[i][1]) for i, weight in weights.items() if weight > _NEGLIGIBLE)
    return NoiseEstimate(name, value(best), (known[best][1],), weighted)


def _mean(weighted: list[tuple[float, Float]]) -> Float:
    """The weighted mean of arrays of one shape."""
    total = np.zeros_like(weighted[0][1])
    for weight, array in weighted:
        total += weight * array
    return total / sum(weight for weight, _ in weighted)
