"""Rows made ready for training: once, in parallel, by tasks that each hold a few blocks.

The first round of tasks reads the raw blocks, keeps their usable rows in the object store and tells
their order; with it the caller cuts off what judges. The second sums up the training rows, which
makes the plan. The third applies the plan and deals the training rows out by the hash of what they
hold; the fourth gathers what was dealt to each shard and writes it. So the same rows make the same
shards, from whatever files and blocks they came. The caller's memory holds summaries, the shards'
names and the rows that judge, never the training rows.
"""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from ray.data.block import BlockAccessor

from hapredict.data.ray_dataset import columns_of_frame, survey
from hapredict.data.rows import RowCounts
from hapredict.data.schema import Schema, take
from hapredict.errors import CorruptBundle, DataError, HapredictError
from hapredict.features.clock import Clock, Clocked
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.features.stats import TableStats
from hapredict.sections import DAY_S
from hapredict.training.prepared import (
    LABELS_MAX,
    Prepared,
    Recipe,
    Store,
    discard,
    discard_old,
    folder_of,
    mark_used,
    read,
    write,
)
from hapredict.training.ray_rows import Block, PreparedRows, groups, picked, usable_rows
from hapredict.training.shards import Shard, ShardSet, find_damage, put_shard
from hapredict.training.split import (
    Counted,
    Orders,
    add_counted,
    by_hash,
    counted_within,
    parts_of,
    sampled,
    shard_count,
    shard_of,
    spread,
)

log = logging.getLogger(__name__)


def find_prepared(store: Store, model: str, key: str, folder: str | None) -> Prepared | None:
    """What an earlier run prepared under this key, every byte of it checked; else None.

    `folder` is the path of `prepared/<model>/<key>` where the store is a file system. What is
    damaged is named in the log and removed, so that it is prepared again. Raises StoreUnavailable.
    """
    prefix = folder_of(model, key)
    try:
        found = read(store, prefix, folder)
        if found is None:
            return None
        faults = _results([_check.remote(found.train, shard) for shard in found.train.shards])
        if damage := next(filter(None, faults), ""):
            raise CorruptBundle(damage)
    except CorruptBundle as error:
        log.warning("%s", error)
        discard(store, prefix)
        return None
    mark_used(store, prefix, time.time())
    return found


@dataclass(frozen=True, slots=True)
class Rows:
    """The usable rows of a data set, in the object store block by block."""

    schema: Schema
    blocks: tuple[Any, ...]
    counts: RowCounts
    orders: Orders
    bounds: tuple[float, float] | None = None
    """Where validation and hold-out begin, if that is settled already."""


def read_rows(dataset: ray.data.Dataset, recipe: Recipe) -> Rows:
    """Find out what the columns are and keep the usable rows. Raises DataError."""
    _, schema = survey(dataset, recipe.data)
    context = ray.put((recipe, schema))
    started = [_usable.remote(block, context) for block in dataset.get_internal_block_refs()]
    counts, orders = RowCounts(), Orders()
    for more_counts, more_orders in _results([summary for summary, _ in started]):
        counts += more_counts
        orders += more_orders
    return Rows(schema, tuple(block for _, block in started), counts, orders)


def rows_since(rows: Rows, start: float, bounds: tuple[float, float]) -> Rows:
    """The rows whose order is `start` or above; the others are counted as outside.

    What validates and is held out stays as it is: `bounds` are those of all rows (`cut_rows`).
    """
    kept = [_since.options(num_returns=2).remote(block, start) for block in rows.blocks]
    orders, used = Orders(), 0
    for more in _results([summary for summary, _ in kept]):
        orders += more
        used += more.rows
    counts = replace(rows.counts, used=used, outside=rows.counts.used - used)
    return Rows(rows.schema, tuple(block for _, block in kept), counts, orders, bounds)


@ray.remote
def _since(block: Block | None, start: float) -> tuple[Any, Any]:
    found = None if block is None else block.take(block.order >= start)
    if found is None or not len(found.order):
        return Orders(), None
    return Orders.of(found.order), found


def prepare(
    rows: Rows, recipe: Recipe, store: Store, model: str, key: str, folder: str | None
) -> Prepared:
    """Prepare rows and keep them under the key, for this run and later ones.

    The same rows in the same order give the same bytes, however they are cut into blocks. `folder`
    is as in `find_prepared`. Raises DataError if too few rows can be used or they cannot be split,
    and StoreUnavailable.
    """
    if rows.counts.used < recipe.data.rows_min:
        raise DataError(
            f"{rows.counts.sentence()}; data.rows_min is {recipe.data.rows_min}, since less can be "
            "neither learned from nor judged"
        )
    prefix = folder_of(model, key)
    mark_used(store, prefix, time.time())
    bounds = cut_rows(rows, recipe)
    stats, sizes = _sum_up(rows, bounds, recipe.purge_s)
    plan = FeaturePlan.from_stats(stats, rows.schema, recipe.features)
    totals = _Sizes(*(sum(part) for part in zip(*sizes, strict=True)))
    if not totals.validation or not totals.train:
        raise DataError(
            f"control.training_window and control.purge_days ({recipe.purge_s / DAY_S:g}) leave "
            f"{totals.train} rows to train on and {totals.validation} to validate on; choose a "
            "longer window, a shorter gap, or a larger training.validation_share"
        )
    train = ShardSet(
        key=key,
        prefix=prefix,
        numbers=2 * len(plan.numbers),
        categories=len(plan.categories),
        has_ids=rows.schema.id is not None,
        shards=(),
        folder=folder,
        files=store,
    )
    count = shard_count(totals.train * train.row_bytes)
    clock = None
    if rows.schema.time is not None:
        span = (rows.orders.first, rows.orders.last)
        clock = Clock.of(*span, rows.counts.used, sum(plan.bin_totals))
    job = ray.put(_Job(recipe, rows.schema, plan, bounds, totals, count, clock, store, prefix))
    dealt = [
        _deal.options(num_returns=1 + count).remote(job, *group)
        for group in groups(rows.blocks, sizes, -(-sum(totals) // count))
    ]
    done, clocked = _done([refs[0] for refs in dealt])
    dealt_rows = functools.reduce(np.add, [part.dealt for part in done])
    starts = np.cumsum([0, *dealt_rows]).tolist()
    written = list(
        _results(
            [
                _gather.remote(job, starts[at], *[refs[1 + at] for refs in dealt])
                for at in range(count)
                if dealt_rows[at]
            ]
        )
    )
    judged = [
        picked([getattr(part, name) for part in done], most=recipe.judged_rows_max)
        for name in ("validation", "held")
    ]
    (validation, _), (held, held_table) = judged
    prepared = Prepared(
        schema=rows.schema,
        plan=plan,
        counts=rows.counts,
        first=rows.orders.first,
        last=rows.orders.last,
        bins=functools.reduce(np.add, [part.bins for part in done]),
        train=replace(train, shards=tuple(shard for shard, _ in written)),
        labels=np.concatenate([labels for _, labels in written]),
        validation=validation,
        held=held,
        held_table=held_table,
        clocked=clocked,
    )
    write(store, prefix, prepared)
    discard_old(store, model)
    return prepared


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Rows in each part."""

    train: int
    validation: int
    held: int

    def __iter__(self) -> Iterator[int]:
        return iter((self.train, self.validation, self.held))


@dataclass(frozen=True, slots=True)
class _Job:
    recipe: Recipe
    schema: Schema
    plan: FeaturePlan
    bounds: tuple[float, float]
    totals: _Sizes
    shards: int
    clock: Clock | None
    store: Any
    prefix: str


@dataclass(frozen=True, slots=True)
class _Done:
    """What the caller keeps of a few blocks."""

    bins: NDArray[np.int64]
    clocked: Clocked | None
    dealt: NDArray[np.int64]
    """Rows for each shard."""
    validation: PreparedRows
    held: PreparedRows


def _told(work: Callable[..., Any]) -> Callable[..., Any]:
    """Our own errors as results: Ray wraps what is raised, and drops what caused it."""

    @functools.wraps(work)
    def run(*args: Any) -> Any:
        try:
            return work(*args)
        except HapredictError as error:
            return error

    return run


def _results(tasks: Sequence[Any]) -> Iterator[Any]:
    """What tasks return, in their order. An error that hapredict raised in one is raised here."""
    for task in tasks:
        found = ray.get(task)
        if isinstance(found, HapredictError):
            raise found
        yield found


def _done(tasks: Sequence[Any]) -> tuple[list["_Done"], Clocked | None]:
    """What tasks keep for the caller, and their counts by time, which are many, as one sum."""
    found, clocked = [], None
    for part in _results(tasks):
        if part.clocked is not None:
            clocked = Clocked.sum((clocked, part.clocked) if clocked else (part.clocked,))
        found.append(replace(part, clocked=None))
    return found, clocked


@ray.remote(num_returns=2)
def _usable(block: Any, context: tuple[Recipe, Schema]) -> tuple[Any, Any]:
    """What the caller must know of a block's usable rows; and the rows, for later rounds."""
    recipe, schema = context
    try:
        frame = BlockAccessor.for_block(block).to_pandas()
        if not len(frame):
            return (RowCounts(), Orders()), None
        table, labels, order, counts = usable_rows(columns_of_frame(frame), schema, recipe.data)
    except HapredictError as error:
        return error, None
    return (counts, Orders.of(order)), Block.of(table, labels, order) if counts.used else None


def cut_rows(rows: Rows, recipe: Recipe) -> tuple[float, float]:
    """Where validation and hold-out begin. Raises DataError if a part would be empty."""
    if rows.bounds is not None:
        return rows.bounds
    shares = (recipe.validation_share, recipe.holdout_share)
    ranges = rows.orders.between(*shares)
    within: list[Counted] = []
    for parts in _results([_within.remote(block, ranges) for block in rows.blocks if ranges]):
        within = list(map(add_counted, within, parts)) if within else parts
    return rows.orders.cut(*shares, within)


@ray.remote
def _within(block: Block | None, ranges: Sequence[tuple[float, float]]) -> list[Counted]:
    order = np.zeros(0) if block is None else block.order
    return [counted_within(order, low, high) for low, high in ranges]


def _sum_up(
    rows: Rows, bounds: tuple[float, float], purge_s: float
) -> tuple[TableStats, list[_Sizes]]:
    total, sizes = TableStats.empty(), []
    schema = ray.put(rows.schema)
    summaries = [_stats.remote(block, schema, bounds, purge_s) for block in rows.blocks]
    for stats, size in _results(summaries):
        total += stats
        sizes.append(size)
    return total, sizes


@ray.remote
@_told
def _stats(
    block: Block | None, schema: Schema, bounds: tuple[float, float], purge_s: float
) -> tuple[TableStats, _Sizes]:
    if block is None:
        return TableStats.empty(), _Sizes(0, 0, 0)
    parts = block.parts(bounds, purge_s)
    stats = TableStats.of(take(block.table(), parts[0]), schema)
    return stats, _Sizes(*map(len, parts))


@ray.remote
def _deal(job: _Job, *blocks: Block) -> tuple[Any, ...]:
    """Prepared rows of a few blocks: those that judge for the caller, the others by their shard."""
    try:
        done, parts = _prepared_parts(job, blocks)
    except HapredictError as error:
        return error, *[None] * job.shards
    return done, *parts


def _prepared_parts(job: _Job, blocks: Sequence[Block]) -> tuple[_Done, list[PreparedRows]]:
    schema, plan = job.schema, job.plan
    rows = PreparedRows.of(blocks, schema, plan)
    part = parts_of(rows.order, job.bounds, job.recipe.purge_s)
    judging = []
    for which, total in ((1, job.totals.validation), (2, job.totals.held)):
        wanted = (part == which) & sampled(rows.hashes, total, job.recipe.judged_rows_max)
        judging.append(rows.take(np.flatnonzero(wanted)))
    named = {} if schema.id is None else {schema.id: rows.table[schema.id]}
    train = replace(rows, table=named)
    shard = np.where(part == 0, shard_of(rows.hashes, job.shards), -1)
    bins = plan.bins(rows.table)
    done = _Done(
        bins=count_bins(bins, plan.bin_totals),
        clocked=job.clock.count(rows.order, bins, plan.bin_totals) if job.clock else None,
        dealt=np.bincount(shard[shard >= 0], minlength=job.shards),
        validation=judging[0],
        held=judging[1],
    )
    return done, [train.take(np.flatnonzero(shard == at)) for at in range(job.shards)]


@ray.remote
@_told
def _gather(job: _Job, start: int, *parts: PreparedRows) -> tuple[Shard, NDArray[np.float32]]:
    """Write the rows dealt to one shard, in the order of their hashes; and some of their labels."""
    rows = PreparedRows.concat(parts)
    rows = rows.take(by_hash(rows.hashes))
    ids = None if job.schema.id is None else rows.table[job.schema.id]
    shard = put_shard(job.store, job.prefix, rows.examples, rows.order, ids)
    picked = spread(start, shard.rows, job.totals.train, LABELS_MAX)
    return shard, rows.examples.labels[picked]


@ray.remote
@_told
def _check(shard_set: ShardSet, shard: Shard) -> str:
    return find_damage(shard_set, shard)
