"""Progress bars: where they are seen, and when they are gone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from bccp.core import progress

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
        assert progress.drawn_bars is not None
        return [(task.description, task.completed, task.total) for task in progress.drawn_bars.tasks if task.visible]

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
        assert progress.drawn_bars is not None
        assert [task.description for task in progress.drawn_bars.tasks] == ["outer", "  epochs"]
    assert (progress.drawn_bars, progress.bar_ids) == (None, {})
