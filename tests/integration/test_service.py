"""A service that runs: what it answers and records, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import socket
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image

from bccp.core.errors import BCCPError
from bccp.models import predictor
from bccp.serving.http.app import ROUTES
from bccp.serving.http.documentation import SAMPLES
from bccp.serving.store import tables
from support.serving import Running, made_up_model, png, running

SERVE, REVIEW = "serve-token-of-the-test", "review-token-of-the-test"
HOSTILE = "</script><img onerror=alert(1)>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_model(tmp_path_factory.mktemp("models") / "model", ("ant", "bee", HOSTILE))


@pytest.fixture
def service(home: Path, model: Path, tmp_path: Path) -> Iterator[Running]:
    (tmp_path / "root").mkdir()
    with running(model, image_root=str(tmp_path / "root"), max_bytes=100_000, max_files=4, votes_per_minute=5) as found:
        yield found


@pytest.fixture
def guarded(home: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.setenv("BCCP_SERVE_TOKEN", SERVE)
    monkeypatch.setenv("BCCP_REVIEW_TOKEN", REVIEW)
    with running(model) as found:
        yield found


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def rows(service: Running, table: sa.Table) -> list[dict[str, object]]:
    with service.parts.store.reading() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(table))]


def test_an_image_is_answered_as_the_model_does_whatever_way_it_comes(service: Running, model: Path, tmp_path: Path) -> None:
    data = png()
    (tmp_path / "root" / "a.png").write_bytes(data)
    (own,) = predictor.load_predictor(model).answers([data])
    form = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + data + b"\r\n--x--\r\n"
    said = [
        service.predict(data),
        service.predict(form, "multipart/form-data; boundary=x"),
        service.post("/predict", {"image": b64(data)}),
        service.post("/predict", {"image_path": "a.png"}),
    ]
    for one in said:
        assert (one.status, one.headers["content-type"]) == (200, "application/json")
        assert one.json["class"] == own.label
        assert one.json["top_3"] == pytest.approx(own.top, abs=1e-6)
        assert one.json["probability"] == one.json["top_3"][own.label]
        assert one.json["image_sha256"] == hashlib.sha256(data).hexdigest()
        assert set(one.json["model"]) == {"name", "version", "digest"}
    assert {str(row["request_id"]) for row in rows(service, tables.prediction)} == {one.json["request_id"] for one in said}
    assert service.parts.store.images.read(said[0].json["image_sha256"]) == data
    assert sum(value for name, value in service.figures().items() if name.startswith("bccp_predictions_total")) == 4


def test_a_bad_image_hurts_none_of_the_others(service: Running) -> None:
    images = [{"image": b64(png())}, {"image": b64(b"no image")}, {"image": "https://example.org/a.png"}, {"image": ""}]
    said = service.post("/predict", {"images": images})
    assert said.status == 200
    kinds = [one["error"]["type"] if "error" in one else one["class"] for one in said.json["predictions"]]
    assert kinds[0] in ("ant", "bee", HOSTILE)
    assert kinds[1:] == ["/docs#not-an-image", "/docs#not-an-image", "/docs#empty"]
    assert said.json["model"] == said.json["predictions"][0]["model"]
    assert [row["error"] for row in rows(service, tables.prediction)] == [None, "not-an-image", "empty"]


def test_what_the_stream_records_itself_is_not_recorded_here(service: Running) -> None:
    assert service.post("/predict", {"images": [{"image": b64(png()), "event_id": "source:17"}]}).status == 200
    assert rows(service, tables.prediction) == []


REFUSED: list[tuple[str, bytes, str, tuple[int, str]]] = [
    ("/predict", b"", "image/png", (422, "empty")),
    ("/predict", b"no image", "image/png", (422, "not-an-image")),
    ("/predict", png()[:200], "image/png", (422, "truncated")),
    ("/predict", b"[1", "application/json", (422, "invalid")),
    ("/predict?chanel=app", png(), "image/png", (422, "invalid")),
    ("/predict", b"image=a", "application/x-www-form-urlencoded", (415, "type")),
    ("/predict", b'{"image_path": "../model.json"}', "application/json", (422, "image-path")),
    ("/predict", b"x" * 100_001, "image/png", (413, "too-large")),
    ("/feedback", b"{}", "application/json", (422, "invalid")),
    ("/feedback", png(), "image/png", (415, "type")),
    ("/invocations", b"{}", "application/json", (422, "invalid")),
    ("/labels", b"{}", "application/json", (405, "method")),
    ("/predictions", b"{}", "application/json", (404, "not-found")),
]


def test_each_refusal_is_a_problem_and_is_counted(service: Running) -> None:
    for path, data, content_type, expected in REFUSED:
        assert service.ask("POST", path, data, content_type=content_type).problem == expected, (path, data[:20])
    counted = {name: value for name, value in service.figures().items() if name.startswith("bccp_errors_total")}
    kinds = Counter(kind for *_, (_, kind) in REFUSED)
    assert counted == {f'bccp_errors_total{{problem="{kind}"}}': n for kind, n in kinds.items()}
    assert service.predict(png()).status == 200


def test_a_bomb_is_refused_by_its_header(home: Path, model: Path) -> None:
    with running(model, max_pixels=100, max_pixels_in_flight=100) as service:
        assert service.predict(png(side=11)).problem == (422, "bomb")
        assert service.predict(png(side=10)).status == 200


def test_a_body_that_never_ends_is_refused_while_it_comes_in(service: Running) -> None:
    host, _, port = service.address.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n")
        n_sent = 0
        with suppress(OSError):
            while n_sent < 50_000_000:
                connection.sendall(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
                n_sent += 0x8000
        assert n_sent < 20_000_000
    assert service.parts.budget.used == 0
    assert service.predict(png()).status == 200


def test_a_body_slower_than_the_deadline_and_headers_without_end_are_given_up(home: Path, model: Path) -> None:
    with running(model, deadline=0.3) as service:
        host, _, port = service.address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 10\r\n\r\nx")
            answer = connection.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 504 ")
            assert b"/docs#deadline" in answer
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000)
            assert connection.recv(100).startswith(b"HTTP/1.1 431 ")


def test_feedback_is_recorded_once_and_the_later_vote_counts(service: Running) -> None:
    predicted = service.predict(png()).json
    vote = {"request_id": predicted["request_id"], "label": "ant", "user": HOSTILE, "shown": True}
    first = service.post("/feedback", vote, idempotency_key="k1")
    assert (first.status, first.json["repeated"], first.json["kind"]) == (201, False, "vote")
    again = service.post("/feedback", dict(reversed(vote.items())), idempotency_key="k1")
    assert (again.status, again.json) == (200, {**first.json, "repeated": True})
    assert service.post("/feedback", {**vote, "label": "bee"}, idempotency_key="k1").problem == (422, "idempotency-key-reused")
    later = service.post("/feedback", {"image_sha256": predicted["image_sha256"], "label": HOSTILE, "user": HOSTILE})
    assert later.status == 201
    assert service.post("/feedback", {**vote, "user": "bob"}, idempotency_key="k1").status == 201  # another user's key is another key
    found = {str(row["feedback_id"]): row for row in rows(service, tables.feedback)}
    assert len(found) == 3
    assert str(found[first.json["feedback_id"]]["superseded_by"]) == later.json["feedback_id"]
    assert {(row["image_sha256"], row["shown"]) for row in found.values()} == {
        (predicted["image_sha256"], True),
        (predicted["image_sha256"], False),
    }
    assert HOSTILE not in {row["user_id"] for row in found.values()}
    figures = service.figures()
    assert figures['bccp_feedback_total{channel="api",kind="vote"}'] == 3
    assert figures["bccp_feedback_pending"] == 2


def test_feedback_may_bring_its_image(service: Running) -> None:
    said = service.post("/feedback", {"image": b64(png(7)), "label": "bee", "user": "ann"})
    assert (said.status, said.json["image_sha256"]) == (201, hashlib.sha256(png(7)).hexdigest())
    assert [row["image_sha256"] for row in rows(service, tables.prediction)] == [said.json["image_sha256"]]
    assert service.post("/feedback", {"image": b64(b"none"), "label": "bee", "user": "ann"}).problem == (422, "not-an-image")


def test_feedback_on_what_is_not_known_is_refused_with_what_would_do(service: Running) -> None:
    known = service.predict(png()).json["image_sha256"]
    wrong = service.post("/feedback", {"image_sha256": known, "label": "beee", "user": "ann"})
    assert wrong.problem == (422, "unknown-label")
    assert "did you mean 'bee'?" in wrong.json["detail"]
    vote = {"label": "bee", "user": "ann"}
    assert service.post("/feedback", {**vote, "request_id": str(uuid.uuid4())}).problem == (404, "unknown-request")
    assert service.post("/feedback", {**vote, "image_sha256": "0" * 64}).problem == (404, "unknown-image")
    unreadable = service.predict(b"no image").json["request_id"]
    assert service.post("/feedback", {**vote, "request_id": unreadable}).problem == (404, "unknown-image")
    assert rows(service, tables.feedback) == []


def test_a_user_who_votes_too_often_is_told_to_wait(service: Running) -> None:
    known = service.predict(png()).json["image_sha256"]
    said = [service.post("/feedback", {"image_sha256": known, "label": "bee", "user": "ann"}) for _ in range(6)]
    assert [one.status for one in said] == [201] * 5 + [429]
    assert said[-1].problem == (429, "rate-limited")
    assert 1 <= int(said[-1].headers["retry-after"]) <= 12
    assert service.post("/feedback", {"image_sha256": known, "label": "bee", "user": "bob"}).status == 201


def test_a_store_that_is_gone_takes_no_feedback_and_stops_no_prediction(service: Running, home: Path) -> None:
    known = service.predict(png()).json["image_sha256"]
    for place in (home / "serving").glob("store.db*"):
        place.rename(place.with_name(f"away-{place.name}"))
    assert service.predict(png(1)).status == 200
    refused = service.post("/feedback", {"image_sha256": known, "label": "bee", "user": "ann"})
    assert refused.problem == (503, "store-unavailable")
    assert refused.headers["retry-after"] == "5"
    ready = service.ask("GET", "/readyz")
    assert (ready.status, ready.json["status"], ready.json["recording"]["lost"]) == (200, "degraded", 1)
    assert ready.json["recording"]["error"]
    figures = service.figures()
    assert figures["bccp_recording_lost_total"] == 1
    assert figures["bccp_feedback_pending"] != figures["bccp_feedback_pending"]  # nobody knows


def test_what_is_kept_long_enough_is_deleted_by_and_by(home: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bccp.serving.service.FIRST_SWEEP_SECONDS", 0.5)
    monkeypatch.setattr("bccp.serving.service.SWEEP_SECONDS", 0.1)
    with running(model, keep_days=1 / 86_400) as service:
        assert service.predict(png()).status == 200
        end = time.monotonic() + 20
        while rows(service, tables.prediction) and time.monotonic() < end:
            time.sleep(0.1)
        assert rows(service, tables.prediction) == []
        assert service.predict(png()).status == 200


def test_roles_follow_the_token_and_never_the_body(guarded: Running) -> None:
    serve, review = {"authorization": f"Bearer {SERVE}"}, {"authorization": f"Bearer {REVIEW}"}
    exif = Image.Exif()
    exif[0x010E] = "taken at 48.1 N, 11.6 E"
    file = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(file, "JPEG", exif=exif)
    assert guarded.predict(file.getvalue(), "image/jpeg").problem == (401, "unauthorised")
    assert guarded.predict(png(), authorization="Bearer wrong").headers["www-authenticate"] == "Bearer"
    assert guarded.ask("GET", "/labels").problem == (401, "unauthorised")
    known = guarded.predict(file.getvalue(), "image/jpeg", **serve).json["image_sha256"]
    vote = {"image_sha256": known, "label": "bee", "user": "ann"}
    assert guarded.post("/feedback", vote).problem == (401, "unauthorised")
    assert guarded.post("/feedback", vote, **serve).json["kind"] == "vote"
    assert guarded.post("/feedback", vote, **review).json["kind"] == "audit"
    assert guarded.ask("GET", f"/images/{known}").problem == (401, "unauthorised")
    assert guarded.ask("GET", f"/images/{known}", **serve).problem == (403, "forbidden")
    assert guarded.ask("GET", "/images/..%2F..%2Fstore.db", **review).problem[0] == 404
    seen = guarded.ask("GET", f"/images/{known}", **review)
    assert (seen.status, seen.headers["content-type"], seen.headers["x-content-type-options"]) == (200, "image/png", "nosniff")
    assert "sandbox" in seen.headers["content-security-policy"]
    picture = Image.open(io.BytesIO(seen.body))
    assert (picture.size, dict(picture.getexif()), picture.info) == ((40, 20), {}, {})
    assert guarded.ask("GET", "/healthz").status == guarded.ask("GET", "/metrics").status == 200


def test_another_pages_browser_gets_nothing_done(service: Running) -> None:
    foreign: list[dict[str, str]] = [
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"host": "evil.example"},
    ]
    for headers in foreign:
        assert service.predict(png(), **headers).problem == (403, "forbidden")
        assert service.post("/feedback", {}, **headers).problem == (403, "forbidden")
    assert service.ask("GET", "/labels", host="evil.example").problem == (403, "forbidden")
    assert service.ask("GET", "/readyz", host="any.name").status == 200
    assert rows(service, tables.prediction) == []
    allowed = service.predict(png(), origin=service.address, sec_fetch_site="same-origin")
    assert allowed.status == 200
    assert not [name for name in allowed.headers if name.lower().startswith("access-control")]
    assert service.ask("OPTIONS", "/predict").problem == (405, "method")


def test_callers_of_mlflows_server_find_all_that_they_know(service: Running, model: Path) -> None:
    data = png()
    (own,) = predictor.load_predictor(model).answers([data])
    for body in (
        {"dataframe_records": [{"image": b64(data)}, {"image": "no base64!"}]},
        {"dataframe_split": {"columns": ["image"], "data": [[b64(data)], ["no base64!"]]}},
        {"inputs": [b64(data), "no base64!"]},
        {"instances": [{"b64": b64(data)}, {"b64": "no base64!"}]},
        {"inputs": {"image": [b64(data), "no base64!"]}},
    ):
        good, bad = service.post("/invocations", body).json["predictions"]
        assert list(good) == list(bad) == ["class", "probability", "top_3", "error"]
        assert (good["class"], good["probability"], good["error"]) == (own.label, pytest.approx(own.probability, abs=1e-6), None)
        assert (bad["class"], bad["top_3"]) == (None, None)
        assert "base64" in bad["error"]
    table = service.ask("POST", "/invocations", f"image\n{b64(data)}\n".encode(), content_type="text/csv")
    assert table.json["predictions"][0]["class"] == own.label
    assert (service.ask("GET", "/ping").body, service.ask("GET", "/health").status) == (b"\n", 200)
    assert re.fullmatch(rb"\d+\.\d+\.\d+.*", service.ask("GET", "/version").body)
    refused = service.post("/invocations", {"columns": []})
    assert refused.json["error_code"] == "BAD_REQUEST"


def test_a_service_without_a_champion_waits_for_one(home: Path) -> None:
    with running(Path("models:/bccp@champion")) as service:
        assert service.predict(png()).problem == (503, "no-model")
        assert service.ask("GET", "/labels").problem == (503, "no-model")
        ready = service.ask("GET", "/readyz")
        assert (ready.status, ready.json["status"]) == (503, "no-model")
        assert ready.json["reload"]["error"]
        assert (service.ask("GET", "/healthz").status, service.ask("GET", "/ping").status) == (200, 404)
        assert service.ask("GET", "/docs").status == 200


def test_what_cannot_start_says_so_in_a_sentence(home: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BCCPError, match=rf"serve\.port={port} of 127\.0\.0\.1 cannot be used"), running(model, port=port):
            pass
    with pytest.raises(BCCPError, match=str(tmp_path / "gone")), running(tmp_path / "gone"):
        pass
    monkeypatch.setenv("BCCP_SERVE_TOKEN", "short")
    with pytest.raises(BCCPError, match="has 5 characters"), running(model):
        pass


def test_the_description_is_of_what_there_is_and_its_examples_work_when_pasted(guarded: Running, tmp_path: Path) -> None:
    described = guarded.ask("GET", "/openapi.json").json
    assert {(method.upper(), path) for path, one in described["paths"].items() for method in one} == {(m, p) for m, p, _ in ROUTES}
    page = guarded.ask("GET", "/docs")
    assert guarded.ask("GET", "/").body == page.body  # redirected
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.body.decode()
    assert not re.search(r"(?:src|href)=['\"](?!/openapi\.json|#)|url\(|@import|<script", text)
    assert HOSTILE not in text
    (make,) = re.findall(r"<pre>(echo [^<]*)</pre>", text)
    subprocess.run(["bash", "-ec", html.unescape(make)], cwd=tmp_path, check=True)
    shown = [html.unescape(found) for found in re.findall(r"<pre>(curl [^<]*)</pre>", text)]
    samples = [sample["source"] for one in described["paths"].values() for op in one.values() for sample in op.get(SAMPLES, ())]
    assert sorted(shown) == sorted(samples)
    assert len(samples) >= 10
    for sample in shown:
        command = sample.replace("curl ", "curl --silent --noproxy '*' --fail-with-body ", 1)
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (sample, done.stdout)
    with Image.open(tmp_path / "image.png") as image:
        assert image.size == (16, 16)
    assert json.loads(done.stdout)
