"""The step ``train`` on made-up artifacts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from bccp.core.config_schema import MondayModel
from bccp.data import tables
from bccp.data.dataset import Days, open_days
from support.fake_step import FakeStep

CLASSES = ["ant", "bee", "cat"]


RECIPE = MondayModel(
    model="small_cnn",
    weights=None,
    freeze_backbone=False,
    head="sgd",
    normalization="auto",
    epochs=2,
    learning_rate=0.005,
    optimizer="adamw",
    schedule="one_cycle",
    decay=0.95,
    batch_size=8,
    augmentation="generic",
    mirror="never",
    mixup_alpha=0.0,
    ema_decay=0.0,
    dropout=0.5,
    random_seed=3,
)


def make_splits(target_day: str = "tuesday", *, truth_known: bool = True) -> pd.DataFrame:
    """Eight images a class and day; their names say nothing about their class."""
    rows = []
    for row in range(48):
        day = ("monday", "tuesday")[row % 2]
        number = row // 2
        split = ("train", "train", "train", "test", "train", "val" if day == "monday" else "train", "train", "test")[number // 3]
        hidden = day == target_day and (split == "train" or not truth_known)
        rows.append((f"{(row * 7) % 48:02d}.png", row, day, split, "" if hidden else CLASSES[number % 3], "", -1))
    return pd.DataFrame(rows, columns=["image", "row", "day", "split", "label", "corruption", "corrupted_row"])


def make_pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 16, 16, 3), dtype=np.uint8)


def make_days(target_day: str = "tuesday", *, truth_known: bool = True, seed: int = 0) -> Days:
    splits = make_splits(target_day, truth_known=truth_known).set_index("image")
    if target_day == "monday":
        splits["day"] = "monday"
    return Days(splits, CLASSES, target_day, truth_known, make_pixels(seed), None)


def make_cleansed(ids: list[str], seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.random(len(ids)).round(3)
    weights[::4] = 0
    return pd.DataFrame({"image": ids, "weight": weights}), rng.dirichlet(np.ones(3), len(ids)).astype(np.float32)


class SharingStep(FakeStep):
    """Computes shared work once a key, in a folder."""

    def __init__(self, name: str, place: Path, inputs: Mapping[str, Path], **changed: Any) -> None:
        super().__init__(name, place, inputs, **changed)
        self.device, self.history, self.keys = "cpu", [], []
        self.config.monday_model = RECIPE
        self.ledger = SimpleNamespace(uri=f"sqlite:///{place / 'none.db'}")

    def has_input(self, name: str) -> bool:
        return name in self.folders

    def log_history(self, rows: Any) -> None:
        self.history += rows

    def shared(self, name: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        text = json.dumps([name, key], sort_keys=True)
        if text not in self.keys:
            self.keys.append(text)
            folder = self.place / f"{name}-{len(self.keys)}"
            folder.mkdir(parents=True)
            compute(folder)
        return self.place / f"{name}-{self.keys.index(text) + 1}"


def make_step(tmp_path: Path, *, target_day: str = "tuesday", truth: bool = False, **changed: Any) -> SharingStep:
    segregated, clean, labels, replay = (tmp_path / name for name in ("segregated_data", "clean_data", "cleansed_labels", "replay_sample"))
    for folder in (segregated, clean, labels, replay):
        folder.mkdir(parents=True)
    np.save(clean / "images.npy", make_pixels())
    (clean / "report.json").write_text('{"resize": "pad"}')
    tables.write(make_splits(target_day), segregated / "splits.csv")
    tables.write(pd.DataFrame({"label": CLASSES}), segregated / "classes.csv")
    (segregated / "clean_data.json").write_text(json.dumps({"clean_data": "0", "truth_known": True, "target_day": target_day}))
    days = open_days(segregated, clean)
    inputs = {"segregated_data": segregated, "clean_data": clean, "cleansed_labels": labels}
    if truth:
        ids = days.ids(target_day, ["train", "test"])
        tables.write(pd.DataFrame({"image": ids, "label": [CLASSES[k % 3] for k in range(len(ids))]}), labels / "true_labels.csv")
    else:
        cleansed, posterior = make_cleansed(days.ids("tuesday", "train"))
        tables.write(cleansed.assign(above_cutoff=False), labels / "cleansed_labels.csv")
        np.save(labels / "posterior.npy", posterior)
        tables.write(pd.DataFrame({"image": days.ids("monday", "train")[:4], "pair": 0, "distance": 0.0}), replay / "replay_sample.csv")
        inputs["replay_sample"] = replay
    return SharingStep("train", tmp_path / "out", inputs, **({"epochs": 2, "batch_size": 8} | changed))
