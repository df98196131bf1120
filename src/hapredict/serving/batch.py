"""Answers to the rows of a file: the same plan, network and decision as live, as columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.errors import DataError, GateRefused, NotFound, UnknownName
from hapredict.registry.catalog import CatalogState, Version
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


def names_of(schema: Schema) -> tuple[str, ...]:
    """The names of the answers' columns, in order.

    `score` (`score_<class>` each where there are several), `decision` and `model_version`. Raises
    DataError if the model's id or time has such a name too.
    """
    multi = schema.task == "multiclass"
    scores = [f"score_{name}" for name in schema.classes] if multi else ["score"]
    names = (*scores, "decision", "model_version")
    for name in (schema.id, schema.time):
        if name in names or name == UNREADABLE:
            raise DataError(f"the column {name!r} has the name of a column of the answers")
    return names


def answer_columns(
    loaded: Loaded, columns: Mapping[str, NDArray[Any]], threshold: float
) -> dict[str, NDArray[Any]]:
    """The columns `names_of` names, [rows] each, and UNREADABLE, bool [rows].

    Scores are float32. Decisions are texts, or the float32 value of a regression. Raises DataError
    if a feature's column is not there.
    """
    schema = loaded.schema
    table, unreadable = schema.frame(columns)
    scores = loaded.scores(table)
    if schema.task == "regression":
        decisions: NDArray[Any] = scores[:, 0]
    elif schema.task == "multiclass":
        decisions = np.array(schema.classes, object)[scores.argmax(axis=1)]
    else:
        # compared in float64, as live answers are
        positive = scores[:, 0].astype(np.float64) >= threshold
        decisions = np.array(schema.classes, object)[positive.astype(np.intp)]
    versions = np.full(len(scores), loaded.number, np.int64)
    values = (*scores.T, decisions, versions)
    return {**dict(zip(names_of(schema), values, strict=True)), UNREADABLE: unreadable}
