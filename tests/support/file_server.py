"""A server of files that fails as it is told, and the id of a file on Google Drive."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Serves bodies by path; ``asked`` holds what was requested."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.failures: list[int] = []  # statuses to answer first
        self.asked: list[tuple[str, int]] = []
        self.cut = 0  # bytes to hold back
        self.declares = True
        self.heeds = True  # conditions of a request
        self.no_head = False
        self.mute = threading.Event()
        self.mute.set()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self, *, body_wanted: bool) -> None:
        server = self.server
        server.mute.wait(5)
        body = server.bodies.get(self.path.partition("?")[0])
        status = 404 if body is None else 200
        if server.failures:
            status = server.failures.pop(0)
        for condition, header in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
            if status == 200 and server.heeds and self.headers[condition] and self.headers[condition] == server.headers.get(header):
                status = 304
        server.asked.append((self.command, status))
        self.send_response(status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        content = (body or b"") if status == 200 else b""
        if server.declares:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body_wanted:
            self.wfile.write(content[: len(content) - server.cut])

    def do_GET(self) -> None:
        self.answer(body_wanted=True)

    def do_HEAD(self) -> None:
        if self.server.no_head:
            self.server.asked.append(("HEAD", 405))
            self.send_error(405)
        else:
            self.answer(body_wanted=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


ID = "1AbCdEfGhIjKlMnOp_q-r"
