"""Sizes by headers: of every format that is read, without a pixel, and past whatever is no image."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from bccp.data import image_sizes


def encoded(width: int, height: int, file_format: str = "PNG", **options: object) -> bytes:
    image = Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_each_format_tells_its_size_in_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"PNG": (40, 30), "JPEG": (31, 50), "GIF": (20, 20), "WEBP": (33, 64), "BMP": (9, 80), "TIFF": (70, 60)}
    files = {f"a/{name}": encoded(*size, name) for name, size in sizes.items()}
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels are decoded"))
    assert image_sizes.shorter_sides(zipped(tmp_path / "x.zip", files)) == [min(size) for size in sizes.values()]


def test_an_orientation_a_long_preamble_and_a_bomb_are_no_hindrance(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "a/turned.jpg": encoded(90, 40, "JPEG", exif=turned),
        "a/profiled.jpg": encoded(41, 90, "JPEG", icc_profile=bytes(300_000)),  # the size stands behind it
        "a/large.webp": encoded(300, 200, "WEBP", lossless=True),  # which is told by the whole file alone
        "a/bomb.png": encoded(50, 60).replace((50).to_bytes(4, "big"), (50_000).to_bytes(4, "big"), 1),
    }
    with Image.open(io.BytesIO(files["a/turned.jpg"])) as opened:
        assert opened.size == (90, 40)
    assert len(files["a/large.webp"]) > image_sizes._HEAD_BYTES
    assert image_sizes.shorter_sides(zipped(tmp_path / "x.zip", files))[:3] == [40, 41, 200]


def test_what_is_no_image_is_passed_over_and_the_median_is_that_of_the_others(tmp_path: Path) -> None:
    junk = {
        "labels.csv": b"image,label\n" * 9000, "a/empty.png": b"", "a/cut.jpg": encoded(50, 50, "JPEG")[:20],
        "a/film.mp4": b"\x00\x00\x00\x18ftypisom" + bytes(100_000), "a/notes.txt": b"ten", "b/": b"",
    }  # fmt: skip
    images = {f"a/{side}.png": encoded(side, 100) for side in (20, 30, 47, 60)}
    archive = zipped(tmp_path / "x.zip", junk | images)
    for number, order in enumerate((junk | images, images | junk, dict(reversed([*(images | junk).items()])))):
        folder = tmp_path / str(number)
        folder.mkdir()
        image_sizes.write(zipped(archive, order), folder)
        assert (folder / "image_sizes.json").read_text(encoding="utf-8") == '{"images": 4, "median_shorter_side": 38.5}\n'
        assert image_sizes.median_shorter_side(folder) == 38.5
    image_sizes.write(zipped(archive, junk), tmp_path)
    assert image_sizes.median_shorter_side(tmp_path) is None


def test_an_entry_whose_checksum_is_wrong_is_passed_over(tmp_path: Path) -> None:
    data = encoded(40, 40)
    archive = zipped(tmp_path / "x.zip", {"a/1.png": data, "a/2.png": encoded(30, 30)})
    damaged = bytearray(archive.read_bytes())
    damaged[damaged.index(data) + 60] ^= 255
    archive.write_bytes(bytes(damaged))
    assert image_sizes.shorter_sides(archive) == [30]
