"""From a fitted network to a model that may be published: metrics, reference and golden rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, rows_of
from hapredict.registry.bundle import Golden, Reference, score_bin
from hapredict.sections_live import ServingSpec
from hapredict.serving.decisions import cost_metrics
from hapredict.training.extras import quantiles_among
from hapredict.training.metrics import evaluate, loss_scale, losses

SCORE_BINS = 20
GOLDEN_ROWS = 16


def measure(
    schema: Schema,
    serving: ServingSpec,
    labels: NDArray[Any],
    scores: NDArray[Any],
    extras: NDArray[Any] | None,
    extra_names: Sequence[str],
) -> dict[str, float]:
    """The metrics of the hold-out: of scores, of quantiles among the extras, and of decisions.

    labels [rows], scores [rows, outputs], extras [rows, m] or None.
    """
    quantiles = {}
    if extras is not None:
        columns = quantiles_among(extra_names).items()
        quantiles = {float(level): extras[:, place] for level, place in columns}
    return {
        **evaluate(schema.task, labels, scores, quantiles),
        **cost_metrics(serving, schema, labels, scores),
    }


def reference(
    schema: Schema,
    bins: NDArray[np.int64],
    rows: int,
    labels: NDArray[Any],
    scores: NDArray[Any],
    before: Reference | None,
) -> Reference:
    """What the monitor compares live traffic with.

    `bins` count all `rows` learned from; labels [held] and scores [held, outputs] are of rows that
    training did not see. The loss baseline only falls from version to version: one that rose with
    each bad week would make the monitor deaf.
    """
    scale = before.loss_scale if before is not None else loss_scale(schema.task, labels)
    mean = float(losses(schema.task, labels, scores, scale).mean())
    single = scores[:, 0] if scores.shape[1] == 1 else scores.max(axis=1)
    shares = np.linspace(0, 1, SCORE_BINS + 1)[1:-1]
    edges = tuple(map(float, np.unique(np.quantile(single.astype(np.float64), shares))))
    blank = Reference(
        bins=tuple(map(int, bins)),
        score_edges=edges,
        score_counts=(0,) * (len(edges) + 1),
        loss_mean=mean if before is None else min(mean, before.loss_mean),
        loss_rows=len(labels),
        loss_scale=scale,
        rows=rows,
    )
    counts = np.bincount(score_bin(blank, scores), minlength=len(edges) + 1)
    return Reference.from_json({**blank.to_json(), "score_counts": list(map(int, counts))})


def golden_rows(schema: Schema, table: Table) -> Table:
    """A few rows spread over `table`, that every replica must score as training did."""
    rows = rows_of(table)
    picked = np.unique(np.linspace(0, rows - 1, min(GOLDEN_ROWS, rows)).astype(int))
    names = [column.name for column in schema.features]
    return {name: table[name][picked] for name in names}


def golden(table: Table, scores: NDArray[Any]) -> Golden:
    """Golden rows as they are stored, with their scores [rows, outputs]."""
    rows: Mapping[str, Any] = {name: column.tolist() for name, column in table.items()}
    return Golden(rows=rows, scores=np.asarray(scores, np.float64).tolist())
