"""JSON of requests and responses."""

from __future__ import annotations

import json
from typing import Any

_SEPARATORS = (",", ":")
_in_utf8 = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=_SEPARATORS)
_in_ascii = json.JSONEncoder(allow_nan=False, separators=_SEPARATORS)


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


def decode(data: bytes) -> Any:
    """Read JSON in UTF-8.

    Raises
    ------
    ValueError
        If it is none, or is nested too deeply.
    """
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
