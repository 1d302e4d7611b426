"""Closest pair sampling: against a literal loop, its law counted out by hand, its limits, and the step around it."""

from __future__ import annotations

import itertools
import json
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.closest_pairs import (
    DISTANCES,
    Pairs,
    closest_pairs,
    cosine_distances,
    l1_distances,
    l2_distances,
    n_pairs_for,
    random_sample,
)
from bccp.data.dataset import open_days
from bccp.models import classifier, embeddings, feature_cache
from support.buffers import make_buffer
from support.fake_step import FakeStep, load_run

METRICS = sorted(DISTANCES)


def slow_distance(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], metric: str) -> float:
    if metric == "l1_norm":
        return float(np.abs(a - b).sum())
    if metric == "l2_norm":
        return float(np.sqrt(((a - b) ** 2).sum()))
    lengths = float(np.sqrt((a * a).sum())) * float(np.sqrt((b * b).sum()))
    return max(1 - float((a * b).sum()) / lengths, 0.0) if lengths else 1.0


def slow_pairs(
    embeddings: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], n_pairs: int, metric: str, rng: np.random.Generator
) -> list[tuple[int, int, float]]:
    """The procedure read aloud: lists of unused images, one round after the other."""
    unused = {int(k): [int(i) for i in np.flatnonzero(labels == k)] for k in np.unique(labels)}
    found = []
    for _ in range(n_pairs):
        uniform = rng.random(len(unused) + 1)
        drawn = {k: images[int(u * len(images))] for (k, images), u in zip(unused.items(), uniform[:-1], strict=True) if images}
        alive = list(drawn)
        anchor = alive[int(uniform[-1] * len(alive))]
        best = None
        for k in alive:
            if k != anchor:
                a, b = (embeddings[drawn[c]].astype(np.float64) for c in (anchor, k))
                candidate = (slow_distance(b, a, metric), drawn[k], k)
                best = candidate if best is None or candidate < best else best
        assert best is not None
        found.append((drawn[anchor], best[1], best[0]))
        for k in (anchor, best[2]):
            images = unused[k]
            images[images.index(drawn[k])] = images[-1]
            images.pop()
    return found


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("counts", "n_pairs"), [([9, 9, 9, 9], 14), ([2, 40, 1, 30, 7], 20), ([600, 700], 560), ([3] * 40, 50)])
def test_the_pairs_are_those_of_the_literal_loop_to_the_bit(metric: str, counts: list[int], n_pairs: int) -> None:
    embeddings, labels = make_buffer(counts)
    pairs = closest_pairs(embeddings, labels, n_pairs=n_pairs, metric=metric, rng=np.random.default_rng(5))
    slow = slow_pairs(embeddings, labels, n_pairs, metric, np.random.default_rng(5))
    assert list(zip(pairs.first_idx.tolist(), pairs.second_idx.tolist(), pairs.distance.tolist(), strict=True)) == slow


@pytest.mark.parametrize("metric", METRICS)
def test_the_first_pair_follows_the_law_counted_out_by_hand(metric: str) -> None:
    embeddings, labels = make_buffer([2, 1, 3], dims=2, seed=3)
    law: Counter[tuple[int, int]] = Counter()
    outcomes = list(itertools.product(*(np.flatnonzero(labels == k).tolist() for k in range(3)), range(3)))
    for *drawn, anchor in outcomes:
        rows = embeddings[drawn].astype(np.float64)
        others = [(slow_distance(rows[k], rows[anchor], metric), drawn[k]) for k in range(3) if k != anchor]
        law[drawn[anchor], min(others)[1]] += 1
    n_trials = 6000
    rng = np.random.default_rng(11)
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(n_trials):
        pair = closest_pairs(embeddings, labels, n_pairs=1, metric=metric, rng=rng)
        seen[int(pair.first_idx[0]), int(pair.second_idx[0])] += 1
    assert set(seen) == set(law)
    for pair_idx, ways in law.items():
        p = ways / len(outcomes)
        assert abs(seen[pair_idx] - n_trials * p) < 5 * np.sqrt(n_trials * p * (1 - p)), "five standard deviations of a binomial"


@pytest.mark.parametrize("metric", METRICS)
def test_only_the_two_chosen_images_leave_the_pool_and_none_twice(metric: str) -> None:
    embeddings, labels = make_buffer([20] * 10)
    n_pairs = n_pairs_for(0.8, 200)  # a pool that lost all ten drawn images a round would be empty at a ratio of 0.2
    pairs = closest_pairs(embeddings, labels, n_pairs=n_pairs, metric=metric, rng=np.random.default_rng(0))
    used = np.concatenate([pairs.first_idx, pairs.second_idx])
    assert len(np.unique(used)) == 160
    assert (labels[pairs.first_idx] != labels[pairs.second_idx]).all()


def test_fewer_pairs_are_a_prefix_of_more() -> None:
    embeddings, labels = make_buffer([900, 800, 700])
    few, many = (closest_pairs(embeddings, labels, n_pairs=n, metric="l2_norm", rng=np.random.default_rng(1)) for n in (30, 700))
    assert few.first_idx.tolist() == many.first_idx[:30].tolist()
    assert few.second_idx.tolist() == many.second_idx[:30].tolist()


def test_equally_near_images_are_decided_by_the_smallest_position() -> None:
    labels = np.array([3, 2, 1, 0])
    embeddings = np.array([[1.0], [-1.0], [1.0], [0.0]], dtype=np.float32)
    firsts = {}
    for seed in range(40):
        pair = closest_pairs(embeddings, labels, n_pairs=1, metric="l1_norm", rng=np.random.default_rng(seed))
        firsts[int(pair.first_idx[0])] = int(pair.second_idx[0])
    assert firsts == {0: 2, 1: 3, 2: 0, 3: 0}, "position 3 is as near to 0, 1 and 2"


def test_distances_of_a_small_case_are_those_computed_by_hand() -> None:
    vectors = np.array([[3.0, 4.0], [0.0, 0.0], [-4.0, 3.0], [6.0, 8.0]])
    assert l1_distances(vectors, 0).tolist() == [0, 7, 8, 7]
    assert l2_distances(vectors, 0).tolist() == pytest.approx([0, 5, np.sqrt(50), 5])
    assert cosine_distances(vectors, 0).tolist() == pytest.approx([0, 1, 1, 0], abs=1e-12)
    assert cosine_distances(vectors, 1).tolist() == [1, 1, 1, 1], "a zero vector is at distance 1 from everything"


@pytest.mark.parametrize("counts", [[30, 3, 2], [5, 5], [1, 60, 1, 1], [7], [1, 15_000]])
def test_a_ratio_too_large_names_the_one_that_can_be_reached_and_that_one_works(counts: list[int]) -> None:
    embeddings, labels = make_buffer(counts)
    n_images = len(labels)
    with pytest.raises(BCCPError, match=r"cp_sampling\.ratio asks for .* use cp_sampling\.ratio=([\d.]+) or less") as caught:
        closest_pairs(embeddings, labels, n_pairs=n_images, metric="l2_norm", rng=np.random.default_rng(2))
    words = str(caught.value)
    ratio = float(words.split("cp_sampling.ratio=")[1].split()[0])
    reached = int(words.split("but after ")[1].split()[0])
    assert n_pairs_for(ratio, n_images) == reached
    pairs = closest_pairs(embeddings, labels, n_pairs=reached, metric="l2_norm", rng=np.random.default_rng(2))
    assert len(pairs.distance) == reached
    with pytest.raises(BCCPError):
        closest_pairs(embeddings, labels, n_pairs=reached + 1, metric="l2_norm", rng=np.random.default_rng(2))


def test_memory_mapped_embeddings_give_the_same_pairs_and_are_left_as_they_were(tmp_path: Path) -> None:
    embeddings, labels = make_buffer([12, 9, 10])
    np.save(tmp_path / "e.npy", embeddings)
    before = embeddings.copy(), labels.copy()
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r")
    both = [closest_pairs(e, labels, n_pairs=9, metric="cosine_similarity", rng=np.random.default_rng(4)) for e in (embeddings, mapped)]
    assert both[0].first_idx.tolist() == both[1].first_idx.tolist()
    assert both[0].distance.tolist() == both[1].distance.tolist()
    assert (embeddings == before[0]).all()
    assert (labels == before[1]).all()


def test_no_pairs_are_an_empty_sample() -> None:
    embeddings, labels = make_buffer([4, 4])
    pairs = closest_pairs(embeddings, labels, n_pairs=0, metric="l1_norm", rng=np.random.default_rng(0))
    assert isinstance(pairs, Pairs)
    assert pairs.first_idx.shape == pairs.second_idx.shape == pairs.distance.shape == (0,)


def test_an_unknown_distance_is_refused_with_the_nearest_name() -> None:
    embeddings, labels = make_buffer([4, 4])
    with pytest.raises(BCCPError, match=r"cp_sampling\.type=l2 is no distance: use one of l1_norm"):
        closest_pairs(embeddings, labels, n_pairs=1, metric="l2", rng=np.random.default_rng(0))


@pytest.mark.parametrize(("ratio", "n_images", "n_pairs"), [(0.5, 50_000, 12_500), (0.5, 3, 1), (0.01, 30, 0), (1, 7, 3), (0, 9, 0)])
def test_a_ratio_is_that_many_pairs(ratio: float, n_images: int, n_pairs: int) -> None:
    assert n_pairs_for(ratio, n_images) == n_pairs


def test_a_random_sample_has_no_image_twice_and_takes_each_as_often() -> None:
    rng = np.random.default_rng(0)
    n_trials, n_images, n_chosen = 2000, 20, 6
    seen = np.zeros(n_images)
    for _ in range(n_trials):
        chosen = random_sample(n_images, n_chosen=n_chosen, rng=rng)
        assert len(np.unique(chosen)) == n_chosen
        assert (np.diff(chosen) > 0).all()
        seen[chosen] += 1
    p = n_chosen / n_images
    assert np.abs(seen - n_trials * p).max() < 5 * np.sqrt(n_trials * p * (1 - p)), "five standard deviations of a binomial"


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
