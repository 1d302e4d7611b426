"""Recording of predictions beside the service: a thread that takes all that wait in one transaction, and never holds an answer up for long.

Where the store is locked, full, read-only or gone, predictions are answered all the same and counted as lost; one attempt a second finds
out when the store is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bccp.core.redaction import first_line
from bccp.serving.store import predictions
from bccp.serving.store.opening import Store, StoreUnavailableError
from bccp.serving.store.predictions import PredictionRecord

ATTEMPT_SECONDS = 1.0
"""Between attempts to reach a store that is broken."""

PATIENCE_SECONDS = 2.0
"""For which a transaction may neither end nor fail, give or take the watchdog's period. A crowded machine takes a second now and then; a
store that is locked, full or gone says so sooner.
"""

_WATCH_SECONDS = 0.1
_MOST_ROWS = 512  # of a transaction
_STOP_SECONDS = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordingState:
    """Number of predictions that were answered without being recorded, and why the store takes none at present (None: it does)."""

    lost: int
    error: str | None


class _Waiting:
    """Records that wait for the thread, and whoever waits for them."""

    def __init__(self, records: Sequence[PredictionRecord], done: Callable[[], None]) -> None:
        self.records = records
        self.since = time.monotonic()
        self._done: Callable[[], None] | None = done
        self._lock = threading.Lock()

    def answer(self) -> None:
        """Call ``done``, once."""
        with self._lock:
            done, self._done = self._done, None
        if done is None:
            return
        try:
            done()
        except Exception:
            _log.exception("an answer could not be passed on after its recording")


class Recorder:
    """Record predictions in the order in which they come.

    Parameters
    ----------
    store : Store
    keep_images : str
        ``all``, ``feedback`` (the sweep takes those away that nobody votes on) or ``none``.
    """

    def __init__(self, store: Store, keep_images: str) -> None:
        self._store = store
        self._keep_files = keep_images != "none"
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._at_work: list[_Waiting] = []
        self._at_work_since = 0.0
        self._lost = 0
        self._error: str | None = None
        self._next_attempt = 0.0
        self._stopping = False
        self._stopped = threading.Event()
        self._recording = threading.Thread(target=self._record, name="bccp-recorder", daemon=True)
        self._watching = threading.Thread(target=self._watch, name="bccp-recorder-watch", daemon=True)

    def start(self) -> None:
        """Start the threads."""
        self._recording.start()
        self._watching.start()

    def put(self, records: Sequence[PredictionRecord], done: Callable[[], None]) -> None:
        """Have predictions recorded; returns at once.

        Parameters
        ----------
        records : sequence of PredictionRecord
        done : callable
            Called once, from another thread or before this returns, when they are recorded or given up.
        """
        waiting = _Waiting(records, done)
        with self._changed:
            broken = self._error is not None
            is_attempt = not self._queue and not self._at_work and waiting.since >= self._next_attempt
            taken = not self._stopping and (not broken or is_attempt)
            if taken:
                self._queue.append(waiting)
                self._changed.notify()
            else:
                self._lost += len(records)
        if broken or not taken:  # the answer does not wait for an attempt
            waiting.answer()

    def state(self) -> RecordingState:
        """Return the number of lost predictions and the reason why none are recorded."""
        with self._changed:
            return RecordingState(self._lost, self._error)

    def report(self, error: str) -> None:
        """Note that somebody else has found the store to take nothing, and find out at once whether it is so."""
        with self._changed:
            if self._error is None:
                _log.warning("the store takes nothing: %s", error)
                self._error, self._next_attempt = error, time.monotonic()
                self._changed.notify()

    def stop(self) -> None:
        """Record what waits and end the threads; a store that does not answer is not waited for."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._recording.join(_STOP_SECONDS)
        self._stopped.set()
        self._watching.join()
        with self._changed:
            left = [*self._at_work, *self._queue]
            self._lost += sum(len(one.records) for one in left)
            self._queue.clear()
        _answer(left)

    def _record(self) -> None:
        while (batch := self._take()) is not None:
            try:
                n_lost, error = self._attempt([record for one in batch for record in one.records])
            except Exception as fault:  # whatever happens, the thread lives on
                _log.exception("predictions could not be recorded")
                n_lost, error = sum(len(one.records) for one in batch), first_line(fault)
            with self._changed:
                self._at_work = []
                self._lost += n_lost
                given_up = self._settle(error)
            _answer([*batch, *given_up])

    def _take(self) -> list[_Waiting] | None:
        """Wait for records; an empty list where it is only to be seen whether the store is back, None at the end."""
        with self._changed:
            while not self._queue and not self._stopping:
                rest = None if self._error is None else self._next_attempt - time.monotonic()
                if rest is not None and rest <= 0:
                    break
                self._changed.wait(rest)
            if self._stopping and not self._queue:
                return None
            n_rows, self._at_work_since = 0, time.monotonic()
            while self._queue and n_rows < _MOST_ROWS:
                self._at_work.append(self._queue.popleft())
                n_rows += len(self._at_work[-1].records)
            return self._at_work

    def _attempt(self, records: list[PredictionRecord]) -> tuple[int, str | None]:
        """Record, and return how many are lost and why the store takes none; a record with values that it does not take hurts no other."""
        try:
            if records:
                predictions.record(self._store, records, keep_files=self._keep_files)
            else:
                self._store.check_writable()
            return 0, None
        except StoreUnavailableError as error:
            return len(records), str(error)
        except Exception:
            if len(records) == 1:
                _log.exception("a prediction could not be recorded")
                return 1, None
        n_lost = 0
        for place, record in enumerate(records):
            one_lost, reason = self._attempt([record])
            n_lost += one_lost
            if reason is not None:
                return n_lost + len(records) - place - 1, reason
        return n_lost, None

    def _settle(self, error: str | None) -> list[_Waiting]:
        """Note how an attempt has ended; returns those who wait in vain."""
        if error is None:
            if self._error is not None:
                _log.warning("predictions are recorded again; %d were not", self._lost)
            self._error = None
            return []
        if self._error is None:
            _log.warning("predictions are not recorded: %s", error)
        self._error, self._next_attempt = error, time.monotonic() + ATTEMPT_SECONDS
        given_up = [*self._queue]
        self._queue.clear()
        self._lost += sum(len(one.records) for one in given_up)
        return given_up

    def _watch(self) -> None:
        """Answer for a store that neither takes records nor refuses them."""
        while not self._stopped.wait(_WATCH_SECONDS):
            with self._changed:
                if not self._at_work or time.monotonic() - self._at_work_since < PATIENCE_SECONDS:
                    continue
                given_up = [*self._at_work, *self._settle("the store does not answer")]  # the former are not lost yet
            _answer(given_up)


def _answer(waiting: Sequence[_Waiting]) -> None:
    for one in waiting:
        one.answer()
