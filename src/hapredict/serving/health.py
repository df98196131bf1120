"""What replicas count about versions while two are compared, so that a broken one shows at once.

Each replica keeps its counts in `health/<model>/<version on trial>/<source>.json`; sums over the
sources of one trial are what control looks at. Counts need no labels and no statistics.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Table
from hapredict.features.typical import typical
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.serving.engine import Loaded
from hapredict.serving.journal import NO_VERSION, PredictionPart
from hapredict.serving.scoring import Routes

PROBE_ROWS = 16
PROBES_MAX = 50
"""Timings a trial and replica; more would tell nothing new."""


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """Counts about one version. They add up over replicas."""

    rows: int = 0
    """Rows that it scored."""
    faults: int = 0
    """Times that it failed: an error, or a score that is not a number."""
    lowest: float = math.inf
    highest: float = -math.inf
    """Of all its scores; infinite before the first."""
    probes: int = 0
    """Times that it was timed beside the other version, on the same rows."""
    fastest_ms: float = math.inf
    """Milliseconds of the fastest probe of 16 rows: a busy processor slows down the others."""

    def __add__(self, other: "VersionHealth") -> "VersionHealth":
        return VersionHealth(
            self.rows + other.rows,
            self.faults + other.faults,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            self.probes + other.probes,
            min(self.fastest_ms, other.fastest_ms),
        )

    @property
    def constant(self) -> bool:
        """Whether all rows had one and the same score."""
        return self.rows > 0 and self.lowest == self.highest

    @property
    def fault_share(self) -> float:
        """Failures among all attempts; 0 without any."""
        return self.faults / (self.rows + self.faults) if self.faults else 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON values; no score yet is None."""
        found = asdict(self)
        return {
            name: None if found[name] in (math.inf, -math.inf) else found[name] for name in found
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "VersionHealth":
        """What `to_json` wrote."""
        blank = VersionHealth()
        return VersionHealth(
            **{
                name: getattr(blank, name) if value is None else value
                for name, value in raw.items()
            }
        )


Counted = tuple[int | None, Mapping[int, VersionHealth]]
"""A trial, by the version on trial, and what was counted about its versions."""
NOTHING: Counted = (None, {})


def total(counts: Iterable[Mapping[int, VersionHealth]]) -> dict[int, VersionHealth]:
    """The sum over replicas, by version."""
    found: dict[int, VersionHealth] = {}
    for one in counts:
        for number, health in one.items():
            found[number] = found.get(number, VersionHealth()) + health
    return found


def health_prefix(model: str, trial: int) -> str:
    """Where replicas count while version `trial` is challenger or watched champion."""
    return f"health/{model}/{trial}"


def read_health(store: Store, model: str, trial: int) -> dict[int, VersionHealth]:
    """What all replicas counted in a trial, by version. Raises StoreUnavailable, CorruptBundle."""
    found = []
    for path in store.list(health_prefix(model, trial)):
        raw = decode_json(store.get(path), path)
        found.append({int(number): VersionHealth.from_json(one) for number, one in raw.items()})
    return total(found)


def counts_of(
    part: PredictionPart, routes: Routes, asked: NDArray[np.bool_]
) -> dict[int, VersionHealth]:
    """What the rows of a part say of each version; `asked` [rows] are those that two should score.

    A row that the other version should have scored and did not is a failure of it.
    """
    found: dict[int, VersionHealth] = {}
    split = routes.split
    other_of = {split.champion: split.challenger or routes.compared}
    if split.challenger is not None:
        other_of[split.challenger] = split.champion
    for number, other in other_of.items():
        mine = part.versions == number
        missed = 0
        if other is not None:
            missed = int((mine & asked & (part.other_versions == NO_VERSION)).sum())
        for name, rows, scores, faults in (
            (number, mine, part.scores, 0),
            (other, mine & (part.other_versions == other), part.other_scores, missed),
        ):
            if name is None or not (rows.any() or faults):
                continue
            counted = VersionHealth(int(rows.sum()), faults)
            if rows.any():
                first = scores[rows, 0]
                counted = replace(counted, lowest=float(first.min()), highest=float(first.max()))
            found[name] = found.get(name, VersionHealth()) + counted
    return found


class HealthLog:
    """One replica's counts about the trial in progress. Safe to use from several threads."""

    def __init__(self, store: Store, model: str, source: str, *, begun: Counted = NOTHING) -> None:
        """`begun` is what a log of this source had counted that ended before."""
        self._store = store
        self._model = model
        self._source = source
        self._lock = threading.Lock()
        self._trial, self._counts = begun[0], dict(begun[1])
        self._written: dict[int, VersionHealth] = {}

    @property
    def counted(self) -> Counted:
        """The trial in progress, and the counts about it."""
        with self._lock:
            return self._trial, dict(self._counts)

    def count(self, routes: Routes, counts: Mapping[int, VersionHealth]) -> None:
        """Add to the counts of the trial that `routes` are of; a new trial begins at zero."""
        trial = trial_of(routes)
        with self._lock:
            if trial != self._trial:
                self._trial, self._counts, self._written = trial, {}, {}
            if trial is not None:
                self._counts = total([self._counts, counts])

    def failed(self, routes: Routes, number: int) -> None:
        """Count a request that a version could not score."""
        self.count(routes, {number: VersionHealth(faults=1)})

    def report(self, routes: Routes, timer: Callable[[], float]) -> None:
        """Blocks; time both versions beside each other and write what is worth telling."""
        trial = trial_of(routes)
        if trial is None:
            return
        self._probe(routes, timer)
        with self._lock:
            counts, known = dict(self._counts), self._written
        if any(_worth_telling(one, known.get(number)) for number, one in counts.items()):
            told = {str(number): one.to_json() for number, one in sorted(counts.items())}
            path = f"{health_prefix(self._model, trial)}/{self._source}.json"
            self._store.put(path, encode_json(told))
            with self._lock:
                self._written = counts

    def _probe(self, routes: Routes, timer: Callable[[], float]) -> None:
        numbers = (routes.split.champion, routes.split.challenger or routes.compared)
        pair = [one for number, one in routes.versions.items() if number in numbers]
        done = max(
            (self._counts.get(one.number, VersionHealth()).probes for one in pair), default=0
        )
        if len(pair) < 2 or done >= PROBES_MAX:
            return
        rows = _probe_rows(routes.champion)
        for loaded in pair:
            with suppress(Exception):  # a version that fails is counted where it matters
                loaded.scores(rows)  # the first call of a while reads its weights
                began_s = timer()
                loaded.scores(rows)
                took_ms = 1000 * (timer() - began_s)
                self.count(routes, {loaded.number: VersionHealth(probes=1, fastest_ms=took_ms)})


def trial_of(routes: Routes) -> int | None:
    """The version on trial: the challenger, or a champion that is watched; None without one."""
    if routes.split.challenger is not None:
        return routes.split.challenger
    return routes.split.champion if routes.compared is not None else None


def _worth_telling(now: VersionHealth, before: VersionHealth | None) -> bool:
    """Whether failures, timings or twice as many rows have come: not each row is worth a write."""
    if before is None:
        return True
    more = (now.faults, now.probes) != (before.faults, before.probes)
    return more or now.rows >= 2 * max(1, before.rows) or now.constant != before.constant


def _probe_rows(champion: Loaded) -> Table:
    row = typical(champion.plan, champion.reference.bins)
    columns = {name: [value] * PROBE_ROWS for name, value in row.items()}
    table, _ = champion.schema.frame(columns)
    return table
