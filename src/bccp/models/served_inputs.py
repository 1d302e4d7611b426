"""Inputs of a served model: the bytes of an image file, in each form in which MLflow and its callers hand them over."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
from PIL import Image, ImageOps

WANTED = "give the bytes of an image file, their base64 text, or a PIL image"

_TEXT = re.compile(rb"\s*(data:[^,]*,)?[A-Za-z0-9+/=_\r\n-]+\s*")
_PLAIN_PPM = re.compile(rb"P[1-6]\s")
"""How image files begin that may consist of text alone."""

_PLACE = re.compile(rb"\s*([A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z]:\\\\|[/~.\\\\])[ -~]+|\s*[ -~]+\.[A-Za-z0-9]{2,5}\s*")

_DATA_URL_TAKEN_FOR_BASE64 = re.compile(r"dataimage/[A-Za-z0-9+]*?base64")

_KEPT_BY_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_KEPT_BY_TIFF = ("CMYK", "YCbCr", "LAB", "I", "F")


class UnusableInputError(Exception):
    """A value is none of the accepted ones; the message says what it is and what is wanted."""


def image_file(value: Any) -> bytes:
    """The bytes of the image file that an input is.

    Nothing is opened or fetched: a path or an address is refused, whoever it comes from.

    Parameters
    ----------
    value : object
        Bytes, or an object that gives its bytes (bytearray, memoryview, a one-dimensional array of uint8); base64 text, also with line
        breaks, in the alphabet for URLs, or as a ``data:`` URL, as str or as bytes, or as ``{"b64": text}``; a PIL image, which is
        written losslessly, upright.

    Returns
    -------
    bytes
        Perhaps no image: bytes that are no text are passed on as they are.

    Raises
    ------
    UnusableInputError
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:  # MLflow wraps single values so
        value = value.item()
    if isinstance(value, dict) and list(value) == ["b64"]:  # TensorFlow Serving's way to write bytes in JSON
        value = value["b64"]
    if isinstance(value, Image.Image):
        return _written(value)
    if isinstance(value, str):
        return _from_base64(value)
    data = _own_bytes(value)
    if _TEXT.fullmatch(data) and not _PLAIN_PPM.match(data):
        return _from_base64(data.decode("ascii"))
    if _PLACE.fullmatch(data):
        raise UnusableInputError(f"a path or an address, and none is opened here: {WANTED}")
    if data.startswith(base64.b64decode("data")):  # MLflow decodes text of JSON records, and passes over all signs that base64 has not
        text = base64.b64encode(data).decode()
        if begin := _DATA_URL_TAKEN_FOR_BASE64.match(text):
            return _from_base64(text[begin.end() :])
    return data


def _own_bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return bytes(value)  # np.bytes_ too
    if value is None or (isinstance(value, float) and np.isnan(value)):
        raise UnusableInputError(f"no value: {WANTED}")
    try:
        view = memoryview(value)
        is_file = view.ndim == 1 and view.itemsize == 1
    except TypeError:
        is_file = False
    if not is_file:
        shape = f" of shape {value.shape}" if isinstance(value, np.ndarray) else ""
        raise UnusableInputError(f"a value of type {type(value).__name__}{shape}: {WANTED}")
    return view.tobytes()


def _from_base64(text: str) -> bytes:
    body = re.sub(r"\s+", "", re.sub(r"^\s*data:[^,]*;base64,", "", text)).rstrip("=")
    body = body.replace("-", "+").replace("_", "/")
    if not body:
        return b""
    if len(body) % 4 == 1 or not re.fullmatch(r"[A-Za-z0-9+/]+", body):
        raise UnusableInputError(f"text that is no base64 (no path or address is opened here): {WANTED}")
    return base64.b64decode(body + "=" * (-len(body) % 4))


def _written(image: Image.Image) -> bytes:
    """A picture as a file, losslessly."""
    file = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in _KEPT_BY_PNG + _KEPT_BY_TIFF:
            upright = upright.convert({"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(upright.mode, "RGB"))
        if upright.mode in _KEPT_BY_PNG:
            upright.save(file, "PNG", compress_level=1, exif=b"")
        else:
            upright.save(file, "TIFF")
    except Exception as error:  # of a lazily read file: anything that its decoder raises
        raise UnusableInputError(f"a PIL image that cannot be read ({str(error) or type(error).__name__})") from error
    return file.getvalue()
