"""The numbers of one serving process, in Prometheus' terms. Base units, and no label per user.

They are plain counts until somebody reads them: a request costs two look-ups and two additions,
a tenth of what counters with locks of their own would take.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Counters of one app, in a registry of their own, so that two apps never share a number.

    For one thread: that of the event loop.
    """

    def __init__(self, model: str, in_progress: Callable[[], float]) -> None:
        self._model = model
        self._in_progress = in_progress
        self._requests: Counter[tuple[str, int]] = Counter()
        self._durations: dict[str, list[int]] = {}
        self._seconds: Counter[str] = Counter()
        self._rows: Counter[int] = Counter()
        self._shed: Counter[str] = Counter()
        self._labels = 0
        self.dropped: Callable[[], int] = lambda: 0
        """How many lines of the access log were dropped."""
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def request(self, route: str, code: int, duration_s: float) -> None:
        """A request is over. `route` is a template, never a path as it was sent."""
        self._requests[route, code] += 1
        counts = self._durations.get(route)
        if counts is None:
            counts = self._durations[route] = [0] * (len(_BUCKETS_S) + 1)
        counts[bisect_left(_BUCKETS_S, duration_s)] += 1
        self._seconds[route] += duration_s  # type: ignore[assignment]

    def rows(self, versions: NDArray[np.int64]) -> None:
        """Rows were answered; `versions` is [rows]."""
        self._rows.update(versions.tolist())

    def labels(self, count: int) -> None:
        """Labels were acknowledged."""
        self._labels += count

    def shed(self, reason: str) -> None:
        """A request was refused: `ongoing`, `deadline`, `not_ready`, `store`."""
        self._shed[reason] += 1

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The numbers as metric families; what the registry asks for."""
        model = self._model
        requests = CounterMetricFamily(
            "hapredict_requests",
            "Requests answered, by route and status code.",
            labels=("model", "route", "code"),
        )
        for (route, code), count in self._requests.items():
            requests.add_metric((model, route, str(code)), count)
        yield requests
        durations = HistogramMetricFamily(
            "hapredict_request_duration_seconds",
            "Time from the request's start to its last byte written.",
            labels=("model", "route"),
        )
        bounds = [*map(str, _BUCKETS_S), "+Inf"]
        for route, counts in self._durations.items():
            buckets: list[Any] = list(zip(bounds, accumulate(counts), strict=True))
            durations.add_metric((model, route), buckets, self._seconds[route])
        yield durations
        yield self._counted("hapredict_rows", "Rows answered, by version.", "version", self._rows)
        yield self._counted("hapredict_shed", "Requests refused, by reason.", "reason", self._shed)
        labels = CounterMetricFamily(
            "hapredict_labels", "Labels acknowledged as durable.", labels=("model",)
        )
        labels.add_metric((model,), self._labels)
        yield labels
        dropped = CounterMetricFamily(
            "hapredict_access_lines_dropped",
            "Lines of the access log that were not written.",
            labels=("model",),
        )
        dropped.add_metric((model,), self.dropped())
        yield dropped
        gauge = GaugeMetricFamily(
            "hapredict_requests_in_progress", "Requests begun and not over.", labels=("model",)
        )
        gauge.add_metric((model,), self._in_progress())
        yield gauge

    def _counted(self, name: str, help_: str, label: str, counts: Counter[Any]) -> Metric:
        family = CounterMetricFamily(name, help_, labels=("model", label))
        for value, count in counts.items():
            family.add_metric((self._model, str(value)), count)
        return family
