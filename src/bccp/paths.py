"""Where the project's files lie."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
"""The folder of the package ``bccp``."""

ROOT = PACKAGE.parents[1]
"""The checkout: the folder that holds ``config.yaml`` and the steps."""
