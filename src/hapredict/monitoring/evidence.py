"""How much live counts speak against their reference: detectors that bet.

Each detector is a gambler who bets against "nothing of concern has changed" at odds that are fair
or worse if that is true. Wealth then cannot grow except by luck, and how much luck is known:

- `DriftDetector` here and `LossDetector` in `betting.py` are e-detectors of the Shiryaev-Roberts
  kind: at every window a new gambler starts with as much capital as a stretch of time is worth,
  and all wealth is added. The sum exceeds the time that has passed only if something changed, so
  an alarm at A means at most one false alarm in A units of time, wherever the change lies and
  however long ago it was.
- `PairedEvidence` in `betting.py` is one gambler a direction. His wealth exceeds 20 with a chance
  of at most 1/20, however often one looks; so the value to act on is the current one.

"Of concern" is a tolerance: all shares within that total variation, all mean losses up to that
bound, count as unchanged. Sources: Shin, Ramdas and Rinaldo, "E-detectors" (2023); Huber's clipped
likelihood ratio for total variation; Waudby-Smith and Ramdas, betting on bounded means (2023).

The guarantees hold for rows that are independent given the past. Hours of day and week are matched
where the reference tells them apart (`seasons.py`): rows of several hours may then differ, since a
product of means is at most the power of their mean. Rows that come in bursts of like ones, more
than is usual in the reference, are real differences and will be reported.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hapredict.monitoring.seasons import (
    Floats,
    MatchedShares,
    reference_error,
    sampling_error,
    total_variation,
)

HALF_LIVES = (2.0, 8.0, 32.0, 128.0)
"""Windows after which a gambler has forgotten half of what he saw: short ones are quick to see a
large change, long ones in the end see a small one."""

RECENT = 1
"""Which of HALF_LIVES stands for "the last windows"."""

PRIOR_ROWS = 50.0
"""Rows of the reference that a gambler adds to what he saw, so that a few rows do not fool him."""

NONE = -1e9
"""Log of no wealth at all. JSON has no infinity."""

_NEIGHBOURS = 8
"""A bin's neighbours reach so far: this part of all bins to either side."""

SETTLE_WINDOWS = 8
"""Windows that an alarm stands at least, so that the last windows consist of what caused it."""


@dataclass(frozen=True, slots=True)
class Change:
    """An alarm that stands."""

    at_s: float
    """End of the window in which the evidence crossed its threshold."""
    since_s: float
    """Start of the stretch that speaks most against the reference."""
    live: Floats
    """What was seen since: shares [bins], or the mean loss [1]."""
    rows: int
    """Rows, or labels, since."""
    expected: Floats
    """What the reference has at the same hours: shares [bins], or the baseline's bound [1]."""


class DriftDetector:
    """Has any of several binned features left its reference by more than a tolerance?

    `expected` is the reference: counts of each feature's bins, or shares by the hour. The tolerance
    of a feature is `tolerance` (one, or one a feature) or the error that its reference may have at
    the window's hours (`reference_error`), whichever is greater. `level` is the time, in the units
    of `update`'s `weight`, in which one false alarm among all features is acceptable: each feature
    needs evidence of `level` times the number of features.

    `ordered` says which features' bins are intervals in a row, from bin `1` on. There half of the
    gamblers believe that neighbouring bins change alike, and so learn from fewer rows.
    """

    def __init__(
        self,
        expected: MatchedShares | Sequence[ArrayLike],
        tolerance: ArrayLike,
        level: float,
        *,
        ordered: Sequence[bool] | None = None,
    ) -> None:
        matched = expected if isinstance(expected, MatchedShares) else MatchedShares(expected)
        self._expected = matched
        self.bins, self.features = self._expected.bins, self._expected.features
        self.shares = self._expected.shares
        self._least = np.broadcast_to(np.asarray(tolerance, np.float64), (self.features,))
        known = reference_error(self.shares, self._expected.rows)
        self.tolerance = np.maximum(self._least, known)
        self.threshold = float(np.log(max(level, 1.0) * max(self.features, 1)))
        self._near = _near(self._expected.held, ordered or [False] * self.features)
        self._decay = (0.5 ** (1 / np.array(HALF_LIVES)))[:, None, None]
        self.windows = 0
        per_bet = (2, len(HALF_LIVES), self.features)
        per_bin = self.shares.shape[1]
        self._wealth = np.full(per_bet, NONE)
        self._seen = np.zeros((*per_bet[1:], per_bin))
        self._due = np.zeros((*per_bet[1:], per_bin))
        self._run = np.zeros(per_bet)
        self._run_start = np.zeros(per_bet)
        self._run_seen = np.zeros((*per_bet, per_bin))
        self._run_due = np.zeros((*per_bet, per_bin))
        self._alarmed = np.zeros(self.features, bool)
        self._alarm_window = np.zeros(self.features, np.int64)
        self._alarm_at = np.zeros(self.features)

    def update(
        self,
        counts: ArrayLike,
        *,
        start_s: float,
        end_s: float,
        weight: float,
        hours: ArrayLike | None = None,
    ) -> None:
        """Fold one window: flat counts [sum of bins] between two times.

        `weight` > 0 is how much time the window stands for. It must not depend on the counts' bins,
        nor must `hours`, its rows [168] by hour of week.
        """
        live = self._expected.padded(counts)
        shares, known = self._expected.at(hours)
        self.tolerance = np.maximum(self._least, reference_error(shares, known))
        due = live.sum(1, keepdims=True) * shares
        seen_before, due_before = self._seen + PRIOR_ROWS * shares, self._due + PRIOR_ROWS * shares
        believed = np.stack(
            [
                shares * _ratio(seen_before, due_before),
                shares * _ratio(self._spread(seen_before), self._spread(due_before)),
            ]
        )
        believed /= believed.sum(-1, keepdims=True)
        scores = _log_scores(shares, believed, self.tolerance)
        gain = (live * scores).sum(-1)
        # who believes in nothing beyond the tolerance does not bet; capital that lies idle would
        # add up to the threshold in as much time as it says, change or not
        start = np.where(scores.any(-1), np.log(weight), NONE)
        self._wealth = np.logaddexp(self._wealth, start) + gain
        fresh = self._run <= 0
        self._run_start[fresh] = start_s
        self._run_seen[fresh] = 0
        self._run_seen += live
        self._run_due[fresh] = 0
        self._run_due += due
        self._run = np.maximum(self._run, 0) + gain
        self._seen = self._seen * self._decay + live
        self._due = self._due * self._decay + due
        self.windows += 1
        self._raise_and_clear(end_s)

    @property
    def log_evidence(self) -> Floats:
        """[features]; an alarm is raised where it crosses `threshold`."""
        return np.maximum(log_mean(self._wealth.reshape(-1, self.features)), 0.0)

    @property
    def recent(self) -> Floats:
        """Shares [features, bins] of the last windows; the reference's before the first."""
        return self._shares_of(self._seen[RECENT])

    @property
    def effects(self) -> Floats:
        """Total variation [features] between the last windows and what was expected of them."""
        return total_variation(self.recent, self._shares_of(self._due[RECENT]))

    @property
    def changes(self) -> dict[int, Change]:
        """The alarms that stand, by the feature's place."""
        found = {}
        for feature in np.flatnonzero(self._alarmed):
            bet = np.unravel_index(self._run[..., feature].argmax(), self._run.shape[:2])
            seen = self._run_seen[bet][feature, : self.bins[feature]]
            due = self._run_due[bet][feature, : self.bins[feature]]
            found[int(feature)] = Change(
                at_s=float(self._alarm_at[feature]),
                since_s=float(self._run_start[bet][feature]),
                live=seen / max(seen.sum(), 1.0),
                rows=int(seen.sum()),
                expected=due / max(due.sum(), 1e-9),
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """What was learned from live windows; the reference is not part of it."""
        return {"windows": self.windows, **{n: pack(a) for n, a in self._arrays().items()}}

    def restore(self, raw: Mapping[str, Any]) -> None:
        """Go on from where `to_json` was written by a detector with the same reference."""
        self.windows = int(raw["windows"])
        for name, array in self._arrays().items():
            array[...] = unpack(raw[name], array.dtype).reshape(array.shape)

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "wealth": self._wealth,
            "tolerance": self.tolerance,
            "seen": self._seen,
            "due": self._due,
            "run": self._run,
            "run_start": self._run_start,
            "run_seen": self._run_seen,
            "run_due": self._run_due,
            "alarmed": self._alarmed,
            "alarm_window": self._alarm_window,
            "alarm_at": self._alarm_at,
        }

    def _spread(self, rows: Floats) -> Floats:
        """Rows [..., features, bins] shared out among neighbouring bins."""
        return np.asarray(np.einsum("...fk,fkj->...fj", rows, self._near))

    def _shares_of(self, rows: Floats) -> Floats:
        total = rows.sum(1, keepdims=True)
        return np.where(total > 0, rows / np.where(total > 0, total, 1), self.shares)

    def _raise_and_clear(self, end_s: float) -> None:
        crossed = ~self._alarmed & (self.log_evidence > self.threshold)
        self._alarmed |= crossed
        self._alarm_at[crossed] = end_s
        self._alarm_window[crossed] = self.windows
        settled = self._alarmed & (self.windows - self._alarm_window >= SETTLE_WINDOWS)
        if not settled.any():
            return
        noise = sampling_error(self.shares, self._seen[RECENT].sum(1))
        over = settled & (self.effects <= self.tolerance + noise)
        self._alarmed &= ~over
        # an e-detector's wealth never says that a change has passed: it starts anew
        self._wealth[..., over] = NONE
        self._run[..., over] = 0


def time_weight(passed_s: float, unit_s: float) -> float:
    """The capital that a new gambler gets in a window: the time since the last, in units.

    At most one unit, since idle time is no opportunity for a false alarm; and never nothing, since
    windows can end at the same moment.
    """
    return min(max(passed_s / unit_s, 1e-6), 1.0)


def log_mean(logs: Floats) -> Floats:
    """Log of the mean of exp(logs) over the first axis."""
    return np.asarray(np.logaddexp.reduce(logs, axis=0) - np.log(len(logs)))


def pack(array: NDArray[Any]) -> str:
    """An array's numbers as text, bit for bit; in JSON they would cost a hundred times as much."""
    return base64.b64encode(array.tobytes()).decode("ascii")


def unpack(text: str, dtype: Any) -> NDArray[Any]:
    """The numbers that `pack` packed, flat. Raises ValueError if they are none."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype).copy()


def _log_scores(reference: Floats, believed: Floats, tolerance: Floats) -> Floats:
    """The log of what one row in each bin multiplies wealth by, [..., features, bins].

    `reference` [features, bins] is the null, `believed` [..., features, bins] what gamblers believe
    in. Of all shares within `tolerance` of the reference one is nearest to a belief: that which
    raises the bins with the highest likelihood ratios to a common ratio and lowers those with the
    lowest to another. The likelihood ratio to it is the ratio to the reference, clipped at these
    two; its mean is at most 1 everywhere within the tolerance, and no other such bet grows faster.
    """
    held = reference > 0
    ratio = np.where(held, believed / np.where(held, reference, 1.0), 1.0)
    order = np.argsort(ratio, axis=-1)
    p = np.take_along_axis(np.broadcast_to(reference, ratio.shape), order, axis=-1)
    q = np.take_along_axis(believed, order, axis=-1)
    room = tolerance[:, None]
    p_above, q_above = (np.cumsum(x[..., ::-1], axis=-1) for x in (p, q))
    p_below, q_below = np.cumsum(p, axis=-1) - room, np.cumsum(q, axis=-1)
    high = (q_above / np.maximum(p_above + room, 1e-300)).max(-1, initial=1.0, keepdims=True)
    spare = p_below > 0
    low = np.where(spare, q_below / np.where(spare, p_below, 1.0), 1.0)
    low = low.min(-1, initial=1.0, keepdims=True)
    return np.asarray(np.log(np.clip(ratio, low, high)))


def _ratio(seen: Floats, due: Floats) -> Floats:
    return np.asarray(np.where(due > 0, seen / np.where(due > 0, due, 1.0), 1.0))


def _near(held: NDArray[np.bool_], ordered: Sequence[bool]) -> Floats:
    """How much neighbouring bins say about each other, [features, bins, bins].

    Bin 0 holds what is missing and has no neighbours.
    """
    near = np.zeros((*held.shape, held.shape[1]))
    for feature, bins in enumerate(held.sum(1)):
        apart = np.abs(np.subtract.outer(np.arange(bins), np.arange(bins)))
        reach = 1 + bins // _NEIGHBOURS if ordered[feature] else 1
        own = np.maximum(1 - apart / reach, 0.0)
        own[0, 1:] = own[1:, 0] = 0.0
        near[feature, :bins, :bins] = own
    return near
