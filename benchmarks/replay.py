"""What each way to choose the replay brings: ``python -m benchmarks.replay [--seeds 20] [--ratios 0.25 0.5] [--types all] -- [options]``.

Every sampler minus ``random`` at the same number of images, paired by seed; ``none`` and ``all`` ignore the ratio, so that their number is
another one. Finished steps are reused, also those of a benchmark that was stopped: start it again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks import pairs

TYPES = ("class_balanced", "herding", "diverse", "l1_norm", "l2_norm", "cosine_similarity", "all", "none")
METRICS = ("test/accuracy", "test/accuracy_monday", "test/accuracy_tuesday")


def variants(types: Sequence[str], ratios: Sequence[float]) -> list[pairs.Variant]:
    """``random`` and the samplers at each ratio."""
    found = []
    for ratio in ratios:
        base = f"random, ratio {ratio:g}"
        for kind in ("random", *types):
            own = (f"cp_sampling.type={kind}", f"cp_sampling.ratio={ratio}")
            found.append(pairs.Variant(base, own) if kind == "random" else pairs.Variant(f"{kind}, ratio {ratio:g}", own, base))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("options", nargs="*", help="Hydra options for all samplers, after --")
    given = parser.parse_args()
    chosen = variants(given.types, given.ratios)
    print(pairs.report("Replay", chosen, pairs.measure(chosen, METRICS, given.seeds, given.options)))


if __name__ == "__main__":
    main()
