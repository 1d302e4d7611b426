"""The runner: the logs of its steps, and what steps in environments of their own are given."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import bccp
from bccp.core.errors import BCCPError
from bccp.pipeline import hydra_app, runner
from bccp.pipeline.step_runner import command_line
from support.stub_steps import FEW, QUIET, Stubs, run


@pytest.fixture
def stubs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    """Steps that cost nothing."""
    return Stubs(monkeypatch)


def test_every_step_that_runs_has_a_log_and_the_error_of_one_names_it(
    stubs: Stubs, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = run("main.execute_steps=[fetch_data,preprocessing]")
    folder = Path(summary["folder"])
    assert sorted(path.name for path in folder.glob("*.log")) == ["fetch_data.log", "preprocessing.log"]
    assert "finished after" in (folder / "fetch_data.log").read_text()
    assert not list(Path(run("main.execute_steps=[fetch_data,preprocessing]")["folder"]).glob("*.log"))  # all is reused

    stubs.failing = "segregation"
    capfd.readouterr()
    assert hydra_app.hydra_main([*QUIET, FEW]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    log = Path(last.partition("its log: ")[2].partition(")")[0])
    assert last == f"error: RuntimeError: segregation breaks (its log: {log}) (this is a fault in BCCP: please report it)"
    assert "segregation breaks" in log.read_text()

    def refuse(step: object) -> None:
        raise BCCPError("no: give another")

    monkeypatch.setattr(runner, "load_step", lambda name: type("Module", (), {"run": staticmethod(refuse)}))
    with pytest.raises(BCCPError, match=r"no: give another \(its log: .*/segregation\.log\)"):
        run(FEW)


def test_a_step_in_its_own_environment_gets_a_password_that_mlflow_does_not_record(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = "https://me:passw0rd@127.0.0.1:1/images.zip?token=t0ken"
    given: dict[str, str] = {}

    def start(folder: str, *, parameters: dict[str, str], **about: object) -> None:
        given.update(parameters)
        raise BCCPError("enough seen")

    monkeypatch.setattr("mlflow.projects.run", start)
    monkeypatch.setattr(runner.environments, "check_tool", lambda *_: None)
    monkeypatch.setattr(runner.environments, "prepare", lambda *_: None)
    with pytest.raises(BCCPError, match="enough seen"):
        bccp.run(
            [
                "data.source=archive",
                f"data.path='{address}'",
                f"data.sha256={'0' * 64}",
                "tracking.wandb=disabled",
                "main.env_manager=virtualenv",
            ]
        )
    assert "passw0rd" not in str(given)
    assert "t0ken" not in str(given)
    seen = []
    monkeypatch.setattr("bccp.pipeline.step_runner.execute", lambda run, *, section, **about: seen.append(section.path))
    monkeypatch.setattr(sys, "argv", ["run.py", *(f"--{name}={value}" for name, value in given.items())])
    command_line(runner.load_step("fetch_data").run)
    assert seen == [address]
