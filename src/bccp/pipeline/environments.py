"""The steps' own environments: each is built once, by one process at a time, and used only when it is whole.

MLflow names an environment after its requirements, so that steps with the same ones share it and changed ones get another. But it takes
whatever lies under that name for whole, also what a killed build has left or another process still fills. So they are built here, by
MLflow's own functions, before it looks.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess  # nosec B404
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bccp.core.errors import BCCPError
from bccp.core.home import scratch
from bccp.core.paths import PACKAGE, ROOT
from bccp.core.processes import callers, end_with

WHOLE = "bccp-whole"
"""The file in an environment that says that its build came to its end, and where; and by its date when it was last used."""

_BUILD = (
    "import sys; sys.path.insert(0, sys.argv[1]); from bccp.pipeline import environments; environments.build_environment(*sys.argv[2:])"
)


def check_tool(manager: str) -> None:
    """Refuse a manager whose command is missing.

    Parameters
    ----------
    manager : str
        ``local``, ``virtualenv``, ``uv`` or ``conda``.

    Raises
    ------
    BCCPError
        If the command is not on PATH.
    """
    tool = {"virtualenv": "pyenv", "uv": "uv", "conda": "conda"}.get(manager)
    if tool == "conda":
        from mlflow.utils.conda import get_conda_bin_executable

        # beside CONDA_EXE: many have conda as a function of their shell only
        tool = str(get_conda_bin_executable(tool))  # type: ignore[no-untyped-call]
    if tool and not shutil.which(tool):
        raise BCCPError(f"main.env_manager={manager} needs the command {tool} on PATH: install it or use main.env_manager=local")


def environment_folder(project: Path, manager: str) -> Path:
    """The folder of a step's environment, where MLflow looks for it.

    Parameters
    ----------
    project : Path
        The step's folder, with its ``conda.yml``.
    manager : str
        ``virtualenv``, ``uv`` or ``conda``.
    """
    from mlflow.utils.conda import _get_conda_env_name
    from mlflow.utils.environment import _PythonEnv
    from mlflow.utils.virtualenv import _get_virtualenv_name

    root, described = Path(os.environ["MLFLOW_ENV_ROOT"]), str(project / "conda.yml")
    if manager == "conda":
        return root / _get_conda_env_name(described)  # type: ignore[no-untyped-call,no-any-return]
    return root / _get_virtualenv_name(_PythonEnv.from_conda_yaml(described), project)  # type: ignore[no-untyped-call,no-any-return]


def prepare(project: Path, manager: str) -> None:
    """Build a step's environment where there is none, or only half of one.

    The build is a process of its own, and its standard input, which all that it starts inherits, is the lock's file: the lock is free
    when the last of them has ended, also where this process or the build itself is killed and leaves, say, pip behind.

    Parameters
    ----------
    project : Path
        The step's folder, with its ``conda.yml``.
    manager : str
        ``virtualenv``, ``uv`` or ``conda``.

    Raises
    ------
    BCCPError
        If it cannot be built.
    """
    if manager == "conda":
        os.environ["CONDA_ENVS_PATH"] = os.environ["MLFLOW_ENV_ROOT"]
    folder = environment_folder(project, manager)
    if _whole(folder):
        (folder / WHOLE).touch()
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-c", _BUILD, str(PACKAGE.parent), str(project), manager]
    with (
        folder.with_name(f"{folder.name}.lock").open("a+") as lock,
        subprocess.Popen(command, stdin=lock, start_new_session=True) as builder,  # nosec B603
    ):
        try:
            status = builder.wait()
        except BaseException:
            builder.terminate()
            raise
    if status:
        raise BCCPError(
            f"the environment of the step {project.name} could not be built by main.env_manager={manager} from {project / 'conda.yml'}: "
            "see the message above"
        )


def build_environment(project_folder: str, manager: str) -> None:
    """What the process does that :func:`prepare` starts: it waits for the lock and builds, unless another has done so meanwhile.

    It ends with all that it has started when it is told to, or when the process that wants the environment has ended.
    """
    import fcntl

    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    end_with(callers())
    os.environ.pop("PYTHONPATH", None)  # pip would leave out what it finds there
    from mlflow.utils.conda import get_or_create_conda_env
    from mlflow.utils.environment import _PythonEnv
    from mlflow.utils.virtualenv import _create_virtualenv

    project = Path(project_folder)
    folder, described = environment_folder(project, manager), str(project / "conda.yml")
    try:
        fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"  {project.name}: waits for another process that builds its environment", flush=True)
        fcntl.flock(0, fcntl.LOCK_EX)
    if _whole(folder):
        return
    print(f"  {project.name}: its environment is built, {folder}", flush=True)
    try:
        if folder.exists():
            shutil.rmtree(folder)
        if manager == "conda":
            get_or_create_conda_env(described)  # type: ignore[no-untyped-call]
        else:
            python_env = _PythonEnv.from_conda_yaml(described)  # type: ignore[no-untyped-call]
            _create_virtualenv(project, python_env, folder, env_manager="uv" if manager == "uv" else "virtualenv")
        (folder / WHOLE).write_text(str(folder), encoding="utf-8")
    except Exception as error:
        sys.exit(str(error))


@contextmanager
def package_folder() -> Iterator[str | None]:
    """Provide a folder through which a step's own environment imports this package and no other; None in a checkout.

    A wheel's package lies among all those of its environment, which would hide the step's.
    """
    if PACKAGE.parent == ROOT / "src":
        yield None
        return
    with scratch("package") as folder:
        (folder / PACKAGE.name).symlink_to(PACKAGE, target_is_directory=True)
        yield str(folder)


def _whole(folder: Path) -> bool:
    """Return True where the build has come to its end, and here (its scripts name the place), and its Python is still there."""
    mark, scripts = folder / WHOLE, folder / "bin" / "activate"
    if not mark.is_file() or not (folder / "bin" / "python").exists():
        return False
    if built := mark.read_text(encoding="utf-8"):
        return built == str(folder)
    return not scripts.is_file() or str(folder) in scripts.read_text(encoding="utf-8")  # an earlier version did not note the place
