"""The HTTP interface of one model in OpenAPI 3.1, with its real field names.

The document is built from the model's schema, so that a generated client knows every column.
"""

from collections.abc import Mapping
from typing import Any

from hapredict.data.schema import Column, Schema
from hapredict.serving.tensors import OUTPUTS, OUTPUTS_BESIDE
from hapredict.training.extras import UNCERTAINTY, quantiles_among

_NUMBER = {"type": ["number", "null"]}
_CATEGORY = {"type": ["string", "integer", "boolean", "number", "null"], "maxLength": 1000}
_TIME = {"type": ["string", "number", "null"], "description": "ISO-8601 or seconds since the epoch"}
_ID = {"type": ["string", "integer", "null"]}
_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}


def document(
    model: str,
    schema: Schema,
    *,
    version: int,
    time_required: bool,
    rows_max: int,
    root: str = "",
    extras: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `model`, whose champion is `version`.

    `time_required` says whether rows must carry the time column, `rows_max` how many rows fit into
    a request, `root` is the path under which the app is mounted. `extras` is what the champion says
    beside its scores.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model}: predictions of {schema.target}",
            "version": str(version),
            "description": f"A {schema.task} model, kept up and kept right by hapredict.",
        },
        "servers": [{"url": root or "/"}],
        "paths": _paths(model),
        "components": {"schemas": _schemas(model, schema, time_required, rows_max, extras)},
    }


def _paths(model: str) -> dict[str, Any]:
    v1, v2 = f"/v1/models/{model}", f"/v2/models/{model}"
    version = [
        {
            "name": "version",
            "in": "path",
            "required": True,
            "description": "A version that is loaded; it answers all rows.",
            "schema": {"type": "integer", "minimum": 1},
        }
    ]
    predict = _post("predict", "Predict rows", "PredictRequest", "PredictResponse")
    infer = _post("infer", "Predict rows (Open Inference Protocol)", "InferRequest", "InferReply")
    feedback = _post(
        "feedback", "Say what was observed; answered once it is durable", "Feedback", "Acknowledged"
    )
    return {
        f"{v1}:predict": {"post": predict},
        f"{v1}/versions/{{version}}:predict": {
            "parameters": version,
            "post": {**predict, "operationId": "predictWithVersion"},
        },
        f"{v1}:feedback": {"post": feedback},
        v1: {"get": _get("model", "The model, its schema and the versions loaded")},
        f"{v2}/infer": {"post": infer},
        f"{v2}/versions/{{version}}/infer": {
            "parameters": version,
            "post": {**infer, "operationId": "inferWithVersion"},
        },
        v2: {"get": _get("modelMetadata", "The model's tensors")},
        f"{v2}/ready": {"get": _get("modelReady", "Whether the model can answer", (503,))},
        "/v2": {"get": _get("serverMetadata", "The server's name and version")},
        "/v2/health/live": {"get": _get("serverLive", "Whether the process lives")},
        "/v2/health/ready": {"get": _get("serverReady", "Whether it can answer", (503,))},
        "/livez": {"get": _get("livez", "Whether the process lives")},
        "/readyz": {"get": _get("readyz", "Whether it can answer, and why not", (503,))},
        "/healthz": {"get": _get("healthz", "The same as /readyz", (503,))},
        "/metrics": {
            "get": _get("metrics", "Numbers in Prometheus' text format", (), "text/plain")
        },
    }


def _post(operation: str, summary: str, request: str, response: str) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": [
            {
                "name": "X-Request-Id",
                "in": "header",
                "description": "Echoed; made if it is not sent.",
                "schema": {"type": "string", "maxLength": 128},
            },
            {
                "name": "X-Deadline-Ms",
                "in": "header",
                "description": "Milliseconds from now after which nobody waits for the answer.",
                "schema": {"type": "number", "minimum": 0},
            },
        ],
        "requestBody": {"required": True, "content": _content(request)},
        "responses": {
            "200": {"description": "The answer.", "content": _content(response)},
            "400": _error("The body cannot be read."),
            "404": _error("No such model or version."),
            "413": _error("Too many rows or bytes."),
            "415": _error("A content encoding that is not read here."),
            "422": _error("Rows that do not fit the model."),
            "503": {**_error("Not ready, or busy."), "headers": _RETRY_AFTER},
            "504": _error("The deadline cannot be met."),
        },
    }


def _get(
    operation: str, summary: str, codes: tuple[int, ...] = (), kind: str = "application/json"
) -> dict[str, Any]:
    body = {kind: {"schema": {"type": "string" if kind == "text/plain" else "object"}}}
    answers = {"200": {"description": "The answer.", "content": body}}
    refusals = {str(code): {"description": "Not ready.", "content": body} for code in codes}
    return {"operationId": operation, "summary": summary, "responses": answers | refusals}


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": _content("Error")}


def _schemas(
    model: str, schema: Schema, time_required: bool, rows_max: int, extras: tuple[str, ...]
) -> dict[str, Any]:
    fields = {column.name: _field(column) for column in schema.features}
    required = list(fields)
    if schema.time is not None:
        fields[schema.time] = dict(_TIME)
        required += [schema.time] if time_required else []
    if schema.id is not None:
        fields[schema.id] = dict(_ID)
    example = schema.example()
    lists = {
        name: {"type": "array", "items": field, "minItems": 1, "maxItems": rows_max}
        for name, field in fields.items()
    }
    row = _object(fields, required, example=example)
    columns = _object(lists, required)
    ref = {"$ref": "#/components/schemas/Row"}
    rows = {"type": "array", "items": ref, "minItems": 1, "maxItems": rows_max}
    tensor = _object(
        {
            "name": {"type": "string"},
            "datatype": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}, "maxItems": 2},
            "data": {"type": "array"},
        },
        ["name", "datatype", "shape", "data"],
        closed=False,
    )
    return {
        "Row": row,
        "Columns": columns,
        "PredictRequest": {
            "oneOf": [
                _object({"instances": rows}, ["instances"]),
                _object({"inputs": {"$ref": "#/components/schemas/Columns"}}, ["inputs"]),
            ],
            "examples": [{"instances": [example]}],
        },
        "Prediction": _prediction(schema, extras),
        "PredictResponse": _object(
            {
                "model_name": {"const": model},
                "model_version": {"type": "integer"},
                "predictions": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/Prediction"},
                },
            },
            ["model_name", "model_version", "predictions"],
            closed=False,
        ),
        "Feedback": {"oneOf": [_labels(schema, rows_max), _label(schema)]},
        "Acknowledged": _object({"acknowledged": {"type": "integer"}}, ["acknowledged"]),
        "Tensor": tensor,
        "InferRequest": _object(
            {
                "id": {"type": "string"},
                "inputs": {
                    "type": "array",
                    "items": {"$ref": "#/components/schemas/Tensor"},
                    "minItems": 1,
                },
                "outputs": {
                    "type": "array",
                    "items": _object(
                        {"name": {"enum": [*OUTPUTS, *OUTPUTS_BESIDE]}}, ["name"], closed=False
                    ),
                },
            },
            ["inputs"],
            closed=False,
        ),
        "InferReply": _object(
            {
                "model_name": {"const": model},
                "model_version": {"type": "string"},
                "id": {"type": "string"},
                "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
            },
            ["model_name", "model_version", "outputs"],
            closed=False,
        ),
        "Error": _object(
            {
                "error": {"type": "string"},
                "fields": {
                    "type": "array",
                    "items": _object(
                        {"field": {"type": "string"}, "problem": {"type": "string"}},
                        ["field", "problem"],
                    ),
                },
                "type": {"type": "string", "description": "The kind of error."},
                "request_id": {"type": "string"},
            },
            ["error"],
            closed=False,
        ),
    }


def _field(column: Column) -> dict[str, Any]:
    return dict(_NUMBER if column.kind == "number" else _CATEGORY)


def _object(
    properties: Mapping[str, Any],
    required: list[str],
    *,
    closed: bool = True,
    example: Any = None,
) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": "object",
        "properties": dict(properties),
        "required": required,
    }
    if closed:
        value["additionalProperties"] = False
    if example is not None:
        value["examples"] = [example]
    return value


def _prediction(schema: Schema, extras: tuple[str, ...]) -> dict[str, Any]:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    decision: dict[str, Any] = {"enum": list(schema.classes)}
    score: dict[str, Any] = share
    if schema.task == "multiclass":
        score = _object(dict.fromkeys(schema.classes, share), list(schema.classes))
    elif schema.task == "regression":
        score = decision = {"type": "number"}
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


def _label(schema: Schema) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "number"}
    if schema.task != "regression":
        value = {"type": ["string", "integer", "boolean", "number"]}
        value["description"] = f"One of {', '.join(schema.classes)}."
        value["examples"] = [schema.classes[-1]]
    fields = {
        "prediction_id": {"type": "string", "minLength": 1, "maxLength": 200},
        "label": value,
        "at": dict(_TIME),
    }
    return _object(fields, ["prediction_id", "label"])


def _labels(schema: Schema, labels_max: int) -> dict[str, Any]:
    items = {"type": "array", "items": _label(schema), "minItems": 1, "maxItems": labels_max}
    return _object({"labels": items}, ["labels"])
