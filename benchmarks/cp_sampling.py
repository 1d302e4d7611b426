"""Time of closest pair sampling, beside the literal loop that it stands for.

    python benchmarks/cp_sampling.py [--images 50000] [--dims 512] [--classes 10] [--ratio 0.5]

The rival draws each class from a list and measures one distance after the other; it runs on a slice of the rounds, its time is scaled up.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from bccp.data.closest_pairs import DISTANCES, closest_pairs, n_pairs_for

SLICE_ROUNDS = 500
REPEATS = 3


def literal_loop(
    embeddings: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], n_pairs: int, metric: str, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """The paper's procedure as it reads; the same draws give the same pairs."""
    unused = [np.flatnonzero(labels == k).tolist() for k in np.unique(labels)]
    pairs = []
    for _ in range(n_pairs):
        uniform = rng.random(len(unused) + 1)
        drawn = [(images[int(u * len(images))], images) for images, u in zip(unused, uniform[:-1], strict=True) if images]
        anchor = drawn.pop(int(uniform[-1] * len(drawn)))
        rows = [(distance(embeddings[image], embeddings[anchor[0]], metric), image, images) for image, images in drawn]
        _, other, others = min(rows, key=lambda row: row[:2])
        for image, images in (anchor, (other, others)):
            images[images.index(image)] = images[-1]
            images.pop()
        pairs.append((anchor[0], other))
    return pairs


def distance(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], metric: str) -> float:
    """One distance, in float64."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    if metric == "l1_norm":
        return float(np.abs(x - y).sum())
    if metric == "l2_norm":
        return float(np.sqrt(np.square(x - y).sum()))
    return float(1 - (x * y).sum() / np.sqrt(np.square(x).sum() * np.square(y).sum()))


def main() -> None:
    """Time every distance and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dims", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--ratio", type=float, default=0.5)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((given.images, given.dims), dtype=np.float32)
    labels = rng.integers(0, given.classes, given.images)
    n_pairs = n_pairs_for(given.ratio, given.images)
    print(f"{given.images} embeddings of {given.dims}, {given.classes} classes, ratio {given.ratio}: {n_pairs} pairs, median of {REPEATS}")
    print(f"{'distance':<18} {'seconds':>8} {'µs a pair':>10} {'literal loop, s':>16} {'times faster':>13}")
    for metric in DISTANCES:
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            pairs = closest_pairs(embeddings, labels, n_pairs=n_pairs, metric=metric, rng=np.random.default_rng(1))
            seconds.append(time.perf_counter() - start)
        n_slice = min(SLICE_ROUNDS, n_pairs)
        start = time.perf_counter()
        slow = literal_loop(embeddings, labels, n_slice, metric, np.random.default_rng(1))
        slow_seconds = (time.perf_counter() - start) * n_pairs / n_slice
        if slow != list(zip(pairs.first_idx[:n_slice].tolist(), pairs.second_idx[:n_slice].tolist(), strict=True)):
            sys.exit(f"error: the pairs of {metric} are not those of the literal loop")
        median = float(np.median(seconds))
        print(f"{metric:<18} {median:>8.2f} {median / n_pairs * 1e6:>10.1f} {slow_seconds:>16.2f} {slow_seconds / median:>13.1f}")


if __name__ == "__main__":
    main()
