"""The Open Inference Protocol without its wire: tensors <-> requests and answers.

What HTTP (`v2.py`) and gRPC have in common: one tensor a column on the way in, and on the way out
the tensors `OUTPUTS` and, of models that have them, `OUTPUTS_BESIDE`. Values and arrays only; each
wire frames them in its own way.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema
from hapredict.data.values import canonical_text, describe
from hapredict.errors import BadRequest, Problem, SchemaMismatch
from hapredict.serving.answers import Answered, Prediction, Reply, Request, scores_and_decisions
from hapredict.serving.bodies import PROBLEMS_MAX, check_lengths, check_rows
from hapredict.serving.tensor_bytes import DATATYPES
from hapredict.training.extras import UNCERTAINTY, quantiles_among

OUTPUTS = ("score", "decision", "prediction_id", "model_version", "served_by")
"""Tensors of an answer, in their order."""
OUTPUTS_BESIDE = ("uncertainty", "quantiles")
"""Tensors that follow if the model has them."""

_ALLOWED: dict[str, frozenset[type]] = {
    "BOOL": frozenset((bool, type(None))),
    "BYTES": frozenset((str, type(None))),
}
_FLOATS = frozenset((int, float, type(None)))
_INTS = frozenset((int, type(None)))


class Tensor(msgspec.Struct, frozen=True):
    """One tensor. `data` is flat: an array, or a list in which None is a missing value."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Sequence[Any] | NDArray[Any]
    parameters: Mapping[str, Any] = {}


def request_of(
    tensors: Iterable[Tensor],
    rows_max: int,
    *,
    id_: str = "",
    outputs: Sequence[str] = (),
    binary: Iterable[str] = (),
    problems: Iterable[Problem] = (),
) -> Request:
    """The request that tensors make, one a column, each [rows] or [rows, 1].

    `problems` are those that its wire has found already. Raises SchemaMismatch (400) that names
    the faulty tensors, BadRequest for no rows or too many and for outputs that nothing has.
    """
    found = list(problems)
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {}
    for tensor in tensors:
        fault = "there are two tensors of this name" if tensor.name in columns else _fault(tensor)
        if fault:
            found.append(Problem(tensor.name[:100], fault))
        else:
            columns[tensor.name] = tensor.data
    if found:
        raise SchemaMismatch(tuple(found[:PROBLEMS_MAX]), 400)
    if not columns:
        raise BadRequest("there are no tensors in the request; send one a column")
    rows = check_lengths(columns)
    check_rows(rows, rows_max)
    known = (*OUTPUTS, *OUTPUTS_BESIDE)
    unknown = [name for name in outputs if name not in known]
    if unknown:
        message = f"there is no output {unknown[0][:100]!r}; there are {', '.join(known)}"
        raise BadRequest(message)
    return Request(columns, rows, id_, tuple(outputs), frozenset(binary))


def count_of(shape: Any) -> int:
    """Rows of a column's tensor. Raises ValueError with a sentence that follows its name."""
    if isinstance(shape, Sequence) and 1 <= len(shape) <= 2 and (len(shape) == 1 or shape[1] == 1):
        rows = shape[0]
        if type(rows) is int and rows >= 0:
            return rows
    if isinstance(shape, Sequence) and len(shape) == 2:
        message = f"its shape must be [rows] or [rows, 1]; a tensor is one column, and {shape[:4]} "
        raise ValueError(message + "would be several: send each by itself, under its field's name")
    message = "its shape must be [rows] or [rows, 1]"
    raise ValueError(message)


def column_tensor(name: str, values: Sequence[Any] | NDArray[Any]) -> Tensor:
    """A column as a tensor: of its values' own kind, or as texts if they are mixed or missing."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        named = {"b": "BOOL", "i": "INT", "u": "UINT", "f": "FP"}[values.dtype.kind]
        size = "" if named == "BOOL" else str(8 * values.dtype.itemsize)
        return Tensor(name, named + size, (len(values),), values)
    types = {type(value) for value in values if value is not None}
    datatype = "BYTES"
    if types == {bool}:
        datatype = "BOOL"
    elif types == {int}:
        datatype = "INT64"
    elif types and types <= {int, float}:
        datatype = "FP64"
    else:
        values = [None if value is None else canonical_text(value) for value in values]
    return Tensor(name, datatype, (len(values),), values)


def answer_tensors(answer: Answered, asked: Sequence[str] = ()) -> list[Tensor]:
    """The tensors of an answer, all or those asked for. NaN is what a row's version does not say.

    A multiclass score names its classes in its parameters, quantiles their levels.
    """
    schema, rows = answer.schema, len(answer.ids)
    tensors: list[Tensor] = []
    for name in OUTPUTS:
        if asked and name not in asked:
            continue
        data: Sequence[Any] | NDArray[Any]
        if name == "score":
            data = answer.scores.ravel()
        elif name == "decision":
            _, data = scores_and_decisions(answer)
        elif name == "prediction_id":
            data = answer.ids
        elif name == "model_version":
            data = answer.versions
        else:
            data = answer.served_by
        tensors.append(_output(name, schema, rows, data))
    return tensors + [
        tensor for tensor in _tensors_beside(answer) if not asked or tensor.name in asked
    ]


def output_shapes(schema: Schema, extra_names: Sequence[str]) -> list[Tensor]:
    """The tensors that answers have, without data; -1 stands for the rows."""
    tensors = [_output(name, schema, -1, ()) for name in OUTPUTS]
    if UNCERTAINTY in extra_names:
        tensors.append(Tensor("uncertainty", "FP32", (-1,), ()))
    levels = list(quantiles_among(tuple(extra_names)))
    if levels:
        parameters = {"quantiles": levels}
        tensors.append(Tensor("quantiles", "FP32", (-1, len(levels)), (), parameters))
    return tensors


def reply_of(model: str, version: str, outputs: Iterable[Tensor]) -> Reply:
    """The answer that tensors make; all of `OUTPUTS` must be there.

    Raises ValueError, KeyError, TypeError or AttributeError if they make none.
    """
    tensors = {tensor.name: tensor for tensor in outputs}
    data: list[Any] = [plain_data(tensors[name].data) for name in OUTPUTS]
    classes = tensors["score"].parameters.get("classes")
    if classes is not None:
        data[0] = _named(classes, data[0])
    count = len(data[0])
    uncertainty: Sequence[Any] = [None] * count
    quantiles: Sequence[Any] = [None] * count
    if "uncertainty" in tensors:
        uncertainty = plain_data(tensors["uncertainty"].data)
    if "quantiles" in tensors:
        told = tensors["quantiles"]
        quantiles = _named(told.parameters["quantiles"], plain_data(told.data))
    rows = [
        Prediction(id_, score, decision, number, served_by, *others)
        for score, decision, id_, number, served_by, *others in zip(
            *data, uncertainty, quantiles, strict=True
        )
    ]
    reply = Reply(model, int(version), tuple(rows))
    return msgspec.convert(msgspec.to_builtins(reply), Reply)  # checks every type


def _fault(tensor: Tensor) -> str:
    datatype, data = tensor.datatype, tensor.data
    if datatype not in DATATYPES:
        return f"its datatype must be one of {', '.join(DATATYPES)}"
    try:
        count = count_of(tensor.shape)
    except ValueError as error:
        return str(error)
    if count != len(data):
        return f"its shape must be [{len(data)}] or [{len(data)}, 1], as it has {len(data)} values"
    if not isinstance(data, np.ndarray):
        integral = _INTS if "INT" in datatype else _FLOATS
        allowed = _ALLOWED.get(datatype, integral)
        if not allowed.issuperset(map(type, data)):
            wrong = next(item for item in data if type(item) not in allowed)
            return f"is {datatype}, which cannot be {describe(wrong)}"
    return ""


def _output(name: str, schema: Schema, rows: int, data: Sequence[Any] | NDArray[Any]) -> Tensor:
    if name == "score":
        parameters = {"classes": schema.classes} if schema.task == "multiclass" else {}
        return Tensor(name, "FP32", (rows, schema.outputs), data, parameters)
    if name == "decision" and schema.task == "regression":
        return Tensor(name, "FP32", (rows,), data)
    return Tensor(name, "INT64" if name == "model_version" else "BYTES", (rows,), data)


def _tensors_beside(answer: Answered) -> list[Tensor]:
    extras, names = answer.extras, answer.extra_names
    if extras is None:
        return []
    tensors, rows = [], len(extras)
    if UNCERTAINTY in names:
        column = extras[:, names.index(UNCERTAINTY)]
        tensors.append(Tensor("uncertainty", "FP32", (rows,), _said(column)))
    quantiles = quantiles_among(names)
    if quantiles:
        block = _said(extras[:, list(quantiles.values())])
        shape, parameters = block.shape, {"quantiles": list(quantiles)}
        tensors.append(Tensor("quantiles", "FP32", shape, block.ravel(), parameters))
    return tensors


def _said(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def plain_data(data: Sequence[Any] | NDArray[Any]) -> Sequence[Any]:
    """Values as JSON has them: null for NaN."""
    if not isinstance(data, np.ndarray):
        return data
    if data.dtype.kind == "f" and np.isnan(data).any():
        return [None if value != value else value for value in data.tolist()]  # noqa: PLR0124 - only NaN differs from itself
    plain: list[Any] = data.tolist()
    return plain


def _named(names: Sequence[str], flat: Sequence[Any]) -> list[dict[str, Any] | None]:
    """A tensor's rows as mappings without what is null; None for a row of nulls."""
    width = len(names)
    rows = (flat[start : start + width] for start in range(0, len(flat), width))
    named = [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in rows
    ]
    return [row or None for row in named]
