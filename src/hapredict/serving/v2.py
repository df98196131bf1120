"""The Open Inference Protocol's `infer` over HTTP: JSON, and bytes behind it.

With the binary tensor data extension the body is a JSON object of as many bytes as the header
Inference-Header-Content-Length says, and after it, in the order of the tensors, the bytes of those
that have `binary_data_size` instead of `data`. Here is only the framing; what tensors mean is in
`tensors.py`, how an element is written in `tensor_bytes.py`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from hapredict.errors import BadRequest, Problem
from hapredict.serving.answers import (
    BINARY,
    NO_HEADERS,
    Answered,
    Columns,
    Encoded,
    Reply,
    Request,
)
from hapredict.serving.bodies import json_type, parse_object
from hapredict.serving.tensor_bytes import DATATYPES, from_bytes, to_bytes
from hapredict.serving.tensors import (
    OUTPUTS,
    OUTPUTS_BESIDE,
    Tensor,
    answer_tensors,
    column_tensor,
    count_of,
    plain_data,
    reply_of,
    request_of,
)

EXTENSIONS = ("binary_tensor_data",)
"""Extensions of the protocol that are served."""
JSON_LENGTH = b"inference-header-content-length"

_encode = msgspec.json.Encoder().encode
_NOT_SERVED = ("shared_memory_region", "classification")
"""Parameters of other extensions: to pass over them would answer something else than was asked."""


class V2:
    """`infer`, answered in JSON where the request does not ask for bytes.

    One tensor a column, [rows] or [rows, 1]. In JSON null stands for a missing value, in bytes the
    NaN of floats; other datatypes have none. Answers are the tensors `OUTPUTS`: score
    [rows, outputs], the others [rows]; a multiclass score names its classes in its parameters.
    Models that have them add those of `OUTPUTS_BESIDE`: uncertainty [rows] and quantiles [rows, q].
    """

    path = "/v2/models/{model}/infer"
    versioned_path = "/v2/models/{model}/versions/{version}/infer"
    by_rows = False

    @staticmethod
    def encode_request(columns: Columns) -> Encoded:
        return _framed(
            {}, "inputs", [column_tensor(name, values) for name, values in columns.items()], ()
        )

    @staticmethod
    def decode_request(
        body: bytes | bytearray, rows_max: int, headers: Mapping[bytes, bytes] = NO_HEADERS
    ) -> Request:
        value, rest = _split(body, headers)
        raw = value.get("inputs")
        if not isinstance(raw, list) or not raw:
            raise BadRequest("'inputs' must be a list of tensors, one a column")
        tensors: list[Tensor] = []
        problems: list[Problem] = []
        for index, item in enumerate(raw):
            _read_tensor(item, f"inputs[{index}]", rest, count_of, tensors, problems)
            if rest.broken:
                break  # where the next tensor's bytes begin is no longer known
        if rest.left and not problems:
            message = (
                f"{rest.left} bytes follow the last tensor; the sizes in 'binary_data_size' must "
                "add up to what comes after the JSON object"
            )
            raise BadRequest(message)
        id_ = value.get("id", "")
        if not isinstance(id_, str):
            raise BadRequest(f"'id' must be a string; got {json_type(id_)}")
        outputs, binary = _outputs_asked(value)
        return request_of(
            tensors, rows_max, id_=id_, outputs=outputs, binary=binary, problems=problems
        )

    @staticmethod
    def encode_response(answer: Answered, request: Request, /) -> Encoded:
        reply = {"model_name": answer.model, "model_version": str(answer.versions[0])}
        if request.id:
            reply["id"] = request.id
        return _framed(reply, "outputs", answer_tensors(answer, request.outputs), request.binary)

    @staticmethod
    def decode_response(body: bytes, headers: Mapping[bytes, bytes] = NO_HEADERS) -> Reply:
        try:
            value, rest = _split(body, headers)
            tensors: list[Tensor] = []
            problems: list[Problem] = []
            for item in value["outputs"]:
                _read_tensor(item, "outputs", rest, math.prod, tensors, problems)
            if problems:
                raise ValueError(str(problems[0]))
            return reply_of(value["model_name"], value["model_version"], tensors)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadRequest(f"this is no answer to an infer request: {error}") from None


class V2Binary(V2):
    """The same with all that has bytes sent and asked for as bytes; the rest stays JSON."""

    @staticmethod
    def encode_request(columns: Columns) -> Encoded:
        tensors = [column_tensor(name, values) for name, values in columns.items()]
        asks = {"parameters": {"binary_data_output": True}}
        return _framed(asks, "inputs", tensors, {tensor.name for tensor in tensors})


class _Rest:
    """The bytes after the JSON object, taken from the front; None where there can be none."""

    def __init__(self, raw: memoryview | None) -> None:
        self._raw = raw
        self.left = 0 if raw is None else len(raw)
        self.broken = False

    def take(self, size: Any) -> memoryview:
        """Raises ValueError with a sentence that follows a tensor's name."""
        self.broken = True
        if self._raw is None:
            message = "has 'binary_data_size', and there is no Inference-Header-Content-Length"
            raise ValueError(message)
        if type(size) is not int or size < 0:
            message = "its 'binary_data_size' must be a whole number of bytes"
            raise ValueError(message)
        if size > self.left:
            message = f"its 'binary_data_size' is {size}, and {self.left} bytes are left"
            raise ValueError(message)
        self.broken = False
        start = len(self._raw) - self.left
        self.left -= size
        return self._raw[start : start + size]


def _split(body: bytes | bytearray, headers: Mapping[bytes, bytes]) -> tuple[dict[str, Any], _Rest]:
    """The JSON object of a body and the bytes after it. Raises BadRequest."""
    told = headers.get(JSON_LENGTH)
    if told is None:
        return parse_object(body), _Rest(None)
    told = told.strip()
    if not told.isdigit() or len(told) > 15 or int(told) > len(body):
        message = (
            f"Inference-Header-Content-Length must say how many of the body's {len(body)} bytes "
            f"are the JSON object; got {told[:40].decode('latin-1')!r}"
        )
        raise BadRequest(message)
    length = int(told)
    if length == 0:
        message = (
            "Inference-Header-Content-Length is 0, a tensor without a JSON object; send the object "
            "that names it, for the model has a tensor a column"
        )
        raise BadRequest(message)
    return parse_object(body[:length]), _Rest(memoryview(body)[length:])


def _read_tensor(
    raw: Any,
    where: str,
    rest: _Rest,
    count: Callable[[Any], int],
    tensors: list[Tensor],
    problems: list[Problem],
) -> None:
    """Add a tensor, or what is wrong with it; `count` tells its elements from its shape."""
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        problems.append(Problem(where, "must be a tensor: name, datatype, shape and data"))
        return
    name: str = raw["name"]
    datatype, data = raw.get("datatype"), raw.get("data")
    shape: Any = raw.get("shape")
    parameters = raw.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    try:
        taken = None
        if "binary_data_size" in parameters:
            taken = rest.take(parameters["binary_data_size"])
            if "data" in raw:
                raise ValueError("has 'data' and 'binary_data_size'; send one of the two")
        if not isinstance(datatype, str) or datatype not in DATATYPES:
            raise ValueError(f"its datatype must be one of {', '.join(DATATYPES)}")
        _check_served(parameters)
        if taken is not None:
            data = from_bytes(datatype, taken, count(shape))
        elif not isinstance(shape, list) or not isinstance(data, list):
            raise ValueError("its shape and its data must be lists")
        elif data and all(isinstance(item, list) and len(item) == 1 for item in data):
            data = [item[0] for item in data]
    except ValueError as error:
        problems.append(Problem(name[:100], str(error)))
        return
    tensors.append(Tensor(name, datatype, shape, data, parameters))


def _check_served(parameters: Mapping[str, Any]) -> None:
    for name in _NOT_SERVED:
        if name in parameters:
            message = f"asks for {name!r}, which is not served here"
            raise ValueError(message)


def _outputs_asked(value: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Names of the outputs asked for, and of those to come as bytes. Raises BadRequest."""
    asked = value.get("outputs")
    all_binary = _flag(value, "binary_data_output", "the request")
    if asked is None or asked == []:
        return [], [*OUTPUTS, *OUTPUTS_BESIDE] if all_binary else []
    names: list[str] = []
    binary: list[str] = []
    for item in asked if isinstance(asked, list) else [None]:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            known = ", ".join((*OUTPUTS, *OUTPUTS_BESIDE))
            message = f"'outputs' must be a list of objects, each with a name among {known}"
            raise BadRequest(message)
        name: str = item["name"]
        place = f"output {name[:100]!r}"
        parameters = item.get("parameters")
        if isinstance(parameters, dict):
            try:
                _check_served(parameters)
            except ValueError as error:
                raise BadRequest(f"{place} {error}") from None
        names.append(name)
        told = _flag(item, "binary_data", place)
        if told if told is not None else all_binary:
            binary.append(name)
    return names, binary


def _flag(value: Mapping[str, Any], name: str, where: str) -> bool | None:
    parameters = value.get("parameters")
    flag = parameters.get(name) if isinstance(parameters, dict) else None
    if flag is not None and not isinstance(flag, bool):
        raise BadRequest(f"{name!r} of {where} must be true or false; got {json_type(flag)}")
    return flag


def _framed(
    value: dict[str, Any], key: str, tensors: Sequence[Tensor], binary: Iterable[str]
) -> Encoded:
    """The object with its tensors under `key`; those named in `binary` as bytes, if they can be."""
    told: list[dict[str, Any]] = []
    blocks: list[bytes] = []
    wanted = frozenset(binary)
    for tensor in tensors:
        shown: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        block = _block(tensor) if tensor.name in wanted else None
        if block is None:
            shown["data"] = plain_data(tensor.data)
            if tensor.parameters:
                shown["parameters"] = tensor.parameters
        else:
            shown["parameters"] = {**tensor.parameters, "binary_data_size": len(block)}
            blocks.append(block)
        told.append(shown)
    head = _encode({**value, key: told})
    if not blocks:
        return Encoded(head)
    return Encoded(b"".join((head, *blocks)), BINARY, ((JSON_LENGTH, b"%d" % len(head)),))


def _block(tensor: Tensor) -> bytes | None:
    """A tensor's bytes; None if it has values that bytes cannot say, such as a missing text."""
    try:
        if isinstance(tensor.data, list) and "FP" not in tensor.datatype and None in tensor.data:
            return None
        return to_bytes(tensor.datatype, tensor.data)
    except (ValueError, TypeError, OverflowError, AttributeError):
        return None
