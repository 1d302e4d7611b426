"""Pinned packages of an environment file, and installed versions."""

from __future__ import annotations

import functools
import re
from importlib import metadata
from pathlib import Path


def pins(environment: Path) -> dict[str, str]:
    """The ``package==version`` lines of an environment file."""
    return dict(re.findall(r"^\s*-\s*([A-Za-z0-9._-]+)==(\S+)", environment.read_text(encoding="utf-8"), flags=re.MULTILINE))


@functools.cache
def installed_version(package: str) -> str:
    """Of a package in this environment, or an empty string; read once, as Python parses a long file for it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
