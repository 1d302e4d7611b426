"""Images of one perceptual hash: near copies are one picture in other encodings, and not a camera's scenes that differ in an object."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bccp.data import duplicates, preprocessing
from bccp.data.decoding.image_files import pillow_limits
from bccp.data.duplicates import assign_folds, duplicate_groups, joined_by_features, told_apart


def scene(seed: int = 3) -> Image.Image:
    """What a fixed camera sees: 240 x 160 px."""
    rng = np.random.default_rng(seed)
    grey = Image.fromarray(rng.integers(40, 200, (6, 9, 3), dtype=np.uint8)).resize((240, 160), Image.Resampling.BICUBIC)
    return Image.fromarray(np.clip(np.asarray(grey) + rng.normal(0, 2, (160, 240, 3)), 0, 255).astype(np.uint8))


def with_object(image: Image.Image, x: int, y: int, colour: tuple[int, int, int] = (250, 240, 60), side: int = 8) -> Image.Image:
    changed = image.copy()
    changed.paste(colour, (x, y, x + side, y + side))
    return changed


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def hashes(files: list[bytes], *, tolerance: float | None = 16, image_size: int = 32) -> list[str]:
    """What follows the files' hashes at the end, where these are all equal."""
    with pillow_limits(1_000_000):
        found = preprocessing.pictures(files, image_size=image_size, resize="stretch")
    pixels = np.stack([np.frombuffer(one.pixels, np.uint8).reshape(image_size, image_size, 3) for one in found])
    table = {name: [getattr(one, name) for one in found] for name in ("sha256", "width", "height")}
    own = told_apart(pd.DataFrame(table | {"row": range(len(found)), "phash": "hash"}), pixels, tolerance=tolerance)
    return [hash_.removeprefix("hash") for hash_ in own]


@pytest.mark.parametrize("image_size", [8, 16, 24, 32, 64])
def test_scenes_that_differ_in_an_object_are_no_near_copies(image_size: int) -> None:
    scenes = [with_object(scene(), x, y) for x, y in ((30, 30), (150, 30), (90, 100))]
    assert hashes([encoded(one) for one in scenes], image_size=image_size, tolerance=8) == ["", "+1", "+2"]


def test_a_small_or_a_faint_object_or_one_of_another_colour_tells_scenes_apart() -> None:
    empty = encoded(scene())
    assert hashes([empty, encoded(with_object(scene(), 40, 40, side=4))]) == ["", "+1"]
    red, green = (with_object(scene(), 40, 40, colour) for colour in ((150, 40, 40), (40, 96, 40)))
    assert hashes([encoded(red), encoded(green)]) == ["", "+1"]


def test_other_encodings_of_a_picture_are_near_copies() -> None:
    image = scene()
    half = image.resize((120, 80), Image.Resampling.BICUBIC)
    brighter = image.point(lambda value: min(255, value + 8))
    files = [encoded(image), *(encoded(image, "JPEG", quality=quality) for quality in (40, 75, 95)), encoded(image, "WEBP", quality=70)]
    assert hashes([*files, encoded(half), encoded(brighter)]) == [""] * 7


def test_small_pictures_in_other_encodings_are_near_copies() -> None:
    image = scene().resize((32, 32), Image.Resampling.LANCZOS)
    assert hashes([encoded(image), encoded(image, "JPEG", quality=75), encoded(image, "JPEG", quality=90)]) == [""] * 3


def test_copies_of_each_scene_are_near_copies_of_that_scene() -> None:
    scenes = [with_object(scene(), x, 40) for x in (30, 150)]
    files = [encoded(scenes[0]), encoded(scenes[1]), encoded(scenes[0], "JPEG", quality=80), encoded(scenes[1], "JPEG"), encoded(scenes[1])]
    assert hashes(files) == ["", "+1", "", "+1", "+1"]


def test_the_tolerance_decides_and_none_leaves_it_to_the_hash() -> None:
    files = [encoded(scene()), encoded(with_object(scene(), 40, 40)), encoded(scene(), "JPEG", quality=60)]
    assert hashes(files, tolerance=None) == ["", "", ""]
    assert hashes(files, tolerance=0) == ["", "+1", "+2"]


@pytest.mark.parametrize(("side", "grid"), [(24, 16), (60, 8), (64, 32), (5, 16)])
def test_means_of_fields_are_those_of_the_area_that_each_covers_whatever_the_pieces(
    side: int, grid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    n_fields = min(grid, side)
    fine = picture.repeat(n_fields, axis=0).repeat(n_fields, axis=1)  # each field is side x side of these
    expected = fine.reshape(n_fields, side, n_fields, side, 3).mean(axis=(1, 3))
    for pieces in (1, 700, 10**9):
        monkeypatch.setattr(duplicates, "SERIAL", pieces)
        np.testing.assert_allclose(duplicates._field_means(picture, grid), expected, atol=1e-3)


def test_groups_are_connected_by_the_slow_search_over_all_pairs() -> None:
    rng = np.random.default_rng(1)
    levels = rng.integers(0, 120, 40)
    pixels = np.repeat(levels.astype(np.uint8), 16 * 16 * 3).reshape(-1, 16, 16, 3)
    names = [str(i) for i in range(40)]
    table = pd.DataFrame({"row": range(40), "sha256": names, "phash": "a", "width": 99, "height": 99})
    found = pd.factorize(np.array(told_apart(table, pixels, tolerance=3)))[0]
    alike = np.abs(levels[:, None] - levels) <= 3
    for _ in range(40):
        alike = (alike.astype(int) @ alike.astype(int)) > 0
    assert ((found[:, None] == found) == alike).all()
    assert 3 < len(set(found.tolist())) < 30


def test_telling_apart_again_gives_the_same_and_copies_stay_together() -> None:
    pixels = np.zeros((4, 16, 16, 3), np.uint8)
    pixels[1:3] = 200
    table = pd.DataFrame({"row": range(4), "sha256": list("abbc"), "phash": ["h", "h", "h", ""], "width": 99, "height": 99})
    once = told_apart(table, pixels, tolerance=16)
    assert once == ["h", "h+1", "h+1", ""]
    assert told_apart(table.assign(phash=once), pixels, tolerance=16) == once
    assert told_apart(table.assign(phash=once), pixels, tolerance=None) == ["h", "h", "h", ""]
    assert duplicate_groups(table["sha256"], once).tolist() == [0, 1, 1, 2]


def test_folds_keep_duplicates_together_and_labels_even() -> None:
    rng = np.random.default_rng(3)
    groups, given = np.repeat(np.arange(120), 2), np.repeat(rng.integers(0, 3, 120), 2)
    fold = assign_folds(groups, given, folds=4, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(fold[::2], fold[1::2])
    for label in range(3):
        share = np.bincount(fold[given == label], minlength=4)
        assert share.max() - share.min() <= 2
    assert not np.array_equal(fold, assign_folds(groups, given, folds=4, rng=np.random.default_rng(1)))


def test_images_of_nearly_one_hash_are_copies_where_their_features_agree() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(3, 1, (6, 40)).astype(np.float32)
    features[1] = features[0] + rng.normal(0, 0.1, 40)  # a cut of image 0
    features[5] = features[0]  # its like by a hash that says nothing
    hashes = ["ff00ff00ff00ff00", "ff00ff00ff00ff3f+1", "ff00ff00ff00ff00+2", "00ff00ff00ff00ff", "00ff00ff00ff00ff", ""]
    before = duplicate_groups(list("abcdef"), hashes)
    assert before.tolist() == [0, 1, 2, 3, 3, 4]
    assert joined_by_features(before, hashes, features).tolist() == [0, 0, 1, 2, 2, 3]
    far = [hashes[0], "ff00ff00ff00ff7f", *hashes[2:]]  # 7 bits
    assert joined_by_features(before, far, features).tolist() == before.tolist()
    assert joined_by_features([], [], np.empty((0, 40), np.float32)).tolist() == []


def test_joined_groups_go_with_the_images_in_any_order() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(0, 1, (300, 30)).astype(np.float32)
    features = np.concatenate([base, base + rng.normal(0, 0.2, base.shape).astype(np.float32)])
    hashes = [f"{h:016x}" for h in rng.integers(0, 2**63, 300)] * 2
    found = joined_by_features(np.arange(600), hashes, features)
    assert found.tolist() == [*range(300)] * 2
    order = rng.permutation(600)
    moved = joined_by_features(np.arange(600), [hashes[i] for i in order], features[order])
    np.testing.assert_array_equal(moved[:, None] == moved, found[order][:, None] == found[order])
