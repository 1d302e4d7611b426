"""Decoding: intact pixels are read whatever else a file holds, upright, in their own tones; what is no picture is called what it is."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from bccp.data.decoding import image_files
from bccp.data.decoding.file_kinds import kind_of
from bccp.data.decoding.image_files import DecodedFile, UnreadableImageError, decode, pillow_limits
from support.awkward_files import Tag, exif, jpeg_with, png_chunk, png_with, tiff

ORIENTATION: Tag = (274, 3, (6,))
RAMP = np.add.outer(np.arange(32), np.arange(40)) / 70
"""Grey from 0 to 1, shape (32, 40)."""

LONG = zlib.compress(b"a" * (2 << 20))


@pytest.fixture(autouse=True)
def _pillow() -> Iterator[None]:
    with pillow_limits(1_000_000):
        yield


def lying() -> Image.Image:
    """White on the left; turned as orientation 6 says, white is above."""
    image = Image.new("RGB", (30, 20), "black")
    image.paste("white", (0, 0, 15, 20))
    return image


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def is_upright(found: DecodedFile) -> bool:
    grey = np.asarray(found.rgb()).astype(int)
    return grey.shape[:2] == (30, 20) and grey[:12].mean() > 235 and grey[-12:].mean() < 20


def is_lying(found: DecodedFile) -> bool:
    grey = np.asarray(found.rgb()).astype(int)
    return grey.shape[:2] == (20, 30) and grey[:, :12].mean() > 235 and grey[:, -12:].mean() < 20


BROKEN_TAGS: dict[str, Tag] = {
    "denominator 0": (282, 5, (72, 0)),
    "0 / 0": (282, 5, (0, 0)),
    "signed": (282, 10, (-72, 1)),
    "negative denominator": (282, 10, (72, -1)),
    "largest": (282, 5, (2**32 - 1, 1)),
    "text for a number": (282, 2, b"abc\0"),
    "bytes for a number": (296, 7, b"xx"),
    "rational for a number": (296, 5, (2, 0)),
    "EXIF beyond the end": (34665, 4, (99_999_999,)),
    "GPS in the header": (34853, 4, (1,)),
    "unknown type": (305, 99, b"abcdefgh"),
    "no text": (305, 2, b"\xff\xfe\0x"),
    "number for text": (306, 5, (1, 0)),
    "no profile": (34675, 7, b"junk"),
    "XMP cut": (700, 1, b"<x:xmpmeta tiff:Orientat"),
    "XMP of numbers": (700, 3, (1, 2, 3)),
    "no photoshop": (34377, 7, b"8BIM"),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tag", BROKEN_TAGS.values(), ids=BROKEN_TAGS)
def test_broken_tags_beside_an_orientation_cost_neither_picture_nor_orientation(tag: Tag, order: str) -> None:
    data = exif([ORIENTATION, tag], order)
    pixels = np.asarray(lying())
    files = {
        "JPEG": jpeg_with(encoded(lying(), "JPEG"), (0xE1, data)),
        "PNG": png_with(encoded(lying(), "PNG"), png_chunk(b"eXIf", data[6:])),
        "WEBP": encoded(lying(), "WEBP", exif=data, lossless=True),
        "TIFF": tiff(pixels, photometric=2, order=order, tags=[ORIENTATION, tag]),
        "TIFF, deflated": tiff(pixels, photometric=2, order=order, deflated=True, tags=[ORIENTATION, tag]),
        "TIFF of 16 bits": tiff(pixels[..., 0].astype(np.uint16) * 257, order=order, tags=[ORIENTATION, tag]),
    }
    assert [name for name, file in files.items() if not is_upright(decode(file))] == []


def test_broken_tags_of_an_avif_file_cost_neither_picture_nor_orientation() -> None:
    own = Image.Exif()
    own[274], own[282] = 6, 72.0
    file = encoded(lying(), "AVIF", exif=own)
    whole = exif([(282, 5, (72, 1))], ">", prefix=b"")
    broken = exif([(282, 10, (-72, 1))], ">", prefix=b"")
    place = file.index(whole[:8])
    found = decode(file[:place] + broken + file[place + len(broken) :])
    assert is_upright(found)


@pytest.mark.parametrize(
    "tag", [(274, 4, (6,)), (274, 1, b"\x06"), (274, 2, b"6\0"), (274, 7, b"\x06"), (274, 5, (6, 1)), (274, 3, (6, 6))]
)
def test_an_orientation_of_another_type_is_understood(tag: Tag) -> None:
    found = decode(jpeg_with(encoded(lying(), "JPEG"), (0xE1, exif([tag]))))
    assert (is_upright(found), found.metadata_ignored) == (True, False)


@pytest.mark.parametrize(
    ("tag", "ignored"), [((274, 3, (0,)), False), ((274, 3, (9,)), True), ((274, 5, (6, 0)), True), ((274, 2, b"up\0"), True)]
)
def test_an_orientation_that_is_none_turns_nothing_and_is_counted(tag: Tag, ignored: bool) -> None:
    found = decode(jpeg_with(encoded(lying(), "JPEG"), (0xE1, exif([tag]))))
    assert (is_lying(found), found.metadata_ignored) == (True, ignored)


def test_exif_cut_anywhere_costs_no_picture_and_keeps_an_orientation_before_the_cut() -> None:
    data = exif([ORIENTATION, (282, 5, (72, 1)), (305, 2, b"a software's name\0")])
    for end in range(len(data)):
        found = decode(jpeg_with(encoded(lying(), "JPEG"), (0xE1, data[:end])))
        has_it = end >= 6 + 8 + 2 + 12
        assert is_upright(found) if has_it else is_lying(found), end
        assert found.metadata_ignored == (end > 5 and not has_it), end


def test_the_orientation_of_xmp_counts_where_exif_has_none() -> None:
    jpeg, text = encoded(lying(), "JPEG"), b'<x tiff:Orientation="6"/>'
    assert is_upright(decode(jpeg_with(jpeg, (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text))))
    assert is_upright(decode(jpeg_with(jpeg, (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe" + text))))
    png = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text)
    assert is_upright(decode(png_with(encoded(lying(), "PNG"), png)))
    first = jpeg_with(jpeg, (0xE1, exif([(274, 3, (1,))])), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + text))
    assert is_lying(decode(first))


SEGMENTS: dict[str, tuple[int, bytes]] = {
    "JFIF cut": (0xE0, b"JFIF\0"),
    "Adobe cut": (0xEE, b"Adobe"),
    "Photoshop cut": (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed"),
    "Photoshop's resource cut": (0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed\0\0\0\0\0\2ab"),
    "profile without number": (0xE2, b"ICC_PROFILE\0"),
    "profile without its rest": (0xE2, b"ICC_PROFILE\0\x01\x09junk"),
    "pictures beyond the end": (0xE2, b"MPF\0MM\0*\0\0\0\x08\0\x01\xb0\x01\0\x04\0\0\0\x01\0\0\0\x02"),
    "no directory of pictures": (0xE2, b"MPF\0XXXXXXXX"),
    "no comment": (0xFE, b""),
    "stray bytes": (0, b"\x00\x12abc"),
    "length 0": (0, b"\xff\xe5\0\0"),
    "padding": (0, b"\xff\xff\xff"),
}


@pytest.mark.parametrize("segment", SEGMENTS.values(), ids=SEGMENTS)
def test_broken_segments_of_a_jpeg_file_cost_nothing(segment: tuple[int, bytes]) -> None:
    assert is_lying(decode(jpeg_with(encoded(lying(), "JPEG"), segment)))
    assert is_upright(decode(jpeg_with(encoded(lying(), "JPEG"), (0xE1, exif([ORIENTATION])), segment)))
    inks = encoded(lying().convert("CMYK"), "JPEG")
    assert (np.asarray(decode(jpeg_with(inks, segment)).rgb()) == np.asarray(decode(inks).rgb())).all()


CHUNKS: dict[str, bytes] = {
    "zTXt too long": png_chunk(b"zTXt", b"k\0\0" + LONG),
    "iTXt too long": png_chunk(b"iTXt", b"k\0\1\0\0\0" + LONG),
    "tEXt too long": png_chunk(b"tEXt", b"k\0" + b"a" * (3 << 20)),
    "profile too long": png_chunk(b"iCCP", b"k\0\0" + LONG),
    "profile of another method": png_chunk(b"iCCP", b"k\0\7" + LONG[:50]),
    "no profile": png_chunk(b"iCCP", b""),
    "zTXt of another method": png_chunk(b"zTXt", b"k\0\5junk"),
    "zTXt junk": png_chunk(b"zTXt", b"k\0\0junk"),
    "wrong checksum": png_chunk(b"tEXt", b"k\0v", checksum=5),
    "pHYs cut": png_chunk(b"pHYs", b"12"),
    "gAMA cut": png_chunk(b"gAMA", b"1"),
    "cHRM cut": png_chunk(b"cHRM", b"1"),
    "acTL cut": png_chunk(b"acTL", b"123"),
    "acTL of 0 frames": png_chunk(b"acTL", struct.pack(">II", 0, 0)),
    "no EXIF": png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n   4\nzzzz")),
}


@pytest.mark.parametrize("chunk", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize("at_end", [False, True])
def test_broken_chunks_of_a_png_file_cost_nothing(chunk: bytes, at_end: bool) -> None:
    assert is_lying(decode(png_with(encoded(lying(), "PNG"), chunk, at_end=at_end)))
    turned = png_with(encoded(lying(), "PNG"), png_chunk(b"eXIf", exif([ORIENTATION], prefix=b"")))
    assert is_upright(decode(png_with(turned, chunk, at_end=at_end)))


def test_text_chunks_that_are_too_long_together_cost_nothing() -> None:
    many = [png_chunk(b"zTXt", b"k%d\0\0" % i + zlib.compress(b"a" * (1 << 19))) for i in range(200)]
    found = decode(png_with(encoded(lying(), "PNG"), *many))
    assert (is_lying(found), found.metadata_ignored) == (True, True)


def test_transparency_outlives_broken_chunks() -> None:
    image = Image.new("RGB", (8, 8), (1, 2, 3))
    found = decode(png_with(encoded(image, "PNG", transparency=(1, 2, 3)), CHUNKS["zTXt too long"]))
    assert found.rgb().getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_pixels_that_are_cut_off_stay_out_whatever_the_metadata(share: float) -> None:
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    pixels = np.asarray(large)
    files = {
        "JPEG": jpeg_with(encoded(large, "JPEG"), SEGMENTS["JFIF cut"]),
        "PNG": png_with(encoded(large, "PNG"), CHUNKS["zTXt too long"]),
        "TIFF": tiff(pixels, photometric=2, strip_rows=10, tags=[BROKEN_TAGS["signed"]]),
        "TIFF, deflated": tiff(pixels, photometric=2, deflated=True, strip_rows=10),
        "AVIF": encoded(large, "AVIF"),
    }
    for name, data in files.items():
        assert decode(data).image.size == (200, 200), name
        with pytest.raises(UnreadableImageError, match=r"^(truncated|damaged) image: "):
            decode(data[: int(share * len(data))])


def test_a_changed_byte_in_the_pixels_of_a_png_file_stays_out() -> None:
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    data = bytearray(png_with(encoded(large, "PNG"), CHUNKS["zTXt too long"]))
    data[-5000] ^= 0xFF
    with pytest.raises(UnreadableImageError, match=r"^damaged image: "):
        decode(bytes(data))


@pytest.mark.parametrize("shape", [{}, {"strip_rows": 5}, {"tile": 16}], ids=["one strip", "strips", "tiles"])
@pytest.mark.parametrize("deflated", [False, True], ids=["as it is", "deflated"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("kind", ["1", "2", "4", "8", "16", "int16", "int32", "float32"])
def test_tones_of_tiff_files_are_upright_by_every_way_of_decoding(
    kind: str, photometric: int, order: str, deflated: bool, shape: dict[str, int]
) -> None:
    bits = int(kind) if kind in ("2", "4") else None
    expected = RAMP
    if kind == "1":
        pixels: Any = RAMP > 0.5
        expected = pixels.astype(float)
    elif bits:
        pixels = np.rint(RAMP * (2**bits - 1)).astype(np.uint8)
        expected = pixels / (2**bits - 1)
    else:
        low, high, dtype = {
            "8": (0, 255, np.uint8), "16": (0, 65535, np.uint16), "int16": (-32768, 32767, np.int16), "int32": (0, 65535, np.int32),
            "float32": (0, 1, np.float32),
        }[kind]  # fmt: skip
        pixels = RAMP * (high - low) + low
        pixels = (pixels if dtype == np.float32 else np.rint(pixels)).astype(dtype)
    data = tiff(pixels, photometric=photometric, order=order, deflated=deflated, bits=bits, **shape)
    grey = np.asarray(decode(data).rgb())[..., 0] / 255
    np.testing.assert_allclose(grey, expected if photometric else 1 - expected, atol=0.01)


@pytest.mark.parametrize("compression", ["packbits", "tiff_lzw", "group3", "group4", "tiff_ccitt", "jpeg"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_compressed_tiff_files_whose_zero_is_white_are_upright_in_tone(compression: str, photometric: int) -> None:
    bilevel = compression.startswith(("group", "tiff_ccitt"))
    image = Image.fromarray(RAMP > 0.5) if bilevel else Image.fromarray(np.rint(255 * RAMP).astype(np.uint8))
    data = encoded(image, "TIFF", compression=compression, tiffinfo={262: photometric})
    grey = np.asarray(decode(data).rgb())[..., 0]
    np.testing.assert_allclose(grey, 255.0 * np.asarray(image) if bilevel else np.asarray(image), atol=6)


def test_integers_of_32_bits_without_a_sign_and_of_8_bits_with_one_are_no_other_numbers() -> None:
    values = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    assert decode(tiff(values)).values.tolist() == values.tolist()
    assert np.asarray(decode(tiff(values)).rgb())[0, :, 0].tolist() == [0, 128, 255]
    signed = np.array([[-128, 0, 127]], np.int8)
    assert decode(tiff(signed)).values.tolist() == signed.tolist()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (
            b"\0\0\0\x18ftypheic" + b"\0" * 40,
            r"HEIC/HEIF picture: to read it, pip install 'bccp\[heic\]' \(pi-heif\), or convert it to JPEG",
        ),
        (b"\0\0\0\x18ftypmif1" + b"\0" * 40, "HEIC/HEIF picture"),
        (b"\0\0\0\x18ftypcrx " + b"\0" * 40, "camera raw file: .*CR3"),
        (b"\0\0\0\x18ftypisom" + b"\0" * 40, "video"),
        (b"II*\0\x10\0\0\0CR\2\0" + b"\0" * 40, "camera raw file: .*CR2"),
        (b"FUJIFILMCCD-RAW 0201", "camera raw file: .*RAF"),
        (tiff(np.zeros((8, 8, 3), np.uint8), photometric=2, tags=[(254, 4, (1,)), (330, 4, (8,))]), "camera raw file.*thumbnail"),
        (tiff(np.zeros((8, 8), np.uint16), photometric=32803), "camera raw file"),
        (b"8BPS\0\1", "Photoshop file"),
        (b"%PDF-1.7\n", "PDF document"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "git-LFS pointer.*git lfs pull"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "web page saved as an image"),
        (b"<html><body>404</body></html>", "web page saved as an image"),
        (b'<?xml version="1.0"?><svg>', "SVG drawing"),
        (b'{"error": "not found"}', "JSON text"),
        (b"\0" * 600, "only zero bytes"),
        (b"\0" * 128 + b"DICM", "DICOM file"),
        (b"\xff\x0a\0\0", "JPEG XL picture"),
        (tiff(np.zeros((8, 8), np.float64)), "TIFF file that Pillow does not read: samples of 64 bits, float; save it with 8 or 16 bits"),
        (b"PK\x03\x04" + b"\0" * 40, "zip archive"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"^{reason}"):
        decode(data)


def test_images_are_not_taken_for_something_else() -> None:
    for file_format in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "QOI", "PCX", "TGA"):
        data = encoded(lying(), file_format)
        assert kind_of(data) == "", file_format
        assert decode(data).image.size in ((30, 20), (16, 11)), file_format


def test_heic_files_are_read_where_pi_heif_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stand(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (4, 2)
            self.tile = [ImageFile._Tile("raw", (0, 0, 4, 2), 12, ("RGB", 0, 1))]

    def register_heif_opener() -> None:
        Image.register_open("HEIF", Stand, lambda prefix: prefix[4:8] == b"ftyp")

    monkeypatch.setitem(sys.modules, "pi_heif", SimpleNamespace(register_heif_opener=register_heif_opener))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    image_files._heif_is_read.cache_clear()
    try:
        found = decode(b"\0\0\0\x18ftypheic" + b"\x07" * 24)
        assert (found.format, found.rgb().getpixel((3, 1))) == ("HEIF", (7, 7, 7))
        with pytest.raises(UnreadableImageError, match=r"^truncated image"):
            decode(b"\0\0\0\x18ftypheic" + b"\x07" * 23)
    finally:
        image_files._heif_is_read.cache_clear()


def test_colours_of_16_bits_are_told_of() -> None:
    data = tiff(np.full((4, 4, 3), 0x1234, np.uint16), photometric=2)
    assert (decode(data).is_reduced, decode(data).rgb().getpixel((0, 0))) == (True, (0x12, 0x12, 0x12))
    assert not decode(encoded(lying(), "PNG")).is_reduced
    assert not decode(tiff(np.full((4, 4), 0x1234, np.uint16))).is_reduced
