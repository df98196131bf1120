"""Answering rows: who scores them, what the caller gets, and what the journal learns.

`Routes` is one immutable picture of who serves. `answer` does what the caller waits for and
nothing else; `part_of` does the rest for many answers at once, when they are written: it lets the
version that is compared score the same rows, and counts bins. In a canary rows of the champion
are also scored by the challenger and the other way round, so that every row is a fair pair.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, rows_of, take
from hapredict.data.values import canonical_text
from hapredict.errors import BadRequest, Problem, SchemaMismatch, TemporaryError, UnknownName
from hapredict.features.plan import count_bins
from hapredict.registry.bundle import score_bin
from hapredict.serving.columns import stack
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import Loaded
from hapredict.serving.ids import ids_of_rows
from hapredict.serving.journal import (
    NO_VERSION,
    PredictionPart,
    WindowCounts,
    join_tables,
)
from hapredict.serving.routing import Split, route
from hapredict.serving.said import decisions_of, extras_of

Fault = Callable[[str], None]
"""Is told about a version that failed where another one answered, or nobody waited."""

PINNED = "pinned"
_FEW = 16
"""Up to so many numbers one look each costs less than NumPy's overhead."""


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """Who serves, at one moment. Never changed: a replica exchanges it whole."""

    model: str
    split: Split
    versions: Mapping[int, Loaded]
    """All that may answer, by number; champion and challenger are among them."""
    compared: int | None
    """The former champion that runs along after a promotion."""
    rule: Rule
    sticky_key: str | None
    """The column that decides who gets the canary; None: each row by itself."""
    on_event_clock: bool
    bucket_s: float

    @property
    def champion(self) -> Loaded:
        return self.versions[self.split.champion]

    def loaded(self, number: int) -> Loaded:
        """The version with that number. Raises UnknownName if it is not loaded."""
        if number not in self.versions:
            known = tuple(str(known) for known in sorted(self.versions))
            raise UnknownName(f"loaded version of model {self.model!r}", str(number), known)
        return self.versions[number]

    @property
    def compares(self) -> bool:
        """Whether rows are scored by two versions."""
        return (self.split.challenger or self.compared) is not None

    def differs(self, other: "Routes") -> bool:
        """Whether a request or the journal could see a difference."""
        mine, theirs = (
            (r.split, r.compared, {v.digest for v in r.versions.values()}) for r in (self, other)
        )
        return mine != theirs


class Answer(msgspec.Struct, frozen=True, eq=False):  # a frozen dataclass costs ten times as much
    """What one request gets. `scores` is [rows, outputs] float32, all others have [rows] items.

    Without a class that only one of two versions knows, `own` is None; with it `scores` is over
    the classes of both (`schema` says which) and `own` holds what each version said itself.
    """

    model: str
    schema: Schema
    rule: Rule
    ids: tuple[str, ...]
    versions: NDArray[np.int64]
    served_by: tuple[str, ...]
    scores: NDArray[np.float32]
    model_version: int
    """The champion's number, or that of the pinned version."""
    table: Table
    routes: Routes
    at_s: float
    event_s: NDArray[np.float64] | None
    """When each row happened; None: all at `at_s`."""
    extras: NDArray[np.float32] | None = None
    """[rows, len(extra_names)]: what versions say beside their scores; NaN where one does not."""
    extra_names: tuple[str, ...] = ()
    pinned: bool = False
    own: NDArray[np.float64] | None = None


def answer(
    routes: Routes,
    table: Table,
    *,
    stem: str,
    now_s: float,
    version: int | None,
    fault: Fault,
    named: Sequence[tuple[int, int, str]] = (),
) -> Answer:
    """Score the rows of `table`, each by the version that its key leads to, or all by `version`.

    `stem` makes prediction ids unique: no other call of any process has the same. `named` rows,
    from and to, go by a caller's key instead. A challenger
    that fails is reported to `fault` and the champion answers instead. Raises UnknownName if
    `version` is not loaded, TemporaryError if the champion cannot score.
    """
    rows = rows_of(table)
    if not rows:
        raise BadRequest("there are no rows; send at least one")
    event_s = _event_s(routes, table) if routes.on_event_clock else None
    ids = ids_of_rows(event_s, now_s, stem, rows, named)
    split = routes.split
    if version is not None:
        found = scored(routes.loaded(version), table)
        versions, served_by = _same(version, rows), (PINNED,) * rows
    else:
        chosen = _chosen(routes, table, ids)
        mixed = _challenged(routes, table, chosen, fault) if chosen is not None else None
        found = mixed or scored(routes.champion, table)
        if chosen is None or mixed is None:
            versions, served_by = _same(split.champion, rows), ("champion",) * rows
        else:
            versions = np.where(chosen, split.challenger or NO_VERSION, split.champion).astype(
                np.int64
            )
            served_by = tuple("challenger" if yes else "champion" for yes in chosen.tolist())
    return Answer(
        model=routes.model,
        schema=found.schema,
        rule=routes.rule,
        ids=ids,
        versions=versions,
        served_by=served_by,
        scores=found.scores,
        extras=found.extras,
        extra_names=found.extra_names,
        model_version=split.champion if version is None else version,
        table=table,
        routes=routes,
        at_s=now_s,
        event_s=event_s,
        pinned=version is not None,
        own=found.own,
    )


def part_of(
    answers: Sequence[Answer], source: str, fault: Fault, *, compare: bool = True
) -> PredictionPart:
    """The journal's rows of some answers, which must all come from the same routes.

    A version that is only compared and fails leaves its rows unpaired and is told to `fault`;
    without `compare` none is asked.
    """
    routes = answers[0].routes
    table = join_tables([a.table for a in answers], [len(a.ids) for a in answers])
    versions = np.concatenate([a.versions for a in answers])
    event_s = np.concatenate(
        [np.full(len(a.ids), a.at_s) if a.event_s is None else a.event_s for a in answers]
    )
    scores = stack([a.scores.astype(np.float64) if a.own is None else a.own for a in answers])
    pinned = np.repeat([a.pinned for a in answers], [len(a.ids) for a in answers])
    wanted = ~pinned if compare else np.zeros(len(versions), np.bool_)
    other_versions, other_scores = _others(routes, table, versions, wanted, fault)
    champion = routes.split.champion
    by_champion = np.where((versions == champion)[:, None], _wide(scores, other_scores), np.nan)
    second = (other_versions == champion)[:, None]
    by_champion = np.where(second, _wide(other_scores, scores), by_champion)
    windows = _windows(routes, table, event_s, by_champion, ~pinned | (versions == champion))
    return PredictionPart(
        source=source,
        seq=0,
        model=routes.model,
        ids=tuple(name for a in answers for name in a.ids),
        at_s=np.repeat([a.at_s for a in answers], [len(a.ids) for a in answers]),
        event_s=event_s,
        keys=tuple(_keys(routes, table, len(versions))),
        versions=versions,
        scores=scores,
        other_versions=other_versions,
        other_scores=other_scores,
        table=table,
        windows=windows,
        decisions=decisions_of(answers),
        extras=extras_of(answers),
    )


def _event_s(routes: Routes, table: Table) -> NDArray[np.float64]:
    name = routes.champion.schema.time
    times: NDArray[np.float64] | None = table.get(name) if name is not None else None
    if times is None or np.isnan(times).any():
        what = "is missing; the model's clock runs on it (monitoring.clock is 'event')"
        raise SchemaMismatch((Problem(name or "data.time", what),))
    return times


@lru_cache(maxsize=1024)
def _same(version: int, rows: int) -> NDArray[np.int64]:
    """The version for each of some rows; not to be written to, as others have the same array."""
    versions = np.full(rows, version, np.int64)
    versions.flags.writeable = False
    return versions


def _keys(routes: Routes, table: Table, rows: int) -> list[str | None]:
    column = table.get(routes.sticky_key) if routes.sticky_key is not None else None
    if column is None:
        return [None] * rows
    if column.dtype == object:
        return list(column)
    return [None if value != value else canonical_text(value) for value in column.tolist()]  # noqa: PLR0124 - only NaN differs from itself


def _chosen(routes: Routes, table: Table, ids: tuple[str, ...]) -> NDArray[np.bool_] | None:
    """Which rows the challenger is to answer; None for none."""
    if not routes.split.divides:
        return None
    keys = _keys(routes, table, len(ids))
    chosen = route([key or id_ for key, id_ in zip(keys, ids, strict=True)], routes.split)
    return chosen if chosen.any() else None


class Scored(NamedTuple):
    """What versions say about some rows; the fields are those of Answer."""

    schema: Schema
    scores: NDArray[np.float32]
    extras: NDArray[np.float32] | None
    extra_names: tuple[str, ...]
    own: NDArray[np.float64] | None = None


def _challenged(
    routes: Routes, table: Table, chosen: NDArray[np.bool_], fault: Fault
) -> Scored | None:
    """What is said where the challenger answers `chosen`; None if it fails."""
    challenger = routes.versions[routes.split.challenger or 0]
    try:
        theirs = scored(challenger, take(table, chosen))
    except TemporaryError as error:
        fault(str(error))
        return None
    if chosen.all():
        return theirs
    ours = scored(routes.champion, take(table, ~chosen))
    parts = ((chosen, theirs), (~chosen, ours))
    extra_names = tuple(dict.fromkeys((*ours.extra_names, *theirs.extra_names)))
    extras = _joined_extras(parts, extra_names) if extra_names else None
    if ours.schema.classes == theirs.schema.classes:
        scores = np.empty((len(chosen), ours.scores.shape[1]), np.float32)
        for rows, part in parts:
            scores[rows] = part.scores
        return Scored(ours.schema, scores, extras, extra_names)
    # one of the two has seen a class that the other does not know: to that one it is impossible
    classes = tuple(sorted({*ours.schema.classes, *theirs.schema.classes}))
    scores = np.zeros((len(chosen), len(classes)), np.float32)
    width = max(ours.scores.shape[1], theirs.scores.shape[1])
    own = np.full((len(chosen), width), np.nan)
    for rows, part in parts:
        places = np.array([classes.index(name) for name in part.schema.classes])
        scores[np.flatnonzero(rows)[:, None], places] = part.scores
        own[rows, : part.scores.shape[1]] = part.scores
    return Scored(replace(ours.schema, classes=classes), scores, extras, extra_names, own)


def _joined_extras(
    parts: Sequence[tuple[NDArray[np.bool_], Scored]], names: tuple[str, ...]
) -> NDArray[np.float32]:
    """The parts' extras by name, [rows, len(names)]."""
    joined = np.full((len(parts[0][0]), len(names)), np.nan, np.float32)
    for rows, part in parts:
        if part.extras is not None:
            places = [names.index(name) for name in part.extra_names]
            joined[np.flatnonzero(rows)[:, None], places] = part.extras
    return joined


def scored(loaded: Loaded, table: Table) -> Scored:
    """Finite scores. Raises TemporaryError: another replica, or version, may do better."""
    try:
        scores, extras = loaded.answer(table)
    except Exception as error:  # whatever the network breaks, the caller shall hear one thing
        what = f"v{loaded.number} could not score: {type(error).__name__}: {error}"
        raise TemporaryError(what) from error
    if not _finite(scores):
        raise TemporaryError(f"v{loaded.number} gave a score that is not a number")
    return Scored(loaded.schema, scores, extras, loaded.engine.extras)


def _finite(scores: NDArray[np.float32]) -> bool:
    if scores.size <= _FEW:
        return all(map(isfinite, scores.ravel().tolist()))
    return bool(np.isfinite(scores).all())


def _others(
    routes: Routes,
    table: Table,
    versions: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    fault: Fault,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Per row the version that is compared with the one that answered, and its scores."""
    split = routes.split
    pairs = {split.champion: split.challenger or routes.compared}
    if split.challenger is not None:
        pairs[split.challenger] = split.champion
    numbers = np.full(len(versions), NO_VERSION, np.int64)
    scores = np.full((len(versions), 0), np.nan)
    for answered, other in pairs.items():
        rows = np.flatnonzero(wanted & (versions == answered))
        if other is None or not len(rows):
            continue
        try:
            found = routes.versions[other].scores(take(table, rows))
        except Exception as error:  # nobody waits for a comparison
            fault(f"v{other} could not score: {type(error).__name__}: {error}")
            continue
        good = np.isfinite(found).all(axis=1)
        if not good.all():
            fault(f"v{other} gave a score that is not a number")
        if found.shape[1] > scores.shape[1]:
            scores = _wide(scores, found)
        numbers[rows[good]] = other
        scores[rows[good], : found.shape[1]] = found[good]
    return numbers, scores


def _wide(block: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """The block, padded with NaN on the right to at least the width of the other one."""
    wide = np.full((len(block), max(block.shape[1], other.shape[1])), np.nan)
    wide[:, : block.shape[1]] = block
    return wide


def _windows(
    routes: Routes,
    table: Table,
    event_s: NDArray[np.float64],
    scores: NDArray[np.float64],
    counted: NDArray[np.bool_],
) -> tuple[WindowCounts, ...]:
    """Bins of the `counted` rows by the champion's plan, and bins of the champion's scores.

    A row that was pinned to another version is no traffic of the champion and is not counted.
    """
    if not counted.any():
        return ()
    champion = routes.champion
    plan, reference = champion.plan, champion.reference
    scores = scores[counted, : champion.schema.outputs]
    buckets = np.floor(event_s[counted] / routes.bucket_s).astype(np.int64)
    bins = plan.bins(table if counted.all() else take(table, counted))
    known = np.isfinite(scores).all(axis=1)
    windows = []
    for bucket in np.unique(buckets).tolist():
        rows = buckets == bucket
        places = score_bin(reference, scores[rows & known])
        windows.append(
            WindowCounts(
                bucket=bucket,
                version=champion.number,
                rows=int(rows.sum()),
                bins=count_bins(bins[rows], plan.bin_totals),
                scores=np.bincount(places, minlength=len(reference.score_counts)),
            )
        )
    return tuple(windows)
