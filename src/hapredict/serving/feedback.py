"""The body of a feedback request: what became known about predictions that were answered."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hapredict.data.values import strict_id, strict_time
from hapredict.errors import BadRequest, Problem, SchemaMismatch
from hapredict.serving.bodies import (
    PROBLEMS_MAX,
    check_rows,
    json_type,
    parse_object,
    unknown_fields,
)

ID_MAX = 200
"""Characters of a prediction id."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """A label as the caller sent it; `event_s` says when it became known, if he said so.

    `id` is the prediction's, or where `of_row` the row's own (`data.id`).
    """

    id: str
    value: Any
    event_s: float | None = None
    of_row: bool = False


def decode_feedback(body: bytes | bytearray, labels_max: int) -> tuple[Feedback, ...]:
    """The labels in `{"labels": [...]}` or in one bare `{"prediction_id", "label"}`.

    In place of `prediction_id` a label may have `id`, the row's own.

    Raises BadRequest: 400 for no labels or faulty ones, 413 for more than `labels_max`.
    """
    value = parse_object(body)
    bare = "labels" not in value
    labels = [value] if bare else value["labels"]
    if not isinstance(labels, list):
        raise BadRequest(f"'labels' must be a list; got {json_type(labels)}")
    if not bare and len(value) > 1:
        raise SchemaMismatch(unknown_fields(value, ("labels",)), 400)
    check_rows(len(labels), labels_max, "labels")
    problems: list[Problem] = []
    read = [
        _label(label, "" if bare else f"labels[{i}].", problems) for i, label in enumerate(labels)
    ]
    if problems:
        raise SchemaMismatch(tuple(problems[:PROBLEMS_MAX]), 400)
    return tuple(read)


def encode_feedback(labels: Iterable[Feedback | Mapping[str, Any]], **options: Any) -> bytes:
    """The body that `decode_feedback` reads; a mapping is sent as it is.

    `options` go to msgspec's encoder.
    """
    rows = [label if isinstance(label, Mapping) else _object_of(label) for label in labels]
    return msgspec.json.encode({"labels": rows}, **options)


def _object_of(label: Feedback) -> dict[str, Any]:
    value = {"id" if label.of_row else "prediction_id": label.id, "label": label.value}
    return value if label.event_s is None else {**value, "at": label.event_s}


def _label(raw: Any, where: str, problems: list[Problem]) -> Feedback:
    if not isinstance(raw, dict):
        what = f"must be an object with 'prediction_id' or 'id', and 'label'; got {json_type(raw)}"
        problems.append(Problem(where.rstrip("."), what))
        return Feedback("", None)
    problems += [
        Problem(where + fault.where, fault.what)
        for fault in unknown_fields(raw, ("prediction_id", "id", "label", "at"))
    ]
    of_row, at = "id" in raw, raw.get("at")
    id_ = _row_id(raw, where, problems) if of_row else _prediction_id(raw, where, problems)
    if raw.get("label") is None:
        problems.append(Problem(where + "label", "is missing; send what was observed"))
    event_s = None
    if at is not None:
        try:
            event_s = strict_time(at)
        except ValueError as error:
            problems.append(Problem(where + "at", str(error)))
    return Feedback(id_, raw.get("label"), event_s, of_row)


def _prediction_id(raw: Mapping[str, Any], where: str, problems: list[Problem]) -> str:
    id_ = raw.get("prediction_id")
    if isinstance(id_, str) and 0 < len(id_) <= ID_MAX:
        return id_
    what = f"must be the prediction_id that an answer carried, a string of 1 to {ID_MAX} characters"
    if "prediction_id" not in raw:
        what += ", or send the row's own id as 'id'"
    problems.append(Problem(where + "prediction_id", what))
    return ""


def _row_id(raw: Mapping[str, Any], where: str, problems: list[Problem]) -> str:
    if "prediction_id" in raw:
        what = (
            "must not stand beside 'prediction_id'; send the one that the label is to be found by"
        )
        problems.append(Problem(where + "id", what))
        return ""
    try:
        id_ = strict_id(raw["id"])
    except ValueError as error:
        problems.append(Problem(where + "id", str(error)))
        return ""
    if not id_:
        problems.append(Problem(where + "id", "must be the row's own id, as the request had it"))
    return id_ or ""
