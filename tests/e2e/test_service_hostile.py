"""`bccp serve` as a process, among people who mean it harm, and on a store that fails."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from bccp.cli.app import call
from support.awkward_files import png_chunk, png_with
from support.browser import CHROMIUM, Browser
from support.service_process import REVIEW, Served, serving
from support.serving import made_up_model, png

pytestmark = pytest.mark.slow

EVIL = "</script><img src=x onerror=alert(1)>"
DEADLINE = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_model(tmp_path_factory.mktemp("models") / "model", ("ant", "bee", EVIL))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """The home of the service."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    (folder / "root").mkdir()
    return folder


@pytest.fixture(scope="module")
def service(place: Path, model: Path) -> Iterator[Served]:
    words = [f"serve.image_root={place / 'root'}", f"serve.deadline={DEADLINE}", "serve.max_queue=80", "serve.votes_per_minute=1000"]
    with serving(place, model, *words) as served:
        yield served
        assert served.process.poll() is None


@pytest.fixture(autouse=True)
def lives_on(service: Served) -> Iterator[None]:
    """Whatever a test has done, the service answers, and has had no fault of its own."""
    yield
    assert service.predict(png()).status == 200
    assert service.ask("GET", "/readyz").json["status"] == "ready"
    assert service.figures().get('bccp_errors_total{problem="internal"}', 0) == 0
    assert "Traceback" not in service.log.read_text()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def count(place: Path, table: str) -> int:
    with closing(sqlite3.connect(place / "serving" / "store.db")) as database:
        return int(database.execute(f"select count(*) from {table}").fetchone()[0])


def connected(service: Served) -> socket.socket:
    host, _, port = service.address.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=30)


@contextmanager
def locked(service: Served, place: Path) -> Iterator[None]:
    """Another program holds the database."""
    with closing(sqlite3.connect(place / "serving" / "store.db", isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")


@contextmanager
def full(service: Served, place: Path) -> Iterator[None]:
    """No file can grow."""
    with service.limited(resource.RLIMIT_FSIZE, 0):
        yield


@contextmanager
def gone(service: Served, place: Path) -> Iterator[None]:
    """Somebody has moved the folder away."""
    away = place / "away"
    (place / "serving").rename(away)
    yield
    away.rename(place / "serving")


@contextmanager
def read_only(service: Served, place: Path) -> Iterator[None]:
    """Nobody may write image files any more."""
    folder = place / "serving" / "images"
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("root may write everywhere, and mounts nothing here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


Fault = Callable[[Served, Path], AbstractContextManager[None]]


@pytest.mark.parametrize("fault", [locked, full, gone, read_only])
def test_a_broken_store_stops_no_prediction_takes_no_feedback_and_is_used_again_when_it_is_back(
    service: Served, place: Path, fault: Fault
) -> None:
    known = service.predict(png(1)).json["image_sha256"]
    vote = {"image_sha256": known, "label": "bee", "user": f"ann {fault.__name__}"}
    lost = service.ask("GET", "/readyz").json["recording"]["lost"]
    n_rows, n_votes = count(place, "prediction"), count(place, "feedback")
    with fault(service, place), ThreadPoolExecutor(8) as callers:
        begun = time.monotonic()
        said = list(callers.map(service.predict, map(unseen, range(16))))
        assert [one.status for one in said] == [200] * 16
        ready = service.ask("GET", "/readyz")
        assert (ready.status, ready.json["status"]) == (200, "degraded")
        assert ready.json["recording"]["error"]
        assert ready.json["recording"]["lost"] == lost + 16
        refused = list(callers.map(lambda n: service.post("/feedback", vote, idempotency_key=f"key {n}"), range(8)))
        refused.append(service.post("/feedback", {"image": b64(unseen(16)), "label": "bee", "user": "bob"}))
        assert {one.problem for one in refused} == {(503, "store-unavailable")}
        assert {one.headers["retry-after"] for one in refused} == {"5"}
        assert time.monotonic() - begun < 5  # the first answer waits for less than a second, the others for nothing
    until(lambda: service.ask("GET", "/readyz").json["status"] == "ready")
    assert count(place, "feedback") == n_votes
    n_lost = service.ask("GET", "/readyz").json["recording"]["lost"] - lost
    assert count(place, "prediction") == n_rows + 17 - n_lost  # the one that was tried last may have come in
    assert service.post("/feedback", vote, idempotency_key="key 0").status == 201
    assert service.predict(png(2)).status == 200
    assert count(place, "prediction") == n_rows + 18 - n_lost


def test_a_locked_store_makes_no_crowd_of_voters_wait_one_after_the_other(service: Served, place: Path) -> None:
    vote = {"image_sha256": service.predict(png(1)).json["image_sha256"], "label": "bee", "user": "crowd"}
    with locked(service, place), ThreadPoolExecutor(40) as callers:
        begun = time.monotonic()
        said = list(callers.map(lambda n: service.post("/feedback", vote), range(40)))
        refused = {one.problem for one in said}
        assert (503, "store-unavailable") in refused
        assert refused <= {(503, "store-unavailable"), (504, "deadline")}  # which is short here
        assert time.monotonic() - begun < 9  # one after the other, by a few threads, they would wait for 20
    until(lambda: service.ask("GET", "/readyz").json["status"] == "ready")


def unseen(n: int) -> bytes:
    """A picture that nobody has sent before."""
    return png(time.time_ns() % 10**12 + n)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_sixty_four_pictures_of_100_megapixels_take_the_memory_of_one_and_whoever_finds_the_queue_full_is_sent_away(
    service: Served,
) -> None:
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    service.forget_peak()
    before = service.peak_bytes()
    with ThreadPoolExecutor(1) as caller:
        large = caller.submit(service.post, "/predict", {"images": [{"image": b64(file.getvalue())}] * 64})
        until(lambda: service.figures()["bccp_queue_images"] >= 60)
        refused = service.post("/predict", {"images": [{"image": b64(png())}] * 30})
        assert (refused.problem, refused.headers["retry-after"]) == ((503, "busy"), "1")
        assert service.predict(png()).status == 200  # small ones pass by as long as there is room
        assert large.result().problem == (504, "deadline")
    assert service.peak_bytes() - before < 1_000_000_000
    until(lambda: service.figures()["bccp_queue_images"] == 0)


def test_a_file_that_would_be_read_for_minutes_is_refused_at_once(service: Served) -> None:
    begun = time.monotonic()
    assert service.predict(png_with(png(), png_chunk(b"abCd", b"") * 3_000_000)).problem == (422, "bomb")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "path", ["../mlflow.db", "/etc/passwd", "out.png", "folder/mlflow.db", "/dev/zero", "/dev/stdin", "pipe", "http://127.0.0.1:1/a.png"]
)
def test_image_path_leads_nowhere_else(service: Served, place: Path, path: str) -> None:
    root = place / "root"
    for name, target in (("out.png", place / "mlflow.db"), ("folder", place), ("in.png", "a.png")):
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)
    (root / "a.png").write_bytes(png())
    if not (root / "pipe").exists():
        os.mkfifo(root / "pipe")
    said = service.post("/predict", {"images": [{"image_path": path}, {"image_path": "in.png"}]})
    refused, answered = said.json["predictions"]
    assert refused["error"]["type"] == "/docs#image-path"
    assert refused["error"]["detail"] == f"{path!r} is no regular file below the folder that is served"
    assert "class" in answered


def test_names_that_would_be_scripts_stay_names(service: Served, place: Path) -> None:
    form = f'--x\r\nContent-Disposition: form-data; name="{EVIL}"; filename="{EVIL}.png"\r\n\r\n'.encode() + png() + b"\r\n--x--\r\n"
    predicted = service.predict(form, "multipart/form-data; boundary=x")
    assert EVIL in predicted.json["top_3"]
    assert predicted.headers["content-type"] == "application/json"
    vote = {"request_id": predicted.json["request_id"], "label": EVIL, "user": EVIL}
    assert service.post("/feedback", vote).status == 201
    said = [
        service.post("/feedback", {**vote, "label": EVIL + "x"}),
        service.post("/feedback", {**vote, EVIL: 1}),
        service.post("/predict", {"image": b64(png()), "channel": EVIL}),
        service.ask("GET", "/%3C/script%3E%3Cimg%20src=x%20onerror=alert(1)%3E"),
        service.ask("GET", "/labels", host=EVIL),
    ]
    assert [one.problem[0] for one in said] == [422, 422, 422, 404, 403]
    assert EVIL not in service.ask("GET", "/docs").body.decode()
    assert service.ask("GET", "/openapi.json").headers["content-type"] == "application/json"
    assert service.ask("GET", "/metrics").headers["content-type"].startswith("text/plain")
    with closing(sqlite3.connect(place / "serving" / "store.db")) as database:
        assert (EVIL,) in database.execute("select label from feedback").fetchall()
        assert (EVIL,) not in database.execute("select user_id from feedback").fetchall()


def test_what_vanishes_in_the_middle_leaves_nothing_behind(service: Served) -> None:
    whole = post(png())
    for n in range(0, len(whole), 7):
        with connected(service) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0" if n % 2 else b"\0" * 8)  # some with a reset
            connection.sendall(whole[:n])
    until(lambda: service.figures()["bccp_queue_images"] == 0)


def test_a_body_that_is_all_frame_takes_no_memory(service: Served) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
    service.forget_peak()
    before = service.peak_bytes()
    for frame, more in ((b"0\r\n", b"X: y\r\n" * 10_000), (b"0\r\nX: ", b"y" * 60_000), (b"1;", b"y" * 60_000)):
        n_sent = 0
        with connected(service) as connection, suppress(OSError):
            connection.sendall(head + frame)
            while n_sent < 100_000_000:
                connection.sendall(more)
                n_sent += len(more)
        assert n_sent < 20_000_000
    assert service.peak_bytes() - before < 50_000_000
    small = b"".join(b"1\r\n%c\r\n" % byte for byte in png(side=200))  # a body in the smallest chunks there are
    with connected(service) as connection, connection.makefile("rb") as answer:
        connection.sendall(head.replace(b"Host", b"Connection: close\r\nHost") + small + b"0\r\n\r\n")
        assert answer.read().startswith(b"HTTP/1.1 200 ")


def test_a_body_behind_a_wish_for_another_protocol_is_no_next_request(service: Served) -> None:
    hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(service) as connection, connection.makefile("rb") as answer:
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(hidden))
        with suppress(OSError):
            time.sleep(0.1)
            connection.sendall(hidden)
        said = answer.read()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"without the header Upgrade" in said
    assert said.count(b"HTTP/1.1") == 1


def test_a_thousand_idle_connections_hold_nobody_up(service: Served) -> None:
    idle = [connected(service) for _ in range(1000)]
    try:
        assert service.predict(png()).status == 200
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
def test_another_pages_browser_gets_nothing_done(service: Served, place: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(PAGE.replace("SERVICE", service.address))
    known = service.predict(png()).json["image_sha256"]
    vote = json.dumps({"image_sha256": known, "label": "bee", "user": "eve"})
    n_rows, n_votes, refused = count(place, "prediction"), count(place, "feedback"), forbidden(service)
    (tmp_path / "profile").mkdir()
    browser = Browser(tmp_path / "profile")
    try:
        with served_folder(tmp_path) as port:
            for host in ("127.0.0.1", "localhost"):  # the same site, and another one
                for form in ("multipart/form-data", "text/plain"):
                    browser.visit(f"http://{host}:{port}/page.html")
                    browser.run(f"send({json.dumps(form)})")
                    refused += 1
                    until(lambda expected=refused: forbidden(service) == expected)  # type: ignore[misc]
                browser.visit(f"http://{host}:{port}/page.html")
                said = browser.run(f"ask({json.dumps(vote)})")
                assert said == ["opaque"] * 4 + ["TypeError"] * 2  # with CORS a browser asks first, and is told nothing
                refused += 4
                until(lambda expected=refused: forbidden(service) >= expected)  # type: ignore[misc]
                refused = forbidden(service)
    finally:
        browser.close()
    for foreign in ("evil.example", f"evil.example:{service.address.rpartition(':')[2]}", "127.0.0.1.evil.example"):
        command = ["curl", "-s", "--noproxy", "*", "-H", f"Host: {foreign}", "-H", "Content-Type: application/json", "-d", vote]
        said = json.loads(subprocess.run([*command, f"{service.address}/feedback"], capture_output=True, check=True).stdout)
        assert said["type"] == "/docs#forbidden"
    assert (count(place, "prediction"), count(place, "feedback")) == (n_rows, n_votes)


PAGE = """<!doctype html><form method="post"><input name="channel" value="api"><input type="file" name="image"></form><script>
function send(type) {
  const form = document.forms[0], files = new DataTransfer();
  files.items.add(new File(["x"], "a.png", {type: "image/png"}));
  form.image.files = files.files;
  form.action = "SERVICE/predict";
  form.enctype = type;
  form.submit();
}
async function ask(vote) {
  const form = new FormData();
  form.append("image", new File(["x"], "a.png"));
  const asked = [
    ["/predict", {body: form, mode: "no-cors"}],
    ["/feedback", {body: vote, mode: "no-cors"}],
    ["/feedback", {body: new Blob([vote], {type: "text/plain"}), mode: "no-cors", credentials: "include"}],
    ["/predict", {body: new Uint8Array(8), mode: "no-cors", headers: {"Content-Type": "image/png"}}],
    ["/feedback", {body: vote, headers: {"Content-Type": "application/json"}}],
    ["/predict", {body: new Uint8Array(8), headers: {"Content-Type": "image/png"}}],
  ];
  const said = [];
  for (const [path, options] of asked)
    said.push(await fetch("SERVICE" + path, {method: "POST", ...options}).then((one) => one.type, (error) => error.name));
  return said;
}
</script>"""


def forbidden(service: Served) -> float:
    return service.figures().get('bccp_errors_total{problem="forbidden"}', 0)


@contextmanager
def served_folder(folder: Path) -> Iterator[int]:
    """A folder on a port of its own."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


# an image that is none has the form of one, and more images than may be are no more "invalid" than a body that is too large
SCHEMATHESIS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 413, 415, 422, 429]

[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 413, 422, 429]
"""


def test_whatever_is_sent_the_answer_is_one_of_those_that_the_description_names(service: Served, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS)
    command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", "schemathesis.toml", "run"]
    words = ["--checks", "all", "--seed", "1", "-n", "20", "--no-color", "-H", f"Authorization: Bearer {REVIEW}"]
    done = subprocess.run([*command, f"{service.address}/openapi.json", *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    (n_cases,) = re.findall(r"(\d+) generated", done.stdout)
    assert int(n_cases) >= 500


def test_two_services_on_one_store_are_one_memory_and_whoever_was_answered_by_one_that_ends_is_in_it(
    service: Served, place: Path, model: Path
) -> None:
    with serving(place, model) as other:
        both = (service, other)
        predicted = service.predict(png(5)).json
        vote = {"request_id": predicted["request_id"], "user": "zoe"}
        first = other.post("/feedback", {**vote, "label": "bee"}, idempotency_key="both")
        again = service.post("/feedback", {**vote, "label": "bee"}, idempotency_key="both")
        assert (first.status, again.status, again.json["feedback_id"]) == (201, 200, first.json["feedback_id"])
        n_rows = count(place, "prediction")
        with ThreadPoolExecutor(8) as callers:
            said = list(callers.map(lambda n: both[n % 2].predict(png(n)), range(80)))
            votes = list(callers.map(lambda n: both[n % 2].post("/feedback", {**vote, "label": ("ant", "bee")[n % 2]}), range(40)))
        assert {one.status for one in said} == {200}
        assert {one.status for one in votes} == {201}
        assert count(place, "prediction") == n_rows + 80
        current = "feedback where superseded_by is null and image_sha256 = '{image_sha256}'"
        assert count(place, current.format(**predicted)) == 1
        assert other.ask("GET", "/readyz").json["recording"]["lost"] == 0
        code, answered = ended_under_load(other, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert answered <= request_ids(place)
    with serving(place, model, port=int(other.address.rpartition(":")[2])) as restarted:  # at once, on the same port
        code, answered = ended_under_load(restarted, signal.SIGTERM)
    assert code == 0
    assert answered
    assert answered <= request_ids(place)


def ended_under_load(served: Served, number: int) -> tuple[int, set[str]]:
    """Send a signal while eight callers ask; returns the exit status, and the ids of all requests that were answered.

    A request whose connection was accepted is answered, but for kill -9.
    """

    def ask_often(seed: int) -> list[str]:
        answered = []
        while True:
            try:
                connection = connected(served)
            except OSError:
                return answered
            with connection, connection.makefile("rb") as answer:
                try:
                    connection.sendall(post(png(seed)))
                    said = answer.read()
                except OSError:
                    continue
            if said.startswith(b"HTTP/1.1 200 "):
                answered.append(str(json.loads(said.partition(b"\r\n\r\n")[2])["request_id"]))

    with ThreadPoolExecutor(8) as callers:
        asked = [callers.submit(ask_often, seed) for seed in range(8)]
        time.sleep(0.5)
        served.process.send_signal(number)
        code = served.process.wait(20)
        return code, {one for each in asked for one in each.result()}


def request_ids(place: Path) -> set[str]:
    with closing(sqlite3.connect(place / "serving" / "store.db")) as database:
        return {str(uuid.UUID(text)) for (text,) in database.execute("select request_id from prediction")}


def post(data: bytes) -> bytes:
    """A request for a prediction, to its last byte."""
    head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nConnection: close\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(data), data)


def test_what_cannot_start_says_so_in_a_sentence(
    service: Served, bare_home: Path, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert call(["serve", f"serve.model={model}", *words]) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    port = service.address.rpartition(":")[2]
    assert f"serve.port={port} of 127.0.0.1 cannot be used" in refused(f"serve.port={port}")
    assert "set a token of 16 characters or more" in refused("serve.host=0.0.0.0", "serve.port=0")
    monkeypatch.setenv("BCCP_SERVE_TOKEN", "fifteen-letters")
    assert "the token in BCCP_SERVE_TOKEN has 15 characters" in refused("serve.port=0")
