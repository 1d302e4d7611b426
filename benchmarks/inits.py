"""Where retraining starts: ``python -m benchmarks.inits [--seeds 10] [--epochs 5 10 30] [--data FOLDER] -- [options]``.

``train.init=monday_model`` minus ``scratch`` at equal steps: the same images, batches and epochs, all of which are run, and the best on
Monday's validation images kept. Paired by seed; finished steps are reused, also those of a benchmark that was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import pairs

METRICS = ("test/accuracy", "test/accuracy_monday", "test/accuracy_tuesday", "test/f1_macro", "train/best_epoch")


def variants(epochs: Sequence[int]) -> list[pairs.Variant]:
    """Both starts at each number of epochs."""
    found = []
    for number in epochs:
        own, base = (f"train.epochs={number}", "train.patience=null"), f"{number} epochs from scratch"
        found.append(pairs.Variant(base, (*own, "train.init=scratch")))
        found.append(pairs.Variant(f"{number} epochs from monday_model", (*own, "train.init=monday_model"), base))
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 10, 30])
    parser.add_argument("--data", type=Path, help="folder or archive with a folder a class, instead of digits")
    parser.add_argument("options", nargs="*", help="Hydra options for all, after --")
    given = parser.parse_args()
    chosen = variants(given.epochs)
    found = pairs.measure(chosen, METRICS, given.seeds, [*pairs.images(given.data), *given.options])
    print(pairs.report("Where retraining starts", chosen, found))


if __name__ == "__main__":
    main()
