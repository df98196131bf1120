"""Rows that were answered live and have a label: what a model learns from after its first data."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, concat, take
from hapredict.errors import BadRequest, NotFound
from hapredict.monitoring.compact import compacted
from hapredict.monitoring.label_blocks import prediction_keys
from hapredict.monitoring.table import (
    Positions,
    features_of,
    files,
    label_rows_prefix,
    read,
    rows_prefix,
    seconds_of,
)
from hapredict.registry.store import Store
from hapredict.serving.journal import (
    decode,
    decode_labels,
    labels_prefix,
    part_path,
    predictions_prefix,
)

_ATTEMPTS = 5
"""Times that everything is read again because parts were moved meanwhile."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Answered rows and the labels that came back."""

    table: Table
    """Columns of the schema, [rows]."""
    labels: NDArray[np.float64]
    """[rows]: the class's place, or the number."""
    event_s: NDArray[np.float64]
    """[rows]: when they were asked for, on the model's clock."""

    def without(self, column: str, known: Collection[str]) -> "Labelled":
        """The rows whose id, in this column, is not known. A row without an id is never known."""
        kept = np.array(
            [name is None or name not in known for name in self.table[column].tolist()], bool
        )
        return self.where(kept)

    def where(self, kept: NDArray[np.bool_]) -> "Labelled":
        """The rows at which `kept` [rows] is true."""
        return Labelled(take(self.table, kept), self.labels[kept], self.event_s[kept])


def labelled_rows(
    store: Store,
    model: str,
    schema: Schema,
    positions: Mapping[str, Mapping[str, int]],
) -> Labelled:
    """The labelled rows of all journal parts up to `positions`, in the order of their time.

    Parts that were moved into the inference table are read from there. The first label of a
    prediction counts, as in the monitor: the one that arrived first, whichever replica took it; a
    label by a row's own id is that of the row's earliest prediction. Of rows with one id, which a
    caller sent again with his key, the first counts. Raises StoreUnavailable, CorruptBundle,
    NotFound.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _rows(store, model, schema, positions)
        except NotFound:  # it was moved on while we read
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def _rows(
    store: Store, model: str, schema: Schema, positions: Mapping[str, Mapping[str, int]]
) -> Labelled:
    moved = compacted(store, model)
    first: dict[tuple[bool, str], tuple[float, float]] = {}
    for id_, of_row, told_s, value in _labels(store, model, schema, positions, moved):
        name = (of_row, id_)
        if name not in first or told_s < first[name][0]:
            first[name] = (told_s, value)
    earliest: dict[str, tuple[float, int, int]] = {}
    by_row = {id_: label for (of_row, id_), label in first.items() if of_row}
    tables, moments = [], []
    asked: list[tuple[str, float]] = []
    for part_ids, table, event_s, at_s in _answered(store, model, schema, positions, moved):
        own = table[schema.id].tolist() if schema.id is not None else [None] * len(part_ids)
        held = np.array(
            [(False, i) in first or o in by_row for i, o in zip(part_ids, own, strict=True)], bool
        )
        asked += [(part_ids[place], float(at_s[place])) for place in np.flatnonzero(held).tolist()]
        tables.append(take(table, held))
        moments.append(event_s[held])
    if not tables:
        blank, _ = schema.frame({name: [] for name in _names(schema)})
        return Labelled(blank, np.zeros(0), np.zeros(0))
    once = _first_of_each(asked)
    whole, event_s = take(concat(tables), once), np.concatenate(moments)[once]
    ids = [asked[place][0] for place in once.tolist()]
    labels = np.array([first.get((False, i), (0.0, np.nan))[1] for i in ids])
    arrived = np.array([first.get((False, i), (np.inf, 0.0))[0] for i in ids])
    if by_row and schema.id is not None:
        keys = prediction_keys(ids).tolist()
        for place, own_id in enumerate(whole[schema.id].tolist()):
            if own_id in by_row:
                candidate = (float(event_s[place]), keys[place], place)
                earliest[own_id] = min(earliest.get(own_id, candidate), candidate)
        for own_id, found in earliest.items():
            row_at_s, value = by_row[own_id]
            if row_at_s < arrived[found[2]]:
                labels[found[2]] = value
    held = ~np.isnan(labels)
    order = np.flatnonzero(held)[np.argsort(event_s[held], kind="stable")]
    return Labelled(take(whole, order), labels[order], event_s[order])


def _first_of_each(asked: Sequence[tuple[str, float]]) -> NDArray[np.int64]:
    """The places of the ids, each where it was asked first; in their order."""
    places: dict[str, int] = {}
    for place, (name, at_s) in enumerate(asked):
        known = places.get(name)
        if known is None or at_s < asked[known][1]:
            places[name] = place
    return np.array(sorted(places.values()), np.int64)


def _labels(
    store: Store, model: str, schema: Schema, positions: Positions, moved: Positions
) -> Iterator[tuple[str, bool, float, float]]:
    """Each usable label: an id, whether it is the row's own, when it arrived, its value."""
    wanted, seen = positions.get("labels", {}), moved["labels"]
    prefix = labels_prefix(model)
    for source, last in sorted(wanted.items()):
        for seq in range(seen.get(source, 0) + 1, last + 1):
            for label in decode_labels(store.get(part_path(prefix, source, seq))):
                value = _value(schema, label.value)
                if value is not None:
                    yield label.id, label.of_row, label.at_s, value
    for path in files(store, label_rows_prefix(model)) if seen else ():
        rows = _upto(read(store.get(path)), wanted, seen)
        at_s = seconds_of(rows.column("arrived_at")).tolist()
        columns = (rows.column(name).to_pylist() for name in ("prediction_id", "id", "label"))
        for prediction, own, text, moment_s in zip(*columns, at_s, strict=True):
            value = _value(schema, _told(schema, text))
            if value is not None:
                yield prediction if own is None else own, own is not None, moment_s, value


def _answered(
    store: Store, model: str, schema: Schema, positions: Positions, moved: Positions
) -> Iterator[tuple[tuple[str, ...], Table, NDArray[np.float64], NDArray[np.float64]]]:
    """Answered rows: their prediction ids and columns, when they happened and were asked for."""
    wanted, seen = positions.get("predictions", {}), moved["predictions"]
    prefix = predictions_prefix(model)
    for source, last in sorted(wanted.items()):
        for seq in range(seen.get(source, 0) + 1, last + 1):
            part = decode(store.get(part_path(prefix, source, seq)), schema)
            yield part.ids, _timed(part.table, part.event_s, schema), part.event_s, part.at_s
    for path in files(store, rows_prefix(model)) if seen else ():
        rows = _upto(read(store.get(path)), wanted, seen)
        ids = tuple(rows.column("prediction_id").to_pylist())
        event_s, at_s = (seconds_of(rows.column(name)) for name in ("event_time", "answered_at"))
        yield ids, _timed(features_of(rows, schema), event_s, schema), event_s, at_s


def _upto(rows: Any, wanted: Mapping[str, int], seen: Mapping[str, int]) -> Any:
    """The rows of parts that are wanted and not read from the journal."""
    sources = rows.column("source").to_pylist()
    last = [min(wanted.get(source, 0), seen.get(source, 0)) for source in sources]
    return rows.filter(rows.column("seq").to_numpy() <= np.array(last, np.int64))


def _value(schema: Schema, value: Any) -> float | None:
    try:
        return schema.label_of(value)
    except BadRequest:  # counted by the monitor, of no use here
        return None


def _told(schema: Schema, text: str) -> Any:
    """A label as its caller said it, of its text in the table."""
    if schema.task != "regression":
        return text
    try:
        return float(text)
    except ValueError:
        return None


def _timed(table: Table, event_s: NDArray[np.float64], schema: Schema) -> Table:
    """The table; a row without a time of its own happened when it was asked for."""
    if schema.time is None:
        return table
    own = table[schema.time]
    return {**table, schema.time: np.where(np.isnan(own), event_s, own)}


def _names(schema: Schema) -> list[str]:
    extras = [name for name in (schema.time, schema.id) if name is not None]
    return [column.name for column in schema.features] + extras


def as_columns(rows: Labelled, schema: Schema) -> dict[str, Any]:
    """The rows as the columns of a file: with the target under its name, as its class or number."""
    if schema.task == "regression":
        target: Any = rows.labels
    else:
        target = np.array(schema.classes, dtype=object)[rows.labels.astype(np.int64)]
    return {**rows.table, schema.target: target}
