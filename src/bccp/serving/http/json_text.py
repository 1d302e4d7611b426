"""JSON of requests and responses."""

from __future__ import annotations

import json
from typing import Any


def encode(value: Any) -> bytes:
    """Write a value as JSON in UTF-8; letters that UTF-8 has not, which a folder's name may hold, as escapes.

    Raises
    ------
    ValueError
        For NaN and infinities, which JSON has not.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


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
