"""Features of frozen backbones by both engines: ``python -m benchmarks.features [--models …] [--sizes 224] [--images 64] [--rounds 5]``.

Images a CPU second on one thread, so that other work on the machine counts as little as it can; the engines take turns, and the median of
the rounds stands. ``folded`` is PyTorch with folded batch norms, channels last and 64 images at once, in bfloat16 where the processor has
instructions for it; ``few at once`` the same as :func:`bccp.models.feature_cache.look_by` does it; ``onnx`` ONNX Runtime. After
``break-even`` images the export is paid for. Weights other than EfficientNet-Lite0's are random, which no speed depends on.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from bccp.core.runtime.threads import limit_threads
from bccp.models import classifier, inference_engine
from bccp.models.architectures import ImageClassifier
from bccp.models.feature_cache import dtype_on, fold_norms, look_by
from bccp.models.inference_engine import Look

MODELS = ("efficientnet_lite0", "mobilenet_v2", "resnet18")


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def looks(model: ImageClassifier, folder: Path) -> tuple[dict[str, Look], float, float]:
    """Functions that embed images, by engine, CPU seconds of an export, and largest distance of its features as a share of their norm."""
    plain = copy.deepcopy(model)
    folded: Any = fold_norms(copy.deepcopy(model)).to(memory_format=torch.channels_last)
    file = folder / f"{model.architecture}.onnx"

    def export() -> None:
        file.write_bytes(inference_engine.exported(model.backbone, model.input_size))
        refused = inference_engine.refusal(model, file, [model.input_size])
        if refused:
            raise RuntimeError(refused)

    seconds = cpu_seconds(export)
    made: dict[str, Look] = {
        "plain": lambda pixels: classifier.embed(plain, pixels),
        "folded": lambda pixels: classifier.embed(folded, pixels, batch_size=64, dtype=dtype_on("cpu")),
        "few at once": look_by(model, "cpu"),
        "onnx": inference_engine.session_look(model, inference_engine.open_session(file, 1)),
    }
    images = np.random.default_rng(1).integers(0, 256, (4, model.image_size, model.image_size, 3), dtype=np.uint8)
    own, found = made["plain"](images), made["onnx"](images)
    return made, seconds, float((np.linalg.norm(found - own, axis=1) / np.linalg.norm(own, axis=1)).max())


def main(words: Sequence[str] | None = None) -> None:
    """Print a table in Markdown, one row a network and size of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, default=[224], help="sides of the images in px")
    parser.add_argument("--images", type=int, default=64, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args(words)
    limit_threads(1)
    torch.set_num_threads(1)
    names = ("plain", "folded", "few at once", "onnx")
    print(f"images a CPU second, one thread, {dtype_on('cpu')} in folded; medians of {said.rounds} rounds of {said.images} images\n")
    print(f"| network | px | {' | '.join(names)} | onnx / folded | export, s | break-even | distance |\n|{'---|' * 10}")
    for name in said.models:
        for size in said.sizes:
            weights = "DEFAULT" if name == "efficientnet_lite0" else None
            options: dict[str, Any] = {"image_size": size, "dropout": 0.0, "seed": 0, "weights": weights, "freeze_backbone": True}
            model = classifier.build_classifier(name, 10, **options)
            with tempfile.TemporaryDirectory() as folder:
                looked, _, distance = looks(model, Path(folder))
                _, export, _ = looks(model, Path(folder))  # the first one imports the exporter too
            images = np.random.default_rng(0).integers(0, 256, (said.images, size, size, 3), dtype=np.uint8)
            spent: dict[str, list[float]] = {engine: [] for engine in names}
            for number in range(said.rounds + 1):
                for engine in names:
                    seconds = cpu_seconds(lambda look=looked[engine], images=images: look(images))  # type: ignore[misc]
                    spent[engine] += [seconds / said.images] if number else []  # the first round warms up
            each = {engine: median(values) for engine, values in spent.items()}
            saved = each["folded"] - each["onnx"]
            row = [f"{1 / each[engine]:.0f}" for engine in names]
            paid = f"{export / saved:.0f}" if saved > 0 else "never"
            print(f"| {name} | {size} | {' | '.join(row)} | {each['folded'] / each['onnx']:.2f} | {export:.1f} | {paid} | {distance:.0e} |")


if __name__ == "__main__":
    main()
