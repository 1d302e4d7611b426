"""A service for tests: its settings, a model, and one that runs and is asked."""

from __future__ import annotations

import io
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from bccp.core import config
from bccp.core.config_schema import Serve, Store
from bccp.core.paths import ROOT
from bccp.models import classifier
from bccp.serving.http.parts import Parts
from bccp.serving.service import Service
from bccp.tracking.backends import ledger_uri
from bccp.tracking.store import Ledger


def serve_settings(**options: Any) -> Serve:
    """The section serve of ``config.yaml``, with other values for some keys."""
    made: Serve = config.section(Serve, {**config.defaults()["serve"], **options}, "serve", ROOT)
    return made


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Running]:
    """A service as ``bccp serve`` runs it, in a thread of this process, on a port of its own.

    ``folder`` is a model, as the step train made it; ``options`` are of the section serve, and ``store`` is the section store.
    """
    section: Store = config.section(Store, {**config.defaults()["store"], **options.pop("store", {})}, "store", ROOT)
    settings = serve_settings(**{"model": str(folder), "port": 0, **options})
    service = Service(settings, section, Ledger(ledger_uri(None)[0]))
    ready: Queue[Parts | BaseException] = Queue()

    def run() -> None:
        try:
            service.run(ready.put)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=run, name="service")
    thread.start()
    parts = ready.get(timeout=120)
    if isinstance(parts, BaseException):
        thread.join()
        raise parts
    try:
        yield Running(service.address, parts)
    finally:
        service.stop()
        thread.join(60)
        assert not thread.is_alive()


@dataclass
class Caller:
    """Someone who asks a service at an address."""

    address: str

    def ask(self, method: str, path: str, data: bytes | None = None, **headers: str) -> Said:
        """Ask for something; ``_`` in a header's name stands for ``-``."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{self.address}{path}", data, given, method=method)
        try:
            with _DIRECTLY.open(request, timeout=60) as answer:
                return Said(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as refused:
            with refused:
                return Said(refused.code, dict(refused.headers), refused.read())

    def predict(self, data: bytes, content_type: str = "image/png", **headers: str) -> Said:
        """Ask for the class of an image."""
        return self.ask("POST", "/predict", data, content_type=content_type, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Said:
        """Send JSON."""
        return self.ask("POST", path, json.dumps(body).encode(), content_type="application/json", **headers)

    def figures(self) -> dict[str, float]:
        """The figures for Prometheus, by name and labels."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


@dataclass
class Running(Caller):
    """A service that answers in this process, and its parts."""

    parts: Parts


@dataclass
class Said:
    """An answer over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, where it is JSON."""
        return json.loads(self.body)

    @property
    def problem(self) -> tuple[int, str]:
        """Status and kind of a problem, whose document is as it should be."""
        assert self.headers["content-type"] == "application/problem+json"
        assert self.json["status"] == self.status
        assert self.json["title"]
        assert self.json["detail"]
        return self.status, self.json["type"].removeprefix("/docs#")


_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def made_up_model(folder: Path, classes: Sequence[str] = ("ant", "bee", "cat"), *, seed: int = 0) -> Path:
    """A small network that nobody has trained, as the step train leaves one."""
    folder.mkdir(parents=True)
    history = pd.DataFrame({"epoch": [1], "train_loss": [1.0], "val_loss": [1.0], "val_accuracy": [0.5]})
    network = classifier.build_classifier("small_cnn", len(classes), image_size=8, dropout=0.2, seed=seed)
    classifier.save_classifier(network, folder, {"class_names": list(classes), "resize": "stretch"}, history=history)
    return folder


def png(seed: int = 0, side: int = 12) -> bytes:
    """A small picture."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()
