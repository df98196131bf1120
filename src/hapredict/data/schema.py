"""What a table is, and what one model's table must look like.

A table is a mapping from column names to arrays of equal length. It enters through one of two
doors, which give the same form to the same value (see `values.py`): `Schema.table` for live
requests is strict and names each faulty field; `Schema.frame` for files reads what it can.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.arrays import list_of, table_of_arrays
from hapredict.data.infer import infer
from hapredict.data.values import (
    TEXT_MAX,
    describe,
    lenient_numbers,
    lenient_texts,
    lenient_times,
    strict_category,
    strict_id,
    strict_number,
    strict_time,
)
from hapredict.errors import BadRequest, DataError, Problem, SchemaMismatch
from hapredict.sections import DataSpec, Kind, Task

Table = Mapping[str, NDArray[Any]]
"""Columns of equal length [rows]; see `values.py` for the form of each kind."""

ABSENT: Any = object()
"""Stands in a column of `Schema.table` for a row that does not have the field at all."""

PROBLEMS_MAX = 20
"""Faulty fields that a refusal lists; a client with more has one cause, not many."""

_NUMBER_TYPES = frozenset((float, int, type(None)))


def rows_of(table: Table) -> int:
    """How many rows a table has; 0 for one without columns."""
    return next((len(column) for column in table.values()), 0)


def take(table: Table, index: NDArray[Any]) -> Table:
    """The rows that `index` picks: positions or a mask, as in NumPy."""
    return {name: column[index] for name, column in table.items()}


def concat(tables: Sequence[Table]) -> Table:
    """The rows of all tables, one below the other.

    A column that some tables lack, such as an id that one request gave and another did not, is
    missing in their rows.
    """
    kinds = {name: column.dtype for table in tables for name, column in table.items()}
    return {
        name: np.concatenate(
            [table[name] if name in table else _nothing(rows_of(table), kind) for table in tables]
        )
        for name, kind in kinds.items()
    }


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows turned into columns for `Schema.table`; a field that a row lacks is ABSENT there."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, ABSENT) for row in rows] for name in names}


@dataclass(frozen=True, slots=True)
class Column:
    """A feature: its name and how it is read."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of one model: what it learns from, what it predicts, what names a row."""

    features: tuple[Column, ...]
    """Number and category columns, in the order of the file."""
    target: str
    task: Task
    classes: tuple[str, ...] = ()
    """Binary: (negative, positive). Multiclass: all labels, sorted. Regression: none."""
    time: str | None = None
    id: str | None = None

    numbers: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Names of the number columns."""
    categories: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Names of the category columns."""
    _known: frozenset[str] = field(init=False, repr=False, compare=False)
    _labels: dict[str, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "numbers", tuple(c.name for c in self.features if c.kind == "number"))
        put(self, "categories", tuple(c.name for c in self.features if c.kind == "category"))
        extras = {name for name in (self.time, self.id) if name is not None}
        put(self, "_known", frozenset({c.name for c in self.features} | extras))
        put(self, "_labels", _label_table(self.classes))

    @property
    def outputs(self) -> int:
        """Numbers that the network gives a row: 1, or one a class if there are several."""
        return len(self.classes) if self.task == "multiclass" else 1

    def table(
        self, columns: Mapping[str, Sequence[Any] | NDArray[Any]], *, time_required: bool = False
    ) -> Table:
        """The table of a live request, whole or not at all.

        `columns` holds every feature, as lists or arrays of equal length; None, and NaN in an array
        of floats, is a missing value. The columns of time and id may be left out, unless
        `time_required`. Raises SchemaMismatch with at most 20 problems, each at "rows[3].distance"
        or at the field's name.
        """
        table = self._table_at_once(columns, time_required)
        if table is None and columns.keys() <= self._known:
            wanted = {self.time} if time_required else set()
            table = table_of_arrays(columns, self._readers(), wanted, {self.id, self.time} - wanted)
        return self._table_by_value(columns, time_required) if table is None else table

    def frame(
        self, columns: Mapping[str, NDArray[Any] | Sequence[Any]]
    ) -> tuple[Table, NDArray[np.bool_]]:
        """The table of a file's block, and bool [rows]: true where a value could not be read.

        What cannot be read becomes missing; columns that the model does not know are left out.
        Raises DataError if a feature's column is not there or lengths differ.
        """
        absent = [c.name for c in self.features if c.name not in columns]
        if absent:
            raise DataError(tuple(Problem(name, "no such column") for name in absent))
        table: dict[str, NDArray[Any]] = {}
        unreadable: list[NDArray[Any]] = []
        for name, _, lenient in self._readers():
            if name in columns:
                table[name], bad = lenient(columns[name])
                unreadable.append(bad)
        lengths = {len(column) for column in table.values()}
        if len(lengths) > 1:
            raise DataError(f"columns of one block have different lengths: {sorted(lengths)}")
        return table, np.logical_or.reduce(unreadable)

    def labels(self, values: NDArray[Any] | Sequence[Any]) -> NDArray[np.float64]:
        """float64 [rows]: the class's place, or the number to predict.

        NaN where the label is missing or is none of the known ones.
        """
        if self.task == "regression":
            numbers, _ = lenient_numbers(values)
            return numbers
        texts, _ = lenient_texts(values)
        known = self._labels
        return np.array([known.get(text, np.nan) for text in texts], dtype=np.float64)

    def label_of(self, value: Any) -> float:
        """One label of a live request. Raises BadRequest that says which values are known."""
        try:
            if self.task == "regression" and value is not None:
                return strict_number(value)
            text = strict_category(value)
        except ValueError:
            text = None
        label = None if text is None else self._labels.get(text)
        if label is None:
            wanted = "a number" if self.task == "regression" else f"one of {_listing(self.classes)}"
            raise BadRequest(
                f"the label of {self.target!r} must be {wanted}; got {describe(value)}", 422
            )
        return label

    def example(self) -> dict[str, Any]:
        """One plausible row, for documentation; its values fit `table`, each in a list."""
        row: dict[str, Any] = {c.name: 1.0 if c.kind == "number" else "a" for c in self.features}
        if self.time is not None:
            row[self.time] = "2026-03-01T09:30:00Z"
        if self.id is not None:
            row[self.id] = "row-1"
        return row

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON values."""
        return {
            "features": [{"name": c.name, "kind": c.kind} for c in self.features],
            "target": self.target,
            "task": self.task,
            "classes": list(self.classes),
            "time": self.time,
            "id": self.id,
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Schema":
        """The schema that `to_json` wrote."""
        return cls(
            features=tuple(Column(c["name"], c["kind"]) for c in raw["features"]),
            target=raw["target"],
            task=raw["task"],
            classes=tuple(raw["classes"]),
            time=raw["time"],
            id=raw["id"],
        )

    def _readers(self) -> Iterator[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]:
        for column in self.features:
            if column.kind == "number":
                yield column.name, strict_number, lenient_numbers
            else:
                yield column.name, strict_category, lenient_texts
        if self.time is not None:
            yield self.time, strict_time, lenient_times
        if self.id is not None:
            yield self.id, strict_id, lenient_texts

    def _table_at_once(self, columns: Mapping[str, Any], time_required: bool) -> Table | None:
        """The table of a request without any oddity; None leaves the request to the slow reader."""
        if not columns.keys() <= self._known:
            return None
        try:
            lists = [columns[name] for name in self.numbers]
            texts = [columns[name] for name in self.categories]
            rows = len((lists or texts)[0])
            for values in lists:
                if type(values) is not list or not _NUMBER_TYPES.issuperset(map(type, values)):
                    return None
            for place, values in enumerate(texts):
                if type(values) is not list or len(values) != rows:
                    return None
                for value in values:
                    if value is not None and not (
                        type(value) is str and len(value) <= TEXT_MAX and value.isascii()
                    ):
                        texts[place] = [strict_category(value) for value in values]
                        break
            table: dict[str, NDArray[Any]] = {}
            if lists:
                block = np.array(lists, dtype=np.float64)
                finite = np.isfinite(block)
                if not finite.all():
                    # None became NaN; any NaN or infinity beyond those was sent as such.
                    nones = sum(values.count(None) for values in lists)
                    if block.size - np.count_nonzero(finite) != nones:
                        return None
                table.update(zip(self.numbers, block, strict=True))
            if texts:
                table.update(zip(self.categories, np.array(texts, dtype=object), strict=True))
            if self.time is not None and (time_required or self.time in columns):
                if time_required and None in columns[self.time]:
                    return None
                moments = [strict_time(value) for value in columns[self.time]]
                table[self.time] = np.array(moments, dtype=np.float64)
            if self.id is not None and self.id in columns:
                table[self.id] = np.array([strict_id(v) for v in columns[self.id]], dtype=object)
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return table if all(len(column) == rows for column in table.values()) else None

    def _table_by_value(self, columns: Mapping[str, Any], time_required: bool) -> Table:
        strange = islice((name for name in columns if name not in self._known), PROBLEMS_MAX)
        problems = [Problem(name[:100], self._unknown(name[:100])) for name in strange]
        optional = {self.id} if time_required else {self.id, self.time}
        table: dict[str, NDArray[Any]] = {}
        rows: tuple[str, int] | None = None
        for name, read, _ in self._readers():
            if name not in columns:
                if name not in optional:
                    problems.append(Problem(name, _missing(name == self.time)))
                continue
            values = columns[name]
            values = list_of(values) if hasattr(values, "tolist") else values
            if not isinstance(values, (list, tuple)):
                problems.append(Problem(name, f"must be a list of values; got {describe(values)}"))
                continue
            rows = rows or (name, len(values))
            if len(values) != rows[1]:
                problems.append(
                    Problem(name, f"has {len(values)} values where {rows[0]!r} has {rows[1]}")
                )
                continue
            result = np.empty(
                len(values), dtype=np.float64 if read in (strict_number, strict_time) else object
            )
            for row, value in enumerate(values):
                try:
                    if value is ABSENT and name not in optional:
                        raise ValueError(_missing(name == self.time))
                    if value is None and name == self.time and time_required:
                        raise ValueError("must not be null; the model's clock runs on it")
                    result[row] = read(None if value is ABSENT else value)
                except ValueError as error:
                    problems.append(Problem(f"rows[{row}].{name}", str(error)))
            table[name] = result
            if len(problems) > PROBLEMS_MAX:
                break
        if problems:
            raise SchemaMismatch(tuple(problems[:PROBLEMS_MAX]))
        return table

    def _unknown(self, name: str) -> str:
        if name == self.target:
            return "is what the model predicts; leave it out"
        extras = [name for name in (self.time, self.id) if name is not None]
        names = [c.name for c in self.features] + extras
        guess = difflib.get_close_matches(name, names, 1)
        if guess:
            return f"no such column; did you mean {guess[0]!r}?"
        return f"no such column; the model has {_listing(names)}"


def infer_schema(
    spec: DataSpec,
    sample: Mapping[str, NDArray[Any] | Sequence[Any]],
    classes: Mapping[str, int] | None = None,
) -> Schema:
    """The schema of a data set, told from a sample of its rows and from the spec.

    `classes` counts the canonical target values of all rows, where they are known; otherwise the
    sample decides. Raises DataError that lists every problem with its column: columns that are
    not there, hold nothing or give the target away, a target with one value, no feature at all.
    """
    found = infer(spec, sample, classes)
    return Schema(
        features=tuple(Column(name, kind) for name, kind in found.features),
        target=spec.target,
        task=found.task,
        classes=found.classes,
        time=spec.time,
        id=spec.id,
    )


def _nothing(rows: int, kind: np.dtype[Any]) -> NDArray[Any]:
    return np.full(rows, None if kind.kind == "O" else np.nan, dtype=kind)


def _missing(is_time: bool) -> str:
    if is_time:
        return "is missing; the model's clock runs on it"
    return "is missing; send null if it is unknown"


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _label_table(classes: tuple[str, ...]) -> dict[str, float]:
    """Places of classes; 0/1 and false/true stand for each other, for no data confuse them."""
    table = {text: float(place) for place, text in enumerate(classes)}
    if classes in (("0", "1"), ("false", "true")):
        for place, pair in enumerate((("0", "false"), ("1", "true"))):
            table.update(dict.fromkeys(pair, float(place)))
    return table
