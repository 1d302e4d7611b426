"""Preprocessing: every kind of file in, equal pictures out, and nothing lost without a word."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFile

from bccp.core.errors import BCCPError
from bccp.data import preprocessing, tables
from bccp.data.decoding import image_files
from bccp.data.decoding.image_files import UnreadableImageError, pillow_limits
from bccp.data.duplicates import duplicate_groups
from bccp.data.preprocessing import fit_to_square
from support.awkward_files import png_chunk, png_with, tiff

MAX_PIXELS = 1_000_000


@pytest.fixture
def _pillow() -> Iterator[None]:
    with pillow_limits(MAX_PIXELS):
        yield


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """A smooth colour pattern, another for each seed."""
    pattern = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pattern).resize(size, Image.Resampling.BICUBIC)


def decode(data: bytes) -> tuple[Image.Image, str, str]:
    """The RGB picture that a file is by itself, and Pillow's names for what it held."""
    found = image_files.decode(data)
    return found.rgb(), found.mode, found.format


def encoded(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG whose header announces 50,000 x 50,000 pixels, and that has none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def two_classes(n_each: int = 4) -> dict[str, bytes]:
    return {f"{name}/{i}.png": encoded(picture(100 * k + i)) for k, name in enumerate(("cat", "dog")) for i in range(n_each)}


def clean(
    folder: Path,
    files: Mapping[str, bytes],
    *,
    image_size: int = 16,
    resize: str = "stretch",
    max_rejected_rate: float = 1.0,
    max_pixels: int = MAX_PIXELS,
    threads: int = 1,
    layout: str = "auto",
    **options: Any,
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    out = folder / "clean_data"
    out.mkdir()
    return preprocessing.clean(
        folder / "images.zip",
        out,
        image_size=image_size,
        resize=resize,
        max_rejected_rate=max_rejected_rate,
        max_pixels=max_pixels,
        threads=threads,
        layout=layout,
        **options,
    )


def manifest_of(folder: Path) -> pd.DataFrame:
    return tables.read(folder / "clean_data" / "manifest.csv", dtypes={"row": int, "width": int, "height": int})


def reasons_of(folder: Path) -> dict[str, str]:
    table = tables.read(folder / "clean_data" / "quarantine.csv")
    return dict(zip(table["image"], table["reason"], strict=True))


@pytest.mark.usefixtures("_pillow")
@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "PNG"), ("RGB", "BMP"), ("RGBA", "PNG"),
     ("RGBA", "WEBP"), ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("I;16", "PNG"), ("I", "TIFF"), ("F", "TIFF"),
     ("RGB", "PPM"), ("L", "JPEG"), ("RGB", "JPEG2000"), ("RGB", "TGA"), ("RGB", "ICO"), ("RGB", "AVIF")],
)  # fmt: skip
def test_every_mode_becomes_nearly_the_same_rgb_picture(mode: str, file_format: str) -> None:
    source = picture(size=(32, 32))
    if mode == "I;16":
        held = Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
    elif mode == "I":
        held = Image.fromarray(np.asarray(source.convert("L")).astype(np.int32) * 257)
    elif mode == "LA":
        held = source.convert("L").convert("LA")
    elif mode == "P":
        held = source.quantize(256)
    else:
        held = source.convert(mode)
    options = {"JPEG": {"quality": 95}, "ICO": {"sizes": [(32, 32)]}}.get(file_format, {})
    image, found_mode, found_format = decode(encoded(held, file_format, **options))
    assert image.mode == "RGB"
    assert found_format == file_format
    if file_format not in ("ICO", "WEBP"):
        assert found_mode == mode
    grey = mode in ("L", "LA", "I;16", "I", "F", "1")
    expected = source.convert("1" if mode == "1" else "L").convert("RGB") if grey else source
    error = np.abs(np.asarray(image, dtype=int) - np.asarray(expected, dtype=int))
    assert error.mean() < 6, error.mean()


@pytest.mark.usefixtures("_pillow")
def test_sixteen_bits_keep_their_top_eight() -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image, _, _ = decode(encoded(Image.fromarray(values)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.usefixtures("_pillow")
@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 51.0, 255.0], [0, 51, 255]), ([-10.0, 0.0, 10.0], [0, 128, 255])],
)
def test_floats_count_from_0_to_1_or_to_255_and_else_are_stretched(values: list[float], expected: list[int]) -> None:
    image, _, _ = decode(encoded(Image.fromarray(np.array([values], dtype=np.float32)), "TIFF"))
    assert np.asarray(image)[0, :, 0].tolist() == expected


@pytest.mark.usefixtures("_pillow")
def test_transparent_pixels_become_white_in_every_kind_of_transparency() -> None:
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (0, 0, 0, 0))
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([200, 0, 0, 9, 9, 9])
    palette.putpixel((1, 0), 1)
    rgb = Image.new("RGB", (2, 1), (200, 0, 0))
    rgb.putpixel((1, 0), (1, 2, 3))
    files = {
        "RGBA": encoded(rgba),
        "LA": encoded(rgba.convert("LA")),
        "P with an index": encoded(palette, transparency=1),
        "P with bytes": encoded(palette, transparency=b"\xff\x00"),
        "RGB with a colour": encoded(rgb, transparency=(1, 2, 3)),
        "GIF": encoded(palette, "GIF", transparency=1),
        "WEBP": encoded(rgba, "WEBP", lossless=True),
    }
    for name, data in files.items():
        image, _, _ = decode(data)
        assert image.getpixel((1, 0)) == (255, 255, 255), name
        assert image.getpixel((0, 0)) == ((60, 60, 60) if name == "LA" else (200, 0, 0)), name


@pytest.mark.usefixtures("_pillow")
def test_half_transparent_pixels_mix_with_white() -> None:
    image, _, _ = decode(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51))))
    assert image.getpixel((0, 0)) == (204, 204, 204)


@pytest.mark.usefixtures("_pillow")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_turns_the_picture_upright(file_format: str) -> None:
    lying = Image.new("RGB", (30, 20), "black")
    lying.paste("white", (0, 0, 15, 20))  # the left half; turned clockwise it is the upper one
    exif = Image.Exif()
    exif[0x0112] = 6
    image, _, _ = decode(encoded(lying, file_format, exif=exif))
    assert image.size == (20, 30)
    upper, lower = np.asarray(image)[:13].mean(), np.asarray(image)[17:].mean()
    assert (upper > 240, lower < 15) == (True, True)


@pytest.mark.usefixtures("_pillow")
@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_or_pages_the_first_counts(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    with Image.open(io.BytesIO(data)) as several:
        assert several.n_frames == 3
    assert decode(data)[0].getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.usefixtures("_pillow")
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"these are words", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "not an image"),
        (encoded(picture(size=(200, 200)), "JPEG")[:1500], "truncated image: image file is truncated"),
        (encoded(picture(size=(200, 200)), "PNG")[:1500], "truncated image: image file is truncated"),
        (encoded(picture(), "PNG")[:20], "truncated image: Truncated File Read"),
        (bomb(), "decompression bomb: more than preprocessing.max_pixels=1000000 pixels"),
        (encoded(Image.new("RGB", (1001, 1000))), "decompression bomb"),
        (encoded(Image.fromarray(np.array([[np.nan]], dtype=np.float32)), "TIFF"), "damaged image: pixels that are not finite"),
    ],
    ids=["empty", "text", "postscript", "cut jpeg", "cut png", "cut header", "bomb", "just too large", "nan"],
)
def test_a_file_that_gives_no_picture_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        decode(data)
    assert str(caught.value).startswith(reason)


@pytest.mark.usefixtures("_pillow")
def test_an_image_of_exactly_the_largest_size_is_read() -> None:
    assert decode(encoded(Image.new("RGB", (1000, 1000))))[0].size == (1000, 1000)


def test_pillows_settings_are_strict_inside_and_come_back_after_an_error() -> None:
    before = Image.MAX_IMAGE_PIXELS
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        with pytest.raises(UnreadableImageError), pillow_limits(123):
            decode(encoded(Image.new("RGB", (4, 31))))
        assert before == Image.MAX_IMAGE_PIXELS
        assert ImageFile.LOAD_TRUNCATED_IMAGES
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = False


def test_a_large_picture_is_decoded_in_the_memory_of_the_one_before() -> None:
    photograph, before = encoded(Image.new("RGB", (2400, 2000), "teal"), "JPEG"), Image.core.get_blocks_max()
    with pillow_limits(5_000_000):
        preprocessing.pictures([photograph], image_size=32, resize="stretch")
        Image.core.reset_stats()
        preprocessing.pictures([photograph] * 3, image_size=32, resize="stretch")
        assert Image.core.get_stats()["allocated_blocks"] == 0
        assert Image.core.get_stats()["reused_blocks"] > 0
    assert Image.core.get_stats()["blocks_cached"] == Image.core.get_blocks_max() == before


@pytest.mark.parametrize("how", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(60, 20), (20, 60), (1000, 1), (1, 1000), (8, 8), (33, 32)])
def test_every_shape_fits_the_square(how: str, size: tuple[int, int]) -> None:
    fitted = fit_to_square(Image.new("RGB", size, "red"), 32, how)
    assert fitted.size == (32, 32)
    red = (np.asarray(fitted) == [255, 0, 0]).all(axis=2)
    if how == "pad":
        inner = [max(1, round(32 * side / max(size))) for side in size]
        assert red.sum() == inner[0] * inner[1]
        assert (np.asarray(fitted)[~red] == 0).all()
    else:
        assert red.all()


def test_crop_cuts_the_middle_and_pad_centres() -> None:
    flag = Image.new("RGB", (96, 32), "red")
    flag.paste("lime", (32, 0, 64, 32))
    assert (np.asarray(fit_to_square(flag, 32, "crop")) == [0, 255, 0]).all()
    padded = np.asarray(fit_to_square(flag, 96, "pad"))
    assert (padded[32:64] == np.asarray(flag)).all()
    assert not padded[:32].any()
    assert not padded[64:].any()


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    checks = Image.fromarray(np.kron(np.indices((64, 64)).sum(0) % 2 * 255, np.ones((1, 1))).astype(np.uint8)).convert("RGB")
    inner = np.asarray(fit_to_square(checks, 8, "stretch"))[1:-1, 1:-1]
    assert np.abs(inner.astype(int) - 128).max() <= 2


def test_the_digest_covers_size_and_pixels_in_one_piece_or_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(size=(40, 30))
    expected = hashlib.sha256(b"40x30\n" + image.tobytes()).hexdigest()
    assert preprocessing.pixel_digest(image) == expected
    monkeypatch.setattr(preprocessing, "STREAMED_BYTES", 1000)
    assert preprocessing.pixel_digest(image) == expected
    assert preprocessing.pixel_digest(Image.new("RGB", (2, 6))) != preprocessing.pixel_digest(Image.new("RGB", (6, 2)))


@pytest.mark.usefixtures("_pillow")
def test_the_perceptual_hash_is_that_of_imagehash() -> None:
    rng = np.random.default_rng(7)
    images = [picture(seed, (int(rng.integers(5, 90)), int(rng.integers(5, 90)))) for seed in range(150)]
    images += [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(50)]
    found = preprocessing.pictures([encoded(image) for image in images], image_size=8, resize="stretch")
    hashes = [one.phash for one in found if not isinstance(one, str)]
    assert hashes == [str(imagehash.phash(image)) for image in images]
    assert len(set(hashes)) == 200


def test_pictures_with_too_little_in_them_have_no_perceptual_hash() -> None:
    ramp = np.arange(32, dtype=np.uint8)
    flat = np.full((32, 32), 200, dtype=np.uint8)
    speckled = flat.copy()
    speckled[3, 4] = 230
    stripes = np.broadcast_to((ramp // 3 % 2 * 255).astype(np.uint8), (32, 32))
    gradient = np.broadcast_to(ramp[:, None] * 8, (32, 32)).astype(np.uint8)
    telling = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    hashes = preprocessing.perceptual_hashes(np.stack([flat, speckled, stripes, gradient, telling]))
    assert hashes[:4] == [""] * 4
    assert len(hashes[4]) == 16
    assert preprocessing.perceptual_hashes(np.empty((0, 32, 32), np.uint8)) == []


def test_equal_fingerprints_chain_images_into_groups_and_empty_ones_do_not() -> None:
    sha256 = ["a", "b", "a", "c", "d", "e", "f"]
    phash = ["1", "2", "3", "2", "", "", "3"]
    assert duplicate_groups(sha256, phash).tolist() == [0, 1, 0, 1, 2, 3, 0]
    assert duplicate_groups([], []).tolist() == []


def test_duplicate_groups_are_the_connected_components_of_the_slow_search() -> None:
    rng = np.random.default_rng(3)
    sha256, phash = [str(v) for v in rng.integers(0, 60, 80)], [str(v) if v else "" for v in rng.integers(0, 50, 80)]
    alike = np.array([[a == c or (b == d != "") for c, d in zip(sha256, phash, strict=True)] for a, b in zip(sha256, phash, strict=True)])
    for _ in range(80):
        alike = (alike.astype(int) @ alike.astype(int)) > 0
    groups = duplicate_groups(sha256, phash)
    assert ((groups[:, None] == groups[None, :]) == alike).all()
    assert 3 < len(set(groups.tolist())) < 60


def test_rows_follow_the_sorted_ids_without_gaps_and_the_rest_is_quarantined(tmp_path: Path) -> None:
    files = two_classes()
    files |= {"cat/0a.png": b"", "dog/2.png": b"no picture", "cover.png": encoded(picture()), "a/zz.jpg": encoded(picture(9), "JPEG")[:300]}
    shuffled = dict(sorted(files.items(), key=lambda item: hashlib.sha256(item[0].encode()).hexdigest()))
    report = clean(tmp_path, shuffled, image_size=24, allow_lost_classes=True)
    manifest, pixels = manifest_of(tmp_path), np.load(tmp_path / "clean_data" / "images.npy", mmap_mode="r")
    bad = ["a/zz.jpg", "cat/0a.png", "cover.png", "dog/2.png"]
    assert manifest["image"].tolist() == sorted(set(files) - set(bad))
    assert manifest["row"].tolist() == list(range(7))
    assert (pixels.shape, pixels.dtype) == ((7, 24, 24, 3), np.uint8)
    for image, row, sha256 in manifest[["image", "row", "sha256"]].itertuples(index=False):
        source = Image.open(io.BytesIO(files[image]))
        assert (pixels[row] == np.asarray(fit_to_square(source, 24, "stretch"))).all()
        assert sha256 == preprocessing.pixel_digest(source)
    reasons = reasons_of(tmp_path)
    assert list(reasons) == bad
    assert reasons["cover.png"] == "in no class folder"
    assert set(manifest["label"]) == {"cat", "dog"}
    assert set(manifest["day"]) == {""}
    assert (report["images"], report["rejected"], report["rejected_rate"]) == (7, 4, 4 / 11)
    assert sum(report["rejected_by_reason"].values()) == 4
    assert report == json.loads((tmp_path / "clean_data" / "report.json").read_text())


def test_text_stays_text_in_the_manifest(tmp_path: Path) -> None:
    spaced = 'Full  Water, "level"'
    names = ["0012/1", "0012/2", "NA/1e5", "NA/true", f"{spaced}/ä 1", f"{spaced}/ä 2"]
    report = clean(tmp_path, {f"{name}.png": encoded(picture(i)) for i, name in enumerate(names)})
    manifest = manifest_of(tmp_path)
    assert dict(zip(manifest["image"], manifest["label"], strict=True)) == {f"{name}.png": name.split("/")[0] for name in names}
    assert report["classes"] == {"0012": 2, spaced: 2, "NA": 2}


def test_own_days_give_days_and_unknown_labels(tmp_path: Path) -> None:
    files = {f"monday/{name}": data for name, data in two_classes(2).items()}
    files |= {"tuesday/x.png": encoded(picture(50)), "tuesday/cat/y.png": encoded(picture(51)), "monday/z.png": encoded(picture(52))}
    report = clean(tmp_path, files)
    manifest = manifest_of(tmp_path).set_index("image")
    assert manifest.loc["tuesday/x.png", ["day", "label"]].tolist() == ["tuesday", ""]
    assert manifest.loc["tuesday/cat/y.png", ["day", "label"]].tolist() == ["tuesday", "cat"]
    assert reasons_of(tmp_path) == {"monday/z.png": "in no class folder"}
    assert (report["days"], report["unlabelled"]) == ({"monday": 4, "tuesday": 2}, 1)


def test_given_splits_become_a_column_and_classes_are_merged(tmp_path: Path) -> None:
    files = {f"{split}/{name}": data for split in ("Train", "valid", "test") for name, data in two_classes(2).items()}
    report = clean(tmp_path / "given", files)
    manifest = manifest_of(tmp_path / "given").set_index("image")
    assert set(manifest["label"]) == {"cat", "dog"}
    assert manifest.loc[["Train/cat/0.png", "valid/dog/1.png", "test/cat/1.png"], "given_split"].tolist() == ["train", "val", "test"]
    assert report["layout"] == ["the folders 'Train', 'valid', 'test' are the splits of 2 classes"]
    assert set(clean(tmp_path / "classes", files, layout="classes")["classes"]) == {"Train", "test", "valid"}
    assert "given_split" not in manifest_of(tmp_path / "classes")


def test_a_layout_that_is_not_understood_is_refused(tmp_path: Path) -> None:
    files = {f"{camera}/{name}": data for camera in ("left", "right") for name, data in two_classes(2).items()}
    with pytest.raises(BCCPError, match=r"'left', 'right' hold no images themselves but folders \('cat', 'dog'\).*data\.layout=subfolders"):
        clean(tmp_path / "auto", files)
    assert clean(tmp_path / "merged", files, layout="subfolders")["classes"] == {"cat": 4, "dog": 4}


def test_the_outputs_are_equal_to_the_byte_for_any_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "POOL_MIN_BYTES", 0)
    monkeypatch.setattr(preprocessing, "CHUNK_FILES", 3)
    files = two_classes(20) | {"cat/bad.png": b"?", "dog/cut.jpg": encoded(picture(1), "JPEG")[:400]}
    contents = []
    for threads in (1, 2, 5):
        clean(tmp_path / str(threads), files, threads=threads)
        folder = tmp_path / str(threads) / "clean_data"
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert set(contents[0]) == {"images.npy", "manifest.csv", "quarantine.csv", "report.json"}
    assert contents[0] == contents[1] == contents[2]


def test_an_array_is_readable_whatever_the_number_of_digits_of_its_length(tmp_path: Path) -> None:
    for n_each in (2, 60):
        clean(tmp_path / str(n_each), two_classes(n_each), image_size=4)
        assert np.load(tmp_path / str(n_each) / "clean_data" / "images.npy").shape == (2 * n_each, 4, 4, 3)


def test_no_warning_of_pillow_leaks(tmp_path: Path) -> None:
    palette = picture().convert("P")
    files = two_classes() | {
        "cat/bomb.png": bomb(),
        "cat/just.png": encoded(Image.new("RGB", (1200, 1000))),
        "dog/p.png": encoded(palette, transparency=bytes(range(256))),
        "dog/exif.jpg": encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01"),  # ends within its first entry
    }
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(io.BytesIO(files["dog/exif.jpg"])) as broken:
        broken.getexif()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        clean(tmp_path, files)
    assert [str(warning.message) for warning in leaked] == []
    assert set(reasons_of(tmp_path)) == {"cat/bomb.png", "cat/just.png"}


def test_the_report_counts_kinds_repeats_conflicts_and_odd_pictures(tmp_path: Path) -> None:
    same, alike = picture(7, (64, 64)), picture(8, (64, 64))
    files = two_classes() | {
        "cat/same1.png": encoded(same),
        "cat/same2.bmp": encoded(same, "BMP"),
        "dog/same3.png": encoded(same),
        "dog/alike1.png": encoded(alike),
        "dog/alike2.jpg": encoded(alike, "JPEG", quality=95),
        "cat/long.png": encoded(picture(30, (100, 20))),
        "cat/flat1.png": encoded(Image.new("RGB", (20, 20), "gold")),
        "cat/flat2.png": encoded(Image.new("RGB", (21, 20), "navy")),
        "cat/tiny.png": encoded(picture(40, (7, 9))),
        "dog/broken1.png": b"",
        "dog/broken2.png": encoded(picture(5, (200, 200)), "JPEG")[:1500],
    }
    report = clean(tmp_path, files)
    assert report["formats"] == {"BMP RGB": 1, "JPEG RGB": 1, "PNG RGB": 15}
    assert report["classes"] == {"cat": 10, "dog": 7}
    assert report["rejected_by_reason"] == {"empty file": 1, "truncated image": 1}
    assert report["size_px"]["width"] == {"min": 7, "median": 40.0, "max": 100}
    exact, near = report["exact_duplicates"], report["near_duplicates"]
    assert exact["examples"] == exact["examples_across_classes"] == [["cat/same1.png", "cat/same2.bmp", "dog/same3.png"]]
    assert (exact["groups"], exact["copies"], exact["across_classes"]) == (1, 2, 1)
    assert near["examples"] == [["dog/alike1.png", "dog/alike2.jpg"]]
    assert (near["groups"], near["copies"], near["across_classes"]) == (1, 1, 0)
    odd = {name: found["examples"] for name, found in report["anomalies"].items()}
    assert odd == {
        "extreme_aspect_ratio": ["cat/long.png"],
        "nearly_constant": ["cat/flat1.png", "cat/flat2.png"],
        "tiny": ["cat/tiny.png"],
    }


def test_rejected_files_are_borne_up_to_the_rate_and_no_further(tmp_path: Path) -> None:
    files = two_classes() | {"dog/b.png": b"", "cat/a.png": b"words"}
    assert clean(tmp_path / "in", files, max_rejected_rate=0.2)["rejected"] == 2
    with pytest.raises(BCCPError) as caught:
        clean(tmp_path / "out", files, max_rejected_rate=0.19)
    assert str(caught.value).startswith("2 of 10 files cannot be used (20.00%, more than preprocessing.max_rejected_rate=0.19)")
    assert "'cat/a.png' (not an image)" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"cat/1.png": b"", "dog/1.png": b"x"}, "none of the 2 files is a readable image.*'cat/1.png' \\(empty file\\)"),
        ({}, "no image lies in a class folder"),
        ({"1.png": encoded(picture()), "2.png": encoded(picture(1))}, "no image lies in a class folder.*'1.png', '2.png'.*<class>/<image>"),
        ({f"cat/{i}.png": encoded(picture(i)) for i in range(3)}, "all labelled images are of one class, 'cat'"),
        (
            {f"monday/cat/{i}.png": encoded(picture(i)) for i in range(3)} | {"tuesday/x.png": encoded(picture(5))},
            "all labelled images are of one class, 'cat'",
        ),
        ({"tuesday/x.png": encoded(picture(5))}, "no image has a class folder"),
        (two_classes(2) | {"eel/1.png": encoded(picture(5))}, "only one image in the class 'eel'"),
        (two_classes(2) | {"cat /1.png": encoded(picture(5))}, "the class 'cat ' .did you mean 'cat'. they differ in blanks"),
        (two_classes(2) | {"eel/1.png": encoded(picture(5)), "eel/2.png": b""}, "only one image in the class 'eel'"),
    ],
    ids=[
        "nothing readable",
        "nothing",
        "loose",
        "one class",
        "one class on Monday",
        "no label",
        "one image",
        "alike",
        "one readable image",
    ],
)
def test_images_that_nothing_can_be_learned_from_are_refused_by_name(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(BCCPError, match=message):
        clean(tmp_path, files)


def test_tables_of_this_package_beside_the_images_are_none_of_them(tmp_path: Path) -> None:
    own = {
        "labels.csv": b"rank,image,given_label,p_wrong\n",
        "cleansed.csv": b"image,given,final,p_wrong,action,file\n",
        "my answers.CSV": b"\xef\xbb\xbfimage,label\n",
        "metadata.jsonl": b'{"file_name": "images/1.png", "label": "cat"}\n',
    }
    report = clean(tmp_path, two_classes() | own | {"cat/prices.csv": b"name,price\n"}, max_rejected_rate=0.2)
    assert (report["images"], report["rejected"]) == (8, 1)
    assert list(reasons_of(tmp_path)) == ["cat/prices.csv"]


def deep_files(*, low: int = 7500, span: int = 400, n_each: int = 4) -> dict[str, bytes]:
    """16-bit pictures of two classes that use a small part of their range."""
    files = {}
    for k, name in enumerate(("cat", "dog")):
        for i in range(n_each):
            grey = np.asarray(picture(100 * k + i).convert("L")).astype(float) / 255
            files[f"{name}/{i}.png"] = encoded(Image.fromarray((low + span * grey).astype(np.uint16)))
    return files


def read_values(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {name: np.asarray(Image.open(io.BytesIO(data))) for name, data in sorted(files.items())}


def test_a_set_that_uses_little_of_16_bits_is_scaled_by_its_percentiles_and_the_report_says_so(tmp_path: Path) -> None:
    files = deep_files()
    report = clean(tmp_path, files, image_size=30)
    values = np.concatenate([pixels.ravel() for pixels in read_values(files).values()])
    low, high = (int(end) for end in np.percentile(values, [0.5, 99.5], method="inverted_cdf"))
    assert report["range"] == {"integer": [low, high]}
    assert report["grey_values"]["integer"] | {"outside": 0} == {
        "images": 8, "lowest": int(values.min()), "highest": int(values.max()), "percentiles": [low, high], "outside": 0,
    }  # fmt: skip
    (line,) = preprocessing.notes(report)
    assert re.search(rf"8 images hold grey values of more than 8 bits, .*: {low:,} becomes black and {high:,} white", line)
    assert report["anomalies"]["nearly_constant"]["images"] == 0
    rows = np.load(tmp_path / "clean_data" / "images.npy")
    for row, pixels in zip(rows, read_values(files).values(), strict=True):
        grey = np.rint(((pixels.astype(float) - low) * (255 / (high - low))).clip(0, 255)).astype(np.uint8)
        assert (row == np.asarray(fit_to_square(Image.fromarray(grey).convert("RGB"), 30, "stretch"))).all()


def test_identity_is_an_images_own_whatever_the_range_of_the_set(tmp_path: Path) -> None:
    files = deep_files()
    others = {f"dog/wide{i}.png": encoded(Image.fromarray(np.linspace(0, 65535, 99 + i).astype(np.uint16)[None])) for i in range(9)}
    kept = []
    for number, options in enumerate(({}, {"scale": "file"}, {"scale": {"integer": [0, 9999]}})):
        clean(tmp_path / f"{number}", files, **options)
        kept.append(manifest_of(tmp_path / f"{number}"))
    report = clean(tmp_path / "wide", files | others)
    assert "range" not in report, "the set uses most of 16 bits"
    with_others = manifest_of(tmp_path / "wide").set_index("image").loc[kept[0]["image"]]
    for name in ("sha256", "phash"):
        assert kept[0][name].tolist() == kept[1][name].tolist() == kept[2][name].tolist() == with_others[name].tolist()
    for image, pixels in read_values(files).items():
        by_type = Image.fromarray(np.rint(pixels * (255 / 65535)).astype(np.uint8)).convert("RGB")
        assert with_others.loc[image, "sha256"] == preprocessing.pixel_digest(by_type)


def test_pictures_of_which_the_range_of_their_type_leaves_nothing_are_no_copies(tmp_path: Path) -> None:
    report = clean(tmp_path, deep_files(low=0, span=100))
    assert report["exact_duplicates"]["copies"] == 0
    assert manifest_of(tmp_path)["sha256"].nunique() == 8
    assert clean(tmp_path / "again", deep_files(low=0, span=0))["exact_duplicates"]["copies"] == 7


def test_8_bit_pictures_among_others_keep_their_pixels_and_a_set_of_them_alone_tells_nothing(tmp_path: Path) -> None:
    plain = two_classes()
    alone = clean(tmp_path / "alone", plain)
    assert not {"range", "grey_values", "reduced_to_8_bits", "metadata_ignored", "told_apart", "lost_classes"} & set(alone)
    clean(tmp_path / "mixed", plain | {f"cat/deep{i}.png": data for i, data in enumerate(deep_files().values())})
    for image, row in manifest_of(tmp_path / "alone")[["image", "row"]].itertuples(index=False):
        mixed = manifest_of(tmp_path / "mixed").set_index("image")
        pixels = [
            np.load(tmp_path / which / "clean_data" / "images.npy")[place]
            for which, place in (("alone", row), ("mixed", mixed.loc[image, "row"]))
        ]
        assert (pixels[0] == pixels[1]).all()


def test_a_set_of_8_bits_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = list[int]()
    monkeypatch.setattr(preprocessing, "decode", lambda data: decoded.append(len(data)) or image_files.decode(data))
    clean(tmp_path / "plain", two_classes())
    assert len(decoded) == 8
    clean(tmp_path / "deep", deep_files())
    assert len(decoded) == 8 + 16


@pytest.mark.parametrize("make", ["I;16", "I;16B", "I", "F", "white is 0"])
def test_12_bits_are_told_apart_whatever_holds_them(tmp_path: Path, make: str) -> None:
    files = {}
    for name, values in read_values(deep_files(low=500, span=90)).items():
        held = values.astype({"I": np.int32, "F": np.float32}.get(make, np.uint16))
        held = 4095 - held if make == "white is 0" else held
        files[name] = tiff(held, order=">" if make == "I;16B" else "<", photometric=0 if make == "white is 0" else 1)
    clean(tmp_path, files, image_size=30)
    rows = np.load(tmp_path / "clean_data" / "images.npy").astype(float)
    for row, pixels in zip(rows, read_values(deep_files(low=500, span=90)).values(), strict=True):
        wide = np.asarray(fit_to_square(Image.fromarray(pixels.astype(np.float32)), 30, "stretch"))
        assert np.corrcoef(row[..., 0].ravel(), wide.ravel())[0, 1] > 0.99
        assert row.std() > 20


def test_strays_and_unreadable_pictures_have_no_part_in_the_range(tmp_path: Path) -> None:
    files = deep_files()
    strays = {"stray.png": encoded(Image.fromarray(np.full((40, 40), 65535, np.uint16)))}
    strays["cat/nan.tif"] = encoded(Image.fromarray(np.array([[np.nan, 5e6]], np.float32)), "TIFF")
    assert clean(tmp_path / "with", files | strays)["range"] == clean(tmp_path / "without", files)["range"]
    assert reasons_of(tmp_path / "with") == {
        "stray.png": "in no class folder", "cat/nan.tif": "damaged image: pixels that are not finite numbers",
    }  # fmt: skip


def test_a_set_of_one_grey_value_and_values_beyond_two_numbers_are_told(tmp_path: Path) -> None:
    flat = {name: encoded(Image.fromarray(np.full((9, 9), 7500, np.uint16))) for name in deep_files(n_each=2)}
    report = clean(tmp_path / "flat", flat)
    assert "range" not in report
    assert report["anomalies"]["nearly_constant"]["images"] == 4
    report = clean(tmp_path / "numbers", deep_files(), scale={"integer": [0, 1], "float": [0, 1]})
    assert "(100.0% of the values lie beyond)" in preprocessing.notes(report)[0]
    assert "own lowest" in preprocessing.notes(clean(tmp_path / "file", deep_files(), scale="file"))[0]


def test_the_range_is_the_same_for_any_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "POOL_MIN_BYTES", 0)
    monkeypatch.setattr(preprocessing, "CHUNK_FILES", 3)
    files = deep_files(n_each=9) | {f"cat/{i}.tif": tiff(picture_values(i)) for i in range(5)}
    contents = []
    for threads in (1, 3):
        clean(tmp_path / str(threads), files, threads=threads)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / str(threads) / "clean_data").iterdir()})
    assert contents[0] == contents[1]
    assert set(json.loads(contents[0]["report.json"])["range"]) == {"integer", "float"}


def picture_values(seed: int) -> Any:
    return np.random.default_rng(seed).normal(300, 20, (20, 20)).astype(np.float32)


def test_metadata_that_cannot_be_read_and_colours_of_16_bits_are_counted(tmp_path: Path) -> None:
    files = two_classes()
    files["cat/0.png"] = png_with(files["cat/0.png"], png_chunk(b"iCCP", b""))
    files["dog/0.tif"] = tiff(np.asarray(picture(60)).astype(np.uint16) * 257, photometric=2)
    report = clean(tmp_path, files)
    assert report["metadata_ignored"] == {"images": 1, "examples": ["cat/0.png"]}
    assert report["reduced_to_8_bits"] == {"images": 1, "examples": ["dog/0.tif"]}
    reduced, ignored = preprocessing.notes(report)
    assert reduced.startswith("1 colour images have 16 bits a channel")
    assert ignored.startswith("1 images have metadata that cannot be read")


HEIC = b"\0\0\0\x18ftypheic" + b"\0" * 40


def test_files_of_other_kinds_are_told_with_the_remedy(tmp_path: Path) -> None:
    report = clean(tmp_path, two_classes() | {"cat/a.heic": HEIC, "dog/b.heic": HEIC, "dog/c.pdf": b"%PDF-1.7", "dog/d.png": b"junk"})
    assert report["rejected_by_reason"] == {"HEIC/HEIF picture": 2, "PDF document": 1, "not an image": 1}
    first, second = preprocessing.notes(report)
    assert first.startswith("2 files, such as 'cat/a.heic': HEIC/HEIF picture: to read it, pip install 'bccp[heic]'")
    assert second.startswith("1 file, such as 'dog/c.pdf': PDF document: export")


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ({"eel/1.heic": HEIC, "eel/2.heic": HEIC}, "class 'eel' (2 files, 'eel/1.heic': HEIC/HEIF picture: to read it, pip install"),
        ({"eel/1.jpg": b"<html>"}, "class 'eel' (1 file, 'eel/1.jpg': web page saved as an image"),
        ({"eel/": b""}, "class 'eel' (an empty folder)"),
        ({"eel/": b"", "fox/1.png": b"junk"}, "classes 'eel' (an empty folder); 'fox' (1 file, 'fox/1.png': not an image)"),
    ],
    ids=["HEIC", "web page", "empty", "two"],
)
def test_a_class_that_is_lost_is_named_and_stops_the_run(tmp_path: Path, lost: dict[str, bytes], said: str) -> None:
    with pytest.raises(BCCPError) as caught:
        clean(tmp_path / "stopped", two_classes() | lost)
    assert str(caught.value).startswith(f"no image can be read of the {said}")
    assert str(caught.value).endswith("mend or remove them, or go on by preprocessing.allow_lost_classes=true")
    report = clean(tmp_path / "allowed", two_classes() | lost, allow_lost_classes=True)
    assert said in preprocessing.notes(report)[-1]
    assert clean(tmp_path / "new", two_classes() | lost, needs_classes=False)["images"] == 8


def test_a_class_that_is_lost_on_one_day_is_named_with_the_day(tmp_path: Path) -> None:
    files = {f"monday/{name}": data for name, data in two_classes().items()}
    files |= {"tuesday/cat/1.png": encoded(picture(50)), "tuesday/dog/1.heic": HEIC}
    with pytest.raises(BCCPError, match=r"^no image can be read of the class 'dog' of tuesday \(1 file"):
        clean(tmp_path, files)


def test_an_empty_day_is_no_class_that_was_lost(tmp_path: Path) -> None:
    files = {f"monday/{name}": data for name, data in two_classes().items()}
    assert clean(tmp_path, files | {"tuesday/cat/": b"", "tuesday/": b""})["images"] == 8


def test_a_folder_of_texts_beside_the_classes_is_no_class_that_was_lost(tmp_path: Path) -> None:
    assert clean(tmp_path, two_classes() | {"notes/readme.txt": b"words", "labels/1.txt": b"0 1 1"})["rejected"] == 2


def test_scenes_of_a_fixed_camera_contradict_nothing(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 18), dtype=np.uint8)
    seen = Image.fromarray(coarse).resize((240, 160), Image.Resampling.BICUBIC)
    files = {}
    for name in ("empty", "part"):
        for i in range(4):
            noisy = np.clip(np.asarray(seen) + np.random.default_rng([i, len(name)]).normal(0, 2, (160, 240)), 0, 255).astype(np.uint8)
            if name == "part":
                noisy[60:66, 20 + 50 * i : 26 + 50 * i] = 0 if noisy[63, 23 + 50 * i] > 127 else 255
            files[f"{name}/{i}.png"] = encoded(Image.fromarray(noisy))
    by_hash = clean(tmp_path / "hash", files)["near_duplicates"]
    assert (by_hash["groups"], by_hash["copies"], by_hash["across_classes"]) == (1, 7, 1)
    report = clean(tmp_path / "pixels", files, near_copy_tolerance=16)
    assert (report["near_duplicates"]["groups"], report["near_duplicates"]["across_classes"]) == (1, 0)
    assert sorted(report["near_duplicates"]["examples"][0]) == [f"empty/{i}.png" for i in range(4)]
    assert report["told_apart"] == 4
    assert set(duplicate_groups(*(manifest_of(tmp_path / "pixels")[name] for name in ("sha256", "phash"))).tolist()) == set(range(5))
