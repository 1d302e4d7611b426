"""`bccp predict --url`: a service's answers beside the model's own."""

from __future__ import annotations

import io
import socket
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from bccp.cli.app import call
from bccp.serving.store import tables
from support.serving import made_up_model, png, running

TOKEN = "serve-token-of-the-test"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_model(tmp_path_factory.mktemp("models") / "model")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Files of all kinds, and what is none."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (36, 54, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder := tmp_path / "pictures" / "below").mkdir(parents=True)
    photo.save(folder / "photo.jpg", exif=exif)
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    photo.convert("P").save(folder / "palette.gif")
    file = io.BytesIO()
    photo.save(file, "JPEG")
    (folder / "cut.jpg").write_bytes(file.getvalue()[:900])
    (folder / "nothing.png").write_bytes(b"")
    (folder / "text.png").write_bytes(b"https://example.org/a.png")
    for n in range(20):
        (folder / f"{n:02d}.png").write_bytes(png(n))
    return folder.parent


def test_a_service_and_its_model_write_the_same_table(
    home: Path, model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, remote = tmp_path / "own.csv", tmp_path / "remote.csv"
    assert call(["predict", "--model", str(model), "--images", str(pictures), "--out", str(own)]) == 1  # three files have no answer
    said = capsys.readouterr()
    monkeypatch.setenv("BCCP_SERVE_TOKEN", TOKEN)
    with running(model) as service:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # which this machine's own services are not asked through
        assert call(["predict", "--url", f"{service.address}/", "--images", str(pictures), "--out", str(remote)]) == 1
        assert capsys.readouterr() == (said.out.replace(str(own), str(remote)), said.err.replace(str(own), str(remote)))
        assert remote.read_text("utf-8") == own.read_text("utf-8")
        assert own.read_text("utf-8").count("\n") == 27
        with service.parts.store.reading() as connection:
            assert set(connection.execute(sa.select(tables.prediction.c.channel)).scalars()) == {"predict"}
        monkeypatch.setenv("BCCP_SERVE_TOKEN", "another token than this")
        assert call(["predict", "--url", service.address, "--images", str(pictures), "--out", str(tmp_path / "none.csv")]) == 1
    assert "set its serve token in the environment variable BCCP_SERVE_TOKEN" in capsys.readouterr().err
    assert not (tmp_path / "none.csv").exists()


class Elsewhere(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"[1]")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_who_does_not_answer_or_is_no_service_is_named(home: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(url: str, *more: str) -> str:
        status = call(["predict", "--url", url, "--images", str(pictures), "--out", str(home / "p.csv"), *more])
        return f"{status} {capsys.readouterr().err.splitlines()[-1]}"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    assert said(closed).startswith(f"1 error: the service {closed} does not answer (")
    assert said("127.0.0.1:8000") == "1 error: --url 127.0.0.1:8000 is no address of a service: give one such as http://127.0.0.1:8000"
    assert said(closed, "--model", "x") == "2 error: give either --model or --url"
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert said(address) == f"1 error: what answers at {address} is no bccp serve (status 200): give its address"
        server.shutdown()
