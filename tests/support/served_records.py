"""Made-up predictions and votes."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from bccp.serving.store.feedback import Vote
from bccp.serving.store.predictions import ImageFacts, PredictionRecord, new_request_id


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def answered(data: bytes = b"picture", **changed: Any) -> PredictionRecord:
    """A prediction of an image of these bytes."""
    facts: dict[str, Any] = {
        "request_id": new_request_id(),
        "created_at": datetime.now(UTC),
        "channel": "api",
        "image": ImageFacts(digest(data), len(data), "PNG", 32, 32),
        "data": data,
        "model_name": "bccp",
        "model_version": 3,
        "model_digest": "a" * 64,
        "predicted_class": "seven",
        "probability": 0.9375,
        "top_3": {"seven": 0.9375, "one": 0.0625},
        "error": None,
    }
    return PredictionRecord(**{**facts, **changed})


def vote(data: bytes = b"picture", **changed: Any) -> Vote:
    """A vote on an image of these bytes."""
    facts: dict[str, Any] = {
        "image_sha256": digest(data),
        "request_id": None,
        "label": "seven",
        "kind": "vote",
        "user_id": "u" * 64,
        "channel": "api",
        "shown": True,
        "idempotency_key": None,
        "body_sha256": "b" * 64,
    }
    return Vote(**{**facts, **changed})
