"""Cues that alone give a class away: each kind is found where it was planted, and none in a folder without."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from bccp.data import preprocessing, spurious_cues
from bccp.data.spurious_cues import CUES, find_cues, measure_cues
from support.checked_data import picture

N_OF_CLASS = 30
GIVEN = np.repeat([0, 1, 2], N_OF_CLASS)


def folder(n: int = len(GIVEN), side: int = 32) -> tuple[npt.NDArray[np.uint8], pd.DataFrame]:
    """Pictures that tell nothing of their class, and their manifest."""
    images = np.stack([np.asarray(picture(seed, (side, side))) for seed in range(n)])
    names = [f"{i:03d}.jpg" for i in range(n)]
    sizes = np.random.default_rng(0).integers(200, 400, (n, 2))
    table = {"image": names, "row": range(n), "width": sizes[:, 0], "height": sizes[:, 1], "mode": "RGB", "format": "JPEG"}
    return images, pd.DataFrame(table)


def found_in(images: npt.NDArray[np.uint8], manifest: pd.DataFrame, **options: object) -> dict[tuple[str, int], spurious_cues.Cue]:
    measured = measure_cues(images, manifest, resize="stretch", **options)
    return {(cue.cue, cue.label): cue for cue in find_cues(measured, GIVEN, np.arange(len(GIVEN)), n_classes=3)}


def test_nothing_is_found_where_nothing_was_planted() -> None:
    images, manifest = folder()
    assert found_in(images, manifest, file_bytes=dict.fromkeys(manifest["image"], 5000)) == {}
    drawn = np.random.default_rng(1)
    for _ in range(20):
        measured = pd.DataFrame({name: drawn.normal(size=90) for name in CUES}).assign(format=drawn.choice(["JPEG", "PNG"], 90))
        assert find_cues(measured, drawn.permutation(GIVEN), np.arange(90), n_classes=3) == []


@pytest.mark.parametrize(
    ("cue", "words"), [("brightness", "darker"), ("saturation", "paler"), ("sharpness", "more blurred"), ("border", "white border")]
)
def test_a_look_that_one_class_has_is_found(cue: str, words: str) -> None:
    images, manifest = folder()
    of_class = images[GIVEN == 1]
    if cue == "brightness":
        changed = of_class // 4
    elif cue == "saturation":
        changed = np.repeat(of_class.mean(axis=3, keepdims=True), 3, axis=3)
    elif cue == "sharpness":
        changed = np.stack([np.asarray(picture(seed, (32, 32)).resize((4, 4)).resize((32, 32), 2)) for seed in range(N_OF_CLASS)])
    else:
        changed = of_class.copy()
        changed[:, [0, -1]] = changed[:, :, [0, -1]] = 252
    images[GIVEN == 1] = changed
    found = found_in(images, manifest)[cue, 1]
    assert (found.words, found.inside, found.n_inside, found.n_outside) == (words, 30, 30, 60)
    assert found.outside <= 2
    assert found.auc > 0.95
    assert found.p_value <= 0.01


@pytest.mark.parametrize(
    ("cue", "words"), [("format", "PNG"), ("mode", "L"), ("size", "larger"), ("shape", "wider"), ("bytes per pixel", "")]
)
def test_a_kind_of_file_that_one_class_has_is_found(cue: str, words: str) -> None:
    images, manifest = folder()
    one, sizes = GIVEN == 2, dict(zip(manifest["image"], (manifest["width"] * manifest["height"] // 8).tolist(), strict=True))
    if cue in ("format", "mode"):
        manifest.loc[one, cue] = words
    elif cue == "size":
        manifest.loc[one, ["width", "height"]] *= 3
        sizes |= {image: 9 * sizes[image] for image in manifest["image"][one]}
    elif cue == "shape":
        manifest["width"], manifest["height"] = np.where(one, 600, 300), np.where(one, 150, 300)
    else:
        sizes |= {image: 4 * sizes[image] for image in manifest["image"][one]}
    found = found_in(images, manifest, file_bytes=sizes)
    assert set(found) == {(cue, 2)}
    assert found[cue, 2].auc == 1
    assert (found[cue, 2].inside, found[cue, 2].outside) == (30, 0)
    assert found[cue, 2].words == (words or "less compressed")


def test_a_cue_of_half_a_class_or_one_that_wrong_labels_blur_is_found_in_files_and_chance_is_not() -> None:
    images, manifest = folder()
    wrong = np.random.default_rng(3).choice(90, 9, replace=False)
    manifest.loc[GIVEN == 0, "format"] = "PNG"
    manifest.loc[wrong, "format"] = np.where(GIVEN[wrong] == 0, "JPEG", "PNG")
    assert set(found_in(images, manifest)) == {("format", 0)}
    manifest["format"] = np.where(np.arange(90) % 30 < 3 * (GIVEN == 0), "PNG", "JPEG")  # 3 of 30, and no other
    assert found_in(images, manifest) == {}


def test_weak_cues_are_not_told_of_and_neither_are_strong_ones_that_chance_makes() -> None:
    images, manifest = folder()
    manifest["format"] = np.where(np.arange(90) % 30 < 12 * (GIVEN == 0), "PNG", "JPEG")  # 12 of 30, and no other: sure, and weak
    assert found_in(images, manifest) == {}
    small, draws = np.repeat([0, 1], 10), np.random.default_rng(2)
    for _ in range(20):
        measured = pd.DataFrame({name: draws.normal(size=20) for name in CUES})
        assert find_cues(measured, small, np.arange(20), n_classes=2) == []


def test_the_area_is_that_of_a_plain_loop_over_held_out_pictures() -> None:
    shift, draws = 1.8 * (GIVEN == 1), np.random.default_rng(4)
    measured = pd.DataFrame({name: draws.normal(size=90) for name in CUES}).assign(size=draws.normal(size=90) + shift)
    (found,) = find_cues(measured, GIVEN, np.arange(90), n_classes=3)
    assert (found.cue, found.label, found.words) == ("size", 1, "larger")
    fold = np.random.default_rng(0).permutation(90) % 5
    edges = np.quantile(measured["size"], np.arange(1, 12) / 12, method="inverted_cdf")
    field = [sum(edge < value for edge in edges) for value in measured["size"]]
    assert len(set(field)) == 12
    won = pairs = 0.0
    for held in range(5):
        share = {}
        for place in set(field):
            known = [GIVEN[i] == 1 for i in range(90) if fold[i] != held and field[i] == place]
            prior = sum(GIVEN[i] == 1 for i in range(90) if fold[i] != held) / sum(fold != held)
            share[place] = (sum(known) + prior) / (len(known) + 1)
        for i in np.flatnonzero((fold == held) & (GIVEN == 1)):
            for j in np.flatnonzero((fold == held) & (GIVEN != 1)):
                one, other = share[field[i]], share[field[j]]
                pairs, won = pairs + 1, won + (one > other) + (one == other) / 2
    assert found.auc == pytest.approx(won / pairs, abs=0.02)  # equal shares of different fields are parted by the order of the fields


def test_copies_count_once_and_small_classes_not_at_all() -> None:
    images, manifest = folder()
    manifest.loc[GIVEN == 0, "format"] = "PNG"
    measured = measure_cues(images, manifest, resize="stretch")
    copied = np.where(GIVEN == 0, 0, np.arange(90))  # all pictures of the class are one
    assert find_cues(measured, GIVEN, copied, n_classes=3) == []
    assert [cue.n_inside for cue in find_cues(measured, GIVEN, np.where(np.arange(90) < 15, 0, np.arange(90)), n_classes=3)] == [16]
    assert find_cues(measured, np.zeros(90, np.int64), np.arange(90), n_classes=1) == []


def test_of_two_classes_one_stands_for_both() -> None:
    images, manifest = folder()
    manifest.loc[GIVEN == 0, "format"] = "PNG"
    measured = measure_cues(images, manifest, resize="stretch")
    found = find_cues(measured, np.minimum(GIVEN, 1), np.arange(90), n_classes=2)
    assert [(cue.cue, cue.label, cue.words) for cue in found] == [("format", 0, "PNG")]


def test_added_borders_are_not_looked_at() -> None:
    """Long and wide pictures between black borders measure as they would without; only their own border counts."""
    _, manifest = folder(4)
    manifest["width"], manifest["height"] = [300, 100, 300, 100], [100, 300, 100, 300]
    originals = [picture(seed, (96, 96)).resize(size) for seed, size in enumerate([(300, 100), (100, 300)] * 2)]
    padded, plain = (
        np.stack([np.asarray(preprocessing.fit_to_square(image, 96, how)) for image in originals]) for how in ("pad", "stretch")
    )
    one, other = measure_cues(padded, manifest, resize="pad"), measure_cues(plain, manifest, resize="stretch")
    assert one["border"].tolist() == other["border"].tolist() == ["no even border"] * 4
    np.testing.assert_allclose(one["brightness"], other["brightness"], atol=3)
    assert measure_cues(padded, manifest, resize="stretch")["border"].str.contains("bars").all()
