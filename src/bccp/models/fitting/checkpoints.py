"""What a training has come to, on disk between two epochs, so that one that was killed loses at most the epoch that it was in."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bccp.core.errors import BCCPError
from bccp.core.home import scratch

_OF = "checkpoint of"


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Put a state in the place of the one before; whoever reads sees one of them whole.

    Parameters
    ----------
    path : Path
        On the file system of ``BCCP_HOME``. Its name stands for all that the training depends on.
    state : mapping
        Tensors, and plain values in dicts and lists.

    Raises
    ------
    OSError, RuntimeError
        Where it cannot be written; the state before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch("checkpoint") as folder:
        torch.save({_OF: path.name, **state}, folder / path.name)
        (folder / path.name).replace(path)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state that was last written there, on the CPU; None where there is none. Nothing in the file is run.

    Raises
    ------
    BCCPError
        If the file is damaged, or was written for another place.
    """
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as archive:  # torch reads over wrong bytes
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        state = torch.load(path, map_location="cpu", weights_only=True)
        of = state.pop(_OF)
    except Exception as error:  # damaged files fail in every way there is
        raise BCCPError(f"the checkpoint {path} is damaged ({type(error).__name__})") from error
    if of != path.name:
        raise BCCPError(f"the checkpoint {path} is of another training ({of})")
    found: dict[str, Any] = state
    return found
