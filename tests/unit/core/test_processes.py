"""Which processes still live, and how this one ends on a signal."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import types
from contextlib import suppress

import pytest

from bccp.core.processes import Interrupted, alive, descendants, end_descendants, importing, lives, process_start, terminable, uninterrupted


def test_a_process_lives_while_it_runs_and_neither_as_a_zombie_nor_under_a_reused_id() -> None:
    assert lives(os.getpid(), process_start(os.getpid()))
    assert not lives(os.getpid(), "1")
    with subprocess.Popen(["sleep", "60"]) as child:
        started = process_start(child.pid)
        assert lives(child.pid, started)
        assert (child.pid, started) in descendants(os.getpid())
        child.kill()
        while process_start(child.pid):
            time.sleep(0.01)
        assert alive(child.pid)  # nobody has asked for its end yet
        assert not lives(child.pid, started)
    assert not alive(child.pid)


def test_descendants_are_ended_with_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bccp.core.processes.ENDING_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    others = descendants(os.getpid())
    with (
        subprocess.Popen(["bash", "-c", "sleep 60; true"]) as shell,
        subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as stubborn,
    ):
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        while not (below := descendants(shell.pid)):
            time.sleep(0.01)
        end_descendants(others)
        assert shell.wait(5) == -signal.SIGTERM
        assert stubborn.wait(5) == -signal.SIGKILL
        assert not any(lives(*process) for process in below)
    with subprocess.Popen(["sleep", "60"]) as spared:
        end_descendants(descendants(os.getpid()))
        assert spared.poll() is None
        spared.kill()


def test_a_signal_ends_the_block_once_and_the_handlers_are_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended = []

    def stopped() -> None:
        with terminable():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)  # the same wish: the ending goes on
                ended.append(True)

    with pytest.raises(Interrupted, match="SIGTERM"):
        stopped()
    assert ended == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_comes_while_an_object_is_deleted_is_not_lost(capsys: pytest.CaptureFixture[str]) -> None:
    class Struck:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)  # Python drops what is raised here

    def stopped() -> None:
        with terminable():
            Struck()
            time.sleep(5)

    started = time.monotonic()
    with pytest.raises(Interrupted, match="SIGTERM"):
        stopped()
    assert time.monotonic() - started < 4
    assert capsys.readouterr().err == ""


def test_a_block_that_is_not_to_be_interrupted_ends_first() -> None:
    done = []

    def stopped() -> None:
        with terminable(), uninterrupted():
            with uninterrupted():
                signal.raise_signal(signal.SIGTERM)
            done.append("the inner one")
            signal.raise_signal(signal.SIGTERM)
            done.append("the outer one")

    with pytest.raises(Interrupted, match="SIGTERM"):
        stopped()
    assert done == ["the inner one", "the outer one"]
    with terminable(), uninterrupted():
        done.append("no signal is left over")


def test_an_interrupt_from_the_keyboard_is_one_for_the_caller_and_what_is_ignored_stays_so() -> None:
    with pytest.raises(KeyboardInterrupt), terminable():
        signal.raise_signal(signal.SIGINT)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_outside_the_main_thread_signals_are_left_alone() -> None:
    entered = []

    def work() -> None:
        with terminable():
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [signal.getsignal(signal.SIGTERM)]


def test_nothing_is_collected_while_modules_are_imported_and_all_is_as_before_when_they_are_or_cannot_be() -> None:
    assert gc.isenabled()
    with importing():
        assert not gc.isenabled()
        with suppress(ImportError), importing():
            raise ImportError
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_imports_leave_is_collected_no_more_but_only_where_the_process_is_the_pipelines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bccp.core.processes.OwnProcess.ours", False)
    before = gc.get_freeze_count()
    try:
        with importing():
            monkeypatch.setitem(sys.modules, "a_new_one", types.ModuleType("a_new_one"))
        assert gc.get_freeze_count() == before
        with importing(ours=True):
            pass
        assert gc.get_freeze_count() == before
        with importing():
            monkeypatch.setitem(sys.modules, "another", types.ModuleType("another"))
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
