"""Losses of predictions whose labels became known."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.errors import BadRequest
from hapredict.monitoring.view import View
from hapredict.serving.journal import NO_VERSION
from hapredict.training.metrics import losses


def joined_losses(
    values: Sequence[Any],
    versions: NDArray[np.int64],
    scores: NDArray[np.float64],
    view_of: Callable[[int], View | None],
    scale: float,
) -> NDArray[np.float64]:
    """Losses [rows]; NaN where there is no score or the label means nothing to the version.

    `values` are labels as callers sent them, `versions` [rows] whose `scores` [rows, width] they
    are about, `scale` that of the loss of a regression.
    """
    found = np.full(len(values), np.nan)
    for number in np.unique(versions[versions != NO_VERSION]).tolist():
        view = view_of(number)
        if view is None or view.schema.outputs > scores.shape[1]:
            continue
        rows = np.flatnonzero(versions == number)
        labels = np.array([_label(view.schema, values[row]) for row in rows.tolist()])
        own = scores[rows, : view.schema.outputs]
        usable = ~np.isnan(labels) & np.isfinite(own).all(1)
        if usable.any():
            found[rows[usable]] = losses(view.schema.task, labels[usable], own[usable], scale)
    return found


def _label(schema: Schema, value: Any) -> float:
    try:
        return schema.label_of(value)
    except BadRequest:
        return float("nan")
