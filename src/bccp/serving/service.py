"""The service: store, model and application composed, and run by uvicorn in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from bccp.core import config_schema
from bccp.core.errors import BCCPError
from bccp.serving.engine.batching import Batcher
from bccp.serving.engine.following import ModelHolder
from bccp.serving.http.access import Access
from bccp.serving.http.app import Application
from bccp.serving.http.connections import LimitedProtocol
from bccp.serving.http.incoming import Budget
from bccp.serving.http.metrics import Metrics
from bccp.serving.http.parts import Parts
from bccp.serving.recording import Recorder
from bccp.serving.store import feedback, retention
from bccp.serving.store.opening import Store, StoreUnavailableError, open_store
from bccp.serving.user_names import user_key
from bccp.tracking.store import Ledger

FIRST_SWEEP_SECONDS, SWEEP_SECONDS = 60.0, 3600.0
"""From the start to the first look for predictions and images that are kept long enough, and from one look to the next."""

MAX_CONNECTIONS = 65_536
"""As many files may be open, where the system lets a process choose; by default it is often a thousand."""

KEEP_ALIVE_SECONDS = 75
"""For which a connection without requests stays open; proxies in front close theirs after a minute."""

log = logging.getLogger(__name__)
logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of forms that are none


class Service:
    """A service that is not running yet.

    Parameters
    ----------
    settings : Serve
    store : Store
        The section of the configuration.
    ledger : Ledger

    Raises
    ------
    BCCPError
        Where tokens and address are not safe, the port is taken, or the store cannot be opened.
    """

    def __init__(self, settings: config_schema.Serve, store: config_schema.Store, ledger: Ledger) -> None:
        self._settings, self._ledger = settings, ledger
        self._access = Access(settings)
        if settings.image_root is not None and not Path(settings.image_root).is_dir():
            raise BCCPError(f"serve.image_root={settings.image_root} is no folder: give one, or null where no request may name files")
        self._user_key = user_key(settings.user_key_env)
        self._server: _Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(_bound(settings.host, settings.port))
            self._store = open_store(store.url, images=None if store.images is None else Path(store.images))
            opened.callback(self._store.close)
            self._opened = opened.pop_all()

    @property
    def address(self) -> str:
        """Where the service answers, such as ``http://127.0.0.1:8000``."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        return f"http://{host}:{self._socket.getsockname()[1]}"

    def ready_line(self, parts: Parts) -> str:
        """Say in a line where the service answers, and by which model."""
        model = parts.holder.current
        if model is None:
            return f"{self.address} waits for a model: {self._settings.model} names none yet (docs: {self.address}/docs; Ctrl-C ends it)"
        version = "" if model.version is None else f", version {model.version}"
        return f"{self.address} answers by {model.name}{version} (docs: {self.address}/docs; Ctrl-C ends it)"

    def run(self, ready: Callable[[Parts], object]) -> None:
        """Load the model and answer until :meth:`stop`, SIGTERM or SIGINT; then answer what is there, and end.

        Parameters
        ----------
        ready : callable
            Called once requests are answered.

        Raises
        ------
        BCCPError
            Where ``serve.model`` names what there never will be.
        """
        _allow_connections()
        with self._opened, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._run(ready))

    def stop(self) -> None:
        """Have :meth:`run` end; any thread may call it."""
        if self._loop is not None and self._server is not None:
            self._loop.call_soon_threadsafe(self._server.end)

    async def _run(self, ready: Callable[[Parts], object]) -> None:
        loop = asyncio.get_running_loop()
        settings, store = self._settings, self._store
        recorder = Recorder(store, settings.keep_images)
        metrics = Metrics()
        holder = ModelHolder(
            self._ledger, settings.model, every=settings.reload_every, on_reload=metrics.reloaded, max_batch=settings.max_batch
        )
        batcher = Batcher(holder, recorder, settings, loop, on_batch=metrics.batch_images.observe)
        metrics.watch(
            queued=lambda: batcher.queue_images,
            pending=lambda: _pending(store),
            lost=lambda: recorder.state().lost,
            model=lambda: holder.current,
        )
        parts = Parts(
            settings=settings,
            holder=holder,
            batcher=batcher,
            store=store,
            recorder=recorder,
            metrics=metrics,
            access=self._access,
            user_key=self._user_key,
            budget=Budget(settings.max_bytes_in_flight),
        )
        server = _Server(_uvicorn_config(Application(parts), settings), ready=lambda: ready(parts))
        self._loop, self._server = loop, server
        with contextlib.ExitStack() as stack:
            recorder.start()
            stack.callback(recorder.stop)
            holder.start()
            stack.callback(holder.stop)
            batcher.start()
            stack.callback(batcher.stop)
            stack.callback(parts.store_threads.shutdown)
            sweeping = loop.create_task(_sweep(store, settings))
            with _signals(loop, server.end):
                await server.serve(sockets=[self._socket])
            sweeping.cancel()


class _Server(uvicorn.Server):
    """A server that says when it answers, and leaves signals to others."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=sockets)
        self._ready()

    def end(self) -> None:
        """Take no more connections and end what is under way; a second call does not wait for that."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


@contextlib.contextmanager
def _signals(loop: asyncio.AbstractEventLoop, end: Callable[[], None]) -> Iterator[None]:
    """Have signals end the server, where this is the main thread."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if threading.current_thread() is threading.main_thread() else ()
    taken = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # `nohup` ignores one
    for number in taken:
        loop.add_signal_handler(number, end)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _uvicorn_config(app: Any, settings: config_schema.Serve) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # of callers' faults, of which anybody could fill a disk with lines, they alone are told
        access_log=False,
        server_header=False,
        proxy_headers=False,  # anybody on this machine could choose an address, and with it a limit of their own
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.deadline) + 1,
    )


def _bound(host: str, port: int) -> socket.socket:
    """A socket that is bound, and does not listen yet."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise BCCPError(f"serve.host={host} is no address of this machine ({error.strerror}): use 127.0.0.1") from error
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(1)  # two services that start at once are not both bound
    except OSError as error:
        bound.close()
        raise BCCPError(f"serve.port={port} of {host} cannot be used ({error.strerror}): end what listens there, or set another") from error
    return bound


def _pending(store: Store) -> float:
    try:
        return float(feedback.pending(store))
    except StoreUnavailableError:
        return math.nan


async def _sweep(store: Store, settings: config_schema.Serve) -> None:
    """Delete what is kept long enough, again and again."""
    await asyncio.sleep(FIRST_SWEEP_SECONDS)
    while True:
        try:
            await asyncio.to_thread(retention.sweep, store, settings.keep_days, settings.keep_images, datetime.now(UTC))
        except StoreUnavailableError as error:
            log.warning("what is older than serve.keep_days is kept for another hour: %s", error)
        await asyncio.sleep(SWEEP_SECONDS)


def _allow_connections() -> None:
    """Let the process have as many files open as it may."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, MAX_CONNECTIONS)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
