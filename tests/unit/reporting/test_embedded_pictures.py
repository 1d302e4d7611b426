"""Pictures within a page: whatever a file is, upright, in its proportions, small, and without what the file says beside the pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from bccp.data.decoding.image_files import UnreadableImageError, pillow_limits
from bccp.reporting.embedded_pictures import PICTURE_SIZES, EmbeddedPictures, decode_small, encode_picture

LEFT_RED = Image.fromarray(np.repeat(np.array([[[220, 20, 20], [20, 20, 220]]], np.uint8), 150, axis=1).repeat(200, axis=0))


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of a file of this kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(data: bytes, longest_px: int = 320) -> Image.Image:
    """The picture of a file."""
    with pillow_limits(20_000_000):
        return decode_small(data, longest_px)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_photograph_is_upright_and_no_larger_than_needed(orientation: int) -> None:
    back = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[orientation]
    large = LEFT_RED.resize((3000, 2000))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decoded(saved(large.transpose(back) if back is not None else large, "JPEG", exif=exif))
    assert image.mode == "RGB"
    assert image.size[0] > image.size[1]
    assert 640 <= image.size[0] <= 1500  # decoded at a quarter or half of its size
    assert image.getpixel((20, 20))[0] > 180
    assert image.getpixel((image.size[0] - 20, 20))[2] > 180


def test_files_of_other_kinds_are_decoded_as_everywhere() -> None:
    assert decoded(saved(LEFT_RED.convert("CMYK"), "JPEG")).getpixel((5, 5))[0] > 180
    deep = Image.fromarray((np.arange(40 * 30).reshape(30, 40) * 50).astype(np.uint16))
    assert decoded(saved(deep, "PNG")).getextrema()[0][1] > 200
    seen_through = LEFT_RED.convert("RGBA")
    seen_through.putalpha(0)
    assert decoded(saved(seen_through, "PNG")).getpixel((5, 5)) == (255, 255, 255)
    with pytest.raises(UnreadableImageError, match="truncated"):
        decoded(saved(LEFT_RED.resize((3000, 2000)), "JPEG")[:9000])
    with pytest.raises(UnreadableImageError, match="bomb"):
        decoded(saved(Image.new("L", (6000, 5000)), "JPEG"))


def test_a_picture_keeps_its_proportions_and_nothing_else_of_its_file() -> None:
    large = LEFT_RED.resize((3000, 1000))
    large.info |= {"icc_profile": b"profile", "exif": b"Exif\0\0GPS", "xmp": b"xmp"}
    data, size = encode_picture(large, 240, 60)
    assert size == (240, 80)
    assert not {b"ICCP", b"EXIF", b"XMP "} & {data[place : place + 4] for place in range(len(data))}
    assert Image.open(io.BytesIO(data)).size == size


def test_a_tiny_picture_keeps_every_pixel() -> None:
    tiny = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    data, size = encode_picture(Image.fromarray(tiny), 240, 20)
    assert size == (6, 8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), tiny)
    assert encode_picture(Image.new("RGB", (9000, 2)), 240, 20)[1] == (240, 1)


def test_pictures_are_forgotten_where_there_is_no_room() -> None:
    pictures = EmbeddedPictures(lambda image: Image.new("RGB", (10 + len(image), 10)), PICTURE_SIZES[0])
    pictures.encode(dict.fromkeys(("a", "bb", "ccc"), 240))
    assert [pictures.add(image) for image in ("a", "bb", "a")] == [0, 1, 0]
    assert pictures.n_bytes() > pictures.n_bytes(1) > 0
    pictures.forget(1)
    assert pictures.sizes == [(11, 10)]
    assert [pictures.add(image) for image in ("ccc", "a", "bb")] == [1, 0, 2]
