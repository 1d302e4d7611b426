"""BCCP keeps an image classifier healthy while the labels it is retrained on are often wrong."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bccp.labels.label_cleaner import LabelCleaner
    from bccp.pipeline.runner import run

__all__ = ["LabelCleaner", "run"]

_HOME_OF = {"LabelCleaner": "bccp.labels.label_cleaner", "run": "bccp.pipeline.runner"}


def __getattr__(name: str) -> Any:
    """Import what this package offers only when it is asked for: a step that needs only ``bccp.data.tables`` loads nothing else."""
    if name in _HOME_OF:
        # no import statement: what this package only offers is no part of what a step runs, nor of its key
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'bccp' has no attribute {name!r}")
