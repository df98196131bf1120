"""What the hold-out says beyond one loss: by score, by slice, and what the scores hang on.

The monitor rests on it where there are no labels, or where a mean hides what happens to a few.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table
from hapredict.errors import GateRefused
from hapredict.features.plan import FeaturePlan
from hapredict.registry.bundle import Reference, score_bin
from hapredict.sections import Task
from hapredict.sections_live import MonitoringSpec
from hapredict.training.importance import importance_of
from hapredict.training.metrics import expected_losses, losses

_BIN_ROWS = 20
"""Hold-out rows as which the mean of all counts in a bin of scores: a few rows say little."""


def check_slices(monitoring: MonitoringSpec, schema: Schema) -> None:
    """Raises GateRefused if `monitoring.slices` names what is no category column."""
    odd = [name for name in monitoring.slices if name not in schema.categories]
    if odd:
        known = ", ".join(schema.categories) or "none"
        message = (
            f"monitoring.slices: {', '.join(map(repr, odd))} is no category column of the model; "
            f"category columns: {known}"
        )
        raise GateRefused(message)


def with_hold_out(
    found: Reference,
    schema: Schema,
    monitoring: MonitoringSpec,
    plan: FeaturePlan,
    table: Table,
    labels: NDArray[Any],
    scores: NDArray[Any],
    score: Callable[[Table], NDArray[Any]],
    seed: int,
) -> Reference:
    """The reference with all that the hold-out says about losses and importance.

    table, labels [rows] and scores [rows, outputs] are the hold-out; `score` gives scores
    [rows, outputs] for a table.
    """
    measured = losses(schema.task, labels, scores, found.loss_scale)
    means, spreads = losses_by_score(found, schema.task, scores, measured)
    return replace(
        found,
        score_losses=tuple(means.tolist()),
        score_loss_spreads=tuple(spreads.tolist()),
        importance=importance_of(score, table, plan.features, seed),
        slices=losses_by_slice(monitoring, plan, table, measured),
    )


def losses_by_score(
    found: Reference, task: Task, scores: NDArray[Any], measured: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What loss a row in each bin of scores lets expect, and its spread: two [bins] in [0, 1].

    A classifier's probabilities say it themselves; what they are off by on the whole is added. For
    a regression it is what was measured, drawn to the mean of all where a bin has few rows.
    """
    bins = score_bin(found, scores)
    rows = np.bincount(bins, minlength=len(found.score_counts)).astype(np.float64)
    told = expected_losses(task, scores)
    mean = float(measured.mean())
    if told is None:
        sums = np.bincount(bins, measured, len(rows))
        means = (sums + _BIN_ROWS * mean) / (rows + _BIN_ROWS)
    else:
        off = mean - float(told.mean())
        sums = np.bincount(bins, told, len(rows))
        means = np.where(rows > 0, sums / np.maximum(rows, 1), float(told.mean())) + off
    means = np.clip(means, 0.0, 1.0)
    squares = (measured - means[bins]) ** 2
    spread = (np.bincount(bins, squares, len(rows)) + _BIN_ROWS * squares.mean()) / (
        rows + _BIN_ROWS
    )
    return means, np.sqrt(spread)


def losses_by_slice(
    monitoring: MonitoringSpec, plan: FeaturePlan, table: Table, measured: NDArray[np.float64]
) -> dict[str, dict[str, tuple[float, int]]]:
    """Mean loss and rows of each value that is watched: the most frequent ones in training.

    A value without a row in the hold-out has the mean of all, and 0 rows.
    """
    found: dict[str, dict[str, tuple[float, int]]] = {}
    for part in plan.categories:
        if part.name not in monitoring.slices:
            continue
        of_value = {}
        for value in part.levels[: monitoring.slice_values_max]:
            held = measured[table[part.name] == value]
            mean = float(held.mean()) if len(held) else float(measured.mean())
            of_value[value] = (mean, len(held))
        found[part.name] = of_value
    return found
