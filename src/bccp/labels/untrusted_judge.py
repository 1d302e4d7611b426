"""The judge of given labels where nothing is trusted, on the features of a frozen backbone: no training of a network, no seed.

N images with given labels, K classes, F folds, V views. In steps:

1. **Judges** of each fold, fitted to the given labels of the others (:mod:`bccp.labels.feature_judges`): a regression on each view,
   discriminant analysis and neighbours on the first. The pool is the geometric mean of what they say.
2. **Noise** of the given labels and temperature of the pool, fitted together, as uniform noise and as a matrix
   (:mod:`bccp.labels.untrusted_noise`).
3. **The test of the matrix**: a judge that confuses two classes makes a matrix as likely as people who do. So the regressions are fitted
   anew *under* the matrix. Where it is people's, they now learn from wrong labels what these mean, and the labels left out become likelier
   under it; where it is the judge's own, they learn to tell the classes apart less than before. The matrix is accepted only where it is
   likelier than uniform noise, and the gain is no chance (``LEAST_Z``) and no trifle (``LEAST_GAIN``). The pool then has the regressions
   that were fitted under it, and weights under which the given labels are likeliest (:mod:`bccp.labels.judge_stack`). Without a matrix
   they would follow the noise, and all judges count alike.
4. **Skill**: what the pool says of the given labels, beyond the shares of the classes. Where there is none, nothing that follows from the
   pool counts; labels drawn at random look like this, and images that the features cannot tell apart.

What is said of the share of wrong labels is a lower bound, ``at_least``: errors that look like the judge's own are not counted, for nothing
but a trusted label tells them from those. ``at_most`` counts every disagreement, and so the judge's errors among them.

Memory: some ten arrays (N, K) of float64, the features and a copy of them without one fold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from bccp.core import progress
from bccp.data.array_types import Float, Index, Mask
from bccp.labels.feature_judges import Judge, Member, best_temperature, judges_out_of_fold, n_folds, one_blas_thread, scores_out_of_fold
from bccp.labels.judge_stack import fit_stack, mean_stack
from bccp.labels.posterior import given_probability
from bccp.labels.untrusted_noise import TEMPERATURES, fit_matrix_noise, fit_uniform_noise
from bccp.models import logistic_regression
from bccp.models.logistic_regression import LogisticRegression

LEAST_Z, LEAST_GAIN = 4.0, 10.0
"""What retraining under a matrix has to gain: standard errors, and nats. Labels of people gained 5 to 9, and 20 to 60 of 1,500 to 10,000
images; classes that were confused on purpose 9 to 12. Without a confusion weak judges gained up to 3.4, and 9 of 800."""

LEAST_SKILL = 3.0
"""Standard errors by which the judge has to be better than the shares of the classes. Random labels have -4 to 1."""

LEAST_FOUND = 0.01
"""Share of wrong labels under which none stands out."""

_LEAST_PROBABILITY = 1e-12

_NEVER = -1000.0
"""Score of a class that no judge knows."""


@dataclass(frozen=True)
class UntrustedJudgement:
    """Given labels, judged with nothing trusted.

    Attributes
    ----------
    scores : ndarray of float64, shape (N, K)
        Of the pool: as first fitted, or, where the matrix is accepted, with the regressions fitted under it, and with weights.
    probs : ndarray of float64, shape (N, K)
        p(z = j | x): softmax of the scores at the temperature; rows sum to 1.
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y) by the model that counts: the matrix where it is accepted, else uniform noise; rows sum to 1. It does not depend on
        the verdict; where that is not "found", labels are to be left as they are.
    uniform_posterior : ndarray of float64, shape (N, K)
        By uniform noise, of the pool as first fitted.
    matrix_posterior : ndarray of float64, shape (N, K)
        By the matrix, of the pool with the regressions fitted under it, accepted or not.
    uniform_probs : ndarray of float64, shape (N, K)
        p(z = j | x) of the pool as first fitted, at the temperature of uniform noise.
    noise_matrix : ndarray of float64, shape (K, K)
        P(y = k | z = j) by the model that counts; rows sum to 1.
    temperature : float
        Of that model.
    matrix_accepted : bool
    retraining_z, retraining_gain : float
        How much likelier retraining under the matrix makes labels left out: in standard errors, and in nats.
    log_likelihoods : dict of str to float
        Of the given labels under "uniform" noise and under a "matrix", by the pool as first fitted, in nats.
    skill : float
        See :func:`judge_skill`, in standard errors.
    at_least : float
        Mean of P(wrong): the share of wrong labels that can be told from errors of the judge.
    at_most : float
        Share of the labels that the pool, as first fitted, disagrees with; never below ``at_least``.
    settings : tuple of float
        Of the judges: the penalty of each view's regression, the shrinkage, the number of neighbours.
    weights : tuple of float
        Of the judges, in the same order.
    taught : ndarray of bool, shape (N,)
        Other folds have images of the label, too. Where they do not, as of a class with one image, no judge knows the class: the label
        counts as wrong as often as all others do, and decides on nothing. A class without such images has no part in the noise, either.
    """

    scores: Float
    probs: Float
    posterior: Float
    uniform_posterior: Float
    matrix_posterior: Float
    uniform_probs: Float
    noise_matrix: Float
    temperature: float
    matrix_accepted: bool
    retraining_z: float
    retraining_gain: float
    log_likelihoods: dict[str, float]
    skill: float
    at_least: float
    at_most: float
    settings: tuple[float, ...]
    weights: tuple[float, ...]
    taught: Mask

    @property
    def verdict(self) -> Literal["blind", "nothing", "found"]:
        """Say "blind" where the judge cannot tell the classes apart, "nothing" where no label stands out as wrong, else "found"."""
        if self.skill < LEAST_SKILL:
            return "blind"
        return "nothing" if self.at_least < LEAST_FOUND else "found"

    def numbers(self) -> dict[str, Any]:
        """Say in numbers which model was chosen and why."""
        return {
            "verdict": self.verdict,
            "noise_model": "matrix" if self.matrix_accepted else "uniform",
            "log_likelihoods": self.log_likelihoods,
            "retraining": {"z": self.retraining_z, "gain": self.retraining_gain, "needed": [LEAST_Z, LEAST_GAIN]},
            "skill": {"z": self.skill, "needed": LEAST_SKILL},
            "at_least": self.at_least,
            "at_most": self.at_most,
            "temperature": self.temperature,
            "settings": list(self.settings),
            "weights": list(self.weights),
            "n_not_taught": int((~self.taught).sum()),
        }


@one_blas_thread()
def judge_untrusted(views: Sequence[Float], given: npt.ArrayLike, *, n_classes: int, folds: npt.ArrayLike) -> UntrustedJudgement:
    """Judge given labels by the given labels of other images.

    Parameters
    ----------
    views : sequence of ndarray of float64, length V, shape (N, D_v)
        Features of the images, one view or several of them, scaled (:func:`bccp.models.logistic_regression.fit_scaling`).
    given : array-like of int, shape (N,)
        0 to K - 1. Classes may be missing.
    n_classes : int
        K, at least 2.
    folds : array-like of int, shape (N,)
        0 to F - 1, F at least 2, each of them taken; duplicates in one fold.

    Returns
    -------
    UntrustedJudgement
        Permuting the images permutes it and changes nothing else but by rounding.

    Raises
    ------
    ValueError
        For fewer than 2 classes, labels that are none, or folds that are not as above.
    """
    labels, fold = np.asarray(given, np.int64), np.asarray(folds, np.int64)
    _check(views, labels, n_classes, fold)
    in_fold = np.zeros((n_classes, n_folds(fold)), np.bool_)
    in_fold[labels, fold] = True
    taught = (in_fold.sum(axis=1) > 1)[labels]
    classes = np.unique(labels[taught])
    if len(classes) < 2:
        return nothing_taught(labels, n_classes)
    known, others = ([view[rows] for view in views] for rows in (taught, ~taught))
    places = np.searchsorted(classes, labels[taught])
    found, scores = _judge(known, places, len(classes), np.unique(fold[taught], return_inverse=True)[1], others)
    if taught.all() and len(classes) == n_classes:
        return found
    return _among_all(found, scores, labels, taught, classes, n_classes)


def nothing_taught(given: Index, n_classes: int) -> UntrustedJudgement:
    """Judge labels (N,) of one class alone, of classes that one fold alone has, or of one picture: nothing is known of any."""
    as_given, even = np.eye(n_classes)[given], np.full((len(given), n_classes), 1 / n_classes)
    return UntrustedJudgement(
        scores=np.zeros(even.shape),
        probs=even,
        posterior=as_given,
        uniform_posterior=as_given,
        matrix_posterior=as_given,
        uniform_probs=even,
        noise_matrix=np.eye(n_classes),
        temperature=1.0,
        matrix_accepted=False,
        retraining_z=0.0,
        retraining_gain=0.0,
        log_likelihoods={},
        skill=0.0,
        at_least=0.0,
        at_most=1.0,
        settings=(),
        weights=(),
        taught=np.zeros(len(given), np.bool_),
    )


def judge_skill(scores: Float, given: Index) -> float:
    """Measure what a judge knows of the classes beyond their shares.

    Parameters
    ----------
    scores : ndarray of float64, shape (N, K)
        Of images that the judge was not fitted to.
    given : ndarray of int64, shape (N,)

    Returns
    -------
    float
        The mean gain in log probability of given labels over the classes' shares, in standard errors; scores at their best temperature.
    """
    probs = softmax(scores / best_temperature(scores, given)[0], axis=1)
    shares = np.bincount(given, minlength=scores.shape[1]) / len(given)
    gains = np.log(np.maximum(given_probability(probs, given), _LEAST_PROBABILITY)) - np.log(shares[given])
    return float(gains.mean() / (gains.std() / np.sqrt(len(gains)) + 1e-12))


def _judge(
    views: Sequence[Float], labels: Index, n_classes: int, folds: Index, others: Sequence[Float]
) -> tuple[UntrustedJudgement, Float]:
    """Judge labels all of which other folds have, too; beside the judgement, the scores (n, K) of the features of other images."""
    pool = judges_out_of_fold(views, labels, n_classes, folds)
    stack = mean_stack(len(pool), n_classes)
    pooled = stack(member.found.scores for member in pool)
    uniform, matrix = fit_uniform_noise(pooled, labels), fit_matrix_noise(pooled, labels)
    again = [_fitted_under(matrix.noise_matrix, member, views[member.view], labels, folds) for member in pool]
    regressions = [(member.found.scores, scores) for member, scores in zip(pool, again, strict=True) if not member.has_temperature]
    z, gain = _retraining_gain(regressions, matrix.noise_matrix, labels)
    accepted = matrix.log_likelihood > uniform.log_likelihood and z >= LEAST_Z and gain >= LEAST_GAIN
    retrained = stack(again)
    found = fit_matrix_noise(retrained, labels)
    if accepted:  # the noise is known, so that given labels tell how far each judge is to be heeded
        stack = fit_stack(again, labels, found.noise_matrix)
        retrained = stack(again)
        found = fit_matrix_noise(retrained, labels)
    scores, chosen = (retrained, found) if accepted else (pooled, uniform)
    at_least = float(1 - given_probability(chosen.posterior, labels).mean())
    judgement = UntrustedJudgement(
        scores=scores,
        probs=softmax(scores / chosen.temperature, axis=1),
        posterior=chosen.posterior,
        uniform_posterior=uniform.posterior,
        matrix_posterior=found.posterior,
        uniform_probs=softmax(pooled / uniform.temperature, axis=1),
        noise_matrix=chosen.noise_matrix,
        temperature=chosen.temperature,
        matrix_accepted=accepted,
        retraining_z=z,
        retraining_gain=gain,
        log_likelihoods={"uniform": uniform.log_likelihood, "matrix": matrix.log_likelihood},
        skill=judge_skill(pooled, labels),
        at_least=at_least,
        at_most=max(at_least, float((pooled.argmax(axis=1) != labels).mean())),
        settings=tuple(member.found.setting for member in pool),
        weights=tuple(stack.weights.tolist()),
        taught=np.ones(len(labels), np.bool_),
    )
    return judgement, stack(member.found.whole.scores(others[member.view]) / member.found.temperature for member in pool)


def _among_all(found: UntrustedJudgement, scores: Float, given: Index, taught: Mask, classes: Index, n_classes: int) -> UntrustedJudgement:
    """Give images and classes that no judge knows their places.

    Parameters
    ----------
    found : UntrustedJudgement
        Of images that ``taught`` (N,) is true of, in the classes ``classes`` (K',).
    scores : ndarray of float64, shape (n, K')
        Of the others.
    given : ndarray of int64, shape (N,)
    """

    def placed(rows: Float, others: Float, never: float = 0.0) -> Float:
        table = np.full((len(taught), n_classes), never)
        table[np.ix_(taught, classes)], table[np.ix_(~taught, classes)] = rows, others
        return table

    def undecided(posterior: Float) -> Float:
        """Put a label beside p as if it was wrong as often as those that are judged."""
        wrong = float(1 - given_probability(posterior, np.searchsorted(classes, given[taught])).mean())
        table = placed(posterior, wrong * softmax(scores / found.temperature, axis=1))
        table[~taught, given[~taught]] += 1 - wrong
        return table

    uniform_posterior, matrix_posterior = undecided(found.uniform_posterior), undecided(found.matrix_posterior)
    noise = np.eye(n_classes)
    noise[np.ix_(classes, classes)] = found.noise_matrix
    others = softmax(scores / found.temperature, axis=1)
    return dataclasses.replace(
        found,
        scores=placed(found.scores, scores, _NEVER),
        probs=placed(found.probs, others),
        posterior=matrix_posterior if found.matrix_accepted else uniform_posterior,
        uniform_posterior=uniform_posterior,
        matrix_posterior=matrix_posterior,
        uniform_probs=placed(found.uniform_probs, others),
        noise_matrix=noise,
        at_most=found.at_most * float(taught.mean()) + float((~taught).mean()),
        taught=taught,
    )


def _fitted_under(noise: Float, member: Member, view: Float, given: Index, folds: Index) -> Float:
    """Scores (N, K) out of fold: of a regression fitted anew under a noise matrix, of any other judge as they are."""
    if member.has_temperature:
        return member.found.scores
    judges: list[Judge] = []
    for k, start in enumerate(progress.each("retrained fold", member.found.judges)):
        if not isinstance(start, LogisticRegression):
            raise TypeError(f"{type(start).__name__} has no coefficients to start from")
        others = folds != k
        judges.append(logistic_regression.fit_under_noise(view[others], given[others], noise, strength=member.found.setting, start=start))
    return scores_out_of_fold(judges, view, folds, len(noise))


def _retraining_gain(regressions: Sequence[tuple[Float, Float]], noise: Float, given: Index) -> tuple[float, float]:
    """The gain of each view's later scores (N, K) over the earlier ones, a mean over views: standard errors, and nats."""
    gains = np.mean([_log_chances(after, noise, given) - _log_chances(before, noise, given) for before, after in regressions], axis=0)
    total = float(gains.sum())
    return total / float(gains.std() * np.sqrt(len(gains)) + 1e-9), total


def _log_chances(scores: Float, noise: Float, given: Index) -> Float:
    """Log P(y | x) under a noise matrix, shape (N,), at the temperature at which the labels are likeliest."""
    likelihood = noise.T[given]
    by_temperature = (np.log((softmax(scores / t, axis=1) * likelihood).sum(axis=1) + 1e-300) for t in TEMPERATURES.tolist())
    return max(by_temperature, key=np.sum)


def _check(views: Sequence[Float], given: Index, n_classes: int, folds: Index) -> None:
    if n_classes < 2:
        raise ValueError(f"n_classes={n_classes}: labels can only be judged beside another class, so at least 2 are needed")
    if not views or any(len(view) != len(given) for view in views) or folds.shape != given.shape or given.ndim != 1:
        raise ValueError(f"views {[view.shape for view in views]}, given {given.shape} and folds {folds.shape} do not go together")
    if not len(given) or not 0 <= given.min() <= given.max() < n_classes:
        raise ValueError(f"given labels must be 0 to {n_classes - 1}, and there must be some")
    if not np.array_equal(np.unique(folds), np.arange(max(2, n_folds(folds)))):
        raise ValueError("folds must be 0 to F - 1, F at least 2, each of them with an image")
