"""The settings of a service, and what a test asks it for."""

from __future__ import annotations

from typing import Any

from bccp.core import config
from bccp.core.config_schema import Serve
from bccp.core.paths import ROOT


def serve_settings(**options: Any) -> Serve:
    """The section serve of ``config.yaml``, with other values for some keys."""
    made: Serve = config.section(Serve, {**config.defaults()["serve"], **options}, "serve", ROOT)
    return made
