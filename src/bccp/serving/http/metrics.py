"""Figures of the service for Prometheus.

No user and no image is in a label. Names that callers choose are capped: after so many of them the others are counted as ``other``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from bccp.serving.engine.loaded_model import LoadedModel

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_CLASSES, MAX_CHANNELS = 100, 20
OTHER = "other"

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _Capped:
    """At most so many names."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(name)
        return name


class Metrics:
    """The figures of one service, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._class, self._channel = _Capped(MAX_CLASSES), _Capped(MAX_CHANNELS)
        predictions = self._counter("bccp_predictions", "Images that were answered", "model_version", "class", "channel")
        self._errors = self._counter("bccp_errors", "Problems, of requests and of single images", "problem")
        seconds = Histogram(
            "bccp_request_duration_seconds", "From a request's headers to its answer", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.batch_images = Histogram("bccp_batch_images", "Images that the model saw at once", buckets=_IMAGES, registry=self.registry)
        # looking a series up by its labels takes longer than counting
        self._predictions, self._seconds = functools.lru_cache(4096)(predictions.labels), functools.lru_cache(256)(seconds.labels)
        self._reloads = self._counter("bccp_model_reloads", "Models that were loaded while others answered", "outcome")
        self._feedback = self._counter("bccp_feedback", "Feedback that was recorded", "kind", "channel")

    def watch(
        self,
        *,
        queued: Callable[[], float],
        pending: Callable[[], float],
        lost: Callable[[], float],
        model: Callable[[], LoadedModel | None],
    ) -> None:
        """Add the figures that are asked for when somebody looks.

        Parameters
        ----------
        queued : callable
            Images that wait.
        pending : callable
            Votes that no cycle has taken.
        lost : callable
            Predictions that were answered and could not be recorded.
        model : callable
            The model that answers.
        """
        self.registry.register(_Watched(queued, pending, lost, model))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def predicted(self, model_version: int | None, label: str, channel: str) -> None:
        """Count an image that was answered."""
        self._predictions("" if model_version is None else str(model_version), self._class(label), self._channel(channel)).inc()

    def problem(self, kind: str) -> None:
        """Count a problem."""
        self._errors.labels(kind).inc()

    def answered(self, route: str, seconds: float) -> None:
        """Count a request and how long it took."""
        self._seconds(route).observe(seconds)

    def voted(self, kind: str, channel: str) -> None:
        """Count feedback that was recorded."""
        self._feedback.labels(kind, self._channel(channel)).inc()

    def reloaded(self, outcome: str) -> None:
        """Count a model that was loaded, or failed to be."""
        self._reloads.labels(outcome).inc()

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)


@dataclass(frozen=True, eq=False)
class _Watched(Collector):
    """Figures that others keep."""

    queued: Callable[[], float]
    pending: Callable[[], float]
    lost: Callable[[], float]
    model: Callable[[], LoadedModel | None]

    def collect(self) -> Iterator[Metric]:
        """Ask for them."""
        yield GaugeMetricFamily("bccp_queue_images", "Images that wait for the model", self.queued())
        yield GaugeMetricFamily("bccp_feedback_pending", "Votes that no cycle has taken yet", self.pending())
        yield CounterMetricFamily("bccp_recording_lost", "Predictions that were answered and could not be recorded", self.lost())
        info = GaugeMetricFamily("bccp_model_info", "The model that answers", labels=["name", "version", "digest"])
        if (model := self.model()) is not None:
            info.add_metric([model.name, "" if model.version is None else str(model.version), model.digest], 1)
        yield info
