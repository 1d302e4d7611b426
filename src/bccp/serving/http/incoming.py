"""A request that is coming in: its headers, its deadline, and its body within limits that bite while it is read."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from bccp.serving.http.problems import ProblemError, busy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Result = TypeVar("Result")

_LOOK_AFTER_SECONDS = 0.2
"""After so long an answer is worth a look whether anybody still waits for it."""


class GoneError(Exception):
    """The caller has gone before the answer."""


class Budget:
    """Bytes that all requests may hold together."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0

    def take(self, n: int) -> bool:
        """Take some, if there are as many."""
        if self.used + n > self.limit:
            return False
        self.used += n
        return True

    def give_back(self, n: int) -> None:
        """Give back what was taken."""
        self.used -= n


class Incoming:
    """A request, while it is answered.

    Parameters
    ----------
    scope : mapping
        Of ASGI.
    receive : callable
        Of ASGI.
    budget : Budget
        Gives what the body takes.
    deadline : float
        Of the loop's clock, which is the monotonic one, s.

    Attributes
    ----------
    headers : dict of bytes to bytes
        Names in lower case; the last of each name.
    content_type : str
        In lower case, without parameters.
    unread : bool
        True while more of the body is to come.
    gone : bool
        True once the caller has gone.
    """

    __slots__ = ("_budget", "_held", "_receive", "content_type", "deadline", "gone", "headers", "scope", "unread")

    def __init__(self, scope: Scope, receive: Receive, budget: Budget, deadline: float) -> None:
        self.scope, self._receive, self._budget, self.deadline = scope, receive, budget, deadline
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.content_type = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        self._held, self.gone = 0, False
        self.unread = b"content-length" in self.headers or b"transfer-encoding" in self.headers

    @property
    def address(self) -> str:
        """The caller's address; of IPv6 the network of 64 bits, within which one machine has as many addresses as it wants."""
        host = str((self.scope.get("client") or ("",))[0])
        if ":" not in host:
            return host
        return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))

    async def receive(self) -> Message:
        """Receive the next part of the body, as ASGI has it."""
        message = await self._receive()
        self.unread = message.get("more_body", False)
        return message

    async def body(self, max_bytes: int) -> bytes:
        """Read the whole body.

        Raises
        ------
        ProblemError
            ``too-large``, ``busy`` (all requests together hold too much), ``deadline``, or ``type`` for a compressed body.
        GoneError
        """
        if self.headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise ProblemError("type", "the body is compressed: send it as it is", headers={"Accept-Encoding": "identity"})
        try:
            declared = int(self.headers.get(b"content-length", b"0"))
        except ValueError:
            raise ProblemError("invalid", "the header Content-Length is no number") from None
        if declared > max_bytes:
            raise _too_large(max_bytes)
        try:
            async with asyncio.timeout_at(self.deadline):
                return await self._parts(max_bytes)
        except TimeoutError:
            raise too_late("the body took too long to come in") from None

    async def _parts(self, max_bytes: int) -> bytes:
        parts = []
        n_bytes = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise GoneError
            part = message.get("body", b"")
            n_bytes += len(part)
            if n_bytes > max_bytes:
                raise _too_large(max_bytes)
            self.hold(len(part))
            parts.append(part)
            if not self.unread:
                return b"".join(parts) if len(parts) > 1 else part

    def hold(self, n_bytes: int) -> None:
        """Take bytes from those that all requests may hold.

        Raises
        ------
        ProblemError
            ``busy``
        """
        if not self._budget.take(n_bytes):
            raise busy("the requests that are being answered hold as many bytes as they may")
        self._held += n_bytes

    def release(self) -> None:
        """Give back what the body took."""
        self._budget.give_back(self._held)
        self._held = 0

    async def while_wanted(self, answer: Awaitable[Result]) -> Result:
        """Wait for an answer, once the body is read; cancel it when nobody waits for it any more.

        Raises
        ------
        GoneError
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        watching: list[asyncio.Task[None]] = []

        async def cancel_when_gone() -> None:
            while (await self._receive())["type"] != "http.disconnect":
                pass
            self.gone = True
            if task is not None:
                task.cancel()

        # most answers come sooner, and need no task to watch them
        begin = loop.call_later(_LOOK_AFTER_SECONDS, lambda: watching.append(loop.create_task(cancel_when_gone())))
        try:
            return await answer
        except asyncio.CancelledError:
            if self.gone:
                raise GoneError from None
            raise
        finally:
            begin.cancel()
            for watcher in watching:
                watcher.cancel()

    async def drain(self, max_bytes: int, seconds: float) -> None:
        """Read on, and keep nothing: a connection that is closed on bytes that nobody read takes the answer with it."""
        try:
            async with asyncio.timeout(seconds):
                while self.unread and max_bytes > 0:
                    max_bytes -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


def too_late(detail: str) -> ProblemError:
    """Return the problem of a deadline that has passed."""
    return ProblemError("deadline", f"{detail}: the deadline of a request has passed")


def _too_large(max_bytes: int) -> ProblemError:
    return ProblemError("too-large", f"the body has more than {max_bytes} bytes: send less")
