"""Recording beside the service: in order, and never in an answer's way when the store is locked, full, read-only, gone or mute."""

from __future__ import annotations

import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bccp.serving import recording
from bccp.serving.recording import Recorder, RecordingState
from bccp.serving.store import feedback, predictions, tables
from bccp.serving.store.opening import Store, StoreUnavailableError, open_store
from support.served_records import answered, digest, vote


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if getattr(request, "param", "sqlite") == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    opened = open_store(url, images=tmp_path / "images")
    yield opened
    opened.close()


@pytest.fixture
def recorder(store: Store) -> Iterator[Recorder]:
    started = Recorder(store, "all")
    started.start()
    yield started
    started.stop()


def seconds_until_answered(recorder: Recorder, *records: predictions.PredictionRecord) -> float:
    """Record, and return for how long an answer has waited for it."""
    done, begun = threading.Event(), time.monotonic()
    recorder.put(records or [answered()], done.set)
    assert done.wait(10)
    return time.monotonic() - begun


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def n_rows(store: Store) -> int:
    with store.reading() as connection:
        return int(connection.execute(sa.select(sa.func.count()).select_from(tables.prediction)).scalar_one())


def test_row_and_image_are_there_before_the_answer_leaves(store: Store, recorder: Recorder) -> None:
    there: list[bool] = []
    one = answered(b"a")

    def look() -> None:
        there.append(predictions.find(store, one.request_id) is not None and store.images.read(digest(b"a")) == b"a")

    recorder.put([one], look)
    recorder.stop()

    assert there == [True]
    assert recorder.state() == RecordingState(lost=0, error=None)


def test_what_waits_is_recorded_together_and_in_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    record = predictions.record

    def counted(store: Store, records: Any, **options: Any) -> None:
        sizes.append(len(records))
        record(store, records, **options)

    monkeypatch.setattr(predictions, "record", counted)
    recorder, done = Recorder(store, "all"), []
    for number in range(40):
        recorder.put([answered(bytes([number]))], lambda: done.append(1))
    recorder.start()
    recorder.stop()

    assert (len(done), n_rows(store), sizes) == (40, 40, [40])


def test_images_are_not_kept_where_none_are_to_be(store: Store) -> None:
    recorder = Recorder(store, "none")
    recorder.start()
    seconds_until_answered(recorder, answered(b"a"))
    recorder.stop()

    assert n_rows(store) == 1
    assert predictions.is_known_image(store, digest(b"a"))
    assert not store.images.path(digest(b"a")).exists()


def test_what_somebody_else_reports_is_looked_into_at_once(store: Store, recorder: Recorder) -> None:
    recorder.report("a store that is well")
    until(lambda: recorder.state().error is None)
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(Store, "check_writable", refuse)
        recorder.report("database is locked")
        until(lambda: recorder.state().error == "still locked")
    until(lambda: recorder.state().error is None)
    assert recorder.state().lost == 0


def refuse(store: Store) -> None:
    raise StoreUnavailableError("still locked")


def test_a_record_that_the_store_cannot_hold_hurts_no_other(store: Store, recorder: Recorder) -> None:
    before, bad, after = answered(b"a"), answered(b"b", predicted_class="\ud800"), answered(b"c")

    seconds_until_answered(recorder, before, bad, after)

    assert recorder.state() == RecordingState(lost=1, error=None)
    assert [predictions.find(store, one.request_id) is not None for one in (before, bad, after)] == [True, False, True]


def test_another_service_that_writes_to_the_same_file_all_the_time_leaves_room(url: str, store: Store, recorder: Recorder) -> None:
    ended = threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path_of(url), isolation_level=None, timeout=0)) as other:
            while not ended.wait(0.0005):
                with suppress(sqlite3.OperationalError):  # it is locked
                    other.execute("BEGIN IMMEDIATE")
                    time.sleep(0.01)  # for the disk
                    other.execute("COMMIT")

    service = threading.Thread(target=write)
    service.start()
    try:
        for _ in range(30):
            seconds_until_answered(recorder)
            feedback.add(store, vote())
    finally:
        ended.set()
        service.join()

    assert recorder.state() == RecordingState(0, None)


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def locked(url: str, store: Store) -> Iterator[None]:
    with closing(sqlite3.connect(path_of(url), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(url: str, store: Store) -> Iterator[None]:
    """No file may grow."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(url: str, store: Store) -> Iterator[None]:
    def settle(connection: Any, record: Any, proxy: Any) -> None:
        connection.execute("PRAGMA query_only=ON")

    for engine in (store.engine, store.durable):
        sa.event.listen(engine, "checkout", settle)
    yield
    for engine in (store.engine, store.durable):
        sa.event.remove(engine, "checkout", settle)
    store.close()  # connections that stay read-only


@contextmanager
def gone(url: str, store: Store) -> Iterator[None]:
    path_of(url).rename(path_of(url).with_name("elsewhere"))
    yield
    path_of(url).with_name("elsewhere").rename(path_of(url))


@contextmanager
def without_images(url: str, store: Store) -> Iterator[None]:
    elsewhere = store.images.folder.with_name("elsewhere")
    store.images.folder.rename(elsewhere)
    yield
    elsewhere.rename(store.images.folder)


def command_server(url: str, *commands: str) -> None:
    """Let the server run commands in another database than the store's, and end all connections to that one."""
    address = sa.make_url(url)
    engine = sa.create_engine(address.set(database="template1"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for command in commands:
            connection.exec_driver_sql(command.format(address.database))
        connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (address.database,))
    engine.dispose()


@contextmanager
def table_locked(url: str, store: Store) -> Iterator[None]:
    other = sa.create_engine(url)
    with other.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE bccp.prediction, bccp.feedback IN ACCESS EXCLUSIVE MODE")
        yield
    other.dispose()


@contextmanager
def server_read_only(url: str, store: Store) -> Iterator[None]:
    """As one that another server has taken over from."""
    command_server(url, "ALTER DATABASE {} SET default_transaction_read_only = on")
    yield
    command_server(url, "ALTER DATABASE {} SET default_transaction_read_only = off")


@contextmanager
def server_gone(url: str, store: Store) -> Iterator[None]:
    command_server(url, "ALTER DATABASE {} ALLOW_CONNECTIONS false")
    yield
    command_server(url, "ALTER DATABASE {} ALLOW_CONNECTIONS true")


BROKEN = [
    ("sqlite", locked, "database is locked"),
    ("sqlite", full, "disk I/O error|database or disk is full|File too large"),
    ("sqlite", read_only, "readonly database"),
    ("sqlite", gone, "deleted or replaced|unable to open"),
    ("sqlite", without_images, "No such file or directory"),
    ("postgresql", table_locked, "lock timeout"),
    ("postgresql", server_read_only, "read-only transaction"),
    ("postgresql", server_gone, "not currently accepting connections"),
]


@pytest.mark.parametrize(("url", "broken", "reason"), BROKEN, indirect=["url"], ids=[one[1].__name__ for one in BROKEN])
def test_a_broken_store_is_said_and_counted_and_holds_no_answer_up_until_it_is_back(
    store: Store, recorder: Recorder, url: str, broken: Callable[..., Any], reason: str
) -> None:
    seconds_until_answered(recorder, answered(b"before"))
    with broken(url, store):
        assert seconds_until_answered(recorder, answered(b"first")) < 2  # one second, on a busy machine
        until(lambda: recorder.state().error not in (None, "the store does not answer"))
        error = str(recorder.state().error)
        assert max(seconds_until_answered(recorder, answered(bytes([number]))) for number in range(50)) < 0.5
        until(lambda: recorder.state().lost >= 50)  # one of them may have been an attempt
        if broken is not without_images:
            with pytest.raises(StoreUnavailableError):
                feedback.add(store, vote())
    until(lambda: recorder.state().error is None)
    lost = recorder.state().lost
    seconds_until_answered(recorder, answered(b"after"))

    assert any(part in error for part in reason.split("|")), error
    assert recorder.state() == RecordingState(lost, None)
    assert n_rows(store) == 2 + 51 - lost
    assert feedback.pending(store) == 0


def test_a_store_that_does_not_answer_holds_answers_up_for_two_seconds_and_the_end_for_a_few(
    store: Store, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, record = threading.Event(), predictions.record

    def mute(store: Store, records: Any, **options: Any) -> None:
        answers.wait()
        record(store, records, **options)

    monkeypatch.setattr(predictions, "record", mute)
    assert seconds_until_answered(recorder, answered(b"first")) < 4
    assert recorder.state() == RecordingState(0, "the store does not answer")  # it may take the first one yet
    assert seconds_until_answered(recorder, answered(b"second")) < 0.5
    assert recorder.state().lost == 1

    answers.set()
    until(lambda: recorder.state() == RecordingState(1, None))
    assert n_rows(store) == 1

    answers.clear()
    monkeypatch.setattr(recording, "_STOP_SECONDS", 0.2)
    done = threading.Event()
    recorder.put([answered()], done.set)
    recorder.stop()
    assert done.is_set()
    assert recorder.state().lost == 2
    answers.set()


def test_what_comes_after_the_end_is_answered(recorder: Recorder) -> None:
    recorder.stop()

    assert seconds_until_answered(recorder) < 0.5
    assert recorder.state().lost == 1
