"""Answers to the rows of a file: the same plan, network and decision as live, as columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.errors import DataError, GateRefused, NotFound, UnknownName
from hapredict.registry.catalog import CatalogState, Version
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import Loaded

UNREADABLE = "unreadable"
"""Key of the rows with a value that could not be read, beside the columns of the answers."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a batch prediction came to."""

    model: str
    version: int
    rows: int
    unreadable: int
    """Rows with a value that could not be read; it counted as missing, and they are answered."""
    seconds: float
    output: str

    def sentence(self) -> str:
        """How many rows were answered by whom, how fast, and what was wrong with them."""
        read = (
            f"; {self.unreadable:,} of them have unreadable values, taken as missing"
            if self.unreadable
            else ""
        )
        speed = self.rows / max(self.seconds, 1e-9)
        return (
            f"{self.rows:,} rows answered by v{self.version} of {self.model!r} in "
            f"{self.seconds:.1f} s ({speed:,.0f} rows/s){read}"
        )


def chosen_version(state: CatalogState, number: int | None) -> Version:
    """The version that is to answer: the champion, or the one with this number.

    Raises NotFound without a champion, UnknownName for a number that was never published,
    GateRefused for one that must not serve.
    """
    if number is None:
        number = state.champion
        if number is None:
            raise NotFound(f"model {state.model!r} has no champion yet")
    if number not in state.versions:
        known = tuple(str(known) for known in sorted(state.versions))
        raise UnknownName(f"version of model {state.model!r}", str(number), known)
    if number in state.refused:
        raise GateRefused(f"v{number} of {state.model!r} was refused: {state.refused[number]}")
    return state.versions[number]


def score_names(schema: Schema) -> tuple[str, ...]:
    """The names of the columns of scores: `score`, or `score_<class>` each if there are several."""
    multi = schema.task == "multiclass"
    return tuple(f"score_{name}" for name in schema.classes) if multi else ("score",)


def names_of(schema: Schema, extras: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of the answers' columns, in order.

    Those of scores, `decision`, `model_version`, and what the version says beside its scores
    (`extras`: `uncertainty`, `q0.1`). Raises DataError if the model's id or time has such a name
    too.
    """
    names = (*score_names(schema), "decision", "model_version", *extras)
    for name in (schema.id, schema.time):
        if name in names or name == UNREADABLE:
            raise DataError(f"the column {name!r} has the name of a column of the answers")
    return names


def answer_columns(
    loaded: Loaded, columns: Mapping[str, NDArray[Any]], rule: Rule
) -> dict[str, NDArray[Any]]:
    """The columns `names_of` names, [rows] each, and UNREADABLE, bool [rows].

    Scores and extras are float32. Decisions are texts, or the float32 value of a regression. Raises
    DataError if a feature's column is not there.
    """
    schema = loaded.schema
    table, unreadable = schema.frame(columns)
    scores, extras = loaded.answer(table)
    if schema.task == "regression":
        decisions: NDArray[Any] = scores[:, 0]
    else:
        decisions = np.array(schema.classes, object)[rule.places(scores, schema.classes)]
    versions = np.full(len(scores), loaded.number, np.int64)
    values = (*scores.T, decisions, versions, *(() if extras is None else extras.T))
    names = names_of(schema, loaded.engine.extras)
    return {**dict(zip(names, values, strict=True)), UNREADABLE: unreadable}
