"""A process that records is killed: what it has acknowledged is in the store, and each image file is whole."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import sqlalchemy as sa

from bccp.serving.store import tables
from bccp.serving.store.opening import Store, open_store

N_ROUNDS = {"sqlite": 3, "postgresql": 1}


def killed_while_storing(url: str, images: Path, root: Path, seed: int) -> dict[str, set[str]]:
    """Let a process record for a random time, kill it, and return the ids that it has acknowledged by their kind."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root / "tests")])}
    command = [sys.executable, "-m", "support.storing_process", url, str(images), str(seed)]
    chance = random.Random(seed)
    acknowledged: dict[str, set[str]] = {"prediction": set(), "feedback": set()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        wanted = chance.randrange(20, 80)
        for line in process.stdout:
            kind, name = line.split()
            acknowledged[kind].add(name)
            if sum(map(len, acknowledged.values())) == wanted:
                process.send_signal(signal.SIGKILL)  # what it has written to the pipe by then counts, too
    assert process.returncode == -signal.SIGKILL
    return acknowledged


def ids(store: Store, column: sa.Column[object]) -> set[str]:
    with store.reading() as connection:
        return {str(one) for one in connection.execute(sa.select(column)).scalars()}


def test_what_a_killed_process_has_acknowledged_is_there_and_image_files_are_whole(store_url: str, tmp_path: Path, root: Path) -> None:
    images = tmp_path / "images"
    acknowledged: dict[str, set[str]] = {"prediction": set(), "feedback": set()}
    n_rounds = N_ROUNDS[store_url.partition(":")[0]]
    for seed in range(n_rounds):
        for kind, names in killed_while_storing(store_url, images, root, seed).items():
            acknowledged[kind] |= names
    store = open_store(store_url, images=images)

    assert all(acknowledged.values())
    assert acknowledged["prediction"] <= ids(store, tables.prediction.c.request_id)
    assert acknowledged["feedback"] <= ids(store, tables.feedback.c.feedback_id)
    files = {path.name: path for path in images.glob("[0-9a-f][0-9a-f]/*")}
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()} == {name: name for name in files}
    assert ids(store, tables.prediction.c.image_sha256) <= files.keys()
    with store.reading() as connection:
        current = sa.select(tables.feedback.c.image_sha256).where(tables.feedback.c.superseded_by.is_(None))
        voted = connection.execute(current).scalars().all()
    assert len(voted) == len(set(voted)) > 0
    store.close()
