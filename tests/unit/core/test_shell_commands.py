"""Commands that are printed: found by the shell of whoever reads them."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from bccp.core.shell_commands import page_of_runs, shell_command


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment's folder of scripts, which is not on the path."""
    place = tmp_path / "an environment" / "bin"
    place.mkdir(parents=True)
    for name in ("python", "bccp", "mlflow"):
        (place / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("MAKELEVEL", "VIRTUAL_ENV", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    return place


def test_a_command_is_named_alone_only_where_the_path_leads_to_it(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shlex.split(shell_command("bccp")) == [str(environment / "bccp")]
    (tmp_path / "bccp").touch(mode=0o755)  # of another environment
    assert shlex.split(shell_command("bccp")) == [str(environment / "bccp")]
    monkeypatch.setenv("PATH", str(environment))
    assert shell_command("bccp") == "bccp"
    monkeypatch.setenv("MAKELEVEL", "1")  # the Makefile has put the environment on its own path only
    assert shlex.split(shell_command("bccp")) == [str(environment / "bccp")]
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    assert shell_command("bccp") == "bccp"
    (environment / "mlflow").unlink()
    assert shlex.split(shell_command("mlflow")) == [str(environment / "python"), "-m", "mlflow"]


def test_the_page_of_all_runs_is_reached_literally(environment: Path, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/my home/mlflow.db"
    command = shlex.split(page_of_runs(uri))
    assert command == [str(environment / "mlflow"), "ui", "--backend-store-uri", uri]
    assert shutil.which(command[0])
    assert page_of_runs("http://127.0.0.1:5000") == "http://127.0.0.1:5000"
    # a password is not printed, and a command without it would not work
    assert shlex.split(page_of_runs("postgresql://me:secret@host/db")) == [str(environment / "bccp"), "ui"]
