"""State of the service: ``/healthz``, ``/readyz``, ``/metrics``, ``/labels``."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from bccp.serving.http import json_text
from bccp.serving.http.access import Role
from bccp.serving.http.incoming import Incoming
from bccp.serving.http.metrics import CONTENT_TYPE
from bccp.serving.http.parts import Parts
from bccp.serving.http.predicting import about


async def healthz(parts: Parts, incoming: Incoming) -> Response:
    """Answer that the process lives."""
    return json_text.respond({"status": "ok"})


async def readyz(parts: Parts, incoming: Incoming) -> Response:
    """Answer whether there is a model, and what works less than it should: 503 without a model."""
    model, recording, reloading = parts.holder.current, parts.recorder.state(), parts.holder.state()
    healthy = recording.error is None and reloading.error is None
    status = "no-model" if model is None else "ready" if healthy else "degraded"
    said: dict[str, Any] = {
        "status": status,
        "model": None if model is None else about(model),
        "recording": {"lost": recording.lost, "error": recording.error},
        "reload": {"error": reloading.error},
    }
    return json_text.respond(said, 503 if model is None else 200)


async def metrics(parts: Parts, incoming: Incoming) -> Response:
    """Answer with all figures for Prometheus."""
    text = await asyncio.to_thread(parts.metrics.text)  # it reads from the store, for which no writer is waited for
    return Response(text, 200, {**json_text.HEADERS, "Content-Type": CONTENT_TYPE})


async def labels(parts: Parts, incoming: Incoming) -> Response:
    """Answer with the classes of the model."""
    parts.access.expect(parts.access.role(incoming.headers.get(b"authorization")), Role.SERVE)
    model = parts.model()
    return json_text.respond({"labels": list(model.classes), "model": about(model)})
