"""Losses by name, for hard and soft targets; those beside the cross-entropy are robust to wrong labels.

n images, K classes, at least 2. Each is a pure function of logits and targets, both of shape (n, K) and the latter's rows summing to 1,
that gives the loss of each image, shape (n,). For a soft target that is the expectation over the target of the published loss of a hard
label, so it is linear in the target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from bccp.core import user_code
from bccp.core.errors import BCCPError
from bccp.core.registries import LOSSES


class Loss(NamedTuple):
    """What training makes small.

    Attributes
    ----------
    per_image : callable
        From logits (n, K) and targets (n, K) to losses (n,).
    l1 : float
        Factor of the sum of all learnt weights' magnitudes, which is added to the images' mean loss in the place of weight decay.
    """

    per_image: Callable[[Tensor, Tensor], Tensor]
    l1: float = 0.0


F = TypeVar("F", bound=Callable[[Tensor, Tensor], Tensor])


def with_l1(factor: float) -> Callable[[F], F]:
    """Declare the factor of the weights' L1 norm that belongs to a loss, as a decorator of its function."""

    def declare(function: F) -> F:
        setattr(function, "l1", factor)  # noqa: B010 - functions have no such attribute for mypy
        return function

    return declare


def find_loss(name: str) -> Loss:
    """The loss of a name in ``bccp.core.registries.LOSSES``, or of a user's own function.

    Raises
    ------
    BCCPError
        If there is no such function, or it does not give a loss for each image.
    """
    function = LOSSES.find(name)
    if name not in LOSSES:  # what fails, fails at once
        accepted = "give a function of logits and targets, both (n, K), that returns a float tensor (n,)"
        try:
            found = function(torch.zeros(2, 3), torch.eye(3)[:2])
        except Exception as error:
            raise BCCPError(f"train.loss: {name} fails ({user_code.describe_error(error)}): {accepted}") from error
        if not isinstance(found, Tensor) or found.shape != (2,) or not found.is_floating_point():
            kind = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise BCCPError(f"train.loss: {name} gives {kind} for 2 images: {accepted}")
    return Loss(function, getattr(function, "l1", 0.0))
