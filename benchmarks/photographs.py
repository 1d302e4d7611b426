"""Photographs with a pretrained backbone: ``python -m benchmarks.photographs --data FOLDER [--seeds 20] [--only PART …] -- [options]``, or
``make benchmark-photographs DATA=…``.

splits     A quarter of all images held out, a logistic regression on the frozen backbone's features and true labels: with copies kept
           together, by the pipeline's groups of duplicates or by the perceptual hash alone, and beside it a random split, in which copies
           leak. The penalty is chosen by folds of the rest, which keep copies together. The features are computed once.
days       The pipeline's own days with simulated wrong labels, paired by seed: trained on the true labels, on the labels as given, and on
           the cleansed ones. Finished steps are reused, also those of a benchmark that was stopped.
cold       The whole command on these images, from an empty home to the report.
speed      Photographs of 12 megapixels that are made here, from the archive to the report: beside decoding, hashing, shrinking and
           fingerprinting them by plain Pillow in two processes. What the features took is taken off. It needs no ``--data``; on a machine
           that does something else too, CPU seconds tell more than the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import StratifiedGroupKFold

import bccp
from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.core.runtime import device
from bccp.core.runtime.threads import default_threads, limit_threads
from bccp.data import tables
from bccp.data.array_types import Images, Index
from bccp.data.duplicates import duplicate_groups
from bccp.data.preprocessing import perceptual_hashes
from bccp.models import classifier
from bccp.models.feature_cache import BATCH_SIZE, look_by
from bccp.models.logistic_regression import fit_by_folds, fit_scaling
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.tags import STEP_TAG
from benchmarks import pairs
from benchmarks.measures import interval
from benchmarks.speed import Row, about, table
from benchmarks.whole import FULL, RIVALS

BACKBONE = "efficientnet_lite0"

TOGETHER, BY_HASH, RANDOM = "copies together", "copies by pHash together", "random (copies leak)"
METRICS = ("accuracy", "macro-F1")

DAYS = ("true labels, same replay", "labels as given, same replay")
DAY_METRICS = ("test/f1_macro", "test/accuracy")

WIDTH, HEIGHT = 4000, 3000
"""Of a photograph of 12 megapixels."""

N_FOLDS = 5
SMALL, STRIP = 224, 300
"""Side in px of the pictures that the part speed makes by plain Pillow, and rows that it hashes at once: all of them are slower."""

COLD_SECONDS, ROOM, MEMORY = 90.0, 1.15, 1e9


class Prepared(NamedTuple):
    """Images as the pipeline prepares them.

    Attributes
    ----------
    manifest : DataFrame
        ``image, label, sha256, phash`` of the N images that have a label, among others.
    pixels : ndarray of uint8, shape (N, S, S, 3)
    """

    manifest: pd.DataFrame
    pixels: Images


class Process(NamedTuple):
    """Cost of a process and its children: wall-clock and CPU seconds, and their peak memory in bytes (each page counted once)."""

    seconds: float
    cpu: float
    memory: float


class ColdRun(NamedTuple):
    """A run of the pipeline from an empty home.

    Attributes
    ----------
    process : Process
    steps : dict of str to float
        Seconds of each step.
    features : float
        Seconds of these that the features took, and the export of their backbone.
    """

    process: Process
    steps: dict[str, float]
    features: float


def prepare(options: Sequence[str]) -> Prepared:
    """Fetch and preprocess images by the pipeline's first two steps, or find what they made before."""
    with contextlib.redirect_stdout(io.StringIO()):
        summary = bccp.run([*options, "main.execute_steps=[fetch_data,preprocessing]", "tracking.wandb=disabled"])
    (version,) = [digest for step in summary["steps"] for name, digest in step["outputs"].items() if name == "clean_data"]
    folder = Ledger(ledger_uri(summary["config"]["tracking"]["mlflow_uri"])[0]).fetch(f"clean_data:{version}")
    manifest = tables.read(folder / "manifest.csv", dtypes={"row": int})
    manifest = manifest[manifest["label"] != ""].reset_index(drop=True)
    if not len(manifest):
        raise BCCPError("the images have no labels, which the parts splits and days compare with: give class folders")
    return Prepared(manifest, np.load(folder / "images.npy", mmap_mode="r")[manifest["row"]])


def features_of(pixels: Images) -> npt.NDArray[np.float32]:
    """Features (N, D) of the pretrained backbone."""
    model = classifier.build_classifier(
        BACKBONE, 2, image_size=pixels.shape[1], dropout=0.0, seed=0, weights="DEFAULT", freeze_backbone=True
    )
    look = look_by(model, device.device_type())
    return np.concatenate([look(pixels[start : start + BATCH_SIZE]) for start in range(0, len(pixels), BATCH_SIZE)])


def groupings(manifest: pd.DataFrame) -> dict[str, Index]:
    """Groups (N,) of images that stay on one side, by the name of the split."""
    by_hash = manifest["phash"].str.partition("+")[0]  # the pipeline's own says what it has told apart behind a plus sign
    return {
        TOGETHER: duplicate_groups(manifest["sha256"].tolist(), manifest["phash"].tolist()),
        BY_HASH: duplicate_groups(manifest["sha256"].tolist(), by_hash.tolist()),
        RANDOM: np.arange(len(manifest)),
    }


def held_out_scores(features: npt.NDArray[np.float32], label_idx: Index, groups: Index, copies: Index, seed: int) -> dict[str, float]:
    """Fit to three quarters of the images, and score on the last one.

    Parameters
    ----------
    features : ndarray of float32, shape (N, D)
    label_idx : ndarray of int64, shape (N,)
    groups : ndarray of int64, shape (N,)
        Images of one group are held out together.
    copies : ndarray of int64, shape (N,)
        Images of one group are in one fold when the penalty is chosen.
    seed : int
        Of the split.

    Returns
    -------
    dict of str to float
        ``METRICS``.
    """
    train, test = next(StratifiedGroupKFold(4, shuffle=True, random_state=seed).split(features, label_idx, groups))
    fold = np.empty(len(train), np.int64)
    by_fold = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=seed).split(train, label_idx[train], copies[train])
    for number, (_, held) in enumerate(by_fold):
        fold[held] = number
    scaling = fit_scaling(features[train])
    targets = np.eye(label_idx.max() + 1)[label_idx[train]]
    model = fit_by_folds(scaling.apply(features[train]), targets, fold).model
    found = model.scores(scaling.apply(features[test])).argmax(axis=1)
    return {
        "accuracy": float(accuracy_score(label_idx[test], found)),
        "macro-F1": float(f1_score(label_idx[test], found, average="macro", zero_division=0)),
    }


def splits(options: Sequence[str], seeds: Sequence[int]) -> str:
    """The table of splits of all images."""
    prepared = prepare(options)
    manifest = prepared.manifest
    label_idx = np.unique(manifest["label"], return_inverse=True)[1].astype(np.int64)
    features, kinds = features_of(prepared.pixels), groupings(manifest)
    lines = [
        f"A quarter of {len(manifest)} images of {label_idx.max() + 1} classes held out, true labels, logistic regression on {BACKBONE} "
        f"({prepared.pixels.shape[1]} px), {len(seeds)} seeds, 95% intervals",
        "",
        f"| split | images with a copy | {' | '.join(METRICS)} |",
        f"|---|---|{'---|' * len(METRICS)}",
    ]
    for name, groups in kinds.items():
        copies = groups if name != RANDOM else kinds[TOGETHER]
        found = [held_out_scores(features, label_idx, groups, copies, seed) for seed in seeds]
        with_copy = int((np.bincount(copies)[copies] > 1).sum())
        figures = " | ".join(interval([one[metric] for one in found]) for metric in METRICS)
        lines.append(f"| {name} | {with_copy} | {figures} |")
    return "\n".join(lines)


def days(options: Sequence[str], seeds: Sequence[int]) -> str:
    """The table of the pipeline's days with simulated wrong labels."""
    alone = [*(pairs.Variant(name, RIVALS[name]) for name in DAYS), pairs.Variant(FULL, ())]
    own = [*pairs.with_label_source(options), "tracking.wandb=disabled"]
    found = pairs.measure(alone, DAY_METRICS, seeds, own)
    return pairs.report("The pipeline's days", [*alone, *(pairs.Variant(FULL, (), name) for name in DAYS)], found)


def cold(options: Sequence[str], place: Path) -> Row:
    """The command from an empty home to the report."""
    took = run_cold(options, place)
    steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in took.steps.items())
    cost = f"{took.process.cpu:.0f} s of CPU, peak {took.process.memory / 1e6:.0f} MB"
    measured = f"{took.process.seconds:.0f} s ({steps}; {took.features:.0f} of them features), {cost}"
    return Row("bccp run, cold, to the report", "", f"≤ {COLD_SECONDS:.0f} s", measured, took.process.seconds <= COLD_SECONDS)


def run_cold(options: Sequence[str], place: Path) -> ColdRun:
    """Run the command line in an empty home."""
    home = Path(tempfile.mkdtemp(dir=place))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "WANDB_", "BCCP_"))}
    environment = kept | {"BCCP_HOME": str(home), "PYTHONPATH": str(ROOT / "src")}
    process = watch([sys.executable, "-m", "bccp", "run", *options, "tracking.wandb=disabled"], environment)
    (written,) = (home / "outputs").glob("*/summary.json")
    steps = {step["name"]: step["seconds"] for step in json.loads(written.read_text(encoding="utf-8"))["steps"]}
    ledger = Ledger(f"sqlite:///{home / 'mlflow.db'}")
    runs = [
        run
        for name in ("frozen_features", "exported_backbone")
        for run in ledger.client.search_runs([ledger.experiment_id], f"tags.`{STEP_TAG}` = '{name}' and attributes.status = 'FINISHED'")
    ]
    return ColdRun(process, steps, sum(run.info.end_time - run.info.start_time for run in runs) / 1000)


def watch(command: Sequence[str], environment: Mapping[str, str]) -> Process:
    """Run a command to its good end."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as log:
        began, before, peak = time.perf_counter(), os.times(), 0.0
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, memory_of(process.pid))
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        if process.returncode:
            log.seek(0)
            sys.exit(f"error: {' '.join(command)} failed: {log.read()[-2000:]}")
    after = os.times()
    return Process(seconds, after.children_user + after.children_system - before.children_user - before.children_system, peak)


def memory_of(pid: int) -> float:
    """Memory in bytes of a process and its children, a page that n of them share counted as 1/n in each; 0 where none of them lives."""
    total, waiting = 0.0, [str(pid)]
    while waiting:
        place = Path("/proc") / waiting.pop()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            told = dict(line.split(":", 1) for line in (place / "smaps_rollup").read_text(encoding="ascii").splitlines()[1:])
            total += 1024 * float(told["Pss"].split()[0])
            waiting += [child for task in (place / "task").iterdir() for child in (task / "children").read_text().split()]
    return total


def speed(n_photographs: int, options: Sequence[str], place: Path) -> Iterator[Row]:
    """From an archive of large photographs to the report."""
    archive = place / "photographs.zip"
    make_photographs(archive, n_photographs, (WIDTH, HEIGHT))
    alone, parts = parts_in_two_processes(archive)
    took = run_cold([*pairs.images(archive), *options], place)
    what = f"{n_photographs} photographs of {WIDTH} x {HEIGHT} px"
    each = ", ".join(f"{name} {1000 * spent / n_photographs:.0f} ms" for name, spent in parts.items())
    rival = f"one photograph by plain Pillow: {each}; in two processes {alone:.1f} s"
    first = took.steps["fetch_data"] + took.steps["preprocessing"]
    yield Row(f"{what}: fetch_data, preprocessing", rival, "", f"{first / alone:.2f} times ({first:.1f} s)", None)
    rest = took.process.seconds - took.features
    yield Row(
        f"{what}: fetch to report, beyond the features ({took.features:.1f} s)",
        rival,
        f"≤ {ROOM:g} times",
        f"{rest / alone:.2f} times ({rest:.1f} s; CPU with the features {took.process.cpu:.0f} s beside {sum(parts.values()):.0f} s)",
        rest <= ROOM * alone,
    )
    memory = f"{took.process.memory / 1e6:.0f} MB"
    yield Row(f"{what}: peak memory of all processes", "", f"≤ {MEMORY / 1e9:g} GB", memory, took.process.memory <= MEMORY)


def make_photographs(path: Path, n_photographs: int, size: tuple[int, int]) -> None:
    """Write a zip of JPEG files that are like photographs to a decoder: smooth shapes, some detail and a sensor's noise; three classes."""
    width, height = size
    noise = np.random.default_rng(0).normal(0, 5, (height, 2 * width, 1)).round().astype(np.int16)

    def photograph(number: int) -> bytes:
        rng = np.random.default_rng(number)
        tint = 60 * np.eye(3, dtype=np.int16)[number % 3]
        pixels = tint + noise[:, (start := int(rng.integers(width))) : start + width]
        for fields, strength in ((12, 2), (400, 5)):  # shapes and detail
            coarse = Image.fromarray(rng.integers(0, 256, (3 * fields // 4, fields, 3), dtype=np.uint8))
            pixels += np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) // strength
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        return file.getvalue()

    with zipfile.ZipFile(path, "w") as archive, ThreadPoolExecutor(2) as pool:
        for first in range(0, n_photographs, 8):
            numbers = range(first, min(first + 8, n_photographs))
            for number, content in zip(numbers, pool.map(photograph, numbers), strict=True):
                archive.writestr(f"class{number % 3}/{number:05d}.jpg", content)


def parts_in_two_processes(archive: Path) -> tuple[float, dict[str, float]]:
    """Wall-clock seconds of the four parts when two processes share the photographs, and CPU seconds of each part in all."""
    command = [sys.executable, "-m", "benchmarks.photographs", "--parts-of", str(archive)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    running = [subprocess.Popen([*command, str(number)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for number in (0, 1)]
    told = [json.loads(process.communicate()[0]) for process in running]
    parts = {name: sum(one["parts"][name] for one in told) for name in told[0]["parts"]}
    return max(one["ended"] for one in told) - min(one["began"] for one in told), parts


def time_parts(archive: Path, number: int) -> dict[str, Any]:
    """Time the four parts on every second photograph, from the first or the second on."""
    spent = dict.fromkeys(("decode", "digest", "resize", "pHash"), 0.0)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        before = time.process_time()
        result = work()
        spent[name] += time.process_time() - before
        return result

    with zipfile.ZipFile(archive) as files:
        names = sorted(files.namelist())[number::2]
        began = time.time()
        for name in names:
            image = timed("decode", lambda name=name: Image.open(io.BytesIO(files.read(name))).convert("RGB"))
            timed("digest", lambda image=image: _pixel_digest(image))
            timed("resize", lambda image=image: image.resize((SMALL, SMALL), Image.Resampling.BICUBIC).tobytes())
            timed("pHash", lambda image=image: _perceptual_hash(image))
        return {"began": began, "ended": time.time(), "parts": spent}


def _pixel_digest(image: Image.Image) -> str:
    sha, (width, height) = hashlib.sha256(), image.size
    for top in range(0, height, STRIP):
        sha.update(image.crop((0, top, width, min(top + STRIP, height))).tobytes())
    return sha.hexdigest()


def _perceptual_hash(image: Image.Image) -> str:
    return perceptual_hashes(np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS))[None])[0]


PARTS = ("splits", "days", "cold", "speed")


def main(words: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pairs.add_arguments(parser, seeds=20)
    parser.add_argument("--only", nargs="+", choices=PARTS, help="of these parts; all where there are --data, else speed")
    parser.add_argument("--photographs", type=int, default=500, help="how many the part speed makes")
    parser.add_argument("--parts-of", nargs=2, metavar=("ARCHIVE", "NUMBER"), help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.parts_of:
        print(json.dumps(time_parts(Path(given.parts_of[0]), int(given.parts_of[1]))))
        return
    chosen = given.only or (PARTS if given.data else ("speed",))
    if given.data is None and set(chosen) != {"speed"}:
        raise BCCPError("the parts splits, days and cold need --data: give a folder or an archive with a folder a class")
    limit_threads(default_threads())
    options = [*pairs.images(given.data), *given.options]
    print(about("photographs"), flush=True)
    if "splits" in chosen:
        print(f"\n{splits(options, given.seeds)}", flush=True)
    if "days" in chosen:
        print(f"\n{days(options, given.seeds)}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        rows = [cold(options, Path(place))] if "cold" in chosen else []
        rows += speed(given.photographs, given.options, Path(place)) if "speed" in chosen else []
    if rows:
        print(f"\n{table(rows)}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except BCCPError as error:
        sys.exit(f"error: {error}")
