"""The labels that the target day comes with: simulated from the true ones, said by users, or the folders' names.

N images, K classes. A noise matrix T has T[j, k] = P(given label = k | true label = j), so that its rows sum to 1. Noise is
drawn once, and an image's draw depends on the seed and on its id alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from bccp.errors import BCCPError, nearest
from bccp.feedback import Feedback, majority

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

TOLERANCE = 1e-6


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
        f"noisy_labels.noise={noise} is unknown: use uniform, pair or a matrix with a row of P(given | true) for each class"
        + nearest(noise, ["uniform", "pair"])
    )


def simulate(
    truth: Mapping[str, str],
    *,
    noise: str | Sequence[Sequence[float]],
    user_accuracy: float,
    classes: Sequence[str],
    seed: int,
) -> dict[str, str]:
    """Draw the labels that users would give.

    Parameters
    ----------
    truth : mapping of str to str
        The true labels, by image.
    noise, user_accuracy, classes
        See :func:`noise_matrix`.
    seed : int

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


def settle(feedback: Feedback, *, doubtful: Collection[str], in_splits: Collection[str], seed: int) -> Settled:
    """Make labels of votes.

    Parameters
    ----------
    feedback : Feedback
    doubtful : collection of str
        Images whose given labels are wanted: the target day's training images, and all of its images whose truth is unknown.
    in_splits : collection of str
        Images that are in any split.
    seed : int
        Decides ties, see :func:`bccp.feedback.majority`.

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


def table_of_votes(votes: Mapping[tuple[str, str], str]) -> pd.DataFrame:
    """Lay votes out as a table.

    Parameters
    ----------
    votes : mapping of (str, str) to str
        A label by (image, user).

    Returns
    -------
    DataFrame
        ``image, user, label``, sorted by image, then user.
    """
    rows = [(image, user, label) for (image, user), label in sorted(votes.items())]
    return pd.DataFrame(rows, columns=["image", "user", "label"], dtype=str)


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
        if values.shape != (n_classes,) or not (values >= 0).all() or not abs(values.sum() - 1) <= TOLERANCE:
            raise BCCPError(
                f"noisy_labels.noise: the row of the true class {name!r} is {row}: give {n_classes} numbers from 0 up that sum to 1"
            )
    return np.array(noise, dtype=np.float64)


def _uniform(image_id: str, *, seed: int) -> float:
    """A uniform number in [0, 1), of 53 bits."""
    digest = hashlib.sha256(f"{seed}:noise:{image_id}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53
