"""Places that hold what is to be forgotten, and what becomes of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Fate = Literal["goes", "is cut out", "stays", "is yours"]
"""``goes``: as a whole; ``is cut out``: the part that holds it; ``stays``: is named only; ``is yours``: lies where nothing is deleted."""


@dataclass(frozen=True)
class Place:
    """A place that holds an image or names a user.

    Attributes
    ----------
    kind : str
        Under which it is listed.
    where : str
        A path, a version, or an address.
    fate : {"goes", "is cut out", "stays", "is yours"}
    note : str
        What else is to be known of it.
    remove : callable or None
        Makes it hold nothing any more; can be called again. None where it stays.
    """

    kind: str
    where: str
    fate: Fate
    note: str = ""
    remove: Callable[[], None] | None = None

    def document(self) -> dict[str, Any]:
        """As plain values."""
        return {"kind": self.kind, "where": self.where, "fate": self.fate, "note": self.note}
