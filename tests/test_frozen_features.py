"""A frozen backbone sees an image once, whoever asks: the views, what features are kept under, and the whole step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fake_step import FakeStep, load_run

from bccp import config, cp_sampling, features, frozen_features, models, tables
from bccp.architectures import ImageClassifier
from bccp.images import Days, FeatureView, ImageView, open_days

CLASSES = ["ant", "bee", "cow"]
N_IMAGES, SIZE = 90, 16
SHORT = {"epochs": 3, "refine_epochs": 2, "passes": 2, "batch_size": 16, "freeze_backbone": True}


def make_data(place: Path) -> dict[str, Path]:
    """Artifacts of 54 images of Monday and 36 of Tuesday, half of these corrupted, every fourth given label wrong."""
    rng = np.random.default_rng(4)
    number = np.arange(N_IMAGES)
    true, late = number % 3, number >= 54
    pixels = np.clip(60 + 140 * np.eye(3)[true][:, None, None, :] + rng.normal(0, 25, (N_IMAGES, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    names = [f"{i:03d}.png" for i in number]
    folders = {name: place / name for name in ("clean_data", "segregated_data", "given_labels")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    np.save(folders["clean_data"] / "images.npy", pixels)
    tables.write(pd.DataFrame({"image": names, "sha256": names, "phash": ""}), folders["clean_data"] / "manifest.csv")
    corrupted = number >= 72
    np.save(folders["segregated_data"] / "corrupted.npy", 255 - pixels[corrupted])
    splits = {
        "row": number,
        "day": np.where(late, "tuesday", "monday"),
        "split": np.where(~late & (number % 6 == 5), "val", "train"),
        "label": np.where(late, "", np.array(CLASSES)[true]),
        "corruption": np.where(corrupted, "mosaic", ""),
        "corrupted_row": np.where(corrupted, number - 72, -1),
    }
    tables.write(pd.DataFrame({"image": names, **splits}), folders["segregated_data"] / "splits.csv")
    tables.write(pd.DataFrame({"label": CLASSES}), folders["segregated_data"] / "classes.csv")
    about = {"clean_data": "c" * 64, "truth_known": False, "target_day": "tuesday"}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
    given = np.where(number % 4 == 0, (true + 1) % 3, true)
    tables.write(pd.DataFrame({"image": names, "label": np.array(CLASSES)[given]})[late], folders["given_labels"] / "given_labels.csv")
    return folders


class SharingStep(FakeStep):
    """Computes shared work once a key."""

    device = "cpu"

    def __init__(self, place: Path, inputs: Mapping[str, Path], **changed: Any) -> None:
        super().__init__("bayes_cutoff", place, inputs, **changed)
        kind = config.BayesCutoff
        self.config = kind(**{key: value for key, value in vars(self.config).items() if key in kind.__dataclass_fields__})
        self.keys: dict[str, list[dict[str, Any]]] = {}
        self.outputs = {"cleansed_labels": "f" * 64}
        self.ledger = SimpleNamespace(fetch=lambda version: self.folders[version.partition(":")[0]])

    def has_input(self, name: str) -> bool:
        return name in self.inputs

    def shared(self, name: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        known = self.keys.setdefault(name, [])
        if dict(key) not in known:
            folder = self._place / f"{name}-{len(known)}"
            folder.mkdir(parents=True)
            compute(folder)
            known.append(dict(key))
        return self._place / f"{name}-{known.index(dict(key))}"

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        pass

    def log_table(self, name: str, rows: list[dict[str, Any]], pictures: Iterable[np.ndarray]) -> None:
        pass


def make_model(seed: int = 0, **changed: Any) -> ImageClassifier:
    return models.build("small_cnn", 3, **{"image_size": SIZE, "dropout": 0.5, "seed": seed, "freeze_backbone": True} | changed)


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> SharingStep:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))
    torch.save(make_model().state_dict(), tmp_path / "weights.pt")
    return SharingStep(tmp_path / "out", make_data(tmp_path / "data"), weights=str(tmp_path / "weights.pt"), **SHORT)


def days_of(step: SharingStep) -> Days:
    return open_days(step.input("segregated_data"), step.input("clean_data"))


def test_a_view_of_features_gives_the_rows_that_a_loop_gives() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(n, 4)).astype(np.float32) for n in (5, 3)]
    array, row = np.array([1, 0, 0, 1, 0]), np.array([2, 4, 0, 0, 4])
    view = FeatureView(arrays, array, row, 4)
    by_loop = np.array([arrays[k][i] for k, i in zip(array, row, strict=True)])
    assert view.shape == (5, 4)
    np.testing.assert_array_equal(view[:], by_loop)
    np.testing.assert_array_equal(view[[3, 1, 3]], by_loop[[3, 1, 3]])
    np.testing.assert_array_equal(view.take([4, 0]).take([1])[:], by_loop[[0]])
    assert view.take(np.array([], int))[:].shape == (0, 4)
    view[:][0] = 7
    np.testing.assert_array_equal(view[:], by_loop)


def test_only_a_frozen_model_is_given_features_and_they_are_its_own(step: SharingStep) -> None:
    days, model = days_of(step), make_model()
    inputs = frozen_features.shared_inputs(step, days)
    ids = [*days.ids("tuesday", "train")[::-2], *days.ids("monday", ["train", "val"])[3:40]]
    assert isinstance(inputs(make_model(freeze_backbone=False), ids), ImageView)
    assert step.keys == {}
    found = inputs(model, ids)
    assert isinstance(found, FeatureView)
    np.testing.assert_allclose(found[:], models.embed(model, days.view(ids)), rtol=1e-5, atol=1e-6)
    assert inputs(model, []).shape == (0, model.n_features)


def test_features_are_kept_by_pixels_and_backbone_and_nothing_else(step: SharingStep) -> None:
    days, model = days_of(step), make_model()
    monday, tuesday = days.ids("monday", "train"), days.ids("tuesday", "train")
    n_computed = lambda: len(step.keys["frozen_features"])  # noqa: E731
    for ids in (monday, tuesday, monday):
        frozen_features.frozen_features(step, days, model, ids)
    assert n_computed() == 2
    other_head = make_model(dropout=0.1)
    torch.nn.init.normal_(other_head.head[1].weight)
    for ids in (monday, tuesday):
        frozen_features.frozen_features(step, days, other_head, ids)
    assert n_computed() == 2
    step.inputs["segregated_data"] = "9" * 64  # another corruption: Monday's pixels are what they were
    frozen_features.frozen_features(step, days, model, monday)
    assert n_computed() == 2
    frozen_features.frozen_features(step, days, model, tuesday)
    assert n_computed() == 3
    mirrored = make_model()
    mirrored.mirrored = True
    for number, other in enumerate((mirrored, make_model(seed=1), make_model(mean=(0.1, 0.2, 0.3)))):
        frozen_features.frozen_features(step, days, other, monday)
        assert n_computed() == 4 + number


def test_in_the_whole_step_a_frozen_backbone_sees_each_image_once(step: SharingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[bytes] = Counter()
    look = ImageClassifier.embed

    def spy(model: ImageClassifier, pixels: torch.Tensor) -> torch.Tensor:
        seen.update(one.numpy().tobytes() for one in pixels if one.any())  # a black image only tries a new model out
        return look(model, pixels)

    monkeypatch.setattr(ImageClassifier, "embed", spy)
    load_run("bayes_cutoff")(step)
    days = days_of(step)
    assert seen == Counter(one.tobytes() for one in days.view(sorted(days.splits.index))[:])
    assert len(seen) == N_IMAGES
    assert {name: len(keys) for name, keys in step.keys.items()} == {"frozen_features": 3, "monday_model": 1, "student": 1}
    # the colours are easy, also for features that were never trained
    report = tables.read(step.folders["cleansed_labels"] / "label_report.csv")
    assert (report["nearest_trusted"] != "").sum() > 0


def test_pairs_are_measured_on_the_same_features(step: SharingStep) -> None:
    days = days_of(step)
    ids = days.ids("monday", "train")
    found = features.shared_features(step, days, ids, embedding="monday_model", recipe=step.config.monday_model())
    np.testing.assert_allclose(found, models.embed(make_model(), days.view(ids)), rtol=1e-5, atol=1e-6)
    assert "features" not in step.keys
    assert cp_sampling.closest_pairs(found, days.labels(ids), n_pairs=3, metric="l2_norm", rng=np.random.default_rng(0))
