"""Limits on how often people vote."""

from __future__ import annotations

from bccp.serving.http.rate_limits import RateLimits


class Clock:
    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        return self.now


def test_a_user_may_vote_so_often_a_minute_and_is_told_how_long_to_wait() -> None:
    clock = Clock()
    limits = RateLimits(clock=clock)
    ann = [("user:ann", 6)]
    assert [limits.seconds_to_wait(ann) for _ in range(8)] == [0] * 6 + [10, 10]  # what is refused costs nothing
    assert limits.seconds_to_wait([("user:bob", 6)]) == 0
    clock.now += 9
    assert limits.seconds_to_wait(ann) == 1
    clock.now += 1
    assert [limits.seconds_to_wait(ann) for _ in range(2)] == [0, 10]
    clock.now += 3600
    assert [limits.seconds_to_wait(ann) for _ in range(7)] == [0] * 6 + [10]  # an idle hour saves up no more than a minute


def test_a_vote_that_one_name_has_not_left_is_counted_against_none() -> None:
    limits = RateLimits(clock=Clock())
    for n in range(20):
        assert limits.seconds_to_wait([(f"user:{n}", 2), ("address", 20)]) == 0
    assert limits.seconds_to_wait([("user:new", 2), ("address", 20)]) == 3
    assert [limits.seconds_to_wait([("user:new", 2)]) for _ in range(3)] == [0, 0, 30]


def test_names_without_end_take_no_memory_without_end() -> None:
    limits = RateLimits(max_names=100, clock=Clock())
    for n in range(1000):
        assert limits.seconds_to_wait([("address", 10_000), (f"user:{n}", 1)]) == 0
    assert len(limits) == 100
    assert limits.seconds_to_wait([("user:999", 1)]) == 60
