"""The errors that the step ``test`` writes down."""

from __future__ import annotations

import json
from pathlib import Path

from bccp.core.digests import folder_digest
from bccp.data import tables
from support.testing_step import cleansed, make_data, run_step


def test_the_step_writes_what_it_found_and_training_images_come_with_their_given_labels_alone(tmp_path: Path) -> None:
    data = cleansed(make_data(tmp_path / "data"), tmp_path / "cleansed")
    step = run_step(data, tmp_path / "out")
    evaluated = step.folders["evaluation"]
    assert {"errors.csv", "confused_pairs.csv", "error_slices.csv", "fix_first.csv"} <= {path.name for path in evaluated.iterdir()}
    errors = tables.read(evaluated / "errors.csv")
    assert set(errors["action"]) <= {"drop", "relabel", "collect", "none"}
    in_training = {f"{i:02d}.png" for i in range(30, 40)}
    truth = tables.read(data["true_labels"] / "true_labels.csv")
    assert {image for near in errors["nearest"] for image in near.split(";")} <= in_training
    poisoned = truth["image"].isin(in_training)
    assert poisoned.sum() == 10
    truth.loc[poisoned, "label"] = truth.loc[poisoned, "label"].map({"ant": "bee", "bee": "ant"})
    tables.write(truth, data["true_labels"] / "true_labels.csv")
    again = run_step(data, tmp_path / "again")
    assert folder_digest(again.folders["evaluation"]) == folder_digest(evaluated), "the truth of a training image was looked at"


def test_with_no_label_of_a_training_image_in_hand_errors_have_no_neighbours(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    del data["given_labels"]
    step = run_step(data, tmp_path / "out")
    errors = tables.read(step.folders["evaluation"] / "errors.csv")
    assert len(errors) > 0
    assert set(errors["nearest"]) == {""}
    assert set(errors["action"]) == {"none"}
    assert json.loads((step.folders["evaluation"] / "metrics.json").read_text())["verified"] is True
