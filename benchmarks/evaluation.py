"""Time of the test step beyond asking the model: ``python -m benchmarks.evaluation [--images 10000] [--classes 10] [--resamples 1000]``.

Made-up probabilities of that many test images, of two days, three corruptions and two sizes, every fifth of them wrong; made-up features of
as many training images.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from bccp.evaluation import error_analysis, evaluate, scores
from benchmarks.speed import Row, table

N_FEATURES = 512
LIMIT_SECONDS = 30.0


def made_up(n_images: int, classes: list[str]) -> evaluate.Judged:
    """Test images and what a model says about them, and about Monday's another model."""
    rng = np.random.default_rng(0)
    label_idx = rng.integers(0, len(classes), n_images)
    likely = np.where(rng.random(n_images) < 0.2, rng.integers(0, len(classes), n_images), label_idx)
    probs = (rng.dirichlet(np.ones(len(classes)), n_images) + 2 * np.eye(len(classes))[likely]).astype(np.float32) / 3
    day = rng.choice(["monday", "tuesday"], n_images)
    references = pd.DataFrame({"image": [f"{i:07d}" for i in range(n_images)], "day": day, "verified": "true"})
    references["label"] = np.array(classes, object)[label_idx]
    corruption = np.where(day == "tuesday", rng.choice(["mosaic", "random_boxes", "random_lines"], n_images), "")
    size = rng.choice(["128 to 255 px", "256 to 511 px"], n_images)
    kinds, sizes = (dict(zip(references["image"], values, strict=True)) for values in (corruption, size))
    predictions = scores.predictions_table(references, probs, classes, corruptions=kinds, sizes=sizes)
    return evaluate.Judged(predictions, probs, probs[day == "monday"][:, ::-1])


def measure(n_images: int, n_classes: int, n_resamples: int, place: Path) -> dict[str, float]:
    """Seconds by part of the step."""
    classes = [f"class {k}" for k in range(n_classes)]
    judged, rng = made_up(n_images, classes), np.random.default_rng(1)
    predictions = judged.predictions
    errors = scores.worst_errors(predictions)[: evaluate.MOST_EXPLAINED]
    given = rng.choice(classes, n_images)
    training = pd.DataFrame({"image": predictions["image"], "given": given, "believed": given, "doubted": False, "bad": False})
    queries, known = (rng.normal(size=(count, N_FEATURES)).astype(np.float32) for count in (len(errors), n_images))
    history = place / "history.csv"
    history.write_text("epoch,train_loss\n1,1.0\n", encoding="utf-8")

    def explain() -> None:
        error_analysis.error_slices(predictions)
        error_analysis.confused_pairs(predictions)
        near = error_analysis.nearest_training(queries, [known]).position
        actions = error_analysis.what_to_fix(errors, training, near, np.zeros(len(errors), np.bool_))
        error_analysis.fix_first(errors.assign(action=actions), training, near)

    parts: dict[str, Callable[[], object]] = {
        "figures with intervals": lambda: scores.metrics_table(*judged, classes, top_k=3, n_resamples=n_resamples, seed=0),
        "figures by class": lambda: (scores.evaluate(predictions, classes), scores.per_class(predictions, classes)),
        "errors": explain,
        "pictures": lambda: evaluate.draw_evaluation(place, judged, classes, history, ""),
    }
    seconds = {}
    for name, work in parts.items():
        start = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - start
    return seconds


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        seconds = measure(given.images, given.classes, given.resamples, Path(place))
    total = sum(seconds.values())
    what = f"the test step beyond the model: {given.images} images, {given.classes} classes, {given.resamples} resamples"
    parts = ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
    print(table([Row(what, parts, f"≤ {LIMIT_SECONDS:g} s", f"{total:.1f} s", total <= LIMIT_SECONDS)]))


if __name__ == "__main__":
    main()
