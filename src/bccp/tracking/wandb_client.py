"""Connections to Weights & Biases: the login, the API, and the start of a run."""

from __future__ import annotations

import netrc
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlparse

from bccp.core.errors import BCCPError
from bccp.core.home import temporary_files_in
from bccp.core.redaction import first_line
from bccp.core.runtime.wandb_import import import_wandb, own_scratch

ANSWER_SECONDS = 15
"""How long W&B may take for an answer, where it is only asked for something."""


def start_run(*, settings: Mapping[str, Any], **about: Any) -> Any:
    """``wandb.init`` that tells nothing of this machine, prints nothing, and gives up in time."""
    wandb = import_wandb()
    quiet = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        host="",
        program="",
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        finish_timeout_raises=True,
        reinit="create_new",
        **settings,
    )
    with warnings.catch_warnings(), temporary_files_in(own_scratch()):
        warnings.simplefilter("ignore")  # of libraries that wandb imports, about themselves
        return wandb.init(settings=quiet, **about)


def resolve_mode(configured: str) -> str:
    """Turn ``auto`` into ``online`` where a key or a login exists, else ``offline``.

    Raises
    ------
    BCCPError
        If ``online`` is asked for without a key or login.
    """
    if configured not in ("auto", "online"):
        return configured
    if os.environ.get("WANDB_MODE") in ("offline", "disabled") and configured == "auto":
        return os.environ["WANDB_MODE"]
    if has_login():
        return "online"
    if configured == "online":
        raise BCCPError("tracking.wandb=online needs a key: set WANDB_API_KEY or run `wandb login`, or use tracking.wandb=offline")
    return "offline"


def has_login() -> bool:
    """Whether there is a key for W&B, or a login."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc
    try:
        return netrc.netrc().authenticators(host.partition(":")[0]) is not None or netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def absent(error: BaseException) -> bool:
    """Whether W&B says with this error that it does not have an artifact (rather than that something went wrong)."""
    return re.search(r"not found|does not exist|Unable to fetch artifact", str(error)) is not None


def open_api() -> Any:
    """W&B's interface for reading, which gives up in time.

    Raises
    ------
    BCCPError
        If W&B does not answer, or takes neither key nor login.
    """
    wandb = import_wandb()
    try:
        with temporary_files_in(own_scratch()):
            return wandb.Api(timeout=ANSWER_SECONDS)
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise BCCPError(f"W&B does not answer ({first_line(error)}): check the network, and WANDB_API_KEY or `wandb login`") from error
