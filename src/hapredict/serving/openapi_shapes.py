"""The shapes of requests and answers, as JSON Schema with the model's own fields and values.

Shapes of requests are as narrow as JSON Schema can say; that columns and tensors are equally long
it cannot. Ranges and levels are what the model learned from, and are told, not demanded: a value
beyond them is answered too.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hapredict.data.schema import Column, Schema
from hapredict.data.values import TEXT_MAX, TIME_MAX_S, TIME_MIN_S
from hapredict.errors import BadRequest
from hapredict.serving import explain
from hapredict.serving.descriptions import About, example
from hapredict.serving.feedback import ID_MAX
from hapredict.serving.tensor_bytes import DATATYPES
from hapredict.serving.tensors import OUTPUTS, OUTPUTS_BESIDE
from hapredict.training.extras import UNCERTAINTY, quantiles_among

LEVELS_SHOWN = 8
"""Levels of a category that are told; the document is no dump of the data."""

_NUMBER_MAX = 1.7e308
_NUMBER = {"type": ["number", "null"], "minimum": -_NUMBER_MAX, "maximum": _NUMBER_MAX}
_CATEGORY = {
    "type": ["string", "integer", "boolean", "number", "null"],
    "maxLength": TEXT_MAX,
    "minimum": -_NUMBER_MAX,
    "maximum": _NUMBER_MAX,
}
_TIME = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "number", "minimum": TIME_MIN_S, "exclusiveMaximum": TIME_MAX_S},
        {"type": "null"},
    ],
    "description": "ISO-8601, or seconds since 1970",
}
_ID = {"type": ["string", "integer", "null"], "maxLength": TEXT_MAX}
_STRING = {"type": "string"}
_BOOLEAN = {"type": "boolean"}


def shapes_of(model: str, about: About, time_required: bool, rows_max: int) -> dict[str, Any]:
    """All shapes by name; those of requests carry examples that are answered."""
    return {
        **_rows(about, time_required, rows_max),
        **_predictions(model, about),
        **_explanations(model, about),
        **_feedback(about.schema, rows_max),
        **_tensors(model, about),
        **_told(model),
        "Error": _object(
            {
                "error": {"type": "string", "description": "What is wrong, in a sentence."},
                "fields": {
                    "type": "array",
                    "items": _object({"field": _STRING, "problem": _STRING}, ["field", "problem"]),
                    "description": "The faulty fields, at most 20.",
                },
                "type": {"type": "string", "description": "The kind of error."},
                "request_id": _STRING,
            },
            ["error"],
            closed=False,
        ),
    }


def _rows(about: About, time_required: bool, rows_max: int) -> dict[str, Any]:
    schema = about.schema
    fields = {column.name: _field(column, about) for column in schema.features}
    required = list(fields)
    if schema.time is not None:
        fields[schema.time] = dict(_TIME)
        if time_required:
            required.append(schema.time)
            fields[schema.time] = {**_TIME, "anyOf": _TIME["anyOf"][:-1]}
    if schema.id is not None:
        fields[schema.id] = dict(_ID)
    lists = {
        name: {"type": "array", "items": field, "minItems": 1, "maxItems": rows_max}
        for name, field in fields.items()
    }
    row = example(about)
    columns = {name: [value] for name, value in row.items()}
    by_rows = {"type": "array", "items": _ref("Row"), "minItems": 1, "maxItems": rows_max}
    few = {**by_rows, "maxItems": min(rows_max, explain.rows_max(schema))}
    baseline = {"enum": list(explain.BASELINES), "description": "What a field is replaced by."}
    return {
        "Row": _object(fields, required, examples=[row]),
        "Columns": _object(lists, required, examples=[columns]),
        "PredictRequest": {
            "oneOf": [
                _object({"instances": by_rows}, ["instances"]),
                _object({"inputs": _ref("Columns")}, ["inputs"]),
            ],
            "examples": [{"instances": [row]}, {"inputs": columns}],
        },
        "ExplainRequest": {
            "oneOf": [
                _object({"instances": few, "baseline": baseline}, ["instances"]),
                _object({"inputs": _ref("Columns"), "baseline": baseline}, ["inputs"]),
            ],
            "examples": [
                {"instances": [row]},
                {"inputs": columns, "baseline": explain.BASELINES[-1]},
            ],
        },
    }


def _field(column: Column, about: About) -> dict[str, Any]:
    typical = about.typical[column.name]
    shown = {} if typical is None else {"examples": [typical]}
    if column.kind == "number":
        (part,) = (part for part in about.plan.numbers if part.name == column.name)
        if typical is None:
            return {**_NUMBER, "description": "The model has learned from no value."}
        told = f"The model has learned from {part.low:.6g} to {part.high:.6g}."
        return {**_NUMBER, "description": told, **shown}
    (category,) = (part for part in about.plan.categories if part.name == column.name)
    levels = category.levels
    some = ", ".join(levels[:LEVELS_SHOWN])
    more = f" and {len(levels) - LEVELS_SHOWN} more" if len(levels) > LEVELS_SHOWN else ""
    told = f"The model knows {some}{more}; others count as unseen." if levels else "No level known."
    return {**_CATEGORY, "description": told, **shown}


def _predictions(model: str, about: About) -> dict[str, Any]:
    answer = {
        "model_name": {"const": model},
        "model_version": {"type": "integer"},
        "predictions": {"type": "array", "items": _ref("Prediction")},
    }
    return {
        "Prediction": _prediction(about.schema, about.extras),
        "PredictResponse": _object(answer, list(answer), closed=False),
    }


def _explanations(model: str, about: About) -> dict[str, Any]:
    schema = about.schema
    _, decision = _score(schema)
    names = [column.name for column in schema.features]
    number = {"type": "number"}
    effects = _object(dict.fromkeys(names, number), names)
    row = {
        "score": {**number, "description": "P(decision) where there are several classes."},
        "decision": decision,
        "baseline_score": {**number, "description": "With the baseline value in every field."},
        "effects": {**effects, "description": "score less the score without that field's value"},
    }
    answer = {
        "model_name": {"const": model},
        "model_version": {"type": "integer"},
        "baseline": {"enum": list(explain.BASELINES)},
        "explanations": {"type": "array", "items": _object(row, list(row))},
    }
    return {"ExplainReply": _object(answer, list(answer), closed=False)}


def _feedback(schema: Schema, labels_max: int) -> dict[str, Any]:
    label: Any = 1.5 if schema.task == "regression" else schema.classes[-1]
    one = {"prediction_id": "20260301-r1-1-0", "label": label}
    ways = _label(schema)
    items = {"oneOf": ways}
    labels = {"type": "array", "items": items, "minItems": 1, "maxItems": labels_max}
    return {
        "Feedback": {
            "oneOf": [_object({"labels": labels}, ["labels"]), *ways],
            "examples": [one, {"labels": [{**one, "at": "2026-03-02T09:30:00Z"}]}],
        },
        "Acknowledged": _object({"acknowledged": {"type": "integer"}}, ["acknowledged"]),
    }


def _tensors(model: str, about: About) -> dict[str, Any]:
    schema = about.schema
    names = [name for name in (schema.time, schema.id) if name is not None]
    names = [column.name for column in schema.features] + names
    described = {
        "datatype": {"enum": list(DATATYPES)},
        "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    }
    flags = _object({"binary_data": _BOOLEAN}, [], closed=False)
    output = {"name": {"enum": [*OUTPUTS, *OUTPUTS_BESIDE]}, "parameters": flags}
    request = {
        "id": _STRING,
        "parameters": _object({"binary_data_output": _BOOLEAN}, [], closed=False),
        "inputs": {
            "type": "array",
            "items": _ref("InputTensor"),
            "minItems": 1,
            "maxItems": len(names),
        },
        "outputs": {"type": "array", "items": _object(output, ["name"])},
    }
    tensors = [_example_tensor(name, value) for name, value in example(about).items()]
    answer = {
        "model_name": {"const": model},
        "model_version": _STRING,
        "id": _STRING,
        "outputs": {"type": "array", "items": _ref("Tensor")},
    }
    required = ["model_name", "model_version", "outputs"]
    return {
        "Tensor": _object({"name": _STRING, **described}, ["name", "datatype", "shape"]),
        "InputTensor": _object(
            {"name": {"enum": names}, **described}, ["name", "datatype", "shape"]
        ),
        "InferRequest": _object(
            request,
            ["inputs"],
            closed=False,
            examples=[
                {"inputs": tensors},
                {"id": "7", "inputs": tensors, "outputs": [{"name": OUTPUTS[0]}]},
            ],
        ),
        "InferReply": _object(answer, required, closed=False),
    }


def _example_tensor(name: str, value: Any) -> dict[str, Any]:
    number = isinstance(value, float)
    return {"name": name, "datatype": "FP64" if number else "BYTES", "shape": [1], "data": [value]}


def _told(model: str) -> dict[str, Any]:
    """What the server and the model say about themselves."""
    integers = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
    tensor = {"name": _STRING, "datatype": {"enum": list(DATATYPES)}, "shape": integers}
    tensors = {"type": "array", "items": _object(tensor, list(tensor), closed=False)}
    version = _object(
        {
            "version": _STRING,
            "state": {"const": "AVAILABLE"},
            "status": _object({"error_code": _STRING, "error_message": _STRING}, ["error_code"]),
        },
        ["version", "state", "status"],
    )
    shapes: dict[str, dict[str, Any]] = {
        "Models": {"models": {"const": [model]}},
        "Live": {"live": {"const": True}},
        "Ready": {"ready": _BOOLEAN, "reasons": _strings()},
        "ModelReady": {"name": {"const": model}, "ready": _BOOLEAN},
        "ModelStatus": {
            "name": {"const": model},
            "ready": _BOOLEAN,
            "model_version_status": {"type": "array", "items": version},
        },
        "ModelMetadata": {
            "name": {"const": model},
            "versions": _strings(),
            "platform": _STRING,
            "inputs": tensors,
            "outputs": tensors,
        },
        "ServerMetadata": {"name": _STRING, "version": _STRING, "extensions": _strings()},
    }
    return {name: _object(fields, list(fields), closed=False) for name, fields in shapes.items()}


def _strings() -> dict[str, Any]:
    return {"type": "array", "items": _STRING}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    properties: Mapping[str, Any],
    required: list[str],
    *,
    closed: bool = True,
    examples: Sequence[Any] = (),
) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": "object",
        "properties": dict(properties),
        "required": required,
    }
    if closed:
        value["additionalProperties"] = False
    if examples:
        value["examples"] = list(examples)
    return value


def _score(schema: Schema) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shapes of a score and of a decision."""
    share = {"type": "number", "minimum": 0, "maximum": 1}
    if schema.task == "regression":
        return {"type": "number"}, {"type": "number"}
    decision = {"enum": list(schema.classes)}
    if schema.task == "multiclass":
        return _object(dict.fromkeys(schema.classes, share), list(schema.classes)), decision
    return share, decision


def _prediction(schema: Schema, extras: tuple[str, ...]) -> dict[str, Any]:
    score, decision = _score(schema)
    # absent where another version answered a row
    beside: dict[str, Any] = {}
    if UNCERTAINTY in extras:
        what = "How far the model's members are apart in the score, as a standard deviation."
        beside["uncertainty"] = {"type": "number", "minimum": 0, "description": what}
    levels = quantiles_among(extras)
    if levels:
        what = "Forecast values by quantile: the truth lies below the value so often."
        values = {level: {"type": "number"} for level in levels}
        beside["quantiles"] = {**_object(values, list(levels)), "description": what}
    return _object(
        {
            "prediction_id": {"type": "string"},
            "score": score,
            "decision": decision,
            "model_version": {"type": "integer"},
            "served_by": {"enum": ["champion", "challenger", "pinned"]},
            **beside,
        },
        ["prediction_id", "score", "decision", "model_version", "served_by"],
        closed=False,
    )


def _label(schema: Schema) -> list[dict[str, Any]]:
    """Ways to say one label: by prediction id, or by the row's own."""
    value: dict[str, Any] = {
        "type": "number",
        "minimum": -_NUMBER_MAX,
        "maximum": _NUMBER_MAX,
    }
    if schema.task != "regression":
        value = {"enum": _labels_of(schema), "examples": [schema.classes[-1]]}
    known = {"label": value, "at": dict(_TIME)}
    name = {"type": "string", "minLength": 1, "maxLength": ID_MAX}
    by_prediction = _object({"prediction_id": name, **known}, ["prediction_id", "label"])
    if schema.id is None:
        return [by_prediction]
    own = {**name, "type": ["string", "integer"], "maxLength": TEXT_MAX}
    return [by_prediction, _object({"id": own, **known}, ["id", "label"])]


def _labels_of(schema: Schema) -> list[Any]:
    """What feedback may say: the classes, and the numbers and booleans that stand for them."""
    found: list[Any] = list(schema.classes)
    for text in (*schema.classes, "true", "false", "0", "1"):
        try:
            value = json.loads(text)
            schema.label_of(value)
        except (ValueError, BadRequest):
            continue
        if not any(type(value) is type(known) and value == known for known in found):
            found.append(value)
    return found
