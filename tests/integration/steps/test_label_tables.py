"""From images that lie in no class folders, and a table, to given labels: three steps after one another."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bccp.core.errors import BCCPError
from bccp.data import tables
from support.fake_step import FakeStep, load_run

CLASSES = ("cat", "dog", "cow")
N = 30
LABELS = [CLASSES[i % 3] for i in range(N)]
NAMES = [f"img_{i:02}.png" for i in range(N)]


def encoded(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = [encoded(i) for i in range(N + 6)]


def prepared(place: Path, files: Mapping[str, bytes | str], **options: Any) -> dict[str, FakeStep]:
    """Preprocessing, segregation and noisy_labels of these files, with nothing trusted unless it is said otherwise."""
    raw = place / "raw"
    raw.mkdir(parents=True)
    with zipfile.ZipFile(raw / "images.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    source, said = options.pop("source", "folder"), {"feedback_file": options.pop("feedback_file", None)}
    steps = {"preprocessing": FakeStep("preprocessing", place / "1", {"raw_data": raw}, image_size=12, label_source=source, **options)}
    load_run("preprocessing")(steps["preprocessing"])
    folders = {"clean_data": steps["preprocessing"].folders["clean_data"]}
    for number, (name, keys) in enumerate(
        {"segregation": {"label_source": source, "target_day": "monday"}, "noisy_labels": {"source": source}}.items(), start=2
    ):
        steps[name] = step = FakeStep(name, place / str(number), folders, **keys, **said)
        load_run(name)(step)
        folders = {key: folder for key, folder in step.folders.items() if key != "given_labels"}
    return steps


def given_by(steps: Mapping[str, FakeStep]) -> dict[str, str]:
    table = tables.read(steps["noisy_labels"].folders["given_labels"] / "given_labels.csv")
    return dict(zip(table["image"], table["label"], strict=True))


def nothing_is_trusted(steps: Mapping[str, FakeStep]) -> bool:
    segregated = steps["segregation"].folders
    splits = tables.read(segregated["segregated_data"] / "splits.csv")
    return set(splits["label"]) == {""} and len(tables.read(segregated["true_labels"] / "true_labels.csv")) == 0


def images(pattern: str = "{}", names: list[str] = NAMES) -> dict[str, bytes]:
    return {pattern.format(name): picture for name, picture in zip(names, PICTURES, strict=False)}


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        # Kaggle: names without extensions in train.csv (dog-breed-identification), test images without labels, a submission to fill in
        (
            images("train/{}")
            | {f"test/t{i}.png": PICTURES[N + i] for i in range(3)}
            | {"train.csv": "id,breed\n" + "".join(f"{name[:-4]},{k}\n" for name, k in zip(NAMES, LABELS, strict=True))}
            | {"sample_submission.csv": "id,breed\nt0,cat\nt1,cat\nt2,cat\n"},
            "train/{}",
        ),
        # Hugging Face: https://huggingface.co/docs/datasets/image_dataset
        (
            images()
            | {"metadata.jsonl": "".join(json.dumps({"file_name": n, "label": k}) + "\n" for n, k in zip(NAMES, LABELS, strict=True))}
            | {"README.md": "---\nlicense: mit\n---\n", ".gitattributes": "x"},
            "{}",
        ),
    ],
    ids=["kaggle", "hugging face"],
)
def test_labels_and_classes_come_from_the_table_and_nothing_is_trusted(files: dict[str, bytes | str], pattern: str, tmp_path: Path) -> None:
    steps = prepared(tmp_path, files)
    assert given_by(steps) == {pattern.format(name): label for name, label in zip(NAMES, LABELS, strict=True)}
    assert nothing_is_trusted(steps)
    classes = tables.read(steps["segregation"].folders["segregated_data"] / "classes.csv")
    assert classes["label"].tolist() == sorted(CLASSES)
    assert any(line.startswith("labels from ") for line in steps["preprocessing"].said)
    assert steps["preprocessing"].metrics["classes"] == 3
    unnamed = sum(name.startswith("test/") for name in files)
    assert steps["segregation"].metrics["left_out"] == unnamed
    assert any(line == f"left out: {unnamed} no label" for line in steps["segregation"].said) == bool(unnamed)


def test_roboflows_split_folders_keep_their_split(tmp_path: Path) -> None:
    # https://openvinotoolkit.github.io/datumaro/latest/docs/data-formats/formats/roboflow.html: a folder a split, _classes.csv in each
    split_of = {name: ("test" if i >= 24 else "valid" if i >= 18 else "train") for i, name in enumerate(NAMES)}
    files: dict[str, bytes | str] = {f"{split_of[name]}/{name}": picture for name, picture in images().items()}
    for split in ("train", "valid", "test"):
        rows = [
            f"{n}, {k == 'cat':d}, {k == 'dog':d}, {k == 'cow':d}\n" for n, k in zip(NAMES, LABELS, strict=True) if split_of[n] == split
        ]
        files[f"{split}/_classes.csv"] = "filename, cat, dog, cow\n" + "".join(rows)
    files |= {"README.dataset.txt": "x", "README.roboflow.txt": "x"}  # five of 35 files are no images, and are not counted as rejected
    steps = prepared(tmp_path, files)
    assert given_by(steps) == {f"{split_of[name]}/{name}": label for name, label in zip(NAMES, LABELS, strict=True)}
    assert nothing_is_trusted(steps)
    assert steps["preprocessing"].metrics["rejected"] == 0
    counts = {name: steps["segregation"].metrics[f"monday_{name}"] for name in ("train", "val", "test")}
    assert counts == {"train": 18, "val": 6, "test": 6}


def test_several_annotators_answers_in_the_table_are_votes(tmp_path: Path) -> None:
    rows = [(name, label, who) for name, label in zip(NAMES, LABELS, strict=True) for who in ("ann", "bob", "cy")]
    rows[0] = (NAMES[0], "cow", "ann")
    steps = prepared(tmp_path, images() | {"answers.csv": "file,answer,worker_id\n" + "".join(",".join(row) + "\n" for row in rows)})
    assert given_by(steps) == dict(zip(NAMES, LABELS, strict=True))
    votes = tables.read(steps["noisy_labels"].folders["given_labels"] / "votes.csv")
    assert len(votes) == 3 * N
    assert votes.iloc[0].tolist() == [NAMES[0], "ann", "cow"]
    assert nothing_is_trusted(steps)


STUDIO = [
    {
        "id": i,
        "data": {"image": f"/data/upload/1/{i:08x}-{name}"},
        "annotations": [
            {"completed_by": who, "was_cancelled": False, "result": [{"from_name": "c", "type": "choices", "value": {"choices": [label]}}]}
            for who in (1, 2)
        ],
    }
    for i, (name, label) in enumerate(zip(NAMES[:27], LABELS, strict=False))
]


@pytest.mark.parametrize(
    "beside", [{}, {"train.csv": "id,label\n" + "".join(f"{name},{k}\n" for name, k in zip(NAMES, "ab" * 15, strict=True))}]
)
def test_a_file_that_is_given_labels_a_flat_folder_and_a_table_that_lies_there_is_not_its_truth(
    beside: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "project-1.json"
    file.write_text(json.dumps(STUDIO), encoding="utf-8")
    steps = prepared(tmp_path / "run", images() | beside, source="file", feedback_file=str(file))
    assert given_by(steps) == dict(zip(NAMES[:27], LABELS, strict=False))
    assert nothing_is_trusted(steps)
    assert "feedback file: image 'image', label 'c', user 'completed_by'" in steps["segregation"].said
    assert steps["segregation"].metrics["left_out"] == 3


def test_a_table_that_is_named_is_the_truth_that_a_file_is_compared_with(tmp_path: Path) -> None:
    truth = {"train.csv": "id,label\n" + "".join(f"{name},{k}\n" for name, k in zip(NAMES, LABELS, strict=True))}
    file = tmp_path / "f.csv"
    file.write_text("image,label\n" + "".join(f"{name},cat\n" for name in NAMES), encoding="utf-8")
    steps = prepared(tmp_path / "run", images() | truth, source="file", feedback_file=str(file), table="train.csv")
    assert steps["noisy_labels"].metrics["true_user_accuracy"] == pytest.approx(1 / 3)


def test_a_class_that_never_has_most_votes_is_none(tmp_path: Path) -> None:
    file = tmp_path / "f.csv"
    rows = "".join(f"{name},{label},{who}\n" for name, label in zip(NAMES, LABELS, strict=True) for who in "abc")
    file.write_text("image,label,user\n" + rows + f"{NAMES[0]},bat,d\n", encoding="utf-8")
    steps = prepared(tmp_path / "run", images(), source="file", feedback_file=str(file))
    votes = tables.read(steps["noisy_labels"].folders["given_labels"] / "votes.csv")
    assert set(votes["label"]) == set(CLASSES)
    assert "1 unknown class (e.g. 'bat' for img_00.png" in steps["noisy_labels"].said[0]


def test_images_without_any_label_are_refused_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(BCCPError, match=r"no image lies in a class folder.*or give a table of their labels"):
        prepared(tmp_path / "1", images())
    with pytest.raises(BCCPError, match=r"no image lies in a class folder"):
        prepared(tmp_path / "2", images() | {"labels.csv": "image,label\n" + "".join(f"{n},cat\n" for n in NAMES)}, table=None)
    rows = "".join(f"{name},{label},{'xy'[i % 2]}\n" for i, (name, label) in enumerate(zip(NAMES, LABELS, strict=True)))
    with pytest.raises(
        BCCPError, match=r"the table 'labels.csv' in the data has several columns that may hold the label, 'class', 'target'"
    ):
        prepared(tmp_path / "3", images() | {"labels.csv": "image,class,target\n" + rows})
