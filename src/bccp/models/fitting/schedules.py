"""Learning-rate schedules: the learning rate of each optimiser step as a share of its peak."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

WARM_UP = 0.2
"""Share of the steps in which the learning rate rises to its peak; then it falls along a cosine."""

ANNEALING = ("one_cycle", "cosine")
"""Schedules that reach a learning rate of 0 in the last epoch: a training under them is never stopped before it."""


def rates(schedule: str, *, epochs: int, epoch_steps: int, decay: float, decay_epochs: int = 1) -> Callable[[int], float]:
    """The learning rate of a step, counted from 0 up, as a share of what is set.

    Parameters
    ----------
    schedule : {"one_cycle", "cosine", "step", "exponential"}
        :func:`one_cycle` over all steps; from 1 to 0 along half a cosine over all steps; or the same through ``decay_epochs`` epochs
        (``exponential``: through one) and in the next ones times ``decay``.
    epochs, epoch_steps : int
        How many epochs there are at most, and steps in each.
    decay : float
        In (0, 1].
    decay_epochs : int
        At least 1.

    Returns
    -------
    callable
        From the number of a step to its share.

    References
    ----------
    I. Loshchilov, F. Hutter: "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017 (``cosine``, without restarts).
    """
    n_steps = epochs * epoch_steps
    # functions that can be sent to another process
    if schedule in ("step", "exponential"):
        return functools.partial(_stairs, n_steps=epoch_steps * (decay_epochs if schedule == "step" else 1), decay=decay)
    return functools.partial({"one_cycle": one_cycle, "cosine": _cosine}[schedule], n_steps=n_steps)


def _stairs(step: int, n_steps: int, decay: float) -> float:
    return float(decay ** (step // n_steps))


def _cosine(step: int, n_steps: int) -> float:
    return (1 + math.cos(math.pi * min(1.0, step / n_steps))) / 2


def one_cycle(step: int, n_steps: int) -> float:
    """Learning rate of a step (from 0 up) as a share of the peak: up along a line, then down along a cosine; 0 from ``n_steps`` on.

    References
    ----------
    L. N. Smith, N. Topin: "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates", 2019.
    """
    n_rising = max(1, round(WARM_UP * n_steps))
    if step < n_rising:
        return (step + 1) / n_rising
    return (1 + math.cos(math.pi * min(1.0, (step - n_rising + 1) / max(1, n_steps - n_rising + 1)))) / 2
