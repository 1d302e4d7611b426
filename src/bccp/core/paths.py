"""Paths of the package and of the project's files: ``config.yaml``, the steps, and what goes with them."""

from __future__ import annotations

import os
from pathlib import Path

from bccp.core.errors import BCCPError

PACKAGE = Path(__file__).resolve().parents[1]
"""The folder of the package ``bccp``."""


def project_folder(package: Path) -> Path:
    """Find the folder that holds ``config.yaml`` and the steps.

    Parameters
    ----------
    package : Path
        The folder of the package ``bccp``.

    Returns
    -------
    Path
        The checkout, where the package lies in one; else ``project`` in the package, where a wheel has them.
    """
    checkout = package.parents[1]
    return checkout if (checkout / "config.yaml").is_file() and (checkout / "MLproject").is_file() else package / "project"


def name_of(file: Path) -> str:
    """Return a file's path in a checkout, also where a wheel has it: ``train/run.py``, ``src/bccp/data/tables.py``."""
    return (file.relative_to(ROOT) if file.is_relative_to(ROOT) else "src/bccp" / file.relative_to(PACKAGE)).as_posix()


def expanded(text: str | Path, *, option: str = "") -> Path:
    """Write ``~`` and ``~user`` out at the beginning of a path.

    Parameters
    ----------
    text : str or Path
    option : str
        What gave the path, for the message.

    Raises
    ------
    BCCPError
        If there is no such user, or that one has no home folder; a file or folder whose own name begins so is taken for itself.

    Examples
    --------
    >>> expanded("photos/~a")
    PosixPath('photos/~a')
    """
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError as error:
        if path.exists():
            return path
        user = path.parts[0][1:]
        reason = f"no user {user!r} has a home folder here" if user else f"this user ({_user_id()}) has no home folder"
        raise BCCPError(f"{option}={text}".removeprefix("=") + f" leads nowhere, as {reason}: give an absolute path") from error


def where_relative(path: Path) -> str:
    """Say where a relative path was looked for, in brackets; empty where the path cannot have been one.

    Examples
    --------
    >>> where_relative(Path("/nowhere"))
    ''
    """
    folder = Path.cwd()
    inside = not path.is_absolute() or path.is_relative_to(folder)
    return f" (relative paths count from {folder}; under `mlflow run` that is the project's folder)" if inside else ""


def _user_id() -> str:
    return f"uid {os.getuid()}" if hasattr(os, "getuid") else "of this process"


ROOT = project_folder(PACKAGE)
"""The folder that holds ``config.yaml`` and the steps: the checkout, or a wheel's copy of it."""
