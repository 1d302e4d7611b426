"""The step ``train`` on made-up artifacts."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from bccp.data import tables
from bccp.data.dataset import open_days
from bccp.models import classifier
from bccp.models.fitting import training
from bccp.models.fitting.training_options import TrainingOptions
from support.fake_step import load_run
from support.training_step import CLASSES, make_pixels, make_step

pytestmark = pytest.mark.usefixtures("one_thread", "bare_home")


def test_the_step_trains_and_writes_a_model_that_can_be_loaded(tmp_path: Path) -> None:
    step = make_step(tmp_path, class_weights=True)
    load_run("train")(step)
    model, about = classifier.load_classifier(step.folders["model"])
    assert about["class_names"] == CLASSES
    assert about["resize"] == "pad"
    assert model.dropout == 0.2
    last = {"last_val_loss": step.history[-1]["val_loss"], "last_val_accuracy": step.history[-1]["val_accuracy"]}
    assert set(step.metrics) == {"loss", "val_loss", "val_accuracy", "epochs", "best_epoch", "images", *last}
    assert last.items() <= step.metrics.items()
    assert step.metrics["epochs"] == len(step.history) == 2
    n_kept = (tables.read(tmp_path / "cleansed_labels" / "cleansed_labels.csv", dtypes={"weight": float})["weight"] > 0).sum()
    assert step.metrics["images"] == n_kept + 4
    history = tables.read(step.folders["model"] / "history.csv", dtypes={"val_loss": float})
    assert history["val_loss"].tolist() == [row["val_loss"] for row in step.history]
    assert step.metrics["val_loss"] == history["val_loss"].min()
    assert sorted(path.name for path in step.folders["model"].iterdir()) == [
        "README.md",
        "history.csv",
        "last.pt",
        "model.json",
        "model.pt",
    ]


def test_the_step_shows_the_first_batch_as_it_is_trained_on(tmp_path: Path, bare_home: Path) -> None:
    batches = {}
    for name in ("none", "strong"):
        (tmp_path / name).mkdir()
        step = make_step(tmp_path / name, epochs=1, augmentation=name, batch_size=9)
        load_run("train")(step)
        (picture, pixels) = step.pictures["first_batch.png"]
        assert pixels
        with Image.open(io.BytesIO(picture)) as opened:
            batches[name] = np.asarray(opened.convert("RGB"))
    assert batches["none"].shape == (3 * 100 + 4, 3 * 100 + 4, 3)  # of up to 9 images of 96 px
    first = batches["none"][4:100:6, 4:100:6]
    assert any((first == image).all() for image in make_pixels())
    assert (batches["none"] != batches["strong"]).mean() > 0.3
    (tmp_path / "frozen").mkdir()
    step = make_step(tmp_path / "frozen", epochs=1, freeze_backbone=True)
    load_run("train")(step)
    assert step.pictures == {}


def test_the_step_tells_what_it_found_and_spent_and_trains_on_a_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = SimpleNamespace(start=lambda: None, stop=lambda: 0.5, final_emissions_data=SimpleNamespace(energy_consumed=2.0))
    asked: list[dict[str, Any]] = []
    fake = SimpleNamespace(OfflineEmissionsTracker=lambda **options: asked.append(options) or tracker)
    known = SimpleNamespace(DataSource=lambda: SimpleNamespace(get_global_energy_mix_data=lambda: {"DEU": {}}))
    monkeypatch.setitem(sys.modules, "codecarbon", fake)
    monkeypatch.setitem(sys.modules, "codecarbon.input", known)
    step = make_step(tmp_path, energy_country="DEU", find_learning_rate=True, subset={"images_per_class": 3}, precision="bfloat16")
    load_run("train")(step)
    assert (step.metrics["energy_kwh"], step.metrics["co2_kg"]) == (2.0, 0.5)
    assert (asked[0]["country_iso_code"], asked[0]["output_methods"]) == ("DEU", [])
    assert 1e-6 < step.metrics["learning_rate"] < 1
    assert step.metrics["images"] == 9
    plain = make_step(tmp_path / "plain", learning_rate=step.metrics["learning_rate"], subset={"images_per_class": 3}, precision="bfloat16")
    load_run("train")(plain)
    for name in ("model.pt", "last.pt", "model.json", "history.csv"):
        assert (plain.folders["model"] / name).read_bytes() == (step.folders["model"] / name).read_bytes()


def test_true_labels_in_the_place_of_cleansed_ones_train_on_training_images_alone(tmp_path: Path) -> None:
    step = make_step(tmp_path, truth=True)
    load_run("train")(step)
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    assert step.metrics["images"] == len(days.ids("tuesday", "train"))


@pytest.mark.parametrize("frozen", [{"freeze_backbone": True}, {"trainable_blocks": 1}])
def test_a_frozen_random_backbone_is_told_of(tmp_path: Path, frozen: dict[str, Any]) -> None:
    step = make_step(tmp_path, **frozen)
    load_run("train")(step)
    assert "random weights" in step.said[0]


def test_the_last_blocks_of_mondays_model_learn_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    step = make_step(tmp_path, init="monday_model", trainable_blocks=2, ema_decay=0.5, balanced_sampling=True)
    load_run("train")(step)
    monday, new = (
        classifier.load_classifier(folder)[0].state_dict() for folder in (tmp_path / "out" / "monday_model-1", step.folders["model"])
    )
    changed = {key for key, value in new.items() if not torch.equal(value, monday[key])}
    assert {key.rpartition(".")[0] for key in changed} == {"backbone.6", "backbone.7", "backbone.10", "backbone.11", "head.1"}


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    yield
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_step_does_not_change_its_inputs(tmp_path: Path) -> None:
    step = make_step(tmp_path, epochs=1)
    with unchanged(tmp_path / "segregated_data"), unchanged(tmp_path / "clean_data"), unchanged(tmp_path / "cleansed_labels"):
        load_run("train")(step)


def test_the_step_follows_its_recipe_and_says_whether_it_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainingOptions] = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *given, **rest: seen.append(given[3]) or fit(*given, **rest))
    step = make_step(tmp_path, epochs=1, mirror="auto", mixup_alpha=0.3, ema_decay=0.8, loss="gce")
    load_run("train")(step)
    assert step.said[0] == "images are not mirrored"  # noise tells nothing
    expected = {"mirror": False, "mixup_alpha": 0.3, "ema_decay": 0.8, "loss": "gce", "epochs": 1, "patience": 10}
    assert {name: getattr(seen[0], name) for name in expected} == expected
    assert not classifier.load_classifier(step.folders["model"])[0].mirrored


AT_ONCE = {"freeze_backbone": True, "head": "logistic_regression"}


def test_a_head_that_is_fitted_at_once_is_a_model_like_any_other_and_tells_its_penalty(tmp_path: Path) -> None:
    step = make_step(tmp_path, **AT_ONCE)
    load_run("train")(step)
    folder = step.folders["model"]
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "history.csv", "model.json", "model.pt"]
    history = tables.read(folder / "history.csv").astype(float)
    assert history.columns.tolist() == ["epoch", "strength", "train_loss", "val_loss", "val_accuracy"]
    best = history["val_loss"].argmin()
    assert step.metrics["strength"] == history["strength"][best]
    assert set(step.metrics) == {"loss", "strength", "val_loss", "val_accuracy", "images"}
    assert [row["val_loss"] for row in step.history] == history["val_loss"].tolist()
    assert step.said[-1].endswith(f"; logistic regression, of {len(history)} penalties tried {history['strength'][best]:g} was best")
    model, _ = classifier.load_classifier(folder)
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    said = classifier.probabilities(model, days.view(days.ids("tuesday", "test")))
    np.testing.assert_allclose(said.sum(axis=1), 1, rtol=1e-5)
    other = make_step(tmp_path / "again", epochs=9, batch_size=4, ema_decay=0.5, **AT_ONCE)
    load_run("train")(other)
    for name in ("model.pt", "model.json", "history.csv"):
        assert (other.folders["model"] / name).read_bytes() == (folder / name).read_bytes()


def test_what_a_head_that_is_fitted_at_once_heeds(tmp_path: Path) -> None:
    weights = {}
    for name, changed in {"plain": {}, "weighted": {"class_weights": True}, "drawn": {"balanced_sampling": True}}.items():
        step = make_step(tmp_path / name, **AT_ONCE, **changed)
        load_run("train")(step)
        weights[name] = (step.folders["model"] / "model.pt").read_bytes()
    assert weights["weighted"] == weights["drawn"] != weights["plain"]


def test_where_no_validation_image_is_trusted_folds_choose_the_penalty(tmp_path: Path) -> None:
    step = make_step(tmp_path, target_day="monday", truth=True, **AT_ONCE)
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    ids = sorted(days.splits.index)
    hashes = [f"{n // 2:064x}" for n in range(len(ids))]
    tables.write(pd.DataFrame({"image": ids, "sha256": hashes, "phash": ""}), tmp_path / "clean_data" / "manifest.csv")
    splits = tables.read(tmp_path / "segregated_data" / "splits.csv")
    tables.write(splits.assign(label="", day="monday"), tmp_path / "segregated_data" / "splits.csv")
    true = pd.DataFrame({"image": days.ids("monday", ["train", "val"])})
    tables.write(true.assign(label=[CLASSES[n % 3] for n in range(len(true))]), tmp_path / "cleansed_labels" / "true_labels.csv")
    load_run("train")(step)
    assert step.metrics["images"] == len(days.ids("monday", "train"))
    assert "val_loss" in step.metrics
