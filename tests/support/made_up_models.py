"""A small data set and models whose answers are chosen image by image, in a ledger, for the step test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf

from bccp.core import config, config_schema
from bccp.core.paths import ROOT
from bccp.core.step_context import Context, Step
from bccp.data import label_files, tables
from bccp.data.dataset import open_days
from bccp.evaluation.promotion import register_and_promote
from bccp.evaluation.verified import find_references
from bccp.models import classifier
from bccp.models.monday_model import shared_monday_model
from bccp.pipeline.runner import load_step
from bccp.pipeline.step_runner import execute, resolve_external_refs
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger

CLASSES = ["ant", "bee", "cat"]
MONDAY, TUESDAY = [f"m{i:02d}.png" for i in range(20)], [f"t{i:02d}.png" for i in range(40)]
"""The test images."""

TRAINING = [f"x{i:02d}.png" for i in range(12)]


def _ask_and_settle(step: Step) -> None:
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    references = find_references(step, days).table
    probs = classifier.probabilities(classifier.load_classifier(step.input("model"))[0], days.view(references["image"].tolist()))
    with step.output("evaluation") as folder:
        (folder / "metrics.json").write_text("{}", encoding="utf-8")
    min_verified = step.config.min_verified if step.has_input("given_labels") else 0
    register_and_promote(step, days, references, probs, min_verified=min_verified)


class World:
    """A data set in a ledger; ``place`` is a folder for what is made.

    With ``n_verified`` the truth of so many of Tuesday's test images is known, and people vote the next class for all others.
    """

    def __init__(self, place: Path, *, seed: int = 0, target_day: str = "tuesday", n_verified: int | None = None) -> None:
        self.place, self.seed, self.n_made = place, seed, 0
        self.ledger = Ledger(ledger_uri(None)[0])
        rng = np.random.default_rng(seed)
        ids = [*MONDAY, *TUESDAY, *TRAINING]
        self.images = rng.integers(0, 256, (len(ids), 8, 8, 3), dtype=np.uint8)
        self.label_idx = rng.integers(0, 3, len(ids))
        labels = [CLASSES[k] for k in self.label_idx]
        table = pd.DataFrame({"image": ids, "row": range(len(ids)), "label": labels, "corruption": "", "corrupted_row": -1})
        day = np.where(table["image"].isin(TUESDAY), "tuesday", "monday")
        table["day"] = "monday" if target_day == "monday" else day
        table["split"] = np.where(~table["image"].isin(TRAINING), "test", np.where(table.index % 4 == 0, "val", "train"))
        sha256 = [hashlib.sha256(pixels.tobytes()).hexdigest() for pixels in self.images]
        clean = self._folder("clean_data")
        np.save(clean / "images.npy", self.images)
        manifest = {"image": ids, "row": range(len(ids)), "sha256": sha256, "phash": sha256, "width": 8, "height": 8, "mode": "RGB"}
        tables.write(pd.DataFrame(manifest), clean / "manifest.csv")
        (clean / "report.json").write_text(json.dumps({"images": len(ids), "image_size": 8, "resize": "stretch"}), encoding="utf-8")
        self.versions = {"clean_data": self._publish("preprocessing", "clean_data", clean)}
        segregated = self._folder("segregated_data")
        tables.write(table, segregated / "splits.csv")
        tables.write(pd.DataFrame({"label": CLASSES}), segregated / "classes.csv")
        about = {"clean_data": self.versions["clean_data"], "truth_known": n_verified is None, "target_day": target_day}
        (segregated / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
        truth = self._folder("true_labels")
        known = (table["day"] == target_day) & ~table["image"].isin([] if n_verified is None else TUESDAY[n_verified:])
        tables.write(table.loc[known, ["image", "label"]], truth / "true_labels.csv")
        self.versions["segregated_data"] = self._publish("segregation", "segregated_data", segregated)
        self.versions["true_labels"] = self._publish("segregation", "true_labels", truth)
        if n_verified is not None:
            given = self._folder("given_labels")
            votes = {image: CLASSES[(k + 1) % 3] for image, k in zip(ids, self.label_idx, strict=True) if image in TUESDAY[n_verified:]}
            label_files.write_given_labels(given, votes, None)
            (given / label_files.REPORT).write_text(json.dumps({"source": "file"}), encoding="utf-8")
            self.versions["given_labels"] = self._publish("noisy_labels", "given_labels", given)

    def model(self, *, wrong: Iterable[str] = (), seed: int = 0, classes: list[str] = CLASSES) -> str:
        """A trained model's version: it is right on all test images but some."""
        folder = self._folder("model")
        self.save_model(folder, wrong=wrong, seed=seed, classes=classes)
        return self._publish("train", "model", folder)

    def save_model(self, folder: Path, *, wrong: Iterable[str] = (), seed: int = 0, classes: list[str] = CLASSES) -> None:
        model = classifier.build_classifier("small_cnn", len(classes), image_size=8, dropout=0.2, seed=seed)
        answers = self.label_idx.copy()
        for image in wrong:
            answers[[*MONDAY, *TUESDAY].index(image)] += 1
        features = classifier.embed(model, self.images).astype(np.float64)  # more of them than images: any answers can be had
        weight = np.linalg.lstsq(np.c_[features, np.ones(len(features))], 8 * np.eye(3)[answers % 3], rcond=None)[0]
        if len(classes) == 3:
            model.head[1].load_state_dict({"weight": torch.tensor(weight[:-1].T.copy()), "bias": torch.tensor(weight[-1])})
        history = pd.DataFrame({"epoch": [1], "train_loss": [1.0], "val_loss": [1.0], "val_accuracy": [0.5]})
        classifier.save_classifier(model, folder, {"class_names": classes, "resize": "stretch"}, history=history)

    def test(self, model: str, *, sweep: str | None = None, wandb: str = "disabled", whole: bool = False, **options: Any) -> Step:
        """Run the step test on a model with ``registered_model_name=made-up``; without its tables and plots, unless ``whole``."""
        section = self.config(**options).test
        return execute(
            load_step("test").run if whole else _ask_and_settle,
            name="test",
            section=section,
            inputs={"model": model, **self.versions},
            context=Context(self.ledger.uri, wandb, None, "bccp", True, "tests", 1, sweep=sweep),
            ledger=self.ledger,
            key="test",
            key_parts=resolve_external_refs("test", section, self.ledger),
        )

    def config(self, **options: Any) -> config_schema.Config:
        """The configuration with ``registered_model_name`` and other options of the step test."""
        loaded: Any = OmegaConf.load(ROOT / "config.yaml")
        del loaded["defaults"], loaded["hydra"]
        return config.load(OmegaConf.merge(loaded, {"test": {"registered_model_name": "made-up", **options}}), base=ROOT)

    def monday_model(self, monkeypatch: Any, **answers: Any) -> None:
        """Let Monday's model give chosen answers."""
        self.save_model(folder := self._folder("monday_model"), **answers)
        monkeypatch.setattr(f"{shared_monday_model.__module__}.shared_monday_model", lambda *_: folder)

    def tags(self, step: Step) -> dict[str, str]:
        return dict(self.ledger.client.get_run(step.run_id).data.tags)

    def _folder(self, name: str) -> Path:
        self.n_made += 1
        folder = self.place / f"{self.seed}-{self.n_made}" / name
        folder.mkdir(parents=True)
        return folder

    def _publish(self, step: str, name: str, folder: Path) -> str:
        run_id = self.ledger.start(step, tags={"bccp.step": step})
        digest, _ = self.ledger.publish(run_id, name, folder)
        self.ledger.end(run_id, "FINISHED")
        return digest
