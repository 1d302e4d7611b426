"""Steps in environments of their own, built by MLflow from their `conda.yml` files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import bccp

STEPS = "main.execute_steps=[fetch_data,preprocessing,segregation,noisy_labels]"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pyenv") is None, reason="MLflow's virtualenv manager needs pyenv")
def test_steps_in_environments_of_their_own_make_what_they_make_here(home: Path, root: Path) -> None:
    command = [sys.executable, str(root / "main.py"), STEPS, "main.env_manager=virtualenv", "tracking.wandb=disabled"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow calls the virtualenv command
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env={**os.environ, "PATH": path}, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (isolated,) = (json.loads(path.read_text()) for path in (home / "outputs").rglob("summary.json"))
    here = bccp.run([STEPS, "tracking.wandb=disabled"])
    assert [step["status"] for step in isolated["steps"][:4]] == ["ran"] * 4
    assert [step["outputs"] for step in isolated["steps"]] == [step["outputs"] for step in here["steps"]]
    packages = {path.name for path in (home / "envs").rglob("site-packages/*")}
    assert "pandas" in packages
    assert "torch" not in packages


def test_a_missing_tool_is_told_before_anything_starts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(bccp.errors.BCCPError, match=r"main\.env_manager=uv needs the command uv on PATH"):
        bccp.run([STEPS, "main.env_manager=uv"])
    assert not (home / "artifacts").exists()
