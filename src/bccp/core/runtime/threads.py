"""Numeric threads of this process."""

from __future__ import annotations

import os
import sys


def limit_threads(threads: int) -> None:
    """Let numeric libraries use this many threads, also those that are imported later."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    # threads that spin while they wait make small models 20 times slower on a machine that does something else too
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def default_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
