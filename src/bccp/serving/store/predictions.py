"""Predictions and their images, recorded many at a time."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from bccp.serving.store import tables
from bccp.serving.store.opening import Store


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image as it was sent; ``format`` and sides in px are None where they are not known."""

    sha256: str
    n_bytes: int
    format: str | None
    width: int | None
    height: int | None


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """An answer of the service, and the image that it is about.

    Attributes
    ----------
    data : bytes or None
        The image's bytes; None where they are not to be kept.
    error : str or None
        Kind of the problem that was answered instead of a class; what is no image is not kept.
    """

    request_id: uuid.UUID
    created_at: datetime
    channel: str
    image: ImageFacts | None
    data: bytes | None
    model_name: str
    model_version: int | None
    model_digest: str
    predicted_class: str | None
    probability: float | None
    top_3: dict[str, float] | None
    error: str | None
    event_id: str | None = None


def new_request_id() -> uuid.UUID:
    """Make a random id that sorts by time (UUID version 7, RFC 9562), so that new rows lie on the same pages of the index."""
    bits = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10), "big")
    return uuid.UUID(int=bits & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def record(store: Store, records: Sequence[PredictionRecord], *, keep_files: bool = True) -> None:
    """Record predictions, their images and the images' files in one transaction; those that are there already stay as they are.

    Parameters
    ----------
    store : Store
    records : sequence of PredictionRecord
    keep_files : bool
        Keep the images' bytes, too.

    Raises
    ------
    StoreUnavailableError
        If the store does not take them; then it holds none of the predictions.
    """
    images = {one.image.sha256: (one.image, one.data if keep_files else None) for one in records if one.image and one.error is None}
    new = {sha256: image for sha256, image in images.items() if not store.images.is_known(sha256, kept=image[1] is not None)}
    with store.writing() as connection:
        see_images(store, connection, new.values())
        tables.insert(connection, tables.prediction, [_row(one) for one in records], "ON CONFLICT DO NOTHING")
    for sha256 in new:
        store.images.remember(sha256)


def see_images(store: Store, connection: sa.Connection, images: Iterable[tuple[ImageFacts, bytes | None]]) -> None:
    """Write rows of images within a transaction, and files of those whose bytes are given.

    The rows come first: while they are locked no sweep takes the files away.
    """
    seen = sorted(images, key=lambda image: image[0].sha256)  # transactions that lock in one order do not wait in a circle
    now = tables.time_text(datetime.now(UTC))
    rows = [
        {
            "sha256": facts.sha256,
            "bytes": facts.n_bytes,
            "format": facts.format,
            "width": facts.width,
            "height": facts.height,
            "stored_at": now,
            "keep": False,
        }
        for facts, _ in seen
    ]
    tables.insert(connection, tables.image, rows, "ON CONFLICT (sha256) DO UPDATE SET stored_at = excluded.stored_at")
    for facts, data in seen:
        if data is not None:
            store.images.put(facts.sha256, data)


def find(store: Store, request_id: uuid.UUID) -> sa.Row[Any] | None:
    """Return a prediction's row by its request; None where there is none."""
    with store.reading() as connection:
        return connection.execute(sa.select(tables.prediction).where(tables.prediction.c.request_id == request_id)).one_or_none()


def is_known_image(store: Store, sha256: str) -> bool:
    """Return True for an image that was predicted and is not yet forgotten."""
    with store.reading() as connection:
        return connection.execute(sa.select(tables.image.c.sha256).where(tables.image.c.sha256 == sha256)).first() is not None


def _row(one: PredictionRecord) -> dict[str, Any]:
    return {
        "request_id": one.request_id.hex,
        "event_id": one.event_id,
        "image_sha256": None if one.image is None else one.image.sha256,
        "channel": one.channel,
        "model_name": one.model_name,
        "model_version": one.model_version,
        "model_digest": one.model_digest,
        "predicted_class": one.predicted_class,
        "probability": one.probability,
        "top_3": one.top_3,
        "error": one.error,
        "created_at": tables.time_text(one.created_at),
    }
