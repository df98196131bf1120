"""From a fitted network to a model that may be published: gates, reference and golden rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, rows_of
from hapredict.features.clock import Clock, Clocked
from hapredict.monitoring.seasons import MatchedShares, usual_gaps
from hapredict.registry.bundle import Golden, Reference, pack_counts, score_bin
from hapredict.sections_live import ServingSpec
from hapredict.serving.decisions import cost_metrics
from hapredict.training.extras import quantiles_among
from hapredict.training.metrics import (
    Verdict,
    constant_scores,
    evaluate,
    loss_scale,
    losses,
    no_harm,
    sanity,
)

ROWS_MIN = 50
"""Hold-out rows without which no gate speaks."""
SCORE_BINS = 20
GOLDEN_ROWS = 16


def judge(
    schema: Schema,
    training_labels: NDArray[Any],
    labels: NDArray[Any],
    scores: NDArray[Any],
    champion_scores: NDArray[Any] | None,
    scale: float,
) -> Verdict:
    """The offline gates on the hold-out: better than a constant, and no worse than the champion.

    labels [rows], scores [rows, outputs]; `champion_scores` is None while there is no champion.
    """
    constant = constant_scores(schema.task, training_labels, len(labels), schema.outputs)
    sane = sanity(schema.task, labels, scores, constant, rows_min=ROWS_MIN)
    if champion_scores is None:
        return sane
    # worse than no model is no model to serve, even where the champion is worse still
    if sane.failed:
        return sane
    return no_harm(schema.task, labels, champion_scores, scores, scale, rows_min=ROWS_MIN)


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
    *,
    bin_totals: Sequence[int] = (),
    clocked: Clocked | None = None,
    held_s: NDArray[np.float64] | None = None,
) -> Reference:
    """What the monitor compares live traffic with.

    `bins` count all `rows` learned from, `bin_totals` says how many belong to each feature, and
    `clocked` counts them by time if they have one. labels [held] and scores [held, outputs] are of
    rows that training did not see, `held_s` [held] are their times in seconds since the epoch. The
    loss baseline only falls from version to version: one that rose with each bad week would make
    the monitor deaf.
    """
    scale = before.loss_scale if before is not None else loss_scale(schema.task, labels)
    mean = float(losses(schema.task, labels, scores, scale).mean())
    baseline = (mean, len(labels))
    if before is not None:
        # with the rows that it was measured on: few would widen what is tolerated
        baseline = min(baseline, (before.loss_mean, before.loss_rows))
    single = scores[:, 0] if scores.shape[1] == 1 else scores.max(axis=1)
    shares = np.linspace(0, 1, SCORE_BINS + 1)[1:-1]
    edges = tuple(map(float, np.unique(np.quantile(single.astype(np.float64), shares))))
    blank = Reference(
        bins=tuple(map(int, bins)),
        score_edges=edges,
        score_counts=(0,) * (len(edges) + 1),
        loss_mean=baseline[0],
        loss_rows=baseline[1],
        loss_scale=scale,
        rows=rows,
    )
    places = score_bin(blank, scores)
    counts = np.bincount(places, minlength=len(edges) + 1)
    found = replace(blank, score_counts=tuple(map(int, counts)))
    if clocked is not None:
        parts = np.split(np.asarray(bins), np.cumsum(bin_totals)[:-1])
        usual = usual_gaps(MatchedShares(parts, clocked.hourly), clocked.counts, clocked.hours)
        found = replace(found, hourly=pack_counts(clocked.hourly), usual=tuple(usual))
    if held_s is not None:
        clock = Clock.of(held_s.min(), held_s.max(), len(held_s), len(counts))
        held = clock.count(held_s, places[:, None], (len(counts),))
        usual = usual_gaps(MatchedShares([counts], held.hourly), held.counts, held.hours)
        found = replace(found, score_hourly=pack_counts(held.hourly), score_usual=tuple(usual))
    return found


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
