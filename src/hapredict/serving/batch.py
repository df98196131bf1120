"""Answers to the rows of a file: the same plan, network and decision as live, as columns."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, rows_of
from hapredict.errors import DataError, GateRefused, NotFound, UnknownName
from hapredict.registry.catalog import CatalogState, Version
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import Loaded

CALL_ROWS = 2048
"""Rows a call of the network. What it computes of more does not fit into a processor's cache."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a batch prediction came to."""

    model: str
    version: int
    rows: int
    """In the output, those of earlier runs too."""
    unreadable: int
    """Rows with a value that could not be read; it counted as missing, and they are answered."""
    scored: int
    """Rows that this run answered."""
    seconds: float
    """Of this run."""
    output: str
    summary: Mapping[str, Any]
    """What the output says of itself (see `batch_plan.Plan.summary`)."""

    def sentence(self) -> str:
        """How many rows were answered by whom, how fast, and what was wrong with them."""
        read = (
            f"; {self.unreadable:,} of them have unreadable values, taken as missing"
            if self.unreadable
            else ""
        )
        told = f"{self.rows:,} rows answered by v{self.version} of {self.model!r}"
        if not self.scored:
            return f"{told}; all of them were there already{read}"
        some = "" if self.scored == self.rows else f", {self.scored:,} of them now,"
        speed = self.scored / max(self.seconds, 1e-9)
        return f"{told}{some} in {self.seconds:.1f} s ({speed:,.0f} rows/s){read}"


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


def names_of(
    schema: Schema, extras: tuple[str, ...] = (), kept: Sequence[str] = ()
) -> tuple[str, ...]:
    """The names of the answers' columns, in order.

    Those of scores, `decision`, `model_version`, and what the version says beside its scores
    (`extras`: `uncertainty`, `q0.1`). Raises DataError if a column that is `kept` beside them has
    such a name too.
    """
    names = (*score_names(schema), "decision", "model_version", *extras)
    for name in kept:
        if name in names:
            raise DataError(f"the column {name!r} has the name of a column of the answers")
    return names


def answer_table(loaded: Loaded, table: Table, rule: Rule) -> dict[str, NDArray[Any]]:
    """The columns `names_of` names, [rows] each, for a table with all features.

    Scores and extras are float32. Decisions are texts, or the float32 value of a regression.
    """
    answers = [loaded.answer(piece) for piece in slices(table)]
    scores = np.concatenate([scores for scores, _ in answers])
    extras = [extras for _, extras in answers if extras is not None]
    return decide(loaded, scores, np.concatenate(extras) if extras else None, rule)


def decide(
    loaded: Loaded, scores: NDArray[np.float32], extras: NDArray[np.float32] | None, rule: Rule
) -> dict[str, NDArray[Any]]:
    """The columns `names_of` names for scores [rows, outputs] and extras [rows, m]."""
    schema = loaded.schema
    if schema.task == "regression":
        decisions: NDArray[Any] = scores[:, 0]
    else:
        decisions = np.array(schema.classes, object)[rule.places(scores, schema.classes)]
    versions = np.full(len(scores), loaded.number, np.int64)
    values = (*scores.T, decisions, versions, *(() if extras is None else extras.T))
    return dict(zip(names_of(schema, loaded.engine.extras), values, strict=True))


def slices(table: Table) -> Iterator[Table]:
    """The table's rows in their order, CALL_ROWS at a time."""
    rows = rows_of(table)
    for start in range(0, max(rows, 1), CALL_ROWS):
        yield {name: column[start : start + CALL_ROWS] for name, column in table.items()}
