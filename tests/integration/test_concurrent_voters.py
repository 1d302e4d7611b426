"""Several processes and threads at one store: it is made once, and of each user, image and kind one vote is current."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from bccp.serving.store import feedback, tables
from bccp.serving.store.opening import open_store
from support.served_records import vote

PROCESS = """
import sys
from pathlib import Path
from bccp.serving.store import feedback
from bccp.serving.store.opening import open_store
from support.served_records import vote

print("ready", flush=True)
sys.stdin.readline()
store = open_store(sys.argv[1], images=Path(sys.argv[2]))
for number in range(20):
    feedback.add(store, vote(b"shared", label=f"{sys.argv[3]} {number}", idempotency_key=f"{number}"))
store.close()
"""


def test_processes_that_open_a_store_at_once_and_repeat_each_other_s_votes_leave_each_once(
    store_url: str, tmp_path: Path, root: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root / "tests")])}
    arguments = [store_url, str(tmp_path / "images")]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments, name], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n")
    assert [process.returncode for process in processes] == [0, 0]

    store = open_store(store_url, images=tmp_path / "images")
    with store.reading() as connection:
        votes = connection.execute(sa.select(tables.feedback)).all()
        assert connection.execute(sa.select(tables.schema_version.c.version)).scalars().all() == [tables.SCHEMA_VERSION]
    store.close()
    assert sorted(row.idempotency_key for row in votes) == sorted(map(str, range(20)))
    assert [row.superseded_by for row in votes].count(None) == 1
    assert Counter(row.superseded_by for row in votes).most_common(1)[0][1] == 1  # a chain: none supersedes two


def test_threads_that_open_a_store_and_vote_at_once_leave_one_current_vote_a_user_and_image(store_url: str, tmp_path: Path) -> None:
    failures: list[BaseException] = []
    start = threading.Barrier(6)

    def voter(number: int) -> None:
        try:
            start.wait()
            store = open_store(store_url, images=tmp_path / "images")
            for turn in range(12):
                feedback.add(store, vote(bytes([turn % 3]), user_id=f"{turn % 2}" * 64, idempotency_key=f"{number} {turn}"))
            store.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=voter, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = open_store(store_url, images=tmp_path / "images")
    with store.reading() as connection:
        votes = connection.execute(sa.select(tables.feedback)).all()
    store.close()

    assert not failures
    assert len(votes) == 72
    current = [(row.image_sha256, row.user_id) for row in votes if row.superseded_by is None]
    assert len(current) == len(set(current)) == 6


def test_a_clock_that_was_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Back(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return datetime(1999, 1, 1, tzinfo=UTC)

    store = open_store(f"sqlite:///{tmp_path / 'store.db'}", images=tmp_path / "images")
    feedback.add(store, vote(label="earlier"))
    monkeypatch.setattr(feedback, "datetime", Back)
    feedback.add(store, vote(label="later"))
    with store.reading() as connection:
        current = connection.execute(sa.select(tables.feedback.c.label).where(tables.feedback.c.superseded_by.is_(None))).scalars().all()
    store.close()

    assert current == ["later"]
