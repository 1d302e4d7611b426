"""Several users label the same images: what each of them is worth, and what their labels say together.

N images, K classes, U users, M votes. Vote m is (image i, user u, label y); z is the image's unknown true label. A classifier that was not
fitted to these votes says ``probs[i, j] = p(z = j | x_i)``. User u has the noise matrix Θ_u[j, k] = P(u says k | z = j), and given z the
votes on an image are independent:

    P(z = j | x, votes)  ∝  p(z = j | x) · Π_m Θ_u(m)[j, y(m)]

This is Dawid and Skene's model with a classifier as the first annotator. Most users of a feedback button vote a few times, so their
matrices are learned in three levels, each of which shrinks to the one before:

1. one matrix of all votes (a Dirichlet prior of ``smoothing`` votes a class at the uniform noise that fits best);
2. each user's odds of being right, as a factor on the odds of that matrix's diagonal; a wrong label is spread as in the matrix. The user is
   lent ``user_smoothing`` votes of the average user;
3. each user's own matrix, whose rows have a Dirichlet prior of ``matrix_smoothing`` votes at level 2.

So a user with one vote is nearly an average one, one with thirty is known to be careful or careless, and one with thousands has
habits, such as calling every wolf a dog. What the votes do not touch of a user's matrix is never written down: memory grows with
K · (N + M + U), not with U · K².

What it cannot see: on a hard image people err alike, and three of them count as three, so P(wrong) comes out too low and the users too good
(by 1.2 to 1.6 points on three answers a photograph). An exponent of 0.8 on the votes was tried and left out: it helps there (F1 +2 points,
AUROC -0.2) and harms where users err independently (F1 -1); the likelihood of left-out votes, which would have to choose it, says 0.9 on
photographs and with simulated users who err alike, and 1 with independent ones.

References
----------
A. P. Dawid, A. M. Skene: "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm", Applied Statistics 28, 1979.
V. C. Raykar et al.: "Learning From Crowds", JMLR 11, 2010 (a classifier and the users, together).
H. W. Goh, U. Tkachenko, J. Mueller: "CROWDLAB: Supervised learning to infer consensus labels and quality scores for data with multiple
annotators", NeurIPS Human in the Loop Learning Workshop 2022 (cleanlab's, for comparison).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import sparse, special

from bccp.data.array_types import Float, Index
from bccp.labels.calibration import choose_offsets, choose_smoothing, choose_temperature, temper
from bccp.labels.posterior import canonical_order, checked_labels, clipped_log, estimate_user_accuracy, uniform_noise

_TOLERANCE = 1e-7
"""Of EM: the change of a round per vote, in nats, under which it stops."""

USER_SMOOTHINGS = (3.0, 10.0, 30.0, 100.0, 1000.0)
"""Votes lent to each user, among which :func:`choose_user_smoothings` chooses: from nearly free accuracies to one for all."""

MATRIX_SMOOTHINGS = (1000.0, 100.0, 30.0, 10.0)
"""Votes lent to each class of each user, for :func:`choose_user_smoothings` to choose: from one shape of mistakes to nearly free ones."""


@dataclass(frozen=True)
class Pooled:
    """What the votes say together.

    Attributes
    ----------
    posterior : ndarray of float64, shape (N, K)
        P(z = j | x, votes); rows sum to 1. An image without a vote has p(z | x).
    noise_matrix : ndarray of float64, shape (K, K)
        P(y = k | z = j) over all votes; rows sum to 1.
    accuracy : ndarray of float64, shape (U,)
        Expected share of right votes of each user, with ``user_smoothing`` votes of the average user; of one without votes, the average.
    low, high : ndarray of float64, shape (U,)
        95% interval of it: a Beta distribution whose variance is the inverse of the information that the user's votes hold, each seen by
        the classifier and the other votes on its image.
    n_votes : ndarray of int64, shape (U,)
        Votes of each user.
    left_out_likelihood : float
        Of the votes, in nats, each under the classifier, the other votes on its image, and the user's matrix without it: what the
        smoothings are compared by.
    iterations : int
        Of EM.
    """

    posterior: Float
    noise_matrix: Float
    accuracy: Float
    low: Float
    high: Float
    n_votes: Index
    left_out_likelihood: float
    iterations: int


@dataclass(frozen=True)
class VotesJudged:
    """Votes, pooled with parameters that they themselves have chosen.

    Attributes
    ----------
    temperature : float
        Of p(z | x).
    offsets : ndarray of float64, shape (K,)
        Of log p(z | x), at the temperature.
    probs : ndarray of float64, shape (N, K)
        p(z = j | x) with both; rows sum to 1.
    smoothing, user_smoothing, matrix_smoothing : float
        Of :func:`pool_votes`.
    pooled : Pooled
    """

    temperature: float
    offsets: Float
    probs: Float
    smoothing: float
    user_smoothing: float
    matrix_smoothing: float
    pooled: Pooled


def pool_votes(
    probs: npt.ArrayLike,
    image_idx: npt.ArrayLike,
    user_idx: npt.ArrayLike,
    labels: npt.ArrayLike,
    n_users: int,
    *,
    smoothing: float = 10.0,
    user_smoothing: float = 10.0,
    matrix_smoothing: float = 100.0,
    tolerance: float = _TOLERANCE,
    max_iter: int = 500,
) -> Pooled:
    """Estimate the users and the posterior of the true labels by EM.

    Parameters
    ----------
    probs : array-like, shape (N, K)
        p(z = j | x), from a model that was not fitted to these votes; not negative, rows sum to 1; K at least 2.
    image_idx, user_idx, labels : array-like of int, shape (M,)
        Each vote's image (0 to N - 1), user (0 to U - 1) and label (0 to K - 1), in any order. Images and users may have none.
    n_users : int
        U.
    smoothing, user_smoothing, matrix_smoothing : float
        Votes lent to each class, each user and each class of each user; see the module's text. Above 0.
    tolerance : float
        EM stops when a round changes the log-likelihood by less than this per vote, in nats.
    max_iter : int
        Rounds of EM at most, at least 1.

    Returns
    -------
    Pooled
        Permuting the votes changes nothing, permuting the images permutes the posterior and changes nothing else, to the bit.

    Raises
    ------
    ValueError
        For arrays that do not fit each other, fewer than 2 classes, or numbers out of range.
    """
    prior, image, user, label = _checked_votes(probs, image_idx, user_idx, labels, n_users)
    for name, value in (("smoothing", smoothing), ("user_smoothing", user_smoothing), ("matrix_smoothing", matrix_smoothing)):
        if not value > 0:
            raise ValueError(f"{name}={value} must be above 0")
    # sums of floats depend on their order: take one that belongs to the values, not to the images' or votes' places
    order = _order_of_images(prior, image, user, label)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    votes = _sorted_votes(place[image], user, label, len(order), n_users, prior.shape[1])
    sorted_prior = prior[order]
    logprior = clipped_log(sorted_prior)
    accuracy = estimate_user_accuracy(sorted_prior[votes.image], votes.label)
    start = _Lent(smoothing * uniform_noise(accuracy, prior.shape[1]), user_smoothing, matrix_smoothing)
    likelihood = np.log(start.pooled.T[votes.pair_label] / smoothing)  # (P, K), log P(y | z = j) of each pair of a user and a label
    before, iteration = -np.inf, 0
    while True:
        iteration += 1
        logjoint = logprior + votes.on_images @ likelihood  # (N, K)
        evidence = special.logsumexp(logjoint, axis=1, keepdims=True)
        believed = np.exp(logjoint - evidence)
        believed /= believed.sum(axis=1, keepdims=True)
        users = _fit_users(believed, votes, start)
        reached = float(evidence.sum())
        if abs(reached - before) <= tolerance * max(len(votes.image), 1) or iteration >= max_iter:
            break
        likelihood, before = np.log(users.matrices), reached
    left_out, information = _left_out(logjoint, believed, likelihood, votes, users, start)
    low, high = _interval(users.accuracy, information + user_smoothing / (users.accuracy * (1 - users.accuracy)))
    unsorted = np.empty_like(believed)
    unsorted[order] = believed
    silent = np.bincount(image, minlength=len(prior)) == 0
    unsorted[silent] = prior[silent]
    return Pooled(unsorted, users.pooled, users.accuracy, low, high, np.bincount(user, minlength=n_users), left_out, iteration)


def choose_user_smoothings(
    probs: npt.ArrayLike,
    image_idx: npt.ArrayLike,
    user_idx: npt.ArrayLike,
    labels: npt.ArrayLike,
    n_users: int,
    *,
    smoothing: float = 10.0,
) -> tuple[float, float]:
    """How much the users have in common, by the left-out likelihood of the votes.

    Parameters
    ----------
    probs, image_idx, user_idx, labels, n_users, smoothing
        As for :func:`pool_votes`.

    Returns
    -------
    user_smoothing : float
        The best of ``USER_SMOOTHINGS``, while all users' mistakes have one shape.
    matrix_smoothing : float
        The best of ``MATRIX_SMOOTHINGS`` with it; of equal ones the first.
    """

    def value(user_smoothing: float, matrix_smoothing: float) -> float:
        return pool_votes(
            probs,
            image_idx,
            user_idx,
            labels,
            n_users,
            smoothing=smoothing,
            user_smoothing=user_smoothing,
            matrix_smoothing=matrix_smoothing,
            tolerance=_ROUGH,
        ).left_out_likelihood

    best = max(USER_SMOOTHINGS, key=lambda s: value(s, MATRIX_SMOOTHINGS[0]))
    return best, max(MATRIX_SMOOTHINGS, key=lambda s: value(best, s))


def judge_votes(
    mean_probs: npt.ArrayLike,
    image_idx: npt.ArrayLike,
    user_idx: npt.ArrayLike,
    labels: npt.ArrayLike,
    n_users: int,
    *,
    start: float,
    most: float | None = None,
) -> VotesJudged:
    """Pool the votes of users by a model that was fitted to other, trusted images.

    Parameters
    ----------
    mean_probs : array-like, shape (N, K)
        p(z = j | x), the mean over stochastic passes; rows sum to 1.
    image_idx, user_idx, labels, n_users
        As for :func:`pool_votes`.
    start : float
        Where the search for the temperature begins.
    most : float, optional
        The greatest temperature that is believed (:func:`bccp.labels.calibration.most_believed`).

    Returns
    -------
    VotesJudged
        Smoothing and temperature are chosen as for single labels, each vote as an image of its own
        (:func:`bccp.labels.calibration.choose_temperature`); then the users' smoothings, then the offsets
        (:func:`bccp.labels.calibration.choose_offsets`).
    """
    image, given = np.asarray(image_idx, np.int64), np.asarray(labels, np.int64)
    prior = np.asarray(mean_probs, np.float64)
    smoothing = choose_smoothing(temper(prior[image], start), given)
    temperature = choose_temperature(prior[image], given, start=start, smoothing=smoothing, most=most)
    tempered = temper(prior, temperature)
    by_user, by_matrix = choose_user_smoothings(tempered, image, user_idx, given, n_users, smoothing=smoothing)

    def pool(probs: Float, tolerance: float) -> Pooled:
        return pool_votes(
            probs,
            image,
            user_idx,
            given,
            n_users,
            smoothing=smoothing,
            user_smoothing=by_user,
            matrix_smoothing=by_matrix,
            tolerance=tolerance,
        )

    def rough(probs: Float) -> tuple[Float, float]:
        found = pool(probs, _ROUGH)
        return found.posterior, found.left_out_likelihood

    offsets, probs = choose_offsets(tempered, rough)
    pooled = pool(probs, _TOLERANCE)
    return VotesJudged(temperature, offsets, probs, smoothing, by_user, by_matrix, pooled)


def users_table(users: Sequence[str], pooled: Pooled) -> pd.DataFrame:
    """The report of the users.

    Parameters
    ----------
    users : sequence of str, length U
        Names, in the order of ``user_idx``.
    pooled : Pooled

    Returns
    -------
    DataFrame
        U rows ``user, votes, estimated_accuracy, low, high``, sorted by user.
    """
    columns = {
        "user": list(users),
        "votes": pooled.n_votes,
        "estimated_accuracy": pooled.accuracy,
        "low": pooled.low,
        "high": pooled.high,
    }
    return pd.DataFrame(columns).sort_values("user", kind="stable", ignore_index=True)


_ROUGH = 1e-5
"""Tolerance of EM where likelihoods are only compared."""

_CHUNK_CELLS = 2**22
"""Cells of the arrays that hold a row a vote."""

_FARTHEST = 15.0
"""Log odds beyond which no user is thought better or worse than the average."""


class _Votes(NamedTuple):
    """M votes in canonical order, and the P pairs of a user and a label that occur among them."""

    image: Index  # (M,)
    label: Index  # (M,)
    pair: Index  # (M,)
    pair_user: Index  # (P,)
    pair_label: Index  # (P,)
    on_images: Any  # sparse (N, P), number of votes
    by_pairs: Any  # sparse (P, N), the same
    to_users: Any  # sparse (U, P), 1 where the pair is the user's
    to_labels: Any  # sparse (K, P), 1 where the pair is the label's


class _Lent(NamedTuple):
    """What the priors lend."""

    pooled: Float  # (K, K), votes to the matrix of all
    user: float
    matrix: float


class _Users(NamedTuple):
    """The users, as far as their votes show them."""

    pooled: Float  # (K, K)
    expected: Float  # (U, K), votes on images of class j
    counts: Float  # (P, K), of those the ones with the pair's label
    offset: Float  # (U,), on the log odds of the pooled diagonal
    curvature: Float  # (U,), of the log-likelihood of the offset
    accuracy: Float  # (U,)
    matrices: Float  # (P, K), P(the user says the pair's label | z = j)


def _checked_votes(
    probs: npt.ArrayLike, image_idx: npt.ArrayLike, user_idx: npt.ArrayLike, labels: npt.ArrayLike, n_users: int
) -> tuple[Float, Index, Index, Index]:
    image, user, label = (np.asarray(part, np.int64) for part in (image_idx, user_idx, labels))
    prior, _ = checked_labels(probs, np.zeros(len(np.asarray(probs)), np.int64))
    if not (image.ndim == 1 and image.shape == user.shape == label.shape):
        raise ValueError(f"image_idx {image.shape}, user_idx {user.shape} and labels {label.shape} must have one item a vote")
    for name, values, count in (("image_idx", image, len(prior)), ("user_idx", user, n_users), ("labels", label, prior.shape[1])):
        if len(values) and not 0 <= values.min() <= values.max() < count:
            raise ValueError(f"{name} runs from {values.min()} to {values.max()}: 0 to {count - 1} are accepted")
    return prior, image, user, label


def _order_of_images(prior: Float, image: Index, user: Index, label: Index) -> Index:
    """An order by the votes on an image, then by its probabilities: equal for the same images in any order, up to equal ones."""
    code = user * prior.shape[1] + label
    by_image = np.lexsort((code, image))
    ends = np.cumsum(np.bincount(image, minlength=len(prior))) * code.itemsize
    said = code[by_image].tobytes()
    patterns = [said[first:last] for first, last in zip(np.r_[0, ends[:-1]].tolist(), ends.tolist(), strict=True)] if len(prior) else []
    number = {pattern: n for n, pattern in enumerate(sorted(set(patterns)))}
    return canonical_order(prior, np.array([number[pattern] for pattern in patterns], np.int64))


def _sorted_votes(image: Index, user: Index, label: Index, n_images: int, n_users: int, n_classes: int) -> _Votes:
    order = np.lexsort((label, user, image))
    image, label = image[order], label[order]
    codes, pair = np.unique(user[order] * n_classes + label, return_inverse=True)
    pair_user, pair_label = codes // n_classes, codes % n_classes
    number, ones = np.arange(len(codes)), np.ones(len(codes))
    on_images = sparse.csr_array((np.ones(len(image)), (image, pair)), shape=(n_images, len(codes)))
    to_users = sparse.csr_array((ones, (pair_user, number)), shape=(n_users, len(codes)))
    to_labels = sparse.csr_array((ones, (pair_label, number)), shape=(n_classes, len(codes)))
    return _Votes(image, label, pair, pair_user, pair_label, on_images, on_images.T.tocsr(), to_users, to_labels)


def _fit_users(believed: Float, votes: _Votes, lent: _Lent) -> _Users:
    """The three levels, given what is believed of each image."""
    counts = votes.by_pairs @ believed  # (P, K)
    expected = votes.to_users @ counts  # (U, K)
    own = np.arange(len(counts)), votes.pair_label
    right = votes.to_users @ counts[own]  # (U,)
    total = (votes.to_labels @ counts).T + lent.pooled  # (K, K)
    pooled = total / total.sum(axis=1, keepdims=True)
    diagonal = np.diagonal(pooled)
    share = total.sum(axis=1) / total.sum()  # (K,), of the classes
    seen = expected + lent.user * share  # (U, K)
    goal = right + lent.user * (share * diagonal).sum()
    log_odds = special.logit(diagonal)
    low, high = np.full(len(goal), -_FARTHEST), np.full(len(goal), _FARTHEST)
    for _ in range(40):  # the expected number of right votes rises with the offset
        offset = (low + high) / 2
        short = (seen * special.expit(log_odds + offset[:, np.newaxis])).sum(axis=1) < goal
        low, high = np.where(short, offset, low), np.where(short, high, offset)
    chance = special.expit(log_odds + offset[:, np.newaxis])  # (U, K), of a right vote
    curvature = (seen * chance * (1 - chance)).sum(axis=1)
    prior = _columns(pooled, chance[votes.pair_user], votes.pair_label)
    matrices = (counts + lent.matrix * prior) / (expected[votes.pair_user] + lent.matrix)
    return _Users(pooled, expected, counts, offset, curvature, goal / seen.sum(axis=1), matrices)


def _columns(pooled: Float, chance: Float, label: Index) -> Float:
    """P(label | z = j), shape (n, K), where right votes have chance (n, K) and wrong ones are spread as in the pooled matrix."""
    columns = (1 - chance) / (1 - np.diagonal(pooled)) * pooled.T[label]
    own = np.arange(len(label)), label
    columns[own] = chance[own]
    return np.asarray(columns, np.float64)


def _left_out(logjoint: Float, believed: Float, likelihood: Float, votes: _Votes, users: _Users, lent: _Lent) -> tuple[float, Float]:
    """The log-likelihood of each vote by all others, summed; and the information that the votes of each user hold on the accuracy."""
    diagonal = np.diagonal(users.pooled)
    log_odds = special.logit(diagonal)
    spread = users.pooled.T / (1 - diagonal)  # (K, K), of wrong votes: row y, column j
    np.fill_diagonal(spread, 0)
    user = votes.pair_user[votes.pair]
    found, information = 0.0, np.zeros(len(users.accuracy))
    size = max(1, _CHUNK_CELLS // logjoint.shape[1])
    for start in range(0, len(user), size):
        part = slice(start, start + size)
        image, label, pair, who = votes.image[part], votes.label[part], votes.pair[part], user[part]
        own = np.arange(len(label)), label
        others = special.softmax(logjoint[image] - likelihood[pair], axis=1)  # (m, K), what p and the other votes say
        belief = believed[image]
        chance = special.expit(log_odds + users.offset[who, np.newaxis])
        # one step of Newton's from the user's offset to the one without this vote
        slope = belief[own] - (belief * chance).sum(axis=1)
        bend = users.curvature[who] - (belief * chance * (1 - chance)).sum(axis=1)
        step = np.clip(slope / np.maximum(bend, 1e-3), -1, 1)
        without = special.expit(log_odds + (users.offset[who] - step)[:, np.newaxis])
        prior = lent.matrix * _columns(users.pooled, without, label)
        row = (users.counts[pair] - belief + prior) / (users.expected[who] - belief + lent.matrix)
        found += float(np.log((others * np.maximum(row, np.finfo(np.float64).tiny)).sum(axis=1)).sum())
        right, wrong = others[own], (others * spread[label]).sum(axis=1)
        accuracy = users.accuracy[who]
        squared = np.square((right - wrong) / (accuracy * right + (1 - accuracy) * wrong))
        information += np.bincount(who, squared, minlength=len(information))
    return found, information


def _interval(mean: Float, information: Float) -> tuple[Float, Float]:
    """2.5% and 97.5% of the Beta distribution with this mean and the variance 1 / information."""
    strength = np.maximum(mean * (1 - mean) * information - 1, 1e-3)
    a, b = mean * strength, (1 - mean) * strength
    return special.betaincinv(a, b, 0.025), special.betaincinv(a, b, 0.975)
