"""Questions whose right answers are known: golden rows, scored by each version that may answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from hapredict.data.schema import rows_of
from hapredict.errors import HapredictError
from hapredict.registry.bundle import Golden, load
from hapredict.registry.catalog import CatalogState
from hapredict.registry.store import Store
from hapredict.serving.engine import GOLDEN_MAX, Loaded, load_version
from hapredict.serving.scoring import scored


class _Prediction(msgspec.Struct):
    prediction_id: str
    score: float | dict[str, float]
    model_version: int


class _Reply(msgspec.Struct):
    predictions: list[_Prediction]


@dataclass(frozen=True, slots=True)
class Question:
    """One row, as a request's body, and what each version answers to it."""

    body: bytes
    scores: Mapping[int, float | dict[str, float]]

    def check(self, body: bytes) -> tuple[str, str]:
        """What is wrong with an answer ("" for nothing), and which replica gave it."""
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except msgspec.MsgspecError as error:
            return f"no answer of ours: {error}", ""
        if len(reply.predictions) != 1:
            return f"{len(reply.predictions)} predictions for one row", ""
        one = reply.predictions[0]
        right = self.scores.get(one.model_version)
        if right is None:
            return f"v{one.model_version} answered, which is no version to answer", ""
        if not _alike(one.score, right):
            return f"v{one.model_version} answered {one.score}, expected {right}", ""
        return "", source_of(one.prediction_id)


def source_of(prediction_id: str) -> str:
    """The replica in a prediction id that a replica made."""
    parts = prediction_id.split("-")
    return parts[1] if len(parts) > 1 else ""


def questions(store: Store, state: CatalogState, rows_max: int = 16) -> list[Question]:
    """The champion's golden rows, with the answers of all versions that may answer them.

    Raises NotFound, CorruptBundle, StoreUnavailable, GateRefused if the champion cannot be loaded;
    another version that cannot is none that may answer.
    """
    champion = state.champion or 0
    golden = load(store, state.model, state.versions[champion].digest).golden
    versions = {champion: load_version(store, state.model, state.versions[champion])}
    for number in (state.challenger, state.previous):
        if number is not None and number not in versions:
            try:
                versions[number] = load_version(store, state.model, state.versions[number])
            except HapredictError:
                continue
    found = [_answers(one, golden) for one in versions.values()]
    loaded = versions[champion]
    bodies = _bodies(golden, _moment(loaded, state))[:rows_max]
    return [
        Question(body, {n: rows[place] for n, rows in zip(versions, found, strict=True)})
        for place, body in enumerate(bodies)
    ]


def _moment(loaded: Loaded, state: CatalogState) -> dict[str, float]:
    """The time that a model on the event clock must be told: that of its newest training row."""
    if loaded.spec.monitoring.clock != "event" or loaded.schema.time is None:
        return {}
    return {loaded.schema.time: state.versions[loaded.number].trained_until_s}


def _bodies(golden: Golden, moment: dict[str, float]) -> list[bytes]:
    names = list(golden.rows)
    rows = zip(*(golden.rows[name] for name in names), strict=True)
    return [json.dumps({"instances": [_row(names, row) | moment]}).encode() for row in rows]


def _row(names: list[str], values: tuple[Any, ...]) -> dict[str, Any]:
    # a missing number is NaN in a bundle, which JSON does not know
    return {n: None if v != v else v for n, v in zip(names, values, strict=True)}  # noqa: PLR0124


def _answers(loaded: Loaded, golden: Golden) -> list[float | dict[str, float]]:
    table = loaded.schema.table(golden.rows)
    if not rows_of(table):
        return []
    scores = scored(loaded, table).scores
    if loaded.schema.task == "multiclass":
        return [dict(zip(loaded.schema.classes, row, strict=True)) for row in scores.tolist()]
    return [float(score) for score in scores[:, 0]]


def _alike(one: float | dict[str, float], other: float | dict[str, float]) -> bool:
    if isinstance(one, dict) or isinstance(other, dict):
        if not (isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys()):
            return False
        return all(_alike(one[name], other[name]) for name in other)
    return bool(abs(one - other) <= GOLDEN_MAX * np.maximum(1.0, abs(other)))
