"""The reader of well-formed rows: what it takes it reads as the careful way does."""

import functools
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.data.schema import Column, Schema
from hapredict.errors import BadRequest
from hapredict.serving.protocols import V1Rows
from hapredict.serving.reader import Reader

NAMES = ("distance", "class", "Größe", "größe?", "a b'c")
NUMBERS = st.one_of(
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**70), 2**70)
)
TEXTS = st.one_of(
    st.none(), st.text(max_size=5), st.booleans(), st.integers(), st.floats(allow_nan=False)
)
ODD = st.one_of(
    st.lists(st.none()), st.dictionaries(st.text(), st.none()), st.just(10**400), TEXTS, NUMBERS
)
TIMES = st.one_of(
    st.none(), st.just("2026-03-01T09:30:00Z"), st.just("soon"), st.floats(-1e12, 1e12), st.just(3)
)
IDS = st.one_of(st.none(), st.text(max_size=3), st.integers(), st.booleans())


@functools.cache
def reader_of(time, time_required):
    return Reader(schema_of(time=time), time_required=time_required)


def schema_of(*, time="at", id_="id"):
    features = (
        Column("distance", "number"),
        Column("class", "category"),
        Column("Größe", "number"),
        Column("größe?", "category"),
        Column("a b'c", "number"),
    )
    return Schema(features, target="y", task="binary", classes=("0", "1"), time=time, id=id_)


@st.composite
def rows(draw):
    value = {"distance": NUMBERS, "Größe": NUMBERS, "a b'c": NUMBERS}
    value |= {"class": TEXTS, "größe?": TEXTS}
    row = {name: draw(value[name]) for name in draw(st.permutations(NAMES))}
    for name, more in (("at", TIMES), ("id", IDS)):
        if draw(st.booleans()):
            row[name] = draw(more)
    if draw(st.integers(0, 5)) == 0:
        row[draw(st.sampled_from((*NAMES, "other")))] = draw(ODD)
    if draw(st.integers(0, 5)) == 0:
        del row[draw(st.sampled_from(sorted(row)))]
    return row


def carefully(schema, body, rows_max, time_required):
    request = V1Rows.decode_request(body, rows_max)
    return schema.table(request.columns, time_required=time_required)


@given(
    st.lists(rows(), max_size=4), st.booleans(), st.sampled_from(("at", None)), st.integers(1, 4)
)
def test_what_it_takes_it_reads_as_the_careful_way_does(sent, time_required, time, rows_max):
    schema = schema_of(time=time)
    if time is None:
        sent = [{name: value for name, value in row.items() if name != "at"} for row in sent]
    body = json.dumps({"instances": sent}).encode()
    reader = reader_of(time, time_required and time is not None)
    lines = reader.lines(body, rows_max)
    try:
        expected = carefully(schema, body, rows_max, reader.time_required)
    except BadRequest:
        assert lines is None
        return
    if lines is None:
        return
    table = reader.table(lines)
    assert set(table) >= set(expected)
    for name, column in table.items():
        assert column.shape == (len(sent),)
        other = expected.get(name)
        if other is None:
            assert all(value is None or np.isnan(value) for value in column)
            continue
        assert column.dtype == other.dtype
        np.testing.assert_array_equal(column, other)


def test_plain_rows_are_taken():
    plain = {"distance": 3, "class": "a", "Größe": None, "größe?": None, "a b'c": 1e9}
    reader = Reader(schema_of(), time_required=False)
    for more in ({}, {"at": "2026-03-01T09:30:00Z"}, {"at": 0.5, "id": 7}, {"class": 1}):
        assert reader.lines(msgspec.json.encode({"instances": [plain | more] * 3}), 3) is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"instances": []}',
        b'{"instances": [{}]}',
        b'{"instances": {}}',
        b'{"inputs": {}}',
        b'{"instances": [], "signature_name": "x"}',
        b'{"instances": [{"distance": NaN}]}',
        b"\xff",
    ],
)
def test_what_is_odd_is_left_to_the_careful_way(body):
    assert Reader(schema_of(), time_required=False).lines(body, 10) is None


def test_no_flood_of_new_texts_makes_it_grow():
    reader = Reader(schema_of(time=None, id_=None), time_required=False)
    row = {"distance": 1, "Größe": 1, "größe?": "b", "a b'c": 1}
    for start in range(0, 60_000, 1000):
        sent = [row | {"class": f"level {start + place}"} for place in range(1000)]
        assert reader.lines(msgspec.json.encode({"instances": sent}), 1000)
    assert len(reader._good) < 60_000


def test_a_name_that_cannot_be_a_field_leaves_all_to_the_careful_way():
    schema = Schema((Column('a "b"', "number"),), target="y", task="regression")
    reader = Reader(schema, time_required=False)
    assert reader.lines(msgspec.json.encode({"instances": [{'a "b"': 1}]}), 1) is None
