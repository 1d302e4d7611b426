"""A registered model behind a real `mlflow models serve`, with the store in a file and behind a server."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bccp.cli.app import call
from bccp.core import paths
from bccp.models import predictor
from bccp.tracking import registry
from support.made_up_models import CLASSES, MONDAY, TUESDAY, World
from support.mlflow_server import free_port, kill, mlflow_server

pytestmark = pytest.mark.slow


def encoded(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def files() -> dict[str, bytes]:
    """Image files of all kinds, and what is none."""
    rng = np.random.default_rng(0)
    photo = Image.fromarray(np.kron(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((9, 9, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    see_through = photo.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(photo.size))
    whole = encoded(photo, "JPEG")
    return {
        "jpeg": whole,
        "alpha": encoded(see_through, "PNG"),
        "cmyk": encoded(photo.convert("CMYK"), "JPEG"),
        "exif": encoded(photo, "JPEG", exif=exif),
        "garbage": b"no image at all",
        "cut": whole[: len(whole) // 2],
        "nothing": b"",
    }


@contextmanager
def served(model: str, folder: Path, store: str) -> Iterator[tuple[str, Any]]:
    """The guide's `mlflow models serve`, literally: its address and its process."""
    port = free_port()
    (command,) = re.findall(
        r"(?m)^(MLFLOW_TRACKING_URI=.* mlflow models serve .*)$", (paths.ROOT / "docs" / "serving.md").read_text("utf-8")
    )
    command = f"exec env {command.replace('models:/bccp@champion', model)} --port {port}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": store, "PATH": path, "PYTHONPATH": ""}  # the model brings its code
    with (folder / "served.log").open("w") as log:
        process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(1800):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping").close()
                break
            except OSError:
                assert process.poll() is None, (folder / "served.log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/invocations", process
    finally:
        kill(process)


def post(address: str, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address, data, {"Content-Type": content_type})) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else text


@pytest.mark.parametrize("store", ["file", "server"])
def test_the_served_champion_answers_on_image_files_and_survives_garbage(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None, store: str
) -> None:
    s3 = SimpleNamespace(meta=SimpleNamespace(endpoint_url=""))
    artifacts = ["--artifacts-destination", str(tmp_path / "handed-out")]
    server = mlflow_server(tmp_path, f"sqlite:///{tmp_path}/server.db", artifacts, s3) if store == "server" else nullcontext(("", None))
    with server as (uri, _):
        if uri:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        world = World(tmp_path / "made")
        world.monday_model(monkeypatch, wrong=TUESDAY, seed=50)
        first, second = world.model(wrong=MONDAY[:8], seed=1), world.model(seed=2)
        assert world.tags(world.test(first, max_regression=1))["bccp.verdict"] == "promoted"
        assert world.tags(world.test(second))["bccp.verdict"] == "promoted"
        assert call(["rollback", "--model", "made-up"]) == 0
        assert str(registry.champion(world.ledger, "made-up").version) == "1"
        with served("models:/made-up@champion", tmp_path, uri) as (address, process):
            assert not (tmp_path / "mlflow.db").exists()
            own = predictor.load_predictor(world.ledger.fetch(f"model:{first}")).answers(list(files().values()))
            rows = [{"image": base64.b64encode(data).decode()} for data in files().values()]
            status, said = post(address, {"dataframe_records": rows})
            assert status == 200
            for name, answer, expected in zip(files(), said["predictions"], own, strict=True):
                assert answer["class"] == expected.label, name
                assert answer["error"] == expected.error
                if expected.probability is not None:
                    assert answer["probability"] == pytest.approx(expected.probability, abs=1e-5)
                    assert next(iter(answer["top_3"])) == answer["class"]
            assert [bool(answer["error"]) for answer in said["predictions"]] == [False] * 4 + [True] * 3
            assert {answer["class"] for answer in said["predictions"][:4]} <= set(CLASSES)

            one = {"dataframe_split": {"columns": ["binary"], "data": [[base64.b64encode(files()["jpeg"]).decode()]]}}
            assert post(address, one)[1]["predictions"][0]["class"] == own[0].label  # whatever the column is called
            for body in ({"dataframe_records": [{"image": 7}]}, {"dataframe_records": [{"image": "x"}]}, {"rows": 1}, b"{"):
                status, said = post(address, body)
                assert 400 <= status < 500, body
                assert said["error_code"] == "BAD_REQUEST" if "error_code" in said else said
            assert post(address, files()["jpeg"], "image/jpeg")[0] == 415
            assert post(address, one)[0] == 200
            assert process.poll() is None
