"""Judges of images by the features of a frozen backbone: convex or closed-form classifiers, each judging images that it was not fitted to.

N images, K classes, D features, F folds. A judge gives scores (n, K), whose softmax are class probabilities. Three families err
differently, and each has one setting: logistic regression (strength of its penalty), discriminant analysis (shrinkage of the covariance)
and the votes of the nearest neighbours (their number). All are fitted to soft targets (N, K), so that true labels, given labels and
posteriors are one case. The setting is the one under which the labels of the folds left out are likeliest: trusted labels, or the given
ones where nothing is trusted.

Features are expected as :func:`bccp.models.logistic_regression.fit_scaling` scales them, to a mean squared norm of 1.

References
----------
J. H. Friedman: "Regularized Discriminant Analysis", JASA 84, 1989.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy import linalg, sparse
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from bccp.data.array_types import Float, Float32, Index
from bccp.models import logistic_regression
from bccp.models.logistic_regression import LogisticRegression

SHRINKAGES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
"""Shares of a multiple of the identity in the covariance of discriminant analysis."""

SEPARATION_SHRINKAGE = 0.4
"""Of the discriminant analysis of :func:`separability`."""

NEIGHBOURS = (5, 10, 20, 40)
"""Neighbours that vote."""

PRIOR_VOTES = 2.0
"""Votes that the class shares lend to the neighbours of each image."""

TEMPERATURES = np.geomspace(0.3, 12.0, 25)
"""By one of these the scores of discriminant analysis and of neighbours are divided, which are not calibrated of their own accord."""

_LEAST_SHARE = 1e-4
"""Of a class among the known images, all classes together: one that is missing stays possible."""

_BLOCK_CELLS = 2**22
"""Similarities that are held at once."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let matrices be multiplied by one thread; for a block, or as a decorator.

    Several spin while they wait for each other, and beside other work take eight times as long as one.
    """
    with threadpool_limits(1):
        yield


class Judge(Protocol):
    """Anything that gives scores of features, such as a :class:`bccp.models.logistic_regression.LogisticRegression`."""

    def scores(self, features: Float) -> Float:
        """Scores (n, K) of features (n, D)."""


@dataclass(frozen=True)
class DiscriminantJudge:
    """A linear discriminant analysis.

    Attributes
    ----------
    coefficients : ndarray of float64, shape (D, K)
    intercept : ndarray of float64, shape (K,)
    """

    coefficients: Float
    intercept: Float

    def scores(self, features: Float) -> Float:
        """Scores (n, K) of features (n, D)."""
        return np.asarray(features @ self.coefficients + self.intercept, np.float64)


@dataclass(frozen=True)
class NeighbourJudge:
    """Votes of the nearest known images, by the angle between features.

    Attributes
    ----------
    directions : ndarray of float32, shape (N, D)
        Features of the known images, of length 1.
    targets : ndarray of float64, shape (N, K)
        Their class probabilities; rows sum to 1.
    count : int
        Neighbours that vote, at most N.
    """

    directions: Float32
    targets: Float
    count: int

    def scores(self, features: Float) -> Float:
        """Scores (n, K) of features (n, D): log((votes + 2 · class shares) / (count + 2))."""
        return self.with_counts(features, [self.count])[0]

    def with_counts(self, features: Float, counts: Sequence[int]) -> list[Float]:
        """The scores with several numbers of neighbours, from one search; the similarities of a block of rows are held at once."""
        n_known, n_classes = self.targets.shape
        possible = [min(count, n_known) for count in counts]
        shares = (1 - _LEAST_SHARE) * self.targets.mean(axis=0) + _LEAST_SHARE / n_classes
        queries, found = _directions(features), [np.empty((len(features), n_classes)) for _ in counts]
        for rows in _blocks(len(queries), n_known):
            nearest = _nearest(queries[rows] @ self.directions.T, max(possible))
            for count, scores in zip(possible, found, strict=True):
                chosen = np.ones(len(nearest) * count), nearest[:, :count].ravel(), np.arange(len(nearest) + 1) * count
                votes = sparse.csr_array(chosen, shape=(len(nearest), n_known)) @ self.targets
                scores[rows] = np.log((votes + PRIOR_VOTES * shares) / (count + PRIOR_VOTES))
        return found


class OutOfFold(NamedTuple):
    """The judges of a family, each fitted without one fold.

    Attributes
    ----------
    setting : float
        Strength, shrinkage or number of neighbours.
    log_loss : float
        Mean of the labels left out, in nats.
    scores : ndarray of float64, shape (N, K)
        Of each image by the judge that was not fitted to its fold; divided by ``temperature``.
    temperature : float
        1 for regressions.
    judges : sequence of Judge, length F
        Number k was fitted without fold k. Their scores are not yet divided.
    whole : Judge
        Fitted to all folds; not yet divided either.
    """

    setting: float
    log_loss: float
    scores: Float
    temperature: float
    judges: Sequence[Judge]
    whole: Judge


class Member(NamedTuple):
    """A judge of the pool, and how to fit it anew.

    Attributes
    ----------
    view : int
        Whose features it sees.
    fit : callable
        From features (N, D), soft targets (N, K), a setting, and the judge where the search begins, to a judge.
    has_temperature : bool
        Its scores are divided by a temperature of their own; not those of a regression, whose setting does that.
    found : OutOfFold
    """

    view: int
    fit: Callable[[Float, Float, float, Judge | None], Judge]
    has_temperature: bool
    found: OutOfFold


def judges_out_of_fold(views: Sequence[Float], labels: Index, n_classes: int, folds: Index) -> list[Member]:
    """Fit the whole pool out of fold: a regression on each view, discriminant analysis and neighbours on the first.

    Parameters
    ----------
    views : sequence of ndarray of float64, shape (N, D_v)
        Features of the same images, scaled.
    labels, n_classes, folds
        As for :func:`regressions_out_of_fold`.

    Returns
    -------
    list of Member
        The regressions in the order of the views, then the other two.
    """
    pool = [Member(v, _refit_regression, False, regressions_out_of_fold(view, labels, n_classes, folds)) for v, view in enumerate(views)]
    pool.append(Member(0, _refit_discriminant, True, discriminants_out_of_fold(views[0], labels, n_classes, folds)))
    return [*pool, Member(0, _refit_neighbours, True, neighbours_out_of_fold(views[0], labels, n_classes, folds))]


def fit_discriminants(features: Float, targets: Float, shrinkages: Sequence[float]) -> list[DiscriminantJudge]:
    """Fit linear discriminant analyses whose common covariance is shrunk towards a multiple of the identity.

    Parameters
    ----------
    features : ndarray of float64, shape (N, D)
    targets : ndarray of float64, shape (N, K)
        Rows sum to 1: an image counts for each class by its share.
    shrinkages : sequence of float
        g in [0, 1]: the covariance is (1 - g) · S + g · tr(S) / D · I.

    Returns
    -------
    list of DiscriminantJudge
        One a shrinkage, all from one decomposition of S; the log class shares are in the intercept.
    """
    n_of_class = targets.sum(axis=0) + 1e-9
    means = targets.T @ features / n_of_class[:, np.newaxis]  # (K, D)
    within = (features.T @ features - (means * n_of_class[:, np.newaxis]).T @ means) / targets.sum()
    spectrum, axes = linalg.eigh(within)
    rotated = means @ axes
    found = []
    for shrinkage in shrinkages:
        widths = (1 - shrinkage) * np.maximum(spectrum, 0) + shrinkage * np.trace(within) / len(within)
        coefficients = axes @ (rotated / np.maximum(widths, 1e-12)).T  # (D, K)
        intercept = np.log(n_of_class / n_of_class.sum()) - 0.5 * (means.T * coefficients).sum(axis=0)
        found.append(DiscriminantJudge(coefficients, intercept))
    return found


def fit_discriminant(features: Float, targets: Float, shrinkage: float) -> DiscriminantJudge:
    """Fit one of :func:`fit_discriminants`."""
    return fit_discriminants(features, targets, [shrinkage])[0]


def fit_neighbours(features: Float, targets: Float, count: float) -> NeighbourJudge:
    """Keep known images for votes of the nearest ``count`` of them, or of all where there are fewer; targets (N, K) sum to 1 in rows."""
    return NeighbourJudge(_directions(features), targets, min(int(count), len(features)))


def regressions_out_of_fold(features: Float, labels: Index, n_classes: int, folds: Index) -> OutOfFold:
    """Judge each image by a logistic regression on the other folds.

    Parameters
    ----------
    features : ndarray of float64, shape (N, D)
    labels : ndarray of int64, shape (N,)
        What the judges are fitted to, and by which the setting is chosen.
    n_classes : int
        K.
    folds : ndarray of int64, shape (N,)
        0 to F - 1, F at least 2, each of them taken; duplicates in one fold.

    Returns
    -------
    OutOfFold
    """
    found = logistic_regression.fit_by_folds(features, np.eye(n_classes)[labels], folds)
    return OutOfFold(found.strength, mean_log_loss(found.scores, labels), found.scores, 1.0, found.parts, found.model)


def discriminants_out_of_fold(features: Float, labels: Index, n_classes: int, folds: Index) -> OutOfFold:
    """Judge each image by a discriminant analysis of the other folds; parameters as for :func:`regressions_out_of_fold`."""
    targets = np.eye(n_classes)[labels]
    paths = [fit_discriminants(features[folds != k], targets[folds != k], SHRINKAGES) for k in range(n_folds(folds))]
    by_setting = list(zip(*paths, strict=True))
    candidates = [scores_out_of_fold(judges, features, folds, n_classes) for judges in by_setting]
    i, temperature, loss = _likeliest(candidates, labels)
    whole = fit_discriminant(features, targets, SHRINKAGES[i])
    return OutOfFold(SHRINKAGES[i], loss, candidates[i] / temperature, temperature, by_setting[i], whole)


def neighbours_out_of_fold(features: Float, labels: Index, n_classes: int, folds: Index) -> OutOfFold:
    """Judge each image by its nearest neighbours in the other folds; parameters as for :func:`regressions_out_of_fold`."""
    targets = np.eye(n_classes)[labels]
    judges = [fit_neighbours(features[folds != k], targets[folds != k], max(NEIGHBOURS)) for k in range(n_folds(folds))]
    candidates = [np.empty((len(features), n_classes)) for _ in NEIGHBOURS]
    for k, judge in enumerate(judges):
        for scores, found in zip(candidates, judge.with_counts(features[folds == k], NEIGHBOURS), strict=True):
            scores[folds == k] = found
    i, temperature, loss = _likeliest(candidates, labels)
    chosen = [dataclasses.replace(judge, count=min(NEIGHBOURS[i], len(judge.targets))) for judge in judges]
    whole = fit_neighbours(features, targets, NEIGHBOURS[i])
    return OutOfFold(NEIGHBOURS[i], loss, candidates[i] / temperature, temperature, chosen, whole)


def separability(known: Float, new: Float, known_folds: Index, new_folds: Index) -> float:
    """Measure how well features tell two sets of images apart.

    Parameters
    ----------
    known, new : ndarray of float64, shape (n, D) and (m, D)
    known_folds, new_folds : ndarray of int64, shape (n,) and (m,)
        The same folds for both, duplicates in one.

    Returns
    -------
    float
        Area under the ROC curve of a discriminant analysis of the other folds: about 0.5 where both sets look alike, 1 where every new
        image gives itself away.
    """
    features, folds = np.concatenate([known, new]), np.concatenate([known_folds, new_folds])
    is_new = np.repeat([0, 1], [len(known), len(new)])
    sides = np.eye(2)[is_new]
    judges = [fit_discriminant(features[folds != k], sides[folds != k], SEPARATION_SHRINKAGE) for k in range(n_folds(folds))]
    scores = scores_out_of_fold(judges, features, folds, 2)
    from scipy.stats import rankdata  # takes half a second to import, which no judge needs

    ranks = rankdata(scores[:, 1] - scores[:, 0])
    return float((ranks[is_new == 1].sum() - len(new) * (len(new) + 1) / 2) / (len(known) * len(new)))


def scores_out_of_fold(judges: Sequence[Judge], features: Float, folds: Index, n_classes: int) -> Float:
    """Scores (N, K) of features (N, D), those of fold k by judge k."""
    scores = np.empty((len(features), n_classes))
    for k, judge in enumerate(judges):
        scores[folds == k] = judge.scores(features[folds == k])
    return scores


def best_temperature(scores: Float, labels: Index) -> tuple[float, float]:
    """The divisor of scores (N, K), of ``TEMPERATURES``, under which labels (N,) are likeliest, and their mean log loss in nats."""
    losses = [mean_log_loss(scores / temperature, labels) for temperature in TEMPERATURES]
    best = int(np.argmin(losses))
    return float(TEMPERATURES[best]), losses[best]


def mean_log_loss(scores: Float, labels: Index) -> float:
    """Mean of -log softmax(scores)[label] over N images, in nats; a probability below 1e-12 counts as that."""
    own = np.take_along_axis(log_softmax(scores, axis=1), labels[:, np.newaxis], axis=1)
    return -float(np.maximum(own, np.log(1e-12)).mean())


def n_folds(folds: Index) -> int:
    """F of fold numbers 0 to F - 1, shape (N,)."""
    return int(folds.max()) + 1


def _refit_regression(features: Float, targets: Float, setting: float, start: Judge | None) -> Judge:
    begin = start if isinstance(start, LogisticRegression) else None
    return logistic_regression.fit(features, targets, strength=setting, start=begin)


def _refit_discriminant(features: Float, targets: Float, setting: float, start: Judge | None) -> Judge:
    return fit_discriminant(features, targets, setting)


def _refit_neighbours(features: Float, targets: Float, setting: float, start: Judge | None) -> Judge:
    return fit_neighbours(features, targets, setting)


def _likeliest(candidates: Sequence[Float], labels: Index) -> tuple[int, float, float]:
    """Position of the scores under which labels are likeliest, each at its own best temperature; that temperature, and the log loss."""
    tempered = [best_temperature(scores, labels) for scores in candidates]
    best = min(range(len(candidates)), key=lambda i: tempered[i][1])
    return best, *tempered[best]


def _directions(features: Float) -> Float32:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)


def _nearest(similarities: npt.NDArray[np.float32], count: int) -> Index:
    """Positions of the greatest ``count`` values of each row, falling; shape (n, count)."""
    near = np.argpartition(-similarities, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(similarities, near, axis=1), axis=1, kind="stable")
    return np.asarray(np.take_along_axis(near, order, axis=1), np.int64)


def _blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    size = max(1, _BLOCK_CELLS // max(n_columns, 1))
    return (slice(start, start + size) for start in range(0, n_rows, size))
