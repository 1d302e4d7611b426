"""Where retraining starts: ``python -m benchmarks.inits [--seeds 10] [--epochs 5 10 30] [--data FOLDER] -- [options]``.

``train.init`` at equal steps, each minus ``scratch``: the same images, batches and epochs, all of which are run, and the best on the
validation images kept. The champion is what the same pipeline, its epochs as configured, has made of a few images of each class
(``--champion 20``), as if they had come a day before. Paired by seed; finished steps are reused, also those of a benchmark that was
stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks import pairs

METRICS = ("test/accuracy", "test/accuracy_monday", "test/accuracy_tuesday", "test/f1_macro", "train/best_epoch")

NAME = "inits"
"""Of the registered models, which are the benchmark's own: one a seed."""

STARTS = {"monday_model": "monday_model", "the champion": f"models:/{NAME}-${{main.random_seed}}@champion"}


def champion(images_per_class: int) -> list[str]:
    """The options of the run that makes the champion."""
    name = f"test.registered_model_name='{NAME}-${{main.random_seed}}'"
    return [f"train.subset={{images_per_class: {images_per_class}}}", name, "test.promote=force"]


def variants(epochs: Sequence[int]) -> list[pairs.Variant]:
    """All starts at each number of epochs."""
    found = []
    for number in epochs:
        own, base = (f"train.epochs={number}", "train.patience=null"), f"{number} epochs from scratch"
        found.append(pairs.Variant(base, (*own, "train.init=scratch")))
        found += [pairs.Variant(f"{number} epochs from {name}", (*own, f"train.init='{init}'"), base) for name, init in STARTS.items()]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 10, 30])
    parser.add_argument("--champion", type=int, default=20, help="images of each class that the champion was trained on")
    pairs.add_arguments(parser, seeds=10)
    given = parser.parse_args()
    chosen = variants(given.epochs)
    options = [*pairs.images(given.data), *pairs.with_label_source(given.options)]
    found = pairs.measure(chosen, METRICS, given.seeds, options, first=champion(given.champion))
    print(pairs.report("Where retraining starts", chosen, found))


if __name__ == "__main__":
    main()
