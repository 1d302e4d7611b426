"""A process that records predictions and feedback until it is killed, and prints what it has acknowledged.

``python -m support.storing_process URL IMAGES SEED``: lines ``prediction <request id>`` and ``feedback <feedback id>``.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from pathlib import Path

from bccp.serving.recording import Recorder
from bccp.serving.store import feedback
from bccp.serving.store.opening import Store, open_store
from support.served_records import answered, digest, vote


def main(url: str, images: str, seed: str) -> None:
    """Record; the caller's signal ends it."""
    store = open_store(url, images=Path(images))
    recorder = Recorder(store, "all")
    recorder.start()
    threading.Thread(target=_vote, args=(store, seed), daemon=True).start()
    threading.Thread(target=_write, args=(store,), daemon=True).start()
    chance = random.Random(seed)
    while True:
        done = threading.Event()
        records = [answered(chance.randbytes(chance.choice((100, 5_000, 100_000)))) for _ in range(4)]
        recorder.put(records, done.set)
        done.wait()
        if not recorder.state().lost:
            _acknowledge(*(f"prediction {one.request_id}" for one in records))


def _vote(store: Store, seed: str) -> None:
    number = 0
    while True:
        image = f"{seed} {number % 7}".encode()
        added = feedback.add(store, vote(image, user_id=digest(seed.encode()), idempotency_key=f"{seed}-{number}"))
        _acknowledge(f"feedback {added.feedback_id}")
        number += 1


def _write(store: Store) -> None:
    """Write large files again and again, so that the signal comes while one is being written."""
    files = {digest(data): data for data in (random.Random(number).randbytes(4_000_000) for number in range(3))}
    while True:
        for sha256, data in files.items():
            store.images.put(sha256, data)
            store.images.delete(sha256)


def _acknowledge(*lines: str) -> None:
    os.write(1, "".join(f"{line}\n" for line in lines).encode())  # one call: no other thread's line within


if __name__ == "__main__":
    main(*sys.argv[1:])
