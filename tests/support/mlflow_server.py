"""A real `mlflow server`, whose artifacts lie in an S3."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "planted", "AWS_SECRET_ACCESS_KEY": "planted", "AWS_DEFAULT_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(folder: Path, store: str, artifacts: list[str], s3: Any, port: int | None = None) -> Iterator[tuple[str, Any]]:
    """A `mlflow server`: its URI and its process."""
    port = port or free_port()
    words = ["--backend-store-uri", store, *artifacts, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    keys = {**KEYS, "MLFLOW_S3_ENDPOINT_URL": s3.meta.endpoint_url, "MLFLOW_DISABLE_TELEMETRY": "true"}
    keys["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # two processes less
    with (folder / "server.log").open("a") as log:
        command = [sys.executable, "-m", "mlflow", "server", *words]
        process = subprocess.Popen(command, cwd=folder, env={**os.environ, **keys}, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(1800):  # it takes 10 seconds, and a minute on a busy machine
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            except OSError:
                assert process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process
    finally:
        kill(process)


def kill(process: Any) -> None:
    """End a server with its workers."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
