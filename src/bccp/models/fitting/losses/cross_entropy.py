"""The cross-entropy: -log p of the label.

References
----------
I. J. Good: "Rational Decisions", Journal of the Royal Statistical Society B 14, 1952 (-log p as the loss of a stated probability).
"""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each image.

    Parameters
    ----------
    logits, targets : Tensor of float, shape (n, K)

    Returns
    -------
    Tensor of float, shape (n,)
        Not negative.
    """
    return F.cross_entropy(logits, targets, reduction="none")
