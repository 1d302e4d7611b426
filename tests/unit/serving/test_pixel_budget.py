"""Room for the pixels that are decoded at once: who comes first is let in first, and nobody waits for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from bccp.serving.engine.decoding import PixelBudget


class Decoder(threading.Thread):
    """Whoever wants room for so many pixels, and keeps it until ``ready`` is set."""

    def __init__(self, budget: PixelBudget, pixels: int, *, seconds: float = 20.0, given_up: Callable[[], bool] = lambda: False) -> None:
        super().__init__(daemon=True)
        self.budget, self.pixels, self.deadline, self.given_up = budget, pixels, time.monotonic() + seconds, given_up
        self.ready, self.room = threading.Event(), None
        self.start()
        time.sleep(0.05)  # so that the next one comes after it

    def run(self) -> None:
        with self.budget.room(self.pixels, deadline=self.deadline, given_up=self.given_up) as self.room:
            self.ready.wait(20)

    def ends_with(self) -> bool | None:
        self.ready.set()
        self.join(5)
        return self.room


def test_a_large_one_is_not_passed_by_smaller_ones_that_come_later() -> None:
    budget = PixelBudget(100)
    first, large, small = Decoder(budget, 60), Decoder(budget, 90), Decoder(budget, 10)
    assert (first.room, large.room, small.room) == (True, None, None)
    assert first.ends_with()
    small.join(0.1)
    assert (large.room, small.room) == (True, True)  # 90 and 10 fit
    assert large.ends_with()
    assert small.ends_with()
    assert budget.used == 0


def test_more_than_all_there_is_waits_for_all_of_it() -> None:
    budget = PixelBudget(100)
    first, huge = Decoder(budget, 1), Decoder(budget, 1000)
    assert huge.room is None
    first.ends_with()
    assert huge.ends_with()


def test_who_comes_too_late_or_gave_up_gets_none_and_lets_the_next_one_in() -> None:
    budget, dropped = PixelBudget(100), threading.Event()
    first = Decoder(budget, 60)
    late, given_up = Decoder(budget, 90, seconds=0.1), Decoder(budget, 80, seconds=60.0, given_up=dropped.is_set)
    last = Decoder(budget, 40)
    assert late.ends_with() is False
    assert last.room is None  # it waits behind the one that gave up
    dropped.set()
    budget.wake()
    assert given_up.ends_with() is False
    assert last.ends_with()
    assert first.ends_with()
    assert budget.used == 0
