"""The extras of this package: which of them installs a missing package, and the command that does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata

from bccp.core.errors import MissingExtraError

_DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "hydra": "hydra-core",
    "psycopg2": "psycopg2-binary",
    "sklearn": "scikit-learn",
    "smbclient": "smbprotocol",
    "yaml": "pyyaml",
}
"""Packages that are imported by another name than that by which they are installed."""


@contextmanager
def needed_by(what: str) -> Iterator[None]:
    """Raise the sentence with the remedy where an import in the block fails for want of an extra.

    Parameters
    ----------
    what : str
        The command or option that needs the import: the subject of the sentence.

    Raises
    ------
    MissingExtraError
        In place of the ``ModuleNotFoundError`` of a package that an extra installs; that of any other package is raised as it is.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = distribution(error.name or "")
        extra = packages().get(package)
        if extra is None:
            raise
        raise MissingExtraError(f"{what} needs the package {package}, which is not installed: {install_command(extra)}") from error


def install_command(extra: str) -> str:
    """Return the pip command that installs an extra, into a checkout's environment as well.

    Examples
    --------
    >>> install_command("onnx")
    "pip install 'bccp[onnx]'"
    """
    return f"pip install 'bccp[{extra}]'"


def distribution(module: str) -> str:
    """Return the normalized name by which a top-level module is installed.

    Examples
    --------
    >>> distribution("cv2"), distribution("wandb_workspaces")
    ('opencv-python-headless', 'wandb-workspaces')
    """
    return _normalized(_DISTRIBUTIONS.get(module, module))


def packages() -> dict[str, str]:
    """Map the normalized name of each package that only extras install to the first such extra.

    Returns
    -------
    dict of str to str
        From the metadata of the installed ``bccp``; empty where it is not installed, as in a step's own environment.
    """
    try:
        requirements = metadata.requires("bccp") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, str] = {}
    for requirement in requirements:
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"""extra == ["']([\w-]+)["']""", requirement)
        if name and extra and _normalized(name[0]) != "bccp":
            found.setdefault(_normalized(name[0]), extra[1])
    return found


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
