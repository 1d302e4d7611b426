"""All that a folder hides beside wrong labels, in one go: what was planted is in the table, and each check has a verdict in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from bccp.data import folder_checks, tables
from bccp.data.duplicates import duplicate_groups
from bccp.data.folder_checks import FolderChecks, find_folder_checks
from support.checked_data import cleaned, picture


def features_of(names: list[str]) -> npt.NDArray[np.float32]:
    """Features that are one kind, but for the image that is of no class."""
    rng = np.random.default_rng(0)
    own = {strange: np.random.default_rng([9, strange]).gamma(0.5, size=60) for strange in (False, True)}
    return np.stack([own["strange" in name] * rng.gamma(4.0, size=60) for name in names]).astype(np.float32)


def looked_at(folder: Path, pictures: dict[str, Image.Image | bytes], *, with_features: bool = True) -> FolderChecks:
    clean = cleaned(folder, pictures)
    manifest = tables.read(clean / "manifest.csv", dtypes={"row": int, "width": int, "height": int}).sort_values("image")
    classes, given = np.unique(manifest["label"].to_numpy(object), return_inverse=True)
    groups = duplicate_groups(manifest["sha256"].tolist(), manifest["phash"].tolist())
    features = features_of(manifest["image"].tolist()) if with_features else None
    images = np.load(clean / "images.npy")
    found = find_folder_checks(manifest, images, given, groups, classes.tolist(), resize="stretch", features=features)
    found.write(folder)
    return FolderChecks.read(folder)


def folder_of(n_of_class: int = 25) -> dict[str, Image.Image | bytes]:
    return {f"{label}/{i:02d}.png": picture(100 * k + i) for k, label in enumerate(("cat", "dog")) for i in range(n_of_class)}


def test_what_was_planted_is_found_and_nothing_else(tmp_path: Path) -> None:
    pictures = folder_of() | {
        "cat/strange.png": picture(900),
        "cat/dark.png": picture(901).point(lambda level: level // 8),
        "cat/bright.png": picture(902).point(lambda level: 255 - (255 - level) // 12),
        "cat/flat.png": Image.new("RGB", (48, 48), (120, 90, 40)),
        "dog/blurred.png": picture(903).filter(ImageFilter.GaussianBlur(4)),
        "dog/long.png": picture(904, (400, 60)),
        "dog/tiny.png": picture(905, (40, 7)),
        "dog/a copy.png": picture(101),
        "dog/as a dog.png": picture(1),
    }
    found = looked_at(tmp_path, pictures)
    named = {check: set(rows["image"]) for check, rows in found.images.groupby("check")}
    assert named == {
        "outliers": {"cat/strange.png"},
        "contradictions": {"dog/as a dog.png", "cat/01.png"},
        "copies": {"dog/a copy.png", "dog/01.png"},
        "dark": {"cat/dark.png"},
        "bright": {"cat/bright.png"},
        "flat": {"cat/flat.png"},
        "blurred": {"dog/blurred.png"},
        "long": {"dog/long.png", "dog/tiny.png"},
        "tiny": {"dog/tiny.png"},
    }
    assert {one.check: one.found for one in found.checks} == dict.fromkeys(("cues", "near_copies"), 0) | {
        name: 2 if name == "long" else 1 for name in named
    }
    said = {one.check: one.verdict for one in found.checks}
    assert said["outliers"].startswith("1 image stands out as of no class: ")
    assert said["contradictions"] == "2 images in 1 group are copies of each other with labels that differ"
    assert said["near_copies"] == "no image is nearly equal to another"
    assert said["cues"].startswith("no class is given away by one of these alone: brightness, ")
    assert "bytes per pixel" not in said["cues"]  # nobody gave sizes of files
    assert (found.n_images, found.n_pictures) == (59, 57)


def test_a_clean_folder_has_a_verdict_for_each_check_and_shows_what_is_farthest(tmp_path: Path) -> None:
    found = looked_at(tmp_path, folder_of())
    assert [one.found for one in found.checks] == [0] * len(found.checks)
    assert found.checks[0].verdict == "no image stands out as of no class"
    assert found.images["check"].tolist() == [folder_checks.FARTHEST] * folder_checks.SHOWN
    assert found.images["rank"].tolist() == list(range(1, folder_checks.SHOWN + 1))


def test_a_cue_is_told_in_words_and_shown_by_images_of_both_sides(tmp_path: Path) -> None:
    pictures = folder_of()
    for name in [name for name in pictures if name.startswith("cat")]:
        pictures[name] = pictures[name].convert("L")
    found = looked_at(tmp_path, pictures)
    cues = next(one for one in found.checks if one.check == "cues")
    assert cues.cues[0] == (
        "the saturation alone gives 'cat' away: all 25 different pictures of it are paler, and no other (it tells 100% of pairs apart)"
    )
    assert cues.verdict == "2 cues give classes away"
    assert "all 25 different pictures of it are of mode L, and no other" in cues.cues[1]
    sides = found.images[found.images["group"] == 2].groupby("check")
    assert {check: set(rows["label"]) for check, rows in sides} == {"cues": {"cat"}, "cues_others": {"dog"}}
    assert {check: set(rows["value"]) for check, rows in sides} == {"cues": {"L"}, "cues_others": {"RGB"}}


@pytest.mark.parametrize("order", ["another order", "again"])
def test_the_files_are_the_same_bytes(order: str, tmp_path: Path) -> None:
    pictures = folder_of(12)
    written = []
    for n, names in enumerate((list(pictures), list(pictures)[:: -1 if order == "another order" else 1])):
        (tmp_path / str(n)).mkdir()
        looked_at(tmp_path / str(n), {name: pictures[name] for name in names})
        written.append([(tmp_path / str(n) / name).read_bytes() for name in ("folder_checks.json", "folder_checks.csv")])
    assert written[0] == written[1]


def test_too_few_images_and_no_features_are_said(tmp_path: Path) -> None:
    found = looked_at(tmp_path, folder_of(4), with_features=False)
    said = {one.check: one.verdict for one in found.checks}
    assert said["outliers"] == "images of no class were not looked for, as there are no features"
    assert said["cues"] == "no class has 10 different pictures, too few to tell whether a cue gives it away"
    assert isinstance(found.images, pd.DataFrame)
    assert found.images.empty
    (tmp_path / "again").mkdir()
    again = looked_at(tmp_path / "again", folder_of(4))
    assert again.checks[0].verdict == "images of no class were not looked for: there are too few different pictures"
