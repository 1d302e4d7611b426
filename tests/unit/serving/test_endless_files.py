"""Files whose decoders would not come to an end."""

from __future__ import annotations

import io
import time

import numpy as np
from PIL import Image

from bccp.serving.engine.decoding import takes_for_ever
from support.awkward_files import jpeg_with, png_chunk, png_with


def encoded(form: str, side: int = 64, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, form, **options)
    return file.getvalue()


def test_files_of_cameras_and_programs_are_read() -> None:
    png, jpeg = encoded("PNG", 1000), encoded("JPEG")
    scan = b"\xff\xda" * 1000
    for data in (
        png,
        jpeg,
        encoded("JPEG", progressive=True),
        jpeg_with(jpeg, (0xE2, scan)),  # in metadata
        jpeg + scan,  # a film behind a photo
        jpeg_with(jpeg, *[(0xFE, b"a")] * 200),
        png_with(png, *[png_chunk(b"tEXt", b"a\0b")] * 2000),
        png[:30],
        jpeg[:20],
        jpeg[:2] + b"\xff",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF" + scan,
        b"qoif" + b"\0" * 3_000_000,
        b"",
    ):
        assert not takes_for_ever(data)


def test_a_million_small_parts_and_passes_over_the_picture_are_not() -> None:
    png, jpeg, passes = encoded("PNG"), encoded("JPEG"), encoded("JPEG", progressive=True)
    last = passes[passes.rindex(b"\xff\xda") : -2]
    hidden = jpeg_with(passes[:-2] + last * 101 + passes[-2:], (0xFE, b"a"), (0, b"\xff\xff\xff"))
    one_colour = jpeg.replace(b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11", b"\xff\xda\x00\x08\x01\x01\x00")  # a pass for each
    assert one_colour != jpeg
    begun = time.process_time()
    for data in (
        png_with(png, png_chunk(b"abCd", b"") * 1_000_000),
        png_with(png, png_chunk(b"IDAT", b"") * 30_000, at_end=True),
        jpeg[:2] + b"\xff\xfe\x00\x03a" * 1_000_000 + jpeg[2:],
        passes[:-2] + last * 101 + passes[-2:],
        hidden,
        b"qoif" + b"\0" * 6_000_000,
        one_colour[:-2] + one_colour[one_colour.rindex(b"\xff\xda") : -2] * 101,
    ):
        assert takes_for_ever(data)
    assert time.process_time() - begun < 2
