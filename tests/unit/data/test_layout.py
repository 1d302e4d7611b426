"""The layout of folders: days, given splits and classes, and what is refused because it may be either."""

from __future__ import annotations

import pytest

from bccp.data.layout import KnownNames, Place, recognize, similar_names, split_name

NFC, NFD = "caf\u00e9", "cafe\u0301"


def images(*folders: str, n: int = 2) -> list[str]:
    """So many images in each folder."""
    return [f"{folder}/{i}.jpg" for folder in folders for i in range(n)]


def splits(*names: str, classes: tuple[str, ...] = ("cat", "dog")) -> list[str]:
    """Images of each class in each split."""
    return images(*(f"{name}/{label}" for name in names for label in classes))


@pytest.mark.parametrize(
    ("ids", "given"),
    [
        (splits("train", "valid", "test"), {"train", "val", "test"}),  # Roboflow
        (splits("train", "val"), {"train", "val"}),  # ImageNet
        (splits("Training", "Testing"), {"train", "test"}),
        (splits("TRAIN", "TEST", "TEST_SIMPLE"), {"train", "test"}),
        (splits("dev", "train", "test"), {"train", "val", "test"}),
        (splits("seg_train/seg_train", "seg_test/seg_test"), {"train", "test"}),  # Kaggle's doubled folders
        (splits("training_set/training_set", "test_set/test_set"), {"train", "test"}),
        (splits("images/train", "images/val"), {"train", "val"}),
        (splits("train/images", "validation/images"), {"train", "val"}),
        ([*splits("data/train", "data/test"), "docs/readme.md"], {"train", "test"}),
        (splits("train2017", "val2017"), {"train", "val"}),
        ([*splits("train", "test"), "README.roboflow.txt", "data.yaml"], {"train", "test"}),
        (splits("train ", "test"), {"train", "test"}),
        (images("train/cat", "train/dog", "test/dog", "test/cat/nested"), {"train", "test"}),
    ],
)
def test_split_folders_over_equal_classes_are_splits(ids: list[str], given: set[str]) -> None:
    found = recognize(ids)
    assert (found.problem, found.splits, found.classes) == (None, given, ("cat", "dog"))
    places = {image: found.place(image) for image in ids if image.endswith("jpg")}
    for image, place in places.items():
        assert place is not None
        assert place.label == ("cat" if "/cat/" in image else "dog")
        assert place.split == next(filter(None, map(split_name, image.split("/"))))
    assert found.place("README.roboflow.txt") is None
    assert "splits of 2 classes" in found.notes[0]


def test_splits_below_the_classes_are_splits() -> None:
    found = recognize(images("cat/train", "cat/test", "dog/train", "dog/test"))
    assert (found.problem, found.splits, found.classes) == (None, {"train", "test"}, ("cat", "dog"))
    assert found.place("dog/test/1.jpg") == Place("", "test", "dog")


def test_names_of_folders_are_no_labels_but_below_a_trusted_monday_where_that_is_asked_for() -> None:
    new = ["tuesday/cat/1.jpg", "tuesday/train/dog/2.jpg", "tuesday/3.jpg", "tuesday/2024/may/1/4.jpg"]
    found = recognize([*images("monday/cat", "monday/dog"), *new], "monday")
    assert (found.problem, found.splits, found.classes, found.days) == (None, set(), ("cat", "dog"), {"monday", "tuesday"})
    assert found.place("monday/dog/1.jpg") == Place("monday", "", "dog")
    assert {found.place(image) for image in new} == {Place("tuesday", "", "")}
    without_days = recognize([*splits("train", "test"), *images("north/cat", "north/dog")], "monday")
    assert (without_days.problem, without_days.classes) == (None, ())
    assert without_days.place("train/cat/0.jpg") == Place("", "", "")


def test_a_test_folder_without_class_folders_has_no_labels() -> None:
    found = recognize([*splits("train"), *images("test")])
    assert (found.problem, found.place("test/0.jpg")) == (None, Place("", "test", ""))
    assert found.notes == (
        "the folders 'train', 'test' are the splits of 2 classes; 'test' has no class folders: its images have no label",
    )


def test_days_in_any_case_may_have_splits_of_their_own() -> None:
    found = recognize([*splits("TUESDAY/train", "TUESDAY/test"), *images("Monday/cat", "Monday/dog")])
    assert (found.problem, found.days, found.splits) == (None, {"monday", "tuesday"}, {"train", "test"})
    assert found.place("TUESDAY/test/cat/0.jpg") == Place("tuesday", "test", "cat")
    assert found.place("Monday/cat/0.jpg") == Place("monday", "", "cat")
    assert found.place("Monday/0.jpg") is None
    two_spellings = recognize(splits("monday", "Monday", "tuesday"))
    assert two_spellings.place("Monday/dog/0.jpg") == two_spellings.place("monday/dog/0.jpg") == Place("monday", "", "dog")


def test_folders_of_days_hold_classes_and_on_tuesday_images_without_a_label() -> None:
    found = recognize(["monday/cat/1.png", "monday/dog/2.png", "tuesday/3.png", "tuesday/cat/more/4.png", "loose.png", "notes/readme.txt"])
    assert (found.problem, found.days, found.splits, found.notes) == (None, {"monday", "tuesday"}, frozenset(), ())
    assert found.place("tuesday/3.png") == Place("tuesday", "", "")
    assert found.place("tuesday/cat/more/4.png") == Place("tuesday", "", "cat")
    assert found.place("loose.png") is found.place("monday/9.png") is found.place("notes/readme.txt") is None


def test_folders_that_wrap_a_days_classes_are_told_from_its_only_class() -> None:
    wrapped = recognize(splits("monday/images", "tuesday/images"))
    assert (wrapped.problem, wrapped.classes, wrapped.place("tuesday/images/cat/0.jpg")) == (
        None,
        ("cat", "dog"),
        Place("tuesday", "", "cat"),
    )
    one = recognize([*splits("monday/known"), *images("tuesday/cat"), "tuesday/9.jpg"])
    assert (one.problem, one.place("monday/known/dog/0.jpg")) == (None, Place("monday", "", "dog"))
    assert one.place("tuesday/cat/0.jpg") == Place("tuesday", "", "cat")
    dated = recognize([*splits("monday"), *images("tuesday/cat/2025", "tuesday/cat/2026")])
    assert (dated.problem, dated.place("tuesday/cat/2026/1.jpg")) == (None, Place("tuesday", "", "cat"))


def test_a_stray_folder_beside_the_days_is_named() -> None:
    problem = recognize([*splits("monday", "tuesday"), "backup/cat/1.png"]).problem
    assert problem is not None
    assert "'monday', 'tuesday', lie others with images, 'backup'" in problem
    assert "'cat', 'dog'" in (recognize([*images("tuesday", "cat", "dog")]).problem or "")


def test_days_of_the_week_as_classes_stay_classes() -> None:
    found = recognize(images("monday", "tuesday", "friday"))
    assert (found.problem, found.days, found.classes) == (None, frozenset(), ("friday", "monday", "tuesday"))
    assert recognize(splits("monday", "tuesday"), "classes").place("monday/cat/0.jpg") == Place("", "", "monday")


@pytest.mark.parametrize(
    "ids",
    [
        images("test", "quiz", "exam"),  # a class called test beside others
        images("train", "bus", "car"),
        [*images("cat", "dog"), "loose.jpg"],
        images("cat/images", "dog/images"),  # ImageNet's <class>/images/
        images("cat", "dog/indoor", "dog/outdoor", n=9)[:12],  # few images below a class's own folders
        ["cat/1", "dog/2"],  # no endings: everything counts as an image
        images("cat/a", "dog/b"),
    ],
)
def test_class_folders_stay_class_folders(ids: list[str]) -> None:
    found = recognize(ids)
    assert (found.problem, found.days, found.splits, found.notes) == (None, frozenset(), frozenset(), ())
    assert {place.label for image in ids if (place := found.place(image))} == set(found.classes)
    assert set(found.classes) == {image.split("/")[0] for image in ids if "/" in image}
    assert found.place("loose.jpg") is None


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([*splits("data"), "docs/fig.png"], ["'data' (beside 'docs')", "'cat', 'dog'", "data.subfolder"]),
        (splits("cam1", "cam2"), ["'cam1', 'cam2'", "'cat', 'dog'", "data.layout=subfolders", "data.layout=classes"]),
        (images("animal/cat", "animal/dog", "vehicle/bus", "vehicle/car"), ["'animal', 'vehicle'"]),
        (images("cat", "dog") + splits("held_out"), ["'held_out' (beside 'cat', 'dog')"]),
        (splits("train", "test") + images("test/eel"), ["'train' lacks 'eel'", "data.layout=subfolders with segregation.split=own"]),
        (splits("train", "val") + images("train/eel"), ["'val' lacks 'eel'", "data.layout=subfolders to take"]),
        (images("train/Cat", "train/dog", "test/cat", "test/dog"), ["'Cat' and 'cat' differ in upper and lower case"]),
        (splits("val", "test"), ["'val', 'test'", "none holds training images"]),
        (splits("train", "test") + images("pred"), ["beside the split folders 'train', 'test'", "'pred'"]),
        (images("train", "test"), ["'train', 'test' hold images but no class folders"]),
        (images("train/images", "test/images"), ["'train', 'test' hold images but no class folders"]),
        (splits("siteA/train", "siteA/test", "siteB/train", "siteB/test"), ["'siteA', 'siteB'", "data.subfolder"]),
        (images("1", "2") and ["1.png", "2.png"], ["no image lies in a class folder ('1.png', '2.png')"]),
        ([], ["there are no files"]),
        (["monday/1.png", "tuesday/cat/2.png"], ["no image in monday/ lies in a class folder"]),
        (splits("monday/x", "monday/y"), ["'x', 'y'", "data.layout=subfolders"]),
    ],
)
def test_what_may_be_either_is_refused_with_the_folders_and_the_option(ids: list[str], words: list[str]) -> None:
    problem = recognize(ids).problem
    assert problem is not None
    for word in words:
        assert word in problem


def test_the_option_decides() -> None:
    cameras = splits("cam1", "cam2")
    assert recognize(cameras, "classes").place("cam1/cat/0.jpg") == Place("", "", "cam1")
    assert recognize(cameras, "subfolders").place("cam1/cat/0.jpg") == Place("", "", "cat")
    unequal = [*splits("train", "test"), *images("test/eel", "pred")]
    found = recognize(unequal, "subfolders")
    assert (found.problem, found.classes, found.splits) == (None, ("cat", "dog", "eel"), {"train", "test"})
    assert found.place("test/eel/0.jpg") == Place("", "test", "eel")
    assert found.place("pred/0.jpg") == Place("", "", "")
    assert recognize(splits("train", "test"), "classes").splits == frozenset()
    twice = recognize(splits("train", "test", "copy/train", "copy/test"), "subfolders")
    assert "'copy' hold splits over further folders" in (twice.problem or "")


def test_one_split_alone_gives_no_split() -> None:
    found = recognize(splits("x/train", "x/training"))
    assert (found.problem, found.splits, found.place("x/train/cat/0.jpg")) == (None, frozenset(), Place("", "", "cat"))


def test_names_in_another_unicode_form_meet_and_those_in_another_case_are_told() -> None:
    found = recognize([*splits("train", classes=(NFD, "b")), *splits("test", classes=(NFC, "b"))])
    assert (found.problem, found.classes) == (None, ("b", NFC))
    assert found.place(f"train/{NFD}/0.jpg") == Place("", "train", NFC)
    both = recognize(images(NFC, NFD, "b"))
    assert (both.classes, both.notes) == (("b", NFC), ())
    told = recognize(images("Bee", "bee", "ant", "ant ", "wasp"))
    assert told.classes == ("Bee", "ant", "ant ", "bee", "wasp")
    assert told.notes == (
        "the classes 'Bee' and 'bee' differ in upper and lower case, and stay two",
        "the classes 'ant' and 'ant ' differ in blanks, and stay two",
    )


def test_similar_names_are_paired_with_the_first_of_them() -> None:
    assert similar_names(["a b", "A  b", "c", "\uff21 b"]) == [("A  b", "a b"), ("A  b", "\uff21 b")]


def test_known_names_are_found_as_people_write_them() -> None:
    known = KnownNames([f"{NFD}/1.png", "a\\b.png", "c/d.png", " e", f"{NFC}.png", f"{NFD}.png"])
    assert known.find(f" ./{NFC}\\1.png ") == f"{NFD}/1.png"
    assert (known.find("a\\b.png"), known.find(" e"), known.find("c\\d.png")) == ("a\\b.png", " e", "c/d.png")
    assert (known.find(f"{NFC}.png"), known.find(f"{NFD}.png")) == (f"{NFC}.png", f"{NFD}.png")
    assert known.find("C/d.png") is None
    assert known.describe_similar("C/d.png") == " (did you mean 'c/d.png'? they differ in upper and lower case)"
    assert known.describe_similar("x") == ""


def test_the_order_of_the_ids_does_not_matter() -> None:
    ids = [*splits("train", "valid", "test"), *images("test/cat/deep")]
    assert recognize(ids) == recognize(ids[::-1])
