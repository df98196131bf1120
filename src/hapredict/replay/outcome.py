"""What the policies came to, side by side: losses, intervals, alarms and the worst stretch."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.control.actions import day
from hapredict.registry.catalog import Entry
from hapredict.replay.past import Past, Times
from hapredict.replay.world import Lived
from hapredict.sections import DAY_S
from hapredict.training.metrics import evaluate, loss_scale, losses

Floats = NDArray[np.float64]

WEEK_S = 7 * DAY_S
DRAWS = 4000
"""Of weeks, for an interval."""
HINDSIGHT_DAYS = 14.0
"""After an alarm, in which a loss that has risen bears it out."""
SHOWN = ("Install", "SetShare", "Promote", "RollBack", "Abort", "Train", "RejectRun")
"""Entries of the catalog that a figure marks."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A mean difference of losses, with its 95 % interval over weeks."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Line:
    """One policy."""

    policy: str
    scheduled: bool
    loss: float
    """The mean loss of all labelled rows, in [0, 1]: of classes the Brier score."""
    figure: float
    """AUC of a binary model, accuracy of a multi-class one, RMSE of a regression."""
    delta: Delta
    """Against the best schedule."""
    trained: int
    """Trainings after the first."""
    promoted: int
    """Versions that became champion after the first."""
    rolled_back: int
    refused: int
    """Models that came to nothing: refused by a gate, or dropped as challengers."""
    alarms_true: int
    """Alarms after which the loss was over its baseline."""
    alarms_false: int
    """Alarms of the loss that hindsight does not bear out."""
    drift_harmless: int
    """Alarms of features and scores without a risen loss."""
    worst_days: int
    """The longest stretch in which the loss of seven days was over the best policy's by more than
    `monitoring.loss_tolerance`."""
    weeks: tuple[float | None, ...]
    """The mean loss of each week; None without labels."""
    events: tuple[Mapping[str, Any], ...]
    """What control did: `at`, `at_s`, `action`, `reason`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The table."""

    model: str
    loss_name: str
    figure_name: str
    begin: str
    end: str
    rows: int
    """Labelled rows that were answered."""
    best_schedule: str
    """The scheduled policy with the lowest loss; the first policy where there is none."""
    week_starts: tuple[str, ...]
    lines: tuple[Line, ...] = field(default_factory=tuple)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def compare(
    model: str, past: Past, times: Times, lived: Sequence[Lived], tolerance: float, seed: int = 0
) -> Outcome:
    """All policies beside each other. `tolerance` is `monitoring.loss_tolerance`.

    All have answered the same rows, so that differences are of pairs.
    """
    task = past.schema.task
    rows = lived[0].rows
    labels, event_s = past.labels[rows], past.event_s[rows]
    known = past.labels[past.known(times.start_s, times.delay_s)]
    scale = loss_scale(task, known)
    found = [losses(task, labels, one.scores, scale) for one in lived]
    means = [float(loss.mean()) for loss in found]
    schedules = [place for place, one in enumerate(lived) if one.policy.scheduled] or [0]
    best = min(schedules, key=lambda place: means[place])
    weeks = ((event_s - times.start_s) // WEEK_S).astype(np.int64)
    days = ((event_s - times.start_s) // DAY_S).astype(np.int64)
    rolling = np.array([_rolling(loss, days) for loss in found])
    lowest = rolling.min(axis=0)
    figures = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse"}
    lines = []
    for place, (one, loss) in enumerate(zip(lived, found, strict=True)):
        rises = _alarm_rises(one, loss, event_s)
        lines.append(
            Line(
                policy=one.policy.name,
                scheduled=one.policy.scheduled,
                loss=means[place],
                figure=evaluate(task, labels, one.scores).get(figures[task], float("nan")),
                delta=delta(loss, found[best], weeks, seed),
                trained=one.count("Train") - 1,
                promoted=one.count("Promote"),
                rolled_back=one.count("RollBack"),
                refused=one.count("RejectRun") + one.count("Abort"),
                alarms_true=sum(rise > tolerance for _, rise in rises),
                alarms_false=sum(
                    kind == "concept drift" and not rise > tolerance for kind, rise in rises
                ),
                drift_harmless=sum(
                    kind != "concept drift" and not rise > tolerance for kind, rise in rises
                ),
                worst_days=longest(rolling[place] - lowest > tolerance),
                weeks=_by_week(loss, weeks),
                events=tuple(_event(entry) for entry in one.entries if entry.action in SHOWN),
            )
        )
    return Outcome(
        model=model,
        loss_name="error / scale" if task == "regression" else "Brier",
        figure_name={"auc": "AUC", "rmse": "RMSE"}.get(figures[task], figures[task]),
        begin=day(times.start_s),
        end=day(times.end_s),
        rows=len(rows),
        best_schedule=lived[best].policy.name,
        week_starts=tuple(
            day(times.start_s + week * WEEK_S) for week in range(int(weeks.max(initial=-1)) + 1)
        ),
        lines=tuple(lines),
    )


def delta(one: Floats, other: Floats, weeks: NDArray[np.int64], seed: int = 0) -> Delta:
    """The mean of `one - other` [rows], and its interval by drawing whole weeks with replacement.

    Rows of one week share their weather and their models; drawn one by one they would claim to
    know more than they do.
    """
    sums = np.bincount(weeks, one - other)
    rows = np.bincount(weeks).astype(np.float64)
    sums, rows = sums[rows > 0], rows[rows > 0]
    drawn = np.random.default_rng(seed).integers(0, len(rows), (DRAWS, len(rows)))
    means = sums[drawn].sum(axis=1) / rows[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Delta(float(sums.sum() / rows.sum()), float(low), float(high))


def longest(marked: NDArray[np.bool_]) -> int:
    """The length of the longest run of true values."""
    return max((len(list(run)) for yes, run in groupby(marked.tolist()) if yes), default=0)


def _rolling(loss: Floats, days: NDArray[np.int64]) -> Floats:
    """The mean loss of each day and the six before it; NaN without rows."""
    sums, rows = np.bincount(days, loss), np.bincount(days).astype(np.float64)
    ones = np.ones(7)
    total = np.convolve(sums, ones)[: len(sums)]
    count = np.convolve(rows, ones)[: len(rows)]
    return np.asarray(np.where(count > 0.5, total / np.maximum(count, 1), np.nan))


def _alarm_rises(one: Lived, loss: Floats, event_s: Floats) -> list[tuple[str, float]]:
    """Each alarm's kind, and how far its version's loss was over its baseline around it."""
    found: list[tuple[str, float]] = []
    for version, alarm in one.alarms:
        until_s = alarm.at_s + HINDSIGHT_DAYS * DAY_S
        around = (one.versions == version) & (event_s >= alarm.since_s) & (event_s < until_s)
        mean = float(loss[around].mean()) if around.any() else float("nan")
        found.append((alarm.kind, mean - one.baselines.get(version, float("nan"))))
    return found


def _by_week(loss: Floats, weeks: NDArray[np.int64]) -> tuple[float | None, ...]:
    sums, rows = np.bincount(weeks, loss), np.bincount(weeks)
    return tuple(
        float(total / count) if count else None for total, count in zip(sums, rows, strict=True)
    )


def _event(entry: Entry) -> dict[str, Any]:
    return {
        "at": day(entry.event_s),
        "at_s": entry.event_s,
        "action": entry.action,
        "reason": entry.reason,
    }
