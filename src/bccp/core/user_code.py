"""A user's own code that the configuration names: where it lies and what it says, told without importing it; and how it is imported."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from bccp.core import paths
from bccp.core.errors import BCCPError, nearest


def targets(value: Any) -> list[str]:
    """Each ``_target_`` in a value of the configuration, in order, those of nested objects too."""
    if isinstance(value, dict):
        own = [value["_target_"]] if isinstance(value.get("_target_"), str) else []
        return own + [found for part in value.values() for found in targets(part)]
    return [found for part in value for found in targets(part)] if isinstance(value, list | tuple) else []


def is_dotted_name(name: Any) -> bool:
    """Whether this is a dotted name, as of what stands in a module: ``my_module.hardest``."""
    return isinstance(name, str) and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", name) is not None


def source_location(target: str, key: str = "train.augmentation") -> Path | None:
    """Where the code of a target lies, as far as it is the user's own.

    Parameters
    ----------
    target : str
        A dotted name.
    key : str
        The key of the configuration that names it, for messages.

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
        raise BCCPError(f"{key}: {target} is not found: there is no module {top!r} on Python's path or beside config.yaml")
    folders = list(found.submodule_search_locations or [])
    if not folders and not found.has_location:
        return None
    where = Path(folders[0] if folders else str(found.origin)).resolve()
    installed = {"site-packages", "dist-packages"} & set(where.parts) or where.is_relative_to(sysconfig.get_path("stdlib"))
    return None if installed else where


def import_object(target: str, key: str) -> Any:
    """Import a function or class by its dotted name.

    Parameters
    ----------
    target : str
    key : str
        The key of the configuration that names it, for messages.

    Raises
    ------
    BCCPError
        If there is no such module, it cannot be imported, or it has nothing callable of that name.
    """
    source_location(target, key)
    module, _, name = target.rpartition(".")
    if str(paths.ROOT) not in sys.path:  # last, so that it hides nothing
        sys.path.append(str(paths.ROOT))
    try:
        found = vars(importlib.import_module(module))
    except Exception as error:
        raise BCCPError(f"{key}: {target} cannot be imported ({describe_error(error)}): mend the module {module}") from error
    if name not in found:
        raise BCCPError(f"{key}: {target} is not found: the module {module} has no {name!r}{nearest(name, found)}")
    if not callable(found[name]):
        raise BCCPError(f"{key}: {target} is a {type(found[name]).__name__}, which cannot be called: name a function or a class")
    return found[name]


def describe_error(error: BaseException) -> str:
    """An exception of a user's code in one line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


@functools.cache
def module_digest(where: Path) -> str:
    """Cached as the code itself is: a process that has imported a module does not see that it changes."""
    files = [where] if where.is_file() else sorted(where.rglob("*.py"))
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(where.parent).as_posix()}\n".encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def source_digest(names: Iterable[str]) -> str | None:
    """SHA-256 of the source of some targets' top modules and packages; None where none is the user's own.

    What these import in turn does not count, nor does the version of an installed package.
    """
    places = sorted({where for where in map(source_location, names) if where is not None})
    return hashlib.sha256("".join(map(module_digest, places)).encode()).hexdigest() if places else None
