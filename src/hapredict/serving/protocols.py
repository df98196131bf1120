"""Wire protocols: bytes <-> columns on the way in, answers <-> bytes on the way out.

Each protocol is a class in `WIRE_PROTOCOLS` with both ends of the wire, so that the server, the
client, load generators and the contract suite share one description. Decoders hand over plain
lists; only `Schema.table` makes arrays. Every fault of a body is a BadRequest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from hapredict.data.values import canonical_text, describe
from hapredict.errors import BadRequest, Problem, SchemaMismatch
from hapredict.plugins import Plugins
from hapredict.serving.answers import (
    Answered,
    Prediction,
    Reply,
    Request,
    beside,
    predictions,
    scores_and_decisions,
)
from hapredict.serving.bodies import (
    PROBLEMS_MAX,
    check_lengths,
    check_rows,
    columns_from,
    json_type,
    parse_object,
    unknown_fields,
)
from hapredict.training.extras import UNCERTAINTY, quantiles_among

_encode = msgspec.json.Encoder().encode


class WireProtocol(Protocol):
    """Both ends of one way to ask for predictions over HTTP. Decoders raise BadRequest only."""

    path: str
    """Where it is mounted; `{model}` stands for the model's name."""
    versioned_path: str
    """The same for one version, `{version}`."""
    by_rows: bool
    """Whether `{"instances": [{...}, ...]}` is such a request: then `reader.Reader` may read it."""

    @staticmethod
    def encode_request(columns: Mapping[str, Sequence[Any]]) -> bytes: ...
    @staticmethod
    def decode_request(body: bytes | bytearray, rows_max: int) -> Request: ...
    @staticmethod
    def encode_response(answer: Answered, request: Request, /) -> bytes: ...
    @staticmethod
    def decode_response(body: bytes) -> Reply: ...


WIRE_PROTOCOLS: Plugins[type[WireProtocol]] = Plugins("wire protocol")


class _V1:
    """The rows protocol of TensorFlow Serving and KServe v1; it reads rows and columns alike."""

    path = "/v1/models/{model}:predict"
    versioned_path = "/v1/models/{model}/versions/{version}:predict"
    by_rows = True

    @staticmethod
    def decode_request(body: bytes | bytearray, rows_max: int) -> Request:
        value = parse_object(body)
        if len(value) != 1:
            _check_v1_keys(value)
        instances = value.get("instances")
        if instances is not None:
            if not isinstance(instances, list):
                raise BadRequest(f"'instances' must be a list of rows; got {json_type(instances)}")
            check_rows(len(instances), rows_max)
            return Request(columns_from(instances), len(instances))
        if "inputs" not in value:
            raise BadRequest("the body must hold 'instances' (rows) or 'inputs' (columns)")
        columns = value["inputs"]
        if not isinstance(columns, dict) or not columns:
            what = "an empty object" if columns == {} else json_type(columns)
            message = f"'inputs' must be an object of field names and lists of values; got {what}"
            raise BadRequest(message)
        bare = [name for name, values in columns.items() if not isinstance(values, list)]
        if bare:
            what = "must be a list with one value a row"
            problems = tuple(Problem(name[:100], what) for name in bare[:PROBLEMS_MAX])
            raise SchemaMismatch(problems, 400)
        rows = check_lengths(columns)
        check_rows(rows, rows_max)
        return Request(columns, rows)

    @staticmethod
    def encode_response(answer: Answered, _request: Request, /) -> bytes:
        rows = predictions(answer)
        return _encode(
            {
                "model_name": answer.model,
                "model_version": rows[0]["model_version"],
                "predictions": rows,
            }
        )

    @staticmethod
    def decode_response(body: bytes) -> Reply:
        try:
            return msgspec.json.decode(body, type=Reply)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"this is no answer to a prediction request: {error}") from None


@WIRE_PROTOCOLS.register("instances")
class V1Rows(_V1):
    """`{"instances": [{"field": value, ...}, ...]}` -> `{"predictions": [{...}, ...]}`."""

    @staticmethod
    def encode_request(columns: Mapping[str, Sequence[Any]]) -> bytes:
        rows = zip(*columns.values(), strict=True)
        return _encode({"instances": [dict(zip(columns, row, strict=True)) for row in rows]})


@WIRE_PROTOCOLS.register("inputs")
class V1Columns(_V1):
    """`{"inputs": {"field": [value, ...], ...}}` -> `{"predictions": [{...}, ...]}`."""

    @staticmethod
    def encode_request(columns: Mapping[str, Sequence[Any]]) -> bytes:
        return _encode({"inputs": columns})


def _check_v1_keys(value: Mapping[str, Any]) -> None:
    if "instances" in value and "inputs" in value:
        raise BadRequest("the body holds 'instances' and 'inputs'; send rows or columns, not both")
    # TensorFlow Serving's clients name a signature; there is one here, so it says nothing.
    problems = unknown_fields(value, ("instances", "inputs", "signature_name"))
    if problems:
        raise SchemaMismatch(problems, 400)


_ALLOWED: dict[str, frozenset[type]] = {
    "BOOL": frozenset((bool, type(None))),
    "BYTES": frozenset((str, type(None))),
    **dict.fromkeys(
        ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"),
        frozenset((int, type(None))),
    ),
    **dict.fromkeys(("FP16", "FP32", "FP64"), frozenset((int, float, type(None)))),
}
OUTPUTS = ("score", "decision", "prediction_id", "model_version", "served_by")
"""Tensors of an Open Inference Protocol answer, in their order."""
OUTPUTS_BESIDE = ("uncertainty", "quantiles")
"""Tensors that follow if the model has them."""


@WIRE_PROTOCOLS.register("v2")
class V2:
    """The Open Inference Protocol's `infer` in JSON: one tensor a column, [rows] or [rows, 1].

    null stands for a missing value. Answers are the tensors `OUTPUTS`: score [rows, outputs], the
    others [rows]; a multiclass score names its classes in its parameters. Models that have them add
    those of `OUTPUTS_BESIDE`: uncertainty [rows] and quantiles [rows, q], named in its parameters.
    """

    path = "/v2/models/{model}/infer"
    versioned_path = "/v2/models/{model}/versions/{version}/infer"
    by_rows = False

    @staticmethod
    def encode_request(columns: Mapping[str, Sequence[Any]]) -> bytes:
        return _encode({"inputs": [_column_tensor(name, v) for name, v in columns.items()]})

    @staticmethod
    def decode_request(body: bytes | bytearray, rows_max: int) -> Request:
        value = parse_object(body)
        tensors = value.get("inputs")
        if not isinstance(tensors, list) or not tensors:
            raise BadRequest("'inputs' must be a list of tensors, one a column")
        columns: dict[str, Sequence[Any]] = {}
        problems: list[Problem] = []
        for index, raw in enumerate(tensors):
            _read_tensor(raw, f"inputs[{index}]", columns, problems)
        if problems:
            raise SchemaMismatch(tuple(problems[:PROBLEMS_MAX]), 400)
        rows = check_lengths(columns)
        check_rows(rows, rows_max)
        id_ = value.get("id", "")
        if not isinstance(id_, str):
            raise BadRequest(f"'id' must be a string; got {json_type(id_)}")
        return Request(columns, rows, id_, _outputs_asked(value.get("outputs")))

    @staticmethod
    def encode_response(answer: Answered, request: Request, /) -> bytes:
        schema = answer.schema
        scores, decisions = scores_and_decisions(answer)
        versions = answer.versions.tolist()
        score = _tensor("score", "FP32", answer.scores.ravel().tolist())
        score["shape"] = [len(scores), schema.outputs]
        if schema.task == "multiclass":
            score["parameters"] = {"classes": schema.classes}
        kind = "FP32" if schema.task == "regression" else "BYTES"
        tensors = [
            score,
            _tensor("decision", kind, decisions),
            _tensor("prediction_id", "BYTES", answer.ids),
            _tensor("model_version", "INT64", versions),
            _tensor("served_by", "BYTES", answer.served_by),
        ]
        if answer.extras is not None:
            tensors += _tensors_beside(answer)
        asked = request.outputs or (*OUTPUTS, *OUTPUTS_BESIDE)
        reply = {
            "model_name": answer.model,
            "model_version": str(versions[0]),
            "outputs": [tensor for tensor in tensors if tensor["name"] in asked],
        }
        return _encode({**reply, "id": request.id} if request.id else reply)

    @staticmethod
    def decode_response(body: bytes) -> Reply:
        value = parse_object(body)
        try:
            tensors = {tensor["name"]: tensor for tensor in value["outputs"]}
            data = [tensors[name]["data"] for name in OUTPUTS]
            classes = tensors["score"].get("parameters", {}).get("classes")
            if classes is not None:
                data[0] = _named(classes, data[0])
            count = len(data[0])
            uncertainty: list[Any] = [None] * count
            quantiles: list[Any] = [None] * count
            if "uncertainty" in tensors:
                uncertainty = tensors["uncertainty"]["data"]
            if "quantiles" in tensors:
                told = tensors["quantiles"]
                quantiles = _named(told["parameters"]["quantiles"], told["data"])
            rows = [
                Prediction(id_, score, decision, version, served_by, *others)
                for score, decision, id_, version, served_by, *others in zip(
                    *data, uncertainty, quantiles, strict=True
                )
            ]
            reply = Reply(value["model_name"], int(value["model_version"]), tuple(rows))
            return msgspec.convert(msgspec.to_builtins(reply), Reply)  # checks every type
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(f"this is no answer to an infer request: {error}") from None


def _column_tensor(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """A column as a tensor: of its values' own kind, or as texts if they are mixed or missing."""
    types = {type(value) for value in values if value is not None}
    if types == {bool}:
        return _tensor(name, "BOOL", values)
    if types == {int}:
        return _tensor(name, "INT64", values)
    if types and types <= {int, float}:
        return _tensor(name, "FP64", values)
    texts = [None if value is None else canonical_text(value) for value in values]
    return _tensor(name, "BYTES", texts)


def _tensor(name: str, datatype: str, data: Sequence[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": data}


def _tensors_beside(answer: Answered) -> list[dict[str, Any]]:
    """Uncertainty and quantiles; null where a row's version does not say it."""
    said, tensors = list(beside(answer)), []
    if UNCERTAINTY in answer.extra_names:
        values = [row.get("uncertainty") for row in said]
        tensors.append(_tensor("uncertainty", "FP32", values))
    levels = list(quantiles_among(answer.extra_names))
    if levels:
        flat = [row.get("quantiles", {}).get(level) for row in said for level in levels]
        tensor = _tensor("quantiles", "FP32", flat)
        tensors.append(
            {**tensor, "shape": [len(said), len(levels)], "parameters": {"quantiles": levels}}
        )
    return tensors


def _named(names: Sequence[str], flat: Sequence[Any]) -> list[dict[str, Any] | None]:
    """A tensor's rows as mappings without what is null; None for a row of nulls."""
    width = len(names)
    rows = (flat[start : start + width] for start in range(0, len(flat), width))
    named = [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in rows
    ]
    return [row or None for row in named]


def _read_tensor(
    raw: Any, where: str, columns: dict[str, Sequence[Any]], problems: list[Problem]
) -> None:
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        problems.append(Problem(where, "must be a tensor: name, datatype, shape and data"))
        return
    name: str = raw["name"]
    datatype, shape, data = (raw.get(key) for key in ("datatype", "shape", "data"))
    place = name[:100]
    if name in columns:
        problems.append(Problem(place, "there are two tensors of this name"))
        return
    parameters = raw.get("parameters")
    if isinstance(parameters, dict) and "binary_data_size" in parameters:
        what = "binary tensor data is not read here; send JSON data"
        problems.append(Problem(place, what))
        return
    allowed = _ALLOWED.get(datatype) if isinstance(datatype, str) else None
    if allowed is None:
        what = f"its datatype must be one of {', '.join(_ALLOWED)}"
        problems.append(Problem(place, what))
        return
    if not isinstance(shape, list) or not isinstance(data, list):
        problems.append(Problem(place, "its shape and its data must be lists"))
        return
    if data and all(isinstance(item, list) and len(item) == 1 for item in data):
        data = [item[0] for item in data]
    if shape not in ([len(data)], [len(data), 1]):
        what = f"its shape must be [{len(data)}] or [{len(data)}, 1], as it has {len(data)} values"
        problems.append(Problem(place, what))
        return
    if not set(map(type, data)) <= allowed:
        wrong = next(item for item in data if type(item) not in allowed)
        problems.append(Problem(place, f"is {datatype}, which cannot be {describe(wrong)}"))
        return
    columns[name] = data


def _outputs_asked(raw: Any) -> tuple[str, ...]:
    if raw is None:
        return ()
    known = (*OUTPUTS, *OUTPUTS_BESIDE)
    names = [
        item["name"]
        for item in (raw if isinstance(raw, list) else ())
        if isinstance(item, dict) and item.get("name") in known
    ]
    if not isinstance(raw, list) or len(names) != len(raw):
        message = f"'outputs' must be a list of objects, each with a name among {', '.join(known)}"
        raise BadRequest(message)
    return tuple(names)
