"""Which rows can be learned from, in what order, and how many cannot: nothing is dropped unsaid."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table
from hapredict.data.values import is_missing, lenient_texts
from hapredict.errors import DataError, Problem
from hapredict.sections import DataSpec

SAMPLE_MAX = 500
"""Values a column and block, at most, that kinds are inferred from."""

CLASSES_MAX = 10_000
"""Different target values that are counted; a target with more is a number or a mistake."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What must be known of all blocks before there is a schema. Surveys add up."""

    rows: int
    classes: Mapping[str, int]
    """How often each value of the target occurs; empty if there are more than CLASSES_MAX."""
    sample: Mapping[str, tuple[Any, ...]]
    """Values of each column, spread evenly over each block, missing ones left out."""
    many_classes: bool = False

    @staticmethod
    def of(columns: Mapping[str, NDArray[Any]], target: str) -> "Survey":
        """The survey of one block. Columns [rows]; a block without the target has no classes."""
        texts = lenient_texts(columns[target])[0] if target in columns else np.zeros(0, object)
        classes = Counter(text for text in texts if text is not None)
        many = len(classes) > CLASSES_MAX
        return Survey(
            rows=len(next(iter(columns.values()), ())),
            classes={} if many else dict(sorted(classes.items())),
            sample={name: _spread(values) for name, values in columns.items()},
            many_classes=many,
        )

    def __add__(self, other: "Survey") -> "Survey":
        names = sorted(self.classes.keys() | other.classes.keys())
        many = self.many_classes or other.many_classes or len(names) > CLASSES_MAX
        columns = dict.fromkeys([*self.sample, *other.sample])
        return Survey(
            rows=self.rows + other.rows,
            classes={}
            if many
            else {name: self.classes.get(name, 0) + other.classes.get(name, 0) for name in names},
            sample={
                name: self.sample.get(name, ()) + other.sample.get(name, ()) for name in columns
            },
            many_classes=many,
        )


def _spread(values: NDArray[Any]) -> tuple[Any, ...]:
    if values.dtype.kind == "M":
        values = values.astype("datetime64[us]")  # finer ones would become bare numbers
    if values.dtype.kind in "biufM":
        present = values[values == values]  # noqa: PLR0124 - only NaN and NaT differ
    elif {str}.issuperset(map(type, values.tolist())):
        present = values
    else:
        present = values[np.array([not is_missing(value) for value in values.tolist()], bool)]
    return tuple(present[:: max(1, -(-len(present) // SAMPLE_MAX))].tolist())


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of the rows of a data set. Counts add up."""

    rows: int = 0
    used: int = 0
    without_target: int = 0
    without_time: int = 0
    with_missing: int = 0
    """Rows left out since `data.missing_values` is `drop`."""
    unreadable: int = 0
    """Rows with a value that could not be read and counts as missing; they may still be used."""
    outside: int = 0
    """Usable rows that are older than the training window."""

    def __add__(self, other: "RowCounts") -> "RowCounts":
        return RowCounts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def sentence(self) -> str:
        """How many rows are used, and why the others are not."""
        reasons = (
            (self.without_target, "without a usable target"),
            (self.without_time, "without a time"),
            (self.with_missing, "with a missing feature"),
            (self.outside, "older than the training window"),
        )
        left_out = "; ".join(f"{count:,} {why}" for count, why in reasons if count)
        read = f"; {self.unreadable:,} have unreadable values" if self.unreadable else ""
        return (
            f"{self.used:,} of {self.rows:,} rows are used"
            + (f" (left out: {left_out})" if left_out else "")
            + read
        )


def usable(
    table: Table,
    labels: NDArray[np.float64],
    unreadable: NDArray[np.bool_],
    schema: Schema,
    spec: DataSpec,
) -> tuple[NDArray[np.bool_], RowCounts]:
    """Bool [rows], true where a row can be learned from, and the counts that say why not.

    Raises DataError if a target is missing and `data.rows_without_target` is `fail`.
    """
    rows = len(labels)
    no_target = ~np.isfinite(labels)
    if spec.rows_without_target == "fail" and no_target.any():
        first = int(np.argmax(no_target))
        raise DataError(
            (
                Problem(
                    schema.target,
                    f"{int(no_target.sum())} of {rows} rows have no usable target (the first is "
                    f"row {first} of its block); mend the data, or set "
                    "data.rows_without_target to drop",
                ),
            )
        )
    no_time = np.zeros(rows, bool)
    if schema.time is not None:
        no_time = ~np.isfinite(table[schema.time]) & ~no_target
    missing = np.zeros(rows, bool)
    if spec.missing_values == "drop":
        for name in schema.numbers:
            missing |= np.isnan(table[name])
        for name in schema.categories:
            missing |= np.array([value is None for value in table[name]], bool)
        missing &= ~no_target & ~no_time
    used = ~(no_target | no_time | missing)
    return used, RowCounts(
        rows=rows,
        used=int(used.sum()),
        without_target=int(no_target.sum()),
        without_time=int(no_time.sum()),
        with_missing=int(missing.sum()),
        unreadable=int(unreadable.sum()),
    )


def cut(
    order: NDArray[np.float64], validation_share: float, holdout_share: float
) -> tuple[float, float]:
    """Where validation and hold-out begin in `order` [rows] (time, or chance where there is none).

    Rows of the same moment stay together: they fall into the later part. Raises DataError if a
    part would be empty.
    """
    ordered = np.sort(order)
    rows = len(ordered)
    if not rows:
        raise DataError("no row is left to learn from")
    starts = [float(ordered[place]) for place in cut_places(rows, validation_share, holdout_share)]
    return checked_cut(rows, float(ordered[0]), starts[0], starts[1])


def cut_places(rows: int, validation_share: float, holdout_share: float) -> tuple[int, int]:
    """Places, among `rows` sorted ones, of the values at which validation and hold-out begin."""
    shares = (holdout_share + validation_share, holdout_share)
    first, second = (min(rows - 1, int(rows * (1 - share))) for share in shares)
    return first, second


def checked_cut(
    rows: int, first: float, validation_from: float, held_from: float
) -> tuple[float, float]:
    """Where validation and hold-out begin. Raises DataError if a part would be empty."""
    if not first < validation_from < held_from:
        raise DataError(
            f"{rows} rows cannot be split into training, validation and hold-out: too many have "
            "the same time; give more rows, or larger training.validation_share and holdout_share"
        )
    return validation_from, held_from
