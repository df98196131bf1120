"""The past of one table: rows in the order of time, and when it was known what became of them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.rows import RowCounts, Survey, usable
from hapredict.data.schema import Schema, Table, infer_schema, rows_of, take
from hapredict.errors import DataError, Problem, SpecError
from hapredict.sections import DAY_S, DataSpec

STEPS_MIN = 2
"""Steps that are lived through at least; fewer decide nothing."""
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class Times:
    """When a replay begins and ends, how far apart steps are, how late truths and people come."""

    start_s: float
    end_s: float
    step_s: float
    delay_s: float
    resume_s: float = 7 * DAY_S
    """After a freeze or a pause, until somebody has looked at it and resumes."""

    @property
    def steps(self) -> int:
        """Steps from start to end."""
        return ceil((self.end_s - self.start_s) / self.step_s)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        """Begin and end of each step."""
        for step in range(self.steps):
            begin = self.start_s + step * self.step_s
            yield begin, begin + self.step_s


@dataclass(frozen=True, eq=False)  # without slots, for what is worked out once
class Past:
    """All rows that have a time, in its order."""

    schema: Schema
    table: Table
    labels: NDArray[np.float64]
    """[rows]: the class's place in the schema, or the number; NaN where it never became known."""
    learnable: NDArray[np.bool_]
    """[rows]: whether a training may use the row."""

    @staticmethod
    def of(
        columns: Mapping[str, NDArray[Any]], spec: DataSpec, *, share: float = 1.0, seed: int = 0
    ) -> "Past":
        """The past that the columns of files hold, or of a `share` of their rows drawn by `seed`.

        Raises SpecError without `data.time`, DataError if the columns do not fit the spec or no
        row has a label.
        """
        if spec.time is None:
            what = "a replay needs the column that says when a row happened; name it"
            raise SpecError((Problem("data.time", what),))
        if share < 1:
            rows = len(next(iter(columns.values()), ()))
            drawn = np.random.default_rng(seed).random(rows) < share
            columns = {name: values[drawn] for name, values in columns.items()}
        found = Survey.of(columns, spec.target)
        if not found.rows:
            raise DataError("the data have no rows")
        schema = infer_schema(spec, found.sample, None if found.many_classes else found.classes)
        table, unreadable = schema.frame(columns)
        labels = schema.labels(columns[spec.target])
        learnable, _ = usable(table, labels, unreadable, schema, spec)
        if not learnable.any():
            raise DataError((Problem(spec.target, "no row has a label; nothing can be compared"),))
        moments = table[spec.time]
        order = np.argsort(moments, kind="stable")
        order = order[np.isfinite(moments[order])]
        return Past(schema, take(table, order), labels[order], learnable[order])

    @property
    def event_s(self) -> NDArray[np.float64]:
        """[rows]: when each happened."""
        return np.asarray(self.table[self.schema.time or ""])

    def times(
        self, start: str, *, step_days: float, delay_days: float, resume_days: float = 7
    ) -> Times:
        """When to begin and end. `start` is a date, or the share of the time that comes before.

        Raises SpecError for a `start` that is neither, and DataError if too little lies before or
        after it.
        """
        first_s, last_s = float(self.event_s[0]), float(self.event_s[-1])
        start_s = _moment(start, first_s, last_s) // DAY_S * DAY_S
        days = (step_days, delay_days, resume_days)
        times = Times(start_s, last_s, *(number * DAY_S for number in days))
        before = int(np.sum(self.learnable & (self.event_s + times.delay_s <= start_s)))
        after = int(np.sum(self.learnable & (self.event_s >= start_s)))
        span = f"the rows are from {_date(first_s)} to {_date(last_s)}"
        if times.steps < STEPS_MIN or not after:
            raise DataError(
                f"too little history: from {_date(start_s)} on there are {max(0, times.steps)} "
                f"steps of {step_days:g} days with {after} labels; {span}; begin earlier (--start)"
            )
        if not before:
            raise DataError(
                f"too little history: no label was known on {_date(start_s)}, when the first model "
                f"is to be trained; {span}; begin later (--start)"
            )
        return times

    def between(self, begin_s: float, end_s: float) -> slice:
        """The rows of a stretch of time, its end left out."""
        first, last = np.searchsorted(self.event_s, [begin_s, end_s])
        return slice(int(first), int(last))

    def known(self, now_s: float, delay_s: float) -> NDArray[np.int64]:
        """The rows that can be learned from at a moment: their labels have come."""
        return np.flatnonzero(self.learnable & (self.event_s + delay_s <= now_s))

    def lesson(
        self, rows: NDArray[np.int64]
    ) -> tuple[Schema, Table, NDArray[np.float64], RowCounts]:
        """Rows as a training gets them; the schema knows the classes that occur in them."""
        labels, schema = self.labels[rows], self.schema
        if schema.task == "multiclass":
            seen = np.unique(labels).astype(np.int64)
            labels = np.searchsorted(seen, labels).astype(np.float64)
            schema = replace(schema, classes=tuple(schema.classes[place] for place in seen))
        counts = RowCounts(rows=len(rows), used=len(rows))
        return schema, take(self.table, rows), labels, counts

    def value(self, row: int) -> Any:
        """The label of a row as a caller would send it."""
        label = float(self.labels[row])
        return label if self.schema.task == "regression" else self.schema.classes[int(label)]

    def digest(self, rows: NDArray[np.int64] | None = None) -> str:
        """The same for the same rows, or all of them, in whatever past they stand."""
        hashes = self._hashes if rows is None else self._hashes[rows]
        return hashlib.sha256(repr(self.schema).encode() + hashes.tobytes()).hexdigest()

    @cached_property
    def _hashes(self) -> NDArray[np.uint64]:
        """[rows]: a hash of what each holds."""
        total = np.zeros(len(self), np.uint64)
        for column in (*(self.table[name] for name in sorted(self.table)), self.labels):
            values = column
            if column.dtype == object:
                texts = ["\0" if value is None else value for value in column]
                unique, places = np.unique(np.array(texts, object), return_inverse=True)
                told = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in unique]
                values = np.frombuffer(b"".join(told), np.float64)[places]
            total = (total + np.ascontiguousarray(values).view(np.uint64)) * _MIX
            total ^= total >> np.uint64(29)
        return total

    def __len__(self) -> int:
        return rows_of(self.table)


def _moment(start: str, first_s: float, last_s: float) -> float:
    try:
        share = float(start)
    except ValueError:
        pass
    else:
        if 0 < share < 1:
            return first_s + share * (last_s - first_s)
    try:
        return datetime.fromisoformat(start).replace(tzinfo=UTC).timestamp()
    except ValueError:
        what = f"{start!r} is neither a date such as 2026-03-01 nor a share between 0 and 1"
        raise SpecError((Problem("--start", what),)) from None


def _date(moment_s: float) -> str:
    return datetime.fromtimestamp(moment_s, UTC).date().isoformat()
