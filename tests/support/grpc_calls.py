"""A caller by gRPC: requests from columns, answers as rows, and an app behind a real server."""

import json
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import numpy as np

from hapredict.data.values import canonical_text
from hapredict.serving.inference_messages import MESSAGES, SERVICE, ModelInferRequest
from hapredict.serving.inference_service import OpenInference, add_to_server
from hapredict.serving.inference_tensors import CONTENTS
from hapredict.serving.tensor_bytes import from_bytes, to_bytes

MISSING = "\x00"
"""What stands for a missing text in these requests."""


def request_of(
    columns: Mapping[str, Sequence[Any]], model: str, *, raw: bool = False, **fields: Any
) -> Any:
    """A ModelInferRequest; numbers and booleans keep their kind, anything else is sent as texts."""
    message = ModelInferRequest(model_name=model, **fields)
    message.parameters["missing"].string_param = MISSING
    for name, column in columns.items():
        datatype, values = _tensor(column)
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        if raw:
            message.raw_input_contents.append(to_bytes(datatype, values))
        elif datatype == "BYTES":
            tensor.contents.bytes_contents.extend(value.encode() for value in values)
        else:
            getattr(tensor.contents, CONTENTS[datatype]).extend(values)
    return message


def columns_in(message: Any) -> dict[str, list[Any]]:
    """The output tensors as lists by name, however they were sent; texts are texts."""
    found = {}
    for place, tensor in enumerate(message.outputs):
        if message.raw_output_contents:
            raw = message.raw_output_contents[place]
            values = list(from_bytes(tensor.datatype, raw, math.prod(tensor.shape)))
        else:
            values = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
            if tensor.datatype == "BYTES":
                values = [value.decode() for value in values]
        if len(tensor.shape) == 2:
            values = np.reshape(values, tuple(tensor.shape)).tolist()
        found[tensor.name] = values
    return found


def predictions_in(message: Any) -> list[dict[str, Any]]:
    """The answer as `:predict` would give it over HTTP."""
    columns = columns_in(message)
    named = {
        tensor.name: json.loads(tensor.parameters[key].string_param)
        for tensor in message.outputs
        for key in tensor.parameters
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    for row in rows:
        score, classes = row["score"], named.get("score")
        row["score"] = dict(zip(classes, score, strict=True)) if classes else score[0]
        if "quantiles" in row:
            pairs = zip(named["quantiles"], row["quantiles"], strict=True)
            row["quantiles"] = {level: value for level, value in pairs if not np.isnan(value)}
    return [
        {name: value for name, value in row.items() if value != {} and value == value}  # noqa: PLR0124
        for row in rows
    ]


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[Any]:
    """A channel to an app behind gRPC's own server."""
    server = grpc.aio.server()
    add_to_server(OpenInference(app), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def stub(channel: Any, method: str) -> Any:
    """The method of a channel, of either kind."""
    found = SERVICE.methods_by_name[method]
    make = channel.stream_stream if found.client_streaming else channel.unary_unary
    return make(
        f"/{SERVICE.full_name}/{method}",
        request_serializer=MESSAGES[found.input_type.name].SerializeToString,
        response_deserializer=MESSAGES[found.output_type.name].FromString,
    )


def _tensor(column: Sequence[Any]) -> tuple[str, list[Any]]:
    types = {type(value) for value in column if value is not None}
    if types == {bool} and None not in column:
        return "BOOL", list(column)
    if types == {int} and None not in column:
        return "INT64", list(column)
    if types and types <= {int, float}:
        return "FP64", [float("nan") if value is None else value for value in column]
    return "BYTES", [MISSING if value is None else canonical_text(value) for value in column]
