"""Tables that this package writes or reads, where they lie among images: they are no images, and none that cannot be read either."""

from __future__ import annotations

from pathlib import PurePosixPath

HEAD_BYTES = 64
"""So much of a file tells."""

_BEGINNINGS = {".csv": (b"image,", b"rank,image,"), ".jsonl": (b'{"file_name":',)}
"""How the tables begin: the list of exported images, predictions, users' labels, checked labels, reports."""


def may_be_own_table(name: str) -> bool:
    """Return True for a name that such a table may have, which is to be opened then."""
    return PurePosixPath(name).suffix.lower() in _BEGINNINGS


def is_own_table(name: str, head: bytes) -> bool:
    """Say whether a file is such a table.

    Parameters
    ----------
    name : str
        Its path.
    head : bytes
        Its first bytes, ``HEAD_BYTES`` of them or all.

    Examples
    --------
    >>> is_own_table("cleaned/labels.csv", b"rank,image,given_label"), is_own_table("cat/1.csv", b"x,y")
    (True, False)
    """
    beginnings = _BEGINNINGS.get(PurePosixPath(name).suffix.lower(), ())
    return head.removeprefix(b"\xef\xbb\xbf").startswith(beginnings)
