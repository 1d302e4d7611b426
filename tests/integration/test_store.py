"""The ledger: versions, atomic publishing, finding and mending, on a real MLflow SQLite store."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from bccp.core import digests, exit_codes
from bccp.core.digests import digest_once, folder_digest
from bccp.core.errors import BCCPError
from bccp.core.home import scratch, sweep_scratch
from bccp.core.processes import Interrupted, terminable
from bccp.core.redaction import redact_text
from bccp.tracking import store
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger


@pytest.fixture
def ledger(home: Path) -> Ledger:
    return Ledger(ledger_uri(None)[0])


def finished(ledger: Ledger, content: str = "hello", key: str = "k" * 64) -> tuple[str, str, Path]:
    run_id = ledger.start("train", tags={"bccp.step": "train"})
    with scratch("model") as parent:
        (parent / "model" / "deep").mkdir(parents=True)
        (parent / "model" / "deep" / "weights.bin").write_text(content)
        version, place = ledger.publish(run_id, "model", parent / "model")
    ledger.tag(run_id, {"bccp.key": key})
    ledger.end(run_id, "FINISHED")
    return run_id, version, place


def test_a_version_depends_on_names_and_bytes_alone(tmp_path: Path) -> None:
    for name, files in {"a": {"x": "1", "y/z": "2"}, "b": {"y/z": "2", "x": "1"}, "c": {"x": "2", "y/z": "1"}, "d": {"x": "1"}}.items():
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    a, b, c, d = (folder_digest(tmp_path / name) for name in "abcd")
    assert a == b
    assert len({a, c, d}) == 3


def test_a_file_is_read_once_as_long_as_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads = tmp_path / "a.png", []

    def digest() -> str:
        return digest_once(path, lambda: reads.append(path.read_text()) or reads[-1])

    path.write_text("cat")
    assert (digest(), digest(), reads) == ("cat", "cat", ["cat", "cat"])  # it could still change within the clock's grain
    monkeypatch.setattr(digests, "SETTLED_NS", 0)
    assert (digest(), digest(), len(reads)) == ("cat", "cat", 3)
    before = path.stat()
    time.sleep(0.02)
    path.write_text("dog")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as large and as old as before
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert digest() == "dog"
    (tmp_path / "b.png").write_text("cow")
    (tmp_path / "b.png").replace(path)
    assert digest() == "cow"


def test_what_is_published_is_found_by_name_and_version_or_its_first_digits(ledger: Ledger) -> None:
    _, version, place = finished(ledger)
    assert (place / "deep" / "weights.bin").read_text() == "hello"
    assert place.is_relative_to(ledger.home)
    assert ledger.fetch(f"model:{version}") == place
    assert Ledger(ledger.uri).fetch(f"model:{version[:12]}") == place
    assert Ledger(ledger.uri).fetch(f"someone/project/model:d-{version[:12]}") == place


def test_an_artifact_of_an_unfinished_run_is_invisible(ledger: Ledger) -> None:
    run_id = ledger.start("train", tags={"bccp.step": "train", "bccp.key": "k"})
    with scratch("model") as parent:
        (parent / "model").mkdir()
        (parent / "model" / "w").write_text("half")
        version, _ = ledger.publish(run_id, "model", parent / "model")
    for status in ("RUNNING", "FAILED", "KILLED"):
        if status != "RUNNING":
            ledger.end(run_id, status)
        assert ledger.find("train", "k") is None
        with pytest.raises(BCCPError, match="no artifact"):
            Ledger(ledger.uri).fetch(f"model:{version}")


def test_a_tampered_artifact_is_noticed_and_not_reused(ledger: Ledger) -> None:
    _, version, place = finished(ledger)
    (place / "deep" / "weights.bin").write_text("tampered")
    fresh = Ledger(ledger.uri)
    with pytest.raises(BCCPError, match="was changed"):
        fresh.fetch(f"model:{version}")
    assert fresh.find("train", "k" * 64) is None


def test_a_run_is_found_by_its_exact_key(ledger: Ledger) -> None:
    run_id, version, _ = finished(ledger)
    found = ledger.find("train", "k" * 64)
    assert found is not None
    assert (found.run_id, found.outputs) == (run_id, {"model": version})
    assert ledger.find("train", "l" * 64) is None
    assert ledger.find("test", "k" * 64) is None


def test_figures_are_written_in_batches_as_large_as_the_store_takes(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    write = MlflowClient.log_batch

    def counted(client: MlflowClient, run_id: str, metrics: Sequence[Metric] = (), **more: Any) -> None:
        sizes.append(len(metrics))
        write(client, run_id, metrics, **more)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    run_id = ledger.start("train")
    ledger.log_metrics(run_id, {"accuracy": 0.5, "f1": 0.4})
    ledger.log_history(run_id, ({"loss": 1 / epoch, "rate": 0.1} for epoch in range(1, 601)), first_step=1)
    assert sizes == [2, 1000, 200]
    assert ledger.client.get_run(run_id).data.metrics == {"accuracy": 0.5, "f1": 0.4, "loss": 1 / 600, "rate": 0.1}
    assert [(one.step, one.value) for one in ledger.client.get_metric_history(run_id, "loss")] == [(e, 1 / e) for e in range(1, 601)]


@pytest.mark.parametrize("version", ["model", "model:xyz", "model:abc", "mo del:" + "a" * 64, "model:latest", "model:" + "a" * 65])
def test_a_version_that_is_none_is_refused(ledger: Ledger, version: str) -> None:
    with pytest.raises(BCCPError, match="names no artifact version"):
        ledger.fetch(version)


def test_an_inherited_sqlite_uri_is_not_used_and_that_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    uri, note = ledger_uri(None)
    assert uri == f"sqlite:///{home}/mlflow.db"
    assert note is not None
    assert "sqlite:///mlflow.db is not used" in note
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert ledger_uri(None) == ("http://127.0.0.1:5000", None)
    assert ledger_uri("sqlite:////x/y.db") == ("sqlite:////x/y.db", None)


@pytest.mark.parametrize("uri", ["file:///x", "./mlruns", "sqlite:///relative.db", "databricks"])
def test_a_store_that_cannot_serve_is_refused(uri: str) -> None:
    with pytest.raises(BCCPError, match=r"tracking\.mlflow_uri="):
        ledger_uri(uri)


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BCCP_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(BCCPError, match=r"BCCP_HOME=.* cannot be made"):
        ledger_uri(None)


def test_runs_that_a_kill_left_running_are_mended_and_living_ones_are_not(ledger: Ledger) -> None:
    living = ledger.start("mine")
    other_host = ledger.start("far")
    ledger.tag(other_host, {"bccp.host": "another-host", "bccp.pid": "1"})
    killed = ledger.start("killed")
    ledger.tag(killed, {"bccp.pid": str(_dead_pid())})
    reused_pid = ledger.start("reused")
    ledger.tag(reused_pid, {"bccp.started": "1"})
    assert ledger.close_orphaned_runs() == 2
    status = {
        name: ledger.client.get_run(run).info.status
        for name, run in locals().items()
        if name in ("living", "other_host", "killed", "reused_pid")
    }
    assert status == {"living": "RUNNING", "other_host": "RUNNING", "killed": "KILLED", "reused_pid": "KILLED"}


def test_a_run_that_nobody_has_taken_over_for_a_day_is_closed(ledger: Ledger) -> None:
    now = int(1000 * time.time())
    ages = {"old": 25, "young": 1}  # hours
    by_mlflow = {
        name: ledger.client.create_run(ledger.experiment_id, now - 3_600_000 * hours, {"mlflow.source.type": "PROJECT"}).info.run_id
        for name, hours in ages.items()
    }
    by_somebody = ledger.client.create_run(ledger.experiment_id, now - 25 * 3_600_000).info.run_id
    adopted = ledger.client.create_run(ledger.experiment_id, now - 25 * 3_600_000, {"mlflow.source.type": "PROJECT"}).info.run_id
    ledger.start("bccp", run_id=adopted)
    assert ledger.close_orphaned_runs() == 1
    status = {name: ledger.client.get_run(run_id).info.status for name, run_id in by_mlflow.items()}
    assert status == {"old": "KILLED", "young": "RUNNING"}
    assert {ledger.client.get_run(run_id).info.status for run_id in (by_somebody, adopted)} == {"RUNNING"}


def test_a_signal_waits_for_the_end_of_a_call_to_the_store_which_works_on(ledger: Ledger) -> None:
    engine = ledger.client._tracking_client.store.engine
    run_id = ledger.start("mine", tags={"bccp.pipeline": "mine"})
    written = []

    def strike(*_: object) -> None:
        if not written:
            written.append(True)
            signal.raise_signal(signal.SIGTERM)  # between two statements of one transaction

    def stopped() -> None:
        with terminable():
            try:
                ledger.tag(run_id, {"whole": "yes"})
            finally:
                ledger.end_all("mine", "KILLED")

    sqlalchemy.event.listen(engine, "after_cursor_execute", strike)
    try:
        with pytest.raises(Interrupted):
            stopped()
    finally:
        sqlalchemy.event.remove(engine, "after_cursor_execute", strike)
    run = ledger.client.get_run(run_id)
    assert (run.data.tags["whole"], run.info.status) == ("yes", "KILLED")


def _dead_pid() -> int:
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid


def test_scratch_of_dead_processes_is_swept_and_of_living_ones_kept(home: Path) -> None:
    with scratch("mine") as mine:
        host, pid = socket.gethostname(), _dead_pid()
        dead, reused, far = (
            mine.parent / name for name in (f"{host}@{pid}.1-x-abc", f"{host}@{os.getpid()}.1-x-abc", f"far-{host}@{pid}.1-x-abc")
        )
        for folder in (dead, reused, far):
            folder.mkdir()
        sweep_scratch()
        assert mine.exists()
        assert not dead.exists()
        assert not reused.exists()
        assert far.exists()
    assert not mine.exists()


def _open_and_record(home: str) -> None:
    os.environ["BCCP_HOME"] = home
    ledger = Ledger(ledger_uri(None)[0])
    ledger.end(ledger.start("first use"), "FINISHED")


def test_four_processes_may_use_a_new_home_at_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_open_and_record, args=(str(tmp_path / "home"),)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    database = sqlite3.connect(tmp_path / "home" / "mlflow.db")
    assert database.execute("select count(*) from runs where status = 'FINISHED'").fetchone() == (4,)
    assert database.execute("pragma journal_mode").fetchone() == ("wal",)
    database.close()


def test_a_refused_write_is_told_with_its_place_and_other_errors_stay_what_they_are(tmp_path: Path, home: Path) -> None:
    full = exit_codes.to_bccp_error(OSError(28, "No space left on device", str(tmp_path)))
    assert isinstance(full, BCCPError)
    assert str(full).startswith(f"the disk that holds {tmp_path} is full")
    database = exit_codes.to_bccp_error(RuntimeError("(sqlite3.OperationalError) database or disk is full"))
    assert str(database).startswith(f"the disk that holds {home} is full")
    bug = FileNotFoundError(2, "No such file", "x")
    assert exit_codes.to_bccp_error(bug) is bug


def test_a_tag_of_any_length_comes_back_whole(home: Path) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    run_id = ledger.start("train", tags={"bccp.step": "train"})
    parts = {"parameters": {f"option_{number}": "x" * 90 for number in range(150)}}
    assert len(json.dumps(parts)) > 3 * store.TAG_LIMIT
    ledger.tag(run_id, {"bccp.key_parts": json.dumps(parts), "bccp.empty": ""})
    ledger.end(run_id, "FINISHED")
    assert ledger.finished("train")[0].key_parts == parts
    tags = ledger.client.get_run(run_id).data.tags
    assert store.tag_value(tags, "bccp.key_parts") == json.dumps(parts)
    assert (tags["bccp.empty"], store.tag_value(tags, "bccp.none")) == ("", "")


def test_a_parameter_that_is_cut_says_so(home: Path) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    run_id = ledger.start("train")
    ledger.log_params(run_id, {"short": "x", "full": "x" * store.TAG_LIMIT, "long": "x" * (store.TAG_LIMIT + 1)})
    params = ledger.client.get_run(run_id).data.params
    assert (params["short"], params["full"]) == ("x", "x" * store.TAG_LIMIT)
    assert params["long"] == "x" * (store.TAG_LIMIT - 1) + "…"


@pytest.mark.parametrize(
    ("uri", "place", "address"),
    [
        ("sqlite:////x/mlflow.db", "file:///x/artifacts/a%20b/r1/artifacts", "/x/artifacts/a b/r1/artifacts/data_checks"),
        ("http://host:5000/", "mlflow-artifacts:/1/r1/artifacts", "http://host:5000/#/experiments/1/runs/r1/artifacts/data_checks"),
        ("https://host/team", "s3://bucket/1/r1/artifacts", "https://host/team/#/experiments/1/runs/r1/artifacts/data_checks"),
        ("postgresql://db/runs", "s3://bucket/1/r1/artifacts", "s3://bucket/1/r1/artifacts/data_checks"),
    ],
)
def test_reports_are_shown_as_a_place_that_people_can_open(
    home: Path, monkeypatch: pytest.MonkeyPatch, uri: str, place: str, address: str
) -> None:
    ledger = Ledger(ledger_uri(None)[0])
    info = SimpleNamespace(artifact_uri=place, experiment_id="1")
    monkeypatch.setattr(ledger, "client", SimpleNamespace(get_run=lambda run_id: SimpleNamespace(info=info)))
    monkeypatch.setattr(ledger, "uri", uri)
    assert ledger.report_address("r1", "data_checks") == address
    assert redact_text(f"see {address}/page.html.") == f"see {address}/page.html."
