"""Bets on losses: has the champion become worse, and which of two models is better?

Losses are bounded, so a stake on "the mean is higher than that" that cannot ruin is known without
any model of the data. `evidence.py` tells the idea and the sources.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hapredict.monitoring.evidence import (
    HALF_LIVES,
    NONE,
    RECENT,
    SETTLE_WINDOWS,
    Change,
    log_mean,
    time_weight,
)
from hapredict.monitoring.seasons import Floats

LOSS_BETS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Stakes of the loss detector, as shares of the largest that cannot ruin."""

PAIRED_BETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Stakes of the paired comparison; losses differ by at most 1, so none can ruin."""

_LOSS_STATE = (
    *("windows", "latest_s", "closed_s", "alarm_window", "alarm_at_s"),
    *("open_labels", "open_loss", "open_start_s", "recent_labels", "recent_loss"),
)


class LossDetector:
    """Has the mean of bounded losses risen over its frozen baseline by more than a tolerance?

    `bound` is the highest mean loss in (0, 1) that is nobody's concern. Only a rise is reported.
    A window is `window_labels` losses; `level` is in units of `unit_s` seconds, and means the same
    as for DriftDetector. Time is that of the labelled predictions, so that labels which come in
    bulk are worth the time that they are about.
    """

    def __init__(self, bound: float, level: float, window_labels: int, unit_s: float) -> None:
        self.bound = min(max(bound, 1e-6), 1 - 1e-6)
        self.threshold = float(np.log(max(level, 1.0)))
        self._window_labels = window_labels
        self._unit_s = unit_s
        self._stakes = np.array(LOSS_BETS) / self.bound
        self._decay = float(0.5 ** (1 / HALF_LIVES[RECENT]))
        bets = len(LOSS_BETS)
        self._gamblers = {name: np.zeros(bets) for name in ("run", "start_s", "loss", "labels")}
        self._gamblers["wealth"] = np.full(bets, NONE)
        self._gamblers["open"] = np.zeros(bets)
        self._state = dict.fromkeys(_LOSS_STATE, 0.0)

    def add(self, losses: ArrayLike, event_s: ArrayLike) -> None:
        """Fold losses [labels] in [0, 1] of predictions made at `event_s` [labels]."""
        values = np.asarray(losses, np.float64)
        times = np.asarray(event_s, np.float64)
        while len(values):
            room = self._window_labels - int(self._state["open_labels"])
            self._fill(values[:room], times[:room])
            values, times = values[room:], times[room:]
            if self._state["open_labels"] >= self._window_labels:
                self._close()

    @property
    def log_evidence(self) -> float:
        """An alarm is raised where it crosses `threshold`."""
        return max(0.0, float(log_mean(self._gamblers["wealth"])))

    @property
    def change(self) -> Change | None:
        """The alarm, if it stands."""
        if not self._state["alarm_window"]:
            return None
        best = int(self._gamblers["run"].argmax())
        labels = max(float(self._gamblers["labels"][best]), 1.0)
        return Change(
            at_s=self._state["alarm_at_s"],
            since_s=float(self._gamblers["start_s"][best]),
            live=np.array([self._gamblers["loss"][best] / labels]),
            rows=int(labels),
            expected=np.array([self.bound]),
        )

    def to_json(self) -> dict[str, Any]:
        """What was learned from labels; the baseline is not part of it."""
        return {**self._state, **{name: a.tolist() for name, a in self._gamblers.items()}}

    def restore(self, raw: Mapping[str, Any]) -> None:
        """Go on from where `to_json` was written by a detector with the same bound."""
        self._state = {name: float(raw[name]) for name in self._state}
        self._gamblers = {name: np.array(raw[name], np.float64) for name in self._gamblers}

    def _fill(self, losses: Floats, event_s: Floats) -> None:
        state = self._state
        if not state["open_labels"]:
            state["open_start_s"] = float(event_s.min())
            if not state["windows"]:
                state["closed_s"] = state["latest_s"] = state["open_start_s"]
        state["latest_s"] = max(state["latest_s"], float(event_s.max()))
        state["open_labels"] += len(losses)
        state["open_loss"] += float(losses.sum())
        stakes = self._stakes[:, None]
        self._gamblers["open"] += np.log1p(stakes * (losses - self.bound)).sum(1)

    def _close(self) -> None:
        state, bets = self._state, self._gamblers
        gain = bets["open"].copy()
        weight = time_weight(state["latest_s"] - state["closed_s"], self._unit_s)
        bets["wealth"] = np.logaddexp(bets["wealth"], np.log(weight)) + gain
        fresh = bets["run"] <= 0
        bets["start_s"][fresh] = state["open_start_s"]
        for name in ("loss", "labels"):
            bets[name][fresh] = 0
            bets[name] += state[f"open_{name}"]
            state[f"recent_{name}"] = state[f"recent_{name}"] * self._decay + state[f"open_{name}"]
            state[f"open_{name}"] = 0.0
        bets["run"] = np.maximum(bets["run"], 0) + gain
        bets["open"][:] = 0
        state["closed_s"] = state["latest_s"]
        state["windows"] += 1
        if not state["alarm_window"]:
            if self.log_evidence > self.threshold:
                state["alarm_window"], state["alarm_at_s"] = state["windows"], state["latest_s"]
        elif (
            state["windows"] - state["alarm_window"] >= SETTLE_WINDOWS
            and state["recent_loss"] <= self.bound * state["recent_labels"]
        ):
            state["alarm_window"] = 0.0
            bets["wealth"][:] = NONE
            bets["run"][:] = 0


class PairedEvidence:
    """Which of two models has the lower loss, on rows that both scored?

    Both directions are tested at once. Each is valid at any moment: a model that is no better has
    log evidence above log(20) at any time at all with a chance of at most 1/20.
    """

    def __init__(self) -> None:
        self.labels = 0
        self._low_loss = 0.0
        self._high_loss = 0.0
        self._better = np.zeros(len(PAIRED_BETS))
        self._worse = np.zeros(len(PAIRED_BETS))

    def add(self, low: ArrayLike, high: ArrayLike) -> None:
        """Fold the losses [labels] in [0, 1] of the two models on the same rows."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        stakes = np.array(PAIRED_BETS)[:, None]
        self.labels += len(low)
        self._low_loss += float(low.sum())
        self._high_loss += float(high.sum())
        self._better += np.log1p(stakes * (low - high)).sum(1)
        self._worse += np.log1p(stakes * (high - low)).sum(1)

    @property
    def log_better(self) -> float:
        """Log of the evidence that the second model has the lower loss."""
        return float(log_mean(self._better))

    @property
    def log_worse(self) -> float:
        """Log of the evidence that the second model has the higher loss."""
        return float(log_mean(self._worse))

    @property
    def mean_losses(self) -> tuple[float, float]:
        labels = max(self.labels, 1)
        return self._low_loss / labels, self._high_loss / labels

    def to_json(self) -> dict[str, Any]:
        return {
            "labels": self.labels,
            "losses": [self._low_loss, self._high_loss],
            "better": self._better.tolist(),
            "worse": self._worse.tolist(),
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "PairedEvidence":
        found = PairedEvidence()
        found.labels = int(raw["labels"])
        found._low_loss, found._high_loss = raw["losses"]
        found._better = np.array(raw["better"], np.float64)
        found._worse = np.array(raw["worse"], np.float64)
        return found


def loss_bound(baseline: float, rows: int, tolerance: float) -> float:
    """The highest mean loss that is nobody's concern, for a baseline measured on `rows` rows.

    The tolerance is `tolerance`, 5 % of the baseline or twice the baseline's standard error (at
    most, for losses in [0, 1]), whichever is greatest: a lucky hold-out must not raise alarms.
    """
    error = 2 * float(np.sqrt(max(baseline * (1 - baseline), 0.0) / max(rows, 1)))
    return baseline + max(tolerance, 0.05 * baseline, error)
