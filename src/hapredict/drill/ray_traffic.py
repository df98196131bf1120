"""Sends a replay to a live model: requests over HTTP, labels a day later, faults in between.

The clock is that of the events. After each day the replay waits until the monitor has read what
was sent and control has nothing left to do, so that a year of minutes decides as a year of days.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import ray

from hapredict.drill.past import Answered, Day, Row
from hapredict.drill.report import Counts
from hapredict.monitoring.report import MonitorReport

CLIENTS = 4
LABELS_A_REQUEST = 200
QUIET_S = 5.0
"""Rows that the monitor has not seen after so long a silence are counted as lost."""
SETTLE_S = 300.0


class Traffic:
    """One model's callers."""

    def __init__(self, url: str, model: str, controller: Any) -> None:
        self.counts = Counts()
        self.answers: list[Answered] = []
        self.faults: list[str] = []
        """The first failed requests, in words."""
        self._controller = controller
        self._predict = f"{url}/v1/models/{model}:predict"
        self._feedback = f"{url}/v1/models/{model}:feedback"
        self._client = httpx.Client(
            timeout=30, limits=httpx.Limits(max_connections=CLIENTS), trust_env=False
        )
        self._pool = ThreadPoolExecutor(CLIENTS, "callers")
        self._lock = threading.Lock()
        self._owed: list[Answered] = []
        self._lost = 0
        self._date = ""

    def close(self) -> None:
        """Hang up."""
        self._pool.shutdown()
        self._client.close()

    def day(self, day: Day, during: Callable[[], None] | None = None) -> MonitorReport:
        """One day: its requests, the labels of the day before, and the decisions that follow.

        `during` is called once in the middle of the requests, from a caller's thread.
        """
        self._date = day.date
        owed, self._owed = self._owed, []
        middle = len(day.requests) // 2
        jobs = [
            self._pool.submit(self._ask, day, rows, during if place == middle else None)
            for place, rows in enumerate(day.requests)
        ]
        jobs += [
            self._pool.submit(self._tell, owed[start : start + LABELS_A_REQUEST], day.start_s)
            for start in range(0, len(owed), LABELS_A_REQUEST)
        ]
        for job in jobs:
            job.result()
        return self.settle()

    def settle(self) -> MonitorReport:
        """Wait for the monitor and for control. Raises TimedOut."""
        raw = ray.get(
            self._controller.settle.remote(
                self.counts.rows - self._lost, self.counts.labels_acknowledged, QUIET_S, SETTLE_S
            )
        )
        report = MonitorReport.from_json(raw)
        self._lost = max(0, self.counts.rows - report.rows)
        self.counts.rows_seen = report.rows
        self.counts.labels_joined = report.labels_joined
        self.counts.labels_waiting = report.labels_pending + report.labels_unmatched
        return report

    def _ask(self, day: Day, rows: Sequence[Row], during: Callable[[], None] | None) -> None:
        if during is not None:
            during()
        answer = self._post(self._predict, {"instances": [dict(row.fields) for row in rows]})
        if answer is None:
            return
        answered = [
            Answered(
                row=row,
                prediction_id=one["prediction_id"],
                score=float(one["score"]),
                version=int(one["model_version"]),
                served_by=str(one["served_by"]),
                month=day.month,
            )
            for row, one in zip(rows, answer["predictions"], strict=True)
        ]
        with self._lock:
            self.counts.rows += len(rows)
            self.answers += answered
            self._owed += [one for one in answered if one.row.label is not None]

    def _tell(self, owed: Sequence[Answered], known_s: float) -> None:
        labels = [
            {"prediction_id": one.prediction_id, "label": one.row.label, "at": known_s}
            for one in owed
        ]
        with self._lock:
            self.counts.labels_sent += len(labels)
        answer = self._post(self._feedback, {"labels": labels})
        if answer is not None:
            with self._lock:
                self.counts.labels_acknowledged += int(answer["acknowledged"])

    def _post(self, url: str, body: Any) -> dict[str, Any] | None:
        """The answer; None, counted and noted, if there is none: nothing is tried twice here."""
        began_s = time.monotonic()
        fault = ""
        answer: dict[str, Any] | None = None
        try:
            got = self._client.post(
                url,
                content=json.dumps(body).encode(),
                headers={"content-type": "application/json"},
            )
            if got.status_code == httpx.codes.OK:
                answer = got.json()
            else:
                fault = f"{got.status_code} {got.text[:200]}"
        except httpx.HTTPError as error:
            fault = f"{type(error).__name__}: {error}"
        took_s = time.monotonic() - began_s
        with self._lock:
            self.counts.requests += 1
            self.counts.worst_s = max(self.counts.worst_s, took_s)
            if fault:
                self.counts.failed += 1
                if len(self.faults) < 10:
                    self.faults.append(f"{self._date}, after {took_s:.2f} s: {url}: {fault}")
        return answer
