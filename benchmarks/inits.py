"""Where retraining starts: ``python -m benchmarks.inits [--seeds 10] [--epochs 5 10 30] [--data FOLDER] -- [options]``.

``train.init=monday_model`` minus ``scratch`` at equal steps: the same images, batches and epochs, all of which are run, and the best on
Monday's validation images kept. Differences are paired by seed, with 95% intervals (Student's t). Finished steps are reused, also those of
a benchmark that was stopped: start it again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import bccp
from bccp.errors import BCCPError
from benchmarks.measures import interval

INITS = ("scratch", "monday_model")
METRICS = ("test/accuracy", "test/accuracy_monday", "test/accuracy_tuesday", "test/f1_macro", "train/best_epoch")

Results = dict[tuple[int, str], dict[str, list[float]]]


def images(data: Path | None) -> list[str]:
    """The options that name the images."""
    if data is None:
        return []
    path = data.expanduser().resolve()
    if not path.exists():
        raise BCCPError(f"--data {data} does not exist: give a folder or an archive")
    return [f"data.source={'folder' if path.is_dir() else 'archive'}", f"data.path='{path}'"]


def measure(seeds: int, epochs: Sequence[int], options: Sequence[str]) -> Results:
    """The metrics of each number of epochs and start, one value a seed."""
    cells = [(number, init) for number in epochs for init in INITS]
    found: Results = {cell: {metric: [] for metric in METRICS} for cell in cells}
    for seed in range(1, seeds + 1):
        for number, init in cells:
            print(f"seed {seed}/{seeds}: {number} epochs from {init}", file=sys.stderr, flush=True)
            own = [f"main.random_seed={seed}", f"train.init={init}", f"train.epochs={number}", "train.patience=null"]
            with contextlib.redirect_stdout(io.StringIO()):
                summary = bccp.run([*options, *own])
            for metric, values in found[number, init].items():
                values.append(summary["metrics"][metric])
    return found


def report(found: Results) -> str:
    """The table as markdown: from scratch, and the differences from it."""
    seeds = len(next(iter(found.values()))[METRICS[0]])
    lines = [f"Where retraining starts, {seeds} seeds, 95% intervals", "", f"| epochs | start | {' | '.join(METRICS)} |"]
    lines.append("|---|---|" + "---|" * len(METRICS))
    for (number, init), metrics in found.items():
        base = found[number, "scratch"]
        if init == "scratch":
            cells = [interval(metrics[metric]) for metric in METRICS]
        else:
            pairs = [zip(metrics[metric], base[metric], strict=True) for metric in METRICS]
            cells = [interval([ours - theirs for ours, theirs in pair]) for pair in pairs]
        lines.append(f"| {number} | {init}{'' if init == 'scratch' else ' minus scratch'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 10, 30])
    parser.add_argument("--data", type=Path, help="folder or archive with a folder a class, instead of digits")
    parser.add_argument("options", nargs="*", help="Hydra options for all, after --")
    given = parser.parse_args()
    print(report(measure(given.seeds, given.epochs, [*images(given.data), *given.options])))


if __name__ == "__main__":
    main()
