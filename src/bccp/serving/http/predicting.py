"""``POST /predict``: classes of the images in a body."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qsl

from starlette.responses import Response

from bccp.serving.engine.batching import Answered, BusyError, DeadlineExceededError, Item, NoModelError
from bccp.serving.http import bodies, json_text
from bccp.serving.http.access import Role, expect_content_type
from bccp.serving.http.incoming import Incoming, too_late
from bccp.serving.http.parts import Parts
from bccp.serving.http.problems import ProblemError, busy

if TYPE_CHECKING:
    from bccp.models.predictor import Answer
    from bccp.serving.engine.loaded_model import LoadedModel

LARGE = 500_000
"""Bytes of a body that are taken apart in a thread, so that the loop answers others meanwhile."""

_KINDS = {"failed": "internal"}
"""Problems of the engine that are called otherwise here."""


async def predict(parts: Parts, incoming: Incoming) -> Response:
    """Answer with the class of one image, or of each of several."""
    role = parts.access.role(incoming.headers.get(b"authorization"))
    parts.access.expect(role, Role.SERVE)
    expect_content_type(incoming.content_type, bodies.PREDICT_TYPES)
    channel = _channel(incoming.scope["query_string"])
    body = await incoming.body(parts.settings.max_bytes)
    arguments = (incoming.content_type, incoming.headers[b"content-type"], body)
    if len(body) > LARGE and not incoming.content_type.startswith("image/"):
        found = await asyncio.to_thread(bodies.uploads, *arguments, max_files=parts.settings.max_files)
    else:
        found = bodies.uploads(*arguments, max_files=parts.settings.max_files)
    del body, arguments
    images = found.images
    if any(image.path is not None for image in images):
        images = await _read_files(parts, incoming, role, images)
    channel = found.channel or channel or bodies.CHANNEL
    answered = await answers(parts, incoming, images, channel)
    if not found.is_list:
        (one,) = answered
        if isinstance(one, ProblemError):
            raise one
        return json_text.respond(one)
    for one in answered:
        if isinstance(one, ProblemError):
            parts.metrics.problem(one.kind)
    predictions = [{"error": one.document()} if isinstance(one, ProblemError) else one for one in answered]
    model = next((one["model"] for one in answered if not isinstance(one, ProblemError)), None) or about(parts.model())
    return json_text.respond({"predictions": predictions, "model": model})


async def answers(parts: Parts, incoming: Incoming, images: Sequence[bodies.Upload], channel: str) -> list[dict[str, Any] | ProblemError]:
    """Ask the model about images.

    Parameters
    ----------
    parts : Parts
    incoming : Incoming
        Whose body has been read.
    images : sequence of Upload
        With their bytes, n.
    channel : str

    Returns
    -------
    list
        For each image, n, what ``/predict`` answers with, or why it has no answer.

    Raises
    ------
    ProblemError
        Where none is answered: ``busy, no-model, deadline``.
    GoneError
    """
    parts.model()
    items = [Item(image.data, channel, image.event_id) for image in images if image.problem is None]
    if not items:
        return [image.problem for image in images if image.problem is not None]
    try:
        made = await incoming.while_wanted(parts.batcher.answer(items, deadline=incoming.deadline))
    except BusyError:
        raise busy("as many images wait for the model as may (serve.max_queue)") from None
    except DeadlineExceededError:
        raise too_late("the model did not come to it in time") from None
    except NoModelError:
        parts.model()
        raise busy("the model is being loaded") from None
    found = iter(made)
    return [image.problem if image.problem is not None else _document(parts, next(found), channel) for image in images]


def _document(parts: Parts, one: Answered, channel: str) -> dict[str, Any] | ProblemError:
    if one.problem is not None:
        kind = _KINDS.get(one.problem.kind, one.problem.kind)
        return ProblemError(kind, one.problem.detail, request_id=str(one.request_id))
    answer, model = cast("Answer", one.answer), one.model
    parts.metrics.predicted(model.version, str(answer.label), channel)
    return {
        "request_id": str(one.request_id),
        "class": answer.label,
        "probability": answer.probability,
        "top_3": answer.top,
        "image_sha256": one.sha256,
        "model": about(model),
    }


def about(model: LoadedModel) -> dict[str, Any]:
    """Return what answers say of the model."""
    return {"name": model.name, "version": model.version, "digest": model.digest}


async def _read_files(parts: Parts, incoming: Incoming, role: Role, images: Sequence[bodies.Upload]) -> list[bodies.Upload]:
    """Read the files that are named by a path."""
    root = parts.settings.image_root
    if root is None:
        raise ProblemError("forbidden", "image_path is not taken: the service was started without serve.image_root")
    if role != Role.SERVE:
        raise ProblemError("forbidden", f"image_path needs the token of {parts.access.token_env}")
    real_root = Path(root).resolve()
    left = parts.settings.max_bytes
    read = []
    for image in images:
        if image.path is None:
            read.append(image)
            continue
        try:
            data = await asyncio.to_thread(bodies.read_below, real_root, image.path, max_bytes=left)
        except ProblemError as problem:
            read.append(image._replace(problem=problem))
            continue
        incoming.hold(len(data))
        left -= len(data)
        read.append(image._replace(data=data))
    return read


def _channel(query: bytes) -> str | None:
    """Read the one parameter that an address may have."""
    if not query:
        return None
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name != "channel":
            raise ProblemError("invalid", f"unknown parameter {name[:100]!r}: use channel")
        return bodies.channel(value)
    return None
