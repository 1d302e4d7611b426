"""A frozen backbone sees an image once, whoever asks: the views, what features are kept under, and the whole step."""

from __future__ import annotations

import copy
import dataclasses
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch

from bccp.core import config_schema
from bccp.core.runtime import device
from bccp.data import closest_pairs, tables
from bccp.data.dataset import Days, FeatureView, ImageView, open_days
from bccp.models import classifier, embeddings, feature_cache, inference_engine
from bccp.models.architectures import ImageClassifier
from bccp.pipeline import cache_keys
from support.fake_step import FakeStep, load_run

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
    sha256 = [f"{i:064x}" for i in number]
    manifest = pd.DataFrame({"image": names, "sha256": sha256, "phash": "", "mode": "RGB", "width": SIZE, "height": SIZE})
    tables.write(manifest, folders["clean_data"] / "manifest.csv")
    report = {"images": N_IMAGES, "image_size": SIZE, "resize": "stretch"}
    (folders["clean_data"] / "report.json").write_text(json.dumps(report), encoding="utf-8")
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
        kind = config_schema.BayesCutoff
        self.config = kind(**{key: value for key, value in vars(self.config).items() if key in kind.__dataclass_fields__})
        self.keys: dict[str, list[dict[str, Any]]] = {}
        self.outputs = {"cleansed_labels": "f" * 64}
        self.ledger = SimpleNamespace(fetch=lambda version: self.folders[version.partition(":")[0]])

    def has_input(self, name: str) -> bool:
        return name in self.inputs

    def shared(self, name: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        known = self.keys.setdefault(name, [])
        if dict(key) not in known:
            folder = self.place / f"{name}-{len(known)}"
            folder.mkdir(parents=True)
            compute(folder)
            known.append(dict(key))
        return self.place / f"{name}-{known.index(dict(key))}"

    def log_picture(self, path: Path, *, pixels: bool = False) -> None:
        pass

    def log_table(self, name: str, rows: list[dict[str, Any]], pictures: Iterable[np.ndarray]) -> None:
        pass


def make_model(seed: int = 0, **changed: Any) -> ImageClassifier:
    return classifier.build_classifier(
        "small_cnn", 3, **{"image_size": SIZE, "dropout": 0.5, "seed": seed, "freeze_backbone": True} | changed
    )


def make_large(seed: int = 0, image_size: int = SIZE) -> ImageClassifier:
    """A frozen model that takes images of any size, as those of photographs do."""
    torch.manual_seed(seed)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(1))
    numbers = {"mean": [0.5] * 3, "std": [0.5] * 3}
    model = ImageClassifier(backbone, 8, 3, architecture="made_up", image_size=image_size, dropout=0, **numbers).eval()
    model.freeze_backbone()
    return model


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


def test_stored_features_come_in_the_widest_dtype_they_are_kept_in() -> None:
    half, single = np.array([[1.5, 2.25]], np.float16), np.array([[0.1, 1e9]], np.float32)
    same = FeatureView([half, half + 1], np.array([1, 0]), np.array([0, 0]), 2)
    assert same.stored([0, 1]).dtype == np.float16
    np.testing.assert_array_equal(same[:], [[2.5, 3.25], [1.5, 2.25]])
    mixed = FeatureView([half, single], np.array([1, 0, 1]), np.array([0, 0, 0]), 2)
    assert mixed.stored([1]).dtype == np.float16
    np.testing.assert_array_equal(mixed.stored([0, 1, 2]), np.concatenate([single, half.astype(np.float32), single]))


def test_only_a_frozen_model_is_given_features_and_they_are_its_own(step: SharingStep) -> None:
    days, model = days_of(step), make_model()
    inputs = feature_cache.shared_inputs(step, days)
    ids = [*days.ids("tuesday", "train")[::-2], *days.ids("monday", ["train", "val"])[3:40]]
    assert isinstance(inputs(make_model(freeze_backbone=False), ids), ImageView)
    assert step.keys == {}
    found = inputs(model, ids)
    assert isinstance(found, FeatureView)
    np.testing.assert_allclose(found[:], classifier.embed(model, days.view(ids)), rtol=1e-2, atol=1e-2)
    assert inputs(model, []).shape == (0, model.n_features)


def test_features_are_kept_by_pixels_and_backbone_and_nothing_else(step: SharingStep) -> None:
    days, model = days_of(step), make_model()
    monday, tuesday = days.ids("monday", "train"), days.ids("tuesday", "train")

    def n_computed(model: ImageClassifier, *asked: list[str], days: Days = days) -> int:
        for ids in asked:
            feature_cache.shared_inputs(step, days)(model, ids)
        return len(step.keys["frozen_features"])

    assert n_computed(model, monday, monday) == 1
    assert n_computed(model, tuesday, monday) == 2
    other_head = make_model(dropout=0.1)
    torch.nn.init.normal_(other_head.head[1].weight)
    assert n_computed(other_head, monday, tuesday) == 2
    # another seed's days of the same images, by other names: what is not corrupted has been seen
    splits = days.splits.assign(day=days.splits["day"].to_numpy()[::-1], corrupted_row=-1).rename(index="other-{}".format)
    again = Days(splits, CLASSES, "tuesday", True, days.clean_pixels, None)
    assert n_computed(model, list(splits.index[::3]), days=again) == 2
    step.inputs["segregated_data"] = "9" * 64
    changed = Days(days.splits, CLASSES, "tuesday", True, days.clean_pixels, 7 - np.asarray(days.corrupted_pixels))
    assert n_computed(model, monday, days=changed) == 2
    assert n_computed(model, tuesday, days=changed) == 3
    for number, other in enumerate((make_model(seed=1), make_model(mean=(0.1, 0.2, 0.3)))):
        assert n_computed(other, monday) == 4 + number


def test_a_mirrored_model_is_given_the_means_of_two_views_that_are_kept_too(step: SharingStep) -> None:
    days, model = days_of(step), make_model()
    model.mirrored = True
    ids = [*days.ids("monday", "train")[::4], *days.ids("tuesday", "train")]
    found = feature_cache.shared_inputs(step, days)(model, ids)
    np.testing.assert_allclose(found[:], classifier.embed(model, days.view(ids)), rtol=1e-2, atol=1e-2)
    views = [feature_cache.view_features(step, days, model, ids, flipped=flipped)[:] for flipped in (False, True)]
    np.testing.assert_allclose(found[:], sum(views) / 2, rtol=1e-2, atol=1e-2)
    assert {name: len(keys) for name, keys in step.keys.items()} == {"frozen_features": 4, "mirrored_features": 2}


def test_a_view_is_mirrored_or_of_another_size_and_is_kept_by_itself(step: SharingStep) -> None:
    days, model = days_of(step), make_model()
    ids = [*days.ids("monday", "train")[5:1:-1], *days.ids("tuesday", "train")[::5]]
    own = feature_cache.view_features(step, days, model, ids)
    np.testing.assert_array_equal(own[:], feature_cache.shared_inputs(step, days)(model, ids)[:])
    assert len(step.keys["frozen_features"]) == 2  # of both days, and they are what the model is given
    mirrored = make_model()
    mirrored.mirrored = True
    np.testing.assert_array_equal(feature_cache.view_features(step, days, mirrored, ids)[:], own[:])
    pixels = days.view(ids)[:]
    flipped = feature_cache.view_features(step, days, model, ids, flipped=True)
    np.testing.assert_allclose(flipped[:], classifier.embed(model, pixels[:, :, ::-1].copy()), rtol=1e-2, atol=1e-2)
    smaller = feature_cache.view_features(step, days, model, ids, side=8, flipped=True)
    fractions = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    shrunk = torch.nn.functional.interpolate(fractions, size=(8, 8), mode="bilinear", antialias=True).flip(-1)
    with torch.inference_mode():
        np.testing.assert_allclose(smaller[:], model.embed(shrunk).numpy(), rtol=1e-2, atol=1e-2)
    views = [key.get("view") for key in step.keys["frozen_features"]]
    assert views == [None, None, *2 * [{"side": 16, "mirrored": True}], *2 * [{"side": 8, "mirrored": True}]]
    assert model.input_size == 16
    assert feature_cache.view_features(step, days, model, [], flipped=True).shape == (0, model.n_features)


def test_the_judge_sees_photographs_smaller_and_mirrored_where_the_network_takes_them() -> None:
    assert feature_cache.judge_views(make_model()) == [(None, False), (None, True)]
    assert feature_cache.judge_views(make_model(image_size=128)) == [(None, False), (None, True)]
    assert feature_cache.judge_views(make_large()) == [(None, False), (None, True)]
    assert feature_cache.judge_views(make_large(image_size=224)) == [(None, False), (160, True)]


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of images is worth an export."""
    monkeypatch.setattr(inference_engine, "BREAK_EVEN_PIXELS", 0)
    monkeypatch.setattr(device, "features_dtype", lambda _: "float32")


def test_many_photographs_are_looked_at_with_onnx_runtime(step: SharingStep, many: None) -> None:
    days, model = days_of(step), make_large()
    ids = days.ids("monday", "train")
    found = feature_cache.shared_inputs(step, days)(model, ids)
    np.testing.assert_allclose(found[:], classifier.embed(model, days.view(ids)), rtol=1e-2, atol=1e-2)
    mirrored = make_large()
    mirrored.mirrored = True
    found = feature_cache.shared_inputs(step, days)(mirrored, ids)
    np.testing.assert_allclose(found[:], classifier.embed(mirrored, days.view(ids)), rtol=1e-2, atol=1e-2)
    engines = [key["engine"] for name in ("frozen_features", "mirrored_features") for key in step.keys[name]]
    assert engines == [f"onnxruntime {onnxruntime.__version__}"] * 3
    assert [key["sides"] for key in step.keys["exported_backbone"]] == [[16]]  # one for both views
    assert step.said == []


def test_where_a_backbone_cannot_be_exported_or_opened_a_line_says_so_once_and_torch_looks(
    step: SharingStep, many: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    days, model = days_of(step), make_large()
    ids = days.ids("monday", "train")
    said = "images are looked at with PyTorch, as ONNX Runtime cannot stand in for it with made_up"
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxruntime", None)
        feature_cache.shared_inputs(step, days)(model, ids)
        feature_cache.shared_inputs(step, days)(model, days.ids("tuesday", "train"))
    assert [line.partition(" (")[0] for line in step.said] == [said]
    assert all("engine" not in key for key in step.keys["frozen_features"])
    other = make_large(seed=1)
    assert feature_cache.exported_backbone(step, other) is not None
    monkeypatch.setattr(inference_engine, "open_session", lambda *_: 1 / 0)
    found = feature_cache.shared_inputs(step, days)(other, ids)
    np.testing.assert_allclose(found[:], classifier.embed(other, days.view(ids)), rtol=1e-2, atol=1e-2)
    assert step.said[1:] == [f"{said} (division by zero)"]


def test_what_is_computed_in_is_part_of_every_key(step: SharingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    days, model, found, steps, shared = days_of(step), make_model(), [], [], []
    for dtype in ("float32", "bfloat16"):
        monkeypatch.setattr(device, "features_dtype", lambda device, dtype=dtype: dtype)
        found.append(feature_cache.shared_inputs(step, days)(model, days.ids("monday", "train"))[:])
        steps.append(cache_keys.step_key("train", Section(), {}, isolated=False)[1]["dtype"]["frozen"])
        shared.append(cache_keys.shared_parts("bccp.models.monday_model")["dtype"]["frozen"])
    assert [key["dtype"] for key in step.keys["frozen_features"]] == steps == shared == ["float32", "bfloat16"]
    assert not np.array_equal(*found)
    np.testing.assert_allclose(found[1], found[0], rtol=0.05, atol=0.05)


@dataclasses.dataclass
class Section:
    """Of ``train``, as far as its key asks for more than parameters."""

    precision: str = "float32"
    accelerator: str = "auto"


def test_torch_says_the_same_of_this_processor() -> None:
    able = torch.cpu.get_capabilities()
    assert device.features_dtype("cpu") == ("bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32")


@pytest.mark.parametrize(("name", "n_left"), [("small_cnn", 0), ("mobilenet_v3_small", 0), ("resnet18", 17)])
def test_folded_batch_norms_change_no_feature_and_the_model_stays_as_it_is(name: str, n_left: int, one_thread: None) -> None:
    model = classifier.build_classifier(name, 3, image_size=32, dropout=0, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    with torch.no_grad():
        for _ in range(5):
            model.train().embed(torch.from_numpy(images))
    before = classifier.embed(model, images)
    folded = feature_cache.fold_norms(copy.deepcopy(model).eval())
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules()) == n_left
    np.testing.assert_allclose(classifier.embed(folded, images), before, rtol=1e-3, atol=1e-4 * np.abs(before).max())
    feature_cache.look_by(model, "cpu")(images)
    np.testing.assert_array_equal(classifier.embed(model, images), before)


@pytest.mark.slow
def test_another_process_computes_the_same_bytes(step: SharingStep, tmp_path: Path) -> None:
    days = days_of(step)
    feature_cache.shared_inputs(step, days)(make_model(), days.ids("monday", "train"))
    here = tmp_path / "out" / "frozen_features-0" / "features.npy"
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
import torch; torch.set_num_threads(1)
from unit.models import test_feature_cache as tests; from pathlib import Path
step = tests.SharingStep(Path({str(tmp_path / "elsewhere")!r}), {step.folders!r}); days = tests.days_of(step)
tests.feature_cache.shared_inputs(step, days)(tests.make_model(), days.ids("monday", "train"))
""".replace("PosixPath", "Path")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    there = tmp_path / "elsewhere" / "frozen_features-0" / "features.npy"
    assert there.read_bytes() == here.read_bytes()
    assert np.load(here).dtype == np.float16


@pytest.mark.parametrize(("scale", "dtype"), [(1.0, np.float16), (1e-9, np.float32), (1e6, np.float32)])
def test_features_are_halved_only_where_that_loses_next_to_nothing(scale: float, dtype: type, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # a backbone that is never trained makes of each layer's values smaller or larger ones; late images are the hard ones here
    batches = [rng.normal(size=(4, 5)).astype(np.float32) * np.float32(factor) for factor in (1, 1, scale)]
    feature_cache.write_features(tmp_path / "f.npy", 12, lambda: iter(batches))
    found = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert found.dtype == dtype
    assert found.shape == (12, 5)
    view = FeatureView([found], np.zeros(12, int), np.arange(12), 5)
    assert view[:].dtype == np.float32
    wanted = np.concatenate(batches)
    assert (np.abs(view[:] - wanted) <= 1e-3 * np.abs(wanted).max(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("shapes", [[(4, 5)], [(4, 5), (4, 6)], [(4, 5), (5, 5)], []])
def test_features_of_a_wrong_shape_are_no_artifact(shapes: list[tuple[int, int]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="features of 8 images came as"):
        feature_cache.write_features(tmp_path / "f.npy", 8, lambda: (np.ones(shape, np.float32) for shape in shapes))


def test_in_the_whole_step_a_frozen_backbone_sees_each_image_once(step: SharingStep, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[bytes] = Counter()
    look = ImageClassifier.embed

    def spy(model: ImageClassifier, pixels: torch.Tensor) -> torch.Tensor:
        seen.update(one.numpy().tobytes() for one in pixels if one.any())  # a black image only tries a new model out
        return look(model, pixels)

    monkeypatch.setattr(ImageClassifier, "embed", spy)
    load_run("bayes_cutoff")(step)
    days = days_of(step)
    assert seen == Counter(one.tobytes() for one in [*days.clean_pixels, *days.corrupted_pixels])
    assert len(seen) == N_IMAGES + 18
    kinds = {"frozen_features": 2, "monday_model": 1, "monday_passes": 1, "student": 1}
    assert {name: len(cache_keys) for name, cache_keys in step.keys.items()} == kinds
    # the colours are easy, also for features that were never trained
    report = tables.read(step.folders["cleansed_labels"] / "label_report.csv")
    assert (report["nearest_trusted"] != "").sum() > 0


def test_pairs_are_measured_on_the_same_features(step: SharingStep) -> None:
    days = days_of(step)
    ids = days.ids("monday", "train")
    found = embeddings.shared_features(step, days, ids, embedding="monday_model", recipe=step.config.monday_model())
    np.testing.assert_allclose(found[:], classifier.embed(make_model(), days.view(ids)), rtol=1e-2, atol=1e-2)
    assert "features" not in step.keys
    assert closest_pairs.closest_pairs(found, days.labels(ids), n_pairs=3, metric="l2_norm", rng=np.random.default_rng(0))


def test_the_new_model_is_tested_on_the_features_that_it_was_trained_on(
    step: SharingStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days, model = days_of(step), make_model()
    tested = days.splits.assign(split=np.where(days.splits["row"] % 5 == 0, "test", days.splits["split"]), label="bee")
    tables.write(tested.reset_index(), step.folders["segregated_data"] / "splits.csv")
    feature_cache.shared_inputs(step, days)(model, list(tested.index))
    tester = FakeStep("test", tmp_path / "tested", {**step.folders, "model": tmp_path / "model", "true_labels": tmp_path / "true"})
    for name in ("model", "true"):
        (tmp_path / name).mkdir()
    tables.write(tested.reset_index()[["image", "label"]], tmp_path / "true" / "true_labels.csv")
    history = pd.DataFrame({"epoch": [1], "train_loss": [1.0], "val_loss": [1.0], "val_accuracy": [0.5]})
    classifier.save_classifier(model, tmp_path / "model", {"class_names": CLASSES}, history=history)
    tester.device, tester.shared, tester.has_input = "cpu", step.shared, lambda name: name in tester.folders
    tester.log_picture, tester.log_table = (lambda *_, **__: None), (lambda *_: None)
    look = ImageClassifier.embed

    def only_black(model: ImageClassifier, pixels: torch.Tensor) -> torch.Tensor:
        assert not pixels.any(), "the backbone has seen this image before"
        return look(model, pixels)

    with monkeypatch.context() as patched:
        patched.setattr(ImageClassifier, "embed", only_black)
        load_run("test")(tester)
    predictions = tables.read(tester.folders["evaluation"] / "predictions.csv", dtypes={"probability": float})
    probs = classifier.probabilities(model, days.view(predictions["image"].tolist()))
    np.testing.assert_allclose(predictions["probability"], probs.max(axis=1), atol=5e-3)
    assert len(predictions) == 18
