"""BCCP keeps an image classifier healthy while the labels it is retrained on are often wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bccp.pipeline import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    """Import the orchestrator only when it is asked for: a step that needs only ``bccp.tables`` loads nothing else."""
    if name == "run":
        from bccp.pipeline import run

        return run
    raise AttributeError(f"module 'bccp' has no attribute {name!r}")
