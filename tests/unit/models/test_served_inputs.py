"""What a served model takes for an image file."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bccp.models.served_inputs import WANTED, UnusableInputError, image_file

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))


def written(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


PNG = written(PICTURE, "PNG")
TEXT = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    "value",
    [
        PNG,
        bytearray(PNG),
        memoryview(PNG),
        np.bytes_(PNG),
        np.frombuffer(PNG, np.uint8),
        TEXT,
        np.str_(TEXT),
        np.array(TEXT),
        TEXT.encode(),
        np.array([TEXT], "S")[0],
        base64.encodebytes(PNG),
        f"\n{base64.encodebytes(PNG).decode()} ",
        base64.urlsafe_b64encode(PNG).decode().rstrip("="),
        f"data:image/png;base64,{TEXT}",
        f"data:image/png;base64,{TEXT}".encode(),
        {"b64": TEXT},
    ],
)
def test_an_image_file_is_the_same_in_every_form(value: Any) -> None:
    assert image_file(value) == PNG


@pytest.mark.parametrize("kind", ["jpeg", "webp", "tiff"])
def test_a_data_url_that_mlflow_has_decoded_as_base64_is_recovered(kind: str) -> None:
    data = written(PICTURE, kind)
    text = base64.b64encode(data).decode()
    assert image_file(base64.decodebytes(f"data:image/{kind};base64,{text}".encode())) == data


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"P3\n1 1\n255\n1 2 3\n", b"P1 1 1 0", b"no image at all"])
def test_bytes_that_are_no_base64_stay_as_they_are(data: bytes) -> None:
    assert image_file(data) == data


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"])
def test_pil_images_of_every_mode_keep_what_they_show(mode: str) -> None:
    try:
        image = PICTURE.convert(mode)
    except ValueError:
        image = PICTURE.convert("RGBA" if mode in ("La", "RGBa") else "LA").convert(mode)
    with Image.open(io.BytesIO(image_file(image))) as again:
        if again.mode == mode:
            assert again.tobytes() == image.tobytes()
        plain = image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB"))
        shown, expected = (np.asarray(one.convert("RGB"), int) for one in (again, plain))
    assert np.abs(shown - expected).max() <= 1


def test_a_pil_image_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(io.BytesIO(written(PICTURE, "PNG", exif=exif))) as lying, Image.open(io.BytesIO(image_file(lying))) as upright:
        assert upright.size == PICTURE.size[::-1]
        assert not upright.getexif()
        np.testing.assert_array_equal(np.asarray(upright), np.rot90(np.asarray(PICTURE), -1))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("/photos/cat.jpg", "text that is no base64 .no path or address is opened here"),
        (b"/photos/my cat.jpg", "a path or an address, and none is opened here"),
        (b"https://example.org/cat", "a path or an address"),
        ("https://example.org/cat.jpg", "text that is no base64"),
        (b"C:\\photos\\cat.jpg", "a path or an address"),
        (b"cat.jpg", "a path or an address"),
        (Path("/photos/cat.jpg"), "a value of type PosixPath"),
        (None, "no value"),
        (float("nan"), "no value"),
        (7, "a value of type int"),
        (io.BytesIO(PNG), "a value of type BytesIO"),
        (np.zeros((4, 4, 3), np.uint8), r"a value of type ndarray of shape \(4, 4, 3\)"),
        ({"image": TEXT}, "a value of type dict"),
        ("Größe", "text that is no base64"),
    ],
)
def test_whatever_else_is_refused_with_what_is_wanted(value: Any, words: str) -> None:
    with pytest.raises(UnusableInputError, match=words) as told:
        image_file(value)
    assert str(told.value).endswith(WANTED)


def test_a_pil_image_that_cannot_be_read_is_told() -> None:
    with Image.open(io.BytesIO(PNG[: len(PNG) // 2])) as cut, pytest.raises(UnusableInputError, match="a PIL image that cannot be read"):
        image_file(cut)
