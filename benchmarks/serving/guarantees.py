"""Guarantees of the service: what it acknowledged outlives a kill, reloads lose no request, and answers equal those of training's code."""

from __future__ import annotations

import csv
import hashlib
import http.client
import itertools
import json
import random
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from bccp.core.paths import ROOT
from benchmarks.serving.load import Load, Loader, finished
from benchmarks.serving.made_models import CLASSES, NAME, WAYS_TO_BREAK, Made, encoded, small_pictures
from benchmarks.serving.processes import Server
from benchmarks.serving.service import RAW, UNLIMITED_VOTES, database, images, metric, our_service, predict, predict_many

N_CLIENTS = 8
WAIT_SECONDS = 60.0
"""For a model that the alias means now."""


@dataclass
class Acknowledged:
    """What the service has said it did.

    Attributes
    ----------
    predictions : dict of str to str
        Request ids (32 hexadecimal digits), and the digests of their pictures.
    feedback : dict of str to str
        Feedback ids, and labels.
    """

    predictions: dict[str, str] = field(default_factory=dict)
    feedback: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """What was there after kills.

    Attributes
    ----------
    n_rounds : int
    acknowledged : Acknowledged
    missing : list of str
        What was acknowledged and is not there, and files that are not what their names say.
    n_files : int
        Image files that were looked at.
    """

    n_rounds: int
    acknowledged: Acknowledged
    missing: list[str]
    n_files: int


def kill_under_load(made: Made, folder: Path, *, rounds: int, seed: int = 0, least: float = 0.2, most: float = 1.2) -> Kept:
    """Kill the service again and again at random moments, while clients predict and vote; then look for all that was acknowledged.

    Parameters
    ----------
    made : Made
    folder : Path
    rounds : int
        Starts and kills on one store.
    seed : int
        Of the moments and pictures.
    least, most : float
        Seconds of load before a kill.
    """
    store, rng = folder / "killed", random.Random(seed)
    known, missing = Acknowledged(), []
    pictures = (picture + b"%012d" % number for number, picture in enumerate(itertools.cycle(small_pictures(seed=seed))))
    lock = threading.Lock()

    def next_picture() -> bytes:
        with lock:
            return next(pictures)

    for number in range(rounds):
        with our_service(made, folder, UNLIMITED_VOTES, store=store) as server:
            clients = [threading.Thread(target=_client, args=(server.port, next_picture, known, lock, i)) for i in range(N_CLIENTS)]
            for client in clients:
                client.start()
            time.sleep(rng.uniform(least, most))
            server.kill()
            for client in clients:
                client.join()
        missing += [f"round {number}: {what}" for what in lost(store, known)]
        if missing:
            break
    return Kept(number + 1, known, missing, sum(1 for _ in _files(images(store))))


def lost(store: Path, known: Acknowledged) -> list[str]:
    """What is not in a store, though it was acknowledged; and image files that are not what their names say.

    The tables and files are read by other code than that which wrote them.
    """
    found = []
    with closing(sqlite3.connect(database(store))) as connection:
        rows = {str(row[0]).replace("-", ""): row[1] for row in connection.execute("SELECT request_id, image_sha256 FROM prediction")}
        votes = {str(row[0]).replace("-", ""): row[1] for row in connection.execute("SELECT feedback_id, label FROM feedback")}
    whole = set()
    for path in _files(images(store)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.add(digest)
        if path.name.partition(".")[0] != digest:
            found.append(f"the image file {path.name} is not whole")
    for request_id, digest in known.predictions.items():
        if rows.get(request_id) != digest:
            found.append(f"the prediction {request_id} has no row")
        if digest not in whole:
            found.append(f"the image {digest} of the prediction {request_id} has no file")
    return found + [
        f"the feedback {feedback_id} has no row" for feedback_id, label in known.feedback.items() if votes.get(feedback_id) != label
    ]


def _files(folder: Path) -> Iterator[Path]:
    """Image files; what a kill left unfinished has another ending."""
    return (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".tmp")


def _client(port: int, next_picture: Callable[[], bytes], known: Acknowledged, lock: threading.Lock, number: int) -> None:
    """Predict, and vote on each second answer, until nobody answers any more."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with closing(connection), suppress(OSError, http.client.HTTPException):
        for turn in itertools.count():
            picture = next_picture()
            connection.request("POST", RAW.path, picture, {"Content-Type": "image/png"})
            response = connection.getresponse()
            text = response.read()
            if response.status != 200:
                continue
            answer = json.loads(text)
            with lock:
                known.predictions[uuid.UUID(answer["request_id"]).hex] = hashlib.sha256(picture).hexdigest()
            if turn % 2:
                label = CLASSES[turn % len(CLASSES)]
                vote = {"request_id": answer["request_id"], "label": label, "user": f"client {number}"}
                headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
                connection.request("POST", "/feedback", json.dumps(vote), headers)
                response = connection.getresponse()
                text = response.read()
                if response.status in (200, 201):
                    with lock:
                        known.feedback[uuid.UUID(json.loads(text)["feedback_id"]).hex] = label


@dataclass(frozen=True)
class Moves:
    """Results of moving the alias under load.

    Attributes
    ----------
    load, quiet : Load
        While it moved, and before.
    n_moves : int
    broken_answered : bool
        A broken version answered, though the service had counted it as failed.
    seen : list of int
        Versions in the order in which one client saw them.
    n_unanswered : int
        Requests of that client without an answer.
    seconds : list of float
        From each move to a good version until that client saw it.
    """

    load: Load
    quiet: Load
    n_moves: int
    broken_answered: bool
    seen: list[int]
    n_unanswered: int
    seconds: list[float]

    @property
    def are_monotone(self) -> bool:
        """No version came back after a later one."""
        return self.seen == sorted(self.seen)


class _Watcher(threading.Thread):
    """One client that asks again and again, and notes the versions that answer."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server, self.seen, self.n_unanswered = server, list[int](), 0
        self.ended = threading.Event()
        self.picture = small_pictures(1, seed=99)[0]

    def run(self) -> None:
        """Ask until :attr:`ended`."""
        while not self.ended.is_set():
            answer = predict(self.server, self.picture)
            if answer is None:
                self.n_unanswered += 1
            elif not self.seen or self.seen[-1] != answer["model"]["version"]:
                self.seen.append(int(answer["model"]["version"]))
            time.sleep(0.005)


def _until(reached: Callable[[], bool], what: str) -> float:
    start = time.monotonic()
    while not reached():
        if time.monotonic() > start + WAIT_SECONDS:
            raise RuntimeError(f"{what} did not come within {WAIT_SECONDS:.0f} seconds")
        time.sleep(0.02)
    return time.monotonic() - start


def move_under_load(
    made: Made, server: Server, loader: Loader, *, moves: int, seconds: float, pause: float = 0.2, rate: float | None = None
) -> Moves:
    """Move the alias to ever later versions, the middle one of which is broken, while wrk asks.

    Parameters
    ----------
    made : Made
    server : Server
        Follows the alias.
    loader : Loader
    moves : int
    seconds : float
        Of load before the first move, with nothing else.
    pause : float
        Seconds of load after each move has had its effect.
    rate : float, optional
        Requests a second; None: as many as 32 connections can.
    """
    broken = moves // 2
    versions = [made.register_version(seed=100 + i, damage=WAYS_TO_BREAK[0] if i == broken else None) for i in range(moves)]
    quiet = loader.run(server, connections=32, seconds=seconds, rate=rate)
    watcher, took = _Watcher(server), list[float]()
    cpu, wrk = server.cpu_seconds(), loader.start(server, connections=32, seconds=3600, rate=rate)
    try:
        watcher.start()
        for i, version in enumerate(versions):
            failures = metric(server, "bccp_model_reloads_total", outcome="failed")
            made.promote(version)
            if i == broken:
                _until(
                    lambda: metric(server, "bccp_model_reloads_total", outcome="failed") > failures,  # noqa: B023 - ends with this turn
                    "the refusal of a broken version",
                )
            else:
                took.append(_until(lambda: watcher.seen[-1:] == [int(version)], f"version {version}"))  # noqa: B023
            time.sleep(pause)
    finally:
        watcher.ended.set()
        wrk.send_signal(2)  # it prints its results
    load = finished(wrk, server, cpu)
    watcher.join()
    return Moves(load, quiet, moves, int(versions[broken]) in watcher.seen, watcher.seen, watcher.n_unanswered, took)


@dataclass(frozen=True)
class Refused:
    """Results of broken versions.

    Attributes
    ----------
    n_versions, n_counted : int
        Moves to a broken version, and those that the service counted.
    faults : list of str
        Answers that were missing, or came from another model.
    """

    n_versions: int
    n_counted: int
    faults: list[str]


def refuse_broken(made: Made, server: Server, *, rounds: int) -> Refused:
    """Move the alias to one broken version after another; the old one answers, and the next good one is loaded.

    Parameters
    ----------
    made : Made
    server : Server
        Answers by the champion.
    rounds : int
        Broken versions, of each kind in turn; after every tenth and at the end a good one.
    """
    picture, faults, counted = small_pictures(1, seed=98)[0], list[str](), 0
    first = predict(server, picture)
    good = int(first["model"]["version"]) if first else 0
    for i in range(rounds):
        version = made.register_version(seed=200 + i, damage=WAYS_TO_BREAK[i % len(WAYS_TO_BREAK)])
        before = metric(server, "bccp_model_reloads_total", outcome="failed")
        made.promote(version)
        _until(lambda: metric(server, "bccp_model_reloads_total", outcome="failed") > before, f"the refusal of version {version}")  # noqa: B023
        counted += 1
        answer = predict(server, picture)
        if answer is None or answer["model"]["version"] != good:
            faults.append(f"after the broken version {version} the answer was {answer}")
        if i % 10 == 9 or i == rounds - 1:
            good = int(made.register_version(seed=300 + i))
            made.promote(str(good))
            _until(lambda: (predict(server, picture) or {"model": {"version": 0}})["model"]["version"] == good, f"version {good}")  # noqa: B023
    return Refused(rounds, counted, faults)


@dataclass(frozen=True)
class Equal:
    """The service beside `bccp predict`.

    Attributes
    ----------
    n_files : int
    largest : float
        Largest difference of a probability; the table of `bccp predict` has six decimals.
    differing : list of str
        Files with another class, other likeliest classes, or an error in one of the two only.
    """

    n_files: int
    largest: float
    differing: list[str]


def picture_files() -> dict[str, bytes]:
    """Image files of many kinds, and some that are none, by their names."""
    rng = np.random.default_rng(5)
    photo = Image.fromarray(np.kron(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), np.ones((11, 11, 1), np.uint8)))
    exif, seen_through = Image.Exif(), photo.convert("RGBA")
    exif[0x0112] = 6  # lies on its side
    seen_through.putalpha(Image.linear_gradient("L").resize(photo.size))
    deep = Image.fromarray((np.asarray(photo.convert("L"), np.uint16) * 257).astype(np.uint16))
    whole = encoded(photo, "JPEG", quality=92)
    return {
        "plain.jpg": whole,
        "progressive.jpg": encoded(photo, "JPEG", progressive=True),
        "cmyk.jpg": encoded(photo.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(photo.convert("L"), "JPEG"),
        "exif.jpg": encoded(photo, "JPEG", exif=exif),
        "palette.png": encoded(photo.convert("P", palette=Image.Palette.ADAPTIVE, colors=12), "PNG"),
        "see-through.png": encoded(seen_through, "PNG"),
        "grey-alpha.png": encoded(seen_through.convert("LA"), "PNG"),
        "bilevel.png": encoded(photo.convert("1"), "PNG"),
        "deep.png": encoded(deep, "PNG"),
        "moving.gif": encoded(photo.convert("P"), "GIF"),
        "photo.webp": encoded(photo, "WEBP", lossless=True),
        "photo.bmp": encoded(photo, "BMP"),
        "photo.tif": encoded(photo, "TIFF"),
        "large.jpg": encoded(photo.resize((1600, 1200)), "JPEG"),
        "cut.jpg": whole[: len(whole) // 2],
        "text.png": b"no image at all",
        "nothing.png": b"",
        **{f"small-{i}.png": picture for i, picture in enumerate(small_pictures(40, seed=6))},
    }


def compare_with_predict(made: Made, server: Server, folder: Path) -> Equal:
    """Ask the service and `bccp predict` about the same files, each alone and all in one request.

    Parameters
    ----------
    made : Made
    server : Server
        Answers by the champion.
    folder : Path
        For the files and the table.
    """
    place, table = folder / "equal", folder / "predictions.csv"
    place.mkdir()
    files = picture_files()
    for name, data in files.items():
        (place / name).write_bytes(data)
    words = ["predict", "--model", f"models:/{NAME}@champion", "--images", str(place), "--out", str(table)]
    environment = made.environment(PYTHONPATH=str(ROOT / "src"))
    done = subprocess.run([sys.executable, "-m", "bccp", *words], env=environment, capture_output=True, text=True, check=False)
    if not table.is_file():
        raise RuntimeError(f"bccp predict failed: {done.stderr[-1000:]}")
    with table.open(encoding="utf-8", newline="") as stream:
        expected = {row["image"]: row for row in csv.DictReader(stream)}
    alone = [predict(server, data) for data in files.values()]
    differing, largest = list[str](), 0.0
    for name, *found in zip(files, alone, predict_many(server, list(files.values())), strict=True):
        for answer in found:
            gap = _difference(expected[name], answer)
            largest = max(largest, gap or 0.0)
            if gap is None:
                differing.append(f"{name}: {expected[name]} and {answer}")
    return Equal(len(files), largest, differing)


def _difference(expected: dict[str, str], answer: dict[str, object] | None) -> float | None:
    """Largest difference of a probability; None where the two disagree about more than that."""
    if expected["error"]:
        return 0.0 if answer is None or "error" in answer else None
    if answer is None or answer.get("class") != expected["class"]:
        return None
    top, found = json.loads(expected["top_3"]), answer["top_3"]
    if not isinstance(found, dict) or list(top) != list(found):
        return None
    pairs: Sequence[tuple[float, float]] = [(float(expected["probability"]), float(str(answer["probability"])))]
    return max(abs(a - b) for a, b in [*pairs, *((float(top[name]), float(found[name])) for name in top)])
