"""Versions of artifacts, and how they are written: ``name:digest``."""

from __future__ import annotations

import re
from typing import Any

from bccp.core.errors import BCCPError
from bccp.tracking.tags import INPUT_PREFIX, OUTPUT_PREFIX


def versions_read(run: Any) -> set[str]:
    """The versions that a run of MLflow's has read, as ``name:digest``."""
    prefix = INPUT_PREFIX
    return {qualified(name.removeprefix(prefix), value) for name, value in run.data.tags.items() if name.startswith(prefix)}


def versions_made(run: Any) -> set[str]:
    """The versions that a run of MLflow's has made, as ``name:digest``."""
    prefix = OUTPUT_PREFIX
    return {f"{name.removeprefix(prefix)}:{value}" for name, value in run.data.tags.items() if name.startswith(prefix)}


def split_version(version: str) -> tuple[str, str]:
    """Take ``name:digest`` apart; a W&B spelling (``entity/project/name:d-<12 hex>``) is understood."""
    name, _, digest = version.rpartition("/")[2].partition(":")
    digest = digest.removeprefix("d-")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", name) or not re.fullmatch(r"[0-9a-f]{12,64}", digest):
        raise BCCPError(f"{version!r} names no artifact version: write name:digest with 12 to 64 hexadecimal digits")
    return name, digest


def qualified(name: str, version: str) -> str:
    """Write an input as ``name:digest``; a version that names another artifact, which stands in for it, stays what it is."""
    return version if ":" in version else f"{name}:{version}"
