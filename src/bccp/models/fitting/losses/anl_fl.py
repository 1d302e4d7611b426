"""The active negative loss with the focal loss: as :mod:`bccp.models.fitting.losses.anl_ce`, with l(p) = -(1 - p)^GAMMA · log p.

References
----------
X. Ye, X. Li, S. Dai, T. Liu, Y. Sun, W. Tong: "Active Negative Loss Functions for Learning with Noisy Labels", NeurIPS 2023. The settings
are those of the authors' configuration for CIFAR-10.
T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollár: "Focal Loss for Dense Object Detection", ICCV 2017.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from bccp.models.fitting.losses import with_l1
from bccp.models.fitting.losses.anl_ce import ALPHA, BETA, L1, LEAST_PROBABILITY, normalised_negative

GAMMA = 0.5
"""Exponent of the focal loss."""


@with_l1(L1)
def anl_fl(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each image.

    Parameters
    ----------
    logits, targets : Tensor of float, shape (n, K)

    Returns
    -------
    Tensor of float, shape (n,)
        In [0, ALPHA + BETA].

    Notes
    -----
    As in the authors' code, the focal factor (1 - p)^GAMMA has no gradient of its own; it would be infinite at p = 1.
    """
    log_probs = F.log_softmax(logits, 1)
    focal = _focal(log_probs)
    active = focal / focal.sum(1, keepdim=True)
    negative = normalised_negative(
        _focal(log_probs.clamp(min=math.log(LEAST_PROBABILITY))), most=-((1 - LEAST_PROBABILITY) ** GAMMA) * math.log(LEAST_PROBABILITY)
    )
    return (targets * (ALPHA * active + BETA * negative)).sum(1)


def _focal(log_probs: Tensor) -> Tensor:
    factor = (1 - torch.exp(log_probs.detach())).clamp(min=0) ** GAMMA
    return -factor * log_probs
