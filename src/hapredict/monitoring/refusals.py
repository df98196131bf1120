"""Rows that were not answered since they did not fit the schema: somebody changed what they send.

Nothing of them is kept but their number and the column that was at fault, so they are judged beside
the rows that were answered meanwhile. The clock stands still while nothing is answered.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hapredict.monitoring.evidence import time_weight
from hapredict.monitoring.rates import RateDetector
from hapredict.monitoring.report import Alarm
from hapredict.monitoring.sentences import rate_alarm


class Refusals:
    """The share of refused rows of one model, in windows of `window_rows` rows or `unit_s` seconds.

    None are usual; `tolerance` and `level` mean the same as for RateDetector.
    """

    def __init__(
        self, *, begin_s: float, window_rows: int, unit_s: float, tolerance: float, level: float
    ) -> None:
        self._settings = {
            "begin_s": begin_s,
            "window_rows": window_rows,
            "unit_s": unit_s,
            "tolerance": tolerance,
            "level": level,
        }
        self._detector = RateDetector([0], [10**9], tolerance, level)
        self._answered = self._refused = 0
        self._start_s = self._closed_s = begin_s
        self._recent: Counter[str] = Counter()

    def add(self, answered: int, refused: Mapping[str, int], watermark_s: float) -> None:
        """Rows of one part, refused ones by reason."""
        if not self._answered + self._refused:
            self._start_s = max(watermark_s, self._closed_s)
        self._answered += answered
        self._refused += sum(refused.values())
        self._recent.update(refused)
        settings, rows = self._settings, self._answered + self._refused
        full = rows >= settings["window_rows"] or watermark_s >= self._start_s + settings["unit_s"]
        if rows and full:
            self._close(max(watermark_s, self._closed_s))

    def alarms(self) -> Iterator[Alarm]:
        """That the share rose, with what was at fault of late."""
        for change in self._detector.changes.values():
            yield rate_alarm(
                "schema breaks",
                change,
                0.0,
                float(self._detector.bound[0]),
                log_evidence=float(self._detector.log_evidence[0]),
                reasons=self._recent,
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self._settings,
            "detector": self._detector.to_json(),
            "open": [self._answered, self._refused, self._start_s, self._closed_s],
            "recent": dict(self._recent),
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "Refusals":
        """What `to_json` wrote."""
        found = Refusals(**raw["settings"])
        found._detector.restore(raw["detector"])
        found._answered, found._refused, found._start_s, found._closed_s = raw["open"]
        found._recent = Counter(raw["recent"])
        return found

    def _close(self, now_s: float) -> None:
        self._detector.update(
            np.array([self._refused]),
            self._answered + self._refused,
            start_s=self._start_s,
            end_s=now_s,
            weight=time_weight(now_s - self._closed_s, self._settings["unit_s"]),
        )
        self._closed_s, self._answered, self._refused = now_s, 0, 0
        # what was at fault long ago is not what is
        self._recent = Counter({name: rows // 2 for name, rows in self._recent.items() if rows > 1})
