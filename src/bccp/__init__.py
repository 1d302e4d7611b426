"""BCCP keeps an image classifier healthy while the labels it is retrained on are often wrong."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bccp.pipeline import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    """Import the orchestrator only when it is asked for: a step that needs only ``bccp.tables`` loads nothing else."""
    if name == "run":
        # no import statement: what this package only offers is no part of what a step runs, nor of its key
        return importlib.import_module("bccp.pipeline").run
    raise AttributeError(f"module 'bccp' has no attribute {name!r}")
