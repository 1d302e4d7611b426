"""Changes of given labels that are sure enough to be made without a look at the images.

N images. A posterior is no order: relabelling every image to its likeliest class moves images whose label is right wherever the judge is
weak. So a label gives way only where it is probably wrong *and* one other class is probably right, and stays as it was given everywhere
else. That is another question than how to train: a model may learn from the whole posterior, doubt included.

References
----------
C. Northcutt, L. Jiang, I. Chuang: "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021 (prune, or change, by
confidence rather than by the likeliest class).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from bccp.data.array_types import Float, Mask

Action = Literal["relabel", "drop", "keep"]

ACTIONS: tuple[Action, ...] = ("relabel", "drop", "keep")
"""What may be asked for: change labels, drop images, or leave all as it is but for what was checked."""

MIN_CONFIDENCE = 0.8
"""From this probability on a change is made unless another one is asked for: on measured sets it made none worse, 0.5 one."""


@dataclass(frozen=True)
class Changes:
    """Decision on N given labels.

    Attributes
    ----------
    actions : ndarray of str, shape (N,)
        ``keep``, ``relabel`` or ``drop``.
    final : ndarray, shape (N,)
        The labels after that, of the given ones' kind; where an image is dropped its given label.
    expected_wrong_changes : float
        Labels that are changed for a wrong one, in expectation: the sum of 1 - P(suggestion) over those that nobody has checked.
    expected_right_drops : float
        Right labels among those that are dropped, in expectation: the sum of 1 - P(wrong) over those that nobody has checked.
    """

    actions: npt.NDArray[np.str_]
    final: npt.NDArray[Any]
    expected_wrong_changes: float
    expected_right_drops: float

    def count(self, action: str) -> int:
        """Labels with an action."""
        return int((self.actions == action).sum())


def choose_changes(
    given: npt.ArrayLike,
    p_wrong: npt.ArrayLike,
    suggested: npt.ArrayLike,
    p_suggested: npt.ArrayLike,
    *,
    action: Action,
    min_confidence: float,
    no_class: npt.ArrayLike | None = None,
    audited: npt.ArrayLike | None = None,
) -> Changes:
    """Decide which given labels are changed, and which images dropped.

    Parameters
    ----------
    given : array-like, shape (N,)
        The given labels, as numbers or names.
    p_wrong : array-like, shape (N,)
        P(given label wrong), in [0, 1]; NaN where it is not known: such a label stays.
    suggested : array-like, shape (N,)
        The likeliest class of each image, or the checked one where it was audited.
    p_suggested : array-like, shape (N,)
        P(suggested label right), in [0, 1], or NaN.
    action : {"relabel", "drop", "keep"}
        ``relabel``: a label gives way to the suggested one where ``p_wrong`` and ``p_suggested`` are at least ``min_confidence``. ``drop``:
        an image goes where ``p_wrong`` is. ``keep``: neither.
    min_confidence : float
        In [0, 1]. With 0 ``relabel`` takes every image's likeliest class.
    no_class : array-like of bool, shape (N,), optional
        Images that somebody has checked and found to be of no class: they are dropped under any action.
    audited : array-like of bool, shape (N,), optional
        Images whose label somebody has checked: they get the suggested label under any action.

    Returns
    -------
    Changes
        Permuting the images permutes it and changes nothing else, to the bit.

    Raises
    ------
    ValueError
        For arrays of different lengths, an unknown action, or a confidence outside of [0, 1].
    """
    labels, better = np.asarray(given), np.asarray(suggested)
    wrong, right = _probabilities(p_wrong), _probabilities(p_suggested)
    checked, classless = _mask(audited, len(labels)), _mask(no_class, len(labels))
    if {array.shape for array in (better, wrong, right, checked, classless)} != {(len(labels),)}:
        raise ValueError("given, p_wrong, suggested, p_suggested, no_class and audited must be of one length")
    if action not in ACTIONS:
        raise ValueError(f"action={action!r}: accepted are {', '.join(ACTIONS)}")
    if not 0 <= min_confidence <= 1:
        raise ValueError(f"min_confidence={min_confidence} must be from 0 to 1")
    is_wrong = wrong >= min_confidence  # False for NaN
    changed = checked | ((action == "relabel") & is_wrong & (right >= min_confidence))
    changed &= (better != labels) & ~classless
    dropped = classless | ((action == "drop") & is_wrong & ~checked)
    actions = np.where(dropped, "drop", np.where(changed, "relabel", "keep"))
    final = np.where(changed, better, labels)
    by_judge = ~checked & ~classless
    return Changes(
        actions,
        final,
        # fsum: exact, and so the same in any order
        math.fsum((1 - right[changed & by_judge]).tolist()),
        math.fsum((1 - wrong[dropped & by_judge]).tolist()),
    )


def _probabilities(values: npt.ArrayLike) -> Float:
    return np.asarray(values, np.float64)


def _mask(values: npt.ArrayLike | None, n: int) -> Mask:
    return np.zeros(n, np.bool_) if values is None else np.asarray(values, np.bool_)
