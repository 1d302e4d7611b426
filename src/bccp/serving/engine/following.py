"""The model in use, and how it follows the alias of a registered model."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bccp.core.errors import BCCPError
from bccp.core.redaction import first_line
from bccp.serving.engine.loaded_model import LoadedModel, load_served
from bccp.tracking import registry
from bccp.tracking.store import Ledger

RETRY_SECONDS = 60.0
"""After which a version that could not be loaded is tried again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HolderState:
    """State of the model in use.

    Attributes
    ----------
    spec : str
        Name of what is served.
    model : LoadedModel or None
        None: there is none yet.
    error : str or None
        Why there is none, or no newer one.
    """

    spec: str
    model: LoadedModel | None
    error: str | None


def followed_alias(spec: str) -> str | None:
    """The URI ``models:/name@alias`` of a name that is followed; None of what stays the same model."""
    match = re.fullmatch(r"(?:models:/)?([^/@:]+@[^/@:]+)", spec)
    return f"models:/{match[1]}" if match else None


class ModelHolder:
    """Hold the model in use. Another version is loaded and warmed beside it before it takes its place.

    Parameters
    ----------
    ledger : Ledger
    spec : str
        As for :func:`bccp.serving.engine.loaded_model.load_served`; an alias is followed.
    every : float
        Seconds between looks at the alias.
    on_reload : callable
        Called with ``loaded`` or ``failed`` after each attempt to load a version that the alias means from now on.
    emit : callable, optional
        Gets a line about each of them, but one about a version that fails again.
    max_batch : int
        Number of images that the model is warmed with.
    """

    def __init__(
        self,
        ledger: Ledger,
        spec: str,
        *,
        every: float,
        on_reload: Callable[[str], object] = lambda _: None,
        emit: Callable[[str], object] = lambda line: print(line, flush=True),
        max_batch: int = 64,
    ) -> None:
        self.current: LoadedModel | None = None
        self._ledger, self._spec, self._every, self._on_reload, self._emit = ledger, spec, every, on_reload, emit
        self._load = partial(load_served, max_batch=max_batch, emit=emit)
        self._alias = followed_alias(spec)
        self._error: str | None = None
        self._refused: tuple[str, float] = ("", 0.0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="bccp-follow", daemon=True)

    def start(self) -> None:
        """Load the model, and begin to follow it where its name is an alias.

        Raises
        ------
        BCCPError
            If a model that is no alias cannot be loaded.
        """
        if self._alias is None:
            self.current = self._load(self._ledger, self._spec)
            return
        self._look(first=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a version that is being loaded is not waited for."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def state(self) -> HolderState:
        """Return the model in use, and what keeps a newer one away."""
        return HolderState(self._spec, self.current, self._error)

    def _follow(self) -> None:
        while not self._stopping.wait(self._every):
            self._look()

    def _look(self, *, first: bool = False) -> None:
        """Load the version that the alias means now, where that is another one."""
        alias = str(self._alias)
        try:
            version = registry.find_version(self._ledger, alias, option="serve.model")
        except Exception as error:  # a registry that is away raises anything: requests', SQLAlchemy's, MLflow's own
            if not isinstance(error, BCCPError):
                _log.debug("the registry does not answer", exc_info=True)
            self._error = first_line(error)
            return
        number = str(version.version)
        if self.current is not None and str(self.current.version) == number:
            self._error = None
            return
        if self._refused[0] == number and time.monotonic() < self._refused[1]:
            return
        uri = f"models:/{version.name}/{number}"
        try:
            loaded = self._load(self._ledger, uri, beside=self.current is not None)
        except Exception as error:
            is_news = self._refused[0] != number
            self._error = f"{uri} cannot be loaded: {first_line(error)}"
            self._refused = number, time.monotonic() + RETRY_SECONDS
            if is_news:
                stays = f"; version {self.current.version} stays" if self.current else ""
                self._emit(f"{self._error}{stays}")
            self._on_reload("failed")
            return
        self.current, self._error, self._refused = loaded, None, ("", 0.0)
        if not first:
            self._on_reload("loaded")
            self._emit(f"{alias} is version {number} now")
