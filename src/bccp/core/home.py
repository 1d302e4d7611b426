"""The project's home, ``BCCP_HOME``: everything that is written lies under it."""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bccp.core.errors import BCCPError
from bccp.core.paths import expanded
from bccp.core.processes import lives, process_start

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_ERROR_REPORTING": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Environment variables that keep the libraries from telling anybody anything, and the terminal too much."""

PLACES = {
    "WANDB_DIR": ".",
    "WANDB_DATA_DIR": "wandb/data",
    "WANDB_CACHE_DIR": "wandb/cache",
    "WANDB_CONFIG_DIR": "wandb/config",
    "WANDB_ARTIFACT_DIR": "wandb/artifacts",
    "KAGGLEHUB_CACHE": "data/kaggle",
    "MPLCONFIGDIR": "cache/matplotlib",
    "MLFLOW_ENV_ROOT": "envs",
    "TORCH_HOME": "cache/torch",
}
"""Environment variables that tell libraries where to write, and the place under the home that each gets."""

_KEEPING = ("artifacts", "cache", "incoming", "outputs")
"""Folders of the home whose paths are recorded elsewhere."""

WANDB_SETTINGS = Path("~/.config/wandb/settings")
"""Where `wandb login` leaves the user's settings, unless ``WANDB_CONFIG_DIR`` says otherwise."""

WANDB_SCRATCH = "wandb/tmp"
"""Where the temporary folders of the wandb package go, under the home, each below a folder of its process (:func:`scratch_owner`)."""


def home() -> Path:
    """The home's folder, made where it is missing; ``~/.bccp`` unless ``BCCP_HOME`` says otherwise.

    Raises
    ------
    BCCPError
        If it cannot be made or written to, or has a name that no store can have.
    """
    given = os.environ.get("BCCP_HOME", "")
    try:
        folder = expanded(given or "~/.bccp").resolve()
    except BCCPError as error:
        raise BCCPError(f"{'BCCP_HOME=' if given else 'the home '}{error}, in BCCP_HOME") from error
    if "?" in str(folder):
        raise BCCPError(f"BCCP_HOME={folder} has a question mark, which a database's address ends at: set it to a folder without")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BCCPError(f"BCCP_HOME={folder} cannot be made ({error.strerror}): set it to a folder you may write to") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise BCCPError(f"BCCP_HOME={folder} cannot be written to: set it to a folder you may write to")
    return folder


def keep_within_home() -> None:
    """Set the environment so that no library writes outside the home or phones anywhere; an empty variable of theirs counts as unset."""
    folder = home()
    for name in [*os.environ]:
        if (name in QUIET or name in PLACES or name.startswith("WANDB_")) and not os.environ[name].strip():
            del os.environ[name]
    if _no_home_folder():  # which libraries would look for
        os.environ["HOME"] = str(folder)
    if WANDB_SETTINGS.expanduser().is_file():  # of `wandb login`, which says there which server it is for; they are only read
        os.environ.setdefault("WANDB_CONFIG_DIR", str(WANDB_SETTINGS.expanduser().parent))
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name, place in PLACES.items():
        os.environ.setdefault(name, str(folder / place))


def _no_home_folder() -> bool:
    """Return True where neither the environment nor the system names a home folder for this user."""
    try:
        Path.home()
    except RuntimeError:
        return True
    return False


def moved_along(recorded: str) -> Path:
    """A place in the home that was recorded before the home was moved, renamed or copied, where it is now.

    Parameters
    ----------
    recorded : str
        An absolute path.

    Returns
    -------
    Path
        The path itself where it lies in this home, or nothing in this home answers to it.
    """
    path, own = Path(recorded), home()
    if not path.is_relative_to(own):
        for depth, name in enumerate(path.parts):
            if name in _KEEPING and (place := own.joinpath(*path.parts[depth:])).exists():
                return place
    return path


def scratch_owner() -> str:
    """Host, id and start of this process: how the names of scratch folders begin.

    By them :func:`abandoned` can tell what a killed process left behind.
    """
    return f"{socket.gethostname()}@{os.getpid()}.{process_start(os.getpid())}"


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """A folder under the home that is gone afterwards, whatever happens."""
    parent = home() / "tmp"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{scratch_owner()}-{purpose}-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def discard(path: Path) -> None:
    """Delete a file or folder, of which others see all or nothing; one that is gone is left so."""
    if path.exists():
        with scratch("discarded") as away:
            path.rename(away / "it")


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Let temporary files of this process, and of those that it starts in the block, lie in a folder."""
    before, place = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if place is not None:
            os.environ["TMPDIR"] = place


def checkpoint_path(name: str, key: str) -> Path:
    """Where the work of a name and key keeps what it has come to until it is finished; the file may not be there."""
    return home() / "checkpoints" / f"{name}-{key[:32]}.pt"


def clear_scratch() -> None:
    """Delete this process's scratch folders, those too that last as long as it does."""
    with suppress(BCCPError):  # a home that cannot be written holds none
        for folder in _scratch_folders(f"{glob.escape(scratch_owner())}-*"):
            shutil.rmtree(folder, ignore_errors=True)


def sweep_scratch() -> None:
    """Delete the scratch folders of this host's processes that are no more; other hosts may use the same home."""
    for folder in _scratch_folders("*-*"):
        if abandoned(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def abandoned(name: str) -> bool:
    """Whether a name that begins with a :func:`scratch_owner` is that of a process of this host that is no more."""
    owner = re.match(r"(.+)@(\d+)\.(\w*)", name)
    return owner is not None and owner[1] == socket.gethostname() and not lives(int(owner[2]), owner[3])


def _scratch_folders(pattern: str) -> list[Path]:
    return [*(home() / "tmp").glob(pattern), *(home() / WANDB_SCRATCH).glob(pattern)]
