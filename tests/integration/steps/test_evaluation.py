"""The step ``test``: what it measures against, and its artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bccp.core.digests import folder_digest
from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.data.dataset import open_days
from bccp.models import classifier, mlflow_flavor
from support.testing_step import make_data, run_step


def test_the_step_measures_both_days_with_the_truth(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    step = run_step(data, tmp_path / "out")
    predictions = tables.read(step.folders["evaluation"] / "predictions.csv", dtypes={"probability": float})
    assert predictions["image"].tolist() == [f"{i:02d}.png" for i in range(30)]
    days = open_days(data["segregated_data"], data["clean_data"])
    probs = classifier.probabilities(classifier.load_classifier(data["model"])[0], days.view(predictions["image"].tolist()))
    assert predictions["predicted_label"].tolist() == [days.classes[k] for k in probs.argmax(axis=1)]
    assert predictions["probability"].to_numpy() == pytest.approx(probs.max(axis=1), abs=1e-6)
    assert predictions["true_label"].tolist() == days.splits.loc[predictions["image"], "label"].tolist()
    right = predictions["true_label"] == predictions["predicted_label"]
    for name, chosen in (("accuracy", slice(None)), ("accuracy_monday", slice(12)), ("accuracy_tuesday", slice(12, None))):
        assert step.metrics[name] == pytest.approx(right[chosen].mean())
    assert step.metrics["unverified_images"] == 0
    assert json.loads((step.folders["evaluation"] / "metrics.json").read_text()) == {"verified": True} | step.metrics
    assert len(step.said) == 1
    table = tables.read(step.folders["evaluation"] / "metrics.csv", dtypes={"value": float}).set_index(["metric", "slice"])
    assert table.loc[("accuracy", "day=monday"), "value"] == step.metrics["accuracy_monday"]
    assert "forgetting" not in step.metrics, "nobody has made a monday_model"
    rows, pictures = step.tables["errors"]
    assert sorted(row["image"] for row in rows) == predictions.loc[~right, "image"].tolist()
    assert [row["loss"] for row in rows] == sorted((row["loss"] for row in rows), reverse=True)
    assert all(np.array_equal(picture, days.view([row["image"]])[0]) for row, picture in zip(rows, pictures, strict=True))


def test_the_step_without_truth_measures_against_given_labels_and_says_so(tmp_path: Path) -> None:
    step = run_step(make_data(tmp_path / "data", truth_known=False), tmp_path / "out")
    predictions = tables.read(step.folders["evaluation"] / "predictions.csv").set_index("image")
    assert predictions["verified"].tolist() == ["true"] * 12 + ["false"] * 17
    assert (predictions["true_label"].iloc[12:] == "bee").all()
    assert "12.png" not in predictions.index, "it has no given label either"
    assert json.loads((step.folders["evaluation"] / "metrics.json").read_text())["verified"] is False
    table = tables.read(step.folders["evaluation"] / "per_class.csv")
    assert set(table.loc[table["day"] == "tuesday", "verified"]) == {"false"}
    assert step.said[1:] == [
        "verified=false: the labels of 17 of 29 test images are the given ones",
        "test images left out, as they have no label at all: 1",
    ]


def test_what_the_model_knew_before_its_training_is_left_out(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    before = data["model"] / mlflow_flavor.TRAINED_ON_BEFORE
    np.save(before, np.array([0, 3, 12, 35], np.uint64))
    step = run_step(data, tmp_path / "out")
    predictions = tables.read(step.folders["evaluation"] / "predictions.csv")
    assert predictions["image"].tolist() == [f"{i:02d}.png" for i in range(30) if i not in (0, 3, 12)]
    assert step.said[1:] == ["test images left out, as the model that training started from was trained on them: 3"]
    np.save(before, np.arange(30, dtype=np.uint64))
    with pytest.raises(BCCPError, match=r"\(train\.init\) was trained on all test images"):
        run_step(data, tmp_path / "again")


def test_forgetting_is_measured_against_the_model_that_the_labels_were_judged_with(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    (tmp_path / "monday").mkdir()
    days = open_days(data["segregated_data"], data["clean_data"])
    ids = days.ids("monday", "test")
    right = classifier.probabilities(classifier.load_classifier(data["model"])[0], days.view(ids)).argmax(1) == days.labels(ids)
    often = np.bincount(days.labels(ids)).argmax()
    former = classifier.build_classifier("small_cnn", 2, image_size=8, dropout=0.5, seed=3)
    former.head[1].bias.data[often] += 100  # it always says so
    classifier.save_classifier(former, tmp_path / "monday", {"class_names": ["ant", "bee"]})
    step = run_step(data | {"monday_model": tmp_path / "monday"}, tmp_path / "out")
    assert right.mean() != (days.labels(ids) == often).mean()
    assert step.metrics["forgetting"] == pytest.approx((days.labels(ids) == often).mean() - right.mean())
    assert step.metrics["forgetting_low"] <= step.metrics["forgetting"] <= step.metrics["forgetting_high"]


def test_equal_runs_of_the_step_make_equal_bytes(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    first, second = (folder_digest(run_step(data, tmp_path / name).folders["evaluation"]) for name in ("a", "b"))
    assert first == second
