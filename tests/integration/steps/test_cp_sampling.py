"""The step ``cp_sampling``: what it replays, and the models that it measures with."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.dataset import open_days
from bccp.models import classifier, embeddings, feature_cache
from support.fake_step import FakeStep, load_run


def make_data(place: Path, *, order_seed: int | None = None) -> dict[str, Path]:
    """Artifacts of 60 Monday training images of three classes and 20 others; the seed permutes the rows of the data set."""
    rng = np.random.default_rng(0)
    n_images = 80
    labels = np.repeat(["ant", "bee", "cow", "ant"], 20)
    pixels = rng.integers(0, 256, (n_images, 8, 8, 3), dtype=np.uint8)
    order = np.arange(n_images) if order_seed is None else np.random.default_rng(order_seed).permutation(n_images)
    folders = {name: place / name for name in ("clean_data", "segregated_data", "cleansed_labels")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    np.save(folders["clean_data"] / "images.npy", pixels[order])
    splits = pd.DataFrame(
        {
            "image": [f"{i:02d}.png" for i in range(n_images)],
            "row": np.argsort(order),
            "day": np.where(np.arange(n_images) < 70, "monday", "tuesday"),
            "split": np.where(np.arange(n_images) < 60, "train", "test"),
            "label": labels,
            "corruption": "",
            "corrupted_row": -1,
        }
    )
    tables.write(splits, folders["segregated_data"] / "splits.csv")
    tables.write(pd.DataFrame({"label": ["ant", "bee", "cow"]}), folders["segregated_data"] / "classes.csv")
    about = {"clean_data": "c" * 64, "truth_known": True, "target_day": "tuesday"}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
    np.save(folders["cleansed_labels"] / "posterior.npy", np.zeros((5, 3), np.float32))
    return folders


class SharingStep(FakeStep):
    """Remembers what was shared under which key."""

    device = "cpu"

    def __init__(self, *args: Any, **changed: Any) -> None:
        super().__init__(*args, **changed)
        self.shared_keys: list[Mapping[str, Any]] = []

    def shared(self, name: str, key: Mapping[str, Any], compute: Callable[[Path], None]) -> Path:
        self.shared_keys.append(key)
        folder = self.place / f"{name}-{len(self.shared_keys)}"
        folder.mkdir(parents=True)
        compute(folder)
        return folder


def run_step(data: Mapping[str, Path], place: Path, **changed: Any) -> tuple[SharingStep, pd.DataFrame]:
    step = SharingStep("cp_sampling", place, data, **changed)
    load_run("cp_sampling")(step)
    return step, tables.read(step.folders["replay_sample"] / "replay_sample.csv")


def save_script(path: Path, module: torch.nn.Module) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return str(path)


class Thumbnail(torch.nn.Module):
    """Averages over blocks of 4 x 4 px."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 4)


class Unfit(torch.nn.Module):
    """Returns what is no embedding."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.kind == "one number":
            return pixels.mean()
        if self.kind == "no number":
            return pixels.flatten(1) / 0
        return pixels.reshape(1, 5)


@pytest.mark.parametrize("changed", [{"type": "none"}, {"type": "l2_norm", "target_day": "monday"}, {"type": "l1_norm", "ratio": 0.01}])
def test_nothing_is_replayed_where_nothing_is_asked_for_and_it_is_said(changed: dict[str, Any], tmp_path: Path) -> None:
    step, sample = run_step(make_data(tmp_path / "data"), tmp_path / "out", **changed)
    assert sample.columns.tolist() == ["image", "pair", "distance"]
    assert len(sample) == 0
    assert step.metrics == {"images": 0, "pairs": 0}
    assert len(step.said) == 1
    assert step.said[0].startswith("nothing is replayed (")
    assert step.shared_keys == []


def test_random_replay_takes_mondays_training_images_without_embeddings(tmp_path: Path) -> None:
    step, sample = run_step(make_data(tmp_path / "data"), tmp_path / "out", type="random", ratio=0.5)
    assert len(sample) == sample["image"].nunique() == 30
    assert set(sample["image"]) <= {f"{i:02d}.png" for i in range(60)}
    assert sample["pair"].eq("").all()
    assert step.metrics == {"images": 30, "pairs": 0}
    assert step.shared_keys == []


@pytest.mark.parametrize("kind", ["random", "class_balanced", "cosine_similarity", "herding", "diverse"])
def test_permuting_the_data_set_changes_nothing(kind: str, tmp_path: Path) -> None:
    script = save_script(tmp_path / "thumbnail.pt", Thumbnail())
    samples = [
        run_step(make_data(tmp_path / f"data{seed}", order_seed=seed), tmp_path / f"out{seed}", type=kind, embedding=script)[1]
        for seed in (None, 1, 2)
    ]
    assert samples[0].equals(samples[1])
    assert samples[0].equals(samples[2])


@pytest.mark.parametrize(("kind", "n_images"), [("class_balanced", 20), ("herding", 20), ("diverse", 20), ("all", 60)])
def test_samplers_without_pairs_leave_pair_and_distance_empty(kind: str, n_images: int, tmp_path: Path) -> None:
    script = save_script(tmp_path / "thumbnail.pt", Thumbnail())
    step, sample = run_step(make_data(tmp_path / "data"), tmp_path / "out", type=kind, ratio=1 / 3, embedding=script)
    assert len(sample) == sample["image"].nunique() == n_images
    assert set(sample["image"]) <= {f"{i:02d}.png" for i in range(60)}
    assert sample[["pair", "distance"]].eq("").all(axis=None)
    assert step.metrics == {"images": n_images, "pairs": 0}
    assert len(step.shared_keys) == (kind in ("herding", "diverse"))
    assert step.said[0].startswith(f"{n_images} images are replayed ({'all' if kind == 'all' else 'ratio 0.333333'} of Monday's 60 ")


@pytest.mark.parametrize(("kind", "ratio", "n_images"), [("all", 0, 60), ("all", 1, 60), ("herding", 0, 0), ("diverse", 1, 60)])
def test_ratios_at_their_ends(kind: str, ratio: float, n_images: int, tmp_path: Path) -> None:
    script = save_script(tmp_path / "thumbnail.pt", Thumbnail())
    step, sample = run_step(make_data(tmp_path / "data"), tmp_path / "out", type=kind, ratio=ratio, embedding=script)
    assert len(sample) == n_images
    assert len(step.shared_keys) == (kind == "diverse")


def test_another_seed_gives_another_sample_and_the_same_seed_the_same(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    first, again, other = (
        run_step(data, tmp_path / f"out{number}", type="random", random_seed=seed)[1] for number, seed in enumerate((1, 1, 2))
    )
    assert first.equals(again)
    assert not first.equals(other)


def test_pairs_on_a_torchscript_file_are_pairs_of_two_classes_with_their_distance(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    script = save_script(tmp_path / "thumbnail.pt", Thumbnail())
    step, sample = run_step(data, tmp_path / "out", type="l2_norm", ratio=0.5, embedding=script)
    assert step.metrics["images"] == 30
    assert step.metrics["pairs"] == 15
    assert step.metrics["mean_distance"] == pytest.approx(sample["distance"].astype(float).mean())
    days = open_days(data["segregated_data"], data["clean_data"])
    for _, pair in sample.groupby("pair"):
        first, second = pair["image"]
        assert days.splits.loc[first, "label"] != days.splits.loc[second, "label"]
        blocks = days.view([first, second])[:].astype(np.float64).reshape(2, 2, 4, 2, 4, 3).mean(axis=(2, 4)) / 255
        assert float(pair["distance"].iloc[0]) == pytest.approx(np.linalg.norm(blocks[0] - blocks[1]), rel=1e-2)
    assert step.shared_keys[0]["backbone"].startswith("torchscript:")
    assert step.shared_keys[0]["pixels"] == days.sources[0].digest  # of all images, so that another split finds them


def test_a_published_model_looks_at_each_image_once_for_embeddings_and_for_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, build = make_data(tmp_path / "data"), classifier.build_classifier
    monkeypatch.setattr(
        classifier, "build_classifier", lambda *_, weights, **how: build("small_cnn", 3, **how)
    )  # its weights would be downloaded
    step, sample = run_step(data, tmp_path / "out", type="l2_norm", ratio=0.2, embedding="resnet18")
    assert len(sample) == 12
    model = build("small_cnn", 3, image_size=8, dropout=0, seed=0)
    model.freeze_backbone()
    days = open_days(data["segregated_data"], data["clean_data"])
    head = SharingStep("train", tmp_path / "head", data)
    feature_cache.shared_inputs(head, days)(model, days.ids("tuesday", "test"))
    assert head.shared_keys[0] == step.shared_keys[0]


def test_pairs_on_mondays_model_lie_as_far_apart_as_its_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(tmp_path / "data")
    model = classifier.build_classifier("small_cnn", 3, image_size=8, dropout=0.5, seed=1)
    (tmp_path / "monday").mkdir()
    classifier.save_classifier(model, tmp_path / "monday", {"class_names": ["ant", "bee", "cow"]})
    monkeypatch.setattr(embeddings, "open_monday_model", lambda *_: classifier.load_classifier(tmp_path / "monday")[0])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "monday_model").write_text("a file that is called so is not meant")
    step, sample = run_step(data, tmp_path / "out", type="l1_norm", ratio=0.2, monday_model=SimpleNamespace(freeze_backbone=False))
    days = open_days(data["segregated_data"], data["clean_data"])
    assert len(sample) == 12
    for _, pair in sample.groupby("pair"):
        vectors = classifier.embed(model, days.view(pair["image"].tolist()))
        assert float(pair["distance"].iloc[0]) == pytest.approx(np.abs(vectors[0] - vectors[1]).sum(), rel=1e-2)
    assert step.shared_keys[0]["backbone"] == feature_cache.backbone_digest(model)


def test_a_ratio_that_the_buffer_does_not_hold_leaves_no_artifact(tmp_path: Path) -> None:
    script = save_script(tmp_path / "thumbnail.pt", Thumbnail())
    with pytest.raises(BCCPError, match=r"cp_sampling\.ratio asks for 30 pairs of Monday's 60 training images"):
        run_step(make_data(tmp_path / "data"), tmp_path / "out", type="l2_norm", ratio=1, embedding=script)
    assert not (tmp_path / "out" / "replay_sample").exists()


def test_labels_of_another_data_set_are_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    np.save(data["cleansed_labels"] / "posterior.npy", np.zeros((5, 4), np.float32))
    with pytest.raises(BCCPError, match="cleansed_labels has 4 classes, but segregated_data 3"):
        run_step(data, tmp_path / "out", type="none")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("one number", r"returns \(\) for 64 images: let it return one tensor \(n, D\)"),
        ("no number", "gives embeddings that are infinite or no numbers"),
        ("wrong shape", r"does not take float images of shape \(64, 3, 8, 8\)"),
    ],
)
def test_a_torchscript_module_that_gives_no_embeddings_is_refused(kind: str, sentence: str, tmp_path: Path) -> None:
    script = save_script(tmp_path / "unfit.pt", Unfit(kind))
    with pytest.raises(BCCPError, match=rf"cp_sampling\.embedding=.*unfit\.pt {sentence}"):
        run_step(make_data(tmp_path / "data"), tmp_path / "out", type="l2_norm", embedding=script)


def test_a_file_that_is_no_torchscript_and_an_unknown_name_are_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    (tmp_path / "notes.pt").write_text("no module", encoding="utf-8")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "state.pt")
    for name in ("notes.pt", "state.pt"):
        with pytest.raises(BCCPError, match=rf"cp_sampling\.embedding=.*{name} is no TorchScript file"):
            run_step(data, tmp_path / f"out-{name}", type="l2_norm", embedding=str(tmp_path / name))
    with pytest.raises(BCCPError, match=r"cp_sampling\.embedding='resnet81' is neither a file nor a torchvision model.*did you mean"):
        run_step(data, tmp_path / "out", type="l2_norm", embedding="resnet81")
