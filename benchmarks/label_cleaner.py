"""Time and memory of ``LabelCleaner``: ``python -m benchmarks.label_cleaner [--sizes 5000x1000 1000x1000] [--audited 100] [--doubtful]``.

N images of K classes, a fifth of whose labels are wrong. Each size is measured in a process of its own: wall-clock and CPU seconds of
``fit``, and by how much the process's memory rises at most above what it was at the call, when the probabilities were there already.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bccp.data.array_types import Float, Index
from bccp.labels.label_cleaner import LabelCleaner

SIZES = ("1000x1000", "5000x1000", "10000x1000", "5000x500", "5000x100", "50000x100", "50000x10")


def draw(n_images: int, n_classes: int, *, seed: int = 0) -> tuple[Float, Index, Index]:
    """Probabilities, shape (N, K), given and true labels, shape (N,)."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, n_classes, n_images)
    scores = rng.normal(size=(n_images, n_classes))
    scores[np.arange(n_images), true] += rng.normal(6, 2, n_images)
    powers = np.exp(scores)
    given = np.where(rng.random(n_images) < 0.8, true, rng.integers(0, n_classes, n_images))
    return powers / powers.sum(axis=1, keepdims=True), given, true


def _memory(name: str) -> float:
    """A figure of this process in MB: ``VmRSS``, or its highest, ``VmHWM``."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1000


def measure(size: str, n_audited: int, trusted: bool) -> str:
    """One line of the table; in a process that has done nothing else."""
    n_images, n_classes = map(int, size.split("x"))
    probs, given, true = draw(n_images, n_classes)
    LabelCleaner().fit(np.full((3, 3), 1 / 3), [0, 1, 2])  # loads what is loaded once
    audited = {place: int(true[place]) for place in range(n_audited)} or None
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # starts VmHWM anew
    before, spent, started = _memory("VmRSS"), time.process_time(), time.perf_counter()
    cleaner = LabelCleaner(classes=range(n_classes), trusted=trusted).fit(probs, given, audited=audited)
    seconds, spent, memory = time.perf_counter() - started, time.process_time() - spent, _memory("VmHWM") - before
    wrong, found = given != true, cleaner.is_wrong_
    f1 = 2 * (found & wrong).sum() / (found.sum() + wrong.sum())
    return f"{n_images:8} {n_classes:6} {seconds:8.1f} {spent:8.1f} {memory:8.0f} {f1:6.3f}"


def main(words: Sequence[str] | None = None) -> None:
    """Print a table of all sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="NxK each")
    parser.add_argument("--audited", type=int, default=0, help="so many labels have been checked")
    parser.add_argument("--doubtful", action="store_true", help="trusted=False")
    asked = parser.parse_args(words)
    print(f"{'N':>8} {'K':>6} {'seconds':>8} {'CPU s':>8} {'MB':>8} {'F1':>6}")
    for size in asked.sizes:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.apply(measure, (size, asked.audited, not asked.doubtful)), flush=True)


if __name__ == "__main__":
    main()
