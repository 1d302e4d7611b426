"""`bccp serve` as the benchmark starts and asks it."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bccp.core.paths import ROOT
from benchmarks.serving.load import Form
from benchmarks.serving.made_models import NAME, Made
from benchmarks.serving.processes import Server, answers, free_port, started

RAW = Form("/predict", "image/png")
BASE64 = Form("/predict", "application/json", b'{"image": "', b'"}', base64=True)

UNLIMITED_VOTES = "serve.votes_per_minute=1000000"
QUICK_RELOAD = "serve.reload_every=0.5"


@contextmanager
def our_service(made: Made, folder: Path, *overrides: str, store: Path | None = None, ready: bool = True) -> Iterator[Server]:
    """The champion, answering and recording all.

    Parameters
    ----------
    made : Made
    folder : Path
        For its output, and for the store where none is given.
    *overrides : str
        Of the sections serve and store.
    store : Path, optional
        A folder with what an earlier service recorded; made where it is missing.
    ready : bool
        Wait until it answers.
    """
    port = free_port()
    store = store or folder / f"store-{port}"
    store.mkdir(parents=True, exist_ok=True)
    words = [f"serve.model=models:/{NAME}@champion", f"serve.port={port}"]
    words += [f"store.url=sqlite:///{database(store)}", f"store.images={images(store)}", *overrides]
    environment = made.environment(PYTHONPATH=str(ROOT / "src"))
    with started(
        "bccp serve", [sys.executable, "-m", "bccp", "serve", *words], port=port, environment=environment, folder=folder
    ) as server:
        if ready:
            server.wait("/readyz")
        yield server


def database(store: Path) -> Path:
    """The database in a store's folder."""
    return store / "store.db"


def images(store: Path) -> Path:
    """The image files in a store's folder."""
    return store / "images"


def predict(server: Server, picture: bytes) -> dict[str, Any] | None:
    """The answer on one picture; None where there is none."""
    status, body = answers(server.address + RAW.path, picture, {"Content-Type": "image/png"})
    return json.loads(body) if status == 200 else None


def predict_many(server: Server, pictures: list[bytes]) -> list[dict[str, Any]]:
    """Answers on pictures that are sent together, or the problem of each."""
    body = json.dumps({"images": [{"image": base64.b64encode(picture).decode()} for picture in pictures]})
    status, text = answers(server.address + RAW.path, body.encode(), {"Content-Type": "application/json"})
    if status != 200:
        raise RuntimeError(f"{server.name} answers {status}: {text[:500]!r}")
    return list(json.loads(text)["predictions"])


def metric(server: Server, name: str, **labels: str) -> float:
    """Sum of a metric's samples with these labels."""
    _, text = answers(f"{server.address}/metrics")
    total = 0.0
    for line in text.decode().splitlines():
        sample = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)(?: \d+)?", line)
        if sample and all(f'{key}="{value}"' in (sample[1] or "") for key, value in labels.items()):
            total += float(sample[2])
    return total
