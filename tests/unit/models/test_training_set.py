"""Training set of the new model, Monday's model, and where training starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.dataset import Days, open_days
from bccp.models import batch_preview, classifier, initialization, monday_model, training_set
from bccp.models.fitting import training
from bccp.models.fitting.training_options import TrainingOptions
from support.training_step import CLASSES, RECIPE, make_cleansed, make_days, make_pixels, make_step

pytestmark = pytest.mark.usefixtures("one_thread", "bare_home")


def test_the_training_set_is_the_cleansed_target_day_and_the_replay() -> None:
    days = make_days()
    cleansed, posterior = make_cleansed(days.ids("tuesday", "train"))
    replay = days.ids("monday", "train")[::3]
    found = training_set.training_set(days, cleansed, posterior, replay)
    kept = [image for image, weight in zip(cleansed["image"], cleansed["weight"], strict=True) if weight > 0]
    assert found.ids == sorted([*kept, *replay])
    assert set(kept).isdisjoint(replay)
    for image, target, weight in zip(found.ids, found.targets, found.weights, strict=True):
        if image in replay:
            assert CLASSES[int(target.argmax())] == days.splits.loc[image, "label"]
            assert (sorted(target), weight) == ([0, 0, 1], 1)
        else:
            (position,) = np.flatnonzero(cleansed["image"] == image)
            np.testing.assert_array_equal(target, posterior[position])
            assert weight == np.float32(cleansed["weight"][position])


def test_the_order_of_the_tables_does_not_matter() -> None:
    days = make_days()
    cleansed, posterior = make_cleansed(days.ids("tuesday", "train"))
    replay = days.ids("monday", "train")
    order = np.random.default_rng(0).permutation(len(cleansed))
    a = training_set.training_set(days, cleansed, posterior, replay)
    b = training_set.training_set(days, cleansed.iloc[order], posterior[order], replay[::-1])
    assert a.ids == b.ids
    np.testing.assert_array_equal(a.targets, b.targets)
    np.testing.assert_array_equal(a.weights, b.weights)


def test_where_monday_is_the_target_nothing_is_replayed_and_only_training_images_are_trained_on() -> None:
    days = make_days("monday", truth_known=False)
    cleansed, posterior = make_cleansed(sorted(days.splits.index))
    found = training_set.training_set(days, cleansed, posterior, replay_ids=["00.png"])
    assert set(found.ids) < set(days.ids("monday", "train"))
    assert len(found.ids) > 10
    validation = training_set.validation_set(days, cleansed, posterior)
    weights = dict(zip(cleansed["image"], cleansed["weight"], strict=True))
    assert validation.ids == [image for image in days.ids("monday", "val") if weights[image] > 0]
    (position,) = np.flatnonzero(cleansed["image"] == validation.ids[0])
    np.testing.assert_array_equal(validation.targets[0], posterior[position])


@pytest.mark.parametrize(("target_day", "truth_known"), [("tuesday", True), ("tuesday", False), ("monday", True)])
def test_validation_has_mondays_trusted_labels_where_there_are_any(target_day: str, truth_known: bool) -> None:
    days = make_days(target_day, truth_known=truth_known)
    cleansed, posterior = make_cleansed(days.ids(target_day, "train"))
    found = training_set.validation_set(days, cleansed, posterior)
    assert found.ids == days.ids("monday", "val") != []
    assert [CLASSES[int(k)] for k in found.targets.argmax(1)] == days.splits.loc[found.ids, "label"].tolist()
    assert set(found.weights) == {1}


def test_what_does_not_belong_together_is_refused_in_one_sentence() -> None:
    days = make_days()
    ids = days.ids("tuesday", "train")
    cleansed, posterior = make_cleansed(ids)
    replay = days.ids("monday", "train")
    with pytest.raises(BCCPError, match=r"the image '\d+.png' is in the training set twice"):
        training_set.training_set(days, cleansed, posterior, [*replay, replay[0]])
    with pytest.raises(BCCPError, match=r"replay_sample names the image 'x\.png'"):
        training_set.training_set(days, cleansed, posterior, ["x.png"])
    with pytest.raises(BCCPError, match=r"cleansed_labels names the image 'y\.png'"):
        training_set.training_set(days, cleansed.assign(image=["y.png", *ids[1:]]), posterior, replay)
    with pytest.raises(BCCPError, match=r"posterior of shape \(\d+, 2\), not \(\d+, 3\)"):
        training_set.training_set(days, cleansed, posterior[:, :2], replay)
    with pytest.raises(BCCPError, match="no image is left to train on"):
        training_set.training_set(days, cleansed.assign(weight=0.0), posterior, [])


def test_balanced_class_weights_let_each_class_weigh_the_same() -> None:
    rng = np.random.default_rng(0)
    targets, weights = rng.dirichlet([5, 1, 0.5], 40).astype(np.float32), rng.random(40).astype(np.float32)
    factors = training_set.balanced_class_weights(targets, weights)
    by_class = factors * (weights @ targets)
    np.testing.assert_allclose(by_class, by_class[0], rtol=1e-5)
    assert by_class.sum() == pytest.approx(weights.sum(), rel=1e-5)
    absent = training_set.balanced_class_weights(np.eye(3, dtype=np.float32)[[0, 0, 2]], np.ones(3, np.float32))
    np.testing.assert_allclose(absent, [0.75, 0, 1.5])


def test_balance_is_kept_in_the_loss_or_in_what_an_epoch_draws() -> None:
    rng = np.random.default_rng(0)
    images = training_set.LabelledImages(list("abcdefgh"), rng.dirichlet([5, 1, 0.5], 8).astype(np.float32), np.ones(8, np.float32))
    setting = SimpleNamespace(class_weights=False, balanced_sampling=False, head="sgd")
    assert training_set.balance(setting, images) == {}
    setting.balanced_sampling = True
    (shares,) = training_set.balance(setting, images._replace(targets=np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 0, 1, 1, 2]])).values()
    np.testing.assert_allclose([shares[:5].sum(), shares[5:7].sum(), shares[7]], 8 / 3, rtol=1e-6)
    at_once = SimpleNamespace(class_weights=False, balanced_sampling=True, head="logistic_regression")  # draws nothing
    np.testing.assert_array_equal(training_set.balance(at_once, images)["class_weights"], training_set.balanced_class_weights(*images[1:]))
    setting.class_weights = True
    np.testing.assert_array_equal(training_set.balance(setting, images)["class_weights"], training_set.balanced_class_weights(*images[1:]))


def test_a_subset_has_so_many_images_of_the_wanted_classes_and_is_drawn_by_the_seed() -> None:
    targets = np.eye(3, dtype=np.float32)[[0] * 8 + [1] * 5 + [2] * 2] * 0.8 + 0.1
    images = training_set.LabelledImages([f"{n:02d}.png" for n in range(15)], targets, np.arange(1, 16, dtype=np.float32))

    def numbers(wanted: dict[str, Any] | None, seed: int = 0) -> list[int]:
        found = training_set.subset(images, CLASSES, wanted, seed=seed)
        chosen = [int(image[:2]) for image in found.ids]
        np.testing.assert_array_equal(found.targets, targets[chosen])
        np.testing.assert_array_equal(found.weights, images.weights[chosen])
        return chosen

    assert numbers(None) == list(range(15))
    assert numbers({"classes": ["cat", "bee"]}) == list(range(8, 15))
    few = numbers({"images_per_class": 3})
    assert np.bincount(targets[few].argmax(1)).tolist() == [3, 3, 2]
    assert few == sorted(few) == numbers({"images_per_class": 3}) != numbers({"images_per_class": 3}, seed=1)
    assert len(numbers({"classes": ["ant"], "images_per_class": 2})) == 2
    with pytest.raises(BCCPError, match=r"train\.subset names the unknown class 'bea': use ant, bee, cat \(did you mean 'bee'"):
        numbers({"classes": ["bea"]})
    with pytest.raises(BCCPError, match=r"train\.subset leaves no image to train on: none is of the classes cat"):
        training_set.subset(images._replace(targets=np.eye(3, dtype=np.float32)[[0] * 15]), CLASSES, {"classes": ["cat"]}, seed=0)


def test_mondays_model_is_trained_on_mondays_images_only_and_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    days = make_days()
    asked: list[str] = []
    view = Days.view
    monkeypatch.setattr(Days, "view", lambda self, ids: asked.extend(ids) or view(self, ids))
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        monday_model.train_monday_model(days, RECIPE, device="cpu", folder=tmp_path / place)
    assert sorted(set(asked)) == days.ids("monday", ["train", "val"])
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["README.md", "history.csv", "last.pt", "model.json", "model.pt"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    model, about = classifier.load_classifier(tmp_path / "a")
    assert (about["class_names"], model.dropout, model.image_size) == (CLASSES, 0.5, 16)
    assert len(tables.read(tmp_path / "a" / "history.csv")) == 2


def test_the_digest_of_mondays_data_knows_its_pixels_labels_and_splits_and_nothing_of_tuesday() -> None:
    days = make_days()
    base = monday_model.data_digest(days)
    splits, pixels = days.splits, make_pixels()
    rows = {day: int(splits.loc[days.ids(day, "train")[0], "row"]) for day in ("monday", "tuesday")}
    other_pixels = {day: pixels.copy() for day in rows}
    for day, row in rows.items():
        other_pixels[day][row, 0, 0, 0] ^= 1
    first = days.ids("monday", "train")[0]
    relabelled, moved = splits.copy(), splits.copy()
    relabelled.loc[first, "label"] = CLASSES[(CLASSES.index(splits.loc[first, "label"]) + 1) % 3]
    moved.loc[first, "split"] = "test"
    assert monday_model.data_digest(replace(days, clean_pixels=other_pixels["tuesday"])) == base
    changed = [
        replace(days, clean_pixels=other_pixels["monday"]),
        replace(days, splits=relabelled),
        replace(days, splits=moved),
        replace(days, classes=[*CLASSES, "dog"]),
    ]
    assert len({base, *(monday_model.data_digest(other) for other in changed)}) == 5


@pytest.mark.parametrize(("n", "side", "shape"), [(2, 32, (104, 204)), (5, 20, (2 * 84 + 4, 3 * 84 + 4)), (70, 200, (804, 804))])
def test_the_grid_is_nearly_square_and_of_bounded_size(tmp_path: Path, n: int, side: int, shape: tuple[int, int]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    batch_preview.draw_batch(images, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as opened:
        assert opened.size == shape[::-1]


def test_retraining_can_start_from_mondays_model_which_is_made_once(tmp_path: Path) -> None:
    step = make_step(tmp_path, init="monday_model")
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    model, trained_on = initialization.starting_model(step, days, step.config)
    assert len(trained_on) == 0
    monday, _ = classifier.load_classifier(step.shared("monday_model", json.loads(step.keys[0])[1], lambda _: None))
    assert torch.equal(model.head[1].weight, monday.head[1].weight)
    assert model.dropout == 0.2
    initialization.starting_model(step, days, step.config)
    assert len(step.keys) == 1
    step.config.model = "resnet_small"
    with pytest.raises(BCCPError, match="'small_cnn', which cannot start a 'resnet_small'"):
        initialization.starting_model(step, days, step.config)


def test_starts_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    step = make_step(tmp_path, init="monday_model", weights="DEFAULT")
    days = open_days(step.input("segregated_data"), step.input("clean_data"))
    with pytest.raises(BCCPError, match=r"train\.weights=DEFAULT and train\.init=monday_model are both given"):
        initialization.starting_model(step, days, step.config)
    step.config.weights = None
    with pytest.raises(BCCPError, match=r"monday_model needs trusted labels, and with main\.target_day=monday there are none"):
        initialization.starting_model(step, make_days("monday"), step.config)


def test_mirroring_is_decided_on_sorted_images_with_trusted_labels_where_there_are_any(monkeypatch: pytest.MonkeyPatch) -> None:
    days, asked = make_days(), []

    def probe(images: Any, labels: Any, val_images: Any, val_labels: Any) -> bool:
        asked.append([np.asarray(part) for part in (images[:], labels, val_images[:], val_labels)])
        return True

    monkeypatch.setattr(training_set, "mirror_symmetric", probe)
    ids, val_ids = days.ids("monday", "train"), days.ids("monday", "val")
    labels = days.labels(ids)
    assert training_set.may_mirror("always", days, ids, labels)
    assert not training_set.may_mirror("never", days, ids, labels)
    assert asked == []
    order = np.random.default_rng(0).permutation(len(ids))
    assert training_set.may_mirror("auto", days, [ids[i] for i in order], labels[order], val_ids[::-1])
    for found, expected in zip(asked[-1], (days.view(ids)[:], labels, days.view(val_ids)[:], days.labels(val_ids)), strict=True):
        np.testing.assert_array_equal(found, expected)
    training_set.may_mirror("auto", days, [ids[i] for i in order], labels[order])
    out = np.arange(len(ids)) % 4 == 0
    for found, expected in zip(asked[-1], (days.view(ids)[:][~out], labels[~out], days.view(ids)[:][out], labels[out]), strict=True):
        np.testing.assert_array_equal(found, expected)
    cleansed, posterior = make_cleansed(days.ids("tuesday", "train"))
    training_set.mirrors("auto", days, training_set.training_set(days, cleansed, posterior, []))
    np.testing.assert_array_equal(asked[-1][1], labels)
    mondays = make_days("monday", truth_known=False)
    cleansed, posterior = make_cleansed(mondays.ids("monday", "train"))
    images = training_set.training_set(mondays, cleansed, posterior, [])
    training_set.mirrors("auto", mondays, images)
    out = np.arange(len(images.ids)) % 4 == 0
    np.testing.assert_array_equal(asked[-1][3], images.targets.argmax(1)[out])


def test_the_recipe_of_mondays_model_reaches_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[TrainingOptions] = []
    monkeypatch.setattr(training, "fit", lambda _, data, validation, options, **rest: seen.append(options))
    days, recipe = make_days(), replace(RECIPE, mirror="always", mixup_alpha=0.2, ema_decay=0.9)
    ids = days.ids("monday", "train")
    monday_model.fit_recipe(days, recipe, ids, training_set.one_hot(days.labels(ids), len(days.classes)), device="cpu", folder=tmp_path)
    monday_model.fit_recipe(
        days, replace(recipe, mirror="never"), ids, training_set.one_hot(days.labels(ids), len(days.classes)), device="cpu", folder=tmp_path
    )
    assert [(options.mirror, options.mixup_alpha, options.ema_decay) for options in seen] == [(True, 0.2, 0.9), (False, 0.2, 0.9)]
