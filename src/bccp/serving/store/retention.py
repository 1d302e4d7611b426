"""Retention: predictions, images without a vote and what killed processes left behind go after their time."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import sqlalchemy as sa

from bccp.serving.store import tables
from bccp.serving.store.images import KNOWN_SECONDS
from bccp.serving.store.opening import Store, available

UNVOTED_DAYS = 1.0
"""For which images wait for a vote where only those with one are kept."""

_BATCH = 200  # rows of a transaction, so that predictions and feedback need not wait for long
_PAUSE_SECONDS = 0.02  # between transactions, for the same reason
_STRAY_SECONDS = 3600.0  # after which no process is still about to write a row to a file


@dataclass(frozen=True)
class Swept:
    """Numbers of the rows of predictions and of the images that were deleted."""

    n_predictions: int
    n_images: int


def sweep(store: Store, keep_days: float | None, keep_images: str, now: datetime) -> Swept:
    """Delete what is older than it is to be kept, a few hundred rows at a time; images that somebody voted on and all feedback stay.

    Parameters
    ----------
    store : Store
    keep_days : float or None
        For predictions and images; None: for ever.
    keep_images : str
        ``all``; ``feedback``: images without a vote go after a day; ``none``: at once.
    now : datetime
        With a time zone.

    Returns
    -------
    Swept

    Raises
    ------
    StoreUnavailableError
        If the store takes no more; what was deleted until then stays deleted.
    """
    days = [] if keep_days is None else [keep_days]
    days += {"all": [], "feedback": [UNVOTED_DAYS], "none": [0.0]}[keep_images]
    n_predictions = _sweep_predictions(store, now - timedelta(days=keep_days)) if keep_days is not None else 0
    with available():
        _adopt_strays(store)
    n_images = _sweep_images(store, now - timedelta(days=min(days), seconds=KNOWN_SECONDS)) if days else 0
    return Swept(n_predictions, n_images)


def _sweep_predictions(store: Store, before: datetime) -> int:
    row = tables.prediction.c
    n_deleted = 0
    while True:
        with store.writing() as connection:
            old = sa.select(row.request_id).where(row.created_at < before).order_by(row.created_at).limit(_BATCH)
            n = connection.execute(tables.prediction.delete().where(row.request_id.in_(old))).rowcount
        n_deleted += n
        if n < _BATCH:
            return n_deleted
        time.sleep(_PAUSE_SECONDS)


def _sweep_images(store: Store, before: datetime) -> int:
    """Delete images last seen before a moment that is earlier than those that a process takes for known without renewing their rows.

    The files go while the rows are locked: whoever sees such an image again waits, and then writes both anew.
    """
    row, voted = tables.image.c, tables.feedback.c.image_sha256
    unwanted = (row.stored_at < before, sa.not_(row.keep), ~sa.exists().where(voted == row.sha256))
    n_deleted = 0
    while True:
        with store.writing() as connection:
            old = sa.select(row.sha256).where(*unwanted).order_by(row.stored_at).limit(_BATCH).with_for_update(skip_locked=True)
            digests = connection.execute(tables.image.delete().where(row.sha256.in_(old)).returning(row.sha256)).scalars().all()
            for sha256 in digests:
                store.images.delete(sha256)
        n_deleted += len(digests)
        if len(digests) < _BATCH:
            return n_deleted
        time.sleep(_PAUSE_SECONDS)


def _adopt_strays(store: Store) -> None:
    """Give rows to files that a killed process has written for a transaction that it did not commit, so that they go in their time."""
    files = store.images.files(older_than=_STRAY_SECONDS)
    while some := list(islice(files, _BATCH)):
        found = {path.name: path for path in some}
        row = tables.image.c.sha256
        with store.reading() as connection:
            strays = found.keys() - set(connection.execute(sa.select(row).where(row.in_(list(found)))).scalars())
        rows = []
        for name in sorted(strays):
            with suppress(FileNotFoundError):  # another process sweeps, too
                about = found[name].stat()
                written = tables.time_text(datetime.fromtimestamp(about.st_mtime, UTC))
                rows.append({"sha256": name, "bytes": about.st_size, "stored_at": written, "keep": False})
        if rows:
            with store.writing() as connection:
                tables.insert(connection, tables.image, rows, "ON CONFLICT DO NOTHING")
