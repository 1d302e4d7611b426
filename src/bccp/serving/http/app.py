"""The FastAPI application: routes, and around them the one middleware, which guards, refuses and measures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from bccp.serving.http import docs_page, documentation, mlflow_routes, pictures, predicting, status, voting
from bccp.serving.http.access import UNGUARDED
from bccp.serving.http.incoming import GoneError, Incoming, Receive, Scope, Send
from bccp.serving.http.parts import Parts
from bccp.serving.http.problems import ProblemError

Endpoint = Callable[[Parts, Incoming], Awaitable[Response]]

ROUTES: tuple[tuple[str, str, Endpoint], ...] = (
    ("POST", "/predict", predicting.predict),
    ("POST", "/feedback", voting.give_feedback),
    ("GET", "/labels", status.labels),
    ("GET", "/images/{sha256}", pictures.picture),
    ("GET", "/healthz", status.healthz),
    ("GET", "/readyz", status.readyz),
    ("GET", "/metrics", status.metrics),
    ("GET", "/", docs_page.front),
    ("GET", "/docs", docs_page.page),
    ("GET", "/openapi.json", documentation.openapi_document),
    ("POST", "/invocations", mlflow_routes.invocations),
    ("GET", "/ping", mlflow_routes.ping),
    ("GET", "/health", mlflow_routes.ping),
    ("GET", "/version", mlflow_routes.version),
)

_SAFE = frozenset({"GET", "HEAD"})
_DRAINED_TIMES, _DRAINED_SECONDS = 10, 2.0
"""Of a body that is refused, so many times as many bytes as it may have are read, and for so long, before the connection is closed."""

_SMALL_BODY = 65_536
"""Bytes that are read to their end, so that the connection can be used again."""

log = logging.getLogger(__name__)


class Application(FastAPI):
    """The application: FastAPI's router within one middleware of ours.

    FastAPI's own middlewares, for telemetry, limits of bodies, dependencies and errors, would take as long as all else that is done here
    for a request.

    Parameters
    ----------
    parts : Parts
        Started by the caller, and stopped afterwards.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
        for method, path, endpoint in ROUTES:
            self.router.routes.append(Route(path, _Answering(endpoint, parts), methods=[method]))
        self._guarded = Guard(self.router, parts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope["app"] = self
        await self._guarded(scope, receive, send)


class _Answering:
    """An endpoint as an application of ASGI, which spares what FastAPI does for parameters that are none here."""

    def __init__(self, endpoint: Endpoint, parts: Parts) -> None:
        self._endpoint, self._parts = endpoint, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming: Incoming = scope["incoming"]
        response = await self._endpoint(self._parts, incoming)
        await response(scope, receive, send)


def _of_router(error: HTTPException, method: str) -> ProblemError:
    """The problem that a refusal of the router's own is."""
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        return ProblemError("method", f"{method} is not allowed: use {allowed.get('Allow', 'GET')}", headers=allowed)
    return ProblemError("not-found", "there is nothing at this address: GET /docs lists what there is")


class Guard:
    """The middleware: refuses what may not come in, answers problems, and measures.

    Parameters
    ----------
    app : ASGI application
    parts : Parts
    """

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app, self._parts = app, parts
        self._routes = {path: path for _, path, _ in ROUTES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        parts = self._parts
        deadline = asyncio.get_running_loop().time() + parts.settings.deadline
        incoming = Incoming(scope, receive, parts.budget, deadline)
        scope["incoming"] = incoming
        try:
            path = scope["path"]
            if path not in UNGUARDED:
                parts.access.expect_host(incoming.headers.get(b"host"))
                if scope["method"] not in _SAFE:
                    parts.access.expect_same_origin(incoming.headers)
            await self._app(scope, incoming.receive, send)
        except ProblemError as problem:
            await self._refuse(problem, incoming, send)
        except HTTPException as error:
            await self._refuse(_of_router(error, scope["method"]), incoming, send)
        except GoneError:
            pass
        except asyncio.CancelledError:
            if not incoming.gone:
                raise
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            await self._refuse(ProblemError("internal", "the service's log has the reason: please report it"), incoming, send)
        finally:
            incoming.release()
            parts.metrics.answered(self._route(scope["path"]), time.perf_counter() - begun)

    def _route(self, path: str) -> str:
        return self._routes.get(path) or ("/images/{sha256}" if path.startswith("/images/") else "other")

    async def _refuse(self, problem: ProblemError, incoming: Incoming, send: Send) -> None:
        """Answer a problem; where much of the body is still to come the connection is closed, but not before the answer has arrived."""
        self._parts.metrics.problem(problem.kind)
        response = problem.response()
        length = incoming.headers.get(b"content-length", b"")
        is_soon_over = length.isdigit() and int(length) <= _SMALL_BODY and problem.kind != "deadline"
        if incoming.unread and not is_soon_over:
            response.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        body = b"" if incoming.scope["method"] == "HEAD" else bytes(response.body)
        await send({"type": "http.response.body", "body": body, "more_body": incoming.unread})
        if incoming.unread:
            await incoming.drain(_DRAINED_TIMES * self._parts.settings.max_bytes, _DRAINED_SECONDS)
            await send({"type": "http.response.body", "body": b""})
