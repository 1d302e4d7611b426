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


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "clock", clock)
    return clock


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed where nobody looks on."""
    lines: list[str] = []
    monkeypatch.setattr(progress, "on_terminal", lambda: False)
    monkeypatch.setattr(progress, "line", lines.append)
    return lines


def test_off_a_terminal_a_line_every_30_seconds_tells_how_far_loops_are_and_how_long_they_take(clock: Clock, printed: list[str]) -> None:
    with progress.display("bayes_cutoff", done=0, total=1):
        for _ in progress.each("fold", ["a", "b", "c"]):
            for epoch in range(1, 21):
                clock.now += 2
                progress.show("epochs", epoch, 20)
    assert printed == [
        "  fold 1 of 3; epochs 15 of 20, about 10 s left",  # after 30 s; how long a fold takes is not known yet
        "  fold 2 of 3, about 60 s left; epochs 10 of 20, about 20 s left",
        "  fold 3 of 3, about 30 s left; epochs 5 of 20, about 30 s left",
        "  fold 3 of 3, about 5 s left",  # after 120 s the epochs are over, and the fold nearly
    ]


def test_what_takes_less_than_30_seconds_is_silent_and_so_is_what_is_no_step(clock: Clock, printed: list[str]) -> None:
    with progress.display("train", done=0, total=1):
        for done in range(10):
            clock.now += 2.9
            progress.show("files", done, 10)
    for done in range(10):  # a library's loop, called by somebody else
        clock.now += 100
        progress.show("images", done, 10)
    with progress.display("test", done=0, total=1):
        clock.now += 100
        progress.show("images", 10, 10)  # over when it is first heard of
    assert printed == []
    assert (progress.loops, progress.said_at) == ({}, None)


def test_many_short_loops_are_not_silent_for_ever(clock: Clock, printed: list[str]) -> None:
    with progress.display("train", done=0, total=1):
        for _ in range(4):
            for done in range(11):
                clock.now += 2
                progress.show("images judged", done, 10)
    assert printed == [f"  images judged {done} of 10, about {left} s left" for done, left in ((3, 15), (7, 5))]


def test_the_time_left_counts_down_between_two_turns_and_grows_where_one_takes_longer(clock: Clock) -> None:
    loop = progress.Loop("folds", 4, is_numbered=False, began=0.0, first=0, done=0, reached=0.0)
    assert loop.left(500) == ""
    loop.done, loop.reached = 1, 60.0
    assert [loop.left(now) for now in (60, 80, 110)] == ["about 3 min left", "about 3 min left", "about 2 min left"]
    # the second one takes 10 minutes already: two more like the mean of both
    assert loop.left(660) == "about 10 min left"
    late = progress.Loop("images", 100, is_numbered=False, began=0.0, first=50, done=75, reached=100.0)  # half was there already
    assert late.left(100) == "about 2 min left"


def test_a_loop_that_starts_again_is_another_one(clock: Clock, printed: list[str]) -> None:
    with progress.display("train", done=0, total=1):
        for seconds, epoch in ((1, 0), (10, 1), (1, 0), (31, 1)):  # the first one has stopped without a word
            clock.now += seconds
            progress.show("epochs", epoch, 3)
    assert printed == ["  epochs 1 of 3, about 60 s left"]


def test_a_loop_that_is_left_early_is_over(clock: Clock, printed: list[str]) -> None:
    with progress.display("train", done=0, total=1):
        for number in progress.each("try", range(5)):
            if number == 1:
                break
        assert progress.loops == {}
        with pytest.raises(ZeroDivisionError):
            sum(1 / number for number in progress.each("fold", range(3)))
        assert list(progress.each("nothing", [])) == []
        assert progress.loops == {}


def test_a_bar_tells_the_turn_that_runs_and_the_time_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    seen = []
    with progress.display("bayes_cutoff", done=4, total=8):
        for _ in progress.each("fold", range(3)):
            assert progress.drawn_bars is not None
            fold = progress.drawn_bars.tasks[1]
            seen.append((fold.description, fold.completed, fold.total, fold.fields["left"]))
            clock.now += 50
        assert not progress.drawn_bars.tasks[1].visible
    assert seen == [("  fold 1 of 3", 0, 3, ""), ("  fold 2 of 3", 1, 3, "about 2 min left"), ("  fold 3 of 3", 2, 3, "about 50 s left")]
