"""The import of the package ``wandb``, which writes and prints as soon as it is imported."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from bccp.core.home import WANDB_SCRATCH, clear_scratch, home, scratch_owner, temporary_files_in

OTHERS_RUN = ("WANDB_SERVICE", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_RESUME_FROM", "WANDB_FORK_FROM")
"""Environment variables that would make a step's run a part or a continuation of another one."""


def import_wandb() -> Any:
    """The package ``wandb``, imported so that it prints nothing, writes within the home and follows no parent's run."""
    for name in OTHERS_RUN:
        os.environ.pop(name, None)
    os.environ["WANDB_SILENT"] = "true"  # before the import, which prints too
    if "wandb" not in sys.modules:
        atexit.register(clear_scratch)  # before wandb's own, and so called after them
        with temporary_files_in(own_scratch()):
            importlib.import_module("wandb.sdk.artifacts.artifact")
    import wandb

    return wandb


def own_scratch() -> Path:
    """The folder for what wandb keeps as long as this process lives, such as the socket to its own process."""
    folder = home() / WANDB_SCRATCH / f"{scratch_owner()}-wandb"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
