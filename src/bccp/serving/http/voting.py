"""``POST /feedback``: people's labels for images that were predicted."""

from __future__ import annotations

import asyncio
import re
import unicodedata
import uuid
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from bccp.core.errors import nearest
from bccp.serving.http import bodies, json_text
from bccp.serving.http.access import Role, expect_content_type
from bccp.serving.http.incoming import Incoming, too_late
from bccp.serving.http.parts import Parts
from bccp.serving.http.predicting import LARGE, answers
from bccp.serving.http.problems import ProblemError
from bccp.serving.store import feedback, predictions
from bccp.serving.store.opening import StoreUnavailableError
from bccp.serving.user_names import hashed

if TYPE_CHECKING:
    from bccp.serving.store.opening import Store

_UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)

_TIMES_A_USER = 10
"""Votes of an address or a token, as a multiple of a user's."""


async def give_feedback(parts: Parts, incoming: Incoming) -> Response:
    """Record a vote, or an audit where the review token gives it, and acknowledge it once it is on the disk."""
    role = parts.access.role(incoming.headers.get(b"authorization"))
    parts.access.expect(role, Role.SERVE)
    expect_content_type(incoming.content_type, (bodies.JSON,))
    key = bodies.idempotency_key(incoming.headers.get(b"idempotency-key"))
    body = await incoming.body(parts.settings.max_bytes)
    given = await asyncio.to_thread(bodies.feedback, body) if len(body) > LARGE else bodies.feedback(body)
    user_id = hashed(given.user, parts.user_key)
    _limit(parts, incoming, role, user_id)
    label = _known_label(given.label, parts.model().classes)
    request_id, sha256 = _uuid(given.request_id), given.image_sha256
    if given.image is not None:
        (one,) = await answers(parts, incoming, [bodies.Upload(given.image)], given.channel)
        if isinstance(one, ProblemError):
            raise one
        request_id, sha256 = uuid.UUID(one["request_id"]), one["image_sha256"]
    kind = "audit" if role == Role.REVIEW else "vote"

    def vote(image_sha256: str) -> feedback.Vote:
        return feedback.Vote(image_sha256, request_id, label, kind, user_id, given.channel, given.shown, key, given.body_sha256)

    def record() -> tuple[str, feedback.Added]:
        # whoever has waited for a thread meanwhile does not wait for a broken store as well
        if (reason := parts.recorder.state().error) is not None:
            raise unavailable(reason)
        image_sha256 = _image(parts.store, request_id, sha256, sent=given.image is not None)
        return image_sha256, feedback.add(parts.store, vote(image_sha256))

    try:
        async with asyncio.timeout_at(incoming.deadline):
            image_sha256, added = await parts.ask_store(record)
    except TimeoutError:
        raise too_late("the store did not take the feedback in time; it may yet, so send it again with the same Idempotency-Key") from None
    except StoreUnavailableError as error:
        parts.recorder.report(str(error))
        raise unavailable(str(error)) from None
    except feedback.ReusedKeyError:
        detail = "this user has used the Idempotency-Key for other feedback: use a new one"
        raise ProblemError("idempotency-key-reused", detail) from None
    if not added.repeated:
        parts.metrics.voted(kind, given.channel)
    said: dict[str, Any] = {
        "feedback_id": str(added.feedback_id),
        "image_sha256": image_sha256,
        "label": label,
        "kind": kind,
        "repeated": added.repeated,
    }
    return json_text.respond(said, 200 if added.repeated else 201)


def unavailable(reason: str) -> ProblemError:
    """Return the problem of a store that takes nothing."""
    return ProblemError("store-unavailable", f"the feedback is not recorded: {reason}", headers={"Retry-After": "5"})


def _limit(parts: Parts, incoming: Incoming, role: Role, user_id: str) -> None:
    """Count a vote; an auditor is trusted with as many as a token has."""
    per_minute = parts.settings.votes_per_minute
    limits = [(f"address {incoming.address}", _TIMES_A_USER * per_minute)]
    if b"authorization" in incoming.headers:
        limits.append((f"token {role.name}", _TIMES_A_USER * per_minute))
    if role != Role.REVIEW:
        limits.append((f"user {user_id}", per_minute))
    if seconds := parts.rate_limits.seconds_to_wait(limits):
        detail = f"more than {per_minute} votes a minute of a user, or {_TIMES_A_USER * per_minute} of an address or token"
        raise ProblemError("rate-limited", f"{detail}: wait {seconds} s", headers={"Retry-After": str(seconds)})


def _known_label(label: str, classes: list[str]) -> str:
    """The class of a label, whatever Unicode form the label is in."""
    if label in classes:
        return label
    label = unicodedata.normalize("NFC", label)
    if label in classes:
        return label
    raise ProblemError("unknown-label", f"{label!r} is no class of the model{nearest(label, classes)}: see GET /labels")


def _uuid(text: str | None) -> uuid.UUID | None:
    if text is None:
        return None
    if not _UUID.fullmatch(text):
        raise ProblemError("invalid", "request_id is no UUID: send that of a prediction")
    return uuid.UUID(text)


def _image(store: Store, request_id: uuid.UUID | None, sha256: str | None, *, sent: bool) -> str:
    """The image that feedback is about.

    Raises
    ------
    ProblemError
        ``unknown-request``, ``unknown-image``, or ``store-unavailable`` where it was sent along and could not be recorded.
    StoreUnavailableError
    """
    if sha256 is not None:
        if predictions.is_known_image(store, sha256):
            return sha256
        if sent:
            raise unavailable("the image could not be recorded")
        raise ProblemError("unknown-image", f"no prediction is about an image with the SHA-256 {sha256}")
    row = None if request_id is None else predictions.find(store, request_id)
    if row is None:
        raise ProblemError("unknown-request", f"no prediction has the request_id {request_id}")
    if row.image_sha256 is None:
        raise ProblemError("unknown-image", f"the image of the prediction {request_id} is not known")
    return str(row.image_sha256)
