"""A few checked labels where nothing else is trusted: they correct how many labels seem wrong, and which.

N images, K classes; M of the images have been checked. Without a trusted image, wrong labels that look like the judge's own errors cannot
be proven (:mod:`bccp.labels.untrusted_noise`), so that too few are found. The checked images say by how much:

    logit P'(wrong) = a + b · logit P(wrong) + c · (logit P_B(wrong) - logit P_U(wrong)),

P by the model of the noise that was accepted, P_U by uniform noise, P_B by a noise matrix, also where that was refused: the last term
finds out whether the matrix was right after all. The prior a ~ N(0, 1.5²), b ~ N(1, 0.5²), c ~ N(0, 0.5²) says that P stands, and the
coefficients are the likeliest a posteriori. All checked images count alike, however they were chosen: by their score or at random, but
never by their true label, which nobody knew before. Then

    share of wrong labels = (wrong ones among the checked + Σ P' of the others) / N,

and never the mean over the checked images, among which the worst suspects are. The worst alone say nothing of images that hardly anybody
doubts. So :func:`conclude` takes P' only at scores where somebody has looked (:func:`bccp.labels.expert_labels.looked_at`) and P elsewhere,
and the share stays a lower bound.

References
----------
J. Platt: "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods", 1999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bccp.data.array_types import Float, Index, Mask
from bccp.labels.bayes_cutoff import probability_wrong
from bccp.labels.expert_labels import NO_CLASS, consistent_posterior, fit_logistic, looked_at, sigmoid
from bccp.labels.untrusted_judge import LEAST_FOUND, UntrustedJudgement

LEVEL_SPREAD, SLOPE_SPREAD, MATRIX_SPREAD = 1.5, 0.5, 0.5
"""Standard deviations of the normal priors of a, b and c, around 0, 1 and 0."""

CLIPPED_PROBABILITY = 1e-6
"""Probabilities of a wrong label are kept so far from 0 and 1 in logits."""


@dataclass(frozen=True)
class AuditedPosterior:
    """Given labels, judged with the help of checked ones.

    Attributes
    ----------
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y); rows sum to 1, 1 - ``p_wrong`` at the given label, and the other classes keep their proportions. One-hot where the
        image was checked; where it is of no class, 0 at the given label.
    p_wrong : ndarray of float64, shape (N,)
        P(given label wrong), in [0, 1]; 0 or 1 where the image was checked.
    share : float
        The mean of ``p_wrong``, the share of wrong labels; 0 for N = 0.
    level, slope, matrix_weight : float
        a, b and c; 0, 1 and 0 where nothing was checked.
    """

    posterior: Float
    p_wrong: Float
    share: float
    level: float
    slope: float
    matrix_weight: float


@dataclass(frozen=True)
class UntrustedConclusion:
    """Given labels, judged by the judge and by what was checked.

    Attributes
    ----------
    verdict : {"blind", "nothing", "found"}
        As :attr:`bccp.labels.untrusted_judge.UntrustedJudgement.verdict`, but that checked labels may show that some are wrong after all,
        or none. A judge that cannot tell the classes apart stays blind.
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y); rows sum to 1. Unless the verdict is "found", the given labels one-hot, but for images that were checked.
    p_wrong : ndarray of float64, shape (N,)
        P(given label wrong), whatever the verdict: what a list of suspects is ranked by.
    at_least : float
        Mean of ``p_wrong``; 0 where the judge is blind.
    at_most : float or None
        Never below ``at_least``; None where that is no bound, and where the judge is blind.
    is_bound : bool
        False where checked labels tell of all scores, so that ``at_least`` is an estimate.
    audited : AuditedPosterior
    """

    verdict: Literal["blind", "nothing", "found"]
    posterior: Float
    p_wrong: Float
    at_least: float
    at_most: float | None
    is_bound: bool
    audited: AuditedPosterior


def conclude(
    judgement: UntrustedJudgement, given: npt.ArrayLike, places: npt.ArrayLike, checked: npt.ArrayLike, *, at_random: Mask
) -> UntrustedConclusion:
    """Draw conclusions from a judgement and from what was checked.

    Parameters
    ----------
    judgement : UntrustedJudgement
    given, places, checked
        As for :func:`calibrate_untrusted`.
    at_random : ndarray of bool, shape (M,)
        Whether each checked image was drawn at random.

    Returns
    -------
    UntrustedConclusion
    """
    labels, checked_places = np.asarray(given, np.int64), np.asarray(places, np.int64)
    tables = judgement.posterior, judgement.uniform_posterior, judgement.matrix_posterior
    seen = looked_at(probability_wrong(judgement.posterior, labels), checked_places, at_random=at_random)
    audited = calibrate_untrusted(*tables, labels, checked_places, checked, seen=seen)
    verdict = judgement.verdict
    if verdict != "blind":
        verdict = "found" if audited.share >= LEAST_FOUND else "nothing"
    belief = audited.posterior
    if verdict != "found":
        belief = np.eye(belief.shape[1])[labels]
        belief[checked_places] = audited.posterior[checked_places]
    if verdict == "blind":
        return UntrustedConclusion(verdict, belief, audited.p_wrong, 0.0, None, True, audited)
    is_bound = not len(checked_places) or not seen.all()
    at_most = max(audited.share, judgement.at_most) if is_bound else None
    return UntrustedConclusion(verdict, belief, audited.p_wrong, audited.share, at_most, is_bound, audited)


def calibrate_untrusted(
    posterior: npt.ArrayLike,
    uniform_posterior: npt.ArrayLike,
    matrix_posterior: npt.ArrayLike,
    given: npt.ArrayLike,
    places: npt.ArrayLike,
    checked: npt.ArrayLike,
    *,
    seen: Mask | None = None,
) -> AuditedPosterior:
    """Correct the posterior of given labels by labels that were checked.

    Parameters
    ----------
    posterior, uniform_posterior, matrix_posterior : array-like, shape (N, K)
        P(z = j | x, y) by the accepted model, by uniform noise and by a noise matrix, as
        :func:`bccp.labels.untrusted_judge.judge_untrusted` gives them; rows sum to 1; K at least 2.
    given : array-like of int, shape (N,)
        The given labels, 0 to K - 1.
    places : array-like of int, shape (M,)
        Positions of the checked images, each once. M may be 0: the posterior stands.
    checked : array-like of int, shape (M,)
        Their true labels, 0 to K - 1, or :data:`bccp.labels.expert_labels.NO_CLASS` (-1) for an image of none of the classes, whose given
        label is wrong.
    seen : ndarray of bool, shape (N,), optional
        Images of whose scores the checked ones tell; of all others, P stands. By default they tell of all.

    Returns
    -------
    AuditedPosterior
        Permuting the images, or the checked ones, permutes the result and changes nothing else, to the bit.

    Raises
    ------
    ValueError
        For arrays that do not fit each other.
    """
    tables = [np.asarray(table, np.float64) for table in (posterior, uniform_posterior, matrix_posterior)]
    labels, audited, truth = (np.asarray(values, np.int64) for values in (given, places, checked))
    _check(tables, labels, audited, truth)
    accepted, uniform, matrix = (probability_wrong(table, labels) for table in tables)
    if not len(audited):
        return AuditedPosterior(tables[0], accepted, _mean(accepted), 0.0, 1.0, 0.0)
    odds, between = _logit(accepted), _logit(matrix) - _logit(uniform)
    wrong = truth != labels[audited]
    # sums of floats depend on their order: take one that belongs to the values, not to the images' places
    order = np.lexsort([wrong, between[audited], odds[audited]])
    sample, target = audited[order], wrong[order]
    fit = fit_logistic(
        np.column_stack([odds, between])[sample],
        np.zeros(len(sample), np.int64),
        target,
        offset=odds[sample],  # so that the weight of the odds is b - 1, and has its prior around 0
        penalties=np.array([SLOPE_SPREAD, MATRIX_SPREAD]) ** -2.0,
        group_penalty=LEVEL_SPREAD**-2.0,
        n_groups=1,
    )
    (beyond, matrix_weight), level = fit.weights.tolist(), float(fit.constants[0])
    p_wrong = sigmoid(level + (1 + beyond) * odds + matrix_weight * between)
    if seen is not None:
        p_wrong = np.where(seen, p_wrong, accepted)
    p_wrong[audited] = wrong
    belief = consistent_posterior(tables[2], tables[0], labels, p_wrong)
    known = truth != NO_CLASS
    belief[audited[known]] = np.eye(belief.shape[1])[truth[known]]
    return AuditedPosterior(belief, p_wrong, _mean(p_wrong), level, 1 + beyond, matrix_weight)


def _logit(p_wrong: Float) -> Float:
    clipped = np.clip(p_wrong, CLIPPED_PROBABILITY, 1 - CLIPPED_PROBABILITY)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _mean(values: Float) -> float:
    return float(np.sort(values).sum()) / max(len(values), 1)


def _check(tables: list[Float], labels: Index, places: Index, truth: Index) -> None:
    shape = tables[0].shape
    if len(shape) != 2 or shape[1] < 2 or any(table.shape != shape for table in tables) or labels.shape != shape[:1]:
        raise ValueError(
            f"the posteriors {', '.join(str(table.shape) for table in tables)} must be (N, K) alike, K at least 2, "
            f"and given {labels.shape} (N,)"
        )
    if places.ndim != 1 or truth.shape != places.shape or len(np.unique(places)) != len(places):
        raise ValueError(f"places {places.shape} must be (M,), each position once, and checked {truth.shape} as long")
    for name, values, least, limit in (
        ("given", labels, 0, shape[1]),
        ("checked", truth, NO_CLASS, shape[1]),
        ("places", places, 0, shape[0]),
    ):
        if len(values) and not least <= values.min() <= values.max() < limit:
            raise ValueError(f"{name} runs from {values.min()} to {values.max()}: {least} to {limit - 1} are accepted")
