"""The judge of given labels beside trusted images, on the features of a frozen backbone: no training, no seed, no passes.

A trusted images with true labels, N new ones with given labels, K classes, F folds, J judges. In steps:

1. **Judges** of the trusted images (:mod:`bccp.labels.feature_judges`), stacked by what they make of the folds left out
   (:mod:`bccp.labels.judge_stack`), judge the new images.
2. **Noise** of the given labels and temperature of the stack, fitted together; trusted images, judged out of fold, anchor the temperature
   (:mod:`bccp.labels.anchored_noise`).
3. **Second round**: the posteriors of the new images' labels are targets, too, and all judges are fitted anew to both sets. It is
   cross-fitted throughout. Fold k, of trusted and new images alike, is judged by what was fitted to the other folds, where the posteriors
   came from judges that had not seen the trusted images of fold k: were there one teacher for all folds, every trusted label would have
   left its mark on the posteriors from which its own image is judged. No probability for an image comes from its own label.
4. The second round counts where it makes the given labels, under their noise, and the trusted labels likelier.

Where the new images look unlike the trusted ones, which the features say, the judges may be more overconfident than trusted images know,
and the anchor is loosened to ``LOOSE_ANCHOR`` images.

Memory: some (J + F / 2 + 6) arrays (N, K) of float64, and the features twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bccp.core import progress
from bccp.data.array_types import Float, Index
from bccp.labels.anchored_noise import NoiseChoice, anchor, choose_noise_and_offsets, matrix_cost
from bccp.labels.feature_judges import (
    Judge,
    Member,
    best_temperature,
    judges_out_of_fold,
    mean_log_loss,
    n_folds,
    one_blas_thread,
    separability,
)
from bccp.labels.judge_stack import Stack, fit_stack

SEPARATED = 0.75
"""Separability of trusted and new images from which on the anchor is loosened. Images of one source have 0.45 to 0.52; new images of other
class shares, a tenth as many of one class as of another, 0.58."""

LOOSE_ANCHOR = 100.0
"""Trusted images that a loosened anchor is worth."""

ACCEPTED = 3.0
"""Nats that a second round has to gain."""

STRENGTH_FACTORS = (1.0, 0.3, 0.1)
"""By which the regressions' penalty is multiplied in the second round, which has more images; tried while trusted labels gain."""


class Sides:
    """Trusted and new images together: features (A + N, D) of each view, trusted ones first, targets and folds.

    Attributes
    ----------
    views : list of ndarray of float64, shape (A + N, D_v)
    true : ndarray of int64, shape (A,)
    targets : ndarray of float64, shape (A, K)
        One-hot.
    folds : ndarray of int64, shape (A + N,)
    """

    def __init__(self, trusted: Sequence[Float], true: Index, new: Sequence[Float], folds: Index, n_classes: int) -> None:
        self.views = [np.concatenate(pair) for pair in zip(trusted, new, strict=True)]
        self.true, self.folds, self.targets = true, folds, np.eye(n_classes)[true]


@dataclass(frozen=True)
class Round:
    """A round's scores, and what they make of the noise.

    Attributes
    ----------
    stack : Stack
    scores : ndarray of float64, shape (N, K)
        Of the new images, with class offsets.
    noise : NoiseChoice
    trusted_log_loss : float
        Mean of the trusted labels out of fold, in nats, as the stack scores them.
    """

    stack: Stack
    scores: Float
    noise: NoiseChoice
    trusted_log_loss: float


@dataclass(frozen=True)
class FrozenJudgement:
    """Given labels, judged.

    Attributes
    ----------
    probs : ndarray of float64, shape (N, K)
        p(z = j | x), at the temperature; rows sum to 1.
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, y); rows sum to 1.
    noise : NoiseChoice
        Of the round that counts.
    rounds : tuple of Round
        Both.
    accepted : bool
        The second round counts.
    strength_factor : float
        See ``STRENGTH_FACTORS``.
    settings : tuple of float, length J
        Of the judges.
    separability : float
        Of trusted and new images, see :func:`bccp.labels.feature_judges.separability`.
    anchor_worth : float
        Trusted images that anchor the temperature.
    """

    probs: Float
    posterior: Float
    noise: NoiseChoice
    rounds: tuple[Round, Round]
    accepted: bool
    strength_factor: float
    settings: tuple[float, ...]
    separability: float
    anchor_worth: float

    def numbers(self) -> dict[str, Any]:
        """Say in numbers which model was chosen and why."""
        first, second = self.rounds
        gain = second.noise.estimate.log_likelihood - first.noise.estimate.log_likelihood
        return {
            "noise_model": self.noise.estimate.model,
            "log_likelihoods": self.noise.log_likelihoods,
            "costs": self.noise.costs,
            "offsets_gain": self.noise.offsets_gain,
            "second_round": {"accepted": self.accepted, "gain": gain, "needed": ACCEPTED, "strength_factor": self.strength_factor},
            "trusted_log_loss": [first.trusted_log_loss, second.trusted_log_loss],
            "weights": self.rounds[self.accepted].stack.weights.tolist(),
            "settings": list(self.settings),
            "separability": self.separability,
            "anchor_worth": self.anchor_worth,
        }


@one_blas_thread()
def judge_given_labels(
    trusted_views: Sequence[Float],
    true: npt.ArrayLike,
    new_views: Sequence[Float],
    given: npt.ArrayLike,
    *,
    n_classes: int,
    trusted_folds: npt.ArrayLike,
    new_folds: npt.ArrayLike,
) -> FrozenJudgement:
    """Judge the given labels of new images beside trusted ones.

    Parameters
    ----------
    trusted_views : sequence of ndarray of float64, shape (A, D_v)
        Features of the trusted images, a view each; scaled together with those of the new ones
        (:func:`bccp.models.logistic_regression.fit_scaling`).
    true : array-like of int, shape (A,)
        Their labels, 0 to K - 1.
    new_views : sequence of ndarray of float64, shape (N, D_v)
    given : array-like of int, shape (N,)
        The given labels.
    n_classes : int
        K, at least 2.
    trusted_folds, new_folds : array-like of int, shape (A,) and (N,)
        0 to F - 1, F at least 2; each fold has a trusted image. Duplicates are in one fold, across both sets.

    Returns
    -------
    FrozenJudgement

    Raises
    ------
    ValueError
        For a fold without a trusted image.
    """
    labels, known_folds, folds_of_new = (np.asarray(values, np.int64) for values in (given, trusted_folds, new_folds))
    folds = np.concatenate([known_folds, folds_of_new])
    if np.setdiff1d(np.arange(max(2, n_folds(folds))), known_folds).size:
        raise ValueError("each fold needs a trusted image, and there have to be at least 2 folds")
    sides = Sides(trusted_views, np.asarray(true, np.int64), new_views, folds, n_classes)
    apart = separability(trusted_views[0], new_views[0], known_folds, folds_of_new)
    worth = min(LOOSE_ANCHOR, len(sides.true)) if apart >= SEPARATED else float(len(sides.true))

    def round_of(stack: Stack, trusted_scores: Float, new_scores: Float) -> Round:
        anchored = anchor(trusted_scores, sides.true, worth=worth)
        cost = matrix_cost(len(labels), n_classes, len(sides.true))
        noise = choose_noise_and_offsets(new_scores, labels, anchored, cost=cost)
        return Round(stack, new_scores + noise.offsets, noise, mean_log_loss(trusted_scores, sides.true))

    pool = judges_out_of_fold(trusted_views, sides.true, n_classes, known_folds)
    stack = fit_stack([member.found.scores for member in pool], sides.true)
    scores = stack(member.found.whole.scores(new_views[member.view]) / member.found.temperature for member in pool)
    first = round_of(stack, stack(member.found.scores for member in pool), scores)
    taught = [
        first.noise.estimate.teach(_judged_without(k, pool, stack, new_views) + first.noise.offsets, labels).astype(np.float32)
        for k in range(n_folds(folds))
    ]
    again, factor = _second_round(sides, pool, taught)
    stack = fit_stack([of_judge[: len(sides.true)] for of_judge in again], sides.true)
    scores = stack(again)
    second = round_of(stack, scores[: len(sides.true)], scores[len(sides.true) :])
    accepted = second.noise.estimate.log_likelihood - first.noise.estimate.log_likelihood >= ACCEPTED
    counts = second if accepted else first
    estimate, settings = counts.noise.estimate, tuple(member.found.setting for member in pool)
    probs, posterior = estimate.probabilities(counts.scores), estimate.posterior(counts.scores, labels)
    return FrozenJudgement(probs, posterior, counts.noise, (first, second), accepted, factor, settings, apart, worth)


def _judged_without(fold: int, pool: Sequence[Member], stack: Stack, views: Sequence[Float]) -> Float:
    """Scores (N, K) of the new images by the judges that have not seen the trusted images of a fold."""
    return stack(member.found.judges[fold].scores(views[member.view]) / member.found.temperature for member in pool)


def _second_round(sides: Sides, pool: Sequence[Member], taught: Sequence[npt.NDArray[np.float32]]) -> tuple[list[Float], float]:
    """Fit all judges to trusted labels and posteriors of the other folds.

    Parameters
    ----------
    sides : Sides
    pool : sequence of Member, length J
    taught : sequence of ndarray, length F, shape (N, K)
        Posteriors of the new images by judges without the trusted images of each fold.

    Returns
    -------
    scores : list of ndarray of float64, length J, shape (A + N, K)
        By judges without the image's fold, those with a temperature divided by it.
    factor : float
        Of the regressions' penalty.
    """
    n_trusted = len(sides.true)

    def cross_fit(member: Member, setting: float, starts: Sequence[Judge]) -> tuple[Float, list[Judge]]:
        view, judges = sides.views[member.view], []
        scores = np.empty((len(view), sides.targets.shape[1]))
        for k, soft in enumerate(progress.each("retrained fold", taught)):
            others = sides.folds != k
            targets = np.concatenate([sides.targets[others[:n_trusted]], soft[others[n_trusted:]]])
            judges.append(member.fit(view[others], targets, setting, starts[k]))
            scores[~others] = judges[k].scores(view[~others])
        return scores, judges

    first, starts = pool[0], pool[0].found.judges
    lowest, factor, scores = np.inf, STRENGTH_FACTORS[0], np.empty(0)
    for tried in STRENGTH_FACTORS:
        found_scores, starts = cross_fit(first, first.found.setting * tried, starts)
        loss = mean_log_loss(found_scores[:n_trusted], sides.true)
        if loss > lowest:
            break
        lowest, factor, scores = loss, tried, found_scores
    found = [scores]
    for member in pool[1:]:
        setting = member.found.setting * (1.0 if member.has_temperature else factor)
        scores, _ = cross_fit(member, setting, member.found.judges)
        if member.has_temperature:
            scores /= best_temperature(scores[:n_trusted], sides.true)[0]
        found.append(scores)
    return found, factor
