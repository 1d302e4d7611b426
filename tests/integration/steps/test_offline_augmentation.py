"""The augmented training set of a stated size that the step ``train`` makes: what is in it, what never is, and who trains on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.dataset import Days, FeatureView, open_days
from bccp.models import classifier, training_set
from bccp.models.fitting import training
from support.fake_step import load_run
from support.training_step import SharingStep, make_step

pytestmark = pytest.mark.usefixtures("one_thread", "bare_home")

SIZE = 60


def run(place: Path, **changed: Any) -> tuple[SharingStep, Days]:
    place.mkdir()
    step = make_step(place, **({"epochs": 1, "augment_to": SIZE, "augmentation": "light"} | changed))
    load_run("train")(step)
    return step, open_days(step.input("segregated_data"), step.input("clean_data"))


def made(step: SharingStep) -> tuple[np.ndarray, Any]:
    """The artifact's images and table, by row."""
    (folder,) = (path for path in step.place.iterdir() if path.name.startswith("augmented_data"))
    table = tables.read(folder / "augmented_data.csv", dtypes={"row": int, "copy": int}).sort_values("row")
    return np.load(folder / "images.npy"), table


def test_it_holds_each_training_image_and_as_many_copies_of_each_but_for_one(tmp_path: Path) -> None:
    step, days = run(tmp_path / "a")
    images, table = made(step)
    assert images.shape == (SIZE, 16, 16, 3)
    assert table["row"].tolist() == list(range(SIZE))
    cleansed, posterior = training_set.read_labels(days, step.input("cleansed_labels"))
    replay = tables.read(step.input("replay_sample") / "replay_sample.csv")["image"].tolist()
    sources = training_set.training_set(days, cleansed, posterior, replay)
    n = len(sources.ids)
    assert n < SIZE
    assert SIZE % n
    assert set(table["image"]) == set(sources.ids) <= set(days.ids("tuesday", "train") + days.ids("monday", "train"))
    assert not {*days.ids("monday", ["val", "test"]), *days.ids("tuesday", "test")} & set(table["image"])
    counts = table["image"].value_counts()
    assert set(counts) == {SIZE // n, SIZE // n + 1}
    assert table.groupby("image")["copy"].apply(sorted).tolist() == [list(range(counts[image])) for image in sources.ids]
    assert table["image"].tolist()[:n] == sources.ids
    np.testing.assert_array_equal(images[:n], days.view(sources.ids)[:])
    own = days.view(table["image"].tolist())[:]
    assert ((images != own).mean((1, 2, 3))[n:] > 0.5).all()
    assert (np.abs(images.astype(int) - own).mean((1, 2, 3))[n:] < 90).all()
    assert len(np.unique(images, axis=0)) == SIZE
    assert step.metrics["images"] == SIZE
    assert any(line.startswith(f"{n} images and {SIZE - n} augmented copies of them: ") for line in step.said)


def test_the_model_is_trained_on_it_as_it_is_with_the_sources_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *given, **rest: seen.append(given) or fit(*given, **rest))
    step, days = run(tmp_path / "a", mirror="always", augmentation=["rotate", "blur"])
    model, data, _, options = seen[0]
    images, table = made(step)
    np.testing.assert_array_equal(data.images[:], images)
    assert (options.augmentation, options.mirror, options.mixup_alpha, model.mirrored) == ("none", False, 0, True)
    cleansed, posterior = training_set.read_labels(days, step.input("cleansed_labels"))
    replay = tables.read(step.input("replay_sample") / "replay_sample.csv")["image"].tolist()
    sources = training_set.training_set(days, cleansed, posterior, replay)
    for image, target, weight in zip(table["image"], data.targets, data.weights, strict=True):
        position = sources.ids.index(image)
        np.testing.assert_array_equal(target, sources.targets[position])
        assert weight == sources.weights[position]


def test_a_frozen_backbone_learns_from_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *given, **rest: seen.append(given) or fit(*given, **rest))
    step, _ = run(tmp_path / "a", freeze_backbone=True)
    model, features = seen[0][0], seen[0][1].images
    assert isinstance(features, FeatureView)
    expected = classifier.embed(model, made(step)[0], batch_size=64, device="cpu")
    np.testing.assert_allclose(features[:], expected, atol=0.02 * np.abs(expected).max())


def test_it_is_made_once_for_all_models_and_a_seed_says_what_it_is(tmp_path: Path) -> None:
    step, _ = run(tmp_path / "a")
    first = made(step)[0]
    keys = [key for key in step.keys if "augmented_data" in key]
    step.config.model, step.config.learning_rate = "resnet_small", 0.01
    step.place = tmp_path / "a" / "out"
    (tmp_path / "a" / "out" / "model").rename(tmp_path / "a" / "earlier")
    load_run("train")(step)
    assert [key for key in step.keys if "augmented_data" in key] == keys
    torch.rand(5)
    np.testing.assert_array_equal(made(run(tmp_path / "b")[0])[0], first)
    for name, changed in {"c": {"random_seed": 1}, "d": {"augment_strength": 0.5}, "e": {"mirror": "always"}}.items():
        other = made(run(tmp_path / name, **changed)[0])[0]
        assert (other != first).any(), name


def test_a_size_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BCCPError, match=r"train\.augment_to=10 is less than the \d\d images to train on: give \d\d or more"):
        run(tmp_path / "a", augment_to=10)
