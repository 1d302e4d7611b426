"""What the pipeline brings as a whole: ``python -m benchmarks.whole [--seeds 10] [--data FOLDER] -- [options]``.

The default pipeline beside training on the true labels with the same replay, on the labels as given with the same replay
(``bayes_cutoff.enabled=false``), and on Tuesday as it comes, without replay. Paired by seed; finished steps are reused, also those of a
benchmark that was stopped.
"""

from __future__ import annotations

import argparse

from benchmarks import pairs

METRICS = ("test/f1_macro", "test/accuracy", "test/accuracy_monday", "test/accuracy_tuesday")

FULL = "full pipeline"
RIVALS = {
    "true labels, same replay": ("noisy_labels.label=ground_truth",),
    "labels as given, same replay": ("bayes_cutoff.enabled=false",),
    "plain Tuesday": ("bayes_cutoff.enabled=false", "cp_sampling.type=none"),
}


def variants() -> list[pairs.Variant]:
    """The full pipeline and its rivals, and behind them what it is ahead of each."""
    alone = [pairs.Variant(FULL, ()), *(pairs.Variant(name, overrides) for name, overrides in RIVALS.items())]
    return alone + [pairs.Variant(FULL, (), rival) for rival in RIVALS]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    pairs.add_arguments(parser, seeds=10)
    given = parser.parse_args()
    chosen = variants()
    options = [*pairs.images(given.data), *pairs.with_label_source(given.options)]
    found = pairs.measure([variant for variant in chosen if not variant.base], METRICS, given.seeds, options)
    print(pairs.report("The whole pipeline", chosen, found))


if __name__ == "__main__":
    main()
