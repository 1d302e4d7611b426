"""``GET /images/{sha256}``: an image that was sent, for reviewers: upright, without its metadata, and of a fixed type."""

from __future__ import annotations

import asyncio
import io
import re

from PIL import Image
from starlette.responses import Response

from bccp.data.decoding.image_files import UnreadableImageError, decode
from bccp.serving.http import json_text
from bccp.serving.http.access import Role
from bccp.serving.http.incoming import Incoming
from bccp.serving.http.parts import Parts
from bccp.serving.http.problems import ProblemError
from bccp.serving.http.voting import unavailable

LONGEST_SIDE = 1600
"""Pixels; a larger image is made smaller."""

HEADERS = {
    **json_text.HEADERS,
    "Content-Disposition": "inline",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_at_once = asyncio.Semaphore(1)
"""A picture of many pixels takes much memory: one after the other."""


async def picture(parts: Parts, incoming: Incoming) -> Response:
    """Answer with the picture as PNG."""
    parts.access.expect(parts.access.role(incoming.headers.get(b"authorization")), Role.REVIEW)
    sha256 = incoming.scope["path_params"]["sha256"]
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ProblemError("unknown-image", "the address ends with no SHA-256: use that of a prediction's image_sha256")
    try:
        data = await asyncio.to_thread(parts.store.images.read, sha256)
    except OSError as error:
        raise unavailable(error.strerror or type(error).__name__) from None
    if data is None:
        raise ProblemError("unknown-image", f"no image with the SHA-256 {sha256} is kept")
    async with _at_once:
        try:
            return Response(await asyncio.to_thread(as_png, data), 200, HEADERS, "image/png")
        except UnreadableImageError as error:
            raise ProblemError("not-an-image", str(error)) from None


def as_png(data: bytes) -> bytes:
    """Write an image file anew, upright and without metadata.

    Raises
    ------
    UnreadableImageError
    """
    image = decode(data).rgb()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.BILINEAR)
    bare = Image.frombytes("RGB", image.size, image.tobytes())
    file = io.BytesIO()
    bare.save(file, "PNG", compress_level=1)
    return file.getvalue()
