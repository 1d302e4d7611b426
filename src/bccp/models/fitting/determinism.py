"""Reproducible torch: seeds, deterministic algorithms and the random state of a device."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def reproducible(seed: int, device: str) -> Iterator[None]:
    """Seeded torch with deterministic algorithms; afterwards its random state and settings are what they were."""
    before, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    guard: Any = torch.utils.deterministic  # torch's own types lack its one setting
    fills = guard.fill_uninitialized_memory
    if device == "cuda":  # cuBLAS reads it when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices=random_devices(device)):
        torch.manual_seed(seed)
        # some layers of torchvision have no deterministic gradient off the CPU; torch warns of them
        torch.use_deterministic_algorithms(True, warn_only=device != "cpu")
        # it guards against reading what was never written, which no layer here does, for a quarter of the time on a CPU
        guard.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            guard.fill_uninitialized_memory = fills


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device_random(device: str) -> list[tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
    """How the state of a device's own random numbers, where it has any, is read and set."""
    library: Any = {"cuda": torch.cuda, "mps": torch.mps}.get(device)
    return [] if library is None else [(library.get_rng_state, library.set_rng_state)]


def random_devices(device: str) -> list[int]:
    """The devices whose random state ``torch.random.fork_rng`` is to keep."""
    return [torch.cuda.current_device()] if device == "cuda" else []
