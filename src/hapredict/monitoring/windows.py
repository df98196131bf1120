"""Counts of journal parts become windows in event time.

Parts of several replicas arrive in any order and overlap in time. Counts are whole numbers, so
within a window their order does not matter. The watermark says how far event time has come.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.features.clock import HOUR_S, WEEK_HOURS, hour_of_week
from hapredict.monitoring.evidence import time_weight
from hapredict.sections import DAY_S
from hapredict.serving.journal import WindowCounts

BUCKETS_PER_WINDOW = 24
"""Of `monitoring.window_days`, in the journal's counts: how finely they say when rows happened."""

JUMP_MAX_S = 30 * DAY_S
JUMP_ROWS = 20
"""A jump of the watermark by more than JUMP_MAX_S is believed once JUMP_ROWS rows say so: event
times may come from callers, and one wrong year must not age every label out."""


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Counts that a detector folds at once."""

    start_s: float
    end_s: float
    weight: float
    """The event time that passed since the last window closed, in windows of `window_days`."""
    rows: int
    bins: NDArray[np.int64]
    """Flat, all features behind each other."""
    scores: NDArray[np.int64]
    hours: NDArray[np.float64]
    """[168]: rows by hour of week."""


class Watermark:
    """The latest event seen. It never falls."""

    def __init__(self) -> None:
        self.at_s: float | None = None
        self._ahead = 0

    def advance(self, event_s: NDArray[np.float64]) -> None:
        """Take in the event times [rows] of one part; NaN tells nothing."""
        times = event_s[np.isfinite(event_s)]
        if not len(times):
            return
        if self.at_s is None:
            self.at_s = float(np.median(times))
        while True:
            near = times <= self.at_s + JUMP_MAX_S
            if near.any():
                self.at_s = max(self.at_s, float(times[near].max()))
                self._ahead = 0
            times = times[times > self.at_s]
            if not len(times):
                return
            if times.min() > self.at_s + JUMP_MAX_S:
                self._ahead += len(times)
                if self._ahead < JUMP_ROWS:
                    return
                self.at_s, self._ahead = float(np.median(times)), 0

    def to_json(self) -> list[Any]:
        return [self.at_s, self._ahead]

    @staticmethod
    def from_json(raw: list[Any]) -> "Watermark":
        found = Watermark()
        found.at_s, found._ahead = raw
        return found


class Windows:
    """The open window of one champion.

    A window closes when it has `window_rows` rows, or when counts arrive that lie `window_s` or
    more after its start. Counts from before its start belong to a window that is closed: they go
    into the open one and are counted in `rows_late`. Counts that another version's plan made mean
    something else: they are left out and counted in `rows_foreign`.
    """

    def __init__(
        self, version: int, *, window_rows: int, window_s: float, bins: int, scores: int
    ) -> None:
        self.version = version
        self.rows_late = 0
        self.rows_foreign = 0
        self._window_rows = window_rows
        self._window_s = window_s
        self._bins = np.zeros(bins, np.int64)
        self._scores = np.zeros(scores, np.int64)
        self._hours = np.zeros(WEEK_HOURS)
        self._rows = 0
        self._start_s = 0.0
        self._now_s: float | None = None
        self._closed_s = 0.0

    def add(self, counts: tuple[WindowCounts, ...], watermark_s: float) -> list[Window]:
        """The windows that these counts close, oldest first."""
        closed = []
        for one in sorted(counts, key=lambda one: one.bucket):
            if (
                one.version != self.version
                or one.bins.shape != self._bins.shape
                or one.scores.shape != self._scores.shape
            ):
                self.rows_foreign += one.rows
                continue
            bucket_s = self._window_s / BUCKETS_PER_WINDOW
            start_s = one.bucket * bucket_s
            if self._now_s is None:
                self._now_s = self._closed_s = min(start_s, watermark_s)
            if self._rows and start_s >= self._start_s + self._window_s:
                closed.append(self._close())
            if not self._rows:
                # what came late does not turn back the clock
                self._start_s = max(start_s, self._closed_s - bucket_s)
            if start_s + bucket_s <= self._start_s:
                self.rows_late += one.rows
            self._bins += one.bins
            self._scores += one.scores
            # a bucket longer than an hour does not say which of its hours
            hours = hour_of_week(start_s + HOUR_S * np.arange(max(1, round(bucket_s / HOUR_S))))
            np.add.at(self._hours, hours, one.rows / len(hours))
            self._rows += one.rows
            self._now_s = max(self._now_s, min(start_s + bucket_s, watermark_s))
            if self._rows >= self._window_rows:
                closed.append(self._close())
        return closed

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": [self._rows, self.rows_late, self.rows_foreign],
            "times": [self._start_s, self._now_s, self._closed_s],
            "bins": self._bins.tolist(),
            "scores": self._scores.tolist(),
            "hours": {int(hour): float(self._hours[hour]) for hour in self._hours.nonzero()[0]},
        }

    def restore(self, raw: Mapping[str, Any]) -> None:
        """Go on from where `to_json` was written for the same champion."""
        self._rows, self.rows_late, self.rows_foreign = raw["rows"]
        self._start_s, self._now_s, self._closed_s = raw["times"]
        self._bins = np.array(raw["bins"], np.int64)
        self._scores = np.array(raw["scores"], np.int64)
        self._hours[:] = 0
        for hour, rows in raw["hours"].items():
            self._hours[int(hour)] = rows

    def _close(self) -> Window:
        now_s = self._start_s if self._now_s is None else self._now_s
        window = Window(
            start_s=self._start_s,
            end_s=now_s,
            weight=time_weight(now_s - self._closed_s, self._window_s),
            rows=self._rows,
            bins=self._bins.copy(),
            scores=self._scores.copy(),
            hours=self._hours.copy(),
        )
        self._closed_s, self._rows = now_s, 0
        self._bins[:] = 0
        self._scores[:] = 0
        self._hours[:] = 0
        return window
