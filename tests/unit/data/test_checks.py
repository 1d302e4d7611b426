"""Data checks: each finds what was planted and nothing else, drift is told from chance, and a limit is named."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from bccp.core import config_schema
from bccp.core.errors import BCCPError
from bccp.data import checks, drift, image_statistics, tables
from bccp.data.checks import Finding
from bccp.reporting import data_checks_page
from support.checked_data import ALL_CHECKS, NO_LIMITS, cleaned, picture


def test_each_check_finds_what_was_planted_and_nothing_else(tmp_path: Path) -> None:
    ordinary = {f"{label}/{i}.png": picture(100 * k + i) for k, label in enumerate(("cat", "dog")) for i in range(8 + 4 * k)}
    planted: dict[str, Any] = {
        "cat/dark.png": picture(900).point(lambda level: level // 8),
        "cat/bright.png": picture(901).point(lambda level: 255 - (255 - level) // 12),
        "cat/flat.png": Image.new("RGB", (48, 48), (120, 90, 40)),
        "dog/blurred.png": picture(902).filter(ImageFilter.GaussianBlur(4)),
        "dog/tiny.png": picture(903, (7, 7)),
        "dog/long.png": picture(904, (400, 60)),
        "dog/small.png": picture(905, (20, 20)),
        "dog/0 copy.png": picture(100),
        "cat/as a dog.png": picture(101),
    }
    clean = cleaned(tmp_path, ordinary | planted)
    findings = {found.check: found for found in checks.check_images(clean, NO_LIMITS).findings}
    assert tuple(findings) == config_schema.IMAGE_CHECKS
    named = {check: set(found.images) for check, found in findings.items()}
    assert named == {
        "imbalance": set(),
        "dark": {"cat/dark.png"},
        "bright": {"cat/bright.png"},
        "flat": {"cat/flat.png"},
        "blurred": {"dog/blurred.png", "dog/tiny.png"},  # so few px have no edge that is sharp among so many
        "tiny": {"dog/tiny.png"},
        "long": {"dog/long.png"},
        "enlarged": {"dog/tiny.png", "dog/small.png"},
        "copies": {"dog/0.png", "dog/1.png"},  # the second of two in the order of their names
        "near_copies": set(),
        "contradictions": {"cat/as a dog.png", "dog/1.png"},
    }
    assert findings["imbalance"].value == 17 / 12
    assert findings["enlarged"].value == 2 / 29
    assert {found.verdict for found in findings.values()} == {"no limit"}
    data_checks_page.write_images(tmp_path, clean, checks.check_images(clean, NO_LIMITS))
    listed = tables.read(tmp_path / data_checks_page.FINDINGS_TABLE)
    assert listed["check"].tolist() == list(config_schema.IMAGE_CHECKS)
    assert tables.read(tmp_path / data_checks_page.FLAGGED).query("check == 'dark'")["image"].tolist() == ["cat/dark.png"]


def test_between_borders_the_longer_side_decides_on_what_is_enlarged(tmp_path: Path) -> None:
    sizes = {"cat/large.png": (60, 60), "cat/tall.png": (20, 60), "dog/wide.png": (48, 30), "dog/small.png": (40, 47)}
    for resize, enlarged in (("pad", {"dog/small.png"}), ("crop", {"cat/tall.png", "dog/wide.png", "dog/small.png"})):
        place = tmp_path / resize
        place.mkdir()
        clean = cleaned(place, {name: picture(number, size) for number, (name, size) in enumerate(sizes.items())}, resize=resize)
        (found,) = (one for one in checks.check_images(clean, NO_LIMITS).findings if one.check == "enlarged")
        assert set(found.images) == enlarged
        assert f"have {'no side of' if resize == 'pad' else 'a side below'} 48 px, and are enlarged" in found.said


def test_a_large_picture_is_measured_as_the_mean_of_its_blocks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 200, 200, 3), dtype=np.uint8)
    slow = np.zeros((2, 66, 66, 3))
    for row in range(66):
        for column in range(66):
            slow[:, row, column] = pixels[:, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3].mean(axis=(1, 2))
    np.testing.assert_allclose(image_statistics.block_means(pixels), slow, rtol=1e-6)


@pytest.mark.parametrize("side", [4, 5, 8, 33])
def test_the_smallest_pictures_have_figures_too(side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    told = image_statistics.looks(pixels, np.arange(3))
    assert told.shape == (3, len(image_statistics.LOOKS) + 16)
    assert np.isfinite(told.to_numpy()).all()
    assert np.isfinite(image_statistics.quality(pixels).to_numpy()).all()


def test_the_energy_distance_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    points, is_new = rng.normal(size=(11, 3)), np.arange(11) >= 7
    points[is_new] += 1
    means = {}
    for a in (False, True):
        for b in (False, True):
            pairs = [(i, j) for i in range(11) for j in range(11) if is_new[i] == a and is_new[j] == b and i != j]
            means[a, b] = np.mean([np.linalg.norm(points[i] - points[j]) for i, j in pairs])
    expected = (2 * means[False, True] - means[False, False] - means[True, True]) / (2 * means[False, True])
    between = drift.distances(points)
    distance, _ = drift.energy_test(between, is_new, stratum=np.zeros(11, int), permutations=3, rng=rng)
    assert distance == pytest.approx(expected)


def p_values(n_draws: int, shift: float, *, by_class: bool) -> np.ndarray:
    """Of sets that have the same share of each of two very different classes, as a stratified split gives them."""
    found = []
    for seed in range(n_draws):
        rng = np.random.default_rng([7, seed])
        classes = np.tile([0, 1], 20)
        points = rng.normal(size=(40, 2)) + 4 * classes[:, None]
        is_new = np.arange(40) >= 20
        points[is_new, 0] += shift
        stratum = classes if by_class else np.zeros(40, int)
        found.append(drift.energy_test(drift.distances(points), is_new, stratum=stratum, permutations=99, rng=rng)[1])
    return np.array(found)


def test_without_drift_p_is_uniform_and_with_it_small() -> None:
    found = np.sort(p_values(400, 0, by_class=True))
    furthest = np.abs(found - np.arange(1, 401) / 400).max()
    assert furthest < 1.63 / np.sqrt(400)  # Kolmogorov and Smirnov: uniform values are further apart in one of a hundred tests
    assert 0.02 <= (found <= 0.05).mean() <= 0.08
    unsplit = p_values(100, 0, by_class=False)
    assert (unsplit <= 0.5).mean() < 0.3  # what an exchange across classes would make of a stratified split: chance itself looks too even
    assert (p_values(40, 1.5, by_class=True) <= 0.05).mean() > 0.9


def test_images_that_are_all_alike_have_not_drifted() -> None:
    same = np.full((6, 8, 8, 3), 100, np.uint8)
    found = drift.drift(same, same.copy(), rng=np.random.default_rng(0))
    assert (found.distance, found.p_value) == (0.0, 1.0)


def test_drift_names_what_changed_and_is_the_same_for_the_same_seed() -> None:
    rng = np.random.default_rng(3)
    known = rng.integers(60, 200, (80, 16, 16, 3), dtype=np.uint8)
    darker = (rng.integers(60, 200, (60, 16, 16, 3), dtype=np.uint8) * 0.6).astype(np.uint8)
    found = drift.drift(known, darker, rng=np.random.default_rng(0))
    assert found == drift.drift(known, darker, rng=np.random.default_rng(0))
    assert found.p_value == 0.001
    assert found.distance > 0.1
    assert found.words.startswith("darker")
    assert (found.n_known, found.n_new) == (80, 60)


def test_drift_reads_a_bounded_number_of_images() -> None:
    class Counting:
        shape = (10_000_000, 8, 8, 3)
        read = 0

        def __getitem__(self, positions: np.ndarray) -> np.ndarray:
            self.read += len(positions)
            return np.random.default_rng(len(positions)).integers(0, 256, (len(positions), 8, 8, 3), dtype=np.uint8)

    images = Counting()
    drift.drift(images, np.zeros((5, 8, 8, 3), np.uint8), rng=np.random.default_rng(0), permutations=9)
    assert images.read == drift.MOST_COMPARED


def manifest_of(rows: list[tuple[str, str, str, int, str]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["image", "label", "sha256", "width", "format"])
    return table.assign(phash="", height=table["width"], mode="RGB")


def test_new_images_are_checked_against_known_ones() -> None:
    known = manifest_of([(f"{label}{i}", label, f"{label}{i}", 20 + i, "PNG") for label in ("cat", "dog") for i in range(4)])
    new = manifest_of(
        [("a", "cat", "a", 21, "PNG"), ("b", "cat", "cat1", 22, "PNG"), ("c", "cat", "c", 22, "JPEG"), ("d", "dog", "d", 90, "PNG")]
    )
    findings = {f.check: f for f in checks.of_days(known, new, None, names=("Monday", "Tuesday"))}
    assert {check: f.images for check, f in findings.items() if f.images} == {"known": ["b"], "new_formats": ["c"], "new_sizes": ["d"]}
    assert findings["class_shift"].value == pytest.approx(0.25)
    assert "50.0% of Monday, 75.0% of Tuesday" in findings["class_shift"].said
    other = checks.of_days(known, new.assign(label=["cat", "Full", "Half", "Full"]), None, names=("the known data", "the new data"))
    assert other[3].said.startswith(
        "2 of 3 classes of the new data are not among the known data's 2: 'Full', 'Half'; "
        "the new data has no image of 1 of the known data's 2 classes: 'dog'; the classes' shares differ most in "
    )
    assert "not among" not in findings["class_shift"].said
    assert findings["drift"].verdict == "unknown"
    assert checks.limited(findings.values(), dataclasses.replace(NO_LIMITS, drift=0.0))[-1].verdict == "unknown"
    unlabelled = checks.of_days(known, new.assign(label=""), None, names=("Monday", "Tuesday"))
    assert np.isnan(unlabelled[3].value)


def test_copies_on_both_sides_of_a_split_are_a_leak() -> None:
    manifest = manifest_of([(name, "cat", name.upper(), 9, "PNG") for name in "abcd"]).assign(sha256=["1", "2", "1", "3"])
    splits = pd.DataFrame({"image": list("abcd"), "split": ["train", "train", "test", "val"]})
    found = checks.leakage(manifest, splits)
    assert (found.images, found.value) == (["c"], 0.5)
    assert checks.leakage(manifest, splits.assign(split=["train", "train", "train", "val"])).value == 0


def test_a_limit_is_told_with_the_check_its_value_and_the_others_and_chance_stops_nothing() -> None:
    found = [
        Finding("dark", 0.25, "1 of 4 images are dark", ["cat/1.png"], limit=0.1),
        Finding("bright", 0.1, "", limit=0.1),
        Finding("drift", 0.4, "p = 0.200", limit=0.1, sure=False),
    ]
    with pytest.raises(BCCPError) as refused:
        checks.gate([*found, Finding("blurred", 1.0, "", limit=0.5)], "/there/page.html")
    assert str(refused.value) == (
        "the data check dark has found 0.25, more than preprocessing.checks.dark=0.1: 1 of 4 images are dark, such as 'cat/1.png'; over "
        "their limits too: blurred; see /there/page.html, then mend the data or raise the limit"
    )
    checks.gate(found[1:], "")
    assert [one.verdict for one in found] == ["over", "within", "within"]


def test_what_the_steps_heed_is_every_check_once() -> None:
    limits = SimpleNamespace(images=set(NO_LIMITS.of_images()), days=set(NO_LIMITS.of_days()))
    assert limits.images | limits.days == set(ALL_CHECKS)
    assert not limits.images & limits.days
