"""JSON of requests and responses."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
"""Of all answers: what they hold changes, and is never what a browser might guess."""

_SEPARATORS = (",", ":")
_in_utf8 = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=_SEPARATORS)
_in_ascii = json.JSONEncoder(allow_nan=False, separators=_SEPARATORS)

MOST_VALUES = 100_000
"""Values in a text that is read; a body of brackets alone would take twenty times its own memory, and all others' time."""


def encode(value: Any) -> bytes:
    """Write a value as JSON in UTF-8; letters that UTF-8 has not, which a folder's name may hold, as escapes.

    Raises
    ------
    ValueError
        For NaN and infinities, which JSON has not.
    """
    try:
        return _in_utf8.encode(value).encode()
    except UnicodeEncodeError:
        return _in_ascii.encode(value).encode()


def respond(value: Any, status: int = 200) -> Response:
    """Answer with a value as JSON."""
    return Response(encode(value), status, HEADERS, "application/json")


def decode(data: bytes) -> Any:
    """Read JSON in UTF-8.

    Raises
    ------
    ValueError
        If it is none, is nested too deeply, or holds too many values.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:  # text in base64 has none of them
        raise ValueError(f"more than {MOST_VALUES} values")
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
