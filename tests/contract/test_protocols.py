"""What every wire protocol promises. New entries of the table are found by themselves."""

import json
import random
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.data.schema import Column, Schema
from hapredict.errors import BadRequest
from hapredict.serving.answers import Encoded, Request, predictions
from hapredict.serving.protocols import WIRE_PROTOCOLS
from tests.support.bundles import columns_of, schema_of
from tests.support.serving import answer_of

TASKS = {
    "binary": ("no", "yes"),
    "multiclass": ("a", "ß", "客服"),
    "regression": (),
}
EXTRAS = ((), ("uncertainty",), ("q0.1", "q0.5", "q0.9"), ("q0.1", "q0.9", "uncertainty"))
NO_REQUESTS = [
    b"",
    b" ",
    b"null",
    b"true",
    b"0",
    b'"text"',
    b"[]",
    b"{}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"instances":' + b"[" * 100_000,
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'{"instances": [{"\\ud800": 1}]}',
    b'{"instances": null}',
    b'{"instances": []}',
    b'{"instances": [null]}',
    b'{"instances": [1, "x", []]}',
    b'{"instances": {"a": [1]}}',
    b'{"inputs": null}',
    b'{"inputs": []}',
    b'{"inputs": {}}',
    b'{"inputs": {"a": 1}}',
    b'{"inputs": {"a": []}}',
    b'{"inputs": {"a": [1], "b": [1, 2]}}',
    b'{"inputs": [null]}',
    b'{"inputs": [{}]}',
    b'{"inputs": [{"name": [], "datatype": {}, "shape": 1, "data": "x"}]}',
    b'{"inputs": [{"name": "a", "datatype": ["FP64"], "shape": [1], "data": [1]}]}',
    b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [0], "data": []}]}',
    b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [2], "data": [1]}]}',
    b'{"inputs": [{"name": "a", "datatype": "INT8", "shape": [1], "data": [1.5]}]}',
    b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]}], "id": 7}',
    b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]}], "outputs": 7}',
    b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [1]}], "outputs": [{}]}',
    b'{"inputs": [{"name": "a", "datatype": "FP64", "shape": [1], "data": [], "parameters": 5}]}',
]

names = st.text(min_size=1, max_size=12)
numbers = (
    st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60)
)
levels = st.none() | st.text(max_size=12) | st.booleans() | st.integers(-1000, 1000)


@st.composite
def tables(draw):
    """A schema and columns that fit it."""
    rows = draw(st.integers(1, 5))
    columns, kinds = {}, []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        number = draw(st.booleans())
        columns[name] = draw(st.lists(numbers if number else levels, min_size=rows, max_size=rows))
        kinds.append(Column(name, "number" if number else "category"))
    return Schema(tuple(kinds), "the target", "regression"), columns


@pytest.fixture(params=list(WIRE_PROTOCOLS), scope="module")
def protocol(request):
    return WIRE_PROTOCOLS.find(request.param)


@pytest.fixture(params=TASKS, scope="module")
def schema(request):
    return schema_of(TASKS[request.param], request.param)


@given(data=st.data())
def test_a_request_arrives_as_it_was_sent(protocol, data):
    schema, columns = data.draw(tables())
    request = _decoded(protocol, protocol.encode_request(columns), 5)
    assert request.rows == len(next(iter(columns.values())))
    sent, arrived = schema.table(columns), schema.table(request.columns)
    for name in columns:
        np.testing.assert_array_equal(arrived[name], sent[name])


@settings(max_examples=20)
@given(rows=st.integers(1, 5), extra_names=st.sampled_from(EXTRAS))
def test_an_answer_arrives_as_it_was_given(protocol, schema, rows, extra_names):
    answer = answer_of(schema, rows, version=7, extra_names=extra_names)
    reply = _reply(protocol, protocol.encode_response(answer, _request(protocol, rows)))
    arrived = [asdict(row) for row in reply.predictions]
    present = [{name: said for name, said in row.items() if said is not None} for row in arrived]
    assert present == predictions(answer)
    assert (reply.model_name, reply.model_version) == (answer.model, 7)


def test_what_a_model_does_not_say_costs_no_byte(protocol, schema):
    bare = protocol.encode_response(answer_of(schema), Request({}, 3)).body
    said = protocol.encode_response(answer_of(schema, extra_names=EXTRAS[-1]), Request({}, 3)).body
    for word in (b"uncertainty", b"quantiles", b"0.9", b"null"):
        assert word not in bare
        assert (word in said) == (word != b"null" or protocol.path.startswith("/v2"))


@pytest.mark.parametrize("body", NO_REQUESTS, ids=lambda body: body[:60].decode("latin-1"))
def test_what_is_no_request_is_a_bad_request(protocol, body):
    with pytest.raises(BadRequest) as caught:
        schema_of().table(protocol.decode_request(body, 10).columns)
    assert 400 <= caught.value.status < 500
    assert 0 < len(str(caught.value)) < 1000


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_request_raises_bad_request_or_nothing(protocol, seed):
    chance, schema = random.Random(seed), schema_of()
    sent = protocol.encode_request(columns_of(3))
    for _ in range(30):
        damaged = Encoded(_damaged(sent.body, chance), sent.kind, sent.headers)
        with suppress(BadRequest):  # and nothing else
            schema.table(_decoded(protocol, damaged, 5).columns)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_answer_raises_bad_request_or_nothing(protocol, schema, seed):
    chance = random.Random(seed)
    answer = answer_of(schema, extra_names=chance.choice(EXTRAS))
    sent = protocol.encode_response(answer, _request(protocol, 3))
    for _ in range(30):
        with suppress(BadRequest):  # and nothing else
            _reply(protocol, Encoded(_damaged(sent.body, chance), sent.kind, sent.headers))


@pytest.mark.parametrize(("literal", "other"), [("NaN", "-Infinity"), ("Infinity", "NaN")])
def test_a_number_that_json_does_not_have_is_told_with_its_field(protocol, literal, other):
    columns = {'from "A": NaN, [': ["x", "NaN"], "距离": [1.5, 3.25], "last": [other, other]}
    body = _json(protocol, columns).replace(b"3.25", literal.encode())
    with pytest.raises(BadRequest) as caught:
        protocol.decode_request(body, 5)
    assert caught.value.status == 400
    (problem,) = caught.value.problems
    assert problem.where == "距离"
    assert problem.what == f"{literal} is not JSON; send null"


def test_more_rows_than_allowed_are_refused_with_413(protocol):
    sent = protocol.encode_request(columns_of(6))
    assert _decoded(protocol, sent, 6).rows == 6
    with pytest.raises(BadRequest, match="6 rows") as caught:
        _decoded(protocol, sent, 5)
    assert caught.value.status == 413


def test_of_a_key_that_is_there_twice_the_last_one_counts(protocol):
    body = _json(protocol, {"distance": [5]})
    twice = body[:-1] + b"," + body[1:]
    assert list(protocol.decode_request(twice, 5).columns["distance"]) == [5]


def test_looking_for_a_literal_takes_time_in_proportion_to_the_body(protocol):
    # escaped quotes are what makes a careless pattern quadratic
    for body in (b'{"' + b'\\"' * 200_000, b'"' * 200_000, b'{"a"' + b" " * 400_000):
        with pytest.raises(BadRequest):
            protocol.decode_request(body, 5)


def test_its_paths_name_the_model_and_the_version(protocol):
    assert "{model}" in protocol.path
    assert "{version}" not in protocol.path
    assert {"{model}", "{version}"} <= {
        "{" + part.split("}")[0] + "}" for part in protocol.versioned_path.split("{")[1:]
    }


def _decoded(protocol, sent: Encoded, rows_max: int) -> Request:
    return protocol.decode_request(sent.body, rows_max, dict(sent.headers))


def _reply(protocol, sent: Encoded):
    return protocol.decode_response(sent.body, dict(sent.headers))


def _request(protocol, rows: int) -> Request:
    return _decoded(protocol, protocol.encode_request(columns_of(rows)), rows)


def _json(protocol, columns) -> bytes:
    """A body of the protocol without bytes after its JSON."""
    json_only = WIRE_PROTOCOLS.find("v2") if protocol.path.startswith("/v2") else protocol
    return json_only.encode_request(columns).body


def _damaged(body: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(body) + 1)
        end = min(len(body), place + chance.randint(0, 12))
        piece = chance.choice(
            [
                b"",
                bytes([chance.randrange(256)]),
                *(json.dumps(v).encode() for v in (None, True, -1, 1e300, "x", [], {}, [[1]])),
                b"NaN",
                b"1e999",
                b"1" * 400,
                b'"\\ud800"',
                b"[" * 2000,
                body[place : place + 30],
            ]
        )
        body = body[:place] + piece + body[end:]
    return body
