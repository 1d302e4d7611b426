"""Requests gathered into batches: who is asked together, what an image that is none costs the others, and who is not kept waiting."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bccp.serving.engine.batching import Batcher, BusyError, DeadlineExceededError, Item, NoModelError
from bccp.serving.store.predictions import PredictionRecord
from support.made_up_engine import Gate, made_up, plain
from support.serving import serve_settings


def item(level: int, **options: Any) -> Item:
    return Item(plain(level, **options), "api")


@asynccontextmanager
async def batching(holder: Any, recorder: Any = None, **options: Any) -> AsyncIterator[Batcher]:
    batcher = Batcher(holder, recorder, serve_settings(**options), asyncio.get_running_loop())
    batcher.start()
    try:
        yield batcher
    finally:
        await asyncio.to_thread(batcher.stop)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


class Notes:
    """A recorder that lets answers go when it is told to."""

    def __init__(self) -> None:
        self.records: list[PredictionRecord] = []
        self.waiting: list[Callable[[], None]] = []

    def put(self, records: Sequence[PredictionRecord], done: Callable[[], None]) -> None:
        self.records += records
        self.waiting.append(done)


def test_all_that_wait_are_asked_together_and_each_gets_its_own_answer() -> None:
    gate = Gate()

    async def story() -> None:
        holder = SimpleNamespace(current=made_up(ask=gate))
        async with batching(holder, max_batch=4) as batcher:
            first = asyncio.create_task(batcher.answer([item(0)]))
            await until(gate.asked.is_set)
            others = [asyncio.create_task(batcher.answer([item(level)])) for level in (0, 100, 200) * 3]
            await until(lambda: batcher.queue_images == 9)
            gate.opened.set()
            found = [(await one)[0] for one in (first, *others)]
            assert [one.answer.label for one in found if one.answer] == ["ant", *("ant", "bee", "cat") * 3]
            assert gate.sizes == [1, 4, 4, 1]
            assert len({one.request_id for one in found}) == 10
            assert batcher.queue_images == 0

    asyncio.run(story())


def test_what_is_no_image_hurts_only_itself() -> None:
    noisy = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(noisy, "PNG")
    files = {
        "": plain(200),
        "empty": b"",
        "not-an-image": b"%PDF-1.7",
        "truncated": noisy.getvalue()[:4000],
        "bomb": plain(0, side=60),
        "a bomb of few bytes": plain(0, side=60, kind="GIF"),
    }

    async def story() -> None:
        async with batching(SimpleNamespace(current=made_up(max_pixels=3000)), max_pixels=4096) as batcher:
            found = await batcher.answer([Item(data, "api") for data in (*files.values(), plain(100))])
            kinds = [one.problem.kind if one.problem else "" for one in found]
            assert kinds == ["", "empty", "not-an-image", "bomb", "bomb", "bomb", ""]
            assert [one.answer.label for one in found if one.answer] == ["cat", "bee"]
            assert found[3].problem.detail == "decompression bomb: more than 3000 pixels"
            assert found[2].problem.detail == "PDF document: export its pages or pictures as PNG or JPEG"
            assert found[0].facts is not None
            assert (found[0].facts.format, found[0].facts.width, found[0].facts.n_bytes) == ("PNG", 8, len(files[""]))
        async with batching(SimpleNamespace(current=made_up())) as batcher:
            cut, whole = await batcher.answer([Item(files["truncated"], "api"), Item(noisy.getvalue(), "api")])
            assert cut.problem is not None
            assert cut.problem.kind == "truncated"
            assert whole.answer is not None

    asyncio.run(story())


def test_a_request_for_which_there_is_no_room_is_refused_whole_and_one_that_is_cancelled_leaves_room() -> None:
    gate = Gate()

    async def story() -> None:
        async with batching(SimpleNamespace(current=made_up(ask=gate)), max_queue=4, max_files=4) as batcher:
            first = asyncio.create_task(batcher.answer([item(0)]))
            await until(gate.asked.is_set)
            waiting = asyncio.create_task(batcher.answer([item(0)] * 3))
            await until(lambda: batcher.queue_images == 3)
            with pytest.raises(BusyError):
                await batcher.answer([item(0)] * 2)
            assert batcher.queue_images == 3
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert batcher.queue_images == 0
            last = asyncio.create_task(batcher.answer([item(200)] * 4))
            await until(lambda: batcher.queue_images == 4)
            gate.opened.set()
            assert len(await last) == 4
            await first
            assert gate.sizes == [1, 4]  # nobody asked about those that were cancelled

    asyncio.run(story())


def test_an_answer_that_would_come_too_late_is_not_waited_for() -> None:
    gate = Gate()

    async def story() -> None:
        async with batching(SimpleNamespace(current=made_up(ask=gate)), deadline=0.1) as batcher:
            first = asyncio.create_task(batcher.answer([item(0)]))
            await until(gate.asked.is_set)
            with pytest.raises(DeadlineExceededError):
                await batcher.answer([item(0)])
            with pytest.raises(DeadlineExceededError):
                await first
            with pytest.raises(DeadlineExceededError):
                await batcher.answer([item(0)], deadline=0.0)  # it passed before
            gate.opened.set()
            assert (await batcher.answer([item(100)]))[0].answer is not None
            assert gate.sizes == [1, 1]

    asyncio.run(story())


def test_a_batch_is_one_models_and_a_request_too() -> None:
    gate = Gate()

    async def story() -> None:
        holder = SimpleNamespace(current=None)
        async with batching(holder) as batcher:
            with pytest.raises(NoModelError):
                await batcher.answer([item(0)])
            holder.current = old = made_up(version=1, ask=gate)
            tasks = [asyncio.create_task(batcher.answer([item(0)]))]
            await until(gate.asked.is_set)
            tasks.append(asyncio.create_task(batcher.answer([item(0)] * 2)))
            await until(lambda: batcher.queue_images == 2)
            holder.current = new = made_up(version=2, ask=gate)
            tasks.append(asyncio.create_task(batcher.answer([item(0)] * 3)))
            await until(lambda: batcher.queue_images == 5)
            gate.opened.set()
            assert [[one.model for one in await task] for task in tasks] == [[old], [old] * 2, [new] * 3]
            assert gate.sizes == [1, 2, 3]

    asyncio.run(story())


def test_large_pictures_are_decoded_elsewhere_within_the_pixels_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    model, lock, most, now = made_up(), threading.Lock(), 0, 0
    prepare = model.served.prepare

    def counting(data: bytes, **options: Any) -> Any:
        nonlocal now, most
        with lock:
            now += threading.current_thread().name.startswith("bccp-decode")
            most = max(most, now)
        try:
            return prepare(data, **options)
        finally:
            with lock:
                now -= threading.current_thread().name.startswith("bccp-decode")

    monkeypatch.setattr(model.served, "prepare", counting)
    large = plain(200, side=600)

    async def story() -> None:
        settings = serve_settings(max_pixels_in_flight=700_000, max_pixels=400_000)
        batcher = Batcher(SimpleNamespace(current=model), None, settings, asyncio.get_running_loop(), threads=4)
        batcher.start()
        found = await batcher.answer([Item(large, "api")] * 12 + [item(0)])
        assert [one.answer.label for one in found if one.answer] == ["cat"] * 12 + ["ant"]
        assert most == 1  # two have 720,000 pixels
        await asyncio.to_thread(batcher.stop)

    asyncio.run(story())


def test_what_is_no_image_does_not_wait_for_room_among_large_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    model, decoding, go_on = made_up(), threading.Event(), threading.Event()
    prepare = model.served.prepare

    def slow(data: bytes, **options: Any) -> Any:
        if len(data) == len(large):
            decoding.set()
            assert go_on.wait(20)
        return prepare(data, **options)

    monkeypatch.setattr(model.served, "prepare", slow)
    large = plain(200, side=600, kind="GIF")  # the pool's from the start

    async def story() -> None:
        settings = serve_settings(max_pixels_in_flight=360_000, max_pixels=360_000)
        batcher = Batcher(SimpleNamespace(current=model), None, settings, asyncio.get_running_loop(), threads=2)
        batcher.start()
        task = asyncio.create_task(batcher.answer([Item(large, "api")]))
        await until(decoding.is_set)
        (found,) = await batcher.answer([Item(b"neither this nor that", "api")])
        assert found.problem is not None
        assert found.problem.kind == "not-an-image"
        assert not task.done()
        go_on.set()
        assert (await task)[0].answer is not None
        await asyncio.to_thread(batcher.stop)

    asyncio.run(story())


def test_a_model_that_fails_answers_the_next_batch(caplog: pytest.LogCaptureFixture) -> None:
    faults = [RuntimeError("no kernel"), None]

    def ask(pixels: np.ndarray) -> np.ndarray:
        if fault := faults.pop(0):
            raise fault
        return np.tile(np.float32([0.1, 0.7, 0.2]), (len(pixels), 1))

    async def story() -> None:
        async with batching(SimpleNamespace(current=made_up(ask=ask))) as batcher:
            failed, empty = await batcher.answer([item(0), Item(b"", "api")])
            assert failed.problem is not None
            assert empty.problem is not None
            assert (failed.problem.kind, empty.problem.kind) == ("failed", "empty")
            (answered,) = await batcher.answer([item(0)])
            assert answered.answer is not None
            assert list(answered.answer.top or {}) == ["bee", "cat", "ant"]

    asyncio.run(story())
    assert "the model failed" in caplog.text


def test_an_answer_leaves_when_it_is_recorded() -> None:
    notes = Notes()

    async def story() -> None:
        async with batching(SimpleNamespace(current=made_up(version=7)), notes) as batcher:
            task = asyncio.create_task(batcher.answer([item(200), Item(b"x", "upload"), Item(plain(0), "stream", event_id="source:1")]))
            await until(lambda: len(notes.records) == 2)
            await asyncio.sleep(0.05)
            assert not task.done()
            while notes.waiting:
                notes.waiting.pop()()
            found = await task
            cat, fault = sorted(notes.records, key=lambda record: record.channel)  # the stream writes its rows itself
            assert [cat.request_id, fault.request_id] == [one.request_id for one in found[:2]]
            assert (cat.predicted_class, cat.probability, cat.model_version, cat.data, cat.error) == ("cat", 0.75, 7, plain(200), None)
            assert cat.image == found[0].facts
            assert (fault.error, fault.image, fault.data, fault.channel) == ("not-an-image", None, None, "upload")
            (alone,) = await batcher.answer([Item(plain(0), "stream", event_id="source:2")])
            assert alone.answer is not None
            assert not notes.waiting

    asyncio.run(story())


def test_whoever_waits_when_it_stops_is_answered_and_nobody_new() -> None:
    gate = Gate()

    async def story() -> None:
        batcher = Batcher(SimpleNamespace(current=made_up(ask=gate)), None, serve_settings(), asyncio.get_running_loop())
        batcher.start()
        tasks = [asyncio.create_task(batcher.answer([item(0), Item(plain(200, side=600), "api")])) for _ in range(20)]
        await until(gate.asked.is_set)
        stopped = asyncio.create_task(asyncio.to_thread(batcher.stop))
        await asyncio.sleep(0.02)
        with pytest.raises(BusyError):
            await batcher.answer([item(0)])
        gate.opened.set()
        await stopped
        assert [[one.answer.label for one in await task if one.answer] for task in tasks] == [["ant", "cat"]] * 20

    asyncio.run(story())
