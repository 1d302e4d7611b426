"""Clean-up of documents: each filter against its definition, what becomes of a scan, and what is refused."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image, ImageDraw

from bccp.core import config, config_schema
from bccp.core.errors import BCCPError
from bccp.core.paths import ROOT
from bccp.core.registries import FILTERS
from bccp.data import preprocessing, scan_filters
from bccp.data.scan_filters import clean_up

cv2 = pytest.importorskip("cv2")


def noise(height: int = 13, width: int = 17, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def scan() -> tuple[Image.Image, np.ndarray]:
    """Dark strokes on paper that lies half in the shadow, with specks of dirt; and where the ink is."""
    side = 120
    ink = Image.new("1", (side, side), 0)
    draw = ImageDraw.Draw(ink)
    draw.line([(20, 20), (20, 100), (60, 100)], fill=1, width=6)
    draw.ellipse([65, 25, 105, 75], outline=1, width=6)
    paper = np.broadcast_to(np.linspace(90, 240, side), (side, side))
    rng = np.random.default_rng(1)
    pixels = np.where(np.asarray(ink), paper - 60, paper) + rng.normal(0, 3, (side, side))
    specks = rng.random((side, side)) < 0.01
    grey = np.clip(np.where(specks, 0, pixels), 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB"), np.asarray(ink)


def section(value: Any) -> config_schema.Preprocessing:
    loaded: Any = OmegaConf.load(ROOT / "config.yaml")
    del loaded["defaults"], loaded["hydra"]
    loaded.preprocessing.cleanup = value
    return config.load(loaded, base=ROOT).preprocessing


@pytest.mark.parametrize(("name", "of_square"), [("erosion", np.min), ("dilation", np.max), ("median_filter", np.median)])
@pytest.mark.parametrize("size", [3, 7])
def test_a_filter_takes_its_figure_of_the_square_around_each_pixel(name: str, of_square: Any, size: int) -> None:
    image = noise()
    before = np.asarray(image).copy()
    pixels = np.pad(before, [(size // 2, size // 2)] * 2 + [(0, 0)], mode="edge")
    expected = np.empty_like(before)
    for row, column, channel in np.ndindex(*before.shape):
        expected[row, column, channel] = of_square(pixels[row : row + size, column : column + size, channel])
    np.testing.assert_array_equal(np.asarray(clean_up(image, [{name: {"size": size}}])), expected)
    np.testing.assert_array_equal(np.asarray(image), before)


def test_filters_follow_each_other_and_nothing_to_do_is_nothing_done() -> None:
    image = noise()
    one = [{"erosion": {"size": 3}}, {"dilation": {"size": 5}}]
    by_hand = clean_up(clean_up(image, one[:1]), one[1:])
    np.testing.assert_array_equal(np.asarray(clean_up(image, one)), np.asarray(by_hand))
    assert (np.asarray(clean_up(image, one)) != np.asarray(clean_up(image, one[::-1]))).any()
    assert clean_up(image, []) is image


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 2)])
@pytest.mark.parametrize("name", FILTERS)
def test_pictures_smaller_than_the_square_are_filtered_too(name: str, size: tuple[int, int]) -> None:
    (step,) = section([name]).cleanup
    assert clean_up(noise(*size), [step]).size == size[::-1]


def test_a_scan_loses_its_shadow_and_its_dirt_and_keeps_its_ink() -> None:
    image, ink = scan()
    found = np.asarray(
        clean_up(image, section([{"median_filter": {"size": 3}}, {"adaptive_threshold": {"block": 31, "offset": 15}}]).cleanup)
    )
    assert set(np.unique(found)) == {0, 255}
    assert (found == found[:, :, :1]).all()
    dark = found[:, :, 0] == 0
    assert dark[ink].mean() > 0.95
    assert dark[~ink].mean() < 0.03
    # no single grey level tells ink from paper
    grey = np.asarray(image)[:, :, 0]
    assert min((grey[ink] >= level).mean() + (grey[~ink] < level).mean() for level in range(256)) > 0.2


def archive(folder: Path) -> Path:
    folder.mkdir()
    with zipfile.ZipFile(folder / "images.zip", "w") as files:
        for name in ("cat/1", "cat/2", "dog/1", "dog/2"):
            data = io.BytesIO()
            noise(40, 40, seed=hash_of(name)).save(data, "PNG")
            files.writestr(f"{name}.png", data.getvalue())
    return folder / "images.zip"


def hash_of(name: str) -> int:
    return sum(map(ord, name))


def test_clean_data_is_filtered_before_it_is_resized_and_says_so_and_fingerprints_are_of_the_files(tmp_path: Path) -> None:
    files, made = archive(tmp_path / "in"), {}
    for name, steps in (("plain", []), ("filtered", section(["median_filter", "erosion"]).cleanup)):
        (tmp_path / name).mkdir()
        options: dict[str, Any] = {"image_size": 16, "resize": "stretch", "max_rejected_rate": 0.0, "max_pixels": 10**6, "threads": 1}
        report = preprocessing.clean(files, tmp_path / name, cleanup=steps, **options)
        made[name] = np.load(tmp_path / name / "images.npy")
        assert json.loads((tmp_path / name / "report.json").read_text()) == report
        assert report.get("cleanup", []) == steps
    expected = preprocessing.fit_to_square(
        clean_up(noise(40, 40, seed=hash_of("cat/1")), [{"median_filter": {"size": 3}}, {"erosion": {"size": 3}}]), 16, "stretch"
    )
    np.testing.assert_array_equal(made["filtered"][0], np.asarray(expected))
    assert (made["plain"] != made["filtered"]).any()
    assert (tmp_path / "plain" / "manifest.csv").read_bytes() == (tmp_path / "filtered" / "manifest.csv").read_bytes()


def test_what_is_not_said_has_its_default_and_the_whole_reads_back() -> None:
    found = section(["dilation", {"adaptive_threshold": {"offset": -3}}, {"median_filter": None}])
    assert found.cleanup == [{"dilation": {"size": 3}}, {"adaptive_threshold": {"block": 31, "offset": -3}}, {"median_filter": {"size": 3}}]
    assert section(json.loads(config.encode(found.cleanup))) == found
    assert section([]).cleanup == []


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("median_filter", "preprocessing.cleanup=median_filter is not accepted: give a list of erosion, dilation"),
        (["median"], "preprocessing.cleanup: median is unknown: use erosion, dilation, adaptive_threshold, median_filter"),
        (["median_filtre"], "did you mean 'median_filter'?"),
        ([{"erosion": {"size": 3}, "dilation": {"size": 3}}], "is unknown: use erosion"),
        ([{"erosion": 5}], "as in [median_filter, {erosion: {size: 5}}]"),
        ([{"erosion": {"width": 5}}], "unknown key 'preprocessing.cleanup.erosion.width': erosion has size"),
        ([{"erosion": {"size": 4}}], "preprocessing.cleanup.erosion.size=4 is out of range: give an odd number from 3 to 99"),
        ([{"median_filter": {"size": 101}}], "give an odd number from 3 to 99"),
        ([{"adaptive_threshold": {"block": 31, "offset": 300}}], "offset=300 is out of range: give a whole number from -255 to 255"),
        ([{"adaptive_threshold": {"block": 31, "offset": True}}], "offset=True is out of range"),
    ],
)
def test_a_wrong_clean_up_is_refused_by_key_with_what_would_do(value: Any, sentence: str) -> None:
    with pytest.raises(BCCPError) as refused:
        section(value)
    assert sentence in str(refused.value)
    with pytest.raises(BCCPError):
        config.check_choice("preprocessing.cleanup", value)


def test_opencv_is_asked_for_only_where_something_is_cleaned_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    scan_filters.import_opencv.cache_clear()
    clean_up(noise(), [])
    with pytest.raises(BCCPError, match=r"preprocessing\.cleanup needs OpenCV, .*: pip install opencv-python-headless"):
        clean_up(noise(), [{"erosion": {"size": 3}}])
    monkeypatch.undo()
    scan_filters.import_opencv.cache_clear()
