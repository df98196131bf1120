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

The guarantees hold for rows that are independent given the past. Rows that come in bursts of like
ones, or a daily cycle in windows shorter than a day, are real differences and will be reported.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

HALF_LIVES = (2.0, 8.0, 32.0, 128.0)
"""Windows after which a gambler has forgotten half of what he saw: short ones are quick to see a
large change, long ones in the end see a small one."""

RECENT = 1
"""Which of HALF_LIVES stands for "the last windows"."""

PRIOR_ROWS = 50.0
"""Rows of the reference that a gambler adds to what he saw, so that a few rows do not fool him."""

NONE = -1e9
"""Log of no wealth at all. JSON has no infinity."""

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


def total_variation(live: ArrayLike, reference: ArrayLike) -> Floats:
    """Half the sum of the differences of shares, over the last axis: the share that moved."""
    gap = np.abs(np.asarray(live, np.float64) - np.asarray(reference, np.float64))
    return np.asarray(0.5 * gap.sum(-1))


def reference_error(shares: Floats, rows: Floats) -> Floats:
    """How far a reference of `rows` [...] may by bad luck be from the truth, as total variation.

    Twice its expected error, or with few bins, where luck varies more, three standard deviations
    above it.
    """
    expected = sampling_error(shares, rows)
    variance = 0.5 * (1 - 2 / np.pi) * (shares * (1 - shares)).sum(-1) / np.maximum(rows, 1)
    return np.asarray(np.maximum(2 * expected, expected + 3 * np.sqrt(variance)))


def sampling_error(shares: Floats, rows: Floats) -> Floats:
    """The expected total variation between `shares` [..., bins] and a sample of `rows` [...]."""
    spread = np.sqrt(2 * shares * (1 - shares) / np.pi).sum(-1)
    return np.asarray(0.5 * spread / np.sqrt(np.maximum(rows, 1)))


class DriftDetector:
    """Has any of several binned features left its reference by more than a tolerance?

    `reference` holds the counts of each feature's bins. The tolerance of a feature is `tolerance`
    or the error that its reference may have (`reference_error`), whichever is greater. `level` is
    the time, in the units of `update`'s `weight`, in which one false alarm among all features is
    acceptable: each feature needs evidence of `level` times the number of features.
    """

    def __init__(self, reference: Sequence[ArrayLike], tolerance: float, level: float) -> None:
        counts = [np.asarray(bins, np.float64) for bins in reference]
        self.bins = tuple(len(bins) for bins in counts)
        self.features = len(counts)
        self._starts = np.cumsum((0, *self.bins))
        # features have different numbers of bins: rows are padded with bins that hold nothing
        self.shares = np.zeros((self.features, max(self.bins, default=1)))
        self._held = np.zeros(self.shares.shape, bool)
        for row, bins in enumerate(counts):
            # half a row more a bin: a bin that the reference never saw must not be impossible
            self.shares[row, : len(bins)] = (bins + 0.5) / (bins.sum() + 0.5 * len(bins))
            self._held[row, : len(bins)] = True
        rows = np.array([bins.sum() for bins in counts])
        self.tolerance = np.maximum(tolerance, reference_error(self.shares, rows))
        self.threshold = float(np.log(max(level, 1.0) * max(self.features, 1)))
        self._decay = 0.5 ** (1 / np.array(HALF_LIVES))
        self.windows = 0
        per_bet = (len(HALF_LIVES), self.features)
        self._wealth = np.full(per_bet, NONE)
        self._seen = np.zeros((*per_bet, self.shares.shape[1]))
        self._run = np.zeros(per_bet)
        self._run_start = np.zeros(per_bet)
        self._run_seen = np.zeros((*per_bet, self.shares.shape[1]))
        self._alarmed = np.zeros(self.features, bool)
        self._alarm_window = np.zeros(self.features, np.int64)
        self._alarm_at = np.zeros(self.features)

    def update(self, counts: ArrayLike, *, start_s: float, end_s: float, weight: float) -> None:
        """Fold one window: flat counts [sum of bins] between two times.

        `weight` > 0 is how much time the window stands for. It must not depend on the counts' bins.
        """
        live = np.zeros(self.shares.shape)
        live[self._held] = np.asarray(counts, np.float64)
        for bet, decay in enumerate(self._decay):
            expected = self._seen[bet] + PRIOR_ROWS * self.shares
            expected /= expected.sum(1, keepdims=True)
            gain = (live * _log_scores(self.shares, expected, self.tolerance)).sum(1)
            self._wealth[bet] = np.logaddexp(self._wealth[bet], np.log(weight)) + gain
            fresh = self._run[bet] <= 0
            self._run_start[bet, fresh] = start_s
            self._run_seen[bet, fresh] = 0
            self._run_seen[bet] += live
            self._run[bet] = np.maximum(self._run[bet], 0) + gain
            self._seen[bet] = self._seen[bet] * decay + live
        self.windows += 1
        self._raise_and_clear(end_s)

    @property
    def log_evidence(self) -> Floats:
        """[features]; an alarm is raised where it crosses `threshold`."""
        return np.maximum(log_mean(self._wealth), 0.0)

    @property
    def recent(self) -> Floats:
        """Shares [features, bins] of the last windows; the reference's before the first."""
        seen = self._seen[RECENT]
        rows = seen.sum(1, keepdims=True)
        return np.where(rows > 0, seen / np.where(rows > 0, rows, 1), self.shares)

    @property
    def effects(self) -> Floats:
        """Total variation [features] between the last windows and the reference."""
        return total_variation(self.recent, self.shares)

    @property
    def changes(self) -> dict[int, Change]:
        """The alarms that stand, by the feature's place."""
        found = {}
        for feature in np.flatnonzero(self._alarmed):
            bet = int(self._run[:, feature].argmax())
            seen = self._run_seen[bet, feature, : self.bins[feature]]
            found[int(feature)] = Change(
                at_s=float(self._alarm_at[feature]),
                since_s=float(self._run_start[bet, feature]),
                live=seen / max(seen.sum(), 1.0),
                rows=int(seen.sum()),
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
            "seen": self._seen,
            "run": self._run,
            "run_start": self._run_start,
            "run_seen": self._run_seen,
            "alarmed": self._alarmed,
            "alarm_window": self._alarm_window,
            "alarm_at": self._alarm_at,
        }

    def _raise_and_clear(self, end_s: float) -> None:
        crossed = ~self._alarmed & (self.log_evidence > self.threshold)
        self._alarmed |= crossed
        self._alarm_at[crossed] = end_s
        self._alarm_window[crossed] = self.windows
        noise = sampling_error(self.shares, self._seen[RECENT].sum(1))
        settled = self.windows - self._alarm_window >= SETTLE_WINDOWS
        over = self._alarmed & settled & (self.effects <= self.tolerance + noise)
        self._alarmed &= ~over
        # an e-detector's wealth never says that a change has passed: it starts anew
        self._wealth[:, over] = NONE
        self._run[:, over] = 0


def time_weight(passed_s: float, unit_s: float) -> float:
    """The capital that a new gambler gets in a window: the time since the last, in units.

    At most one unit, since idle time is no opportunity for a false alarm; and never nothing, since
    windows can end at the same moment.
    """
    return min(max(passed_s / unit_s, 1e-6), 1.0)


def log_mean(logs: Floats) -> Floats:
    """Log of the mean of exp(logs) over the first axis."""
    return np.asarray(np.logaddexp.reduce(logs, axis=0) - np.log(len(logs)))


def _log_scores(reference: Floats, expected: Floats, tolerance: Floats) -> Floats:
    """The log of what one row in each bin multiplies wealth by, [features, bins].

    `reference` and `expected` are shares [features, bins]: the null and what the gambler believes
    in. The likelihood ratio is clipped to [a, b] and divided by its highest mean over all shares
    within `tolerance` of the reference, so its mean is at most 1 there; of all clips between two
    of its own values the one with the fastest growth is taken.
    """
    held = reference > 0
    ratio = np.where(held, expected / np.where(held, reference, 1.0), 1.0)
    order = np.argsort(ratio, axis=1)
    ratio_sorted = np.take_along_axis(ratio, order, axis=1)
    p = np.take_along_axis(reference, order, axis=1)
    q = np.take_along_axis(expected, order, axis=1)
    log_sorted = np.log(ratio_sorted)
    # sums over the bins below place i, so that each of the bins^2 clips costs no sum of its own
    p_below, q_below, log_below = (_below(x) for x in (p, q, q * log_sorted))
    low, high = ratio_sorted[:, :, None], ratio_sorted[:, None, :]
    mean = (
        low * p_below[:, :-1, None]
        + (q_below[:, None, 1:] - q_below[:, :-1, None])
        + high * (p_below[:, -1:, None] - p_below[:, None, 1:])
        + tolerance[:, None, None] * (high - low)
    )
    gain = (
        log_sorted[:, :, None] * q_below[:, :-1, None]
        + (log_below[:, None, 1:] - log_below[:, :-1, None])
        + log_sorted[:, None, :] * (q_below[:, -1:, None] - q_below[:, None, 1:])
    )
    places = np.arange(ratio.shape[1])
    valid = places[:, None] <= places
    growth = np.where(valid, gain - np.log(np.where(valid, mean, 1.0)), -np.inf)
    best = growth.reshape(len(growth), -1).argmax(1)
    rows = np.arange(len(growth))
    a = ratio_sorted[rows, best // len(places)][:, None]
    b = ratio_sorted[rows, best % len(places)][:, None]
    clipped = np.log(np.clip(ratio, a, b))
    return np.asarray(clipped - np.log(mean.reshape(len(growth), -1)[rows, best])[:, None])


def _below(values: Floats) -> Floats:
    return np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))
