"""How long labels take, and whether that changed or they stopped coming.

No training knows it, so the reference is learned live: first it is waited until slow labels had
their chance to come, for the labels of the first days are all quick ones; then two weeks are the
reference. Weeks (of days, where `monitoring.window_days` is 1), since labels come in bulk and take
longer over a weekend; and a week counts as a few hundred labels at most, for labels of one bulk are
no independent witnesses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hapredict.monitoring.effects import moved_bins
from hapredict.monitoring.evidence import Change, DriftDetector, time_weight
from hapredict.monitoring.report import Alarm
from hapredict.monitoring.sentences import date, percent
from hapredict.sections import DAY_S

EDGES_S = np.geomspace(60.0, 400 * DAY_S, 64)
"""Between bins of delays: each is a fourth longer than the one before."""

LABELS_MIN = 50
"""Labels without which no quantile is told."""

WINDOWS = 7
"""Of `monitoring.window_days`, in one week."""

REFERENCE_WEEKS = 2
_REFERENCE_LABELS = 200
_WITNESSES = 200
"""As so many labels a week counts at most."""
_GROUPS = 8
_PATIENCE = 4.0
"""Slow labels had their chance after so many times the delay that 99 of 100 kept to."""
_SILENCE = 3.0
"""Labels stopped when none came for so many times the longest pause of the reference."""


class LabelDelays:
    """The delays of one model's labels, in seconds of its clock.

    `unit_s` is `monitoring.window_days`; `level` and `tolerance` mean the same as for
    DriftDetector, in weeks.
    """

    def __init__(
        self, *, begin_s: float, unit_s: float, delay_max_s: float, tolerance: float, level: float
    ) -> None:
        self._settings = {
            "begin_s": begin_s,
            "unit_s": unit_s,
            "delay_max_s": delay_max_s,
            "tolerance": tolerance,
            "level": level,
        }
        bins = len(EDGES_S) + 1
        self._recent = np.zeros(bins)
        self._open = np.zeros(bins, np.int64)
        self._learned = np.zeros(bins, np.int64)
        self._weeks = 0
        self._week: int | None = None
        self._closed_s = begin_s
        self._silent_s = 0.0
        self._silent_since_s: float | None = None
        self._pause_s = 0.0
        self._now_s = begin_s
        self._watched: _Watched | None = None

    @property
    def watching(self) -> bool:
        """Whether there is a reference to compare with."""
        return self._watched is not None

    def advance(self, watermark_s: float) -> None:
        """Rows came until `watermark_s`. Time without rows is no time without labels."""
        if self._silent_since_s is not None:
            passed = max(0.0, watermark_s - self._now_s)
            self._silent_s += min(passed, self._settings["unit_s"])
        self._now_s = max(self._now_s, watermark_s)

    def add(self, delays_s: ArrayLike, known_s: float, late: int = 0) -> None:
        """Labels that came together at `known_s`, and `late` ones that came after the longest
        delay.
        """
        delays = np.asarray(delays_s, np.float64)
        if not len(delays) and not late:
            return
        counts = np.bincount(_bins(delays), minlength=len(self._open))
        counts[_bins(np.array([self._settings["delay_max_s"]]))[0]] += late
        week = int(known_s // (WINDOWS * self._settings["unit_s"]))
        if self._week is None:
            self._week = week
        if week > self._week:
            self._close(known_s)
            self._week = week
        self._open += counts
        self._recent += counts
        if self._watched is None:
            self._pause_s = max(self._pause_s, self._silent_s)
        self._silent_s = 0.0
        self._silent_since_s = known_s

    def quantile_s(self, share: float) -> float | None:
        """Within how long so many of the labels of the last weeks came; None for too few."""
        return _quantile_s(self._recent, share)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """That labels stopped, or that they take another time than they used to."""
        found = []
        limit_s = _SILENCE * max(self._pause_s, self._settings["unit_s"])
        if self.watching and self._silent_since_s is not None and self._silent_s > limit_s:
            usual = max(self._pause_s, self._settings["unit_s"]) / DAY_S
            found.append(
                Alarm(
                    kind="label delay",
                    feature="",
                    at_s=self._now_s,
                    since_s=self._silent_since_s,
                    effect=1.0,
                    log_evidence=0.0,
                    reason=(
                        f"no label has come since {date(self._silent_since_s)}, in "
                        f"{self._silent_s / DAY_S:.3g} days with rows; pauses of "
                        f"{usual:.3g} days are usual"
                    ),
                )
            )
        if self._watched is not None:
            watched = self._watched
            found += [self._moved(watched, one) for one in watched.detector.changes.values()]
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self._settings,
            "recent": self._recent.tolist(),
            "open": self._open.tolist(),
            "learned": self._learned.tolist(),
            "weeks": [self._weeks, self._week],
            "times": [
                *(self._closed_s, self._silent_s, self._silent_since_s),
                *(self._pause_s, self._now_s),
            ],
            "detector": self._watched.detector.to_json() if self._watched else None,
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "LabelDelays":
        """What `to_json` wrote."""
        found = LabelDelays(**raw["settings"])
        found._recent = np.array(raw["recent"], np.float64)
        found._open = np.array(raw["open"], np.int64)
        found._learned = np.array(raw["learned"], np.int64)
        found._weeks, found._week = raw["weeks"]
        found._closed_s, found._silent_s, found._silent_since_s = raw["times"][:3]
        found._pause_s, found._now_s = raw["times"][3:]
        if raw["detector"] is not None:
            found._watched = found._watch()
            found._watched.detector.restore(raw["detector"])
        return found

    def _close(self, known_s: float) -> None:
        """The open week is over."""
        counts, self._open = self._open, np.zeros(len(self._open), np.int64)
        self._recent *= 0.5
        if self._watched is not None:
            week_s = WINDOWS * self._settings["unit_s"]
            grouped = np.bincount(self._watched.groups, counts)
            self._watched.detector.update(
                grouped * min(1.0, _WITNESSES / max(float(grouped.sum()), 1.0)),
                start_s=self._closed_s,
                end_s=known_s,
                weight=time_weight(known_s - self._closed_s, week_s),
            )
        elif known_s >= self._settings["begin_s"] + self._patience_s():
            self._learned += counts
            self._weeks += 1
            if self._weeks >= REFERENCE_WEEKS and self._learned.sum() >= _REFERENCE_LABELS:
                self._watched = self._watch()
        self._closed_s = known_s

    def _patience_s(self) -> float:
        slow = _quantile_s(self._recent, 0.99)
        longest = self._settings["delay_max_s"]
        return longest if slow is None else min(longest, _PATIENCE * slow)

    def _watch(self) -> "_Watched":
        share = np.cumsum(self._learned) / self._learned.sum()
        before = np.concatenate([[0.0], share[:-1]])
        groups = np.minimum((before * _GROUPS).astype(np.int64), _GROUPS - 1)
        groups = np.unique(groups, return_inverse=True)[1]
        counts = np.bincount(groups, self._learned)
        scaled = counts * min(1.0, REFERENCE_WEEKS * _WITNESSES / counts.sum())
        settings = self._settings
        detector = DriftDetector([scaled], settings["tolerance"], settings["level"], ordered=[True])
        return _Watched(groups, detector)

    def _moved(self, watched: "_Watched", change: Change) -> Alarm:
        detector = watched.detector
        reference = change.expected
        starts = [0.0, *EDGES_S.tolist()]
        firsts = [starts[int(np.argmax(watched.groups == g))] for g in range(len(reference))]
        labels = [
            f"{_days(low)} to {_days(high)}" if high else f"{_days(low)} and more"
            for low, high in zip(firsts, [*firsts[1:], 0.0], strict=True)
        ]
        effect = 0.5 * float(np.abs(change.live - reference).sum())
        usual, now = (_quantile_s(found, 0.5) for found in (self._learned, self._recent))
        half = ""
        if usual is not None and now is not None:
            half = f": half of them come within {_days(now)}, after {_days(usual)} before"
        return Alarm(
            kind="label delay",
            feature="",
            at_s=change.at_s,
            since_s=change.since_s,
            effect=effect,
            log_evidence=float(detector.log_evidence[0]),
            reason=(
                f"the delays of labels moved by {percent(effect)} since {date(change.since_s)} "
                f"({percent(float(detector.tolerance[0]))} is tolerated){half}"
            ),
            moved=moved_bins(labels, reference, change.live),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Watched:
    """What delays are compared with: groups of bins with about as many labels each."""

    groups: NDArray[np.int64]
    """[bins]: the group of each bin."""
    detector: DriftDetector


def _bins(delays_s: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.searchsorted(EDGES_S, delays_s, side="right")


def _quantile_s(counts: ArrayLike, share: float) -> float | None:
    found = np.asarray(counts, np.float64)
    if found.sum() < LABELS_MIN:
        return None
    ends = np.cumsum(found) / found.sum()
    place = min(int(np.searchsorted(ends, share)), len(found) - 1)
    low = EDGES_S[place - 1] if place else 0.0
    high = EDGES_S[min(place, len(EDGES_S) - 1)]
    before = ends[place - 1] if place else 0.0
    return float(low + (high - low) * (share - before) / (ends[place] - before))


def _days(seconds: float) -> str:
    if seconds < DAY_S / 2:
        return f"{seconds / 3600:.2g} hours"
    return f"{seconds / DAY_S:.3g} days"
