"""Past rows as the live traffic they were: who asked when, and when each truth became known."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hapredict.sections import DAY_S

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Row:
    """One past row: what was known when it happened, and what became of it."""

    fields: Mapping[str, Any]
    """What a request may send: features, time and id."""
    label: Any
    """The target; None if it never became known."""
    event_s: float


@dataclass(frozen=True, slots=True)
class Day:
    """One day of event time."""

    start_s: float
    requests: tuple[tuple[Row, ...], ...]
    """Rows that were asked for together, in the order of time."""

    @property
    def date(self) -> str:
        return datetime.fromtimestamp(self.start_s, UTC).date().isoformat()

    @property
    def month(self) -> str:
        return self.date[:7]

    @property
    def rows(self) -> int:
        return sum(map(len, self.requests))


def plan(rows: Iterable[Row], group: Sequence[str]) -> list[Day]:
    """Rows as days in order; rows of one hour that agree in the columns `group` share a request."""
    days: dict[float, dict[tuple[Any, ...], list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in sorted(rows, key=lambda row: row.event_s):
        hour = row.event_s // HOUR_S
        same = (hour, *(row.fields.get(name) for name in group))
        days[row.event_s // DAY_S * DAY_S][same].append(row)
    return [
        Day(start, tuple(tuple(together) for together in requests.values()))
        for start, requests in sorted(days.items())
    ]


@dataclass(frozen=True, slots=True)
class Answered:
    """One row as it was answered."""

    row: Row
    prediction_id: str
    score: float
    version: int
    served_by: str
    month: str
