"""Cells that name images: paths from elsewhere, URLs, names without an extension, and what fits several images or none."""

from __future__ import annotations

import unicodedata

import pytest

from bccp.data.label_tables.image_names import AMBIGUOUS, find_images, has_image_suffix

CLASSES = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png"]
FLAT = ["a.jpg", "b.jpg", "c 1.jpg"]


@pytest.mark.parametrize(
    ("cell", "image"),
    [
        ("cat/1.png", "cat/1.png"),
        (" ./cat/1.png", "cat/1.png"),
        ("cat\\1.png", "cat/1.png"),
        ("C:\\photos\\cat\\1.png", "cat/1.png"),
        ("/home/ann/photos/cat/1.png", "cat/1.png"),
        ("file:///home/ann/cat/1.png", "cat/1.png"),
        ("https://host/photos/cat/1.png?sig=a%2Fb", "cat/1.png"),
        ("s3://bucket/photos/cat/1.png", "cat/1.png"),
        ("/data/local-files/?d=photos/cat/1.png", "cat/1.png"),
        ("http://localhost:8080/data/local-files/?d=photos%5Ccat%5C1.png", "cat/1.png"),
        ("cat/1", "cat/1.png"),
        ("cat/1.jpeg", "cat/1.png"),
        ("3.png", "dog/3.png"),
        ("3", "dog/3.png"),
        ("1.png", AMBIGUOUS),
        ("1", AMBIGUOUS),
        ("bird/1.png", None),
        ("bird/3.png", None),  # not dog/3.png: the path names another folder
        ("", None),
    ],
)
def test_the_image_of_a_cell_among_class_folders(cell: str, image: str | None) -> None:
    assert find_images([cell, "cat/2.png"], CLASSES)[0] == image


@pytest.mark.parametrize(
    "cells",
    [
        ["a.jpg", "b.jpg", "c 1.jpg"],
        ["a", "b", "c 1"],
        ["/data/upload/3/1f2e3d4c-a.jpg", "/data/upload/3/1f2e3d4d-b.jpg", "/data/upload/3/00000000-c%201.jpg"],
        ["/data/local-files/?d=x/a.jpg", "/data/local-files/?d=x/b.jpg", "/data/local-files/?d=x/c%201.jpg"],
        ["https://host/x/a.jpg", "https://host/x/b.jpg", "https://host/x/c%201.jpg"],
        ["images/train/a.jpg", "images/train/b.jpg", "images/train/c 1.jpg"],
        ["D:\\set\\a.jpg", "D:\\set\\b.jpg", "D:\\set\\c 1.jpg"],
    ],
)
def test_a_flat_folder_that_was_moved(cells: list[str]) -> None:
    assert find_images(cells, FLAT) == FLAT
    assert find_images(cells, [f"photos/{name}" for name in FLAT]) == [f"photos/{name}" for name in FLAT]


def test_paths_that_lead_elsewhere_are_no_images_of_class_folders() -> None:
    assert find_images(["x/1.png", "x/3.png"], CLASSES) == [None, None]  # names repeat: nothing tells which folder is meant


def test_ids_and_dots() -> None:
    assert find_images(["0012", "12", "v1.5"], ["0012.png", "v1.5.png"]) == ["0012.png", None, "v1.5.png"]
    assert find_images(["a.png", "a.jpg", "a"], ["a.png", "a.jpg"]) == ["a.png", "a.jpg", AMBIGUOUS]


def test_equal_looking_names_are_one() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Käfer/ö.png") for form in ("NFC", "NFD"))
    assert find_images([composed], [decomposed]) == [decomposed]
    assert find_images([decomposed], [composed]) == [composed]
    assert find_images([composed, decomposed], [composed, decomposed]) == [composed, decomposed]  # both there: as they are written


def test_a_table_in_a_folder_names_the_images_of_that_folder() -> None:
    images = ["train/a.jpg", "train/b.jpg", "valid/a.jpg"]
    assert find_images(["a.jpg", "train/b.jpg"], images, table="train/_classes.csv") == ["train/a.jpg", "train/b.jpg"]
    assert find_images(["a.jpg"], images, table="valid/_classes.csv") == ["valid/a.jpg"]
    assert find_images(["b.jpg"], images, table="valid/_classes.csv") == [None]
    assert find_images(["b.jpg"], images, table="annotations/labels.csv") == ["train/b.jpg"]


def test_a_tables_name_tells_the_split_that_it_is_of() -> None:
    images = ["train_images/1.png", "train_images/2.png", "test_images/1.png"]
    assert find_images(["1", "2"], images, table="train.csv") == ["train_images/1.png", "train_images/2.png"]
    assert find_images(["1", "2"], images, table="labels.csv") == [AMBIGUOUS, "train_images/2.png"]


def test_what_ends_like_an_image() -> None:
    assert all(map(has_image_suffix, ["a.PNG", "x/a.jpeg", "https://h/a.webp?x=1", "/data/local-files/?d=a.tif"]))
    assert not any(map(has_image_suffix, ["a", "1.5", "2024-01-01", "a.csv", "", "v1.jpgs"]))
