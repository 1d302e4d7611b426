"""Retention: predictions and images go after their time, feedback and the images that it is about stay."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from bccp.serving.store import feedback, images, predictions, retention, tables
from bccp.serving.store.opening import Store, open_store
from bccp.serving.store.retention import Swept, sweep
from support.served_records import answered, digest, vote

NOW = datetime.now(UTC)


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(store_url, images=tmp_path / "images")
    yield opened
    opened.close()


def seen_before(store: Store, days: float, *pictures: bytes) -> None:
    """Predictions and images as they were recorded so many days ago."""
    then = NOW - timedelta(days=days)
    predictions.record(store, [answered(data, created_at=then) for data in pictures])
    with store.writing() as connection:
        these = tables.image.c.sha256.in_([digest(data) for data in pictures])
        connection.execute(tables.image.update().where(these).values(stored_at=then))


def kept(store: Store) -> tuple[list[str], list[str]]:
    """Digests of predictions and of images; the latter have their files, and no others are there."""
    with store.reading() as connection:
        predicted = connection.execute(sa.select(tables.prediction.c.image_sha256)).scalars().all()
        pictured = connection.execute(sa.select(tables.image.c.sha256)).scalars().all()
    files = {path.name for path in store.images.folder.glob("[0-9a-f][0-9a-f]/*")}
    assert files == set(pictured)
    return sorted(predicted), sorted(pictured)


def digests(*pictures: bytes) -> list[str]:
    return sorted(map(digest, pictures))


def test_what_is_too_old_goes_unless_somebody_voted_on_it(store: Store) -> None:
    feedback.add(store, vote(b"voted before"))
    seen_before(store, 91, b"old", b"voted", b"voted before")
    seen_before(store, 89, b"young")
    feedback.add(store, vote(b"voted"))

    assert sweep(store, 90, "all", NOW) == Swept(n_predictions=3, n_images=1)
    assert kept(store) == (digests(b"young"), digests(b"young", b"voted", b"voted before"))
    assert feedback.pending(store) == 2
    assert sweep(store, 90, "all", NOW) == Swept(0, 0)


def test_images_wait_a_day_for_a_vote_where_only_those_with_one_are_kept(store: Store) -> None:
    seen_before(store, 1.1, b"yesterday", b"voted")
    seen_before(store, 0.9, b"today")
    feedback.add(store, vote(b"voted"))

    assert sweep(store, 90, "feedback", NOW) == Swept(n_predictions=0, n_images=1)
    assert kept(store) == (digests(b"yesterday", b"voted", b"today"), digests(b"voted", b"today"))


def test_everything_is_kept_for_ever_where_no_days_are_given(store: Store) -> None:
    seen_before(store, 9999, b"old")

    assert sweep(store, None, "all", NOW) == Swept(0, 0)


def test_an_image_that_is_seen_again_stays_and_one_that_was_swept_is_written_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    seen_before(store, 91, b"again", b"once")
    monkeypatch.setattr(images, "KNOWN_SECONDS", -1)  # as some minutes later
    predictions.record(store, [answered(b"again")])
    monkeypatch.undo()

    assert sweep(store, 90, "all", NOW) == Swept(n_predictions=2, n_images=1)
    predictions.record(store, [answered(b"once")])
    assert kept(store) == (digests(b"again", b"once"), digests(b"again", b"once"))


def test_a_file_that_somebody_deletes_comes_back_with_the_next_prediction(store: Store) -> None:
    predictions.record(store, [answered(b"a")])
    store.images.path(digest(b"a")).unlink()
    predictions.record(store, [answered(b"a")])

    assert store.images.read(digest(b"a")) == b"a"


def test_what_killed_processes_left_behind_goes_in_its_time(store: Store) -> None:
    predictions.record(store, [answered(b"good")])
    store.images.put(digest(b"stray"), b"stray")
    half = store.images.folder / "unfinished" / "half"
    half.write_bytes(b"st")
    sweep(store, 90, "all", NOW)
    assert half.exists()  # as somebody may be writing it

    two_hours_ago = time.time() - 7200
    for path in (half, store.images.path(digest(b"stray"))):
        os.utime(path, (two_hours_ago, two_hours_ago))
    assert sweep(store, 90, "all", NOW) == Swept(0, 0)
    assert not half.exists()
    assert kept(store)[1] == digests(b"good", b"stray")
    assert sweep(store, 90, "all", NOW + timedelta(days=91)) == Swept(n_predictions=1, n_images=2)
    assert kept(store) == ([], [])


def test_sweeps_while_the_same_images_are_seen_again_and_again_leave_no_row_without_its_file(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "KNOWN_SECONDS", -1)
    monkeypatch.setattr(retention, "KNOWN_SECONDS", -1)
    pictures = [bytes([number]) for number in range(20)]
    other = open_store(store_url, images=store.images.folder)
    ended = threading.Event()
    swept: list[int] = []

    def sweeping() -> None:
        while not ended.is_set():
            swept.append(sweep(other, None, "none", datetime.now(UTC)).n_images)

    sweeper = threading.Thread(target=sweeping)
    sweeper.start()
    try:
        for _ in range(60):
            predictions.record(store, [answered(data) for data in pictures])
            with store.writing() as connection:  # which holds the sweep up
                there = connection.execute(sa.select(tables.image.c.sha256).with_for_update()).scalars().all()
                assert [name for name in there if not store.images.path(name).exists()] == []
    finally:
        ended.set()
        sweeper.join()
    other.close()

    assert sum(swept) > 20
    assert len(kept(store)[0]) == 1200
