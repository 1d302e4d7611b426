"""Removal from the store: all that it has of an image, or of what a user has said."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from typing import Any

import sqlalchemy as sa

from bccp.serving.store import tables
from bccp.serving.store.opening import Store, available

_WAIT_MILLISECONDS = 60_000


def image_rows(store: Store, sha256: str) -> dict[str, int]:
    """Count the rows about an image, by table; tables without one are left out."""
    return _counted(store, {table: table.c[column] == sha256 for table, column in _OF_IMAGES.items()})


def user_rows(store: Store, user_ids: Collection[str]) -> dict[str, int]:
    """Count the rows of users' feedback."""
    return _counted(store, {tables.feedback: tables.feedback.c.user_id.in_(user_ids)})


def images_of_users(store: Store, user_ids: Collection[str]) -> list[str]:
    """Digests of the images that users gave labels to."""
    column = tables.feedback.c.image_sha256
    with store.reading() as connection:
        return sorted(connection.scalars(sa.select(column).where(tables.feedback.c.user_id.in_(user_ids)).distinct()))


_OF_IMAGES = {
    tables.feedback: "image_sha256",
    tables.audit_task: "image_sha256",
    tables.prediction: "image_sha256",
    tables.image: "sha256",
}


def _counted(store: Store, wanted: dict[sa.Table, sa.ColumnElement[bool]]) -> dict[str, int]:
    with store.reading() as connection:
        counts = {
            table.name: connection.execute(sa.select(sa.func.count()).select_from(table).where(condition)).scalar_one()
            for table, condition in wanted.items()
        }
    return {name: n for name, n in counts.items() if n}


def forget_image(store: Store, sha256: str) -> None:
    """Delete the rows about an image, then its file.

    Raises
    ------
    StoreUnavailableError
        If the store does not take it; then all rows are there still.
    """
    source, prediction = tables.source, tables.prediction
    with store.writing(durable=True) as connection:
        named = sa.select(prediction.c.source_id).where(prediction.c.image_sha256 == sha256, prediction.c.source_id.is_not(None))
        connection.execute(source.delete().where(source.c.id.in_(named)))  # by the path of its file
        for table, column in _OF_IMAGES.items():
            connection.execute(table.delete().where(table.c[column] == sha256))
    with available():
        store.images.delete(sha256)
    erase_deleted(store)


def forget_users(store: Store, user_ids: Collection[str]) -> None:
    """Delete the feedback of users; images that nobody else has voted on are kept no longer than others.

    Raises
    ------
    StoreUnavailableError
        If the store does not take it; then all rows are there still.
    """
    feedback, image = tables.feedback, tables.image
    with store.writing(durable=True) as connection:
        own = sa.select(feedback.c.image_sha256).where(feedback.c.user_id.in_(user_ids))
        others = sa.select(feedback.c.image_sha256).where(feedback.c.user_id.not_in(user_ids))
        alone = image.c.sha256.in_(own) & image.c.sha256.not_in(others)
        connection.execute(image.update().where(alone).values(keep=False))
        connection.execute(feedback.delete().where(feedback.c.user_id.in_(user_ids)))
    erase_deleted(store)


def erase_deleted(store: Store) -> None:
    """Write SQLite's file anew, in whose free pages deleted rows can be read else; writers wait meanwhile.

    PostgreSQL does so by itself, and keeps what its own backups and logs have.

    Raises
    ------
    StoreUnavailableError
        If others use the file for a minute.
    """
    if store.durable.dialect.name != "sqlite":
        return
    with available(), closing(store.durable.raw_connection()) as borrowed:
        connection: Any = borrowed.driver_connection
        connection.execute(f"PRAGMA busy_timeout = {_WAIT_MILLISECONDS}")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        borrowed.invalidate()  # with its longer wait
