"""Connections whose headers are limited, as uvicorn limits neither their length nor the time that they take to come in."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 65_536
"""Of a request's first line and headers."""

MAX_HEAD_SECONDS = 10.0
"""From a connection's beginning, or a request's first byte, to the end of the headers."""

_MOST_OVERHEAD = 8
"""Bytes of chunks' sizes for one of a body; chunks of one byte have five, and trailers and chunks' extensions may be without end."""

_UPGRADE = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 78\r\nconnection: close\r\n\r\n"
    b"no other protocol is spoken here: send the body without the header Upgrade\r\n\r\n"
)
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class LimitedProtocol(HttpToolsProtocol):
    """A connection that is closed where the headers of a request are too long or too slow."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._head_bytes = 0
        self._in_head = True
        self._body_bytes = self._overhead_bytes = 0
        self._too_slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, and count what is of its headers, or of its body's frame."""
        message, body_before = self.scope, self._body_bytes
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
        elif self.scope is message:
            self._overhead_bytes += len(data) - (self._body_bytes - body_before)
        if self._head_bytes > MAX_HEAD_BYTES or self._overhead_bytes > MAX_HEAD_BYTES + _MOST_OVERHEAD * self._body_bytes:
            self._refuse(_TOO_LARGE)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        if not self._in_head:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Begin to answer; a body behind a wish for another protocol would be taken for the next request."""
        self._end_head()
        self._body_bytes = self._overhead_bytes = 0
        if self.parser.should_upgrade() and any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
            self._refuse(_UPGRADE)
        else:
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request, unless it was refused."""
        if not self.transport.is_closing():
            super().on_message_complete()

    def _refuse(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()

    def _wait_for_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._too_slow = self.loop.call_later(MAX_HEAD_SECONDS, self.transport.close)

    def _end_head(self) -> None:
        self._in_head, self._head_bytes = False, 0
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None
