"""Infer requests and answers of the Open Inference Protocol as messages, to and from plain values.

The tensors, and the sentences about faulty ones, are those of the HTTP form (`tensors.py`).
Messages know no null: in numbers NaN stands for a missing value, and in texts the one that the
parameter `missing` names, of the tensor or of the whole request; without it, none.
"""

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hapredict.errors import BadRequest, Problem
from hapredict.serving.answers import Answered, Request
from hapredict.serving.exchange import read_version
from hapredict.serving.inference_messages import ModelInferResponse
from hapredict.serving.tensor_bytes import DATATYPES, from_bytes, to_bytes
from hapredict.serving.tensors import Tensor, answer_tensors, count_of, request_of

CONTENTS = {
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Which list of a tensor's contents holds the values of a datatype."""
_DTYPES = {
    "bool_contents": "?",
    "int_contents": "i4",
    "int64_contents": "i8",
    "uint_contents": "u4",
    "uint64_contents": "u8",
    "fp32_contents": "f4",
    "fp64_contents": "f8",
}


def decode_request(message: Any, rows_max: int, wait_s: float | None = None) -> Request:
    """What a ModelInferRequest asks for, with `wait_s`. Raises BadRequest or UnknownName."""
    raw = message.raw_input_contents
    if not message.inputs:
        raise BadRequest("'inputs' must be a list of tensors, one a column")
    if raw and len(raw) != len(message.inputs):
        raise BadRequest(
            f"'raw_input_contents' must have one entry a tensor, which are {len(message.inputs)}; "
            f"got {len(raw)}"
        )
    tensors: list[Tensor] = []
    problems: list[Problem] = []
    for place, tensor in enumerate(message.inputs):
        try:
            missing = _missing(tensor) if "missing" in tensor.parameters else _missing(message)
            data = _data(tensor, raw[place] if raw else None, missing)
        except ValueError as error:
            problems.append(Problem(tensor.name[:100], str(error)))
        else:
            tensors.append(Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), data))
    request = request_of(
        tensors,
        rows_max,
        id_=message.id,
        outputs=[output.name for output in message.outputs],
        problems=problems,
    )
    version = read_version(message.model_version) if message.model_version else None
    return msgspec.structs.replace(request, version=version, wait_s=wait_s)


def encode_response(answer: Answered, request: Request, *, raw: bool) -> Any:
    """The answer as a ModelInferResponse, with its values as bytes if `raw`."""
    message = ModelInferResponse(
        model_name=answer.model, model_version=str(answer.versions[0]), id=request.id
    )
    for tensor in answer_tensors(answer, request.outputs):
        said = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        for key, listed in tensor.parameters.items():
            said.parameters[key].string_param = json.dumps(listed, ensure_ascii=False)
        if raw:
            message.raw_output_contents.append(to_bytes(tensor.datatype, tensor.data))
        elif tensor.datatype == "BYTES":
            said.contents.bytes_contents.extend(text.encode() for text in tensor.data)
        else:
            values = np.asarray(tensor.data).tolist()
            getattr(said.contents, CONTENTS[tensor.datatype]).extend(values)
    return message


def _missing(holder: Any) -> str | None:
    """The text that stands for a missing value. Raises ValueError."""
    if "missing" not in holder.parameters:
        return None
    parameter = holder.parameters["missing"]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise ValueError("the parameter 'missing' must be a text: what stands for a missing value")
    return str(parameter.string_param)


def _data(
    tensor: Any, raw: bytes | None, missing: str | None
) -> Sequence[str | None] | NDArray[Any]:
    """A tensor's values. Raises ValueError that says what is wrong."""
    datatype: str = tensor.datatype
    if datatype not in DATATYPES:
        raise ValueError(f"its datatype must be one of {', '.join(DATATYPES)}")
    if raw is None:
        values = _contents(tensor, datatype)
    elif tensor.contents.ListFields():
        raise ValueError("has contents although the request has 'raw_input_contents'")
    else:
        values = from_bytes(datatype, raw, count_of(tuple(tensor.shape)))
    if datatype == "BYTES" and missing is not None:
        return [None if text == missing else text for text in values]
    return values


def _contents(tensor: Any, datatype: str) -> list[str] | NDArray[Any]:
    place = CONTENTS.get(datatype)
    if place is None:
        raise ValueError(f"is {datatype}, which is read from 'raw_input_contents' only")
    other = [field.name for field, _ in tensor.contents.ListFields() if field.name != place]
    if other:
        raise ValueError(f"is {datatype}, whose values belong into {place!r}; got {other[0]!r}")
    values = getattr(tensor.contents, place)
    if datatype == "BYTES":
        return _texts(values)
    return np.array(values, _DTYPES[place])


def _texts(values: Sequence[bytes]) -> list[str]:
    texts: list[str] = []
    for place, value in enumerate(values):
        try:
            texts.append(value.decode())
        except UnicodeDecodeError as error:
            message = f"has an element {place} that is not UTF-8: {error.reason}"
            raise ValueError(message) from None
    return texts
