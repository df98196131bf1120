"""A training in one process: rows in memory, no cluster, no files.

For rehearsals and small data. Rows are prepared, fitted and exported by the same parts as on a
cluster, so that what is learned here is learned there, but for the order in which rows are met.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.rows import RowCounts
from hapredict.data.schema import Schema, Table, take
from hapredict.errors import DataError
from hapredict.features.clock import Clock
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.features.stats import TableStats
from hapredict.sections import TrainingSpec
from hapredict.training.calibration import set_aside
from hapredict.training.export import Exported, export
from hapredict.training.families import find_family
from hapredict.training.feed import Resident
from hapredict.training.fitted import EpochReport, Fitted
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.prepared import LABELS_MAX, Prepared, Recipe
from hapredict.training.shards import ShardSet
from hapredict.training.split import Orders, by_hash, parts_of, row_hashes, sampled, spread


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What a training alone came to."""

    prepared: Prepared
    """Without shards: the training rows were in memory and are gone."""
    fitted: Fitted
    exported: Exported


def learn(
    schema: Schema,
    table: Table,
    labels: NDArray[np.float64],
    counts: RowCounts,
    recipe: Recipe,
    spec: TrainingSpec,
    *,
    key: str,
    on_epoch: Callable[[EpochReport], None] = lambda _: None,
    threads: int = 1,
) -> Learned:
    """Prepare, fit and export usable rows: `table` with a time, and labels [rows].

    `key` names the rows. Raises DataError if they are too few or cannot be split, TrainingFailed,
    and GateRefused if the export is not the same model.
    """
    prepared, train = prepare(schema, table, labels, counts, recipe, key=key)
    shape = NetworkShape.of(prepared.plan, schema, prepared.labels, spec)
    validation, calibration = set_aside(shape, spec, prepared.validation)
    family = find_family(spec.family)
    own: dict[str, Any] = {"threads": threads} if family.kind == "trees" else {}
    fitted: Fitted = import_module(family.fitter).fit(
        shape, spec, Resident(train, spec.shuffle_rows), validation, on_epoch=on_epoch, **own
    )
    exported = export(shape, spec, fitted.weights, prepared.held, calibration)
    return Learned(prepared, fitted, exported)


def prepare(
    schema: Schema,
    table: Table,
    labels: NDArray[np.float64],
    counts: RowCounts,
    recipe: Recipe,
    *,
    key: str,
) -> tuple[Prepared, Examples]:
    """What a training needs of usable rows, and the training rows in the order of their hashes.

    The parts and the plan are those of a preparation on a cluster. Raises DataError.
    """
    if schema.time is None:
        raise DataError("a training in one process parts its rows by data.time; name the column")
    if counts.used < recipe.data.rows_min:
        raise DataError(
            f"{counts.sentence()}; data.rows_min is {recipe.data.rows_min}, since less can be "
            "neither learned from nor judged"
        )
    order = table[schema.time]
    bounds = Orders.of(order).cut(recipe.validation_share, recipe.holdout_share)
    part = parts_of(order, bounds, recipe.purge_s)
    stats = TableStats.of(take(table, part == 0), schema)
    plan = FeaturePlan.from_stats(stats, schema, recipe.features)
    matrices = plan.apply(table)
    examples = Examples(matrices.numbers, matrices.categories, labels.astype(np.float32))
    hashes = row_hashes(examples, order)

    def rows(which: int, most: int | None = None) -> NDArray[np.int64]:
        places = np.flatnonzero(part == which)
        if most is not None:
            places = places[sampled(hashes[places], len(places), most)]
        return np.asarray(places[by_hash(hashes[places])][:most])

    train = examples.take(rows(0))
    judged = []
    for which in (1, 2):
        places = rows(which, recipe.judged_rows_max)
        judged.append(places[np.argsort(order[places], kind="stable")])
    bins = plan.bins(table)
    clock = Clock.of(float(order.min()), float(order.max()), counts.used, sum(plan.bin_totals))
    prepared = Prepared(
        schema=schema,
        plan=plan,
        counts=counts,
        first=float(order.min()),
        last=float(order.max()),
        bins=count_bins(bins, plan.bin_totals),
        clocked=clock.count(order, bins, tuple(plan.bin_totals)),
        train=ShardSet(
            key=key,
            prefix="",
            numbers=2 * len(plan.numbers),
            categories=len(plan.categories),
            has_ids=False,
            shards=(),
        ),
        labels=train.labels[spread(0, train.rows, train.rows, LABELS_MAX)],
        validation=examples.take(judged[0]),
        held=examples.take(judged[1]),
        held_table=take(table, judged[1]),
    )
    return prepared, train
