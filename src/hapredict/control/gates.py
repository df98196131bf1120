"""The offline gates: what a fitted model must pass before it may be tried on live traffic.

Tried in order; the first that fails, or lacks data, is the verdict.

| gate       | a model passes if                                                                   |
|------------|-------------------------------------------------------------------------------------|
| labels     | the labels it learned from are distributed roughly as the champion's were           |
| constant   | it beats a constant on the hold-out                                                 |
| last value | it is not significantly worse than repeating the newest label that is known by then |
| no harm    | it is not significantly worse than the champion on the hold-out                     |
| slices     | nor on any slice of the hold-out that has rows enough (all looks share one level)   |
| golden set | nor on the rows of `control.golden`                                                 |
| latency    | it answers about as fast as the champion                                            |

Without a champion only the first three are asked. The last value is no more than told then, and
wherever nobody knows how late labels come: it may not be known in time. Parity with what was
fitted is checked before, when the artefact is exported (`training/export.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table
from hapredict.features.plan import FeaturePlan
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec, MonitoringSpec
from hapredict.training.metrics import Verdict, constant_scores, no_harm, sanity

ROWS_MIN = 50
"""Hold-out rows without which no gate speaks."""
SLICE_ROWS_MIN = 200
"""Hold-out rows without which a slice is not looked at by itself."""
ALPHA = 0.05
"""Chance of refusing a model that does no harm, over all rows and over all slices."""

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Rows that no training saw, with what champion and challenger say about them."""

    labels: Array
    """[rows]"""
    scores: Array
    """[rows, outputs]"""
    champion_scores: Array | None = None
    """[rows, outputs]; None while there is no champion."""
    event_s: NDArray[np.float64] | None = None
    """[rows], growing: when each row happened; None for data without time."""
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Which rows belong to each slice, [rows] by name."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What else is known about challenger and champion."""

    training: Mapping[str, float] = field(default_factory=dict)
    """`label_metrics` of the challenger."""
    champion_training: Mapping[str, float] = field(default_factory=dict)
    """The same of the champion; empty where an older program published it."""
    label_delay_days: float | None = None
    """Days within which 95 of 100 labels came; None where nobody knows."""
    latency_ms: float | None = None
    champion_latency_ms: float | None = None
    """Milliseconds for the same few rows; None where nobody measured."""


def judge(
    schema: Schema,
    rules: ControlSpec,
    training_labels: Array,
    held: Judged,
    scale: float,
    beside: Beside | None = None,
    golden: Judged | None = None,
) -> Verdict:
    """The verdict of all gates. `scale` is that of a regression's loss (`loss_scale`)."""
    beside = beside or Beside()
    suspect = label_fault(schema, rules, beside)
    if suspect:
        return Verdict("fail", suspect)
    constant = constant_scores(schema.task, training_labels, len(held.labels), schema.outputs)
    sane = sanity(schema.task, held.labels, held.scores, constant, rows_min=ROWS_MIN)
    last = _last_value(schema, held, scale, beside.label_delay_days)
    if held.champion_scores is None:
        told = f"; beware, {last.reason}" if last.failed else ""
        return replace(sane, reason=f"{sane.reason}{told}")
    # worse than no model is no model to serve, even where the champion is worse still
    if sane.failed:
        return sane
    if last.failed and beside.label_delay_days is not None:
        return last

    harm = _no_harm(schema, held, scale, ALPHA, ROWS_MIN)
    if not harm.passed:
        return harm
    also = []
    looked = {name: rows for name, rows in held.slices.items() if int(rows.sum()) >= SLICE_ROWS_MIN}
    for name, rows in looked.items():
        verdict = _no_harm(schema, _of(held, rows), scale, ALPHA / len(looked), SLICE_ROWS_MIN)
        if verdict.failed:
            return replace(verdict, reason=f"where {name}, {verdict.reason}")
    if looked:
        also.append(f"in none of {len(looked)} slices")
    if golden is not None:
        verdict = _no_harm(schema, golden, scale, ALPHA, ROWS_MIN)
        if not verdict.passed:
            return replace(verdict, reason=f"on the golden set, {verdict.reason}")
        also.append("not on the golden set")
    slow = _slow(rules, beside)
    if slow:
        return Verdict("fail", slow)
    return replace(harm, reason="; ".join([harm.reason, *also]))


def label_metrics(schema: Schema, labels: Array) -> dict[str, float]:
    """What is kept of training labels [rows], to compare the next training's with.

    training_rate: the share of the positive class of a binary model. training_mean and
    training_sd: of a regression. Nothing for several classes.
    """
    wide = np.asarray(labels, np.float64)
    if schema.task == "binary":
        return {"training_rate": float(wide.mean())}
    if schema.task == "regression":
        return {"training_mean": float(wide.mean()), "training_sd": float(wide.std())}
    return {}


def label_fault(schema: Schema, rules: ControlSpec, beside: Beside) -> str:
    """Why the labels are suspect; "" if they are not, or nothing is known of the champion's."""
    now, before, most = beside.training, beside.champion_training, rules.label_odds_max
    if schema.task == "binary" and {"training_rate"} <= now.keys() & before.keys():
        rate, usual = now["training_rate"], before["training_rate"]
        if not 0 < rate < 1:
            return (
                f"all labels of the training rows are of one class; of the champion's {usual:.1%}"
            )
        odds = rate * (1 - usual) / ((1 - rate) * usual) if 0 < usual < 1 else 1.0
        if not 1 / most <= odds <= most:
            return (
                f"{rate:.1%} of the training labels are positive and {usual:.1%} of the "
                f"champion's were: the odds differ by more than {most:g} times "
                "(control.label_odds_max)"
            )
    if schema.task == "regression" and {"training_mean"} <= now.keys() & before.keys():
        moved = abs(now["training_mean"] - before["training_mean"])
        if moved > most * before["training_sd"] > 0:
            return (
                f"the training labels have a mean of {now['training_mean']:.4g} and the "
                f"champion's had {before['training_mean']:.4g}: more than {most:g} standard "
                "deviations apart (control.label_odds_max)"
            )
    return ""


def slices_of(
    monitoring: MonitoringSpec, plan: FeaturePlan, table: Table
) -> dict[str, NDArray[np.bool_]]:
    """The rows of each slice that is watched, [rows] by a name such as "origin=JFK"."""
    return {
        f"{part.name}={value}": np.asarray(table[part.name] == value, np.bool_)
        for part in plan.categories
        if part.name in monitoring.slices
        for value in part.levels[: monitoring.slice_values_max]
    }


def last_values(event_s: NDArray[np.float64], delay_s: float) -> NDArray[np.int64]:
    """For each row the newest one whose label was known by then: int64 [rows], -1 for none.

    `event_s` [rows] grows; a label is known `delay_s` after its row, and never at the same moment.
    """
    return np.searchsorted(event_s, event_s - delay_s, side="left").astype(np.int64) - 1


def _last_value(schema: Schema, held: Judged, scale: float, delay_days: float | None) -> Verdict:
    if held.event_s is None:
        return Verdict("not enough data", "the data have no time")
    places = last_values(held.event_s, (delay_days or 0.0) * DAY_S)
    known = places >= 0
    labels = np.asarray(held.labels, np.float64)
    repeated = labels[places[known]]
    if schema.task == "multiclass":
        said = np.eye(schema.outputs)[repeated.astype(np.int64)]
    else:
        said = repeated[:, None]
    if not known.any():
        return Verdict("not enough data", "no label was known in time")
    verdict = no_harm(
        schema.task, labels[known], said, held.scores[known], scale, rows_min=ROWS_MIN
    )
    told = verdict.reason.replace("the challenger's", "the model's").replace(
        "the champion's", "that of repeating the last known label"
    )
    return replace(verdict, reason=told)


def _no_harm(schema: Schema, rows: Judged, scale: float, alpha: float, rows_min: int) -> Verdict:
    if rows.champion_scores is None:
        return Verdict("not enough data", "there is no champion to compare with")
    return no_harm(
        schema.task,
        rows.labels,
        rows.champion_scores,
        rows.scores,
        scale,
        rows_min=rows_min,
        alpha=alpha,
    )


def _of(held: Judged, rows: NDArray[np.bool_]) -> Judged:
    theirs = None if held.champion_scores is None else held.champion_scores[rows]
    return Judged(held.labels[rows], held.scores[rows], theirs)


def _slow(rules: ControlSpec, beside: Beside) -> str:
    took, usual, limits = beside.latency_ms, beside.champion_latency_ms, rules.guards
    if took is None or usual is None or took <= limits.latency_free_ms:
        return ""
    if took <= limits.latency_ratio_max * usual:
        return ""
    return (
        f"it takes {took:.1f} ms for rows that the champion answers in {usual:.1f} ms "
        "(control.guards.latency_ratio_max)"
    )
