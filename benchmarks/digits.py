"""Finding wrong labels on digits, and what it brings: ``python -m benchmarks.digits [--seeds 5]``.

Each seed runs the real pipeline four times: with the label posterior (soft labels and replay), the same without corruption, the
same with the true labels, and the same with the labels as given. Differences are paired by seed; intervals are 95% (Student's t).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

import bccp
from benchmarks.measures import interval

VARIANTS: dict[str, list[str]] = {
    "label posterior": [],
    "no corruption": ["segregation.corruption=none"],
    "true labels": ["noisy_labels.label=ground_truth"],
    "labels as given": ["bayes_cutoff.enabled=false"],
}
DETECTION = ("auroc", "precision", "recall", "f1", "estimated_user_accuracy", "true_user_accuracy")


def measure(seeds: int, options: Sequence[str]) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """Each variant's metrics, one value a seed."""
    found: dict[str, dict[str, list[float]]] = {name: {} for name in VARIANTS}
    for seed in range(1, seeds + 1):
        for name, overrides in VARIANTS.items():
            print(f"seed {seed}/{seeds}: {name}", file=sys.stderr, flush=True)
            with contextlib.redirect_stdout(io.StringIO()):
                summary = bccp.run([f"main.random_seed={seed}", *overrides, *options])
            for metric, value in summary["metrics"].items():
                found[name].setdefault(metric, []).append(value)
    return {name: {metric: np.array(values) for metric, values in metrics.items()} for name, metrics in found.items()}


def report(found: dict[str, dict[str, npt.NDArray[np.float64]]], seeds: int) -> str:
    """The tables as markdown."""
    lines = [
        f"Digits, {seeds} seeds, means and 95% intervals",
        "",
        "| finding wrong labels | corrupted Tuesday | uncorrupted |",
        "|---|---|---|",
    ]
    for metric in DETECTION:
        lines.append(
            f"| {metric} | " + " | ".join(interval(found[v][f"bayes_cutoff/{metric}"]) for v in ("label posterior", "no corruption")) + " |"
        )
    errors = [
        interval(np.abs(found[v]["bayes_cutoff/estimated_user_accuracy"] - found[v]["bayes_cutoff/true_user_accuracy"]))
        for v in ("label posterior", "no corruption")
    ]
    lines += [f"| error of estimated_user_accuracy | {' | '.join(errors)} |", "", "| training, same replay | test/accuracy |", "|---|---|"]
    accuracy = {name: found[name]["test/accuracy"] for name in ("true labels", "label posterior", "labels as given")}
    lines += [f"| {name} | {interval(values)} |" for name, values in accuracy.items()]
    lines += [
        f"| true labels minus label posterior | {interval(accuracy['true labels'] - accuracy['label posterior'])} |",
        f"| label posterior minus labels as given | {interval(accuracy['label posterior'] - accuracy['labels as given'])} |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("options", nargs="*", help="Hydra options for all variants")
    arguments = parser.parse_args()
    print(report(measure(arguments.seeds, arguments.options), arguments.seeds))


if __name__ == "__main__":
    assert Path("config.yaml").exists(), "run it from the checkout"
    main()
