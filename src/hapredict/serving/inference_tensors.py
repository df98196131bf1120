"""Infer requests and answers of the Open Inference Protocol as messages, to and from plain values.

The tensors are those of the JSON form (`protocols.V2`), and so are the sentences about faulty
ones. Messages know no null: in numbers NaN stands for a missing value, and in texts the one that
the parameter `missing` names, of the tensor or of the whole request; without it, none.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from hapredict.errors import BadRequest, Problem, SchemaMismatch
from hapredict.serving.answers import Answered, Request, scores_and_decisions
from hapredict.serving.bodies import PROBLEMS_MAX, check_lengths, check_rows
from hapredict.serving.exchange import read_version
from hapredict.serving.inference_messages import ModelInferResponse
from hapredict.serving.protocols import OUTPUTS, OUTPUTS_BESIDE
from hapredict.serving.raw_tensors import DATATYPES, raw_of, values_of
from hapredict.training.extras import UNCERTAINTY, quantiles_among

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
    columns: dict[str, Sequence[Any]] = {}
    problems: list[Problem] = []
    for place, tensor in enumerate(message.inputs):
        try:
            if tensor.name in columns:
                raise ValueError("there are two tensors of this name")
            missing = _missing(tensor) if "missing" in tensor.parameters else _missing(message)
            columns[tensor.name] = _column(tensor, raw[place] if raw else None, missing)
        except ValueError as error:
            problems.append(Problem(tensor.name[:100], str(error)))
    if problems:
        raise SchemaMismatch(tuple(problems[:PROBLEMS_MAX]), 400)
    rows = check_lengths(columns)
    check_rows(rows, rows_max)
    known = (*OUTPUTS, *OUTPUTS_BESIDE)
    asked = tuple(output.name for output in message.outputs)
    if not set(asked) <= set(known):
        wanted = f"a list of objects, each with a name among {', '.join(known)}"
        raise BadRequest(f"'outputs' must be {wanted}")
    version = read_version(message.model_version) if message.model_version else None
    return Request(columns, rows, message.id, asked, version, wait_s)


def encode_response(answer: Answered, request: Request, *, raw: bool) -> Any:
    """The answer as a ModelInferResponse, with its values as bytes if `raw`."""
    versions = answer.versions.tolist()
    message = ModelInferResponse(
        model_name=answer.model, model_version=str(versions[0]), id=request.id
    )
    asked = request.outputs or (*OUTPUTS, *OUTPUTS_BESIDE)
    for name, datatype, shape, values, parameters in _tensors(answer):
        if name not in asked:
            continue
        tensor = message.outputs.add(name=name, datatype=datatype, shape=shape)
        for key, listed in parameters.items():
            tensor.parameters[key].string_param = json.dumps(listed, ensure_ascii=False)
        if raw:
            message.raw_output_contents.append(raw_of(datatype, values))
        elif datatype == "BYTES":
            tensor.contents.bytes_contents.extend(value.encode() for value in values)
        else:
            getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    return message


_Tensor = tuple[str, str, list[int], Sequence[Any], dict[str, list[str]]]


def _tensors(answer: Answered) -> list[_Tensor]:
    """Name, datatype, shape, values and named parameters, in the order of OUTPUTS."""
    schema, rows = answer.schema, len(answer.ids)
    _, decisions = scores_and_decisions(answer)
    classes = {"classes": list(schema.classes)} if schema.task == "multiclass" else {}
    kind = "FP32" if schema.task == "regression" else "BYTES"
    score: _Tensor = (
        "score",
        "FP32",
        [rows, schema.outputs],
        answer.scores.ravel().tolist(),
        classes,
    )
    tensors: list[_Tensor] = [
        score,
        ("decision", kind, [rows], decisions, {}),
        ("prediction_id", "BYTES", [rows], answer.ids, {}),
        ("model_version", "INT64", [rows], answer.versions.tolist(), {}),
        ("served_by", "BYTES", [rows], answer.served_by, {}),
    ]
    if answer.extras is None:
        return tensors
    said = np.where(np.isfinite(answer.extras), answer.extras, np.nan)
    if UNCERTAINTY in answer.extra_names:
        column = said[:, answer.extra_names.index(UNCERTAINTY)]
        tensors.append(("uncertainty", "FP32", [rows], column.tolist(), {}))
    levels = quantiles_among(answer.extra_names)
    if levels:
        columns = said[:, list(levels.values())]
        shape, named = [rows, len(levels)], {"quantiles": list(levels)}
        tensors.append(("quantiles", "FP32", shape, columns.ravel().tolist(), named))
    return tensors


def _missing(holder: Any) -> str | None:
    """The text that stands for a missing value. Raises ValueError."""
    if "missing" not in holder.parameters:
        return None
    parameter = holder.parameters["missing"]
    if parameter.WhichOneof("parameter_choice") != "string_param":
        raise ValueError("the parameter 'missing' must be a text: what stands for a missing value")
    return str(parameter.string_param)


def _column(tensor: Any, raw: bytes | None, missing: str | None) -> list[Any]:
    """A tensor's values, None for missing ones. Raises ValueError that says what is wrong."""
    datatype: str = tensor.datatype
    if datatype not in DATATYPES:
        raise ValueError(f"its datatype must be one of {', '.join(DATATYPES)}")
    if raw is None:
        values = _contents(tensor, datatype)
    elif tensor.contents.ListFields():
        raise ValueError("has contents although the request has 'raw_input_contents'")
    else:
        values = values_of(datatype, raw)
    rows = len(values)
    if list(tensor.shape) not in ([rows], [rows, 1]):
        raise ValueError(f"its shape must be [{rows}] or [{rows}, 1], as it has {rows} values")
    if datatype == "BYTES":
        texts = _texts(values)
        return texts if missing is None else [None if t == missing else t for t in texts]
    if datatype.startswith("FP"):  # NaN differs from itself
        return [value if value == value else None for value in values]  # noqa: PLR0124
    return values


def _contents(tensor: Any, datatype: str) -> list[Any]:
    place = CONTENTS.get(datatype)
    if place is None:
        raise ValueError(f"is {datatype}, which is read from 'raw_input_contents' only")
    other = [field.name for field, _ in tensor.contents.ListFields() if field.name != place]
    if other:
        raise ValueError(f"is {datatype}, whose values belong into {place!r}; got {other[0]!r}")
    return list(getattr(tensor.contents, place))


def _texts(values: Sequence[bytes]) -> list[str]:
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError as error:
        row = values.index(error.object)
        raise ValueError(f"is BYTES and must hold UTF-8; value {row} does not") from None
