"""Batches of images or features with their targets and weights, in a seeded order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bccp.data.array_types import Float32
from bccp.data.dataset import FeatureView
from bccp.models.fitting.distributed import rank

Batch = tuple[Tensor, Tensor, Tensor]
"""Images (n, S, S, 3) or features (n, D), targets (n, K), weights (n,)."""


class Batches:
    """Goes over images or features in batches of (nearly) equal size, in a new order each time if there is a generator.

    With ``shares`` it draws them with replacement, each in proportion to its share. Of ``n_parts`` processes each gets its part of a batch.
    """

    def __init__(
        self,
        inputs: Any,
        targets: Float32,
        weights: Float32,
        batch_size: int,
        generator: torch.Generator | None,
        shares: npt.ArrayLike | None = None,
        *,
        n_parts: int = 1,
    ) -> None:
        self.n_parts = n_parts
        self.inputs, self.targets, self.weights, self.generator = inputs, targets, weights, generator
        self.cumulated = None if shares is None else torch.from_numpy(np.cumsum(np.asarray(shares, np.float64)))
        # a batch of one image has no batch statistics
        self.n_batches = max(1, min(math.ceil(len(inputs) / batch_size), len(inputs) // (2 * n_parts)))

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        for whole in np.array_split(self._order(), self.n_batches):
            idx = np.array_split(whole, self.n_parts)[rank()]
            seen = self.inputs.stored(idx) if isinstance(self.inputs, FeatureView) else np.asarray(self.inputs[idx])
            inputs, targets, weights = (torch.from_numpy(rows) for rows in (seen, self.targets[idx], self.weights[idx]))
            yield inputs.float() if inputs.is_floating_point() else inputs, targets, weights

    def _order(self) -> npt.NDArray[np.int64]:
        n = len(self.inputs)
        if self.generator is None:
            return np.arange(n)
        if self.cumulated is None:
            return torch.randperm(n, generator=self.generator).numpy()
        draws = torch.rand(n, generator=self.generator, dtype=torch.float64) * self.cumulated[-1]
        return torch.searchsorted(self.cumulated, draws, right=True).clamp_(max=n - 1).numpy()


def on_device(device: str, batch: Batch) -> Batch:
    """The batch, moved to a device."""
    inputs, targets, weights = batch
    return inputs.to(device), targets.to(device), weights.to(device)
