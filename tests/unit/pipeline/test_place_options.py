"""The options that a folder, an archive or a URL implies: its source, its labels, and what of it is trusted."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from bccp.core.errors import BCCPError
from bccp.pipeline.place_options import STEPS, read_place

PLAIN = ("cat/1.png", "cat/2.png", "dog/1.png")
DAYS = tuple(f"{day}/{name}" for day in ("monday", "tuesday") for name in PLAIN)
LOOSE = (*(f"Monday/{name}" for name in PLAIN), "tuesday/3.png", "tuesday/4.png")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "home"))


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def pack(archive: Path, *names: str) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for name in names:
            packed.writestr(name, name)
    return archive


def test_class_folders_are_the_labels_and_nothing_is_trusted(tmp_path: Path) -> None:
    told = read_place(str(make(tmp_path / "photos", *PLAIN)))
    assert told.values == {
        "main.execute_steps": list(STEPS),
        "main.target_day": "monday",
        "data.source": "folder",
        "data.path": str(tmp_path / "photos"),
    }
    assert told.said.endswith("photos: 3 files in 2 class folders; their names are the labels; nothing is trusted, every label is judged")
    assert told.root == tmp_path / "photos"


@pytest.mark.parametrize("names", [DAYS, LOOSE])
def test_monday_is_trusted_where_there_is_one(tmp_path: Path, names: tuple[str, ...]) -> None:
    told = read_place(str(make(tmp_path / "photos", *names)))
    assert told.values["main.target_day"] == "tuesday"
    assert "monday/ is trusted, the labels of tuesday/ are judged" in told.said


def test_splits_are_judged_together(tmp_path: Path) -> None:
    told = read_place(str(make(tmp_path / "photos", *(f"{split}/{name}" for split in ("Train", "valid") for name in PLAIN))))
    assert told.values["main.target_day"] == "monday"
    assert "2 class folders with the splits train, val, which are judged together" in told.said


def test_an_archive_is_told_by_its_bytes_and_also_where_it_lies_alone_in_a_folder(tmp_path: Path) -> None:
    archive = pack(tmp_path / "place" / "photos.bin", *PLAIN)
    for place in (archive, archive.parent):
        assert {key: read_place(str(place)).values[key] for key in ("data.source", "data.path")} == {
            "data.source": "archive",
            "data.path": str(archive),
        }


@pytest.mark.parametrize(
    ("url", "source", "path"),
    [
        ("https://host/photos.zip?key=1", "archive", "https://host/photos.zip?key=1"),
        ("https://drive.google.com/file/d/1AbCdEfGhIjKlMn/view", "gdrive", "https://drive.google.com/file/d/1AbCdEfGhIjKlMn/view"),
        ("https://www.kaggle.com/datasets/owner/photos/data", "kaggle", "owner/photos"),
        ("s3://bucket/photos", "fsspec", "s3://bucket/photos"),
    ],
)
def test_a_url_tells_its_source(url: str, source: str, path: str) -> None:
    told = read_place(url)
    assert (told.values["data.source"], told.values["data.path"], told.values["main.target_day"], told.root) == (source, path, "auto", None)
    assert "key=1" not in told.said


def test_a_file_url_is_a_folder_of_this_machine(tmp_path: Path) -> None:
    assert read_place((make(tmp_path / "photos", *PLAIN)).as_uri()).root == tmp_path / "photos"


def test_answers_are_the_labels_and_folders_are_then_not_trusted(tmp_path: Path) -> None:
    photos, answers = make(tmp_path / "photos", *PLAIN), make(tmp_path, "answers.csv") / "answers.csv"
    told = read_place(str(photos), feedback=str(answers))
    expected = {"noisy_labels.source": "file", "noisy_labels.feedback_file": str(answers), "data.table": None, "main.target_day": "monday"}
    assert expected.items() <= told.values.items()
    assert "the labels are those in answers.csv, and no folder's name; nothing is trusted" in told.said


@pytest.mark.parametrize("names", [DAYS, LOOSE])
def test_answers_are_the_labels_of_new_images_whose_folders_names_are_none(tmp_path: Path, names: tuple[str, ...]) -> None:
    expected = {"noisy_labels.source": "file", "data.layout": "monday", "main.target_day": "tuesday"}
    answers, right = make(tmp_path, "answers.csv") / "answers.csv", make(tmp_path / "right", *PLAIN)
    within = make(tmp_path / "photos", *names)
    assert expected.items() <= read_place(str(within), feedback=str(answers)).values.items()
    beside = make(tmp_path / "plain", *PLAIN)
    assert expected.items() <= read_place(str(beside), feedback=str(answers), trusted=str(right)).values.items()


def test_whether_a_remote_place_has_a_trusted_monday_is_seen_once_it_is_here(tmp_path: Path) -> None:
    told = read_place("https://host/photos.zip", feedback=str(make(tmp_path, "answers.csv") / "answers.csv"))
    assert {"data.layout": "monday", "main.target_day": "auto"}.items() <= told.values.items()


def test_folders_that_are_not_understood_do_not_matter_where_answers_are_the_labels(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", *(f"{camera}/{name}" for camera in ("north", "south") for name in PLAIN))
    assert "data.layout" not in read_place(str(photos)).values
    assert read_place(str(photos), feedback=str(make(tmp_path, "a.csv") / "a.csv")).values["data.layout"] == "monday"


def test_a_feedback_file_among_the_images_is_used_where_it_is(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", *PLAIN, "Feedback.csv", "cat/feedback.csv")
    assert read_place(str(photos)).values["noisy_labels.feedback_file"] == str(photos / "Feedback.csv")
    packed = read_place(str(pack(tmp_path / "photos.zip", *(f"top/{name}" for name in PLAIN), "top/feedback.csv")))
    copy = Path(str(packed.values["noisy_labels.feedback_file"]))
    assert copy.read_text() == "top/feedback.csv"
    assert copy.is_relative_to(tmp_path / "home")


def test_a_folder_named_as_trusted_becomes_monday(tmp_path: Path) -> None:
    photos = make(tmp_path / "photos", *PLAIN, *(f"right/{name}" for name in PLAIN))
    told = read_place(str(photos), trusted=str(photos / "right"))
    assert {"data.trusted": str(photos / "right"), "main.target_day": "tuesday"}.items() <= told.values.items()
    assert "3 files in 2 class folders" in told.said
    assert "the images of --trusted are right" in told.said


def test_what_a_user_says_wins_and_is_said_once(tmp_path: Path) -> None:
    words = ("main.target_day=tuesday", "data.path='a,b'")
    overrides = read_place(str(make(tmp_path / "photos", *PLAIN))).overrides(words)
    assert overrides[-2:] == list(words)
    assert [word.partition("=")[0] for word in overrides] == ["main.execute_steps", "data.source", "main.target_day", "data.path"]


def refusal(*names: str, folder: Path, **options: Any) -> str:
    with pytest.raises(BCCPError) as refused:
        read_place(str(make(folder, *names)), **options)
    said = str(refused.value)
    assert ": " in said
    assert "\n" not in said
    return said


def test_what_cannot_be_judged_is_refused_in_one_sentence(tmp_path: Path) -> None:
    right, answers = make(tmp_path / "right", *PLAIN), make(tmp_path, "answers.csv") / "answers.csv"
    (tmp_path / "empty").mkdir()
    with pytest.raises(BCCPError, match=r"which images\? give a folder"):
        read_place(" ")
    with pytest.raises(BCCPError, match=r"PATH=.*rigth does not exist, did you mean 'right'|PATH=.*rigth does not exist"):
        read_place(str(tmp_path / "rigth"))
    with pytest.raises(BCCPError, match="PATH=/dev/null is neither a file nor a folder"):
        read_place("/dev/null")
    assert "holds no files" in refusal(folder=tmp_path / "empty")
    assert "one class only, 'cat'" in refusal("cat/1.png", "cat/2.png", folder=tmp_path / "one")
    assert "--trusted=nowhere does not exist" in refusal(*PLAIN, folder=tmp_path / "a", trusted="nowhere")
    assert "no label would be left to judge" in refusal(*PLAIN, folder=tmp_path / "b", trusted=str(tmp_path))
    assert "--trusted=" in (said := refusal(*PLAIN, folder=tmp_path / "b1", trusted=str(tmp_path / "empty")))
    assert "holds no files" in said
    assert "holds fewer than two class folders" in refusal(*PLAIN, folder=tmp_path / "b2", trusted=str(right / "cat"))
    assert "is one too many" in refusal(*DAYS, folder=tmp_path / "c", trusted=str(right))
    assert "--feedback=nowhere does not exist" in refusal(*PLAIN, folder=tmp_path / "d", feedback="nowhere")
    as_truth = {"feedback": str(answers), "trusted": str(right), "words": ("data.layout=classes",)}
    assert "data.layout=classes would take folders' names for the truth" in refusal(*PLAIN, folder=tmp_path / "e", **as_truth)


def test_tables_may_name_the_classes_of_a_single_folder(tmp_path: Path) -> None:
    told = read_place(str(make(tmp_path / "photos", "images/1.png", "images/2.png", "labels.csv")))
    assert "2 class folders" not in told.said
    assert "a table among them" in told.said
