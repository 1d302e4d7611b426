"""A body while it comes in: limits bite before it is whole, and nobody is answered who has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import pytest

from bccp.serving.http.incoming import Budget, GoneError, Incoming, Message
from bccp.serving.http.problems import ProblemError

Result = TypeVar("Result")


class Sender:
    """Sends parts of a body, and counts those that were taken; then it is silent, or gone."""

    def __init__(self, parts: Iterable[bytes], *, ends: bool = True, goes: bool = False) -> None:
        self.parts, self.ends, self.goes, self.n_taken = list(parts), ends, goes, 0

    async def __call__(self) -> Message:
        if self.n_taken == len(self.parts):
            if self.goes:
                return {"type": "http.disconnect"}
            await asyncio.sleep(60)
        self.n_taken += 1
        last = self.n_taken == len(self.parts)
        return {"type": "http.request", "body": self.parts[self.n_taken - 1], "more_body": not (last and self.ends)}


def ask(
    sender: Sender, work: Callable[[Incoming], Awaitable[Result]], *, budget: Budget | None = None, seconds: float = 30, **headers: str
) -> Result:
    """Do something with a request."""

    async def answer() -> Result:
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        scope: dict[str, Any] = {"headers": lines, "client": ("127.0.0.1", 1)}
        return await work(Incoming(scope, sender, budget or Budget(1000), asyncio.get_running_loop().time() + seconds))

    return asyncio.run(answer())


def test_a_body_comes_in_parts_and_is_held_until_it_is_released() -> None:
    budget = Budget(20)

    async def work(incoming: Incoming) -> tuple[bytes, int]:
        body, held = await incoming.body(10), budget.used
        incoming.release()
        incoming.release()
        return body, held

    assert ask(Sender([b"abc", b"", b"def"]), work, budget=budget) == (b"abcdef", 6)
    assert budget.used == 0


def test_a_length_that_is_too_large_is_refused_before_a_byte_is_read() -> None:
    sender = Sender([b"x"] * 3)
    with pytest.raises(ProblemError, match="too-large"):
        ask(sender, lambda incoming: incoming.body(10), content_length="11")
    assert sender.n_taken == 0


def test_a_body_without_a_length_is_refused_as_soon_as_it_is_too_large() -> None:
    sender, budget = Sender([b"x" * 4] * 1000), Budget(1000)

    async def work(incoming: Incoming) -> None:
        try:
            await incoming.body(10)
        finally:
            assert budget.used <= 10
            incoming.release()

    with pytest.raises(ProblemError, match="too-large"):
        ask(sender, work, budget=budget, transfer_encoding="chunked")
    assert (sender.n_taken, budget.used) == (3, 0)


def test_all_requests_together_hold_so_much_and_no_more() -> None:
    budget = Budget(10)
    assert budget.take(6)
    with pytest.raises(ProblemError) as refused:
        ask(Sender([b"x" * 5]), lambda incoming: incoming.body(10), budget=budget)
    assert (refused.value.kind, refused.value.headers) == ("busy", {"Retry-After": "1"})


def test_a_body_slower_than_the_deadline_is_given_up() -> None:
    with pytest.raises(ProblemError, match="deadline"):
        ask(Sender([b"x"], ends=False), lambda incoming: incoming.body(10), seconds=0.05)


def test_compressed_bodies_and_lengths_that_are_none_are_refused() -> None:
    for problem, headers in (("type", {"content_encoding": "gzip"}), ("invalid", {"content_length": "ten"})):
        with pytest.raises(ProblemError, match=problem):
            ask(Sender([b"x"]), lambda incoming: incoming.body(10), **headers)


def test_who_goes_while_sending_or_waiting_is_not_waited_for() -> None:
    with pytest.raises(GoneError):
        ask(Sender([b"x"], ends=False, goes=True), lambda incoming: incoming.body(10))
    ended = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    async def work(incoming: Incoming) -> None:
        await incoming.body(10)
        await incoming.while_wanted(slow())

    with pytest.raises(GoneError):
        ask(Sender([b"x"], goes=True), work)
    assert ended == ["slow"]


def test_who_waits_gets_the_answer_and_its_errors() -> None:
    async def answer(seconds: float, error: Exception | None = None) -> int:
        await asyncio.sleep(seconds)
        if error is not None:
            raise error
        return 7

    async def work(incoming: Incoming) -> list[int]:
        await incoming.body(10)
        return [await incoming.while_wanted(answer(seconds)) for seconds in (0, 0.1)]

    assert ask(Sender([b"x"]), work) == [7, 7]
    with pytest.raises(KeyError):
        ask(Sender([b"x"]), lambda incoming: incoming.while_wanted(answer(0.1, KeyError())))


def test_the_addresses_of_a_network_count_as_one() -> None:
    async def address(incoming: Incoming) -> list[str]:
        found = [incoming.address]
        for host in ("2001:db8::1", "2001:db8::2", "2001:db8:1::1", "fe80::1%eth0"):
            incoming.scope["client"] = (host, 1)
            found.append(incoming.address)
        return found

    assert ask(Sender([]), address) == ["127.0.0.1", "2001:db8::/64", "2001:db8::/64", "2001:db8:1::/64", "fe80::/64"]
