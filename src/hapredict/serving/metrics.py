"""The numbers of one serving process, in Prometheus' terms. Base units, and no label per user."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Counters of one app, in a registry of their own, so that two apps never share a number."""

    def __init__(self, model: str, in_progress: Callable[[], float]) -> None:
        self._model = model
        self._registry = CollectorRegistry()
        requests = self._of(
            Counter,
            "hapredict_requests_total",
            "Requests answered, by route and status code.",
            ("model", "route", "code"),
        )
        durations = self._of(
            Histogram,
            "hapredict_request_duration_seconds",
            "Time from the request's start to its last byte written.",
            ("model", "route"),
            buckets=_BUCKETS_S,
        )
        rows = self._of(
            Counter, "hapredict_rows_total", "Rows answered, by version.", ("model", "version")
        )
        shed = self._of(
            Counter, "hapredict_shed_total", "Requests refused, by reason.", ("model", "reason")
        )
        labels = self._of(
            Counter, "hapredict_labels_total", "Labels acknowledged as durable.", ("model",)
        )
        gauge = self._of(
            Gauge, "hapredict_requests_in_progress", "Requests begun and not over.", ("model",)
        )
        gauge.labels(model).set_function(in_progress)
        self._labels = labels.labels(model)

        # A child is looked up by hashing its labels each time; these are few and on the hot path.
        @cache
        def of_request(route: str, code: int) -> tuple[Any, Any]:
            return requests.labels(model, route, str(code)), durations.labels(model, route)

        @cache
        def of_version(version: int) -> Any:
            return rows.labels(model, str(version))

        self._of_request = of_request
        self._of_version = of_version
        self._shed = shed

    def request(self, route: str, code: int, duration_s: float) -> None:
        """A request is over. `route` is a template, never a path as it was sent."""
        count, duration = self._of_request(route, code)
        count.inc()
        duration.observe(duration_s)

    def rows(self, versions: NDArray[np.int64]) -> None:
        """Rows were answered; `versions` is [rows]."""
        if len(versions) == 1:
            self._of_version(int(versions[0])).inc()
            return
        for version, count in zip(*np.unique(versions, return_counts=True), strict=True):
            self._of_version(int(version)).inc(int(count))

    def labels(self, count: int) -> None:
        """Labels were acknowledged."""
        self._labels.inc(count)

    def shed(self, reason: str) -> None:
        """A request was refused: `ongoing`, `deadline`, `not_ready`, `store`."""
        self._shed.labels(self._model, reason).inc()

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self._registry)

    def _of(self, kind: Any, name: str, help_: str, labels: tuple[str, ...], **more: Any) -> Any:
        return kind(name, help_, labels, registry=self._registry, **more)
