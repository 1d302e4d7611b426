"""Tables of the store, the same on SQLite (plain names) and PostgreSQL (schema ``bccp``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

SCHEMA_VERSION = 1
"""Of the tables below; a store with a higher one was made by a later release."""

SCHEMA = "bccp"
"""PostgreSQL's schema, into which the engine translates the tables' missing one."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A moment with a time zone; SQLite, which knows none, keeps it in UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Turn an aware time into what the database takes."""
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Give a time of the database its zone, UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_SHA256 = sa.CHAR(64)  # lower-case hexadecimal digits
_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_COUNTED = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite numbers rows by its own integers only

metadata = sa.MetaData()

schema_version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, primary_key=True, autoincrement=False))
"""One row."""

source = sa.Table(
    "source",
    metadata,
    sa.Column("id", _COUNTED, sa.Identity(), primary_key=True),
    sa.Column("timestamp", UtcDateTime, nullable=False),
    sa.Column("image_path", sa.Text, nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("published_at", UtcDateTime),
)
"""Images that wait to be predicted by a stream."""

image = sa.Table(
    "image",
    metadata,
    sa.Column("sha256", _SHA256, primary_key=True),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("format", sa.Text),
    sa.Column("width", sa.Integer),
    sa.Column("height", sa.Integer),
    sa.Column("stored_at", UtcDateTime, nullable=False),
    sa.Column("keep", sa.Boolean, nullable=False),
    sa.Index("image_to_sweep", "stored_at", sqlite_where=sa.text("NOT keep"), postgresql_where=sa.text("NOT keep")),
)
"""Images that were predicted. ``stored_at``: when one was last seen, give or take minutes; ``keep``: somebody has voted on it."""

prediction = sa.Table(
    "prediction",
    metadata,
    sa.Column("request_id", sa.Uuid, primary_key=True),
    sa.Column("event_id", sa.Text),
    sa.Column("source_id", sa.BigInteger),
    sa.Column("timestamp", UtcDateTime),
    sa.Column("image_sha256", _SHA256),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("model_name", sa.Text, nullable=False),
    sa.Column("model_version", sa.Integer),
    sa.Column("model_digest", _SHA256, nullable=False),
    sa.Column("predicted_class", sa.Text),
    sa.Column("probability", sa.Double),
    sa.Column("top_3", _JSON),
    sa.Column("payload", _JSON),
    sa.Column("error", sa.Text),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Index(
        "prediction_event",
        "event_id",
        unique=True,
        sqlite_where=sa.text("event_id IS NOT NULL"),
        postgresql_where=sa.text("event_id IS NOT NULL"),
    ),
    sa.Index("prediction_time", "created_at"),
)
"""Answers of the service, those to unreadable images with their ``error``. ``timestamp`` and ``source_id`` are those of the source's row.

There is no index by image: its pages would double the cost of a row.
"""

feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("feedback_id", sa.Uuid, primary_key=True),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("body_sha256", _SHA256),
    sa.Column("image_sha256", _SHA256, nullable=False),
    sa.Column("request_id", sa.Uuid),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, sa.CheckConstraint("kind IN ('vote', 'audit', 'random_audit')"), nullable=False),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("channel", sa.Text),
    sa.Column("shown", sa.Boolean),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("superseded_by", sa.Uuid),
    sa.Column("cycle_id", sa.BigInteger),
    sa.Index("feedback_key", "user_id", "idempotency_key", unique=True),
    sa.Index(
        "feedback_current",
        "image_sha256",
        "user_id",
        "kind",
        unique=True,
        sqlite_where=sa.text("superseded_by IS NULL"),
        postgresql_where=sa.text("superseded_by IS NULL"),
    ),
    sa.Index(
        "feedback_pending",
        "created_at",
        sqlite_where=sa.text("cycle_id IS NULL AND superseded_by IS NULL"),
        postgresql_where=sa.text("cycle_id IS NULL AND superseded_by IS NULL"),
    ),
)
"""People's labels. Of a user, an image and a kind one row is current: the one that no later row has superseded."""

audit_task = sa.Table(
    "audit_task",
    metadata,
    sa.Column("image_sha256", _SHA256, primary_key=True),
    sa.Column("reason", sa.Text, sa.CheckConstraint("reason IN ('suspect', 'random')"), primary_key=True),
    sa.Column("drawn_at", UtcDateTime, nullable=False),
    sa.Column("answered_at", UtcDateTime),
    sa.Column("answer", sa.Text),
)
"""Images that a reviewer is to look at."""

cycle = sa.Table(
    "cycle",
    metadata,
    sa.Column("cycle_id", _COUNTED, sa.Identity(), primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("config", _JSON),
    sa.Column("data_sha256", _SHA256),
    sa.Column("champion_before", sa.Text),
    sa.Column("run_id", sa.Text),
    sa.Column("verdict", sa.Text),
    sa.Column("champion_after", sa.Text),
    sa.Column("error", sa.Text),
    sa.Column("opened_at", UtcDateTime, nullable=False),
    sa.Column("ended_at", UtcDateTime),
    sa.Index("cycle_open", "state", unique=True, sqlite_where=sa.text("state = 'open'"), postgresql_where=sa.text("state = 'open'")),
)
"""Retrainings that feedback has opened, at most one of them open."""


def time_text(moment: datetime) -> str:
    """A time in UTC as SQLite keeps it and PostgreSQL, whose sessions are in UTC, reads it."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def insert(connection: sa.Connection, table: sa.Table, rows: Sequence[dict[str, Any]], on_conflict: str) -> None:
    """Insert rows in one statement.

    SQLAlchemy's own takes three times as long a row, and compiles a statement with ON CONFLICT anew each time.

    Parameters
    ----------
    connection : Connection
    table : Table
    rows : sequence of dict
        All with the same columns; times as :func:`time_text`, UUIDs as hexadecimal digits.
    on_conflict : str
        SQL of the statement's end.
    """
    if not rows:
        return
    columns = ", ".join(rows[0])
    if connection.dialect.name == "sqlite":
        place, parameters = table.name, rows
        for name in (column.name for column in table.c if isinstance(column.type, sa.JSON) and column.name in rows[0]):
            parameters = [row if row[name] is None else {**row, name: json.dumps(row[name])} for row in parameters]
        given = f"VALUES ({', '.join(f':{name}' for name in rows[0])})"
    else:
        place, parameters = f"{SCHEMA}.{table.name}", [{"rows": json.dumps(rows)}]
        given = f"SELECT {columns} FROM json_populate_recordset(NULL::{place}, %(rows)s)"  # nosec B608
    connection.exec_driver_sql(f"INSERT INTO {place} ({columns}) {given} {on_conflict}", parameters)
