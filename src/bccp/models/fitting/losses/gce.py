"""The generalised cross-entropy, (1 - p^q) / q: between the cross-entropy (q to 0) and the mean absolute error (q = 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

Q = 0.7
"""The authors' for all their data sets."""


def gce(logits: Tensor, targets: Tensor) -> Tensor:
    """Loss of each image.

    Parameters
    ----------
    logits, targets : Tensor of float, shape (n, K)

    Returns
    -------
    Tensor of float, shape (n,)
        In [0, 1 / Q].

    References
    ----------
    Z. Zhang, M. Sabuncu: "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels", NeurIPS 2018 (without
    their truncation).
    """
    # through log p, as p^q itself has no finite gradient at 0
    by_class = (1 - torch.exp(Q * F.log_softmax(logits, 1))) / Q
    return (targets * by_class).sum(1)
