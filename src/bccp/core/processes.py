"""Processes: which still live, how this one ends on a signal, and that none outlives the one that it works for."""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess  # nosec B404
import sys
import threading
import time
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_SAME_SIGNAL_SECONDS = 5.0  # what comes within these after a signal is taken for the same wish
_RAISED_AGAIN_SECONDS = 0.05
_POLL_SECONDS = 0.5
ENDING_SECONDS = 30.0  # for a process that was told to end; then it is ended


class Interrupted(BaseException):
    """A signal that ends this process, as an exception: runs in progress end as KILLED.

    It is no ``KeyboardInterrupt``, which libraries catch for purposes of their own (Lightning ends the process).

    Attributes
    ----------
    number : int
        The signal's.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class OwnProcess:
    ours = False


@contextmanager
def importing(*, ours: bool = False) -> Iterator[None]:
    """Keep the garbage collector from imports: it would look again and again through what stays, for a fifth of their time.

    ``ours``: from now on this process is the pipeline's alone; nor does the collector look, then, through what imports have left. What a
    caller of ``bccp.run`` had before could never be collected any more.
    """
    OwnProcess.ours |= ours
    enabled, n_modules = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if OwnProcess.ours and len(sys.modules) > n_modules:
                gc.freeze()
            gc.enable()


class _Held:
    """How many blocks of the main thread no signal may cut short, one in another, and the signal that waits for their end."""

    depth = 0
    waiting: int | None = None


@contextmanager
def terminable(first: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end what runs in the block as :class:`Interrupted` (SIGINT: ``KeyboardInterrupt`` after the block).

    A signal that is ignored (``nohup``) stays ignored. Outside the main thread signals are left alone. An exception that Python dropped, as
    it was raised while an object was being deleted, is raised again. ``first`` is called before the block is ended.
    """
    latest = 0.0

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        nonlocal latest
        now = time.monotonic()
        if latest and now - latest < _SAME_SIGNAL_SECONDS:
            return  # it would cut the ending short
        latest = now
        first()
        if _Held.depth:
            _Held.waiting = number
        else:
            raise Interrupted(number)

    def dropped(what: sys.UnraisableHookArgs) -> None:
        nonlocal latest
        if isinstance(what.exc_value, Interrupted):
            latest = 0.0
            threading.Timer(_RAISED_AGAIN_SECONDS, os.kill, (os.getpid(), what.exc_value.number)).start()  # when the deletion is over
        else:
            hook_before(what)

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    before = {number: signal.getsignal(number) for number in numbers}
    taken = [number for number in numbers if before[number] not in (signal.SIG_IGN, None)]
    hook_before = sys.unraisablehook
    try:
        for number in taken:
            signal.signal(number, interrupt)
        sys.unraisablehook = dropped if taken else hook_before
        yield
    except Interrupted as stopped:
        if stopped.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise
    finally:
        sys.unraisablehook = hook_before
        for number in taken:
            signal.signal(number, before[number])


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let no signal cut the block short: what :func:`terminable` raises is raised at its end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Held.depth += 1
    try:
        yield
    finally:
        _Held.depth -= 1
        if not _Held.depth and _Held.waiting is not None:
            number, _Held.waiting = _Held.waiting, None
            raise Interrupted(number)


def alive(pid: int) -> bool:
    """Whether a process of this host runs (or has just ended and waits for its parent to notice)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def process_start(pid: int) -> str:
    """When a process began, in the system's letters and digits: a reused id has another. Empty where there is none, or no telling."""
    if sys.platform == "linux":
        fields = _stat(pid)
        return fields[19] if fields and fields[0] not in "ZX" else ""  # a zombie has ended
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)  # nosec B603
    return re.sub(r"\W", "", told.stdout)


def lives(pid: int, started: str) -> bool:
    """Whether the process that had this id and start still runs on this host."""
    return alive(pid) and process_start(pid) == started


def end_with(wanted: Sequence[tuple[int, str]]) -> None:
    """End this process, as by SIGTERM, when one of others (id and start) has ended.

    A thread asks twice a second. A kernel's own notice (``PR_SET_PDEATHSIG``) would be Linux's alone, and a shell between the processes,
    which MLflow puts there, keeps it from coming.
    """

    def watch() -> None:
        while all(lives(pid, started) for pid, started in wanted):
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ENDING_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="end-with", daemon=True).start()


def callers() -> list[tuple[int, str]]:
    """The process that started this one, and, where that is a shell, the one that started the shell."""
    pids = [os.getppid()]
    fields = _stat(pids[0])
    if fields and _command(pids[0]) == "bash":
        pids.append(int(fields[1]))
    return [(pid, process_start(pid)) for pid in pids if pid > 1]


def end_descendants(spared: Collection[tuple[int, str]]) -> None:
    """End the processes that this one has started, directly or not, as by SIGTERM, and wait; those that do not end are killed.

    Some (id and start) are spared: what a caller had started before, such as a notebook's own workers, is none of our business.

    Where :func:`descendants` finds none, :func:`end_with` ends them.
    """
    living = [process for process in descendants(os.getpid()) if process not in spared]
    _signal(living, signal.SIGTERM)
    deadline = time.monotonic() + ENDING_SECONDS
    while living and time.monotonic() < deadline:
        time.sleep(0.05)
        living = [(pid, started) for pid, started in living if lives(pid, started)]
    _signal(living, signal.SIGKILL)


def _signal(processes: Iterable[tuple[int, str]], number: int) -> None:
    for pid, _ in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def descendants(pid: int) -> list[tuple[int, str]]:
    """The processes (id and start) that a process has started, directly or not; none where the system has no ``/proc``."""
    fields = {int(path.name): _stat(int(path.name)) for path in Path("/proc").glob("[0-9]*")}
    found, todo = [], [pid]
    while todo:
        parent = str(todo.pop())
        children = [child for child, values in fields.items() if values[1:2] == [parent]]
        found += children
        todo += children
    return [(child, process_start(child)) for child in found]


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the third (the state) on; empty where there are none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
