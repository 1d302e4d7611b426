"""Exponential moving average of a network's weights over the optimiser steps."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage(nn.Module):
    """Exponential moving average of a network's weights and buffers over the steps, in ``module``.

    torch's AveragedModel collects them anew at each step, which is a tenth of the time that a head's training takes.

    Parameters
    ----------
    network : Module
    decay : float
        In [0, 1); at step t it is at most (1 + t) / (10 + t), so that the start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False)
        self._network, self._decay, self.n_steps = [network], decay, 0  # the network is not part of its average
        self._pairs: list[tuple[list[Tensor], list[Tensor]]] = []

    def update(self) -> None:
        """Take a step's weights in."""
        if not self._pairs:  # at the first step both are on the device
            own, current = ([p.data for p in of.parameters()] + list(of.buffers()) for of in (self.module, self._network[0]))
            for floats in (True, False):
                chosen = [pair for pair in zip(own, current, strict=True) if pair[0].is_floating_point() == floats]
                self._pairs.append(([pair[0] for pair in chosen], [pair[1] for pair in chosen]))
        (averages, weights), (counters, counted) = self._pairs
        decay = min(self._decay, (1 + self.n_steps) / (10 + self.n_steps)) if self.n_steps else 0.0
        torch._foreach_lerp_(averages, weights, 1 - decay)
        if counters:  # of batches
            torch._foreach_copy_(counters, counted)
        self.n_steps += 1
