"""Rows for the monitoring benchmarks: 20 mixed features, as the product's own plan counts them.

12 normal, 4 log-normal, 2 Poisson and 2 categorical features. `Stream` makes rows hour by hour,
with a daily cycle of the normal ones or a shift of the first, from a seed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Column, Schema, Table
from hapredict.features.plan import FeaturePlan
from hapredict.features.stats import TableStats
from hapredict.spec import Spec, build_spec

NAME = "drift"
NORMAL = tuple(f"normal{place}" for place in range(12))
SKEWED = tuple(f"lognormal{place}" for place in range(4))
COUNTED = tuple(f"poisson{place}" for place in range(2))
LEVELS = {"few": np.array(list("abcd")), "many": np.array([f"level{i}" for i in range(20)])}
CATEGORIES = tuple(LEVELS)
NUMBERS = NORMAL + SKEWED + COUNTED
ROWS_AN_HOUR = 10_000
HOUR_S = 3600.0

SCHEMA = Schema(
    tuple(Column(name, "number") for name in NUMBERS)
    + tuple(Column(name, "category") for name in CATEGORIES),
    target="y",
    task="binary",
    classes=("0", "1"),
    time="at",
)


@dataclass
class Stream:
    """Rows in the order of time, from `start_s` on."""

    seed: int
    cycle: float = 0.0
    """Standard deviations by which normal features swing in a day."""
    shift: float = 0.0
    """Standard deviations by which the first is moved."""
    start_s: float = 0.0

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._done = 0

    def table(self, rows: int) -> Table:
        """The next rows; `at` is their time."""
        at_s = self.start_s + (self._done + np.arange(rows)) * HOUR_S / ROWS_AN_HOUR
        self._done += rows
        rng = self._rng
        swing = self.cycle * np.sin(2 * np.pi * at_s / (24 * HOUR_S))
        columns: dict[str, NDArray[Any]] = {n: rng.normal(size=rows) + swing for n in NORMAL}
        columns[NORMAL[0]] += self.shift
        columns |= {name: rng.lognormal(0, 1, rows) for name in SKEWED}
        columns |= {name: rng.poisson(4, rows).astype(float) for name in COUNTED}
        for name, levels in LEVELS.items():
            shares = 1 / np.arange(1, len(levels) + 1)
            columns[name] = rng.choice(levels, rows, p=shares / shares.sum()).astype(object)
        return {**columns, "at": at_s}


def tables(stream: Stream, rows: int, at_once: int = 10_000) -> Iterator[Table]:
    """So many rows of a stream, a piece at a time."""
    for done in range(0, rows, at_once):
        yield stream.table(min(at_once, rows - done))


def spec_of(**monitoring: Any) -> Spec:
    """A spec with the product's defaults."""
    data = {"sources": ["none"], "target": "y", "time": "at"}
    return build_spec({"name": NAME, "data": data, "monitoring": monitoring})


def plan_of(table: Table, spec: Spec) -> FeaturePlan:
    """The plan that a training on these rows would make."""
    return FeaturePlan.from_stats(TableStats.of(table, SCHEMA), SCHEMA, spec.features)
