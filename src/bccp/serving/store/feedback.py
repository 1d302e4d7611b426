"""Feedback: people's labels for images, each recorded once and before it is acknowledged."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa

from bccp.serving.store import tables
from bccp.serving.store.opening import Store


@dataclass(frozen=True, slots=True)
class Vote:
    """A label that a person has given to an image.

    Attributes
    ----------
    request_id : uuid.UUID or None
        The prediction that it answers to.
    kind : str
        ``vote``, ``audit`` or ``random_audit``.
    user_id : str
        Never the name itself (:func:`bccp.serving.user_names.hashed`).
    shown : bool or None
        Whether the person saw the prediction.
    idempotency_key : str or None
        The user's own name for this vote; sent again it is the same one.
    body_sha256 : str
        Digest of the request, which tells whether a key was used for something else.
    """

    image_sha256: str
    request_id: uuid.UUID | None
    label: str
    kind: str
    user_id: str
    channel: str
    shown: bool | None
    idempotency_key: str | None
    body_sha256: str


@dataclass(frozen=True)
class Added:
    """The row of a vote, and whether an earlier request had made it."""

    feedback_id: uuid.UUID
    repeated: bool


class ReusedKeyError(Exception):
    """A user's idempotency key that stands for another vote already."""


def add(store: Store, vote: Vote) -> Added:
    """Record a vote, durably; it supersedes the one that the user has given to the image before.

    A vote never supersedes an audit, nor the other way round. Which one is later is a matter of the transactions' order: a clock that
    was set back changes nothing.

    Parameters
    ----------
    store : Store
    vote : Vote

    Returns
    -------
    Added

    Raises
    ------
    ReusedKeyError
        If the user's key stands for another vote.
    StoreUnavailableError
        If the store does not take it; then nothing is recorded.
    """
    row = tables.feedback.c
    feedback_id = uuid.uuid4()
    with store.writing(durable=True) as connection:
        if connection.dialect.name == "postgresql":  # one transaction a user at a time, as SQLite has it for all
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(vote.user_id, 0))))
        if vote.idempotency_key is not None:
            earlier = connection.execute(
                sa.select(row.feedback_id, row.body_sha256, row.kind).where(
                    row.user_id == vote.user_id, row.idempotency_key == vote.idempotency_key
                )
            ).one_or_none()
            if earlier is not None:
                if (earlier.body_sha256, earlier.kind) != (vote.body_sha256, vote.kind):
                    raise ReusedKeyError(vote.idempotency_key)
                return Added(earlier.feedback_id, repeated=True)
        current = (row.image_sha256 == vote.image_sha256, row.user_id == vote.user_id, row.kind == vote.kind, row.superseded_by.is_(None))
        connection.execute(tables.feedback.update().where(*current).values(superseded_by=feedback_id))
        connection.execute(
            tables.feedback.insert().values(
                feedback_id=feedback_id,
                idempotency_key=vote.idempotency_key,
                body_sha256=vote.body_sha256,
                image_sha256=vote.image_sha256,
                request_id=vote.request_id,
                label=vote.label,
                kind=vote.kind,
                user_id=vote.user_id,
                channel=vote.channel,
                shown=vote.shown,
                created_at=datetime.now(UTC),
            )
        )
        kept = tables.image.update().where(tables.image.c.sha256 == vote.image_sha256, sa.not_(tables.image.c.keep)).values(keep=True)
        if connection.execute(kept).rowcount:
            store.images.sync(vote.image_sha256)
    return Added(feedback_id, repeated=False)


def pending(store: Store) -> int:
    """Number of current votes that no cycle has taken up."""
    row = tables.feedback.c
    with store.reading() as connection:
        waiting = sa.select(sa.func.count()).where(row.cycle_id.is_(None), row.superseded_by.is_(None))
        return int(connection.execute(waiting.select_from(tables.feedback)).scalar_one())
