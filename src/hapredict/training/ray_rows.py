"""Rows on their way from a data set's blocks to shards, as tasks hand them to each other."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hapredict.data.ray_dataset import Columns, chance_of_rows
from hapredict.data.rows import RowCounts, usable
from hapredict.data.schema import Schema, Table, concat, take
from hapredict.features.plan import FeaturePlan
from hapredict.sections import DataSpec
from hapredict.training.network import Examples
from hapredict.training.split import Hashes, by_hash, parts_of, row_hashes


def usable_rows(
    columns: Columns, schema: Schema, spec: DataSpec
) -> tuple[Table, NDArray[np.float64], NDArray[np.float64], RowCounts]:
    """The usable rows of a block: table, labels and order, and the counts of the others."""
    table, unreadable = schema.frame(columns)
    if schema.target in columns:
        labels = schema.labels(columns[schema.target])
    else:
        labels = np.full(len(unreadable), np.nan)
    if schema.id is not None and schema.id not in table:
        table = {**table, schema.id: np.full(len(labels), None)}
    used, counts = usable(table, labels, unreadable, schema, spec)
    if schema.time is not None:
        order = table[schema.time]
    else:
        order = chance_of_rows({name: columns[name] for name in sorted(columns)})
    return take(table, used), labels[used], order[used], counts


@dataclass(frozen=True, slots=True)
class Block:
    """Usable rows of one block. A column of texts is kept as codes, which travel without copies."""

    columns: dict[str, Any]
    labels: NDArray[np.float64]
    order: NDArray[np.float64]

    @staticmethod
    def of(table: Table, labels: NDArray[np.float64], order: NDArray[np.float64]) -> "Block":
        packed = {
            name: pd.factorize(column) if column.dtype == object else column
            for name, column in table.items()
        }
        return Block(packed, labels, order)

    def table(self) -> Table:
        return {
            # code -1, missing, is the last one
            name: np.append(np.asarray(column[1], object), [None])[column[0]]
            if isinstance(column, tuple)
            else column
            for name, column in self.columns.items()
        }

    def parts(
        self, bounds: tuple[float, float], purge: float = 0.0
    ) -> tuple[NDArray[np.int64], ...]:
        """Places of the rows of training, validation and hold-out."""
        part = parts_of(self.order, bounds, purge)
        return tuple(np.flatnonzero(part == which) for which in range(3))

    def take(self, index: NDArray[Any]) -> "Block":
        """The rows that `index` picks: places or a mask."""
        columns = {
            name: (column[0][index], column[1]) if isinstance(column, tuple) else column[index]
            for name, column in self.columns.items()
        }
        return Block(columns, self.labels[index], self.order[index])


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """Prepared rows on their way."""

    examples: Examples
    order: NDArray[np.float64]
    hashes: Hashes
    table: Table
    """Raw columns; of training rows the id only."""

    @staticmethod
    def of(blocks: Sequence[Block], schema: Schema, plan: FeaturePlan) -> "PreparedRows":
        """The rows of blocks, one below the other, with all raw columns."""
        table = concat([block.table() for block in blocks])
        labels = np.concatenate([block.labels for block in blocks])
        order = np.concatenate([block.order for block in blocks])
        matrices = plan.apply(table)
        examples = Examples(matrices.numbers, matrices.categories, labels.astype(np.float32))
        ids = None
        if schema.id is not None:
            ids = pd.util.hash_array(np.array([text or "" for text in table[schema.id]], object))
        return PreparedRows(examples, order, row_hashes(examples, order, ids), table)

    def take(self, index: NDArray[Any]) -> "PreparedRows":
        return PreparedRows(
            self.examples.take(index),
            self.order[index],
            self.hashes[index],
            take(self.table, index),
        )

    @staticmethod
    def concat(parts: Sequence["PreparedRows"]) -> "PreparedRows":
        return PreparedRows(
            Examples(
                np.concatenate([part.examples.numbers for part in parts]),
                np.concatenate([part.examples.categories for part in parts]),
                np.concatenate([part.examples.labels for part in parts]),
            ),
            np.concatenate([part.order for part in parts]),
            np.concatenate([part.hashes for part in parts]),
            concat([part.table for part in parts]),
        )


def picked(parts: Sequence[PreparedRows], most: int) -> tuple[Examples, Table]:
    """At most so many rows, those with the lowest hashes, in order; and their raw columns."""
    rows = PreparedRows.concat(parts)
    rows = rows.take(by_hash(rows.hashes)[:most])
    by_order = np.argsort(rows.order, kind="stable")
    return rows.examples.take(by_order), take(rows.table, by_order)


def groups(
    blocks: Sequence[Any], sizes: Sequence[Iterable[int]], rows_max: int
) -> Iterator[list[Any]]:
    """Blocks that have rows, so many together as make a task worth its start."""
    group: list[Any] = []
    filled = 0
    for block, size in zip(blocks, sizes, strict=True):
        if not any(size):
            continue
        if group and filled + sum(size) > rows_max:
            yield group
            group, filled = [], 0
        group.append(block)
        filled += sum(size)
    if group:
        yield group
