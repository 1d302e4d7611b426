"""How far a step and its loops are, as bars on a terminal; elsewhere nothing is drawn, and nothing imported for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_display: Progress | None = None
_tasks: dict[str, TaskID] = {}


def on_terminal() -> bool:
    """Whether somebody looks on: both streams go to a terminal."""
    return _display is not None or (sys.stdout.isatty() and sys.stderr.isatty())


@contextmanager
def display(text: str, *, done: int, total: int) -> Iterator[None]:
    """Draw bars for the time of the block: one that says ``text``, and those of loops within it. What is printed appears above them."""
    global _display
    if _display is not None or not on_terminal():
        yield
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as _display:
        _display.add_task(text, total=total, completed=done)
        try:
            yield
        finally:
            _tasks.clear()
            _display = None


def show(text: str, done: int, total: int) -> None:
    """Say how far a loop is: a bar of its own, where bars are drawn, until it has come to its end or its step has."""
    if _display is None:
        return
    if text not in _tasks:
        _tasks[text] = _display.add_task(f"  {text}", total=total, completed=done)
    _display.update(_tasks[text], completed=done, total=total, visible=done < total)


def line(text: str) -> None:
    """Print a line, above the bars where there are any, and never broken, so that what it names can be copied."""
    if _display is None:
        print(text, flush=True)
    else:
        _display.console.print(text, soft_wrap=True, markup=False, emoji=False, highlight=False)
