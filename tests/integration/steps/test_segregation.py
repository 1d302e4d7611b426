"""The step ``segregation``: its artifacts, and what does not depend on the order of images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bccp.core.errors import BCCPError
from bccp.data import corruption, tables
from bccp.data.dataset import open_days
from support.fake_step import FakeStep, load_run
from support.manifests import manifest


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """A ``clean_data`` of 60 images, two of them equal."""
    folder = tmp_path / "clean"
    folder.mkdir()
    table = manifest({"007": 30, "NA": 30})
    shas = [hashlib.sha256(image.encode()).hexdigest() for image in table["image"]]
    shas[1] = shas[0]
    about = {"width": 12, "height": 12, "mode": "RGB", "format": "PNG"}
    tables.write(table.assign(sha256=shas, phash="", **about), folder / "manifest.csv")
    tables.write(pd.DataFrame({"image": [], "reason": []}), folder / "quarantine.csv")
    (folder / "report.json").write_text("{}", encoding="utf-8")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3), dtype=np.uint8))
    return folder


def run_on(clean: Path, place: Path, **changed: Any) -> FakeStep:
    step = FakeStep("segregation", place, {"clean_data": clean}, **changed)
    load_run("segregation")(step)
    return step


def all_bytes(step: FakeStep) -> dict[str, bytes]:
    made = [step.folders["segregated_data"], step.folders["true_labels"]]
    return {path.name: path.read_bytes() for folder in made for path in sorted(folder.iterdir())}


def test_the_step_writes_its_artifacts_and_the_same_bytes_again(clean: Path, tmp_path: Path) -> None:
    step = run_on(clean, tmp_path / "1")
    files = all_bytes(step)
    assert set(files) == {"splits.csv", "classes.csv", "clean_data.json", "corrupted.npy", "true_labels.csv"}
    assert json.loads(files["clean_data.json"]) == {"clean_data": "c" * 64, "truth_known": True, "target_day": "tuesday"}
    assert files["classes.csv"] == b"label\n007\nNA\n"
    assert all_bytes(run_on(clean, tmp_path / "2")) == files
    other = all_bytes(run_on(clean, tmp_path / "3", random_seed=1))
    assert all(other[name] != files[name] for name in ("splits.csv", "corrupted.npy", "true_labels.csv"))
    assert step.metrics["images"] == 60
    assert step.metrics["monday_train"] + step.metrics["monday_val"] + step.metrics["monday_test"] == 30
    assert step.metrics["corrupted"] == 30
    assert step.metrics["duplicates_grouped"] == 2


def test_permuting_the_images_permutes_their_rows_and_changes_nothing_else(clean: Path, tmp_path: Path) -> None:
    before = run_on(clean, tmp_path / "1")
    order = np.random.default_rng(0).permutation(60)
    images, table = np.load(clean / "images.npy"), tables.read(clean / "manifest.csv")
    other = tmp_path / "permuted"
    other.mkdir()
    np.save(other / "images.npy", images[order])
    permuted = table.iloc[order].assign(row=range(60))
    permuted.to_csv(other / "manifest.csv", index=False)  # not sorted by image
    after = run_on(other, tmp_path / "2")
    files = all_bytes(before), all_bytes(after)
    assert files[0]["corrupted.npy"] == files[1]["corrupted.npy"]
    assert files[0]["true_labels.csv"] == files[1]["true_labels.csv"]
    splits = [tables.read(step.folders["segregated_data"] / "splits.csv") for step in (before, after)]
    pd.testing.assert_frame_equal(splits[0].drop(columns="row"), splits[1].drop(columns="row"))


def test_the_view_shows_tuesday_corrupted_and_monday_clean(clean: Path, tmp_path: Path) -> None:
    step = run_on(clean, tmp_path / "1", corruption="random_boxes")
    days = open_days(step.folders["segregated_data"], clean)
    images = np.load(clean / "images.npy")
    monday, tuesday = days.ids("monday", ["train", "val", "test"]), days.ids("tuesday", ["train", "test"])
    np.testing.assert_array_equal(days.view(monday)[:], images[days.splits.loc[monday, "row"]])
    originals = images[days.splits.loc[tuesday, "row"]]
    expected = corruption.corrupt(originals, tuesday, ["random_boxes"] * len(tuesday), seed=42)
    np.testing.assert_array_equal(days.view(tuesday)[:], expected)
    assert not np.array_equal(expected, originals)


def test_a_feedback_file_makes_days_and_is_not_corrupted(clean: Path, tmp_path: Path) -> None:
    file = tmp_path / "said.csv"
    rows = [f"{label}/{i:04d}.png,{other}" for label, other in (("007", "NA"), ("NA", "NA")) for i in range(10, 16)]
    file.write_text("\n".join(["image,label", *rows, "007/0016.png,unheard"]) + "\n", encoding="utf-8")
    step = run_on(clean, tmp_path / "1", label_source="file", feedback_file=str(file))
    splits = tables.read(step.folders["segregated_data"] / "splits.csv")
    assert (splits["day"] == "tuesday").sum() == 13  # a label that is no class still names the image
    assert not (step.folders["segregated_data"] / "corrupted.npy").exists()
    truth = tables.read(step.folders["true_labels"] / "true_labels.csv")
    assert all(row.image.startswith(row.label) for row in truth.itertuples())


def test_without_a_trusted_day_the_answers_in_a_feedback_file_are_all_that_is_known(clean: Path, tmp_path: Path) -> None:
    file = tmp_path / "said.csv"
    rows = [f"{label}/{i:04d}.png,{other}" for label, other in (("007", "NA"), ("NA", "007")) for i in range(10, 16)]
    file.write_text("\n".join(["image,label", *rows]) + "\n", encoding="utf-8")
    step = run_on(clean, tmp_path / "1", label_source="file", feedback_file=str(file), target_day="monday")
    splits = tables.read(step.folders["segregated_data"] / "splits.csv")
    assert (len(splits), set(splits["day"]), set(splits["label"])) == (12, {"monday"}, {""})  # no folder's name is a label, nor the truth
    assert tables.read(step.folders["true_labels"] / "true_labels.csv").empty
    assert any(line.startswith("left out: 48 no label") for line in step.said)


def test_a_corruption_without_a_tuesday_is_said_to_do_nothing(clean: Path, tmp_path: Path) -> None:
    step = run_on(clean, tmp_path / "1", target_day="monday", corruption="mosaic")
    assert step.metrics["corrupted"] == 0
    assert any("segregation.corruption=mosaic changes nothing" in line for line in step.said)


def test_a_given_split_is_kept_unless_it_is_to_be_cut_anew_and_the_file_wins(clean: Path, tmp_path: Path) -> None:
    table = tables.read(clean / "manifest.csv")
    numbers = table["image"].str.extract(r"(\d+)\.png")[0].astype(int)
    tables.write(table.assign(given_split=["test" if n < 6 else "train" for n in numbers]), clean / "manifest.csv")
    kept = run_on(clean, tmp_path / "1", target_day="monday", label_source="folder")
    splits = tables.read(kept.folders["segregated_data"] / "splits.csv")
    # 007/0000.png and its copy 007/0001.png lie in one part
    assert splits.loc[splits["split"] == "test", "image"].tolist() == [f"{label}/{i:04d}.png" for label in ("007", "NA") for i in range(6)]
    given = "the given split is kept"
    assert kept.said[1] == f"{given} (48 train, 12 test); moved to training, as copies lie across it: 0; cut from the training images: val"
    assert kept.metrics["moved_to_train"] == 0
    anew = run_on(clean, tmp_path / "2", target_day="monday", label_source="folder", split="own")
    assert not any(given in line for line in anew.said)
    file = tmp_path / "split.csv"
    file.write_text("image,split\nNA/0029.png,val\n007/0001.png,train\nno.png,test\n", encoding="utf-8")
    by_file = run_on(clean, tmp_path / "3", target_day="monday", label_source="folder", split="given", split_file=str(file))
    splits = tables.read(by_file.folders["segregated_data"] / "splits.csv").set_index("image")["split"]
    assert (splits["NA/0029.png"], splits["007/0000.png"], splits["007/0001.png"]) == ("val", "train", "train")
    assert by_file.said[1] == f"{given} (48 train, 1 val, 11 test); moved to training, as copies lie across it: 1"
    assert by_file.said[2] == "rows of segregation.split_file that name no image: 1 (such as 'no.png')"


def test_it_is_said_that_tuesdays_validation_is_trained_on(clean: Path, tmp_path: Path) -> None:
    table = tables.read(clean / "manifest.csv")
    numbers = table["image"].str.extract(r"(\d+)\.png")[0].astype(int)
    days = ["monday" if n < 15 else "tuesday" for n in numbers]
    parts = [("test" if n >= 25 else "val" if n >= 20 else "train") if n >= 15 else "" for n in numbers]
    tables.write(table.assign(day=days, given_split=parts), clean / "manifest.csv")
    step = run_on(clean, tmp_path / "1", target_day="tuesday", label_source="folder")
    assert step.metrics["tuesday_train"] == 20
    assert step.said[1].endswith("; 10 images of Tuesday's val are trained on, as validation is Monday's")


def test_a_split_that_is_to_be_kept_must_be_given(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(BCCPError, match=r"segregation\.split=given, but the data gives no split"):
        run_on(clean, tmp_path / "1", split="given")
