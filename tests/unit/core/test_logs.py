"""What a step leaves to read afterwards (its log), and what is to be seen while it runs (bars on a terminal)."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from bccp.core import logs, progress
from bccp.core.errors import BCCPError
from bccp.pipeline import hydra_app, runner
from support import stub_steps

Stubs = stub_steps.Stubs

LOOP = """
import sys
from bccp.core import logs, progress
with progress.display("train", done=6, total=8):
    for epoch in (1, 2, 3):
        progress.show("epochs", epoch, 3)
        logs.emit(f"  epoch {epoch}")
    logs.emit("[bold] " + "a/path " * 30)
print("rich" in sys.modules)
"""


@pytest.fixture
def stubs(home: Path, monkeypatch: pytest.MonkeyPatch) -> Stubs:
    """Steps that cost nothing."""
    return Stubs(monkeypatch)


def test_a_log_has_what_is_said_logged_and_warned_of_and_the_error_but_no_password(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run" / "train.log"

    def work() -> None:
        logs.emit("  train: from https://me:passw0rd@host/x")
        logging.getLogger("a.library").warning("is near")
        logging.getLogger("a.library").debug("a detail")
        warnings.warn("is old", FutureWarning, stacklevel=1)
        raise ValueError("too far")

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="too far"), logs.logged(path):
            work()
        logs.emit("afterwards")
        logging.getLogger("a.library").warning("afterwards")
    text = path.read_text(encoding="utf-8")
    parts = (
        "INFO bccp.said: train: from https://host/x\n",
        "WARNING a.library: is near\n",
        "FutureWarning: is old",
        "Traceback",
        "ValueError: too far",
    )
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert not any(word in text for word in ("passw0rd", "afterwards", "a detail"))
    assert capsys.readouterr().out == "  train: from https://me:passw0rd@host/x\nafterwards\n"
    assert [str(one.message) for one in shown] == ["is old"]  # it is shown all the same


def test_a_log_that_cannot_be_written_is_done_without(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").touch()
    for path in (tmp_path / "run" / "train.log", Path("/dev/full"), None):
        with logs.logged(path):
            logs.emit("said")
    assert capfd.readouterr() == ("said\n" * 3, "")


def test_every_step_that_runs_has_a_log_and_the_error_of_one_names_it(
    stubs: Stubs, home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = stub_steps.run("main.execute_steps=[fetch_data,preprocessing]")
    folder = Path(summary["folder"])
    assert sorted(path.name for path in folder.glob("*.log")) == ["fetch_data.log", "preprocessing.log"]
    assert "finished after" in (folder / "fetch_data.log").read_text()
    assert not list(Path(stub_steps.run("main.execute_steps=[fetch_data,preprocessing]")["folder"]).glob("*.log"))  # all is reused

    stubs.failing = "segregation"
    capfd.readouterr()
    assert hydra_app.hydra_main([*stub_steps.QUIET, stub_steps.FEW]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    log = Path(last.partition("its log: ")[2].partition(")")[0])
    assert last == f"error: RuntimeError: segregation breaks (its log: {log}) (this is a fault in BCCP: please report it)"
    assert "segregation breaks" in log.read_text()

    def refuse(step: object) -> None:
        raise BCCPError("no: give another")

    monkeypatch.setattr(runner, "load_step", lambda name: type("Module", (), {"run": staticmethod(refuse)}))
    with pytest.raises(BCCPError, match=r"no: give another \(its log: .*/segregation\.log\)"):
        stub_steps.run(stub_steps.FEW)


def looked_at(command: list[str]) -> str:
    """What a command writes on a terminal."""
    mine, its = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        shown = b""
        try:
            while part := os.read(mine, 4096):
                shown += part
        except OSError:  # how Linux says that the other end is closed
            pass
        os.close(mine)
    assert process.returncode == 0, shown
    return shown.decode()


def test_a_terminal_sees_bars_and_lines_above_them_and_everything_else_only_the_lines() -> None:
    shown = looked_at([sys.executable, "-c", LOOP])
    assert all(part in shown for part in ("train", "6/8", "epochs", "1/3"))
    assert [line for line in ("  epoch 1", "  epoch 2", "  epoch 3", "True") if line in shown] == [
        "  epoch 1",
        "  epoch 2",
        "  epoch 3",
        "True",
    ]
    assert "[bold] " + ("a/path " * 30).rstrip() in shown  # not broken, though the terminal is 100 letters wide
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    plain = subprocess.run([sys.executable, "-c", LOOP], capture_output=True, text=True, check=True, env=environment)
    assert (plain.stdout, plain.stderr) == (f"  epoch 1\n  epoch 2\n  epoch 3\n[bold] {'a/path ' * 30}\nFalse\n", "")


def test_the_bar_of_a_loop_is_gone_at_its_end_and_there_again_with_the_next_such_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "on_terminal", lambda: True)

    def seen() -> list[tuple[str, float, float | None]]:
        assert progress._display is not None
        return [(task.description, task.completed, task.total) for task in progress._display.tasks if task.visible]

    step = ("train", 6, 8)
    with progress.display("train", done=6, total=8):
        progress.show("epochs", 2, 3)
        progress.show("images", 5, 9)
        assert seen() == [step, ("  epochs", 2, 3), ("  images", 5, 9)]
        progress.show("epochs", 3, 3)
        assert seen() == [step, ("  images", 5, 9)]
        progress.show("epochs", 1, 4)  # of another round
        assert seen() == [step, ("  epochs", 1, 4), ("  images", 5, 9)]


def test_a_display_within_another_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    with progress.display("outer", done=0, total=2):
        with progress.display("inner", done=0, total=2):
            progress.show("epochs", 1, 2)
        assert progress._display is not None
        assert [task.description for task in progress._display.tasks] == ["outer", "  epochs"]
    assert (progress._display, progress._tasks) == (None, {})
