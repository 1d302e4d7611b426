"""Scores on the test images: figures against scikit-learn's, what is measured against, and pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.evaluation import metrics, plots, scores
from support.testing_step import picture

CLASSES = [f"{k:02d}" for k in range(8)]
LONG_NOTE = "verified=false: the labels of 17 of 29 test images are the given ones"


def make_predictions(n_images: int, *, seed: int = 0, n_true: int = 8, n_predicted: int = 8) -> pd.DataFrame:
    """Random labels and predictions over some of the classes, days of unequal size."""
    rng = np.random.default_rng(seed)
    label, predicted = rng.integers(0, n_true, n_images), rng.integers(0, n_predicted, n_images)
    predicted = np.where(rng.random(n_images) < 0.5, np.minimum(label, n_predicted - 1), predicted)
    return pd.DataFrame(
        {
            "image": [f"{i:05d}.png" for i in range(n_images)],
            "day": np.where(rng.random(n_images) < 0.3, "monday", "tuesday"),
            "true_label": [CLASSES[k] for k in label],
            "predicted_label": [CLASSES[k] for k in predicted],
            "correct": np.where(label == predicted, "true", "false"),
            "verified": "true",
        }
    )


@pytest.mark.parametrize(("n_true", "n_predicted"), [(8, 8), (5, 8), (8, 3), (2, 2)])
def test_figures_are_those_of_scikit_learn_also_with_classes_that_do_not_occur(n_true: int, n_predicted: int) -> None:
    predictions = make_predictions(300, n_true=n_true, n_predicted=n_predicted)
    figures = scores.evaluate(predictions, CLASSES)
    label, predicted = predictions["true_label"], predictions["predicted_label"]
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(label, predicted, average="macro", zero_division=0)
    assert figures["precision_macro"] == pytest.approx(precision, abs=1e-12)
    assert figures["recall_macro"] == pytest.approx(recall, abs=1e-12)
    assert figures["f1_macro"] == pytest.approx(f1, abs=1e-12)
    assert figures["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(label, predicted), abs=1e-12)
    for day, part in predictions.groupby("day"):
        right = sklearn_metrics.accuracy_score(part["true_label"], part["predicted_label"])
        assert figures[f"accuracy_{day}"] == pytest.approx(right, abs=1e-12)
    assert figures["images"] == 300


def test_figures_by_class_and_day_are_those_of_scikit_learn() -> None:
    predictions = make_predictions(250, n_true=6, n_predicted=7)
    table = scores.per_class(predictions, CLASSES)
    assert len(table) == 3 * len(CLASSES)
    for day, rows in table.groupby("day"):
        part = predictions if day == "all" else predictions[predictions["day"] == day]
        expected = sklearn_metrics.precision_recall_fscore_support(
            part["true_label"], part["predicted_label"], labels=CLASSES, zero_division=0
        )
        for column, values in zip(["precision", "recall", "f1", "images"], expected, strict=True):
            np.testing.assert_allclose(rows[column], values, atol=1e-12)
        assert rows["label"].tolist() == CLASSES


def test_the_confusion_matrix_of_a_small_case_is_the_one_counted_by_hand() -> None:
    label, predicted = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 0, 2, 2])
    matrix = scores.confusion_matrix(label, predicted, n_classes=3)
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    figures = scores.scores(matrix)
    assert figures.accuracy == pytest.approx(4 / 6)
    assert figures.recall.tolist() == pytest.approx([1 / 2, 1, 2 / 3])
    assert figures.precision.tolist() == pytest.approx([1 / 2, 1 / 2, 1])
    assert figures.f1.tolist() == pytest.approx([1 / 2, 2 / 3, 4 / 5])


def make_splits() -> pd.DataFrame:
    rows = [
        ("m/1", "monday", "test", "cat"),
        ("m/2", "monday", "train", "cat"),
        ("t/1", "tuesday", "test", ""),
        ("t/2", "tuesday", "test", "dog"),
        ("t/3", "tuesday", "train", ""),
        ("t/4", "tuesday", "test", ""),
    ]
    return pd.DataFrame(rows, columns=["image", "day", "split", "label"]).set_index("image")


def label_table(**labels: str) -> pd.DataFrame:
    return pd.DataFrame({"image": [name.replace("_", "/") for name in labels], "label": list(labels.values())})


def test_the_truth_counts_before_given_labels_and_only_for_the_target_day() -> None:
    true_labels, given_labels = label_table(t_1="dog", m_1="dog"), label_table(t_1="cat", t_2="cat", t_3="dog", m_1="dog")
    references, n_left_out = scores.reference_labels(
        make_splits(), target_day="tuesday", true_labels=true_labels, given_labels=given_labels
    )
    assert references.to_numpy().tolist() == [
        ["m/1", "monday", "cat", "true"],
        ["t/1", "tuesday", "dog", "true"],
        ["t/2", "tuesday", "cat", "false"],
    ]
    assert n_left_out == 1, "t/4 has no label at all"


def test_with_monday_as_target_its_own_split_labels_are_not_trusted() -> None:
    given = label_table(m_1="dog")
    references, _ = scores.reference_labels(make_splits(), target_day="monday", given_labels=given)
    assert references.set_index("image").loc["m/1"].tolist() == ["monday", "dog", "false"]


def test_no_label_at_all_is_refused() -> None:
    splits = make_splits().query("day == 'tuesday'")
    with pytest.raises(BCCPError, match="none of the test images has a label"):
        scores.reference_labels(splits, target_day="tuesday")


def test_a_new_metric_is_in_the_table_and_a_figure_of_the_run_with_its_bounds_and_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    surprise = metrics.Metric(lambda counts: 5 + metrics.accuracy(counts), highest=9.0)
    monkeypatch.setitem(metrics.METRICS, "surprise", surprise)
    predictions = make_predictions(60).assign(corruption="", size="")
    probs = np.random.default_rng(0).dirichlet(np.ones(len(CLASSES)), len(predictions))
    table = scores.metrics_table(predictions, probs, None, CLASSES, top_k=1, n_resamples=20, seed=0)
    found = table[(table["metric"] == "surprise") & (table["slice"] == "all")]
    value, low, high = found[["value", "low", "high"]].to_numpy()[0]
    assert 1 < low < value < high
    assert scores.run_figures(table)["surprise"] == value


def test_unverified_labels_are_flagged_in_every_table_and_said() -> None:
    predictions = make_predictions(60)
    predictions.loc[predictions["day"] == "tuesday", "verified"] = "false"
    n_tuesday = int((predictions["day"] == "tuesday").sum())
    figures = scores.evaluate(predictions, CLASSES)
    assert figures["unverified_images"] == n_tuesday
    assert scores.remark(figures) == f"verified=false: the labels of {n_tuesday} of 60 test images are the given ones"
    flags = scores.per_class(predictions, CLASSES).groupby("day")["verified"].unique()
    assert {day: list(values) for day, values in flags.items()} == {"all": ["false"], "monday": ["true"], "tuesday": ["false"]}
    assert scores.remark(scores.evaluate(make_predictions(60), CLASSES)) == ""


def test_predictions_say_the_most_probable_class_and_its_probability() -> None:
    references = pd.DataFrame({"image": ["a", "b"], "day": "monday", "label": ["y", "x"], "verified": ["true", "false"]})
    probs = np.array([[0.25, 0.75], [0.125, 0.875]], dtype=np.float32)
    table = scores.predictions_table(references, probs, ["x", "y"], corruptions={"a": "", "b": "mosaic"}, sizes={"b": "8 to 15 px"})
    about = ["image", "day", "true_label", "predicted_label", "probability", "correct", "verified", "corruption", "size"]
    assert table.columns.tolist() == [*about[:5], "loss", *about[5:]]
    assert table[about].to_numpy().tolist() == [
        ["a", "monday", "y", "y", 0.75, "true", "true", "", ""],
        ["b", "monday", "x", "y", 0.875, "false", "false", "mosaic", "8 to 15 px"],
    ]
    np.testing.assert_allclose(table["loss"], [-np.log(0.75), -np.log(0.125)], rtol=1e-6)


def with_slices(n_images: int, *, n_classes: int, seed: int = 0) -> tuple[pd.DataFrame, npt.NDArray[np.float64], list[str]]:
    """Predictions of a model that is often right, Tuesday's in two corruptions and two sizes, with one image that is neither."""
    rng, classes = np.random.default_rng(seed), CLASSES[:n_classes]
    label_idx = rng.integers(0, n_classes, n_images)
    probs = rng.dirichlet(np.ones(n_classes), n_images) + 0.4 * np.eye(n_classes)[label_idx]
    probs /= probs.sum(axis=1, keepdims=True)
    day = np.where(np.arange(n_images) % 3 == 0, "monday", "tuesday")
    references = pd.DataFrame({"image": [f"{i:04d}" for i in range(n_images)], "day": day, "verified": "true"})
    references["label"] = np.array(classes, object)[label_idx]
    ids = references["image"].tolist()
    corruptions = {image: ("mosaic" if i % 2 else "random_boxes") for i, image in enumerate(ids) if i % 3}
    sizes = {image: ("64 to 127 px" if i % 5 == 0 else "256 to 511 px") for i, image in enumerate(ids)} | {ids[0]: "4 to 7 px"}
    return scores.predictions_table(references, probs, classes, corruptions=corruptions, sizes=sizes), probs, classes


def measured(n_images: int = 90, *, n_classes: int = 4, top_k: int = 3, n_resamples: int = 50, **known: Any) -> pd.DataFrame:
    predictions, probs, classes = with_slices(n_images, n_classes=n_classes)
    table = scores.metrics_table(predictions, probs, known.get("former"), classes, top_k=top_k, n_resamples=n_resamples, seed=1)
    assert not table.duplicated(["metric", "slice"]).any()
    return table.set_index(["metric", "slice"])


def test_figures_come_for_each_day_class_corruption_and_size_with_intervals_around_them() -> None:
    table, (predictions, probs, classes) = measured(), with_slices(90, n_classes=4)
    parts = {
        **{f"day={day}": predictions["day"] == day for day in ("monday", "tuesday")},
        **{f"corruption={kind or 'none'}": predictions["corruption"] == kind for kind in ("", "mosaic", "random_boxes")},
        **{f"size={size}": predictions["size"] == size for size in ("4 to 7 px", "64 to 127 px", "256 to 511 px")},
    }
    assert set(table.index.get_level_values(1)) == {"all", *parts, *(f"class={name}" for name in classes)}
    assert [name for name in table.index.get_level_values(1).unique() if "size" in name] == list(parts)[-3:], "small sizes come first"
    for name, mask in (parts | {"all": np.ones(90, bool)}).items():
        right = (predictions.loc[mask, "correct"] == "true").mean()
        row = table.loc["accuracy", name]
        assert (row["value"], row["n"]) == (pytest.approx(right), mask.sum())
    several = table[table["n"] > 1]
    assert ((several["low"] <= several["value"]) & (several["value"] <= several["high"])).all()
    assert (several.loc[several.index.get_level_values(0) == "accuracy", "low"] >= 0).all()
    assert table.loc[("accuracy", "size=4 to 7 px"), ["low", "high"]].isna().all(), "a single image has no interval"
    assert ("auroc_macro", "size=4 to 7 px") not in table.index
    by_class = scores.per_class(predictions, classes).query("day == 'all'").set_index("label")
    for name in classes:
        for metric in ("precision", "recall", "f1"):
            assert table.loc[(metric, f"class={name}"), "value"] == pytest.approx(by_class.loc[name, metric])
        curve = scores.threshold_curves(predictions, probs, classes)[name]
        areas = [table.loc[(metric, f"class={name}"), "value"] for metric in ("auroc", "average_precision")]
        assert areas == pytest.approx([curve.auroc, curve.average_precision])


def test_the_drop_and_forgetting_are_differences_and_forgetting_is_paired() -> None:
    predictions, probs, classes = with_slices(90, n_classes=4)
    monday = (predictions["day"] == "monday").to_numpy()
    label_idx = scores.positions(predictions["true_label"], classes)
    former = np.where(np.arange(30)[:, None] < 27, np.eye(4)[label_idx[monday]], np.eye(4)[(label_idx[monday] + 1) % 4])
    table = measured(former=former)
    for metric in ("accuracy", "f1_macro"):
        of_days = [table.loc[(metric, f"day={day}"), "value"] for day in ("monday", "tuesday")]
        assert table.loc[(f"{metric}_drop", "all"), "value"] == pytest.approx(of_days[0] - of_days[1])
    row = table.loc["forgetting", "day=monday"]
    assert (row["value"], row["n"]) == (pytest.approx(0.9 - table.loc[("accuracy", "day=monday"), "value"]), 30)
    assert row["low"] < row["value"] < row["high"]
    same = measured(former=probs[monday]).loc["forgetting", "day=monday"]
    assert same[["value", "low", "high"]].tolist() == [0, 0, 0], "the same predictions differ in no resample"
    assert "forgetting" not in measured().index.get_level_values(0)


def test_what_is_not_defined_is_left_out() -> None:
    two = measured(n_classes=2)
    assert "top_k_accuracy" not in two.index.get_level_values(0), "the label is always among three of two classes"
    assert two.loc[("auroc", "class=00"), "value"] == pytest.approx(two.loc[("auroc", "class=01"), "value"])
    predictions, probs, classes = with_slices(90, n_classes=4)
    kept = (predictions["true_label"] != "03").to_numpy() & (predictions["day"] == "tuesday").to_numpy()
    predictions["verified"] = np.where(predictions["corruption"] == "mosaic", "false", "true")
    table = scores.metrics_table(predictions[kept], probs[kept], None, classes, top_k=3, n_resamples=0, seed=0)
    assert not {"class=03", "day=monday"} & set(table["slice"])
    assert not {"accuracy_drop", "forgetting"} & set(table["metric"])
    assert table[["low", "high"]].isna().all(axis=None), "no resamples, no intervals"
    assert table["value"].notna().all()
    flags = table[table["metric"] == "accuracy"].set_index("slice")["verified"]
    assert flags[["all", "corruption=mosaic", "corruption=random_boxes"]].tolist() == ["false", "false", "true"]


def test_the_runs_figures_are_those_of_all_images_and_of_the_days_and_some_intervals() -> None:
    predictions, probs, _ = with_slices(90, n_classes=4)
    table = measured(former=probs[predictions["day"] == "monday"])
    figures = scores.run_figures(table.reset_index())
    whole = set(table.xs("all", level=1).index)
    days = {f"accuracy_{day}" for day in ("monday", "tuesday")}
    ends = {f"{name}_{end}" for name in (*days, *scores.WITH_INTERVALS) for end in ("low", "high")}
    assert set(figures) == whole | days | {"forgetting"} | ends
    assert figures["accuracy_monday_low"] == table.loc[("accuracy", "day=monday"), "low"]
    assert scores.run_figures(measured(n_resamples=0).reset_index()).keys() == whole | days


def test_sizes_are_told_by_the_shorter_side_between_powers_of_two() -> None:
    sides = [(1, 500), (31, 32), (32, 32), (900, 64), (640, 480)]
    manifest = pd.DataFrame([(f"{i}", *side) for i, side in enumerate(sides)], columns=["image", "width", "height"])
    bands = ["1 to 1 px", "16 to 31 px", "32 to 63 px", "64 to 127 px", "256 to 511 px"]
    assert list(scores.size_bands(manifest).values()) == bands


def test_a_model_of_other_classes_is_refused() -> None:
    scores.check_classes(["a", "b"], ["a", "b"])
    with pytest.raises(BCCPError, match=r"the model tells 2 classes apart \(b, a, \.\.\.\), but segregated_data has 2"):
        scores.check_classes(["b", "a"], ["a", "b"])


@pytest.mark.parametrize("n_classes", [2, 10, 40, pytest.param(100, marks=pytest.mark.slow)])
def test_a_confusion_matrix_is_drawn_on_white_without_cutting_off_long_names(n_classes: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"class  {k} costs $5_{k} and has a long name {k}" if k % 3 == 0 else f"数{k}" for k in range(n_classes)]
    matrix = (rng.random((n_classes, n_classes)) < 3 / n_classes) + np.diag(np.full(n_classes, 30))
    plots.plot_confusion_matrix(matrix, names, tmp_path / "c.png", title="29 test images", note=LONG_NOTE)
    pixels = picture(tmp_path / "c.png")
    assert min(pixels.shape[:2]) > 300
    assert max(pixels.shape[:2]) < 2600
    for side in (pixels[:8], pixels[-8:], pixels[:, :8], pixels[:, -8:]):
        assert (side == 255).all(), "nothing touches the border"
    assert (pixels == 255).all(axis=2).mean() > 0.1
    assert (pixels[..., 2].astype(int) - pixels[..., 0] > 60).mean() > 0.005, "the diagonal is blue"


@pytest.mark.parametrize("n_epochs", [1, 30])
def test_pictures_of_equal_input_are_equal_bytes_and_hold_no_version(n_epochs: int, tmp_path: Path) -> None:
    history = pd.DataFrame({"train_loss": np.linspace(2, 1, n_epochs), "val_loss": np.linspace(2, 1.5, n_epochs), "val_accuracy": 0.5})
    draw: list[Callable[[Path], None]] = [
        lambda path: plots.plot_training_curves(history, path, title="Training"),
        lambda path: plots.plot_training_curves(history.assign(strength=0.1), path, title="Training"),
        lambda path: plots.plot_confusion_matrix(np.eye(3, dtype=np.int64) * 7, ["a", "b", "c"], path, title="t"),
    ]
    for picture_of in draw:
        picture_of(tmp_path / "1.png")
        picture_of(tmp_path / "2.png")
        first = (tmp_path / "1.png").read_bytes()
        assert first == (tmp_path / "2.png").read_bytes()
        assert b"atplotlib" not in first
        assert b"tIME" not in first


@pytest.mark.parametrize("n_images", [1, 400])
def test_a_reliability_diagram_is_drawn_also_for_a_single_image(n_images: int, tmp_path: Path) -> None:
    _, probs, _ = with_slices(n_images, n_classes=4)
    label_idx = probs.argmax(axis=1) * (np.arange(n_images) % 3 > 0)
    plots.plot_reliability(metrics.reliability(label_idx, probs), tmp_path / "r.png", title="400 images", note=LONG_NOTE)
    pixels = picture(tmp_path / "r.png")
    assert (pixels[:8] == 255).all()
    assert (pixels[..., 2].astype(int) - pixels[..., 0] > 60).mean() > 0.002, "there is blue"


def test_a_training_without_validation_is_drawn_too(tmp_path: Path) -> None:
    plots.plot_training_curves(pd.DataFrame({"train_loss": [2.0, 1.0]}), tmp_path / "t.png", title="Training")
    assert (picture(tmp_path / "t.png") != 255).any()


def test_tables_of_predictions_are_read_back_as_they_were(tmp_path: Path) -> None:
    predictions = make_predictions(20)
    tables.write(predictions, tmp_path / "p.csv")
    pd.testing.assert_frame_equal(tables.read(tmp_path / "p.csv"), predictions.astype(str), check_dtype=False)


@pytest.mark.parametrize("n_levels", [3, 1000])
def test_threshold_curves_agree_with_scikit_learns(n_levels: int) -> None:
    from sklearn import metrics

    rng = np.random.default_rng(n_levels)
    positive, probs = rng.random(200) < 0.3, rng.integers(0, n_levels, 200) / n_levels  # with ties
    curve = scores.threshold_curve(positive, probs)
    assert curve.auroc == pytest.approx(metrics.roc_auc_score(positive, probs))
    assert curve.average_precision == pytest.approx(metrics.average_precision_score(positive, probs))
    false_rate, recall, _ = metrics.roc_curve(positive, probs, drop_intermediate=False)
    np.testing.assert_allclose(curve.false_positive_rate, false_rate)
    np.testing.assert_allclose(curve.recall, recall)
    precision, _, _ = metrics.precision_recall_curve(positive, probs)
    np.testing.assert_allclose(curve.precision[: len(precision)][::-1], precision[-len(curve.precision) :])


def test_a_threshold_curve_of_four_images_by_hand() -> None:
    curve = scores.threshold_curve(np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.1]))
    np.testing.assert_allclose(curve.recall, [0, 0.5, 0.5, 1, 1])
    np.testing.assert_allclose(curve.false_positive_rate, [0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(curve.precision, [1, 1, 1 / 2, 2 / 3, 2 / 4])
    assert (curve.auroc, curve.average_precision) == (0.75, pytest.approx((1 + 2 / 3) / 2))


def test_many_classes_are_drawn_as_the_worst_ten_and_one_class_as_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    classes = ["_", "$a_$", *(f"class {k}" for k in range(10))]
    predictions = pd.DataFrame({"true_label": rng.choice(classes[:-1], 300)})
    curves = scores.threshold_curves(predictions, rng.dirichlet(np.ones(12), 300), classes)
    assert list(curves) == classes[:-1], "no test image is of the last"
    plots.plot_threshold_curves(curves, tmp_path / "many.png", title="many", note="a note")
    plots.plot_threshold_curves({}, tmp_path / "none.png", title="none")
    assert all(path.stat().st_size < 200_000 for path in tmp_path.iterdir())
