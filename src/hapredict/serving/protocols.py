"""Wire protocols: bytes <-> columns on the way in, answers <-> bytes on the way out.

Each protocol is a class in `WIRE_PROTOCOLS` with both ends of the wire, so that the server, the
client, load generators and the contract suite share one description. Decoders hand over lists and
arrays; only `Schema.table` judges what is in them. Every fault of a body is a BadRequest.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from hapredict.errors import BadRequest, Problem, SchemaMismatch
from hapredict.plugins import Plugins
from hapredict.serving.answers import (
    NO_HEADERS,
    Answered,
    Columns,
    Encoded,
    Reply,
    Request,
    predictions,
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
from hapredict.serving.tensors import plain_data
from hapredict.serving.v2 import JSON_LENGTH, V2, V2Binary

_encode = msgspec.json.Encoder().encode


class WireProtocol(Protocol):
    """Both ends of one way to ask for predictions over HTTP. Decoders raise BadRequest only.

    Headers go by their names in lower case, as ASGI has them.
    """

    path: str
    """Where it is mounted; `{model}` stands for the model's name."""
    versioned_path: str
    """The same for one version, `{version}`."""
    by_rows: bool
    """Whether `{"instances": [{...}, ...]}` is such a request: then `reader.Reader` may read it."""

    @staticmethod
    def encode_request(columns: Columns) -> Encoded: ...
    @staticmethod
    def decode_request(
        body: bytes | bytearray, rows_max: int, headers: Mapping[bytes, bytes] = NO_HEADERS
    ) -> Request: ...
    @staticmethod
    def encode_response(answer: Answered, request: Request, /) -> Encoded: ...
    @staticmethod
    def decode_response(body: bytes, headers: Mapping[bytes, bytes] = NO_HEADERS) -> Reply: ...


WIRE_PROTOCOLS: Plugins[type[WireProtocol]] = Plugins("wire protocol")


class _V1:
    """The rows protocol of TensorFlow Serving and KServe v1; it reads rows and columns alike."""

    path = "/v1/models/{model}:predict"
    versioned_path = "/v1/models/{model}/versions/{version}:predict"
    by_rows = True

    @classmethod
    def decode_request(
        cls, body: bytes | bytearray, rows_max: int, headers: Mapping[bytes, bytes] = NO_HEADERS
    ) -> Request:
        if JSON_LENGTH in headers:
            message = "binary tensors are read at /v2 only; send all data as JSON here"
            raise BadRequest(message, 415)
        return cls.read(parse_object(body), rows_max)

    @staticmethod
    def read(value: Mapping[str, Any], rows_max: int) -> Request:
        """The request in a body that was parsed. Raises BadRequest."""
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
    def encode_response(answer: Answered, _request: Request, /) -> Encoded:
        rows = predictions(answer)
        value = {
            "model_name": answer.model,
            "model_version": rows[0]["model_version"],
            "predictions": rows,
        }
        return Encoded(_encode(value))

    @staticmethod
    def decode_response(body: bytes, _headers: Mapping[bytes, bytes] = NO_HEADERS) -> Reply:
        try:
            return msgspec.json.decode(body, type=Reply)
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"this is no answer to a prediction request: {error}") from None


@WIRE_PROTOCOLS.register("instances")
class V1Rows(_V1):
    """`{"instances": [{"field": value, ...}, ...]}` -> `{"predictions": [{...}, ...]}`."""

    @staticmethod
    def encode_request(columns: Columns) -> Encoded:
        rows = zip(*map(plain_data, columns.values()), strict=True)
        value = {"instances": [dict(zip(columns, row, strict=True)) for row in rows]}
        return Encoded(_encode(value))


@WIRE_PROTOCOLS.register("inputs")
class V1Columns(_V1):
    """`{"inputs": {"field": [value, ...], ...}}` -> `{"predictions": [{...}, ...]}`."""

    @staticmethod
    def encode_request(columns: Columns) -> Encoded:
        plain = {name: plain_data(values) for name, values in columns.items()}
        return Encoded(_encode({"inputs": plain}))


def _check_v1_keys(value: Mapping[str, Any]) -> None:
    if "instances" in value and "inputs" in value:
        raise BadRequest("the body holds 'instances' and 'inputs'; send rows or columns, not both")
    # TensorFlow Serving's clients name a signature; there is one here, so it says nothing.
    problems = unknown_fields(value, ("instances", "inputs", "signature_name"))
    if problems:
        raise SchemaMismatch(problems, 400)


WIRE_PROTOCOLS.register("v2")(V2)
WIRE_PROTOCOLS.register("v2_binary")(V2Binary)
