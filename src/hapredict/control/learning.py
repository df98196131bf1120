"""From a fitted network to a model that may be published: gates, reference and golden rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, concat, rows_of, take
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.registry.bundle import Golden, Reference, score_bin
from hapredict.training.metrics import (
    Verdict,
    constant_scores,
    loss_scale,
    losses,
    no_harm,
    sanity,
)
from hapredict.training.network import Examples

ROWS_MIN = 50
"""Hold-out rows without which no gate speaks."""
SCORE_BINS = 20
GOLDEN_ROWS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """Usable rows as matrices, with what is needed to split, count and judge them. They add up."""

    order: NDArray[np.float64]
    """[rows]: time, or chance where there is none."""
    examples: Examples
    bins: NDArray[np.int64]
    """[sum(plan.bin_totals)]: rows in each bin of each feature."""
    held_out: Table
    """Raw columns of the hold-out rows."""

    @staticmethod
    def of(
        table: Table,
        labels: NDArray[np.float64],
        order: NDArray[np.float64],
        plan: FeaturePlan,
        held_from: float,
    ) -> "Prepared":
        """The rows of one block; those with an order from `held_from` on are the hold-out."""
        matrices = plan.apply(table)
        return Prepared(
            order=order,
            examples=Examples(matrices.numbers, matrices.categories, labels.astype(np.float32)),
            bins=count_bins(plan.bins(table), plan.bin_totals),
            held_out=take(table, order >= held_from),
        )

    def __add__(self, other: "Prepared") -> "Prepared":
        mine, theirs = self.examples, other.examples
        return Prepared(
            order=np.concatenate([self.order, other.order]),
            examples=Examples(
                np.concatenate([mine.numbers, theirs.numbers]),
                np.concatenate([mine.categories, theirs.categories]),
                np.concatenate([mine.labels, theirs.labels]),
            ),
            bins=self.bins + other.bins,
            held_out=concat([self.held_out, other.held_out]),
        )

    def parts(
        self, validation_from: float, held_from: float
    ) -> tuple[Examples, Examples, Examples, Table]:
        """Training, validation and hold-out by time, and the hold-out's raw columns."""
        held = self.order >= held_from
        by_time = np.argsort(self.order, kind="stable")
        ordered = self.order[by_time]
        examples = self.examples.take(by_time)
        training = ordered < validation_from
        validation = ~training & (ordered < held_from)
        raw_order = np.argsort(self.order[held], kind="stable")
        return (
            examples.take(training),
            examples.take(validation),
            examples.take(ordered >= held_from),
            take(self.held_out, raw_order),
        )


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
