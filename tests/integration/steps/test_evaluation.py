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


def test_figures_are_of_verified_images_and_agreement_with_people_is_told_apart(tmp_path: Path) -> None:
    step = run_step(make_data(tmp_path / "data", truth_known=False), tmp_path / "out")
    folder = step.folders["evaluation"]
    predictions = tables.read(folder / "predictions.csv").set_index("image")
    assert predictions["verified"].tolist() == ["true"] * 12 + ["false"] * 17
    assert (predictions["true_label"].iloc[12:] == "bee").all()
    assert "12.png" not in predictions.index, "it has no given label either"
    right = predictions["correct"] == "true"
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["verified"] is True
    assert (figures["images"], figures["unverified_images"]) == (12, 17)
    assert figures["accuracy"] == figures["accuracy_monday"] == pytest.approx(right[:12].mean())
    assert "accuracy_tuesday" not in figures
    assert figures["agreement_tuesday"] == pytest.approx(right[12:].mean())
    assert set(tables.read(folder / "per_class.csv")["day"]) == {"all", "monday"}
    share = f"{right[12:].mean():.1%}"
    assert step.said[1:] == [
        f"verified=false: the labels of 17 of 29 test images are the given ones, which count in agreement_tuesday {share} alone",
        "test images left out, as they have no label at all: 1",
    ]
    assert "those of 17 further images" in (folder / "model_card.md").read_text()


def test_an_audit_file_verifies_test_images_that_were_drawn_at_random(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", truth_known=False)
    audit = tmp_path / "audit.csv"
    rows = [
        "12.png,ant,,random",
        "13.png,ant,,",
        "14.png,ant,,suspect",
        "15.png,,none,random",
        "16.png,,unsure,random",
        "35.png,ant,,random",
    ]
    audit.write_text("\n".join(["image,label,verdict,chosen", *rows]) + "\n", encoding="utf-8")
    step = run_step(data, tmp_path / "out", audit_file=str(audit))
    predictions = tables.read(step.folders["evaluation"] / "predictions.csv").set_index("image")
    on_tuesday = predictions[predictions["day"] == "tuesday"]
    assert on_tuesday.index[on_tuesday["verified"] == "true"].tolist() == ["12.png"]
    assert on_tuesday.loc[["12.png", "16.png"], "true_label"].tolist() == ["ant", "bee"]
    assert not {"13.png", "14.png", "15.png"} & set(predictions.index)
    assert step.metrics["images"] == 13
    assert step.metrics["accuracy_tuesday"] == pytest.approx(float(on_tuesday["correct"].iloc[0] == "true"))
    assert step.said[2:] == [
        "audit file: verified test images of tuesday: 1; rows chosen at random that are blank or unsure: 1",
        "test images left out, as they were checked, but not chosen at random, and say nothing of the others: 2",
        "test images left out, as they are of none of the classes: 1",
    ]
    known = run_step(make_data(tmp_path / "known"), tmp_path / "simulated", audit_file=str(audit))
    assert known.metrics["images"] == 30, "where all truth is known an audit changes nothing"


def test_where_nothing_is_verified_the_figures_say_so_and_one_verified_image_is_enough_for_them(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", truth_known=False)
    splits = tables.read(data["segregated_data"] / "splits.csv")
    tables.write(splits.assign(split=splits["split"].mask(splits["day"] == "monday", "val")), data["segregated_data"] / "splits.csv")
    step = run_step(data, tmp_path / "out")
    assert json.loads((step.folders["evaluation"] / "metrics.json").read_text())["verified"] is False
    assert step.metrics["images"] == step.metrics["unverified_images"] == 17
    assert step.said[1] == "verified=false: the labels of 17 of 17 test images are the given ones"
    (tmp_path / "audit.csv").write_text("image,label,chosen\n13.png,ant,random\n", encoding="utf-8")
    alone = run_step(data, tmp_path / "alone", audit_file=str(tmp_path / "audit.csv"))
    assert (alone.metrics["images"], alone.metrics["unverified_images"]) == (1, 16)
    assert alone.metrics["accuracy"] in (0.0, 1.0)
    assert alone.metrics["agreement_tuesday"] == pytest.approx(step.metrics["accuracy"], abs=1 / 16)


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
