"""Summaries of a table that add up.

`TableStats.of(block)` of all blocks, added in any order, is to the bit what `of(whole)` would
have given: counts are whole numbers, sums are exact, and histograms coarsen the same way.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, rows_of
from hapredict.errors import DataError, Problem
from hapredict.features.histogram import Histogram

LEVELS_MAX = 1_000_000
"""Different values of a category column; a column with more names rows, it does not sort them."""

_UNIT_EXPONENT = -1126
"""Sums are whole multiples of 2**-1126: below the last bit of the smallest float's 53."""
_SUM_ROWS = 1 << 25
"""Rows whose 28-bit halves add up to less than 2**53, so that float64 adds them exactly."""


@dataclass(frozen=True, slots=True)
class NumberStats:
    """A number column. Missing values are counted, and take no part in anything else."""

    missing: int = 0
    count: int = 0
    minimum: float = 0.0
    """0 where `count` is 0, and so is `maximum`."""
    maximum: float = 0.0
    total: int = 0
    """The exact sum, in units of 2**-1126."""
    histogram: Histogram = field(default_factory=Histogram)

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> "NumberStats":
        """The summary of float64 [rows]; NaN is missing, all others must be finite."""
        present = values[~np.isnan(values)] + 0.0
        if not len(present):
            return cls(missing=len(values))
        return cls(
            missing=len(values) - len(present),
            count=len(present),
            minimum=float(present.min()),
            maximum=float(present.max()),
            total=exact_sum(present),
            histogram=Histogram.of(present),
        )

    def __add__(self, other: "NumberStats") -> "NumberStats":
        filled = [part for part in (self, other) if part.count]
        return NumberStats(
            missing=self.missing + other.missing,
            count=self.count + other.count,
            minimum=min((part.minimum for part in filled), default=0.0),
            maximum=max((part.maximum for part in filled), default=0.0),
            total=self.total + other.total,
            histogram=self.histogram + other.histogram,
        )

    @property
    def mean(self) -> float:
        """The mean of the values present, correctly rounded; 0 where there are none."""
        if not self.count:
            return 0.0
        return self.total / (self.count << -_UNIT_EXPONENT)

    def to_json(self) -> dict[str, Any]:
        """The summary as plain JSON values, exactly."""
        return {
            "missing": self.missing,
            "count": self.count,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "total": hex(self.total),
            "histogram": self.histogram.to_json(),
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "NumberStats":
        """The summary that `to_json` wrote."""
        return cls(
            missing=raw["missing"],
            count=raw["count"],
            minimum=raw["minimum"],
            maximum=raw["maximum"],
            total=int(raw["total"], 16),
            histogram=Histogram.from_json(raw["histogram"]),
        )


@dataclass(frozen=True, slots=True)
class CategoryStats:
    """A category column: how often each value occurs."""

    missing: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: NDArray[Any]) -> "CategoryStats":
        """The summary of an object array [rows] of str or None."""
        counts = Counter(values.tolist())
        missing = counts.pop(None, 0)
        return cls(missing, dict(counts))

    def __add__(self, other: "CategoryStats") -> "CategoryStats":
        large, small = sorted((self.counts, other.counts), key=len, reverse=True)
        counts = dict(large)
        for value, count in small.items():
            counts[value] = counts.get(value, 0) + count
        return CategoryStats(self.missing + other.missing, counts)

    @property
    def count(self) -> int:
        """Values present."""
        return sum(self.counts.values())

    def most_frequent(self, levels_max: int) -> tuple[str, ...]:
        """At most `levels_max` values, the most frequent first, then in the order of the text."""
        ranked = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))
        return tuple(value for value, _ in ranked[:levels_max])

    def to_json(self) -> dict[str, Any]:
        """The summary as plain JSON values, in the order of the text."""
        return {"missing": self.missing, "counts": dict(sorted(self.counts.items()))}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "CategoryStats":
        """The summary that `to_json` wrote."""
        return cls(raw["missing"], dict(raw["counts"]))


@dataclass(frozen=True, slots=True)
class TableStats:
    """All feature columns of a table."""

    rows: int = 0
    numbers: Mapping[str, NumberStats] = field(default_factory=dict)
    categories: Mapping[str, CategoryStats] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Table, schema: Schema) -> "TableStats":
        """The summary of a table's features.

        Raises DataError if a category column has more than 1,000,000 different values.
        """
        return _checked(
            cls(
                rows=rows_of(table),
                numbers={name: NumberStats.of(table[name]) for name in schema.numbers},
                categories={name: CategoryStats.of(table[name]) for name in schema.categories},
            )
        )

    @classmethod
    def empty(cls) -> "TableStats":
        """The summary of nothing: adding it changes nothing."""
        return cls()

    def __add__(self, other: "TableStats") -> "TableStats":
        """The summary of both tables' rows. Raises DataError as `of` does."""
        return _checked(
            TableStats(
                rows=self.rows + other.rows,
                numbers={
                    name: self.numbers.get(name, NumberStats())
                    + other.numbers.get(name, NumberStats())
                    for name in {**self.numbers, **other.numbers}
                },
                categories={
                    name: self.categories.get(name, CategoryStats())
                    + other.categories.get(name, CategoryStats())
                    for name in {**self.categories, **other.categories}
                },
            )
        )

    def to_json(self) -> dict[str, Any]:
        """The summary as plain JSON values, exactly, columns in the order of their names."""
        return {
            "rows": self.rows,
            "numbers": {name: part.to_json() for name, part in sorted(self.numbers.items())},
            "categories": {name: part.to_json() for name, part in sorted(self.categories.items())},
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "TableStats":
        """The summary that `to_json` wrote."""
        return cls(
            rows=raw["rows"],
            numbers={k: NumberStats.from_json(part) for k, part in raw["numbers"].items()},
            categories={k: CategoryStats.from_json(part) for k, part in raw["categories"].items()},
        )


def exact_sum(values: NDArray[np.float64]) -> int:
    """The sum of finite floats without any rounding, in units of 2**-1126.

    A float is a whole number of 53 bits times a power of two. Whole numbers with the same power
    are added in two halves, each short enough for float64 to add without rounding.
    """
    total = 0
    for start in range(0, len(values), _SUM_ROWS):
        mantissa, exponent = np.frexp(values[start : start + _SUM_ROWS])
        whole = np.ldexp(mantissa, 53).astype(np.int64)
        power = exponent - exponent.min()
        high = np.bincount(power, weights=whole >> 26)
        low = np.bincount(power, weights=whole & ((1 << 26) - 1))
        base = int(exponent.min()) - 53 - _UNIT_EXPONENT
        for place in np.flatnonzero((high != 0) | (low != 0)).tolist():
            total += ((int(high[place]) << 26) + int(low[place])) << (base + place)
    return total


def _checked(stats: TableStats) -> TableStats:
    problems = [
        Problem(
            name,
            f"has more than {LEVELS_MAX:,} different values; name it in data.exclude, or as "
            "data.id if it names the row",
        )
        for name, part in stats.categories.items()
        if len(part.counts) > LEVELS_MAX
    ]
    if problems:
        raise DataError(tuple(problems))
    return stats
