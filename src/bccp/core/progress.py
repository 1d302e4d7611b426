"""How far a step and its loops are, and about how long they still take: bars on a terminal, elsewhere a line now and then.

Without a terminal nothing is imported for it. Only within :func:`display`, in which a step is run, is anything said: where somebody else
calls the same functions they are silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

T = TypeVar("T")

LINE_SECONDS = 30.0
"""Time between two lines where no bars are drawn; nothing is said of what takes less."""

clock = time.monotonic

drawn_bars: Progress | None = None
bar_ids: dict[str, TaskID] = {}
loops: dict[str, Loop] = {}
"""Those that run, the outermost first."""

said_at: float | None = None
"""Time of the last line; None where no lines are printed."""


@dataclass
class Loop:
    """A loop that runs.

    Attributes
    ----------
    text : str
        Name of its turns, as in "epochs".
    total : int
        Number of turns.
    is_numbered : bool
        The text names one turn, as in "fold", and the turn that runs is told rather than those that are done.
    began : float
        Time at which it was first heard of, in seconds.
    first, done : int
        Turns that were done then, and that are done now.
    reached : float
        Time at which the last turn was done.
    """

    text: str
    total: int
    is_numbered: bool
    began: float
    first: int
    done: int
    reached: float

    def place(self) -> str:
        """Say how far it is."""
        return f"{self.text} {min(self.done + self.is_numbered, self.total)} of {self.total}"

    def left(self, now: float) -> str:
        """Say about how long it still takes; empty until a turn has shown how long one takes."""
        turns, to_do = self.done - self.first, self.total - self.first
        if turns <= 0:
            return ""
        # turns are taken to be equally long, and the one that runs is not over yet
        whole = max((self.reached - self.began) * to_do / turns, (now - self.began) * to_do / (turns + 1))
        return f"about {duration(max(0.0, whole - (now - self.began)))} left"


def duration(seconds: float) -> str:
    """A time as people say it.

    Examples
    --------
    >>> duration(3), duration(42), duration(130), duration(1900), duration(9000)
    ('5 s', '40 s', '2 min', '30 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5)) if seconds < 30 else 10 * round(seconds / 10)} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{round(minutes) if minutes < 10 else 5 * round(minutes / 5)} min"
    return f"{round(2 * minutes / 60) / 2:g} h"


def on_terminal() -> bool:
    """Whether somebody looks on: both streams go to a terminal."""
    return drawn_bars is not None or (sys.stdout.isatty() and sys.stderr.isatty())


@contextmanager
def display(text: str, *, done: int, total: int) -> Iterator[None]:
    """Say within the block how far loops are: by bars, with one that says ``text``, or by lines. What is printed appears above the bars."""
    global drawn_bars, said_at
    if drawn_bars is not None or said_at is not None:
        yield
        return
    if not on_terminal():
        said_at = clock()
        try:
            yield
        finally:
            loops.clear()
            said_at = None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    words = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[left]}", markup=False)
    with Progress(words[0], BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), words[1], transient=True) as drawn_bars:
        drawn_bars.add_task(text, total=total, completed=done, left="")
        try:
            yield
        finally:
            loops.clear()
            bar_ids.clear()
            drawn_bars = None


def show(text: str, done: int, total: int) -> None:
    """Say how far a loop is: by a bar of its own until it or its step has come to its end, or by a line where the last one is long ago.

    Parameters
    ----------
    text : str
        Name of the loop's turns; a loop of the same name that starts again is another one.
    done, total : int
        Turns. A loop whose first turns take long says at its start that 0 are done, so that the time left is known after the first.
    """
    _show(text, done, total, is_numbered=False)


def each(text: str, turns: Sequence[T]) -> Iterator[T]:
    """Go through the turns of a loop, each of which takes long, and say which one runs.

    Parameters
    ----------
    text : str
        Name of one turn, as in "fold".
    turns : sequence

    Yields
    ------
    object
        The elements of ``turns``, in their order.
    """
    try:
        for number, turn in enumerate(turns):
            _show(text, number, len(turns), is_numbered=True)
            yield turn
    finally:
        _show(text, len(turns), len(turns), is_numbered=True)


def line(text: str) -> None:
    """Print a line, above the bars where there are any, and never broken, so that what it names can be copied."""
    if drawn_bars is None:
        print(text, flush=True)
    else:
        drawn_bars.console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)


def _show(text: str, done: int, total: int, *, is_numbered: bool) -> None:
    if drawn_bars is None and said_at is None:
        return
    now = clock()
    loop = loops.get(text)
    if loop is None or done < loop.done or total != loop.total:
        loop = loops[text] = Loop(text, total, is_numbered, now, done, done, now)
    elif done > loop.done:
        loop.done, loop.reached = done, now
    if done >= total:
        del loops[text]
    if drawn_bars is not None:
        _draw(drawn_bars, loop, now)
    else:
        _say(now)


def _draw(bars: Progress, loop: Loop, now: float) -> None:
    description = f"  {loop.place() if loop.is_numbered else loop.text}"
    if loop.text not in bar_ids:
        bar_ids[loop.text] = bars.add_task(description, total=loop.total, completed=loop.done, left="")
    bar, is_open = bar_ids[loop.text], loop.done < loop.total
    bars.update(bar, description=description, total=loop.total, completed=loop.done, left=loop.left(now), visible=is_open)


def _say(now: float) -> None:
    """Print how far all loops are, unless the last line is not old yet."""
    global said_at
    if loops and said_at is not None and now - said_at >= LINE_SECONDS:
        said_at = now
        line("  " + "; ".join(", ".join(filter(None, (loop.place(), loop.left(now)))) for loop in loops.values()))
