"""Engines of a model that is served: ``python -m benchmarks.engines [--models …] [--sizes …] [--rounds 5]``.

The first table has CPU milliseconds an image of PyTorch and ONNX Runtime, from uint8 pixels to probabilities on one thread, for batches of
1, 8 and 32; the engines take turns, and the median of the rounds stands. By it :func:`bccp.serving.engine.loaded_model.load_served` prefers
ONNX Runtime on CPUs. Weights are random, which no speed depends on; ``difference`` is the largest of a probability.

The second table says where the time of an image goes in a service, for small_cnn and PNG files of 32 px: decoding and resizing, the digest,
the model, and all (with hops between threads and the clients in the event loop) for so many clients that each wait for their answer.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from bccp.core import config
from bccp.core.config_schema import Serve
from bccp.core.paths import ROOT
from bccp.core.runtime.threads import limit_threads
from bccp.data.decoding.image_files import pillow_limits
from bccp.models import classifier
from bccp.serving.engine.batching import Batcher, Item
from bccp.serving.engine.loaded_model import LoadedModel, load_served
from bccp.serving.engine.onnx_network import torch_ask
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

MODELS = {"small_cnn": 32, "resnet_small": 64, "efficientnet_lite0": 224, "resnet18": 224}
"""Networks and the sides of their images in px."""

BATCHES = (1, 8, 32)
CLIENTS = (1, 8, 32)
N_FILES = 256
LEAST_SECONDS = 0.02


def cpu_ms(work: Callable[[], Any]) -> float:
    """CPU milliseconds of this process for a piece of work, which is repeated until it can be measured."""
    started, n_done = time.process_time(), 0
    while not n_done or time.process_time() - started < LEAST_SECONDS:
        work()
        n_done += 1
    return (time.process_time() - started) / n_done * 1000


def load(folder: Path, name: str, size: int) -> LoadedModel:
    """A model of random weights for ten classes, as a service loads it."""
    model = classifier.build_classifier(name, 10, image_size=size, dropout=0.2, seed=0)
    classifier.save_classifier(model, folder, {"class_names": [f"class{k}" for k in range(10)]})
    return load_served(Ledger(ledger_uri(None)[0]), str(folder), threads=1, max_batch=max(BATCHES))


def compare(name: str, size: int, rounds: int) -> str:
    """A row of the first table."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(Path(folder), name, size)
    asks = {"torch": torch_ask(loaded.served.model, "cpu"), "onnxruntime": loaded.served.ask}
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), size, size, 3), dtype=np.uint8)
    spent: dict[tuple[str, int], list[float]] = {}
    for number in range(rounds + 1):
        for engine, ask in asks.items():
            for n in BATCHES:
                each = cpu_ms(lambda ask=ask, n=n: ask(images[:n])) / n  # type: ignore[misc]
                spent.setdefault((engine, n), []).extend([each] if number else [])  # the first round warms up
    cells = [f"{median(spent[engine, n]):.3f}" for engine in asks for n in BATCHES]
    ratios = [f"{median(spent['torch', n]) / median(spent['onnxruntime', n]):.1f}" for n in BATCHES]
    difference = float(np.abs(asks["torch"](images) - asks["onnxruntime"](images)).max())
    return f"| {name} | {size} | {' | '.join(cells)} | {' / '.join(ratios)} | {loaded.engine} | {difference:.0e} |"


def draw_files() -> list[bytes]:
    """PNG files of 32 px, about 2 kB each."""
    rng, files = np.random.default_rng(0), []
    for _ in range(N_FILES):
        pixels, file = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((4, 4, 1))) + rng.normal(0, 4, (32, 32, 3)), io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        files.append(file.getvalue())
    return files


async def ask_all(loaded: LoadedModel, files: Sequence[bytes], n_clients: int) -> tuple[float, float]:
    """CPU milliseconds an image of all that happens between a request and its answer, and the mean number of images in a batch."""
    sizes: list[int] = []
    settings: Serve = config.section(Serve, config.defaults()["serve"], "serve", ROOT)
    batcher = Batcher(SimpleNamespace(current=loaded), None, settings, asyncio.get_running_loop(), on_batch=sizes.append)
    batcher.start()

    async def client(number: int) -> None:
        for place in range(number, len(files), n_clients):
            await batcher.answer([Item(files[place], "api")])

    for _ in range(2):  # the first round warms up
        sizes.clear()
        started = time.process_time()
        await asyncio.gather(*(client(number) for number in range(n_clients)))
        spent = time.process_time() - started
    await asyncio.to_thread(batcher.stop)
    return spent / len(files) * 1000, len(files) / len(sizes)


def stages(rounds: int) -> list[str]:
    """Rows of the second table."""
    import uvloop

    with tempfile.TemporaryDirectory() as folder:
        loaded = load(Path(folder), "small_cnn", 32)
    files = draw_files()
    with pillow_limits(1_000_000):
        pixels = np.stack([loaded.prepare(data).pixels for data in files])
        decoding = median(cpu_ms(lambda: [loaded.prepare(data) for data in files]) for _ in range(rounds)) / len(files)
    digest = median(cpu_ms(lambda: [hashlib.sha256(data).hexdigest() for data in files]) for _ in range(rounds)) / len(files)
    rows = []
    for n in CLIENTS:
        model = median(cpu_ms(lambda n=n: loaded.name_answers(loaded.probabilities(pixels[:n]))) / n for _ in range(rounds))  # type: ignore[misc]
        whole = [uvloop.run(ask_all(loaded, files * 8, n)) for _ in range(rounds)]
        total, batch = median(spent for spent, _ in whole), median(size for _, size in whole)
        rest = total - decoding - digest - model
        rows.append(f"| {n} | {batch:.1f} | {decoding:.3f} | {digest:.3f} | {model:.3f} | {rest:.3f} | {total:.3f} |")
    return rows


def main(words: Sequence[str] | None = None) -> None:
    """Print both tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--sizes", nargs="+", type=int, help="sides of the images in px; by default one a network")
    parser.add_argument("--rounds", type=int, default=5)
    said = parser.parse_args(words)
    limit_threads(1)
    torch.set_num_threads(1)
    heads = [f"{engine}, {n}" for engine in ("torch", "onnx") for n in BATCHES]
    print(f"CPU milliseconds an image, one thread; medians of {said.rounds} rounds\n")
    print(f"| network | px | {' | '.join(heads)} | torch / onnx | engine | difference |\n|{'---|' * 11}", flush=True)
    for name in said.models:
        for size in said.sizes or [MODELS.get(name, 224)]:
            print(compare(name, size, said.rounds), flush=True)
    print(f"\n| clients | images a batch | decoding | digest | model | rest | all |\n|{'---|' * 7}", flush=True)
    print("\n".join(stages(said.rounds)), flush=True)


if __name__ == "__main__":
    main()
