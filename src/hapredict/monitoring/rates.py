"""How often something goes wrong, and whether that rose: missing values, unseen ones, refusals.

A rate that rises is a broken pipeline far more often than a changed world, so it is told by itself
and soon. `evidence.py` tells the idea behind the bets and their sources.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hapredict.monitoring.evidence import NONE, Change, log_mean
from hapredict.monitoring.seasons import Floats

RISES = (0.02, 0.1, 0.4, 0.9)
"""What gamblers believe a risen rate to be, as shares of the way from its bound to 1."""

CALM_WINDOWS = 3
"""Windows in a row within the bound after which an alarm is over: what is repaired is repaired."""

_ERRORS = 3.0
"""Standard errors that a rate may be off by chance."""


class RateDetector:
    """Has any of several rates risen over its reference by more than a tolerance?

    `counts` [rates] of `rows` [rates] are the reference. A rate's bound is its reference and the
    tolerance, or three standard errors of the reference if they are more. `level` means the same as
    for DriftDetector, and is shared by all rates.
    """

    def __init__(self, counts: ArrayLike, rows: ArrayLike, tolerance: float, level: float) -> None:
        hits, total = np.asarray(counts, np.float64), np.asarray(rows, np.float64)
        self.rates = len(hits)
        # half a hit more: what the reference never saw may be rare, and need not be impossible
        self.reference = (hits + 0.5) / (total + 1)
        error = _ERRORS * np.sqrt(self.reference * (1 - self.reference) / np.maximum(total, 1))
        self.bound = np.minimum(self.reference + np.maximum(tolerance, error), 1 - 1e-6)
        self.threshold = float(np.log(max(level, 1.0) * max(self.rates, 1)))
        self._slack = self.bound - self.reference
        self.windows = 0
        per_bet = (len(RISES), self.rates)
        self._wealth = np.full(per_bet, NONE)
        self._run = np.zeros(per_bet)
        self._run_start = np.zeros(per_bet)
        self._run_hits = np.zeros(per_bet)
        self._run_rows = np.zeros(per_bet)
        self._alarmed = np.zeros(self.rates, bool)
        self._alarm_at = np.zeros(self.rates)
        self._calm = np.zeros(self.rates, np.int64)

    def update(
        self,
        counts: ArrayLike,
        rows: ArrayLike,
        *,
        start_s: float,
        end_s: float,
        weight: float,
        usual: ArrayLike = 0.0,
    ) -> None:
        """Fold one window: hits [rates] among `rows` [rates] between two times.

        `weight` > 0 is how much time the window stands for. `usual` [rates] is what is usual at its
        hours; where that is more than the reference, bounds are higher for this window. Neither may
        depend on the counts.
        """
        hits = np.asarray(counts, np.float64)
        total = np.broadcast_to(np.asarray(rows, np.float64), hits.shape)
        bound = np.minimum(np.maximum(self.reference, usual) + self._slack, 1 - 1e-6)
        believed = bound + np.array(RISES)[:, None] * (1 - bound)
        gain = hits * np.log(believed / bound)
        gain += (total - hits) * np.log((1 - believed) / (1 - bound))
        self._wealth = np.logaddexp(self._wealth, np.log(weight)) + gain
        fresh = self._run <= 0
        self._run_start[fresh] = start_s
        self._run_hits[fresh] = 0
        self._run_rows[fresh] = 0
        self._run_hits += hits
        self._run_rows += total
        self._run = np.maximum(self._run, 0) + gain
        self.windows += 1
        crossed = ~self._alarmed & (self.log_evidence > self.threshold)
        self._alarmed |= crossed
        self._alarm_at[crossed] = end_s
        calm = hits <= bound * total + 2 * np.sqrt(bound * (1 - bound) * total)
        self._calm = np.where(calm & ~crossed, self._calm + 1, 0)
        over = self._alarmed & (self._calm >= CALM_WINDOWS)
        self._alarmed &= ~over
        self._wealth[:, over] = NONE
        self._run[:, over] = 0

    @property
    def log_evidence(self) -> Floats:
        """[rates]; an alarm is raised where it crosses `threshold`."""
        return np.maximum(log_mean(self._wealth), 0.0)

    @property
    def changes(self) -> dict[int, Change]:
        """The alarms that stand, by the rate's place; `live` is the rate since [1]."""
        found = {}
        for place in np.flatnonzero(self._alarmed).tolist():
            bet = int(self._run[:, place].argmax())
            rows = max(float(self._run_rows[bet, place]), 1.0)
            found[place] = Change(
                at_s=float(self._alarm_at[place]),
                since_s=float(self._run_start[bet, place]),
                live=np.array([self._run_hits[bet, place] / rows]),
                rows=int(rows),
                expected=self.reference[place : place + 1],
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """What was learned from live windows; the reference is not part of it."""
        return {"windows": self.windows, **{name: a.tolist() for name, a in self._arrays().items()}}

    def restore(self, raw: Mapping[str, Any]) -> None:
        """Go on from where `to_json` was written by a detector with the same reference."""
        self.windows = int(raw["windows"])
        for name, array in self._arrays().items():
            array[...] = np.asarray(raw[name], array.dtype).reshape(array.shape)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "wealth": self._wealth,
            "run": self._run,
            "run_start": self._run_start,
            "run_hits": self._run_hits,
            "run_rows": self._run_rows,
            "alarmed": self._alarmed,
            "alarm_at": self._alarm_at,
            "calm": self._calm,
        }
