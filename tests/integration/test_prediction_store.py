"""Predictions and feedback in the store, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from bccp.core.errors import BCCPError
from bccp.serving.store import feedback, predictions, tables
from bccp.serving.store.opening import NoStoreError, Store, open_store
from support.served_records import answered, digest, vote


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(store_url, images=tmp_path / "images")
    yield opened
    opened.close()


def rows(store: Store, table: sa.Table) -> list[dict[str, object]]:
    with store.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(table))]


def test_predictions_come_back_as_they_were_recorded(store: Store) -> None:
    noon_in_tokyo = datetime(2026, 12, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    good = answered(b"a", created_at=noon_in_tokyo, event_id="source:17", predicted_class="Ä'\"\\</b>", top_3={"Ä'\"\\</b>": 0.9375})
    bad = answered(b"b", predicted_class=None, probability=None, top_3=None, error="truncated", model_version=None)

    predictions.record(store, [good, bad])

    row = predictions.find(store, good.request_id)
    assert row is not None
    assert (row.image_sha256, row.channel, row.model_name, row.model_version, row.model_digest) == (
        digest(b"a"),
        "api",
        "bccp",
        3,
        "a" * 64,
    )
    assert (row.predicted_class, row.probability, row.top_3) == ("Ä'\"\\</b>", 0.9375, {"Ä'\"\\</b>": 0.9375})
    assert (row.created_at, row.created_at.tzinfo, row.event_id, row.error) == (noon_in_tokyo, UTC, "source:17", None)
    row = predictions.find(store, bad.request_id)
    assert row is not None
    assert (row.predicted_class, row.probability, row.top_3, row.error, row.model_version) == (None, None, None, "truncated", None)
    assert predictions.find(store, uuid.uuid4()) is None


def test_a_prediction_that_is_recorded_again_leaves_one_row_and_images_one_file(store: Store) -> None:
    twice = answered(b"a")
    predictions.record(store, [twice, answered(b"a")])
    predictions.record(store, [twice, answered(b"c")])

    assert len(rows(store, tables.prediction)) == 3
    assert {row["sha256"]: row["bytes"] for row in rows(store, tables.image)} == {digest(b"a"): 1, digest(b"c"): 1}
    assert store.images.read(digest(b"a")) == b"a"
    assert sorted(path.name for path in store.images.folder.rglob("*") if path.is_file()) == sorted([digest(b"a"), digest(b"c")])


def test_a_user_s_later_vote_on_an_image_supersedes_the_earlier_one(store: Store) -> None:
    predictions.record(store, [answered(b"a")])
    first = feedback.add(store, vote(b"a", label="one"))
    second = feedback.add(store, vote(b"a", label="seven"))
    feedback.add(store, vote(b"a", label="two", user_id="v" * 64))

    assert [(row["label"], row["superseded_by"]) for row in rows(store, tables.feedback)] == [
        ("one", second.feedback_id),
        ("seven", None),
        ("two", None),
    ]
    assert not first.repeated
    assert feedback.pending(store) == 2
    assert [row["keep"] for row in rows(store, tables.image)] == [True]


def test_the_later_vote_counts_though_the_clock_was_set_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions.record(store, [answered()])
    feedback.add(store, vote(label="one"))
    monkeypatch.setattr(feedback, "datetime", SimpleNamespace(now=lambda zone: datetime(2001, 1, 1, tzinfo=zone)))
    later = feedback.add(store, vote(label="two"))
    with store.reading() as connection:
        found = connection.execute(sa.select(tables.feedback).where(tables.feedback.c.superseded_by.is_(None))).all()
    assert [(row.feedback_id, row.label) for row in found] == [(later.feedback_id, "two")]


def test_a_vote_that_is_sent_again_is_the_same_one_and_its_key_stands_for_no_other(store: Store) -> None:
    first = feedback.add(store, vote(idempotency_key="k"))
    again = feedback.add(store, vote(idempotency_key="k"))

    assert again == feedback.Added(first.feedback_id, repeated=True)
    with pytest.raises(feedback.ReusedKeyError):
        feedback.add(store, vote(idempotency_key="k", body_sha256="c" * 64))
    with pytest.raises(feedback.ReusedKeyError):
        feedback.add(store, vote(idempotency_key="k", kind="audit"))
    assert not feedback.add(store, vote(idempotency_key="k", user_id="v" * 64)).repeated
    assert len(rows(store, tables.feedback)) == 2


def test_no_vote_takes_an_audit_s_place(store: Store) -> None:
    feedback.add(store, vote(kind="audit", label="one"))
    feedback.add(store, vote(kind="vote", label="two"))

    assert {row["label"]: row["superseded_by"] for row in rows(store, tables.feedback)} == {"one": None, "two": None}


def test_a_store_of_a_later_release_is_refused(store: Store, store_url: str, tmp_path: Path) -> None:
    with store.writing() as connection:
        connection.execute(tables.schema_version.update().values(version=tables.SCHEMA_VERSION + 1))

    with pytest.raises(BCCPError, match=r"was made by a later BCCP \(schema 2, this one knows 1\): install that release"):
        open_store(store_url, images=tmp_path / "images")


def test_a_database_of_others_is_left_alone(store_url: str, tmp_path: Path) -> None:
    engine = sa.create_engine(store_url)
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("CREATE SCHEMA bccp")
        connection.exec_driver_sql(f"CREATE TABLE {'bccp.' * (connection.dialect.name == 'postgresql')}image (name text)")
    engine.dispose()

    with pytest.raises(BCCPError, match=r"has a table image that is not the store's: set store.url to a database of its own"):
        open_store(store_url, images=tmp_path / "images")


def test_a_store_that_is_only_to_be_read_is_not_made(store_url: str, tmp_path: Path) -> None:
    with pytest.raises(NoStoreError, match=r"there is no store .*: start bccp serve first"):
        open_store(store_url, images=tmp_path / "images", create=False)

    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("store.db", "images"))]


def test_at_most_one_cycle_is_open(store: Store) -> None:
    opened = tables.cycle.insert().values(state="open", opened_at=datetime.now(UTC), config={"a": 1})
    with store.writing() as connection:
        connection.execute(tables.cycle.insert().values(state="ended", opened_at=datetime.now(UTC)))
        connection.execute(tables.cycle.insert().values(state="ended", opened_at=datetime.now(UTC)))
        connection.execute(opened)

    with pytest.raises(sa.exc.IntegrityError), store.writing() as connection:
        connection.execute(opened)
    assert json.dumps([row["config"] for row in rows(store, tables.cycle)]) == '[null, null, {"a": 1}]'


def test_feedback_waits_for_the_disk_and_predictions_do_not(store: Store) -> None:
    setting = "PRAGMA synchronous" if store.engine.dialect.name == "sqlite" else "SHOW synchronous_commit"

    found = []
    for durable in (False, True):
        with store.writing(durable=durable) as connection:
            found.append(connection.exec_driver_sql(setting).scalar_one())

    assert found in ([1, 2], ["off", "on"])


def test_an_image_that_somebody_votes_on_is_on_the_disk_before_the_vote_is(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    predictions.record(store, [answered(b"a"), answered(b"b")])
    synced: list[tuple[str, int]] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append((Path(f"/proc/self/fd/{handle}").resolve().name, feedback.pending(store)))
    )

    for data in (b"a", b"b", b"a", b"unknown"):
        feedback.add(store, vote(data))

    folders = [digest(data)[:2] for data in (b"a", b"b")]
    assert synced == [(digest(b"a"), 0), (folders[0], 0), (digest(b"b"), 1), (folders[1], 1)]


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite:///relative.db", "no absolute path"),
        ("sqlite:////a.db?mode=ro", "no absolute path"),
        ("mysql://user:secret@host/x", "is not accepted"),
        ("postgresql://user:secret@host:port/x", "cannot be read"),
        ("postgresql://user:secret@127.0.0.1:1/x?password=secret", "cannot be opened .*: set store.url to a database that can be"),
        ("sqlite:////dev/null/store.db", "cannot be made"),
        ("sqlite:///{}/picture", "cannot be opened .*not a database"),
    ],
)
def test_an_address_that_leads_to_no_store_is_refused_in_one_sentence_without_its_secrets(url: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"no database" * 100)

    with pytest.raises(BCCPError, match=sentence) as error:
        open_store(url.format(tmp_path), images=tmp_path / "images")

    assert "secret" not in str(error.value)
    assert "store.url" in str(error.value)


def test_a_default_store_lies_in_the_home(bare_home: Path) -> None:
    store = open_store(None)
    predictions.record(store, [answered(b"a")])
    store.close()

    assert (bare_home / "serving" / "store.db").is_file()
    assert (bare_home / "serving" / "images" / digest(b"a")[:2] / digest(b"a")).is_file()


def test_ids_of_requests_sort_by_their_time_and_are_of_version_7() -> None:
    ids = []
    for _ in range(3):
        ids.append(predictions.new_request_id())
        time.sleep(0.002)

    assert ids == sorted(ids)
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
