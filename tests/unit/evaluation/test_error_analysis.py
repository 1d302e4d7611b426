"""Errors: a planted confusion is found first, chance is not mistaken for a slice, and what to fix follows the rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from bccp.data import tables
from bccp.data.dataset import open_days
from bccp.evaluation import error_analysis, evaluate, scores
from bccp.models import classifier
from support.testing_step import TestingStep, cleansed, make_data, picture

CLASSES = [str(k) for k in range(10)]


def predictions_with(n_images: int, *, error_rate: float, seed: int, planted: bool = False) -> pd.DataFrame:
    """Errors spread by chance; planted: most of Tuesday's mosaics of class 3 are taken for 8."""
    rng = np.random.default_rng(seed)
    label_idx = rng.integers(0, 10, n_images)
    day = rng.choice(["monday", "tuesday"], n_images)
    corruption = np.where(day == "tuesday", rng.choice(["mosaic", "random_lines"], n_images), "")
    predicted = np.where(rng.random(n_images) < error_rate, (label_idx + rng.integers(1, 10, n_images)) % 10, label_idx)
    if planted:
        chosen = (label_idx == 3) & (corruption == "mosaic")
        predicted[chosen & (rng.random(n_images) < 0.8)] = 8
    probs = np.full((n_images, 10), 0.05)
    probs[np.arange(n_images), predicted] = 0.55
    references = pd.DataFrame({"image": [f"{i:05d}" for i in range(n_images)], "day": day, "verified": "true"})
    references["label"] = np.array(CLASSES, object)[label_idx]
    corruptions = dict(zip(references["image"], corruption, strict=True))
    sizes = dict(zip(references["image"], rng.choice(["32 to 63 px", "64 to 127 px"], n_images), strict=True))
    return scores.predictions_table(references, probs, CLASSES, corruptions=corruptions, sizes=sizes)


def test_a_planted_confusion_is_the_first_pair_and_the_first_slice_with_its_name() -> None:
    predictions = predictions_with(2000, error_rate=0.05, seed=0, planted=True)
    pairs = error_analysis.confused_pairs(predictions)
    chosen = predictions[(predictions["true_label"] == "3") & (predictions["predicted_label"] == "8")]
    first = pairs.iloc[0]
    assert first[["true_label", "predicted_label", "errors"]].tolist() == ["3", "8", len(chosen)]
    assert first["rate"] == pytest.approx(len(chosen) / (predictions["true_label"] == "3").sum())
    assert pairs["share"].sum() == pytest.approx(1)
    slices, of_image = error_analysis.error_slices(predictions)
    assert slices.loc[0, "slice"] == "class 3 → 8, mosaic"
    assert len(slices) == 1, "all other errors are spread by chance"
    mosaics = predictions[(predictions["true_label"] == "3") & (predictions["corruption"] == "mosaic")]
    assert slices.loc[0, ["errors", "n"]].tolist() == [(mosaics["correct"] == "false").sum(), len(mosaics)]
    assert set(of_image.index[of_image != ""]) == set(mosaics.index[mosaics["correct"] == "false"])


def test_what_a_first_slice_explains_is_not_told_again_and_slices_do_not_overlap() -> None:
    predictions = predictions_with(2000, error_rate=0.05, seed=1, planted=True)
    worse = (predictions["day"] == "tuesday") & (predictions["true_label"] != "3") & (np.arange(2000) % 3 == 0)
    predictions.loc[worse, ["predicted_label", "correct"]] = ["0", "false"]
    predictions.loc[worse & (predictions["true_label"] == "0"), "correct"] = "true"
    slices, of_image = error_analysis.error_slices(predictions)
    assert slices.loc[0, "slice"] == "class 3 → 8, mosaic"
    assert any("tuesday" in name for name in slices["slice"][1:])
    counts = of_image.value_counts()
    assert slices.set_index("slice")["errors"].to_dict() == counts[counts.index != ""].to_dict()
    assert slices["n"].sum() <= 2000
    assert (slices["p_adjusted"] <= 0.05).all()


def test_errors_that_are_spread_by_chance_make_a_slice_in_at_most_one_of_twenty_sets() -> None:
    found = sum(len(error_analysis.error_slices(predictions_with(300, error_rate=0.2, seed=seed))[0]) > 0 for seed in range(20))
    assert found <= stats.binom.ppf(0.999, 20, 0.05)


def test_the_chance_and_the_interval_of_a_slice_are_scipys() -> None:
    table = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, 101)))])
    for errors, n_images, n_wrong, n_left in [(3, 10, 20, 100), (1, 5, 5, 30), (10, 10, 90, 100), (0, 7, 12, 50), (5, 60, 50, 100)]:
        expected = stats.hypergeom.sf(errors - 1, n_left, n_wrong, n_images)
        assert error_analysis.hypergeometric_tail(errors, n_images, n_wrong, n_left, table) == pytest.approx(expected)
    low = error_analysis.wilson_lower_bound(np.array([0, 3, 10]), np.array([0, 10, 10]))
    expected = [stats.binomtest(count, 10).proportion_ci(method="wilson").low for count in (3, 10)]
    assert low.tolist() == pytest.approx([0, *expected])


@pytest.mark.parametrize("block", [7, 100])
def test_the_nearest_training_images_are_scikit_learns_whatever_the_blocks(block: int) -> None:
    rng = np.random.default_rng(0)
    training, queries = rng.normal(size=(60, 8)).astype(np.float32), rng.normal(size=(11, 8)).astype(np.float32)
    training[40], training[50] = training[3], 0  # a copy of the fourth, and one without any direction
    found = error_analysis.nearest_training(queries, (training[first : first + block] for first in range(0, 60, block)), k=5)
    others = np.delete(np.arange(60), [40, 50])
    known = NearestNeighbors(n_neighbors=5, metric="cosine").fit(training[others])
    near = found.position.copy()
    for row, expected in zip(near, others[known.kneighbors(queries)[1]], strict=True):
        kept = [place for place in row.tolist() if place != 40]
        assert kept == expected.tolist()[: len(kept)]
        assert (40 in row) <= (3 in row)
    (first,) = error_analysis.nearest_training(training[3:4], [training], k=2).position
    assert first.tolist() == [3, 40], "of equally near ones the first"


def test_without_training_images_there_are_no_neighbours() -> None:
    queries = np.ones((3, 2), np.float32)
    assert error_analysis.nearest_training(queries, []).position.shape == (3, 0)
    assert error_analysis.nearest_training(queries, [np.ones((2, 2), np.float32)]).position.shape == (3, 2)


TRAINING = pd.DataFrame(
    [
        ("a", "3", "3", False, False),
        ("b", "3", "3", False, False),
        ("c", "8", "3", True, False),
        ("d", "5", "3", True, False),
        ("e", "8", "8", False, False),
        ("f", "8", "8", False, True),
    ],
    columns=["image", "given", "believed", "doubted", "bad"],
)


@pytest.mark.parametrize(
    ("near", "constant", "action"),
    [
        ("abe", False, "none"),  # its class lies near, and nobody doubts a label that speaks for 8
        ("aee", False, "collect"),
        ("abc", False, "relabel"),  # c was given 8 and looks like a 3
        ("abd", False, "none"),  # d is doubted, but does not speak for 8
        ("eec", False, "relabel"),
        ("abf", False, "drop"),
        ("eef", False, "drop"),  # not collect
        ("abe", True, "drop"),
        ("", False, "none"),
    ],
)
def test_what_to_fix_follows_the_rules_in_their_order(near: str, constant: bool, action: str) -> None:
    errors = pd.DataFrame({"true_label": ["3"], "predicted_label": ["8"]})
    places = np.array([["abcdef".index(name) for name in near]], np.int64).reshape(1, len(near))
    assert error_analysis.what_to_fix(errors, TRAINING, places, np.array([constant])) == [action]


def test_constant_images_and_copies_with_other_labels_teach_nothing() -> None:
    bad = error_analysis.bad_images(given=list("aabbab"), sha256=list("112345"), phash=["p", "p", "q", "", "r", "r"])
    assert bad.tolist() == [False, False, False, True, True, True]


def test_the_same_work_is_gathered_and_the_costliest_comes_first() -> None:
    rows = [("1", "3", "8", 1.0, "relabel"), ("2", "3", "8", 2.0, "relabel"), ("3", "3", "8", 9.0, "none"), ("4", "7", "8", 4.0, "collect")]
    errors = pd.DataFrame(rows, columns=["image", "true_label", "predicted_label", "loss", "action"])
    errors = errors.assign(day="tuesday", corruption=["", "", "", "mosaic"])
    near = np.array([[0, 2], [2, 3], [0, 1], [4, 5]])
    table = error_analysis.fix_first(errors, TRAINING, near)
    assert table["action"].tolist() == ["collect", "relabel", "none"]
    assert table["what"].tolist()[:2] == ["images of class 7, tuesday, mosaic", "doubted labels near class 3 that speak for 8"]
    assert table.loc[1, ["errors", "loss", "training_images", "test_images"]].tolist() == [2, 3.0, "c", "2;1"]
    assert table["share"].sum() == pytest.approx(1)
    assert table.loc[0, "training_images"] == ""


def test_without_errors_the_tables_have_their_columns_and_no_row() -> None:
    predictions = predictions_with(50, error_rate=0, seed=0)
    slices, of_image = error_analysis.error_slices(predictions)
    assert len(slices) == 0
    assert (of_image == "").all()
    pairs = error_analysis.confused_pairs(predictions)
    assert pairs.columns.tolist() == ["true_label", "predicted_label", "errors", "images", "rate", "share", "verified"]
    assert len(pairs) == 0
    none = predictions[:0].assign(action="")
    assert len(error_analysis.fix_first(none, TRAINING, np.empty((0, 5), np.int64))) == 0


@pytest.fixture(params=["auto", "python"], ids=["with pyarrow", "without pyarrow"])
def texts(request: pytest.FixtureRequest) -> Iterator[None]:
    """How pandas keeps texts: environments of single steps have no pyarrow."""
    with pd.option_context("mode.string_storage", request.param):
        yield


def test_the_costliest_error_comes_first_beside_the_training_image_that_it_is_a_copy_of(tmp_path: Path, texts: None) -> None:
    data = cleansed(make_data(tmp_path / "data"), tmp_path / "cleansed")
    days = open_days(data["segregated_data"], data["clean_data"])
    images = np.load(data["clean_data"] / "images.npy")
    row = days.splits["row"]
    images[row["20.png"]] = images[row["35.png"]]
    np.save(data["clean_data"] / "images.npy", images)
    days = open_days(data["segregated_data"], data["clean_data"])
    label_idx = days.encode(days.splits["label"][:30].tolist())
    probs = np.where(np.eye(2)[label_idx] == 1, 0.6, 0.4)
    probs[[5, 20]] = (
        1 - np.array([[0.7], [0.99]]) * np.eye(2)[label_idx[[5, 20]]] - np.array([[0.3], [0.01]]) * (1 - np.eye(2)[label_idx[[5, 20]]])
    )
    references = days.splits[:30].reset_index()[["image", "day", "label"]].assign(verified="true")
    judged = evaluate.Judged(scores.predictions_table(references, probs, days.classes), probs, None)
    step = TestingStep("test", tmp_path / "out", data)
    manifest = tables.read(data["clean_data"] / "manifest.csv")
    found = evaluate.explain_errors(step, days, classifier.load_classifier(data["model"])[0], judged, manifest)
    assert found.errors["image"].tolist() == ["20.png", "05.png"]
    assert found.errors["rank"].tolist() == [1, 2]
    assert found.errors["nearest"].iloc[0].split(";")[0] == "35.png"
    (error, nearest, *_), _ = found.gallery
    assert np.array_equal(error.pixels, days.view(["20.png"])[0])
    assert np.array_equal(error.pixels, nearest.pixels)
    wanted = days.splits["label"].iloc[20]
    assert error.lines[0] == f"true: {wanted}"
    assert nearest.lines == ["given: bee", "likely: ant", "tuesday"]
    path = evaluate.draw_errors(tmp_path, found, days.classes, "a note")
    assert (picture(path)[:8] == 255).all()
