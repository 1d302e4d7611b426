"""Connections to Weights & Biases: the login, the API, and the start of a run."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bccp.core.errors import BCCPError
from bccp.core.home import PLACES, QUIET, keep_within_home, temporary_files_in
from bccp.core.proxies import proxy_note
from bccp.core.redaction import first_line
from bccp.core.runtime.wandb_import import OTHERS_RUN, import_wandb, own_scratch

ANSWER_SECONDS = 15
"""How long W&B may take for an answer, where it is only asked for something."""


def start_run(*, settings: Mapping[str, Any], **about: Any) -> Any:
    """``wandb.init`` that tells nothing of this machine, prints nothing, and gives up in time.

    Raises
    ------
    BCCPError
        If wandb refuses a value that it was given.
    """
    wandb = import_wandb()
    try:
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
    except (wandb.errors.UsageError, ValueError) as error:
        raise BCCPError(
            f"wandb refuses to begin a run ({_reason(error)}): correct its environment variables, or use tracking.wandb=disabled"
        ) from error


def resolve_mode(configured: str) -> str:
    """Turn ``auto`` into ``online`` where a key or a login exists, else ``offline``.

    Raises
    ------
    BCCPError
        If ``online`` is asked for without a key or login, or wandb would refuse a key or one of its environment variables.
    """
    if configured == "disabled":
        return configured
    keep_within_home()
    mode = _MODES.get(os.environ.get("WANDB_MODE", ""), "online")
    if configured == "auto" and mode == "disabled":
        return mode
    check_variables()
    if configured == "offline":
        return configured
    if configured == "auto" and "WANDB_MODE" not in os.environ and any(path.is_file() for path in _settings_files()):
        mode = _MODES.get(_settings().mode, "online")
    if configured == "auto" and mode != "online":
        return mode
    if has_login():
        return "online"
    if configured == "online":
        raise BCCPError("tracking.wandb=online needs a key: set WANDB_API_KEY or run `wandb login`, or use tracking.wandb=offline")
    return "offline"


_MODES = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""What wandb's own modes mean here, beside ``online``."""

_FREE = frozenset({
    *("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_ENTITY", "WANDB_NOTES", "WANDB_RUN_GROUP", "WANDB_JOB_TYPE", "WANDB_SILENT"),
    *OTHERS_RUN,
})  # fmt: skip
"""Environment variables that may hold any text, are looked at elsewhere, or are not heeded."""


def check_variables() -> None:
    """Refuse values of environment variables that wandb would refuse when the first step begins.

    wandb is imported only where one is set that can be wrong.

    Raises
    ------
    BCCPError
        For the first of them, by name.
    """
    keep_within_home()
    names = [name for name in os.environ if name.startswith("WANDB_") and name not in {*_FREE, *PLACES, *QUIET}]
    if os.environ.get("WANDB_MODE", "online") in ("online", *_MODES):
        names = [name for name in names if name != "WANDB_MODE"]
    if not names:
        return
    wandb = import_wandb()
    for name in sorted(names):
        try:
            wandb.Settings().update_from_env_vars({name: os.environ[name]})
        except (wandb.errors.UsageError, ValueError) as error:
            raise BCCPError(f"the environment variable {name} is refused by wandb ({_reason(error)}): correct it, or unset it") from error


def _reason(error: Exception) -> str:
    """Explain in one line why wandb refuses a value; the value may be secret, and is not in what pydantic says in short."""
    said = error.errors()[0]["msg"] if hasattr(error, "errors") else first_line(error)
    return str(said).removeprefix("Value error, ").rstrip(".")


def has_login() -> bool:
    """Return True where wandb has a key or a login for the server that it would talk to; it is imported only where there may be one.

    Raises
    ------
    BCCPError
        If wandb refuses the key.
    """
    keep_within_home()
    given = os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE")
    netrc = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    if not given and not any(path.is_file() for path in (*map(_expanded, netrc), *_settings_files())):
        return False
    errors = import_wandb().errors
    from wandb.sdk.lib import wbauth  # what `wandb.init` asks, too: whose netrc entry counts for which server changes with its releases

    try:
        return wbauth.authenticate_session(host=_settings().base_url, source="bccp", prompt=False, update_session=False) is not None
    except (errors.Error, ValueError, OSError) as error:
        raise BCCPError(
            f"the key for W&B is refused by wandb ({_reason(error)}): correct WANDB_API_KEY or run `wandb login` again, or use "
            "tracking.wandb=offline"
        ) from error


def no_answer(error: BaseException) -> str:
    """Explain in one line why W&B does not answer, with the proxy that is asked."""
    return first_line(error) + proxy_note(_settings().base_url)


def _settings_files() -> list[Path]:
    """Files of settings of wandb, of the user and of the home; they may not be there."""
    return [Path(os.environ["WANDB_CONFIG_DIR"]) / "settings", Path(os.environ["WANDB_DIR"]) / "wandb" / "settings"]


def _settings() -> Any:
    """Settings of wandb, as its files and the environment have them."""
    import_wandb()
    from wandb.sdk import wandb_setup

    return wandb_setup.singleton().settings


def _expanded(path: str) -> Path:
    return Path(os.path.expanduser(path))  # noqa: PTH111  Path.expanduser raises where there is no home folder


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
        raise BCCPError(f"W&B does not answer ({no_answer(error)}): check the network, and WANDB_API_KEY or `wandb login`") from error
