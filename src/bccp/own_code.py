"""A user's own code that the configuration names by ``_target_``: where it lies and what it says, told without importing it."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from bccp import paths
from bccp.errors import BCCPError


def targets(value: Any) -> list[str]:
    """Each ``_target_`` in a value of the configuration, in order, those of nested objects too."""
    if isinstance(value, dict):
        own = [value["_target_"]] if isinstance(value.get("_target_"), str) else []
        return own + [found for part in value.values() for found in targets(part)]
    return [found for part in value for found in targets(part)] if isinstance(value, list | tuple) else []


def place(target: str) -> Path | None:
    """Where the code of a target lies, as far as it is the user's own.

    Parameters
    ----------
    target : str
        A dotted name.

    Returns
    -------
    Path or None
        The file of its top module, or the folder of its top package; None for Python's own and for installed packages.

    Raises
    ------
    BCCPError
        If there is no such module.
    """
    top = target.partition(".")[0]
    try:
        found = importlib.util.find_spec(top) or PathFinder.find_spec(top, [str(paths.ROOT)])
    except ValueError:  # a module without a file of its own, such as a notebook's
        found = None
    if found is None:
        raise BCCPError(f"train.augmentation: {target} is not found: there is no module {top!r} on Python's path or beside config.yaml")
    folders = list(found.submodule_search_locations or [])
    if not folders and not found.has_location:
        return None
    where = Path(folders[0] if folders else str(found.origin)).resolve()
    installed = {"site-packages", "dist-packages"} & set(where.parts) or where.is_relative_to(sysconfig.get_path("stdlib"))
    return None if installed else where


@functools.cache
def _digest(where: Path) -> str:
    """Cached as the code itself is: a process that has imported a module does not see that it changes."""
    files = [where] if where.is_file() else sorted(where.rglob("*.py"))
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(where.parent).as_posix()}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def digest(names: Iterable[str]) -> str | None:
    """SHA-256 of the source of some targets' top modules and packages; None where none is the user's own.

    What these import in turn does not count, nor does the version of an installed package.
    """
    places = sorted({where for where in map(place, names) if where is not None})
    return hashlib.sha256("".join(map(_digest, places)).encode()).hexdigest() if places else None
