"""The active negative loss with the cross-entropy: a normalised loss, and a normalised negative one that pushes the other classes down.

K classes; p is the softmax of the logits. An active loss l(p_k) is normalised by its sum over the classes k. Its negative counterpart is
1 - (A - l(p_y)) / Σ_k (A - l(p_k)), where A is the most that l can be: l at the least probability ``LEAST``.

References
----------
X. Ye, X. Li, S. Dai, T. Liu, Y. Sun, W. Tong: "Active Negative Loss Functions for Learning with Noisy Labels", NeurIPS 2023. The settings
are those of the authors' configuration for CIFAR-10.
"""

from __future__ import annotations

import math

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from bccp.models.fitting.losses import with_l1

ALPHA, BETA = 5.0, 5.0
"""Weights of the active and of the negative loss."""

L1 = 5e-5
"""The authors' δ: weight of the L1 norm of all weights."""

LEAST_PROBABILITY = 1e-7
"""Probabilities count as at least this in the negative losses."""


@with_l1(L1)
def anl_ce(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each image.

    Parameters
    ----------
    logits, targets : Tensor of float, shape (n, K)

    Returns
    -------
    Tensor of float, shape (n,)
        In [0, ALPHA + BETA].
    """
    active = normalised_cross_entropy(logits)
    log_probs = F.log_softmax(logits, 1).clamp(min=math.log(LEAST_PROBABILITY))
    negative = normalised_negative(-log_probs, most=-math.log(LEAST_PROBABILITY))
    return (targets * (ALPHA * active + BETA * negative)).sum(1)


def normalised_cross_entropy(logits: Tensor) -> Tensor:
    """The normalised cross-entropy of every class as the label, shape (n, K); rows sum to 1.

    References
    ----------
    X. Ma, H. Huang, Y. Wang, S. Romano, S. Erfani, J. Bailey: "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020.
    """
    log_probs = F.log_softmax(logits, 1)
    return log_probs / log_probs.sum(1, keepdim=True)


def normalised_negative(by_class: Tensor, *, most: float) -> Tensor:
    """The normalised negative loss of every class as the label, shape (n, K), from active losses that are ``most`` at most."""
    left = most - by_class
    return 1 - left / left.sum(1, keepdim=True)
