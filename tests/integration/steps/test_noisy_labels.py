"""The step ``noisy_labels``: which labels it gives, and what it reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bccp.core.errors import BCCPError
from bccp.data import tables
from bccp.labels import feedback
from support.fake_step import FakeStep, load_run


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """Artifacts of 40 images: Monday trusted, Tuesday's truth known, one image left out."""
    rows = [
        (f"{label}/{i:02d}.png", label, day, split)
        for label in ("cat", "dog")
        for i, (day, split) in enumerate(
            [("monday", "train")] * 6
            + [("monday", "val")] * 2
            + [("monday", "test")] * 2
            + [("tuesday", "train")] * 8
            + [("tuesday", "test")] * 2
        )
    ]
    table = pd.DataFrame(rows, columns=["image", "label", "day", "split"]).assign(row=range(40))
    return write_artifacts(tmp_path, table, table.loc[table["day"] == "tuesday"])


def write_artifacts(place: Path, table: pd.DataFrame, known: pd.DataFrame) -> dict[str, Path]:
    folders = {name: place / name for name in ("clean_data", "segregated_data", "true_labels")}
    for folder in folders.values():
        folder.mkdir()
    np.save(folders["clean_data"] / "images.npy", np.zeros((len(table), 4, 4, 3), dtype=np.uint8))
    left_out = pd.DataFrame({"image": ["cat/99.png"], "label": ["cat"]})
    tables.write(pd.concat([table[["image", "label"]], left_out]), folders["clean_data"] / "manifest.csv")
    target = table["day"] == "tuesday"
    blank = target & ((table["split"] == "train") | ~table["image"].isin(known["image"]))
    splits = table.assign(label=table["label"].where(~blank, ""), corruption="", corrupted_row=-1)
    tables.write(splits, folders["segregated_data"] / "splits.csv")
    tables.write(pd.DataFrame({"label": ["cat", "dog"]}), folders["segregated_data"] / "classes.csv")
    about = {"clean_data": "c" * 64, "truth_known": len(known) == int(target.sum()), "target_day": "tuesday"}
    (folders["segregated_data"] / "clean_data.json").write_text(json.dumps(about), encoding="utf-8")
    tables.write(known[["image", "label"]], folders["true_labels"] / "true_labels.csv")
    return folders


SORTED_BY = (("clean_data", "manifest.csv", "image"), ("segregated_data", "classes.csv", "label"))
"""The tables that rows of a feedback file are held against: the images, and the classes."""


def run_on(data: Mapping[str, Path], place: Path, **changed: Any) -> FakeStep:
    inputs = dict(data)
    if file := changed.get("feedback_file"):  # what segregation makes of it
        inputs["feedback"] = place.with_name(f"{place.name}-feedback")
        inputs["feedback"].mkdir()
        images, classes = (tables.read(data[artifact] / name)[column] for artifact, name, column in SORTED_BY)
        feedback.save_feedback(feedback.sort_out(feedback.read_feedback(Path(file)), images=images, classes=classes), inputs["feedback"])
    step = FakeStep("noisy_labels", place, inputs, **changed)
    load_run("noisy_labels")(step)
    return step


def given_by(step: FakeStep) -> dict[str, str]:
    table = tables.read(step.folders["given_labels"] / "given_labels.csv")
    assert table["image"].tolist() == sorted(set(table["image"]))
    return dict(zip(table["image"], table["label"], strict=True))


def training(label: str) -> list[str]:
    return [f"{label}/{i}.png" for i in range(10, 18)]


def test_simulated_labels_are_for_the_training_images_and_drawn_once(data: dict[str, Path], tmp_path: Path) -> None:
    step = run_on(data, tmp_path / "1", user_accuracy=0.5)
    given = given_by(step)
    assert list(given) == training("cat") + training("dog")
    right = np.mean([image.startswith(label) for image, label in given.items()])
    assert step.metrics == {"images": 16, "without_label": 0, "true_user_accuracy": right}
    assert 0 < right < 1
    file = Path("given_labels.csv")
    again = run_on(data, tmp_path / "2", user_accuracy=0.5).folders["given_labels"] / file
    other = run_on(data, tmp_path / "3", user_accuracy=0.5, random_seed=1).folders["given_labels"] / file
    assert again.read_bytes() == (step.folders["given_labels"] / file).read_bytes()
    assert other.read_bytes() != again.read_bytes()


def test_pair_noise_of_two_classes_swaps_them(data: dict[str, Path], tmp_path: Path) -> None:
    given = given_by(run_on(data, tmp_path / "1", noise="pair", user_accuracy=0.0))
    assert given == dict.fromkeys(training("cat"), "dog") | dict.fromkeys(training("dog"), "cat")
    matrix = given_by(run_on(data, tmp_path / "2", noise=[[1, 0], [1, 0]]))
    assert set(matrix.values()) == {"cat"}


def test_ground_truth_gives_the_true_labels(data: dict[str, Path], tmp_path: Path) -> None:
    step = run_on(data, tmp_path / "1", label="ground_truth", user_accuracy=0.1)
    assert given_by(step) == dict.fromkeys(training("cat"), "cat") | dict.fromkeys(training("dog"), "dog")
    assert step.metrics["true_user_accuracy"] == 1


def test_a_feedback_file_gives_majorities_and_its_problems_are_reported(data: dict[str, Path], tmp_path: Path) -> None:
    said = [
        "cat/10.png,dog,ann", "cat/10.png,cat,bob", "cat/10.png,dog,cy",  # a majority
        "dog/10.png,dog,ann", "dog/10.png,dog,ann",  # a repetition
        "dog/11.png,dog,ann", "dog/11.png,cat,ann",  # a conflict
        "cat/00.png,dog,ann", "cat/18.png,dog,ann",  # Monday, and a test image: trusted
        "cat/99.png,dog,ann", "cow/1.png,cat,ann", "cat/11.png,cow,ann", "cat/12.png",
    ]  # fmt: skip
    file = tmp_path / "said.csv"
    file.write_text("\n".join(["image,label,user", *said]), encoding="utf-8")
    step = run_on(data, tmp_path / "1", source="file", feedback_file=str(file))
    assert given_by(step) == {"cat/10.png": "dog", "dog/10.png": "dog"}
    assert step.metrics == {"images": 2, "without_label": 14, "true_user_accuracy": 0.5}
    folder = step.folders["given_labels"]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    counts = {kind: problem["count"] for kind, problem in report["problems"].items()}
    assert counts == {
        "malformed": 1,
        "skipped": 0,
        "several_classes": 0,
        "unknown_image": 1,
        "ambiguous_image": 0,
        "unknown_class": 1,
        "repeated": 1,
        "conflicting": 2,
        "trusted_image": 2,
        "left_out_image": 1,
    }
    assert report["problems"]["trusted_image"]["examples"] == ["cat/00.png", "cat/18.png"]
    assert (report["rows"], report["images"], report["without_label"]) == (13, 2, 14)
    assert str(tmp_path) not in json.dumps(report)
    votes = tables.read(folder / "votes.csv")
    expected = [("cat/10.png", "ann", "dog"), ("cat/10.png", "bob", "cat"), ("cat/10.png", "cy", "dog"), ("dog/10.png", "ann", "dog")]
    assert list(votes.itertuples(index=False, name=None)) == expected
    assert step.said[0].startswith("13 rows, 4 used; 1 malformed (e.g. line 14); 1 unknown image (e.g. cow/1.png); ")


def test_without_users_there_are_no_votes(data: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "said.csv"
    file.write_text("label,image\ncat,cat/10.png\n", encoding="utf-8")
    step = run_on(data, tmp_path / "1", source="file", feedback_file=str(file))
    assert sorted(path.name for path in step.folders["given_labels"].iterdir()) == ["given_labels.csv", "report.json"]
    assert step.said[0] == "1 rows, 1 used; nothing wrong"


def test_feedback_on_trusted_images_alone_is_refused(data: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "said.csv"
    file.write_text("image,label\ncat/00.png,cat\n", encoding="utf-8")
    with pytest.raises(BCCPError, match=r"none of the 16 training images of tuesday .*said\.csv must name .*'cat/10\.png'"):
        run_on(data, tmp_path / "1", source="file", feedback_file=str(file))
    assert not (tmp_path / "1" / "given_labels").exists()


@pytest.fixture
def unverified(data: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The same images, but for the dogs of Tuesday nobody knows the truth."""
    splits = tables.read(data["segregated_data"] / "splits.csv", dtypes={"row": int})
    table = splits.assign(label=splits["image"].str[:3])
    place = tmp_path / "unverified"
    place.mkdir()
    return write_artifacts(place, table, table[(table["day"] == "tuesday") & (table["label"] == "cat")])


def test_folder_names_are_given_to_every_image_without_a_known_truth(unverified: dict[str, Path], tmp_path: Path) -> None:
    step = run_on(unverified, tmp_path / "1", source="folder")
    held_out = {"dog/18.png": "dog", "dog/19.png": "dog"}
    assert given_by(step) == dict.fromkeys(training("cat"), "cat") | dict.fromkeys(training("dog"), "dog") | held_out
    assert "true_user_accuracy" not in step.metrics


def test_feedback_labels_test_images_whose_truth_is_unknown(unverified: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "said.csv"
    file.write_text("image,label\ncat/10.png,dog\ncat/18.png,dog\ndog/18.png,cat\n", encoding="utf-8")
    step = run_on(unverified, tmp_path / "1", source="file", feedback_file=str(file))
    assert given_by(step) == {"cat/10.png": "dog", "dog/18.png": "cat"}
    assert any("1 trusted image (e.g. cat/18.png)" in line for line in step.said)


@pytest.mark.parametrize("options", [{"source": "simulated"}, {"label": "ground_truth"}])
def test_labels_cannot_be_made_from_an_unknown_truth(unverified: dict[str, Path], tmp_path: Path, options: dict[str, str]) -> None:
    with pytest.raises(BCCPError, match=r"10 images of tuesday have none \(the first is 'dog/10\.png'\)"):
        run_on(unverified, tmp_path / "1", **options)


def test_the_step_simulates_confusions_on_the_images_that_users_see(data: dict[str, Path], tmp_path: Path) -> None:
    given = given_by(run_on(data, tmp_path / "1", noise="confusions", user_accuracy=0.0))
    assert given == dict.fromkeys(training("cat"), "dog") | dict.fromkeys(training("dog"), "cat")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    options = {"noise": "confusions", "user_accuracy": 0.5}
    flat = given_by(run_on(data, tmp_path / "2", **options))
    np.save(data["clean_data"] / "images.npy", pixels)
    assert given_by(run_on(data, tmp_path / "3", **options)) != flat
