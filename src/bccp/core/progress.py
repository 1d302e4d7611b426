"""How far a step and its loops are, as bars on a terminal; elsewhere nothing is drawn, and nothing imported for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

drawn_bars: Progress | None = None
bar_ids: dict[str, TaskID] = {}


def on_terminal() -> bool:
    """Whether somebody looks on: both streams go to a terminal."""
    return drawn_bars is not None or (sys.stdout.isatty() and sys.stderr.isatty())


@contextmanager
def display(text: str, *, done: int, total: int) -> Iterator[None]:
    """Draw bars for the time of the block: one that says ``text``, and those of loops within it. What is printed appears above them."""
    global drawn_bars
    if drawn_bars is not None or not on_terminal():
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as drawn_bars:
        drawn_bars.add_task(text, total=total, completed=done)
        try:
            yield
        finally:
            bar_ids.clear()
            drawn_bars = None


def show(text: str, done: int, total: int) -> None:
    """Say how far a loop is: a bar of its own, where bars are drawn, until it has come to its end or its step has."""
    if drawn_bars is None:
        return
    if text not in bar_ids:
        bar_ids[text] = drawn_bars.add_task(f"  {text}", total=total, completed=done)
    drawn_bars.update(bar_ids[text], completed=done, total=total, visible=done < total)


def line(text: str) -> None:
    """Print a line, above the bars where there are any, and never broken, so that what it names can be copied."""
    if drawn_bars is None:
        print(text, flush=True)
    else:
        drawn_bars.console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)
