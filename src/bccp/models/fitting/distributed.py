"""Several processes that train together: rank, sums over processes, and what they exchange."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import torch
from torch import Tensor


def is_distributed() -> bool:
    """Whether this is one of several processes that train together."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """The number of this process among those that train together; 0 where it is alone."""
    return torch.distributed.get_rank() if is_distributed() else 0


def sum_over_processes(sums: Tensor) -> Tensor:
    """The sums of all processes."""
    if is_distributed():
        torch.distributed.all_reduce(sums)
    return sums


@contextmanager
def child_temporary_files_in(folder: Path) -> Iterator[None]:
    """Let processes that are started put their temporary files there."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before


def _generator(state: bytes) -> torch.Generator:
    made = torch.Generator()
    made.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return made


# torch sends it with a tensor that is gone, and its file with it, before the other process has it
ForkingPickler.register(torch.Generator, lambda generator: (_generator, (generator.get_state().numpy().tobytes(),)))
