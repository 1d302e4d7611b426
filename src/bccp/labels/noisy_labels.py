"""The labels that the target day comes with: simulated from the true ones, said by users, or the folders' names.

N images, K classes. A noise matrix T has T[j, k] = P(given label = k | true label = j), so that its rows sum to 1. Noise is
drawn once, and an image's draw depends on the seed and on its id alone.

``confusions`` is noise as people make it: more errors on images that are hard to tell, and towards the classes that they resemble. A weak
model, logistic regression on thumbnails, stands in for the people. There a row of chances belongs to each image, and the other images count
as far as the weak model has learnt from them.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bccp.core.config_schema import NOISES
from bccp.core.errors import BCCPError, nearest
from bccp.data.array_types import Float, Images, Index
from bccp.data.label_tables.votes import majority
from bccp.labels.feedback import Feedback

_TOLERANCE = 1e-6

THUMBNAIL = 8
"""Side of what the weak model sees of an image, in px."""

FIT_IMAGES = 5000  # that a weak model learns from, at most: more would only make it slower and less weak
_INVERSE_PENALTY = 10.0  # of the logistic regression, on features of mean square length 1
_UNSEEN = 0.01  # share of the weak model's belief that is spread evenly: nothing is impossible, nothing certain
NOISE_CHUNK_BYTES = 2**24


@dataclass(frozen=True)
class Settled:
    """What users' votes come to.

    Attributes
    ----------
    labels : dict of str to str
        The given label of each doubtful image that has votes, sorted by image.
    votes : dict of (str, str) to str
        The votes on these images, by (image, user).
    n_ties : int
        Images whose majority was decided by the seed.
    problems : dict of str to list of str
        The feedback's problems, and ``trusted_image`` and ``left_out_image``: the images of votes that are not used because
        the label is not in doubt (Monday's and test images), or because the image is in no split.
    """

    labels: Mapping[str, str]
    votes: Mapping[tuple[str, str], str]
    n_ties: int
    problems: Mapping[str, Sequence[str]]


def noise_matrix(noise: str | Sequence[Sequence[float]], *, user_accuracy: float, classes: Sequence[str]) -> Float:
    """Make a noise matrix.

    Parameters
    ----------
    noise : str or sequence of K sequences of K float
        ``uniform``: a wrong label is any other class with the same chance. ``pair``: it is the next class, after the last
        one the first. A matrix stands for itself.
    user_accuracy : float
        P(given label = true label), in [0, 1]; a matrix ignores it.
    classes : sequence of str, length K
        At least two.

    Returns
    -------
    ndarray of float64, shape (K, K)
        Row j, column k: P(given label = k | true label = j); rows sum to 1.

    Raises
    ------
    BCCPError
        If the name is unknown, or the matrix is not K by K, has negative or undefined numbers, or a row that does not sum
        to 1 within 1e-6.

    Examples
    --------
    >>> noise_matrix("pair", user_accuracy=0.75, classes=["a", "b", "c"])
    array([[0.75, 0.25, 0.  ],
           [0.  , 0.75, 0.25],
           [0.25, 0.  , 0.75]])
    """
    n_classes = len(classes)
    if not isinstance(noise, str):
        return _checked_matrix(noise, classes)
    if noise == "uniform":
        others = np.full((n_classes, n_classes), (1 - user_accuracy) / (n_classes - 1))
        np.fill_diagonal(others, user_accuracy)
        return others
    if noise == "pair":
        identity = np.eye(n_classes)
        return user_accuracy * identity + (1 - user_accuracy) * np.roll(identity, 1, axis=1)
    raise BCCPError(
        f"noisy_labels.noise={noise} is unknown: use {', '.join(NOISES)} or a matrix with a row of P(given | true) for each class"
        + nearest(noise, NOISES)
    )


def simulate(
    truth: Mapping[str, str],
    *,
    noise: str | Sequence[Sequence[float]],
    user_accuracy: float,
    classes: Sequence[str],
    seed: int,
    images: Images | None = None,
) -> dict[str, str]:
    """Draw the labels that users would give.

    Parameters
    ----------
    truth : mapping of str to str
        The true labels, by image.
    noise, user_accuracy, classes
        See :func:`noise_matrix`, and :func:`confusions` for the noise of that name.
    seed : int
    images : array-like of uint8, shape (N, H, W, 3), optional
        As the users see them, in the order of ``truth``; only ``confusions`` looks at them.

    Returns
    -------
    dict of str to str
        A label by image, in the order given.

    Raises
    ------
    BCCPError
        As :func:`noise_matrix`.
    """
    position = {name: k for k, name in enumerate(classes)}
    true_labels = [position[name] for name in truth.values()]
    if noise == "confusions":
        if images is None:
            raise ValueError("confusions depend on the images")
        probs = weak_probs(images, true_labels, list(truth), n_classes=len(classes), seed=seed)
        chances = confusions(probs, true_labels, user_accuracy=user_accuracy)
        given_labels = draw_from(chances, true_labels, list(truth), seed=seed)
    else:
        matrix = noise_matrix(noise, user_accuracy=user_accuracy, classes=classes)
        given_labels = draw_labels(true_labels, list(truth), matrix, seed=seed)
    return {image: classes[k] for image, k in zip(truth, given_labels.tolist(), strict=True)}


def draw_labels(true_labels: npt.ArrayLike, ids: Sequence[str], matrix: Float, *, seed: int) -> Index:
    """Draw a given label for each true one.

    Parameters
    ----------
    true_labels : array-like of int, shape (N,)
        In [0, K).
    ids : sequence of str, length N
        Image ids.
    matrix : ndarray of float64, shape (K, K)
        As from :func:`noise_matrix`.
    seed : int

    Returns
    -------
    ndarray of int64, shape (N,)
        In [0, K). With one seed, the images that are wrong at a high user accuracy are among those that are wrong at a lower
        one, so that accuracies can be compared on nearly equal noise.
    """
    true_labels = np.asarray(true_labels, dtype=np.int64)
    n_classes = len(matrix)
    # of each true class the chances of itself, of the next class, and so on, (K, K): the right label takes the lowest draws
    turned = (np.arange(n_classes)[:, np.newaxis] + np.arange(n_classes)) % n_classes
    bounds = np.cumsum(np.take_along_axis(matrix, turned, axis=1), axis=1)
    bounds /= bounds[:, -1:]
    draws = np.array([_uniform(image_id, seed=seed) for image_id in ids])
    given_labels = np.empty_like(true_labels)
    for true_label, bound in enumerate(bounds):
        chosen = true_labels == true_label
        given_labels[chosen] = (true_label + np.searchsorted(bound, draws[chosen], side="right")) % n_classes
    return given_labels


def draw_from(chances: Float, true_labels: npt.ArrayLike, ids: Sequence[str], *, seed: int) -> Index:
    """Draw a given label for each image from its own chances.

    Parameters
    ----------
    chances : ndarray of float64, shape (N, K)
        Row i: P(given label = k) of image i; rows sum to 1.
    true_labels : array-like of int, shape (N,)
        In [0, K): the right label takes the lowest draws, as in :func:`draw_labels`.
    ids : sequence of str, length N
    seed : int

    Returns
    -------
    ndarray of int64, shape (N,)
        In [0, K).
    """
    true_labels = np.asarray(true_labels, dtype=np.int64)
    n_classes = chances.shape[1]
    turned = (true_labels[:, np.newaxis] + np.arange(n_classes)) % n_classes
    bounds = np.cumsum(np.take_along_axis(chances, turned, axis=1), axis=1)
    bounds /= bounds[:, -1:]
    draws = np.array([_uniform(image_id, seed=seed) for image_id in ids]).reshape(-1, 1)
    given_labels: Index = (true_labels + (bounds <= draws).sum(axis=1)) % n_classes
    return given_labels


def confusions(probs: Float, true_labels: npt.ArrayLike, *, user_accuracy: float) -> Float:
    """Chances of each given label, in the likeness of a weak model.

    An image's label is wrong with probability min(1, c (1 - p(true))), p being what the model believes of the image; the wrong label is one
    of the others in proportion to p. c is such that the mean of the probabilities is 1 - ``user_accuracy``.

    Parameters
    ----------
    probs : ndarray of float64, shape (N, K)
        In (0, 1); rows sum to 1.
    true_labels : array-like of int, shape (N,)
        In [0, K).
    user_accuracy : float
        In [0, 1].

    Returns
    -------
    ndarray of float64, shape (N, K)
        Rows sum to 1. With a lower accuracy no image is less likely to be wrong.

    Examples
    --------
    >>> confusions(np.array([[0.8, 0.1, 0.1], [0.4, 0.2, 0.4]]), [0, 0], user_accuracy=0.8)
    array([[0.9  , 0.05 , 0.05 ],
           [0.7  , 0.1  , 0.2  ]])
    """
    rows, true_labels = np.arange(len(probs)), np.asarray(true_labels, dtype=np.int64)
    others = probs.copy()
    others[rows, true_labels] = 0
    doubt = others.sum(axis=1)
    wrong = _capped(doubt, mean=1 - user_accuracy)
    others *= (wrong / doubt)[:, np.newaxis]
    others[rows, true_labels] = 1 - wrong
    return others


def weak_probs(images: Images, true_labels: npt.ArrayLike, ids: Sequence[str], *, n_classes: int, seed: int) -> Float:
    """What a weak model believes of images that it has not learnt from: logistic regression on thumbnails, cross-fitted in two folds.

    Parameters
    ----------
    images : array-like of uint8, shape (N, H, W, 3)
        Read in chunks.
    true_labels : array-like of int, shape (N,)
        In [0, K).
    ids : sequence of str, length N
        An image's fold depends on the seed and on its id alone. A model learns from the other fold's images, at most 5,000 of them.
    n_classes : int
        K.
    seed : int

    Returns
    -------
    ndarray of float64, shape (N, K)
        In (0, 1); rows sum to 1. Where a class was not among the images learnt from, it is held for unlikely; where there were none, all
        classes are equally likely.
    """
    true_labels, features = np.asarray(true_labels, dtype=np.int64), thumbnails(images)
    draws = np.array([_uniform(image_id, seed=seed, purpose="fold") for image_id in ids])
    order = np.argsort(draws, kind="stable")  # so that the fit does not depend on the order of the images
    probs = np.full((len(draws), n_classes), 1 / n_classes)
    halves = (order[draws[order] < 0.5], order[draws[order] >= 0.5])
    for judged_idx, learnt_idx in (halves, halves[::-1]):
        if len(judged_idx) and len(learnt_idx):
            fit_idx = learnt_idx[:FIT_IMAGES]
            found = _logistic_probs(features[fit_idx], true_labels[fit_idx], features[judged_idx], n_classes)
            probs[judged_idx] = (1 - _UNSEEN) * found + _UNSEEN / n_classes
    return probs


def thumbnails(images: Images) -> npt.NDArray[np.float32]:
    """Average images over the cells of a grid of 8 x 8 (or over single pixels, where there are fewer).

    Parameters
    ----------
    images : array-like of uint8, shape (N, H, W, 3)
        Read in chunks.

    Returns
    -------
    ndarray of float32, shape (N, D)
        In [0, 1]; D = 3 min(8, H) min(8, W).
    """
    parts, start, step = [np.zeros((0, 3), dtype=np.float32)], 0, 1
    while start < len(images):
        pixels = images[np.arange(start, min(start + step, len(images)))]
        start, step = start + len(pixels), max(1, NOISE_CHUNK_BYTES // pixels[0].size)
        small = pixels.astype(np.float32) / 255
        for axis in (1, 2):
            edges = np.linspace(0, pixels.shape[axis], min(THUMBNAIL, pixels.shape[axis]) + 1).astype(np.int64)
            widths = np.diff(edges).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
            small = np.add.reduceat(small, edges[:-1], axis=axis) / widths.astype(np.float32)
        parts.append(small.reshape(len(pixels), -1).astype(np.float32, copy=False))
    return np.concatenate(parts[1:] or parts)


def resolve_votes(feedback: Feedback, *, doubtful: Collection[str], in_splits: Collection[str], seed: int) -> Settled:
    """Make labels of votes.

    Parameters
    ----------
    feedback : Feedback
    doubtful : collection of str
        Images whose given labels are wanted: the target day's training images, and all of its images whose truth is unknown.
    in_splits : collection of str
        Images that are in any split.
    seed : int
        Decides ties, see :func:`bccp.data.label_tables.votes.majority`.

    Returns
    -------
    Settled
    """
    wanted, present = frozenset(doubtful), frozenset(in_splits)
    votes = {key: label for key, label in feedback.votes.items() if key[0] in wanted}
    others = [image for image, _ in feedback.votes if image not in wanted]
    labels, n_ties = majority(votes, seed=seed)
    unused = {
        "trusted_image": [image for image in others if image in present],
        "left_out_image": [image for image in others if image not in present],
    }
    return Settled(labels, votes, n_ties, {**feedback.problems, **unused})


def _checked_matrix(noise: Sequence[Sequence[float]], classes: Sequence[str]) -> Float:
    n_classes = len(classes)
    if len(noise) != n_classes:
        raise BCCPError(
            f"noisy_labels.noise has {len(noise)} rows, but there are {n_classes} classes: give one row of P(given | true) for "
            f"each of {', '.join(map(repr, classes))}"
        )
    for name, row in zip(classes, noise, strict=True):
        values = np.asarray(row, dtype=np.float64)
        # written so that undefined numbers fail too
        if values.shape != (n_classes,) or not (values >= 0).all() or not abs(values.sum() - 1) <= _TOLERANCE:
            raise BCCPError(
                f"noisy_labels.noise: the row of the true class {name!r} is {row}: give {n_classes} numbers from 0 up that sum to 1"
            )
    return np.array(noise, dtype=np.float64)


def _capped(doubt: Float, *, mean: float) -> Float:
    """min(1, c · doubt) with the given mean, for positive doubt."""
    descending = np.sort(doubt)[::-1]
    # with the m largest at 1, c = (mean N - m) / (sum of the others): right for the smallest m at which the largest of these stays below 1
    rest = np.cumsum(descending[::-1])[::-1]
    factors = (mean * len(doubt) - np.arange(len(doubt))) / rest
    fits = np.flatnonzero(factors * descending <= 1)
    return np.minimum(1, max(factors[fits[0]], 0) * doubt) if len(fits) else np.ones(len(doubt))


def _logistic_probs(features: npt.NDArray[np.float32], labels: Index, judged: npt.NDArray[np.float32], n_classes: int) -> Float:
    from sklearn.exceptions import ConvergenceWarning  # a second to import, and only this noise needs it
    from sklearn.linear_model import LogisticRegression

    probs = np.zeros((len(judged), n_classes))
    present = np.unique(labels)
    if len(present) == 1:
        probs[:, present] = 1
        return probs
    centre = features.mean(axis=0, dtype=np.float64)
    length = np.sqrt(np.square(features - centre).sum(axis=1).mean()) or 1.0  # 0 where all images are the same
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=300, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak it shall be
        model.fit((features - centre) / length, labels)
    probs[:, present] = model.predict_proba((judged - centre) / length)
    return probs


def _uniform(image_id: str, *, seed: int, purpose: str = "noise") -> float:
    """A uniform number in [0, 1), of 53 bits."""
    digest = hashlib.sha256(f"{seed}:{purpose}:{image_id}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53
