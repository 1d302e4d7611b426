"""The parts of a running service that its endpoints work with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from bccp.core.config_schema import Serve
from bccp.serving.http.access import Access
from bccp.serving.http.incoming import Budget
from bccp.serving.http.problems import ProblemError
from bccp.serving.http.rate_limits import RateLimits

if TYPE_CHECKING:
    from bccp.serving.engine.batching import Batcher
    from bccp.serving.engine.following import ModelHolder
    from bccp.serving.engine.loaded_model import LoadedModel
    from bccp.serving.http.metrics import Metrics
    from bccp.serving.recording import Recorder
    from bccp.serving.store.opening import Store


Result = TypeVar("Result")

_STORE_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What endpoints are given beside the request.

    Attributes
    ----------
    settings : Serve
    holder : ModelHolder
        Has the model that answers.
    batcher : Batcher
    store : Store
    recorder : Recorder
    metrics : Metrics
    access : Access
    user_key : bytes
        By which users' names are hashed.
    budget : Budget
        Bytes of all bodies.
    rate_limits : RateLimits
    store_threads : Executor
        Wait for the store, so that nothing else waits with them.
    """

    settings: Serve
    holder: ModelHolder
    batcher: Batcher
    store: Store
    recorder: Recorder
    metrics: Metrics
    access: Access
    user_key: bytes
    budget: Budget
    rate_limits: RateLimits = field(default_factory=RateLimits)
    store_threads: Executor = field(default_factory=lambda: ThreadPoolExecutor(_STORE_THREADS, thread_name_prefix="bccp-store"))

    async def ask_store(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """Do something that may wait for the store."""
        return await asyncio.get_running_loop().run_in_executor(self.store_threads, work, *arguments)

    def model(self) -> LoadedModel:
        """Return the model that answers.

        Raises
        ------
        ProblemError
            ``no-model``
        """
        model = self.holder.current
        if model is None:
            detail = f"{self.settings.model} names no model yet: train one (bccp run test.registered_model_name=bccp) or promote one"
            raise ProblemError("no-model", detail, headers={"Retry-After": "10"})
        return model
