"""Losses by name, for hard and soft targets; those beside the cross-entropy are robust to wrong labels.

n images, K classes, at least 2. Each is a pure function of logits and targets, both of shape (n, K) and the latter's rows summing to 1,
that gives the loss of each image, shape (n,). For a soft target that is the expectation over the target of the published loss of a hard
label, so it is linear in the target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from bccp.losses.anl_ce import L1, anl_ce
from bccp.losses.anl_fl import anl_fl
from bccp.losses.cross_entropy import cross_entropy
from bccp.losses.gce import gce
from bccp.losses.jal_ce import jal_ce


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


LOSSES = {
    "cross_entropy": Loss(cross_entropy),
    "gce": Loss(gce),
    "anl_ce": Loss(anl_ce, L1),
    "anl_fl": Loss(anl_fl, L1),
    "jal_ce": Loss(jal_ce),
}
"""What ``train.loss`` may name."""
