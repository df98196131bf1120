"""From raw columns to matrices, by the same object in training and in serving.

The plan is fitted once, from summaries that add up, and is stored with the model. It gives the
network its inputs (`apply`) and the monitor its counts (`bins`). Both rest on the same edges, so
what the monitor counts is what the network sees; within them the network looks closer.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, rows_of
from hapredict.features.edges import bends_of, centre_and_scale, cuts_of
from hapredict.features.stats import TableStats
from hapredict.sections import FeatureSpec

MISSING = 0
UNSEEN = 1
FIRST_LEVEL = 2

SCALED_MAX = 1e4
"""Scaled numbers are clipped to plus or minus this: far outside of what a plan is fitted on, and
small enough that float32 tells the middle's values apart beside them."""
_GAP_MIN = 1e-6
"""Edges closer than this (against their size) are one edge to the float32 arithmetic behind it."""
_FEW_ROWS = 8
"""Up to so many rows one look-up a value costs less than NumPy's overhead a column."""


@dataclass(frozen=True, slots=True)
class Matrices:
    """What a network takes."""

    numbers: NDArray[np.float32]
    """[rows, 2n]: n scaled numbers, 0 where missing, then n flags, 1 where missing."""
    categories: NDArray[np.int32]
    """[rows, k]: 0 missing, 1 unseen, 2 and up the levels."""


@dataclass(frozen=True, slots=True)
class NumberPlan:
    """One number column: how it is scaled, and where its bins part."""

    name: str
    mean: float
    scale: float
    low: float
    """The smallest value that the plan was fitted on; `high` is the largest."""
    high: float
    cuts: tuple[float, ...]
    """Growing. Interval i is [cuts[i - 1], cuts[i]); the outer two reach to infinity."""
    bends: tuple[float, ...] = ()
    """Growing. Places within the intervals where the network, not the monitor, parts them."""


@dataclass(frozen=True, slots=True)
class CategoryPlan:
    """One category column: the levels that the network knows, the most frequent first."""

    name: str
    levels: tuple[str, ...]
    counted: int
    """Levels, from the first, that the monitor counts each by itself."""

    @property
    def bins(self) -> int:
        """Bins with those of missing, unseen and, if any level is left, other."""
        return FIRST_LEVEL + self.counted + (self.counted < len(self.levels))


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """The plan of all features: numbers first, then categories, each in the schema's order."""

    numbers: tuple[NumberPlan, ...]
    categories: tuple[CategoryPlan, ...]

    _means: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _scales: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _cuts: tuple[NDArray[np.float64], ...] = field(init=False, repr=False, compare=False)
    _codes: tuple[dict[str | None, int], ...] = field(init=False, repr=False, compare=False)
    _last_bins: NDArray[np.int32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "_means", np.array([part.mean for part in self.numbers], dtype=np.float64))
        put(self, "_scales", np.array([part.scale for part in self.numbers], dtype=np.float64))
        put(self, "_cuts", tuple(np.array(part.cuts, dtype=np.float64) for part in self.numbers))
        codes = tuple(
            {None: MISSING, **{level: FIRST_LEVEL + i for i, level in enumerate(part.levels)}}
            for part in self.categories
        )
        put(self, "_codes", codes)
        last = [part.bins - 1 for part in self.categories]
        put(self, "_last_bins", np.array(last, dtype=np.int32))

    @classmethod
    def from_stats(cls, stats: TableStats, schema: Schema, spec: FeatureSpec) -> "FeaturePlan":
        """The plan that summaries give; it depends on nothing else, such as the split in blocks.

        A column without values or with one value is allowed. Levels beyond `levels_max` are left
        out, and so count as unseen.
        """
        numbers = []
        for name in schema.numbers:
            part = stats.numbers[name]
            mean, scale = centre_and_scale(part)
            cuts = cuts_of(part, spec.bins_max, spec.unique_values_max)
            bends = bends_of(part, cuts, spec.unique_values_max)
            numbers.append(NumberPlan(name, mean, scale, part.minimum, part.maximum, cuts, bends))
        categories = []
        for name in schema.categories:
            levels = stats.categories[name].most_frequent(spec.levels_max)
            categories.append(CategoryPlan(name, levels, min(spec.bins_max, len(levels))))
        return cls(tuple(numbers), tuple(categories))

    @property
    def features(self) -> tuple[str, ...]:
        """Names in the order of the matrices' and the bins' columns: numbers, then categories."""
        return (*(part.name for part in self.numbers), *(part.name for part in self.categories))

    @property
    def edges_scaled(self) -> tuple[tuple[float, ...], ...]:
        """For each number column the outer and inner edges in scaled units.

        Strictly growing, at least two, each exactly a float32: what the network's piecewise-linear
        layer is built on. Edges that float32 cannot tell apart are one.
        """
        return tuple(
            self._edges_of(place, part.low, *sorted((*part.cuts, *part.bends)), part.high)
            for place, part in enumerate(self.numbers)
        )

    @property
    def level_counts(self) -> tuple[int, ...]:
        """For each category column how many codes `apply` can give: its levels and two more."""
        return tuple(FIRST_LEVEL + len(part.levels) for part in self.categories)

    @property
    def bin_totals(self) -> tuple[int, ...]:
        """For each feature how many bins it has."""
        return (
            *(2 + len(part.cuts) for part in self.numbers),
            *(part.bins for part in self.categories),
        )

    def apply(self, table: Table) -> Matrices:
        """The network's inputs for a table that holds all features. Every output is finite."""
        rows = rows_of(table)
        n = len(self.numbers)
        numbers = np.empty((rows, 2 * n), dtype=np.float32)
        if n:
            raw = np.concatenate([table[part.name] for part in self.numbers])
            values = raw.reshape(n, rows).T
            missing = np.isnan(values)
            scaled = self._scaled(values)
            scaled[missing] = 0.0
            numbers[:, :n] = scaled
            numbers[:, n:] = missing
        return Matrices(numbers, self._level_codes(table, rows))

    def bins(self, table: Table) -> NDArray[np.int32]:
        """The bin of each value, int32 [rows, features], in the order of `features`.

        Numbers: 0 missing, 1 and up the intervals. Categories: 0 missing, 1 unseen, 2 and up the
        most frequent levels; all other known levels share the last bin.
        """
        rows = rows_of(table)
        n = len(self.numbers)
        bins = np.empty((rows, n + len(self.categories)), dtype=np.int32)
        for place, part in enumerate(self.numbers):
            values = table[part.name]
            if rows <= _FEW_ROWS:
                bins[:, place] = [
                    bisect_right(part.cuts, value) + 1 if value == value else MISSING  # noqa: PLR0124 - only NaN differs from itself
                    for value in values.tolist()
                ]
            else:
                found = np.searchsorted(self._cuts[place], values, side="right") + 1
                found[np.isnan(values)] = MISSING
                bins[:, place] = found
        if self.categories:
            bins[:, n:] = np.minimum(self._level_codes(table, rows), self._last_bins)
        return bins

    def bin_labels(self, feature: str) -> tuple[str, ...]:
        """A readable name for each bin of a feature: "missing", "< 3.5", "unseen", "JFK"."""
        for part in self.numbers:
            if part.name == feature:
                return ("missing", *_interval_labels(part))
        for category in self.categories:
            if category.name == feature:
                # A level that is called like a bin is put in quotes.
                levels = [
                    f'"{level}"' if level in ("missing", "unseen", "other") else level
                    for level in category.levels[: category.counted]
                ]
                other = ["other"] if category.counted < len(category.levels) else []
                return ("missing", "unseen", *levels, *other)
        raise KeyError(feature)

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values. Python writes floats so that they read back the same."""
        return {
            "numbers": [
                {
                    "name": part.name,
                    "mean": part.mean,
                    "scale": part.scale,
                    "low": part.low,
                    "high": part.high,
                    "cuts": list(part.cuts),
                    "bends": list(part.bends),
                }
                for part in self.numbers
            ],
            "categories": [
                {"name": part.name, "levels": list(part.levels), "counted": part.counted}
                for part in self.categories
            ],
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "FeaturePlan":
        """The plan that `to_json` wrote."""
        return cls(
            numbers=tuple(
                NumberPlan(
                    part["name"],
                    float(part["mean"]),
                    float(part["scale"]),
                    float(part["low"]),
                    float(part["high"]),
                    tuple(map(float, part["cuts"])),
                    tuple(map(float, part.get("bends", ()))),
                )
                for part in raw["numbers"]
            ),
            categories=tuple(
                CategoryPlan(part["name"], tuple(part["levels"]), part["counted"])
                for part in raw["categories"]
            ),
        )

    def _scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        # An overflow becomes an infinity of the right sign, which the clipping brings back.
        with np.errstate(over="ignore"):
            scaled = (values - self._means) / self._scales
        np.minimum(scaled, SCALED_MAX, out=scaled)
        np.maximum(scaled, -SCALED_MAX, out=scaled)
        return scaled

    def _level_codes(self, table: Table, rows: int) -> NDArray[np.int32]:
        codes = np.empty((rows, len(self.categories)), dtype=np.int32)
        if not self.categories:
            return codes
        columns = []
        for part, known in zip(self.categories, self._codes, strict=True):
            look_up = known.get
            columns.append([look_up(value, UNSEEN) for value in table[part.name].tolist()])
        codes.T[:] = columns
        return codes

    def _edges_of(self, place: int, *edges: float) -> tuple[float, ...]:
        column = np.zeros((len(edges), len(self.numbers)))
        column[:, place] = edges
        kept: list[float] = []
        for edge in self._scaled(column)[:, place].astype(np.float32).tolist():
            if not kept or edge - kept[-1] > _GAP_MIN * max(1.0, abs(edge)):
                kept.append(edge)
        return tuple(kept) if len(kept) > 1 else (kept[0], kept[0] + 1.0)


def count_bins(bins: NDArray[np.int32], bin_totals: tuple[int, ...]) -> NDArray[np.int64]:
    """How many rows fall into each bin, int64 [sum(bin_totals)]: one feature after the other."""
    ends = np.cumsum(bin_totals, dtype=np.int64)
    starts = ends - np.array(bin_totals, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.bincount((bins + starts).ravel(), minlength=total)


def _interval_labels(part: NumberPlan) -> list[str]:
    cuts = part.cuts
    if not cuts:
        return ["any value"]
    single = [upper == math.nextafter(lower, math.inf) for lower, upper in pairwise(cuts)]
    # The end of a single value's interval is shown as that value.
    shown = [cuts[i - 1] if i and single[i - 1] else cut for i, cut in enumerate(cuts)]
    texts = [_short(value, [*shown, part.low, part.high]) for value in shown]
    labels = [f"< {texts[0]}"]
    for place, alone in enumerate(single):
        labels.append(texts[place] if alone else f"{texts[place]} to {texts[place + 1]}")
    labels.append(f"{'>' if single and single[-1] else '>='} {texts[-1]}")
    return labels


def _short(value: float, among: list[float]) -> str:
    """A value in so few digits that it stays near itself, seen from its nearest neighbour."""
    gap = min((abs(value - other) for other in among if other != value), default=0.0)
    for digits in range(4, 17):
        near = float(f"{value:.{digits}g}")
        if abs(near - value) <= 0.01 * gap:
            return repr(near).removesuffix(".0")
    return repr(value)
