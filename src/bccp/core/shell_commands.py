"""Commands that are printed for the user to repeat: written so that a shell finds them."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

from bccp.core.redaction import redact


def shell_command(name: str) -> str:
    """Name a command of this environment as the user's shell finds it.

    Parameters
    ----------
    name : str
        A console script, such as ``bccp`` or ``mlflow``, which lies beside the running interpreter.

    Returns
    -------
    str
        The name alone where the shell's path leads to that script, else the script's whole path, quoted; without a script the interpreter
        with ``-m``. The path of a process that ``make`` has started does not count where no environment is active: the Makefile puts
        its own in front, and the shell that reads the command does not have it.
    """
    script = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    active = sys.prefix in (os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"))
    if found is not None and Path(found).absolute() == script.absolute() and (active or "MAKELEVEL" not in os.environ):
        return name
    if script.is_file():
        return shlex.quote(str(script))
    return f"{shlex.quote(sys.executable)} -m {name}"


def page_of_runs(uri: str) -> str:
    """Say how to see every run of a store.

    Parameters
    ----------
    uri : str
        Of the store.

    Returns
    -------
    str
        A server's address, or the command that opens MLflow's page. A password is not in it: where the URI has one, the command is that
        which takes the URI from the environment.
    """
    shown = str(redact(uri))
    if uri.startswith("http"):
        return shown
    if shown != uri:
        return f"{shell_command('bccp')} ui"
    return f"{shell_command('mlflow')} ui --backend-store-uri {shlex.quote(uri)}"
