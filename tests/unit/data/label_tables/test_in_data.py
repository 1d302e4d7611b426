"""Labels from tables beside images that lie in no class folders: which table counts, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import pytest

from bccp.core.errors import BCCPError
from bccp.data.label_tables.columns import Columns
from bccp.data.label_tables.in_data import DataLabels, find_labels
from bccp.data.layout import recognize

N = 12
LABELS = ["cat", "dog", "cow"] * 4


def table(names: Sequence[str], labels: Sequence[str] = LABELS, header: str = "image,label", separator: str = ",") -> str:
    rows = [header.replace(",", separator)] + [f"{name}{separator}{label}" for name, label in zip(names, labels, strict=False)]
    return "\n".join(rows) + "\n"


def numbered(pattern: str, n: int = N) -> list[str]:
    return [pattern.format(i) for i in range(n)]


def find(
    images: Sequence[str], tables: Mapping[str, str], asked: str | None = "auto", layout: str = "auto", **columns: str
) -> DataLabels | None:
    files = dict.fromkeys(images, 100) | {name: len(text) for name, text in tables.items()}
    said = Columns(**columns, key="data.columns")  # type: ignore[arg-type]
    return find_labels(files, lambda name: tables[name].encode(), recognize(files, layout), asked=asked, columns=said)


def found(images: Sequence[str], tables: Mapping[str, str], asked: str | None = "auto", **columns: str) -> DataLabels:
    told = find(images, tables, asked, **columns)
    assert told is not None
    return told


def refusal(images: Sequence[str], tables: Mapping[str, str], asked: str | None = "auto") -> str:
    with pytest.raises(BCCPError) as caught:
        find(images, tables, asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


FLAT = numbered("{:03}.jpg")


@pytest.mark.parametrize(
    ("images", "tables"),
    [
        (FLAT, {"labels.csv": table(FLAT)}),
        (FLAT, {"labels.csv": table(FLAT, separator=";")}),
        (numbered("train/{:05}.png"), {"train.csv": table(numbered("{}"), header="id,label")}),
        (FLAT, {"train.csv": table(numbered("{:03}"), header="id,breed")}),  # Kaggle, without extensions
        (numbered("train/{:03}.jpg"), {"train.csv": table(FLAT, header="id,label")}),
        (numbered("train_images/{:03}.jpg"), {"train.csv": table(FLAT, header="image_id,label")}),
        (numbered("images/{:03}.jpg"), {"labels.csv": table(numbered("images/{:03}.jpg"))}),
        (numbered("images/{:03}.jpg"), {"annotations/labels.csv": table(numbered("/home/ann/images/{:03}.jpg"))}),
        (numbered("images/part{:03}/a{:03}.jpg".replace("{:03}/", "1/")), {"labels.csv": table(numbered("a{:03}.jpg"))}),
        (FLAT, {"metadata.jsonl": "".join(json.dumps({"file_name": f, "label": k}) + "\n" for f, k in zip(FLAT, LABELS, strict=True))}),
        (
            FLAT,
            {
                "_classes.csv": "filename, cat, dog, cow\n"
                + "".join(f"{f}, {k == 'cat':d}, {k == 'dog':d}, {k == 'cow':d}\n" for f, k in zip(FLAT, LABELS, strict=True))
            },
        ),
    ],
    ids=[
        "csv",
        "semicolons",
        "without zeros",
        "kaggle",
        "train",
        "train_images",
        "images",
        "annotations",
        "deep",
        "hugging face",
        "roboflow",
    ],
)
def test_labels_come_from_the_table(images: list[str], tables: dict[str, str]) -> None:
    told = found(images, tables)
    assert told.labels == dict(zip(images, LABELS, strict=True))
    assert told.tables == tuple(tables)
    assert not told.votes
    assert told.notes[0].startswith(f"labels from {next(iter(tables))!r} (image ")
    assert told.notes[0].endswith("12 images of 3 classes")
    assert len(told.notes) == 1


def test_split_folders_have_a_table_each() -> None:
    names = {"train": 6, "valid": 3, "test": 3}
    images = [f"{split}/{i}.jpg" for split, n in names.items() for i in range(n)]
    tables = {
        f"{split}/_classes.csv": "filename, cat, dog\n" + "".join(f"{i}.jpg, {i % 2}, {1 - i % 2}\n" for i in range(n))
        for split, n in names.items()
    }
    told = found(images, tables)
    assert told.labels == {image: ("dog", "cat")[int(image[-5]) % 2] for image in images}
    assert set(told.tables) == set(tables)
    one_label = {name: (text if "train" in name else text.replace(" 0, 1", " 1, 0")) for name, text in tables.items()}
    assert set(found(images, one_label).labels) == set(images)  # a small split may have a single class


def test_of_kaggles_tables_the_one_with_labels_counts() -> None:
    images = numbered("train/{:03}.jpg") + numbered("test/{:03}.jpg", 4)
    tables = {
        "train.csv": table(numbered("{:03}"), header="id,label"),
        "test.csv": "id\n" + "\n".join(numbered("{:03}", 4)) + "\n",
        "sample_submission.csv": table(numbered("{:03}", 4), ["cat"] * 4, header="id,label"),
    }
    told = found(images, tables)
    assert told.labels == dict(zip(numbered("train/{:03}.jpg"), LABELS, strict=True))
    assert told.notes[1] == "4 of 16 images have no label there, and are left out (such as 'test/000.jpg')"
    assert "sample_submission.csv (a sample submission), test.csv (has no column 'label')" in told.notes[2]
    filled = tables | {"test.csv": table(numbered("test/{:03}", 4), ["cat"] * 4, header="id,label")}
    assert "test.csv (has the label 'cat' for all its images)" in found(images, filled).notes[2]


def test_tables_of_different_images_count_together_and_equal_ones_once() -> None:
    images = numbered("{:03}.jpg")
    parts = {"train.csv": table(images[:8]), "test.csv": table(images[8:], LABELS[8:])}
    assert found(images, parts).labels == dict(zip(images, LABELS, strict=True))
    assert found(images, {"a.csv": table(images), "b.csv": table(images[:5])}).tables == ("a.csv",)


def test_tables_that_contradict_each_other_are_asked_about() -> None:
    other = table(FLAT, LABELS[1:] + LABELS[:1])
    said = refusal(FLAT, {"a.csv": table(FLAT), "b.csv": other})
    assert "'a.csv' and 'b.csv' in the data label the same images differently (such as '000.jpg': 'cat' and 'dog')" in said
    assert said.endswith("data.table=a.csv")
    assert found(FLAT, {"a.csv": table(FLAT), "b.csv": other}, "b.csv").labels["000.jpg"] == "dog"
    assert "no label in common" in refusal(FLAT, {"a.csv": table(FLAT[:6]), "b.csv": table(FLAT[6:], list("xyzxyz"))})


def test_several_annotators_answers_are_votes() -> None:
    rows = [(image, label, who) for image, label in zip(FLAT, LABELS, strict=True) for who in ("ann", "bob")] + [("000.jpg", "dog", "cy")]
    told = found(FLAT, {"labels.csv": "image,label,annotator\n" + "".join(",".join(row) + "\n" for row in rows)})
    assert told.labels == dict(zip(FLAT, LABELS, strict=True))
    assert told.votes[("000.jpg", "cy")] == "dog"
    assert len(told.votes) == 25
    wide = found(FLAT, {"labels.csv": "image,ann,bob\n" + "".join(f"{i},{k},{k}\n" for i, k in zip(FLAT, LABELS, strict=True))})
    assert len(wide.votes) == 24
    outvoted = found(
        FLAT, {"labels.csv": "image,label,annotator\n" + "".join(",".join(row) + "\n" for row in [*rows, ("001.jpg", "bat", "cy")])}
    )
    assert ("001.jpg", "cy") not in outvoted.votes  # no image would be of this class
    assert "1 outvoted class (e.g. 'bat' for 001.jpg)" in outvoted.notes[1]


def test_rows_of_no_use_are_counted() -> None:
    text = table(FLAT[:8]) + "\nno.jpg,cat\n000.jpg,\n001.jpg,cow\n001.jpg,cow\n"
    told = found(FLAT, {"labels.csv": text})
    assert "001.jpg" not in told.labels  # two rows contradict each other
    assert told.notes[1].startswith("5 of 12 images have no label there")
    assert told.notes[2].startswith(
        "rows of no use: 1 malformed (e.g. line 12); 1 unknown image (e.g. 'no.jpg'); 3 conflicting (e.g. line 3: 001.jpg as"
    )


def test_numbers_for_classes_are_said_to_be_numbers_and_lose_their_point() -> None:
    told = found(FLAT, {"train.csv": table(FLAT, ["0", "1", "9"] * 4)})
    assert told.notes[0].endswith("12 images of 3 classes; the classes are numbers, as their names are not told")
    assert set(found(FLAT, {"train.csv": table(FLAT, ["0.0", "1.0", "9.0"] * 4)}).labels.values()) == {"0", "1", "9"}


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([f"a picture of {i}" for i in range(N)], "12 different labels of 12 images in 'label'"),
        ([f"{i % 4 + 0.5}" for i in range(N)], "numbers with fractions in 'label'"),
        ([f'{{"bbox": [{i}, 1]}}' for i in range(N)], "gives no label (12 malformed)"),
    ],
)
def test_captions_and_measurements_are_no_classes(labels: list[str], words: str) -> None:
    said = refusal(FLAT, {"labels.csv": table(FLAT, [f'"{label}"'.replace('"bbox"', '""bbox""') for label in labels])})
    assert words in said
    assert '"data.columns={label: column}"' in said


def test_what_is_said_to_be_classes_is_taken_for_them() -> None:
    captions = {"labels.csv": table(FLAT, [f"a picture of {i}" for i in range(N)])}
    assert len(found(FLAT, captions, label="label").labels) == N


def test_a_table_whose_columns_leave_a_choice_is_asked_about() -> None:
    said = refusal(FLAT, {"set.csv": "image,colour,shape\n" + "".join(f"{i},red,round\n" for i in FLAT)})
    assert said.startswith("the table 'set.csv' in the data has no column 'label'")
    assert '"data.columns={label: colour}"' in said
    said = refusal(FLAT, {"README.json": "{}", "sample_submission.csv": "id,label\n", "metadata.parquet": "PAR1", "faces.csv": "ab\0"})
    assert said.startswith("no image lies in a class folder")
    assert (
        "README.json (holds no records), faces.csv (is not text in UTF-8), sample_submission.csv (a sample submission) and 1 more" in said
    )
    assert find(FLAT, {}) is None  # the folders' own error stands


CLASSES = [f"{k}/{i}.jpg" for k in ("cat", "dog", "cow") for i in range(4)]


def test_class_folders_come_first() -> None:
    assert find(CLASSES, {"labels.csv": table(CLASSES, [image[:3] for image in CLASSES])}) is None
    doubted = [("dog" if i in (0, 5) else image[:3]) for i, image in enumerate(CLASSES)]
    assert find(CLASSES, {"labels.csv": table(CLASSES, doubted)}) is None
    synonyms = {"cat": "Felis", "dog": "Canis", "cow": "Bos"}
    assert find(CLASSES, {"labels.csv": table(CLASSES, [synonyms[image[:3]] for image in CLASSES])}) is None
    assert find(CLASSES, {"sizes.csv": "image,area\n" + "".join(f"{i},0.5\n" for i in CLASSES)}) is None
    days = [f"{day}/{image}" for day in ("monday", "tuesday") for image in CLASSES]
    assert find(days, {"labels.csv": table(days, ["cat", "dog"] * 12)}) is None


@pytest.mark.parametrize("folders", [("part1", "part2"), ("images", "previews"), ("0", "1")])
def test_folders_that_a_table_contradicts_are_asked_about(folders: tuple[str, str]) -> None:
    images = [f"{folders[i % 2]}/{i}.jpg" for i in range(N)]
    named = images if "images" not in folders else [image for image in images if image.startswith("images")]
    said = refusal(images, {"labels.csv": table(named, [("cat", "dog", "cow")[i // 2 % 3] for i in range(len(named))])})
    assert "the table 'labels.csv' labels them otherwise" in said
    assert "data.table=labels.csv" in said
    assert "data.table=null" in said


def test_what_is_asked_for_is_taken_or_refused() -> None:
    told = found(CLASSES, {"labels.csv": table(CLASSES, ["x", "y"] * 6)}, "labels.csv")
    assert set(told.labels.values()) == {"x", "y"}
    assert find(FLAT, {"labels.csv": table(FLAT)}, None) is None
    assert "data.table=label.csv is no file of the data (did you mean 'labels.csv'?)" in refusal(
        FLAT, {"labels.csv": table(FLAT)}, "label.csv"
    )
    assert "labels none of its images (one is called 'x' there and '000.jpg' in the data)" in refusal(
        FLAT, {"labels.csv": "image,label\nx,cat\n"}, "labels.csv"
    )


def test_annotations_of_single_images_are_no_tables() -> None:
    beside = {f"{i:03}.json": "no json {" for i in range(N)}
    assert found(FLAT, {"labels.csv": table(FLAT)} | beside).notes[1:] == ()
    elsewhere = {f"annotations/{i:03}.json": "no json {" for i in range(N)} | {f"boxes/{i}.csv": "x" for i in range(51)}
    assert found(FLAT, {"labels.csv": table(FLAT)} | elsewhere).notes[1:] == ()
