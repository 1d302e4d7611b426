"""The steps' environments: built once, whole, and by one process at a time. A stand-in for ``uv`` builds them here, from nothing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bccp.core.errors import BCCPError
from bccp.core.processes import descendants, lives, terminable
from bccp.pipeline import environments
from support.uv_stand_in import Tool


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str], Path]:
    """Make a step's folder, or change what it requires."""

    def make(requirement: str) -> Path:
        folder = tmp_path / "step"
        folder.mkdir(exist_ok=True)
        (folder / "conda.yml").write_text(f"dependencies:\n  - python=3.11.7\n  - pip:\n      - {requirement}\n")
        return folder

    return make


def terminably_prepare(step: Path) -> None:
    """What the orchestrator does."""
    with terminable():
        environments.prepare(step, "uv")


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_environment_is_built_once_for_its_requirements_and_anew_for_others(tool: Tool, project: Callable[[str], Path]) -> None:
    step = project("impossible==1")
    with pytest.raises(BCCPError, match=rf"environment of the step step could not be built by main\.env_manager=uv from {step}/conda.yml"):
        environments.prepare(step, "uv")
    assert not environments.environment_folder(step, "uv").exists()

    first = environments.environment_folder(project("this==1"), "uv")
    environments.prepare(step, "uv")
    environments.prepare(step, "uv")
    assert tool.asked() == ["venv", "pip", *["venv", "pip", "end"]]
    assert (first / "bin" / "installed").read_text() == "this==1"

    second = environments.environment_folder(project("this==2"), "uv")
    environments.prepare(step, "uv")
    assert (second / "bin" / "installed").read_text() == "this==2"
    assert (first / "bin" / "installed").read_text() == "this==1"


@pytest.mark.slow
def test_two_that_want_it_at_once_build_it_once(tool: Tool, project: Callable[[str], Path], capfd: pytest.CaptureFixture[str]) -> None:
    step = project("this==1")
    place = environments.environment_folder(step, "uv")
    (place / "bin").mkdir(parents=True)
    (place / "bin" / "python").symlink_to("/nonexistent/python")  # whole once, but its Python was uninstalled since
    (place / environments.WHOLE).touch()
    tool.hold.touch()
    with ThreadPoolExecutor() as both:
        wanted = [both.submit(environments.prepare, step, "uv") for _ in range(2)]
        until(lambda: "waits for another process that builds its environment" in capfd.readouterr().out)
        assert not any(one.done() for one in wanted)
        tool.hold.unlink()
        for one in wanted:
            one.result(60)
    assert tool.asked() == ["venv", "pip", "end"]
    assert (place / "bin" / "python").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_build_ends_with_the_process_that_wants_it_and_half_an_environment_is_not_used(
    tool: Tool, project: Callable[[str], Path], number: int
) -> None:
    step = project("this==1")
    tool.hold.touch()
    wants = multiprocessing.get_context("fork").Process(target=terminably_prepare, args=(step,))
    wants.start()
    until(lambda: tool.asked() == ["venv", "pip"])
    children = descendants(wants.pid)
    assert len(children) >= 2
    os.kill(wants.pid, number)
    wants.join()
    until(lambda: not any(lives(*child) for child in children), 10 if number == signal.SIGKILL else 0)
    tool.hold.unlink()
    assert environments.environment_folder(step, "uv").exists()
    environments.prepare(step, "uv")
    assert tool.asked() == ["venv", "pip", *["venv", "pip", "end"]]


@pytest.mark.slow
def test_nothing_is_built_beside_what_a_killed_build_has_left_running(
    tool: Tool, project: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    step = project("this==1")
    tool.hold.touch()
    with ThreadPoolExecutor() as threads:
        killed = threads.submit(environments.prepare, step, "uv")
        until(lambda: tool.asked() == ["venv", "pip"])
        builder = next(
            pid for pid, _ in descendants(os.getpid()) if b"environments.build_environment" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        os.kill(builder, signal.SIGKILL)
        with pytest.raises(BCCPError, match="could not be built"):
            killed.result(60)
        again = threads.submit(environments.prepare, step, "uv")
        until(lambda: "waits for another process" in capfd.readouterr().out)
        tool.hold.unlink()
        again.result(60)
    assert tool.asked() == ["venv", "pip", "end"] * 2


@pytest.mark.slow
def test_conda_makes_its_environments_in_the_same_place(
    tool: Tool, project: Callable[[str], Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tool.folder / "conda").write_text(
        f"""#!/bin/sh
echo "$1-$2" >> {tool.log}
case "$1 $2" in
"env list") echo '{{"envs": []}}' ;;
"env create") mkdir -p "$CONDA_ENVS_PATH/$4/bin" && touch "$CONDA_ENVS_PATH/$4/bin/python" ;;
esac
"""
    )
    (tool.folder / "conda").chmod(0o755)
    monkeypatch.setenv("CONDA_ENVS_PATH", "elsewhere")
    monkeypatch.delenv("CONDA_EXE", raising=False)
    step = project("this==1")
    for _ in range(2):
        environments.prepare(step, "conda")
    assert tool.asked().count("env-create") == 1
    assert environments.environment_folder(step, "conda").parent == home / "envs"


@pytest.mark.parametrize(("manager", "command"), [("virtualenv", "pyenv"), ("uv", "uv"), ("conda", "conda")])
def test_a_missing_tool_is_told(manager: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CONDA_EXE", raising=False)
    with pytest.raises(BCCPError, match=rf"main\.env_manager={manager} needs the command {command} on PATH: install it or use"):
        environments.check_tool(manager)
    environments.check_tool("local")


def test_a_steps_own_environment_imports_a_wheels_package_and_none_of_its_neighbours(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with environments.package_folder() as beside:
        assert beside is None  # the checkout's steps have it beside them
    installed = tmp_path / "site-packages"
    for name in ("bccp", "numpy"):
        (installed / name).mkdir(parents=True)
    monkeypatch.setattr(environments, "PACKAGE", installed / "bccp")
    monkeypatch.setattr(environments, "ROOT", installed / "bccp" / "project")
    with environments.package_folder() as folder:
        assert folder is not None
        assert [path.resolve() for path in Path(folder).iterdir()] == [installed / "bccp"]
    assert not Path(folder).exists()
    assert (installed / "bccp").is_dir()
