"""Where training ends and judging begins, and which place each row has, however data are cut.

Where judging begins is told from summaries of time that add up. Few rows are told by their values.
Of many only a histogram is kept, which says between which two values a place lies; the values
between them, a thousandth of all, are asked for in a second look. Either way the cut is exactly
that of `data.rows.cut`.

A row's place follows from the hash of what it holds, and not from its file or block. So the same
rows make the same shards wherever they stood; and rows that lie together are chance neighbours,
which is why a window of few pieces is as good a sample as one of many.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hapredict.data.rows import checked_cut, cut_places
from hapredict.errors import DataError
from hapredict.features.histogram import Histogram
from hapredict.training.network import Examples

EXACT_ROWS = 1_000_000
"""Rows up to which all values are kept: 8 MB."""

SHARD_BYTES_MAX = 128 << 20
"""Of rows in a shard, about; a task holds a few times as much."""
_SHARD_BYTES_MIN = 8 << 20
_SHARDS_EARLY = 32
"""Shards below which smaller ones are made, so that many tasks share the work."""
_HASHED_ROWS = 1024
"""At once, so that what is multiplied stays near the processor."""

Hashes = NDArray[np.uint64]
"""[rows, 2]"""

Counted = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Growing values, and how many rows have each."""


@dataclass(frozen=True, slots=True, eq=False)
class Orders:
    """The order (time, or chance) of rows, in bounded memory. Orders add up, in any order."""

    rows: int = 0
    first: float = np.inf
    last: float = -np.inf
    values: NDArray[np.float64] | None = field(default_factory=lambda: np.zeros(0))
    """[rows], in no order; None if there are more than EXACT_ROWS."""
    histogram: Histogram = field(default_factory=Histogram)
    """Of all rows, where `values` is None."""

    @staticmethod
    def of(order: NDArray[np.float64]) -> "Orders":
        """The summary of order [rows]; all values are finite."""
        if not len(order):
            return Orders()
        first, last = float(order.min()), float(order.max())
        if len(order) > EXACT_ROWS:
            return Orders(len(order), first, last, None, Histogram.of(order))
        return Orders(len(order), first, last, order)

    def __add__(self, other: "Orders") -> "Orders":
        rows = self.rows + other.rows
        first, last = min(self.first, other.first), max(self.last, other.last)
        if rows <= EXACT_ROWS and self.values is not None and other.values is not None:
            return Orders(rows, first, last, np.concatenate([self.values, other.values]))
        return Orders(rows, first, last, None, self._counted() + other._counted())

    def _counted(self) -> Histogram:
        return self.histogram if self.values is None else Histogram.of(self.values)

    def between(
        self, validation_share: float, holdout_share: float
    ) -> tuple[tuple[float, float], ...]:
        """Ranges of values (both ends within) that `cut` must know of; none for few rows."""
        if self.values is not None:
            return ()
        places = cut_places(self.rows, validation_share, holdout_share)
        found = (self._bucket(place) for place in places)
        lower, upper = self.histogram.lower, self.histogram.upper
        return tuple((float(lower[at]), float(upper[at])) for at, _ in found)

    def cut(
        self, validation_share: float, holdout_share: float, within: Iterable[Counted] = ()
    ) -> tuple[float, float]:
        """Where validation and hold-out begin; `within` are the values in each of `between`.

        Raises DataError if a part would be empty.
        """
        if not self.rows:
            raise DataError("no row is left to learn from")
        places = cut_places(self.rows, validation_share, holdout_share)
        if self.values is not None:
            ordered = np.sort(self.values)
            starts = [float(ordered[place]) for place in places]
        else:
            starts = [
                float(values[np.searchsorted(np.cumsum(counts), self._bucket(place)[1], "right")])
                for place, (values, counts) in zip(places, within, strict=True)
            ]
        return checked_cut(self.rows, self.first, starts[0], starts[1])

    def _bucket(self, place: int) -> tuple[int, int]:
        """The bucket with the value at a place among all sorted ones, and its place in there."""
        ends = np.cumsum(np.array(self.histogram.counts, np.int64))
        at = int(np.searchsorted(ends, place, side="right"))
        return at, place - (int(ends[at - 1]) if at else 0)


def counted_within(order: NDArray[np.float64], low: float, high: float) -> Counted:
    """The values of order [rows] from `low` to `high`, each once, and how many rows have it."""
    values, counts = np.unique(order[(order >= low) & (order <= high)], return_counts=True)
    return values + 0.0, counts.astype(np.int64)


def add_counted(one: Counted, other: Counted) -> Counted:
    """Both together."""
    values, places = np.unique(np.concatenate([one[0], other[0]]), return_inverse=True)
    return values, np.bincount(
        places, np.concatenate([one[1], other[1]]), minlength=len(values)
    ).astype(np.int64)


def parts_of(
    order: NDArray[np.float64], bounds: tuple[float, float], purge: float = 0.0
) -> NDArray[np.int64]:
    """Int64 [rows]: 0 to train on, 1 to validate on, 2 to hold out, 3 for nobody.

    `bounds` are where validation and hold-out begin. Rows less than `purge` before the hold-out
    are nobody's: their labels may say something about the held rows.
    """
    part = np.searchsorted(np.array(bounds), order, side="right").astype(np.int64)
    part[(order < bounds[1]) & (order >= bounds[1] - purge)] = 3
    return part


def row_hashes(
    examples: Examples, order: NDArray[np.float64], ids: NDArray[np.uint64] | None = None
) -> Hashes:
    """Two hashes of each row's matrices, order and `ids` (hashes of ids), uint64 [rows, 2].

    Evenly spread, and the same wherever the row stands. Together they tell different rows apart.
    """
    words = [
        np.ascontiguousarray(part).view(np.uint32).reshape(examples.rows, -1)
        for part in (examples.numbers, examples.categories, examples.labels, order, ids)
        if part is not None and part.size
    ]
    width = sum(part.shape[1] for part in words)
    factors = np.random.default_rng(0).integers(0, 2**64, (width, 2), np.uint64) | np.uint64(1)
    total = np.zeros((examples.rows, 2), np.uint64)
    for start in range(0, examples.rows, _HASHED_ROWS):
        rows, at = slice(start, start + _HASHED_ROWS), 0
        for part in words:
            total[rows] += part[rows].astype(np.uint64) @ factors[at : at + part.shape[1]]
            at += part.shape[1]
    return _mixed(total)


def shard_count(total_bytes: int) -> int:
    """Into how many shards rows of so many bytes are parted; it depends on nothing else."""
    early = min(_SHARDS_EARLY, total_bytes // _SHARD_BYTES_MIN)
    return max(1, early, -(-total_bytes // SHARD_BYTES_MAX))


def shard_of(hashes: Hashes, count: int) -> NDArray[np.int64]:
    """The shard of each row, int64 [rows] below `count`; all about equally full."""
    return (((hashes[:, 0] >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.int64)


def by_hash(hashes: Hashes) -> NDArray[np.int64]:
    """Places [rows] that bring rows into the order of their hashes."""
    return np.lexsort((hashes[:, 1], hashes[:, 0])).astype(np.int64)


def sampled(hashes: Hashes, total: int, most: int) -> NDArray[np.bool_]:
    """Bool [rows], true for those with the lowest hashes: of `total` rows a bit more than `most`.

    Whoever has seen all rows takes the `most` lowest of these. All, if there are no more.
    """
    if total <= most:
        return np.ones(len(hashes), bool)
    # of so many on average, fewer than `most` are there once in e^18 times, for any `most`
    share = (most + 18 + 6 * (most + 9) ** 0.5) / total
    return hashes[:, 0] < np.uint64(min(share * 2.0**64, 2.0**64 - 2.0**11))


def spread(start: int, rows: int, total: int, most: int) -> NDArray[np.int64]:
    """Which of `rows` rows, numbered from `start` among `total`, are among `most` evenly spread.

    int64 places from 0. All are, if there are no more than `most`.
    """
    places = np.arange(rows, dtype=np.int64)
    if total <= most:
        return places
    at = start + places
    return places[(at + 1) * most // total > at * most // total]


def _mixed(values: Hashes) -> Hashes:
    """Each bit of the result depends on all bits of the value (the end of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
