"""What the service's store has of an image or a user can be counted, and goes whole; all else stays."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bccp.serving.store import feedback, opening, predictions, removal, tables
from bccp.serving.store.opening import Store, StoreUnavailableError
from support.served_records import answered, digest, vote

ANN, BOB = "a" * 60 + "face", "b" * 60 + "cafe"
ONE, TWO = b"one picture", b"another picture"


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    """A store in which two users have labelled two images, one of them alone."""
    store = opening.open_store(store_url, images=tmp_path / "images")
    for data in (ONE, TWO):
        store.images.put(digest(data), data)
        predictions.record(store, [answered(data)])
    for number in range(3):  # of which two are superseded
        feedback.add(store, replace(vote(ONE), user_id=ANN, idempotency_key=str(number)))
    feedback.add(store, replace(vote(TWO), user_id=ANN))
    feedback.add(store, replace(vote(TWO), user_id=BOB))
    with store.writing() as connection:
        now = datetime.now(UTC)
        connection.execute(tables.audit_task.insert().values(image_sha256=digest(ONE), reason="suspect", drawn_at=now))
        number = connection.execute(tables.source.insert().values(timestamp=now, image_path="/photos/one.png")).inserted_primary_key[0]
        of_one = tables.prediction.c.image_sha256 == digest(ONE)
        connection.execute(tables.prediction.update().where(of_one).values(source_id=number))
    yield store
    store.close()


def kept(store: Store) -> dict[str, bool]:
    with store.reading() as connection:
        return {row.sha256: row.keep for row in connection.execute(tables.image.select())}


def test_an_image_goes_with_all_that_was_said_of_it(store: Store) -> None:
    assert removal.image_rows(store, digest(ONE)) == {"feedback": 3, "audit_task": 1, "prediction": 1, "image": 1}
    removal.forget_image(store, digest(ONE))
    assert removal.image_rows(store, digest(ONE)) == {}
    assert store.images.read(digest(ONE)) is None
    assert removal.image_rows(store, digest(TWO)) == {"feedback": 2, "prediction": 1, "image": 1}
    assert store.images.read(digest(TWO)) == TWO
    with store.reading() as connection:
        assert connection.execute(tables.source.select()).all() == []
    removal.forget_image(store, digest(ONE))  # as after an interruption


def test_a_user_goes_and_images_that_nobody_else_labelled_are_kept_no_longer_than_others(store: Store) -> None:
    assert removal.images_of_users(store, {ANN, "ann"}) == sorted([digest(ONE), digest(TWO)])
    removal.forget_users(store, {ANN, "ann"})
    assert removal.user_rows(store, {ANN}) == {}
    assert removal.user_rows(store, {BOB}) == {"feedback": 1}
    assert kept(store) == {digest(ONE): False, digest(TWO): True}


def test_nothing_of_it_can_be_read_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    store = opening.open_store(f"sqlite:///{file}", images=tmp_path / "images")
    feedback.add(store, replace(vote(ONE), user_id=ANN))
    with closing(sqlite3.connect(file)) as database:  # deleted rows stay in free pages where SQLite is not told otherwise
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("CREATE TABLE old AS SELECT * FROM feedback")
        database.execute("DROP TABLE old")
        database.commit()
    removal.forget_users(store, {ANN})
    assert ANN.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("store.db*"))
    feedback.add(store, replace(vote(ONE), user_id=BOB))  # it goes on
    store.close()


def test_an_image_whose_file_cannot_be_deleted_can_be_forgotten_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(sha256: str) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(store.images, "delete", fail)
    with pytest.raises(StoreUnavailableError, match="Permission denied"):
        removal.forget_image(store, digest(ONE))
    monkeypatch.undo()
    removal.forget_image(store, digest(ONE))
    assert store.images.read(digest(ONE)) is None
