"""Paths of the package and of the project's files: ``config.yaml``, the steps, and what goes with them."""

from __future__ import annotations

from pathlib import Path

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


ROOT = project_folder(PACKAGE)
"""The folder that holds ``config.yaml`` and the steps: the checkout, or a wheel's copy of it."""
