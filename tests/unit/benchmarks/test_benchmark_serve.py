"""The benchmark of the service: bodies that wrk sends, process trees, and the tables; without any of the servers that it compares."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from PIL import Image

from benchmarks import serve
from benchmarks.serving import guarantees, load, made_models, processes
from benchmarks.serving.rivals import RIVALS
from benchmarks.serving.service import database, images


class Listener(BaseHTTPRequestHandler):
    """Keeps what it gets; the first answer is an error."""

    protocol_version = "HTTP/1.1"
    bodies: ClassVar[list[tuple[str, str, bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.bodies.append((self.path, self.headers["Content-Type"], body))
        self.send_response(200 if len(self.bodies) > 1 else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[tuple[Any, list[tuple[str, str, bytes]]]]:
    Listener.bodies = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = Thread(target=server.serve_forever)
    thread.start()
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield processes.Server("listener", process, server.server_port, Path(), time.monotonic()), Listener.bodies
    process.communicate(b"\n")
    server.shutdown()
    thread.join()
    server.server_close()


def picture_in(form: load.Form, body: bytes) -> bytes:
    assert body.startswith(form.before)
    assert body.endswith(form.after)
    inner = body[len(form.before) : len(body) - len(form.after)]
    return base64.b64decode(inner, validate=True) if form.base64 else inner


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
@pytest.mark.parametrize(("form", "rate"), [(RIVALS["BentoML"].forms["raw"], None), (RIVALS["LitServe"].forms["base64"], 40)])
def test_each_request_has_a_picture_that_was_not_sent_before(form: load.Form, rate: float | None, tmp_path: Path, listener: Any) -> None:
    server, bodies = listener
    pictures = made_models.small_pictures(5)
    found = load.Loader(pictures, form, tmp_path).run(server, connections=2, seconds=1, rate=rate)
    assert (found.n_refused, found.n_lost) == (1, 0)
    assert 0 < found.p50 <= found.p99 <= found.max < 1000
    assert found.n_requests > 10
    if rate is not None:
        assert found.n_requests < 4 * rate
    sent = [picture_in(form, body) for _, _, body in bodies]
    assert len({hashlib.sha256(data).digest() for data in sent}) == len(sent) >= found.n_requests
    assert {(path, content_type) for path, content_type, _ in bodies} == {(form.path, form.content_type)}
    assert {Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in sent} == {
        Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in pictures
    }
    if form.content_type == "application/json":
        assert list(json.loads(bodies[0][2])) == ["image"]


def test_a_servers_cpu_time_and_memory_are_those_of_its_whole_tree(tmp_path: Path) -> None:
    child = (
        "import time\nwhile time.process_time() < 0.2: pass\nheld = bytearray(b'x' * 50_000_000)\nprint('done', flush=True)\ntime.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with processes.started("parent", [sys.executable, "-c", parent], port=0, environment={}, folder=tmp_path) as server:
        while "done" not in server.log.read_text():
            assert time.monotonic() < server.started + 60
            time.sleep(0.01)
        pids = server.pids()
        assert len(pids) == 2
        assert 0.15 < server.cpu_seconds() < 10
        assert 50_000_000 < server.resident() < 200_000_000
    while any(runs(pid) for pid in pids):
        assert time.monotonic() < server.started + 120
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Neither gone nor a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_tables_compare_within_rounds(tmp_path: Path) -> None:
    def loads(*rates: float) -> list[load.Load]:
        return [load.Load(int(rate * 2), 0, 0, 2.0, 1.0, 2.0, 3.0, 0.5) for rate in rates]

    def case(name: str, *rates: float) -> serve.Case:
        server: Any = type("Named", (), {"name": name})()
        return serve.Case(server, "raw", None, {"c=32": loads(*rates)})  # type: ignore[arg-type]

    ours, theirs = case("bccp serve", 1000, 1200, 500), case("LitServe", 400, 500, 250)
    (row,) = serve.throughput_rows(ours, [theirs])
    assert row[1:] == ("LitServe, raw: 400 (250 to 500)", "≥ 2 times", "1000 (500 to 1200): 2.4 (2.0 to 2.5) times", True)
    lines = serve.small_network_table([ours, theirs]).splitlines()
    assert lines[2] == "| bccp serve, raw | 1000 (500 to 1200) | 1.0 | 2.0 | 0.50 |  |  |  |  |  | 0 |"
    assert len({line.count("|") for line in lines}) == 1


def test_what_was_acknowledged_and_is_gone_is_found(tmp_path: Path) -> None:
    whole, half = b"picture", b"half of a pic"
    digests = [hashlib.sha256(data).hexdigest() for data in (whole, b"half of a picture", b"never written")]
    folder = images(tmp_path) / "ab"
    folder.mkdir(parents=True)
    (folder / digests[0]).write_bytes(whole)
    (folder / digests[1]).write_bytes(half)
    (folder / f"{digests[2]}.tmp").write_bytes(b"nev")
    with sqlite3.connect(database(tmp_path)) as connection:
        connection.execute("CREATE TABLE prediction (request_id, image_sha256)")
        connection.execute("CREATE TABLE feedback (feedback_id, label)")
        connection.execute("INSERT INTO prediction VALUES ('a1', ?), ('a2', ?)", digests[:2])
        connection.execute("INSERT INTO feedback VALUES ('f1', 'ant'), ('f2', 'bee')")
    connection.close()
    known = guarantees.Acknowledged(dict(zip(["a1", "a2", "a3"], digests, strict=True)), {"f1": "ant", "f2": "cat", "f3": "dog"})
    assert guarantees.lost(tmp_path, known) == [
        f"the image file {digests[1]} is not whole",
        f"the image {digests[1]} of the prediction a2 has no file",
        "the prediction a3 has no row",
        f"the image {digests[2]} of the prediction a3 has no file",
        "the feedback f2 has no row",
        "the feedback f3 has no row",
    ]
    (folder / digests[1]).unlink()
    assert guarantees.lost(tmp_path, guarantees.Acknowledged({"a1": digests[0]}, {"f1": "ant"})) == []
