"""Multinomial logistic regression on soft, weighted labels, fitted to convergence: the head of a frozen backbone.

The loss is convex, so that neither a seed nor a schedule decides on the result, and nothing has to be tuned but the strength of the
penalty, which held-out images choose. N rows (images), D features, P of them after scaling, K classes.

References
----------
D. C. Liu, J. Nocedal: "On the limited memory BFGS method for large scale optimization", Mathematical Programming 45, 1989.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, svd
from scipy.optimize import minimize

from bccp.core import progress
from bccp.data.array_types import Float

STRENGTHS = (3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
"""Penalties among which held-out rows choose, of features whose rows have a mean squared norm of 1 (:class:`FeatureScaling`)."""

SLACK = 0.01
"""Nats by which the held-out loss may exceed the best one before weaker penalties are no longer tried."""

COLUMNS = 256
"""Principal components that :class:`FeatureScaling` keeps at most."""

_CORRECTIONS = 15
"""Past steps from which L-BFGS estimates the curvature."""

_ROWS = 4096
"""Rows that are scaled at once."""

_TINY = float(np.finfo(np.float64).tiny)

_Attempt = tuple[float, Float, tuple["LogisticRegression", ...]]
"""A strength, the held-out rows' logits, and the models that gave them."""

_RANK = 1e-10
"""Variance of a principal component, as a share of the largest, under which it is rounding error."""


class Rows(Protocol):
    """Features of N images: an array (N, D), or a view that reads them from disk when it is indexed."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, positions: Any, /) -> npt.NDArray[Any]:
        """Features of some images, (n, D)."""


class LogisticRegression(NamedTuple):
    """A fitted model.

    Attributes
    ----------
    coefficients : ndarray of float64, shape (D, K)
    intercept : ndarray of float64, shape (K,)
    loss : float
        Weighted mean cross-entropy of the rows that it was fitted to, in nats, without the penalty.
    iterations : int
        Steps of the optimiser.
    """

    coefficients: Float
    intercept: Float
    loss: float
    iterations: int

    def scores(self, features: npt.ArrayLike) -> Float:
        """Logits of rows (n, D), float64 of shape (n, K)."""
        found: Float = np.asarray(features, np.float64) @ self.coefficients + self.intercept
        return found


class Trial(NamedTuple):
    """One strength of the penalty, judged on rows that the models were not fitted to.

    Attributes
    ----------
    strength : float
    train_loss, loss : float
        Weighted mean cross-entropy in nats: of the rows that were fitted (over folds, the mean), and of those held out.
    accuracy : float
        Share of held-out rows, whatever their weight, whose likeliest class is that of the target.
    iterations : int
        Steps of the optimiser, over all folds.
    """

    strength: float
    train_loss: float
    loss: float
    accuracy: float
    iterations: int


class Selection(NamedTuple):
    """A model whose strength of the penalty was chosen on held-out rows.

    Attributes
    ----------
    model : LogisticRegression
        Fitted to all rows, the held-out ones among them.
    strength : float
        The one with the lowest held-out loss; of equal ones the greatest.
    trials : tuple of Trial
        In the order in which they were made, the strongest penalty first.
    scores : ndarray of float64, shape (n, K)
        Logits of the held-out rows by models that had not seen them: of the validation's, or of all N by folds.
    parts : tuple of LogisticRegression
        What gave these scores: the one model without the validation's rows, or for fold k the one without its rows.
    """

    model: LogisticRegression
    strength: float
    trials: tuple[Trial, ...]
    scores: Float
    parts: tuple[LogisticRegression, ...]


class FeatureScaling(NamedTuple):
    """Columns brought to mean 0 and deviation 1, projected on their principal components, and scaled to rows of mean squared norm 1.

    So one strength of the penalty means the same for all backbones. No label is looked at.

    Attributes
    ----------
    mean, deviation : ndarray of float64, shape (D,)
        Of each column. To the deviation a millionth of the deviation over all values is added: a constant column stays 0.
    components : ndarray of float64, shape (D, P), or None
        Unit vectors, by variance falling, each with its largest entry positive; None where all columns are kept as they are.
    factor : float
    """

    mean: Float
    deviation: Float
    components: Float | None
    factor: float

    def apply(self, features: Rows) -> Float:
        """Scale features (n, D): float64 of shape (n, P)."""
        width = len(self.mean) if self.components is None else self.components.shape[1]
        scaled = np.empty((len(features), width))
        for rows, values in _blocks(features):
            standard = (values - self.mean) / self.deviation
            scaled[rows] = standard if self.components is None else standard @ self.components
        scaled *= self.factor
        return scaled

    def fold_in(self, model: LogisticRegression) -> LogisticRegression:
        """The model (P, K) of scaled features as one (D, K) of the features themselves."""
        rotated = model.coefficients if self.components is None else self.components @ model.coefficients
        coefficients = rotated * (self.factor / self.deviation)[:, None]
        return model._replace(coefficients=coefficients, intercept=model.intercept - self.mean @ coefficients)


def fit_scaling(*parts: Rows, columns: int = COLUMNS) -> FeatureScaling:
    """Measure how features are to be scaled.

    Parameters
    ----------
    *parts : array-like, shape (N_i, D)
        Features, at least one row in all; they are read in blocks.
    columns : int
        Where there are more, so many principal components take their place; fewer, where the features span less.

    Returns
    -------
    FeatureScaling
        The order of the rows matters only as rounding goes.
    """
    n_rows = sum(len(part) for part in parts)
    mean: Float = sum(values.sum(axis=0) for _, values in _blocks(*parts)) / n_rows
    variance: Float = sum(((values - mean) ** 2).sum(axis=0) for _, values in _blocks(*parts)) / n_rows
    overall = float(np.sqrt(variance.mean() + mean.var()))  # of all values, whatever their column
    deviation = np.sqrt(variance) + 1e-6 * overall + 1e-12
    components, kept = None, float((variance / deviation**2).sum())
    if len(mean) > columns:
        spread, vectors = _principal(((values - mean) / deviation for _, values in _blocks(*parts)), n_rows, len(mean), columns)
        vectors = vectors[:, spread > _RANK * spread[0]] if spread[0] > 0 else vectors[:, :1]
        largest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
        components, kept = np.ascontiguousarray(vectors * np.sign(largest)), float(spread[: vectors.shape[1]].sum())
    return FeatureScaling(mean, deviation, components, 1 / np.sqrt(kept) if kept > 0 else 1.0)


def fit(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    strength: float,
    weights: npt.ArrayLike | None = None,
    start: LogisticRegression | None = None,
    max_iterations: int = 150,
    tolerance: float = 1e-7,
) -> LogisticRegression:
    """Minimise the weighted mean cross-entropy plus ``strength`` / 2 times the coefficients' sum of squares, by L-BFGS.

    Parameters
    ----------
    features : array-like, shape (N, D)
        Finite, best scaled by :class:`FeatureScaling`.
    targets : array-like, shape (N, K)
        P(class) of each row; rows sum to 1, one-hot where the label is hard. A class that no row has gets a falling intercept.
    strength : float
        Above 0. The intercept is free of it.
    weights : array-like, shape (N,), optional
        How much each row counts, not negative; only their ratios matter. Without it, all count alike.
    start : LogisticRegression, optional
        Where the search starts, such as the model of a neighbouring strength; without it, from zeros.
    max_iterations : int
    tolerance : float
        The search ends when a step lowers the loss by a smaller share, or no slope is above a hundred times as much.

    Returns
    -------
    LogisticRegression

    Raises
    ------
    ValueError
        If shapes do not go together, no weight is above 0, or the features or targets are not finite.

    Examples
    --------
    >>> found = fit([[-1.0], [1.0]], [[1, 0], [0, 1]], strength=0.1)
    >>> found.scores([[2.0]]).argmax(axis=1).tolist()
    [1]
    """
    table, wanted, share = _checked(features, targets, weights)
    wanted_by_class = np.ascontiguousarray((wanted * share[:, None]).T)
    total = wanted_by_class.sum(axis=0)

    def lose(scores: Float) -> float:
        """The cross-entropy, and in the scores' place its slope."""
        scores -= scores.max(axis=0)
        loss = -np.vdot(wanted_by_class, scores)
        np.exp(scores, out=scores)
        norm = scores.sum(axis=0)
        loss += total @ np.log(norm)
        scores *= total / norm
        scores -= wanted_by_class
        return float(loss)

    return _descend(table, wanted.shape[1], lose, strength, start, max_iterations, tolerance)


def fit_under_noise(
    features: npt.ArrayLike,
    given: npt.ArrayLike,
    noise: npt.ArrayLike,
    *,
    strength: float,
    start: LogisticRegression,
    max_iterations: int = 150,
    tolerance: float = 1e-7,
) -> LogisticRegression:
    """Fit P(true class) to labels that are wrong as a noise matrix says: what is minimised is the loss of the *given* labels' chances.

    Parameters
    ----------
    features : array-like, shape (N, D)
    given : array-like of int, shape (N,)
        Labels, 0 to K - 1.
    noise : array-like, shape (K, K)
        P(given = k | true = j); rows sum to 1. With the identity this is :func:`fit`.
    strength, max_iterations, tolerance
        As for :func:`fit`.
    start : LogisticRegression
        Where the search starts; the loss is not convex, and its nearest minimum is the result. The model that :func:`fit` finds for the
        given labels names the classes as the labels do.

    Returns
    -------
    LogisticRegression
        Its scores are of the true classes; ``loss`` is that of the given labels.

    Raises
    ------
    ValueError
        If shapes do not go together, or the features or the matrix are not finite.

    References
    ----------
    G. Patrini, A. Rozza, A. Menon, R. Nock, L. Qu: "Making Deep Neural Networks Robust to Label Noise", CVPR 2017 (forward correction).
    """
    matrix, labels = np.asarray(noise, np.float64), np.asarray(given, np.int64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or start.coefficients.shape[1] != len(matrix):
        raise ValueError(f"noise {matrix.shape} and a start of {start.coefficients.shape[1]} classes do not go together")
    likelihood = matrix.T[labels]  # (N, K), P(given | true class) of each row
    table, likelihood, share = _checked(features, likelihood, None)
    by_class = np.ascontiguousarray(likelihood.T)

    def lose(scores: Float) -> float:
        """The loss of the given labels, and in the scores' place its slope."""
        scores -= scores.max(axis=0)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=0)
        joint = scores * by_class
        chance = np.maximum(joint.sum(axis=0), _TINY)
        joint /= chance
        scores -= joint
        scores *= share
        return -float(share @ np.log(chance))

    return _descend(table, len(matrix), lose, strength, start, max_iterations, tolerance)


def fit_by_validation(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    held_features: npt.ArrayLike,
    held_targets: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    held_weights: npt.ArrayLike | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> Selection:
    """Choose the strength by the loss of validation rows, and fit to all rows with it.

    Parameters
    ----------
    features, targets, weights
        As for :func:`fit`.
    held_features : array-like, shape (n, D)
        At least one row.
    held_targets : array-like, shape (n, K)
    held_weights : array-like, shape (n,), optional
        On the scale of ``weights``.
    strengths : sequence of float
        Falling.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        As for :func:`fit`.
    """
    table, wanted, share = _checked(features, targets, weights)
    held = _checked(held_features, held_targets, held_weights)

    def attempts() -> Iterator[_Attempt]:
        model = None
        for strength in progress.each("penalty", strengths):
            model = fit(table, wanted, strength=strength, weights=share, start=model)
            yield strength, model.scores(held[0]), (model,)

    (strength, scores, parts), trials = _lowest(attempts(), held[1], held[2])
    rows, soft = np.concatenate([table, held[0]]), np.concatenate([wanted, held[1]])
    both = np.concatenate(
        [np.broadcast_to(1.0 if given is None else given, len(part)) for given, part in ((weights, table), (held_weights, held[0]))]
    )
    return Selection(fit(rows, soft, strength=strength, weights=both, start=parts[0]), strength, trials, scores, parts)


def fit_by_folds(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    fold: npt.ArrayLike,
    *,
    weights: npt.ArrayLike | None = None,
    strengths: Sequence[float] = STRENGTHS,
) -> Selection:
    """Choose the strength by the pooled loss of held-out folds, and fit to all rows with it.

    Parameters
    ----------
    features, targets, weights
        As for :func:`fit`.
    fold : array-like of int, shape (N,)
        0 to F - 1, F at least 2, each with a row of its own; copies of an image belong into one.
    strengths : sequence of float
        Falling.

    Returns
    -------
    Selection

    Raises
    ------
    ValueError
        As for :func:`fit`, also of the rows of all folds but one.
    """
    table, wanted, share = _checked(features, targets, weights)
    folds = np.asarray(fold, np.int64)
    n_folds = int(folds.max()) + 1
    within, others = ([np.flatnonzero((folds == k) == inside) for k in range(n_folds)] for inside in (True, False))

    def attempts() -> Iterator[_Attempt]:
        models: list[LogisticRegression | None] = [None] * n_folds
        for strength in progress.each("penalty", strengths):
            scores, fitted = np.empty(wanted.shape), []
            for k, rest in enumerate(progress.each("left-out part", others)):  # one fold's rows are copied at a time
                model = fit(table[rest], wanted[rest], strength=strength, weights=share[rest], start=models[k])
                models[k], scores[within[k]] = model, model.scores(table[within[k]])
                fitted.append(model)
            yield strength, scores, tuple(fitted)

    (strength, scores, parts), trials = _lowest(attempts(), wanted, share)
    return Selection(fit(table, wanted, strength=strength, weights=share, start=parts[0]), strength, trials, scores, parts)


def cross_entropy(scores: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Weighted mean cross-entropy of logits (N, K) under P(class) (N, K), in nats."""
    logits, wanted = np.asarray(scores, np.float64), np.asarray(targets, np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    losses = wanted.sum(axis=1) * np.log(np.exp(logits).sum(axis=1)) - (wanted * logits).sum(axis=1)
    return float(np.average(losses, weights=None if weights is None else np.asarray(weights, np.float64)))


def _descend(
    table: Float,
    n_classes: int,
    lose: Callable[[Float], float],
    strength: float,
    start: LogisticRegression | None,
    max_iterations: int,
    tolerance: float,
) -> LogisticRegression:
    """Minimise a loss of scores (K, N), which puts its slope in their place, plus the penalty; classes are rows, summed over faster."""
    columns, n_features = table.T, table.shape[1]

    def loss_and_slope(point: Float) -> tuple[float, Float]:
        rows = point.reshape(n_classes, n_features + 1)
        coefficients = rows[:, :-1]
        scores = coefficients @ columns
        scores += rows[:, -1:]
        loss = lose(scores)
        slope = np.empty_like(rows)
        slope[:, :-1] = scores @ table
        slope[:, :-1] += strength * coefficients
        slope[:, -1] = scores.sum(axis=1)
        return float(loss + strength / 2 * np.vdot(coefficients, coefficients)), slope.ravel()

    first = np.zeros((n_classes, n_features + 1))
    if start is not None:
        first[:, :-1], first[:, -1] = start.coefficients.T, start.intercept
    settings = {"maxiter": max_iterations, "maxcor": _CORRECTIONS, "ftol": tolerance, "gtol": 100 * tolerance}
    found = minimize(loss_and_slope, first.ravel(), jac=True, method="L-BFGS-B", options=settings)
    rows = found.x.reshape(n_classes, n_features + 1)
    loss = float(found.fun) - strength / 2 * float(np.vdot(rows[:, :-1], rows[:, :-1]))
    return LogisticRegression(np.ascontiguousarray(rows[:, :-1].T), rows[:, -1].copy(), loss, int(found.nit))


def _principal(blocks: Iterable[Float], n_rows: int, n_columns: int, n_wanted: int) -> tuple[Float, Float]:
    """Variances of the first principal components of centred columns, falling, and their unit vectors, by whichever way is shorter."""
    if n_rows < n_columns:
        _, lengths, across = svd(np.concatenate(list(blocks)), full_matrices=False)
        return lengths[:n_wanted] ** 2 / n_rows, across[:n_wanted].T
    products = np.zeros((n_columns, n_columns))
    for block in blocks:
        products += block.T @ block
    spread, vectors = eigh(products / n_rows, subset_by_index=(n_columns - n_wanted, n_columns - 1))
    return spread[::-1], vectors[:, ::-1]


def _lowest(attempts: Iterable[_Attempt], targets: Float, weights: Float) -> tuple[_Attempt, tuple[Trial, ...]]:
    """The attempt with the lowest held-out loss, and all that were made: none once the loss has risen by more than ``SLACK``."""
    trials: list[Trial] = []
    lowest, best = np.inf, None
    for attempt in attempts:
        strength, scores, models = attempt
        loss, hit = cross_entropy(scores, targets, weights), scores.argmax(axis=1) == targets.argmax(axis=1)
        seen, steps = float(np.mean([model.loss for model in models])), sum(model.iterations for model in models)
        trials.append(Trial(strength, seen, loss, float(hit.mean()), steps))
        if best is None or loss < lowest:
            lowest, best = loss, attempt
        elif loss > lowest + SLACK:
            break
    if best is None:
        raise ValueError("no strength was given to choose from")
    return best, tuple(trials)


def _checked(features: npt.ArrayLike, targets: npt.ArrayLike, weights: npt.ArrayLike | None) -> tuple[Float, Float, Float]:
    """Features and targets as float64, and each row's share of the weight, shape (N,)."""
    table, wanted = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    share = np.ones(len(table)) if weights is None else np.asarray(weights, np.float64)
    if table.ndim != 2 or wanted.ndim != 2 or not len(table) == len(wanted) == len(share) or share.ndim != 1:
        raise ValueError(f"features {table.shape}, targets {wanted.shape} and weights {share.shape} do not go together")
    if not (np.isfinite(table).all() and np.isfinite(wanted).all() and np.isfinite(share).all()) or (share < 0).any():
        raise ValueError("features, targets and weights have to be finite, and weights not negative")
    if not share.any():
        raise ValueError("no row has a weight above 0")
    return table, wanted, share / share.sum()


def _blocks(*parts: Rows) -> Iterator[tuple[slice, Float]]:
    """Rows of each part in turn, as float64; the slices count from the part's first row."""
    for part in parts:
        for start in range(0, len(part), _ROWS):
            rows = slice(start, min(start + _ROWS, len(part)))
            yield rows, np.asarray(part[np.arange(rows.start, rows.stop)], np.float64)
