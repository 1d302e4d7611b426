"""Time and memory of the whole step ``bayes_cutoff`` with a frozen backbone whose features are there already.

    python -m benchmarks.bayes_cutoff [--images 50000] [--trusted 10000] [--dimension 1280] [--classes 10]

Makes noisy clusters in place of a backbone's features, 30% of Tuesday's labels wrong, and stores it all in a fresh ``BCCP_HOME`` as the
pipeline would. The step's own ``run.py`` then runs in a process of its own with the defaults of ``config.yaml``, but that heads learn step
by step and a student judges (``head=sgd refine=student``): it trains Monday's model, judges, trains the student, judges again, decides and
reports.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pkgutil
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from omegaconf import OmegaConf

from bccp.core import config, config_schema
from bccp.core.paths import ROOT
from bccp.core.step_context import Context
from bccp.data import tables
from bccp.data.dataset import FeatureView, open_days
from bccp.labels import bayes_cutoff
from bccp.models import classifier
from bccp.models.feature_cache import shared_inputs
from bccp.pipeline.step import RunningStep
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger
from bccp.tracking.wandb_run import NoMirror

USER_ACCURACY = 0.7
SPREAD = 0.1
"""Of the clusters' centres along each dimension, in standard deviations of the noise around them."""

IMAGE_SIZE_PX = 8
VALIDATION = 4
"""One trusted image of so many is for validation."""

PARTS = {
    "models.feature_cache.backbone_digest": "keys and features",
    "data.dataset.ImageView.digest": "keys and features",
    "models.monday_model.data_digest": "keys and features",
    "models.feature_cache.shared_array": "keys and features",
    "labels.network_scoring.open_monday_model": "Monday's model",
    "labels.network_scoring.stochastic_passes": "judging by Monday's model",
    "labels.label_scoring._believe": "posterior",
    "labels.label_scoring.calibration.fit_temperature": "posterior",
    "labels.student.fit_recipe": "training the student",
    "labels.student.stochastic_passes": "judging by the student",
    "labels.label_scoring.calibration.judge_by_student": "posterior",
    "labels.label_scoring.bayes_cutoff.cut_off": "cut-off",
    "labels.label_scoring.bayes_cutoff.hold_back": "cut-off",
    "labels.label_scoring.bayes_cutoff.decide": "cut-off",
    "labels.label_report.make_report": "report",
    "labels.label_report.log_suspects": "report",
    "data.tables.read": "tables",
    "data.tables.write": "tables",
}
"""Functions of the package and the part of the step that their time belongs to; the time of one within another counts for the inner one."""


class Clock:
    """Seconds of wall and processor time by part; parts may lie within each other."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self._open = ["start, ledger and the rest"]
        self._since = self._now()

    @staticmethod
    def _now() -> npt.NDArray[np.float64]:
        return np.array([time.perf_counter(), time.process_time()])

    def turn(self, part: str | None) -> None:
        """Enter a part, or leave the innermost one."""
        now = self._now()
        spent = self.seconds.setdefault(self._open[-1], [0.0, 0.0])
        self.seconds[self._open[-1]] = (np.array(spent) + now - self._since).tolist()
        self._since = now
        if part is None:
            self._open.pop()
        else:
            self._open.append(part)

    def watch(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, its time counted for a part."""

        @functools.wraps(function)
        def watched(*args: Any, **options: Any) -> Any:
            self.turn(part)
            try:
                return function(*args, **options)
            finally:
                self.turn(None)

        return watched


BACKBONES = {512: "resnet18", 1280: "mobilenet_v2", 2048: "resnet50"}
"""A torchvision model for each number of features."""


def prepare(place: Path, n_judged: int, n_trusted: int, dimension: int, n_classes: int) -> list[str]:
    """Store images, days, labels and features in the home; gives the arguments of the step's command line."""
    rng = np.random.default_rng(0)
    n_images = n_trusted + n_judged
    true, late = rng.integers(0, n_classes, n_images), np.arange(n_images) >= n_trusted
    wrong = late & (rng.random(n_images) > USER_ACCURACY)
    given = np.where(wrong, (true + rng.integers(1, n_classes, n_images)) % n_classes, true)
    classes = np.array([f"class {k:02d}" for k in range(n_classes)])
    names = [f"{i:06d}.png" for i in range(n_images)]
    pixels = np.zeros((n_images, IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8)
    pixels.reshape(n_images, -1)[:, :4] = np.arange(n_images, dtype=np.uint32)[:, None].view(np.uint8)  # each image tells its number

    ledger = Ledger(ledger_uri(None)[0])
    run_id = ledger.start("benchmark")
    versions: dict[str, str] = {}

    def publish(name: str, **files: Any) -> None:
        folder = place / name
        folder.mkdir()
        for file, content in files.items():
            if isinstance(content, pd.DataFrame):
                tables.write(content, folder / f"{file}.csv")
            elif isinstance(content, np.ndarray):
                np.save(folder / f"{file}.npy", content)
            else:
                (folder / f"{file}.json").write_text(json.dumps(content), encoding="utf-8")
        versions[name], _ = ledger.publish(run_id, name, folder)

    publish("clean_data", images=pixels, manifest=pd.DataFrame({"image": names, "sha256": names, "phash": ""}))
    split = np.where(~late & (np.arange(n_images) % VALIDATION == 0), "val", "train")
    splits = {
        "row": range(n_images),
        "day": np.where(late, "tuesday", "monday"),
        "split": split,
        "label": np.where(late, "", classes[true]),
    }
    publish(
        "segregated_data",
        splits=pd.DataFrame({"image": names, **splits, "corruption": "", "corrupted_row": -1}),
        classes=pd.DataFrame({"label": classes}),
        clean_data={"clean_data": versions["clean_data"], "truth_known": True, "target_day": "tuesday"},
    )
    publish("given_labels", given_labels=pd.DataFrame({"image": names, "label": classes[given]})[late])
    publish("true_labels", true_labels=pd.DataFrame({"image": names, "label": classes[true]})[late])
    ledger.end(run_id, "FINISHED")

    weights = place / "weights.pt"
    backbone = classifier.build_classifier(BACKBONES[dimension], n_classes, image_size=IMAGE_SIZE_PX, dropout=0, seed=0)
    torch.save(backbone.state_dict(), weights)
    # judges that are trained, by many passes of dropout: what costs most; a stack of convex judges needs other features too
    changed = {"model": BACKBONES[dimension], "weights": str(weights), "freeze_backbone": True, "head": "sgd", "refine": "student"}
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "config.yaml").bayes_cutoff, resolve=True)
    section = config.section(config_schema.BayesCutoff, {**values, **changed}, "bayes_cutoff", ROOT)

    centres = SPREAD * rng.standard_normal((n_classes, dimension), dtype=np.float32)

    def synthetic(_: Any, images: npt.NDArray[np.uint8], **__: Any) -> npt.NDArray[np.float32]:
        numbers = images.reshape(len(images), -1)[:, :4].copy().view(np.uint32)[:, 0]
        noise = np.random.default_rng([1, numbers[0]]).standard_normal((len(numbers), dimension), dtype=np.float32)
        return np.maximum(centres[true[numbers]] + noise, 0)

    context = Context(ledger.uri, "disabled", None, "bccp", False, "benchmark", 1)
    step = RunningStep("bayes_cutoff", section, versions, context, ledger, run_id, NoMirror())
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    model = classifier.build_classifier(
        section.model, n_classes, image_size=IMAGE_SIZE_PX, dropout=0, seed=0, weights=section.weights, freeze_backbone=True
    )
    with mock.patch.object(classifier, "embed", synthetic):
        shared_inputs(step, days)(model, names)
    inputs = [f"--{name}={name}:{versions[name]}" for name in ("segregated_data", "given_labels", "true_labels")]
    return inputs + [f"--{item.name}={config.encode(getattr(section, item.name))}" for item in dataclasses.fields(section)]


def measure(arguments: list[str]) -> None:
    """Run the step in this process; the last line of output holds the figures."""
    clock = Clock()
    for path, part in PARTS.items():
        module, _, name = f"bccp.{path}".rpartition(".")
        place = pkgutil.resolve_name(module)
        setattr(place, name, clock.watch(getattr(place, name), part))
    detection: dict[str, float] = {}
    detect, embed = bayes_cutoff.detection_metrics, classifier.embed

    def noted(*args: Any) -> dict[str, float]:
        detection.update(detect(*args))
        return detection

    def only_features(model: Any, images: Any, **options: Any) -> npt.NDArray[np.float32]:
        if not isinstance(images, FeatureView):
            sys.exit("error: the step looks at pixels, though all features are stored")
        return embed(model, images, **options)

    bayes_cutoff.detection_metrics, classifier.embed = noted, only_features
    sys.argv = ["run.py", *arguments]
    runpy.run_path(str(ROOT / "bayes_cutoff" / "run.py"), run_name="__main__")
    clock.turn(None)
    peak_kib = int(Path("/proc/self/status").read_text(encoding="ascii").partition("VmHWM:")[2].split()[0])
    print(json.dumps({"seconds": clock.seconds, "detection": detection, "peak_gib": peak_kib / 2**20}))


def main() -> None:
    """Make the data, run the step, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="judged images of Tuesday")
    parser.add_argument("--trusted", type=int, default=10_000, help="images of Monday, a quarter of them for validation")
    parser.add_argument("--dimension", type=int, default=1280, choices=BACKBONES, help="of the features")
    parser.add_argument("--classes", type=int, default=10)
    options, rest = parser.parse_known_args()
    if rest[:1] == ["--measure"]:
        measure(rest[1:])
        return
    with tempfile.TemporaryDirectory() as place:
        os.environ["BCCP_HOME"] = str(Path(place) / "home")
        arguments = prepare(Path(place), options.images, options.trusted, options.dimension, options.classes)
        command = [sys.executable, "-m", "benchmarks.bayes_cutoff", "--measure", *arguments]
        start = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        seconds = time.perf_counter() - start
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = json.loads(done.stdout.splitlines()[-1])
    print(f"{options.images} judged and {options.trusted} trusted images, {options.dimension} features, {options.classes} classes")
    print(f"{seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of processor time, peak {figures['peak_gib']:.2f} GiB resident")
    print(", ".join(f"{name} {figures['detection'][name]:.4f}" for name in ("auroc", "f1")))
    print(f"{'part':<28} {'seconds':>8} {'processor, s':>13}")
    for part, (wall, processor) in sorted(figures["seconds"].items(), key=lambda item: -item[1][0]):
        print(f"{part:<28} {wall:>8.2f} {processor:>13.2f}")


if __name__ == "__main__":
    main()
