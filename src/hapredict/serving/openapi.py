"""The HTTP interface of one model in OpenAPI 3.1, with its real field names.

The document is built from what the model learned, so that a generated client knows every column,
and every example in it is a request that is answered. Its shapes are in `openapi_shapes.py`.
"""

from typing import Any

from hapredict.serving.descriptions import About
from hapredict.serving.openapi_shapes import shapes_of

_RETRY_AFTER = {
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
}
_HEADERS = {
    "X-Request-Id": {"description": "The caller's, or a new one.", "schema": {"type": "string"}},
    "X-Model-Version": {
        "description": "The version that answered; several, by a comma, where rows differ.",
        "schema": {"type": "string"},
    },
}
_REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "description": "Echoed; one is made if it is not sent, or is no 1 to 128 visible characters.",
    "schema": {"type": "string"},
}
_DEADLINE = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "description": "Milliseconds from now after which nobody waits for the answer.",
    "schema": {"type": "number", "minimum": 0, "maximum": 999_999_999_999},
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Becomes the `prediction_id` of a row, with `-0`, `-1`... behind it those of "
    "several. A request that is sent again under its key is one prediction.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 190, "pattern": "^[!-~]+$"},
}
_BINARY = (
    "The binary tensor data extension is served: with the header Inference-Header-Content-Length, "
    "tensors with `binary_data_size` have their bytes after the JSON object, and outputs come as "
    "bytes where `binary_data_output` or `binary_data` ask for it. Missing values are null in JSON "
    "and NaN in floats that come as bytes."
)
_EXPLAINED = (
    "Each effect is the row's score less its score with the baseline value in that one field. "
    "Effects do not add up to the score, and say nothing about causes. Nothing is recorded."
)


def document(
    model: str, about: About, *, time_required: bool, rows_max: int, root: str = ""
) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `model`, whose champion `about` tells of.

    `time_required` says whether rows must carry the time column, `rows_max` how many rows fit into
    a request, `root` is the path under which the app is mounted.
    """
    schema = about.schema
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{model}: predictions of {schema.target}",
            "version": str(about.version),
            "description": f"A {schema.task} model, kept up and kept right by hapredict.",
        },
        "servers": [{"url": root or "/"}],
        "paths": _paths(model),
        "components": {"schemas": shapes_of(model, about, time_required, rows_max)},
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
    predict = _post(
        "predict", "Predict rows", "PredictRequest", "PredictResponse", _HEADERS, more=(_KEY,)
    )
    infer = {
        **_post(
            "infer",
            "Predict rows (Open Inference Protocol)",
            "InferRequest",
            "InferReply",
            _HEADERS,
            more=(_KEY,),
        ),
        "description": _BINARY,
    }
    explain = {
        **_post("explain", "What each field does to a score", "ExplainRequest", "ExplainReply"),
        "description": _EXPLAINED,
    }
    feedback = _post(
        "feedback",
        "Say what was observed; answered once it is durable",
        "Feedback",
        "Acknowledged",
        deadline=False,
    )
    del feedback["responses"]["504"]
    status = _get("model", "The model, its schema and the versions loaded", "ModelStatus")
    metadata = _get("modelMetadata", "The model's tensors", "ModelMetadata", (503,))
    ready = _get("modelReady", "Whether the model can answer", "ModelReady", (503,))

    def of_version(verb: str, operation: dict[str, Any]) -> dict[str, Any]:
        named = {**operation, "operationId": operation["operationId"] + "WithVersion"}
        unknown = {"404": _error("No such version."), "503": _error("Not ready.")}
        named["responses"] = unknown | operation["responses"]
        return {"parameters": version, verb: named}

    return {
        f"{v1}:predict": {"post": predict},
        f"{v1}/versions/{{version}}:predict": of_version("post", predict),
        f"{v1}:feedback": {"post": feedback},
        f"{v1}:explain": {"post": explain},
        f"{v1}/versions/{{version}}:explain": of_version("post", explain),
        "/v1/models": {"get": _get("models", "The model that is here", "Models")},
        v1: {"get": status},
        f"{v1}/versions/{{version}}": of_version("get", status),
        f"{v2}/infer": {"post": infer},
        f"{v2}/versions/{{version}}/infer": of_version("post", infer),
        v2: {"get": metadata},
        f"{v2}/versions/{{version}}": of_version("get", metadata),
        f"{v2}/ready": {"get": ready},
        f"{v2}/versions/{{version}}/ready": of_version("get", ready),
        "/v2": {"get": _get("serverMetadata", "The server and its extensions", "ServerMetadata")},
        "/v2/health/live": {"get": _get("serverLive", "Whether the process lives", "Live")},
        "/v2/health/ready": {"get": _get("serverReady", "Whether it can answer", "Ready", (503,))},
        "/livez": {"get": _get("livez", "Whether the process lives", "Live")},
        "/readyz": {"get": _get("readyz", "Whether it can answer, and why not", "Ready", (503,))},
        "/healthz": {"get": _get("healthz", "The same as /readyz", "Ready", (503,))},
        "/metrics": {"get": _get("metrics", "Numbers in Prometheus' text format", "")},
    }


def _post(
    operation: str,
    summary: str,
    request: str,
    response: str,
    headers: Any = None,
    *,
    more: tuple[Any, ...] = (),
    deadline: bool = True,
) -> dict[str, Any]:
    return {
        "operationId": operation,
        "summary": summary,
        "parameters": [_REQUEST_ID, *([_DEADLINE] if deadline else []), *more],
        "requestBody": {"required": True, "content": _content(request)},
        "responses": {
            "200": {
                "description": "The answer.",
                "content": _content(response),
                **({"headers": headers} if headers else {}),
            },
            "400": _error("The body cannot be read."),
            "404": _error("No such model or version."),
            **({"409": _error("The key was sent with another request.")} if more else {}),
            "413": _error("Too many rows or bytes."),
            "415": _error("A content encoding that is not read here."),
            "422": _error("Rows that do not fit the model."),
            "503": {**_error("Not ready, or busy."), "headers": _RETRY_AFTER},
            "504": _error("The deadline cannot be met."),
        },
    }


def _get(operation: str, summary: str, shape: str, codes: tuple[int, ...] = ()) -> dict[str, Any]:
    """`codes` are answered with the same shape or with an error; without a shape it is text."""
    text = {"text/plain": {"schema": {"type": "string"}}}
    body = _content(shape) if shape else text
    refs = [{"$ref": f"#/components/schemas/{name}"} for name in (shape, "Error")]
    refusal = {"application/json": {"schema": {"anyOf": refs}}}
    refusals = {str(code): {"description": "Not ready.", "content": refusal} for code in codes}
    answers = {"200": {"description": "The answer.", "content": body}}
    return {"operationId": operation, "summary": summary, "responses": answers | refusals}


def _content(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _error(description: str) -> dict[str, Any]:
    return {"description": description, "content": _content("Error")}
