"""Requests and answers as protocols see them: plain values, without bytes and without a model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.serving.decisions import Rule
from hapredict.training.extras import UNCERTAINTY, quantiles_among

Columns = Mapping[str, Sequence[Any] | NDArray[Any]]
"""Values by field: lists, or arrays of numbers [rows] in which NaN is missing."""
Headers = tuple[tuple[bytes, bytes], ...]
NO_HEADERS: Mapping[bytes, bytes] = MappingProxyType({})
JSON = b"application/json"
BINARY = b"application/octet-stream"


class Request(msgspec.Struct, frozen=True):  # a frozen dataclass costs ten times as much to make
    """A prediction request, read and not yet judged.

    `columns` are equally long, `rows` is their length. `id` is echoed by protocols that have one,
    `outputs` names the tensors asked for (empty: all), `binary` those to be answered as bytes.
    `version` and `wait_s`, how long the caller waits, are those of protocols that say them in the
    request itself; so is `key`, which names its predictions.
    """

    columns: Columns
    rows: int
    id: str = ""
    outputs: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()
    version: int | None = None
    wait_s: float | None = None
    key: str = ""


class Encoded(msgspec.Struct, frozen=True):
    """A body for the wire, its media type, and the headers that it needs beside that."""

    body: bytes
    kind: bytes = JSON
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row's answer.

    `score`: P(positive class) of a binary model, a probability per class of a multiclass one, the
    value of a regression. `decision`: the class, by threshold or costs, or the value again.
    `served_by`: champion, challenger or pinned. `uncertainty` and `quantiles` (values by quantile,
    such as {"0.1": 3.5}) are those of a model that forecasts them.
    """

    prediction_id: str
    score: float | dict[str, float]
    decision: str | float
    model_version: int
    served_by: str
    uncertainty: float | None = None
    quantiles: dict[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request. `model_version` answered its first row."""

    model_name: str
    model_version: int
    predictions: tuple[Prediction, ...]


class Answered(Protocol):
    """What protocols read of an answer: `scores` is [rows, outputs], the others [rows].

    `extras` is [rows, len(extra_names)], NaN where a row's version does not say it; None without.
    """

    @property
    def model(self) -> str: ...
    @property
    def schema(self) -> Schema: ...
    @property
    def rule(self) -> Rule: ...
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def versions(self) -> NDArray[np.int64]: ...
    @property
    def served_by(self) -> Sequence[str]: ...
    @property
    def scores(self) -> NDArray[np.float32]: ...
    @property
    def extras(self) -> NDArray[np.float32] | None: ...
    @property
    def extra_names(self) -> tuple[str, ...]: ...


class Shared(msgspec.Struct, eq=False):
    """One answer to several requests, and how many of them still have to be written."""

    answer: Answered
    unwritten: int
    said: list[dict[str, Any]] | None = None
    probe: bool = False


class Part(msgspec.Struct, frozen=True, eq=False):
    """The rows of one request, `start` to `stop`, in an answer to several; it is `Answered`."""

    shared: Shared
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.stop - self.start

    @property
    def model(self) -> str:
        return self.shared.answer.model

    @property
    def schema(self) -> Schema:
        return self.shared.answer.schema

    @property
    def rule(self) -> Rule:
        return self.shared.answer.rule

    @property
    def ids(self) -> Sequence[str]:
        return self.shared.answer.ids[self.start : self.stop]

    @property
    def versions(self) -> NDArray[np.int64]:
        return self.shared.answer.versions[self.start : self.stop]

    @property
    def served_by(self) -> Sequence[str]:
        return self.shared.answer.served_by[self.start : self.stop]

    @property
    def scores(self) -> NDArray[np.float32]:
        return self.shared.answer.scores[self.start : self.stop]

    @property
    def extras(self) -> NDArray[np.float32] | None:
        extras = self.shared.answer.extras
        return None if extras is None else extras[self.start : self.stop]

    @property
    def extra_names(self) -> tuple[str, ...]:
        return self.shared.answer.extra_names


def predictions(answer: Answered) -> list[dict[str, Any]]:
    """One JSON object a row: the fields of `Prediction`, without those that are not there."""
    if not isinstance(answer, Part):
        return _predictions(answer)
    shared = answer.shared
    if shared.said is None:  # for all requests at once: most of the cost is the call's
        shared.said = _predictions(shared.answer)
    return shared.said[answer.start : answer.stop]


def _predictions(answer: Answered) -> list[dict[str, Any]]:
    scores, decisions = scores_and_decisions(answer)
    rows = zip(
        answer.ids, scores, decisions, answer.versions.tolist(), answer.served_by, strict=True
    )
    found: list[dict[str, Any]] = [
        {
            "prediction_id": id_,
            "score": score,
            "decision": decision,
            "model_version": version,
            "served_by": served_by,
        }
        for id_, score, decision, version, served_by in rows
    ]
    if answer.extras is not None:
        for row, said in zip(found, beside(answer), strict=True):
            row.update(said)
    return found


def beside(answer: Answered) -> Iterator[dict[str, Any]]:
    """Per row what its version says beside the score: `uncertainty`, `quantiles`."""
    names = answer.extra_names
    rows: list[list[float]] = [] if answer.extras is None else answer.extras.tolist()
    quantiles = quantiles_among(names)
    place = names.index(UNCERTAINTY) if UNCERTAINTY in names else None
    for row in rows:
        said: dict[str, Any] = {}
        if place is not None and isfinite(row[place]):
            said["uncertainty"] = row[place]
        known = {name: row[column] for name, column in quantiles.items() if isfinite(row[column])}
        if known:
            said["quantiles"] = known
        yield said


def scores_and_decisions(answer: Answered) -> tuple[list[Any], list[Any]]:
    """Per row what `Prediction` calls score and decision."""
    schema = answer.schema
    if schema.task == "multiclass":
        classes = schema.classes
        best = answer.rule.places(answer.scores, classes).tolist()
        scores = [dict(zip(classes, row, strict=True)) for row in answer.scores.tolist()]
        return scores, [classes[index] for index in best]
    values: list[float] = answer.scores[:, 0].tolist()
    if schema.task == "regression":
        return values, values
    negative, positive = schema.classes
    threshold = answer.rule.positive_from(schema.classes)
    return values, [positive if value >= threshold else negative for value in values]
