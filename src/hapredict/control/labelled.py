"""Rows that were answered live and have a label: what a model learns from after its first data."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, concat, take
from hapredict.errors import BadRequest
from hapredict.registry.store import Store
from hapredict.serving.journal import (
    PredictionPart,
    decode,
    decode_labels,
    labels_prefix,
    part_path,
    predictions_prefix,
)


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

    The first label of a prediction counts, as in the monitor: the one that arrived first, whichever
    replica took it. Of rows with one id, which a caller sent again with his key, the first counts.
    Raises StoreUnavailable, CorruptBundle.
    """
    first: dict[str, tuple[float, float]] = {}
    prefix = labels_prefix(model)
    for source, last in sorted(positions.get("labels", {}).items()):
        for seq in range(1, last + 1):
            for label in decode_labels(store.get(part_path(prefix, source, seq))):
                try:
                    value = schema.label_of(label.value)
                except BadRequest:  # counted by the monitor, of no use here
                    continue
                if label.id not in first or label.at_s < first[label.id][0]:
                    first[label.id] = (label.at_s, value)
    tables, labels, moments = [], [], []
    asked: list[tuple[str, float]] = []
    prefix = predictions_prefix(model)
    for source, last in sorted(positions.get("predictions", {}).items()):
        for seq in range(1, last + 1):
            part = decode(store.get(part_path(prefix, source, seq)), schema)
            found = np.array([first[name][1] if name in first else np.nan for name in part.ids])
            held = ~np.isnan(found)
            tables.append(take(_timed(part, schema), held))
            labels.append(found[held])
            moments.append(part.event_s[held])
            places = np.flatnonzero(held).tolist()
            asked += [(part.ids[place], float(part.at_s[place])) for place in places]
    if not tables:
        blank, _ = schema.frame({name: [] for name in _names(schema)})
        return Labelled(blank, np.zeros(0), np.zeros(0))
    event_s = np.concatenate(moments)
    once = _first_of_each(asked)
    order = once[np.argsort(event_s[once], kind="stable")]
    return Labelled(take(concat(tables), order), np.concatenate(labels)[order], event_s[order])


def _first_of_each(asked: Sequence[tuple[str, float]]) -> NDArray[np.int64]:
    """The places of the ids, each where it was asked first; in their order."""
    places: dict[str, int] = {}
    for place, (name, at_s) in enumerate(asked):
        known = places.get(name)
        if known is None or at_s < asked[known][1]:
            places[name] = place
    return np.array(sorted(places.values()), np.int64)


def _timed(part: PredictionPart, schema: Schema) -> Table:
    """The part's table; a row without a time of its own happened when it was asked for."""
    if schema.time is None:
        return part.table
    own = part.table[schema.time]
    return {**part.table, schema.time: np.where(np.isnan(own), part.event_s, own)}


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
