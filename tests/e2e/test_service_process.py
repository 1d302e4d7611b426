"""`bccp serve` as a process of its own: it says where it answers, ends well when it is told to, and starts from `mlflow run`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bccp.core import paths
from support.serving import made_up_model, png

DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def started(command: Sequence[str], home: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that has said where it answers, and its address."""
    place = {**os.environ, "BCCP_HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
    process = subprocess.Popen(command, cwd=paths.ROOT, env=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if found := re.match(r"(http://127\.0\.0\.1:\d+) answers by ", line):
                break
        else:
            pytest.fail("".join(said))
        yield process, found[1]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def predict(address: str) -> Any:
    request = urllib.request.Request(f"{address}/predict", png(), {"Content-Type": "image/png"})
    with DIRECTLY.open(request, timeout=60) as answer:
        return json.load(answer)


def test_a_service_that_is_told_to_end_answers_first_what_it_was_asked(home: Path, tmp_path: Path) -> None:
    model = made_up_model(tmp_path / "model")
    with started([sys.executable, "-m", "bccp", "serve", f"serve.model={model}", "serve.port=0"], home) as (process, address):
        assert predict(address)["class"] in ("ant", "bee", "cat")
        data = png()
        host, _, port = address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data[:10])
            with pytest.raises(OSError, match=r"."), DIRECTLY.open(f"{address}/nothing", timeout=60):  # the first bytes have come in by now
                pass
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            connection.sendall(data[10:])
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
        assert process.wait(60) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""


@pytest.mark.slow
def test_mlflow_run_starts_the_service(home: Path, tmp_path: Path) -> None:
    options = f"serve.model={made_up_model(tmp_path / 'a model')} serve.port=0"
    command = ["mlflow", "run", ".", "-e", "serve", "-P", f"options={options}", "--env-manager", "local"]
    with started(command, home, MLFLOW_TRACKING_URI=f"sqlite:///{home}/mlflow.db") as (process, address):
        assert predict(address)["model"]["name"] == "model"
        process.terminate()  # which MLflow does not hand on
        process.wait(60)
        for _ in range(600):
            try:
                predict(address)
            except OSError:
                break
        else:
            pytest.fail("the service lives on")
