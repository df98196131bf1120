"""What each field does to a score: replace it by a baseline value and look how far the score moves.

This is occlusion, one field at a time, through the plan and network that answer live rows, so it
works for any model and costs one call of (features + 2) times the rows. What the numbers say:
"with the baseline value in this field, and all else equal, the score of this row would be lower by
so much". What they do not say: they do not add up to the whole (fields act together), fields that
tell the same story share or hide an effect, a baseline value may not fit the rest of the row, and
none of it says what would happen to the thing itself if the field were changed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, concat, rows_of
from hapredict.errors import BadRequest
from hapredict.serving.answers import Request
from hapredict.serving.bodies import check_rows, json_type, parse_object
from hapredict.serving.decisions import Rule
from hapredict.serving.protocols import V1Rows

ROWS_MAX = 16
"""Rows that one request may ask about."""
SCORES_MAX = 4096
"""Rows that one request may make the model score; with many features it may ask about fewer."""
ONGOING_MAX = 2
"""Explanations in progress: a replica is there for predictions."""

Baseline = Literal["typical", "missing"]
BASELINES: tuple[Baseline, ...] = ("typical", "missing")
"""By what a field is replaced: its typical value in what the model learned from, or none at all."""


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """What each field does to the scores of some rows, all by one version."""

    version: int
    baseline: Baseline
    fields: tuple[str, ...]
    """Features, in the order of the schema."""
    decisions: tuple[str | float, ...]
    """[rows]: what is decided, as in a prediction."""
    scores: NDArray[np.float64]
    """[rows]: P(positive class) of a binary model, P(decided class) of a multiclass one, the value
    of a regression."""
    baseline_scores: NDArray[np.float64]
    """[rows]: the same of a row that has the baseline value in every field."""
    effects: NDArray[np.float64]
    """[rows, fields]: the row's score less its score with the baseline value in that field."""


def rows_max(schema: Schema) -> int:
    """Rows that one request may ask about: at least one."""
    return max(1, min(ROWS_MAX, SCORES_MAX // (len(schema.features) + 2)))


def effects_of(
    score: Callable[[Table], NDArray[Any]],
    table: Table,
    schema: Schema,
    typical: Mapping[str, Any],
    *,
    version: int,
    baseline: Baseline,
    rule: Rule,
) -> Effects:
    """The effects of all fields on the rows of `table`, by one call of `score`.

    `score` gives [rows, outputs] for a table and is asked for [(fields + 2) * rows]. `typical` has
    a value a feature. Raises what `score` raises.
    """
    fields = tuple(column.name for column in schema.features)
    rows = rows_of(table)
    values = dict(typical) if baseline == "typical" else {}
    replaced = schema.table({name: [values.get(name)] * rows for name in fields})
    given = {name: table[name] for name in fields}
    variants = [given, *({**given, name: replaced[name]} for name in fields), replaced]
    found = np.asarray(score(concat(variants)), np.float64).reshape(len(variants), rows, -1)
    if schema.task == "regression":
        decided = np.zeros(rows, np.intp)
        decisions: tuple[str | float, ...] = tuple(found[0, :, 0].tolist())
    else:
        places = rule.places(found[0], schema.classes)
        decisions = tuple(schema.classes[place] for place in places.tolist())
        decided = places if schema.task == "multiclass" else np.zeros(rows, np.intp)
    told = found[:, np.arange(rows), decided]
    return Effects(
        version=version,
        baseline=baseline,
        fields=fields,
        decisions=decisions,
        scores=told[0],
        baseline_scores=told[-1],
        effects=(told[0] - told[1:-1]).T,
    )


def decode_explain(body: bytes | bytearray, schema: Schema) -> tuple[Request, Baseline]:
    """The rows to explain, as `:predict` takes them, and `baseline` beside them.

    Raises BadRequest: 413 for more rows than `rows_max` says.
    """
    value = parse_object(body)
    baseline = value.pop("baseline", "typical")
    for known in BASELINES:
        if baseline == known:
            request = V1Rows.read(value, len(body))
            check_rows(request.rows, rows_max(schema), "rows to explain")
            return request, known
    told = repr(baseline[:40]) if isinstance(baseline, str) else json_type(baseline)
    raise BadRequest(f"'baseline' must be one of {', '.join(BASELINES)}; got {told}")


def to_json(model: str, effects: Effects) -> dict[str, Any]:
    """The answer over HTTP."""
    rows = zip(
        effects.decisions,
        effects.scores.tolist(),
        effects.baseline_scores.tolist(),
        effects.effects.tolist(),
        strict=True,
    )
    return {
        "model_name": model,
        "model_version": effects.version,
        "baseline": effects.baseline,
        "explanations": [
            {
                "score": score,
                "decision": decision,
                "baseline_score": baseline_score,
                "effects": dict(zip(effects.fields, row, strict=True)),
            }
            for decision, score, baseline_score, row in rows
        ],
    }
