"""What each way to choose the replay brings: ``python -m benchmarks.replay [--seeds 20] [--ratios 0.25 0.5] [--types all] -- [options]``.

Every sampler minus ``random`` at the same number of images, paired by seed, with 95% intervals (Student's t); ``none`` and ``all`` ignore
the ratio, so that their number is another one. Finished steps are reused, also those of a benchmark that was stopped: start it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence

import bccp
from benchmarks.measures import interval

TYPES = ("class_balanced", "herding", "diverse", "l1_norm", "l2_norm", "cosine_similarity", "all", "none")
METRICS = ("test/accuracy", "test/accuracy_monday", "test/accuracy_tuesday")

Results = dict[tuple[str, float], dict[str, list[float]]]


def measure(seeds: int, types: Sequence[str], ratios: Sequence[float], options: Sequence[str]) -> Results:
    """The metrics of each sampler and ratio, one value a seed."""
    cells = [(kind, ratio) for ratio in ratios for kind in ("random", *types)]
    found: Results = {cell: {metric: [] for metric in METRICS} for cell in cells}
    for seed in range(1, seeds + 1):
        for number, (kind, ratio) in enumerate(cells, 1):
            print(f"seed {seed}/{seeds}, {number}/{len(cells)}: {kind}, ratio {ratio:g}", file=sys.stderr, flush=True)
            with contextlib.redirect_stdout(io.StringIO()):
                summary = bccp.run([*options, f"main.random_seed={seed}", f"cp_sampling.type={kind}", f"cp_sampling.ratio={ratio}"])
            for metric, values in found[kind, ratio].items():
                values.append(summary["metrics"][metric])
    return found


def report(found: Results) -> str:
    """The table as markdown: accuracies of ``random``, then the differences from it."""
    seeds = len(next(iter(found.values()))[METRICS[0]])
    lines = [f"Replay, {seeds} seeds, 95% intervals", "", f"| ratio | type | {' | '.join(METRICS)} |", "|---|---|" + "---|" * len(METRICS)]
    for (kind, ratio), metrics in found.items():
        base = found["random", ratio]
        if kind == "random":
            cells = [interval(metrics[metric]) for metric in METRICS]
        else:
            pairs = [zip(metrics[metric], base[metric], strict=True) for metric in METRICS]
            cells = [interval([ours - random for ours, random in pair]) for pair in pairs]
        lines.append(f"| {ratio:g} | {kind if kind == 'random' else f'{kind} minus random'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("options", nargs="*", help="Hydra options for all samplers, after --")
    given = parser.parse_args()
    print(report(measure(given.seeds, given.types, given.ratios, given.options)))


if __name__ == "__main__":
    main()
