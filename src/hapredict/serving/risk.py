"""Warnings about single predictions: rows of a journal part for which a rule's condition holds.

Looked for when a part is shipped, so a request never waits for it and a part that a dead replica
left behind is looked through like any other. What is found is written beside the journal before
the part is, under the part's name:

    alerts/<model>/risk/<source>/00000001.json
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.errors import Problem, SpecError
from hapredict.expressions import (
    Compare,
    Condition,
    Constant,
    Every,
    Missing,
    Name,
    Not,
    Some,
    Type,
    Value,
    Within,
    check,
    names_of,
    parse,
    spelled,
)
from hapredict.sections_alerts import AlertsSpec
from hapredict.serving.journal import PredictionPart
from hapredict.training.extras import UNCERTAINTY

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def risk_prefix(model: str) -> str:
    """Where warnings about predictions wait for whoever sends them."""
    return f"alerts/{model}/risk"


def risk_path(model: str, source: str, seq: int) -> str:
    """Where the warnings about one part of the journal are."""
    return f"{risk_prefix(model)}/{source}/{seq:08d}.json"


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that was read."""

    name: str
    condition: Condition
    limit: int
    """Rows of one part that are told; more are counted."""

    @property
    def fields(self) -> tuple[Name, ...]:
        """What the condition names."""
        return tuple(dict.fromkeys(names_of(self.condition)))


def rules_of(alerts: AlertsSpec) -> tuple[Rule, ...]:
    """The rules of a spec, read."""
    return tuple(Rule(one.name, parse(one.when), one.limit_per_hour) for one in alerts.rules)


def types_of(schema: Schema) -> dict[str, Type]:
    """What conditions may name of a model's rows."""
    found: dict[str, Type] = {
        column.name: "number" if column.kind == "number" else "text" for column in schema.features
    }
    if schema.id is not None:
        found[schema.id] = "text"
    return found


def problems_of(rule: Rule, schema: Schema) -> list[str]:
    """What is wrong with a rule for a model; nothing if it can be used."""
    decision: Type = "number" if schema.task == "regression" else "text"
    return check(rule.condition, types_of(schema), decision, schema.classes)


def check_rules(alerts: AlertsSpec, schema: Schema) -> None:
    """Raises SpecError that lists each rule which names what the model does not have."""
    problems = [
        Problem(f"alerts.rules[{place}].when", what)
        for place, rule in enumerate(rules_of(alerts))
        for what in problems_of(rule, schema)
    ]
    if problems:
        raise SpecError(tuple(problems))


class Frame:
    """Rows of a part as conditions see them."""

    def __init__(self, part: PredictionPart) -> None:
        self.rows = part.rows
        self._part = part
        self._answer: dict[str, NDArray[Any]] = {}

    def values(self, name: Name) -> NDArray[Any]:
        """[rows]: float64 with NaN, or objects with None; a column that is not there is missing."""
        if not name.answer:
            table = self._part.table
            column = table.get(spelled(name.name, table))
            return np.full(self.rows, np.nan) if column is None else column
        if name.name not in self._answer:
            self._answer[name.name] = self._said(name.name)
        return self._answer[name.name]

    def _said(self, name: str) -> NDArray[Any]:
        part = self._part
        if name == "version":
            return part.versions.astype(np.float64)
        if name == "uncertainty":
            return part.extras.get(UNCERTAINTY, np.full(self.rows, np.nan))
        if name == "decision" and part.decisions:
            return np.array(part.decisions, dtype=object)
        held = np.isfinite(part.scores)
        best = np.where(held, part.scores, -np.inf).max(axis=1, initial=-np.inf)
        return np.where(held.any(axis=1), best, np.nan)


def holds(condition: Condition, frame: Frame) -> NDArray[np.bool_]:
    """[rows]: where a condition is true."""
    match condition:
        case Every(parts):
            return _mask(np.logical_and.reduce([holds(part, frame) for part in parts]))
        case Some(parts):
            return _mask(np.logical_or.reduce([holds(part, frame) for part in parts]))
        case Not(part):
            return _mask(~holds(part, frame))
        case Missing(value, negated):
            return _mask(_there(frame.values(value)) == negated)
        case Within(value, members, negated):
            values = frame.values(value)
            among = np.zeros(frame.rows, np.bool_)
            for member in members:
                among |= _equal(values, member.value)
            return _mask((among != negated) & _there(values))
        case Compare(left, sign, right):
            return _compared(_values(left, frame), sign, _values(right, frame))


def _mask(values: Any) -> NDArray[np.bool_]:
    return np.asarray(values, np.bool_)


def _values(value: Value, frame: Frame) -> NDArray[Any]:
    if isinstance(value, Constant):
        kind = object if isinstance(value.value, str) else np.float64
        return np.full(frame.rows, value.value, kind)
    return frame.values(value)


def _there(values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.dtype == object:
        return np.array([value is not None for value in values.tolist()], np.bool_)
    return ~np.isnan(values.astype(np.float64))


def _equal(values: NDArray[Any], constant: float | str) -> NDArray[np.bool_]:
    if (values.dtype == object) != isinstance(constant, str):
        return np.zeros(len(values), np.bool_)
    return _mask(values == constant)


def _compared(left: NDArray[Any], sign: str, right: NDArray[Any]) -> NDArray[np.bool_]:
    found = np.zeros(len(left), np.bool_)
    if left.dtype != right.dtype:  # a column that is not there is missing
        return found
    there = _there(left) & _there(right)
    found[there] = _COMPARISONS[sign](left[there], right[there])
    return found


def warnings_of(part: PredictionPart, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """What a part has to warn of, as JSON values: one for each rule that any row meets.

    `matched` rows met it; the first `limit` of them are told by prediction id, time and the fields
    that the rule names.
    """
    frame, found = Frame(part), []
    for rule in rules:
        rows = np.flatnonzero(holds(rule.condition, frame))
        if not len(rows):
            continue
        told = rows[: rule.limit].tolist()
        columns = {field.name: frame.values(field)[told].tolist() for field in rule.fields}
        found.append(
            {
                "rule": rule.name,
                "matched": len(rows),
                "rows": [
                    {
                        "prediction_id": part.ids[row],
                        "at_s": float(part.at_s[row]),
                        "fields": {n: _json(values[place]) for n, values in columns.items()},
                    }
                    for place, row in enumerate(told)
                ],
            }
        )
    return found


def _json(value: Any) -> Any:
    return None if value != value else value  # noqa: PLR0124 - only NaN differs from itself
