"""From scores to decisions: by a threshold, or by what each mistake costs.

With calibrated scores the cheapest decision can be computed: a wrong decision's cost times the
chance that it is wrong. For two classes that is a threshold; for several, the class with the lowest
expected cost. Costs go by the names of classes, so that a rule holds for whichever version answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.errors import GateRefused
from hapredict.sections_live import ServingSpec

THRESHOLD = 0.5
"""The threshold of binary models where nothing else is said: the likelier class."""

Costs = Mapping[str, Mapping[str, float]]
"""By the true class and then by the class decided; what is not named costs nothing."""


@dataclass(frozen=True)
class Rule:
    """How to decide. Raises nothing: classes that a model does not have change nothing."""

    threshold: float | None = None
    costs: Costs = field(default_factory=dict)

    @classmethod
    def of(cls, serving: ServingSpec) -> "Rule":
        """What a spec says."""
        return cls(serving.threshold, serving.costs)

    def positive_from(self, classes: tuple[str, ...]) -> float:
        """The score from which a binary model's row is positive; `classes` are its two."""
        if self.threshold is not None:
            return self.threshold
        found = self._thresholds.get(classes)
        if found is None:
            found = self._thresholds[classes] = _threshold(cost_matrix(self.costs, classes))
        return found

    def places(self, scores: NDArray[Any], classes: tuple[str, ...]) -> NDArray[np.intp]:
        """[rows]: which of `classes` is decided, for scores [rows, 1] or [rows, classes]."""
        if scores.shape[1] == 1:
            # in float64, so that files are decided as live rows are
            positive = scores[:, 0].astype(np.float64) >= self.positive_from(classes)
            return positive.astype(np.intp)
        if not self.costs:
            return np.asarray(scores.argmax(axis=1))
        expected = scores.astype(np.float64) @ cost_matrix(self.costs, classes)
        return np.asarray(expected.argmin(axis=1))

    @cached_property
    def _thresholds(self) -> dict[tuple[str, ...], float]:
        return {}


def cost_matrix(costs: Costs, classes: tuple[str, ...]) -> NDArray[np.float64]:
    """[classes, classes]: what it costs to decide the second where the first is true."""
    return np.array([[costs.get(true, {}).get(said, 0.0) for said in classes] for true in classes])


def check_costs(serving: ServingSpec, schema: Schema) -> None:
    """Raises GateRefused where the spec's costs make no sense for a model."""
    costs = serving.costs
    if not costs:
        return
    if schema.task == "regression":
        raise GateRefused(
            f"serving.costs is for classes, and {schema.target!r} makes a regression; leave it out"
        )
    named = {*costs, *(said for row in costs.values() for said in row)}
    unknown = sorted(named - set(schema.classes))
    if unknown:
        raise GateRefused(
            f"serving.costs names {unknown}; {schema.target!r} has the classes "
            f"{list(schema.classes)}"
        )
    matrix = cost_matrix(costs, schema.classes)
    for place, true in enumerate(schema.classes):
        cheapest = schema.classes[int(matrix[place].argmin())]
        if matrix[place].min() < matrix[place, place]:
            raise GateRefused(
                f"serving.costs: where {true!r} is true, deciding {cheapest!r} costs "
                f"{matrix[place].min():g} and deciding right {matrix[place, place]:g}; a right "
                "decision may not be the dearer one"
            )


def cost_metrics(
    serving: ServingSpec, schema: Schema, labels: NDArray[Any], scores: NDArray[Any]
) -> dict[str, float]:
    """Cost a row of decisions by `costs`, and of those that ignore them; nothing without costs.

    labels [rows], scores [rows, outputs]. `cost`: as the spec decides. `cost_without`: of the
    likelier class (a threshold of 0.5).
    """
    if not serving.costs or schema.task == "regression":
        return {}
    matrix = cost_matrix(serving.costs, schema.classes)
    true = np.asarray(labels).astype(np.intp)
    rules = {"cost": Rule.of(serving), "cost_without": Rule()}
    return {
        name: float(matrix[true, rule.places(scores, schema.classes)].mean())
        for name, rule in rules.items()
    }


def _threshold(matrix: NDArray[np.float64]) -> float:
    """Where deciding positive becomes as cheap as deciding negative."""
    (right_negative, false_positive), (false_negative, right_positive) = matrix.tolist()
    too_eager, too_shy = false_positive - right_negative, false_negative - right_positive
    total = too_eager + too_shy
    return too_eager / total if total > 0 else THRESHOLD
