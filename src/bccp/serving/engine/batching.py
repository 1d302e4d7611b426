"""Requests gathered into batches: one thread asks the model about all images that wait, and never waits for more.

The event loop puts images into a queue. Small files are decoded by the model's thread itself, others by a pool of threads under a bound on
the pixels in flight. A finished batch is recorded before its answers leave.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from bccp.core.runtime.threads import default_threads
from bccp.data.decoding.image_files import TooManyPixelsError, pillow_limits
from bccp.models.predictor import Answer, Prepared
from bccp.serving.engine.decoding import SMALL_PIXELS, PixelBudget, Problem, announced_pixels, may_be_small, problem, takes_for_ever
from bccp.serving.engine.loaded_model import LoadedModel
from bccp.serving.store.predictions import ImageFacts, PredictionRecord, new_request_id

if TYPE_CHECKING:
    from bccp.core.config_schema import Serve
    from bccp.serving.recording import Recorder

_log = logging.getLogger(__name__)


class BusyError(Exception):
    """The queue has no room for all images of the request; none was taken."""


class DeadlineExceededError(Exception):
    """The answers were not there in time."""


class NoModelError(Exception):
    """No model is loaded yet."""


class Item(NamedTuple):
    """An image to be classified.

    Attributes
    ----------
    data : bytes
        A whole file.
    channel : str
        How it came: ``api``, ``stream``, ...
    event_id : str or None
        Given by a caller that records the prediction itself; it is not recorded here.
    """

    data: bytes
    channel: str
    event_id: str | None = None


class Answered(NamedTuple):
    """The answer for an image, or the problem that it is.

    Attributes
    ----------
    request_id : UUID
    answer : Answer or None
    problem : Problem or None
        One of the two is there.
    model : LoadedModel
        The one that answered; the same for all images of a request.
    sha256 : str
        Of the file's bytes, 64 hex digits.
    facts : ImageFacts or None
        None where the image is a problem.
    """

    request_id: uuid.UUID
    answer: Answer | None
    problem: Problem | None
    model: LoadedModel
    sha256: str
    facts: ImageFacts | None


class Holder(Protocol):
    """Whoever has the model that answers at present."""

    @property
    def current(self) -> LoadedModel | None:
        """The model, or None where there is none yet."""


class _Request:
    """The images of one request, and whoever waits for their answers."""

    __slots__ = ("answers", "deadline", "dropped", "future", "model", "n_open", "n_queued")

    def __init__(self, n_images: int, model: LoadedModel, deadline: float, future: asyncio.Future[list[Answered]]) -> None:
        self.model, self.deadline, self.future = model, deadline, future
        self.answers: list[Any] = [None] * n_images  # each an Answered in the end
        self.n_open = self.n_queued = n_images
        self.dropped = False


class _Image:
    """An image on its way: where it belongs, and how far it has come."""

    __slots__ = ("found", "item", "place", "request", "sha256")

    def __init__(self, request: _Request, place: int, item: Item) -> None:
        self.request, self.place, self.item = request, place, item
        self.sha256 = ""
        self.found: Prepared | Problem | None = None


class Batcher:
    """Answer requests with the model at hand, many images at once.

    Parameters
    ----------
    holder : Holder
    recorder : Recorder or None
        Records predictions before they are answered.
    settings : Serve
        ``max_batch``, ``max_queue``, ``deadline`` (s), ``max_pixels``, ``max_pixels_in_flight``.
    loop : AbstractEventLoop
        The loop that :meth:`answer` is awaited in.
    threads : int, optional
        That decode large files; by default as many as there are cores.
    on_batch : callable, optional
        Called in the model's thread with the number of images of each batch.
    """

    def __init__(
        self,
        holder: Holder,
        recorder: Recorder | None,
        settings: Serve,
        loop: asyncio.AbstractEventLoop,
        *,
        threads: int | None = None,
        on_batch: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._holder, self._recorder, self._settings, self._loop, self._on_batch = holder, recorder, settings, loop, on_batch
        self._ready: SimpleQueue[_Image | None] = SimpleQueue()
        self._budget = PixelBudget(settings.max_pixels_in_flight)
        self._pool = ThreadPoolExecutor(threads or default_threads(), thread_name_prefix="bccp-decode")
        self._changed = threading.Condition()
        self._n_queued = 0
        self._is_closing = False
        self._limits = ExitStack()
        self._thread = threading.Thread(target=self._run, name="bccp-model", daemon=True)

    @property
    def queue_images(self) -> int:
        """Number of images that wait for the model."""
        return self._n_queued

    def start(self) -> None:
        """Set Pillow's limits for the whole process, and start to answer."""
        self._limits.enter_context(pillow_limits(self._settings.max_pixels))
        self._thread.start()

    def stop(self) -> None:
        """Refuse new requests, answer those that wait for as long as the deadline lets them, and end the threads."""
        with self._changed:
            self._is_closing = True
            self._changed.wait_for(lambda: self._n_queued == 0, timeout=self._settings.deadline)
        self._ready.put(None)
        self._thread.join()
        self._pool.shutdown(cancel_futures=True)
        self._limits.close()

    async def answer(self, items: Sequence[Item], *, deadline: float | None = None) -> list[Answered]:
        """Answer for the images of one request, in their order, all by the same model.

        Parameters
        ----------
        items : sequence of Item
        deadline : float, optional
            By ``time.monotonic``; by default the configured seconds from now.

        Raises
        ------
        NoModelError
        BusyError
        DeadlineExceededError
        """
        now = time.monotonic()
        deadline = now + self._settings.deadline if deadline is None else deadline
        model = self._holder.current
        if model is None:
            raise NoModelError
        if deadline <= now:
            raise DeadlineExceededError
        with self._changed:
            if self._is_closing or self._n_queued + len(items) > self._settings.max_queue:
                raise BusyError
            self._n_queued += len(items)
        request = _Request(len(items), model, deadline, self._loop.create_future())
        for place, item in enumerate(items):
            image = _Image(request, place, item)
            if may_be_small(item.data):
                self._ready.put(image)
            else:
                self._pool.submit(self._decode_large, image)
        timer = self._loop.call_later(deadline - now, self._expire, request)
        try:
            return await request.future
        finally:
            timer.cancel()
            if request.n_open:  # cancelled or expired
                self._drop(request)

    def _expire(self, request: _Request) -> None:
        if not request.future.done():
            request.future.set_exception(DeadlineExceededError())

    def _drop(self, request: _Request) -> None:
        """Let go of a request for whose answer nobody waits, and free its places in the queue."""
        request.dropped = True
        self._leave_queue([request] * request.n_queued)
        self._budget.wake()

    def _leave_queue(self, requests: Iterable[_Request]) -> None:
        """Free a place for each mention of a request; one that was dropped has left already."""
        with self._changed:
            for request in requests:
                if request.n_queued:
                    request.n_queued -= 1
                    self._n_queued -= 1
            if not self._n_queued:
                self._changed.notify_all()

    def _decode_large(self, image: _Image) -> None:
        """Decode in the pool, where there is room for so many pixels."""
        request = image.request
        try:
            most = self._settings.max_pixels
            pixels = 1 if takes_for_ever(image.item.data) else announced_pixels(image.item.data)
            if pixels is None and self._is_small(image):  # mostly what is no image at all, and need not wait for room
                self._ready.put(image)
                return
            with self._budget.room(most if pixels is None else pixels, deadline=request.deadline, given_up=lambda: request.dropped) as room:
                if not room:  # dropped, or about to expire
                    return
                self._prepare(image, most)
        except Exception:  # whatever happens, the request is not forgotten
            _log.exception("an image could not be decoded")
            image.found = Problem("failed", "the image could not be prepared for the model")
        self._ready.put(image)

    def _prepare(self, image: _Image, max_pixels: int) -> None:
        """Decode an image, or find out which problem it is.

        Raises
        ------
        TooManyPixelsError
            More than ``max_pixels``, where the model or the service would take them.
        """
        image.sha256 = hashlib.sha256(image.item.data).hexdigest()
        if takes_for_ever(image.item.data):
            image.found = Problem("bomb", "the file would keep its decoder busy for longer than a request may take")
            return
        try:
            image.found = image.request.model.prepare(image.item.data, max_pixels=max_pixels)
        except TooManyPixelsError as error:
            if max_pixels < self._settings.max_pixels:
                raise
            image.found = problem(error)
        except Exception as error:
            image.found = problem(error)
            if image.found.kind == "failed":
                _log.exception("an image could not be prepared for the model")

    def _run(self) -> None:
        images: list[_Image] | None = []
        while images is not None:
            batch, images = self._take(images)
            try:
                self._answer_batch(batch)
            except Exception:  # whatever happens, the thread lives on
                _log.exception("a batch could not be answered")

    def _take(self, held: list[_Image]) -> tuple[list[_Image], list[_Image] | None]:
        """Take all images that wait, up to a batch; one of another model begins the next batch.

        Returns
        -------
        batch : list of _Image
        held : list of _Image, or None
            What begins the next batch; None at the end.
        """
        batch = held
        while len(batch) < self._settings.max_batch:
            try:
                image = self._ready.get(block=not batch)
            except Empty:
                break
            if image is None:
                return batch, None
            if batch and image.request.model is not batch[0].request.model:
                return batch, [image]
            batch.append(image)
        return batch, []

    def _answer_batch(self, batch: Sequence[_Image]) -> None:
        wanted = [image for image in batch if not image.request.dropped and self._is_prepared(image)]
        if not wanted:
            return
        self._leave_queue(image.request for image in wanted)
        self._on_batch(len(wanted))
        now, records = datetime.now(UTC), list[PredictionRecord]()
        for image, answered in zip(wanted, self._answers(wanted), strict=True):
            image.request.answers[image.place] = answered
            if image.item.event_id is None:
                records.append(_record(answered, image.item, now))
        requests = [image.request for image in wanted]
        if self._recorder is None or not records:
            self._pass_on(requests)
        else:
            self._recorder.put(records, lambda: self._pass_on(requests))

    def _is_prepared(self, image: _Image) -> bool:
        """Decode a small image that has not been decoded yet; False for one that is small in bytes alone, which the pool gets."""
        if image.found is None and not self._is_small(image):
            self._pool.submit(self._decode_large, image)
            return False
        return True

    def _is_small(self, image: _Image) -> bool:
        """Decode an image of few pixels; False for one that has more."""
        try:
            self._prepare(image, min(SMALL_PIXELS, self._settings.max_pixels))
        except TooManyPixelsError:
            return False
        return True

    def _answers(self, images: Sequence[_Image]) -> list[Answered]:
        """Ask the model, once, about all images that are pictures."""
        model = images[0].request.model
        pictures = [image.found.pixels for image in images if isinstance(image.found, Prepared)]
        answers: Iterator[Answer | Problem] = iter(())
        if pictures:
            try:
                answers = iter(model.name_answers(model.probabilities(np.stack(pictures))))
            except Exception:  # of a native library, for which there is no list
                _log.exception("the model failed")
                answers = itertools.repeat(Problem("failed", "the model failed"))
        found: list[Answered] = []
        for image in images:
            data, sha256, prepared = image.item.data, image.sha256, image.found
            outcome = next(answers) if isinstance(prepared, Prepared) else prepared
            facts = None
            if isinstance(prepared, Prepared):
                facts = ImageFacts(sha256, len(data), prepared.format, prepared.width, prepared.height)
            answer, fault = (outcome, None) if isinstance(outcome, Answer) else (None, outcome)
            found.append(Answered(new_request_id(), answer, fault, model, sha256, facts))
        return found

    def _pass_on(self, requests: Sequence[_Request]) -> None:
        """Have the loop look at the requests of a batch that is answered and recorded, one mention an image; any thread may call it."""
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            self._loop.call_soon_threadsafe(_close, requests)


def _close(requests: Sequence[_Request]) -> None:
    """Let those go whose images are all answered and recorded, which may have been in several batches."""
    for request in requests:
        request.n_open -= 1
        if not request.n_open and not request.future.done():
            request.future.set_result(request.answers)


def _record(answered: Answered, item: Item, now: datetime) -> PredictionRecord:
    answer, model = answered.answer, answered.model
    return PredictionRecord(
        request_id=answered.request_id,
        created_at=now,
        channel=item.channel,
        image=answered.facts,
        data=None if answer is None else item.data,
        model_name=model.name,
        model_version=model.version,
        model_digest=model.digest,
        predicted_class=None if answer is None else answer.label,
        probability=None if answer is None else answer.probability,
        top_3=None if answer is None else answer.top,
        error=None if answered.problem is None else answered.problem.kind,
    )
