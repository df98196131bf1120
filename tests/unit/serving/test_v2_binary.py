"""Bytes behind the JSON object: which tensor they belong to, and what to say if they do not."""

import json

import numpy as np
import pytest

from hapredict.errors import BadRequest, SchemaMismatch
from hapredict.serving.tensor_bytes import DTYPES, to_bytes
from hapredict.serving.tensors import OUTPUTS
from hapredict.serving.v2 import JSON_LENGTH, V2
from tests.support.bundles import columns_of, schema_of
from tests.support.serving import answer_of


def _binary(name, datatype, values, **over):
    raw = values if isinstance(values, bytes) else to_bytes(datatype, values)
    tensor = {
        "name": name,
        "datatype": datatype,
        "shape": [2],
        "parameters": {"binary_data_size": len(raw)},
        **over,
    }
    return tensor, raw


def _decode(*tensors, rest=b"", rows_max=10, length=None, **more):
    described = [tensor[0] if isinstance(tensor, tuple) else tensor for tensor in tensors]
    head = json.dumps({"inputs": described, **more}).encode()
    body = head + b"".join(tensor[1] for tensor in tensors if isinstance(tensor, tuple)) + rest
    told = len(head) if length is None else length
    return V2.decode_request(body, rows_max, {JSON_LENGTH: str(told).encode()})


@pytest.mark.parametrize("datatype", [*DTYPES, "BF16"])
def test_numbers_of_every_datatype_become_columns(datatype):
    request = _decode(_binary("a", datatype, [0, 1], shape=[2, 1]))
    assert isinstance(request.columns["a"], np.ndarray)
    assert request.columns["a"].tolist() == [0, 1]
    assert request.rows == 2


def test_bytes_and_json_go_together_in_the_order_of_the_tensors():
    request = _decode(
        _binary("a", "FP32", [1.5, None]),
        {"name": "b", "datatype": "BYTES", "shape": [2], "data": ["x", None]},
        _binary("c", "BYTES", ["yes", "性"]),
        _binary("d", "BOOL", [True, False]),
    )
    assert list(request.columns) == ["a", "b", "c", "d"]
    assert request.columns["b"] == ["x", None]
    assert request.columns["c"] == ["yes", "性"]
    assert request.columns["d"].tolist() == [True, False]
    np.testing.assert_array_equal(request.columns["a"], [1.5, np.nan])


def test_a_table_of_bytes_is_the_table_of_json():
    schema, columns = schema_of(), columns_of(6)
    numbers = ("收入", "distance", "at")
    tensors = [
        _binary(name, "FP64", columns[name], shape=[6])
        if name in numbers
        else {"name": name, "datatype": "BYTES", "shape": [6], "data": columns[name]}
        for name in columns
    ]
    table, expected = schema.table(_decode(*tensors).columns), schema.table(columns)
    for name in expected:
        np.testing.assert_array_equal(table[name], expected[name])
        assert table[name].dtype == expected[name].dtype


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (_binary("a", "FP64", bytes(15)), "a: holds 15 bytes; 2 values of FP64 are 16"),
        (_binary("a", "FP99", bytes(16)), "a: its datatype must be one of"),
        (_binary("a", "FP64", bytes(16), shape=[3]), "a: holds 16 bytes; 3 values"),
        (_binary("a", "FP64", bytes(16), shape=[2, 1, 1]), r"a: its shape must be \[rows\]"),
        (_binary("a", "FP64", bytes(16), shape=[-2]), "a: its shape must be"),
        (_binary("a", "FP64", bytes(16), shape="2"), "a: its shape must be"),
        (_binary("a", "FP64", bytes(16), shape=None), "a: its shape must be"),
        (_binary("a", "FP64", bytes(32), shape=[2, 2]), "would be several: send each by itself"),
        (_binary("a", "FP64", bytes(16), data=[1, 2]), "a: has 'data' and 'binary_data_size'"),
        (_binary("a", "BYTES", b"\\9\0\0\0x"), "a: ends within element 0"),
        (_binary("a", "BOOL", b"\7\1"), "a: holds the byte 7"),
    ],
)
def test_faulty_bytes_are_told_by_the_name_of_their_tensor(tensor, sentence):
    with pytest.raises(SchemaMismatch, match=sentence) as caught:
        _decode(tensor)
    assert caught.value.status == 400


@pytest.mark.parametrize("size", [17, -1, 1.5, True, "16", None, 2**70])
def test_a_size_that_is_none_is_told_once(size):
    told = {"parameters": {"binary_data_size": size}}
    faulty = _binary("a", "FP64", bytes(16), **told)
    with pytest.raises(SchemaMismatch, match="a: its 'binary_data_size'") as caught:
        _decode(faulty, _binary("b", "FP64", b""))
    assert len(caught.value.problems) == 1


def test_bytes_that_belong_to_no_tensor_are_refused():
    with pytest.raises(BadRequest, match="3 bytes follow the last tensor"):
        _decode(_binary("a", "INT8", [1, 2]), rest=b"xyz")


@pytest.mark.parametrize("length", ["", "x", "-1", "1e3", "9" * 20, "100000", "0", "²"])
def test_a_length_of_the_json_that_cannot_be_is_refused(length):
    with pytest.raises(BadRequest, match="Inference-Header-Content-Length"):
        _decode(_binary("a", "INT8", [1, 2]), length=length)


def test_more_rows_than_allowed_are_refused_as_bytes_too():
    with pytest.raises(BadRequest, match="2 rows") as caught:
        _decode(_binary("a", "INT8", [1, 2]), rows_max=1)
    assert caught.value.status == 413


ASKED = [
    ({}, []),
    ({"parameters": {"binary_data_output": True}}, list(OUTPUTS)),
    ({"outputs": [{"name": "score", "parameters": {"binary_data": True}}]}, ["score"]),
    ({"outputs": [{"name": "score"}, {"name": "decision"}]}, []),
    (
        {
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "score", "parameters": {"binary_data": False}}],
        },
        [],
    ),
    (
        {
            "parameters": {"binary_data_output": True},
            "outputs": [
                {"name": "prediction_id"},
                {"name": "score", "parameters": {"binary_data": False}},
            ],
        },
        ["prediction_id"],
    ),
]


@pytest.mark.parametrize(("asks", "as_bytes"), ASKED)
def test_outputs_come_as_bytes_where_the_request_says_so(asks, as_bytes):
    request = _decode(_binary("a", "INT8", [1, 2]), **asks)
    encoded = V2.encode_response(answer_of(schema_of(), 2), request)
    told = dict(encoded.headers).get(JSON_LENGTH)
    head = encoded.body[: int(told)] if told else encoded.body
    outputs = json.loads(head)["outputs"]
    sizes = {
        tensor["name"]: tensor["parameters"]["binary_data_size"]
        for tensor in outputs
        if "data" not in tensor
    }
    assert list(sizes) == as_bytes
    assert len(encoded.body) == len(head) + sum(sizes.values())
    assert (encoded.kind == b"application/octet-stream") == bool(as_bytes)
    asked = [output["name"] for output in asks.get("outputs", [])]
    assert [tensor["name"] for tensor in outputs] == sorted(asked or OUTPUTS, key=OUTPUTS.index)


def test_what_a_version_does_not_say_is_nan_in_bytes():
    names = ("q0.1", "q0.9", "uncertainty")
    answer = answer_of(schema_of((), "regression"), 3, extra_names=names)
    request = _decode(_binary("a", "INT8", [1, 2]), parameters={"binary_data_output": True})
    encoded = V2.encode_response(answer, request)
    score, *_, uncertainty, quantiles = json.loads(encoded.body[: int(encoded.headers[0][1])])[
        "outputs"
    ]
    assert quantiles["parameters"] == {"quantiles": ["0.1", "0.9"], "binary_data_size": 24}
    assert uncertainty["parameters"] == {"binary_data_size": 12}
    tail = np.frombuffer(encoded.body[-36:], np.float32)
    assert np.isnan(tail).tolist() == [False, True, False, False, False, True, True, False, False]
    assert score["shape"] == [3, 1]


@pytest.mark.parametrize(
    ("asks", "sentence"),
    [
        ({"parameters": {"binary_data_output": 1}}, "'binary_data_output' of the request"),
        (
            {"outputs": [{"name": "score", "parameters": {"binary_data": "yes"}}]},
            "'binary_data' of output 'score' must be true or false",
        ),
        (
            {"outputs": [{"name": "score", "parameters": {"classification": 2}}]},
            "output 'score' asks for 'classification', which is not served here",
        ),
        (
            {"outputs": [{"name": "score", "parameters": {"shared_memory_region": "r"}}]},
            "'shared_memory_region', which is not served",
        ),
    ],
)
def test_outputs_that_cannot_be_had_are_refused(asks, sentence):
    with pytest.raises(BadRequest, match=sentence):
        _decode(_binary("a", "INT8", [1, 2]), **asks)


def test_shared_memory_is_not_served():
    tensor = {"name": "a", "datatype": "FP64", "shape": [2]}
    with pytest.raises(SchemaMismatch, match="a: asks for 'shared_memory_region'"):
        _decode({**tensor, "parameters": {"shared_memory_region": "r"}})
