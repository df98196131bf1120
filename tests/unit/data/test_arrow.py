"""Arrow's columns become the same table as arrays do, value for value."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.data.arrow import table_of_arrow
from hapredict.data.schema import Column, Schema
from hapredict.data.values import TEXT_MAX, array_of
from hapredict.errors import DataError

SCHEMA = Schema(
    (Column("n", "number"), Column("c", "category")), target="y", task="binary", id="i", time="t"
)
WHOLE = st.integers(-(2**53), 2**53)
TEXTS = st.text(max_size=5) | st.sampled_from(["1", "1.5", " ", "nan", "x" * (TEXT_MAX + 1)])
KINDS = [
    (pa.int64(), WHOLE),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.bool_(), st.booleans()),
    (pa.float64(), st.floats() | st.sampled_from([1.0, -0.0])),
    (pa.float32(), st.floats(width=32)),
    (pa.string(), TEXTS),
    (pa.large_string(), TEXTS),
    (pa.dictionary(pa.int8(), pa.string()), TEXTS),
    (pa.date32(), st.dates()),
    (pa.decimal128(12, 2), st.integers(-999, 999).map(lambda value: Decimal(value) / 4)),
    (pa.binary(), st.binary(max_size=3)),
]


def values(column):
    """A column as Python values, as the value-by-value reader takes them."""
    return array_of(column.to_pylist())


@st.composite
def columns(draw, rows):
    kind, value = draw(st.sampled_from(KINDS))
    found = draw(st.lists(st.none() | value, min_size=rows, max_size=rows))
    cut = draw(st.integers(0, rows))
    chunks = [pa.array(found[:cut], kind), pa.array(found[cut:], kind)]
    return pa.chunked_array(chunks, type=kind)


@given(st.data(), st.integers(0, 8))
def test_the_table_is_that_of_the_same_values_one_by_one(data, rows):
    drawn = {name: data.draw(columns(rows)) for name in ("n", "c", "i")}
    found, unreadable = table_of_arrow(SCHEMA, pa.table(drawn), values)
    expected, bad = SCHEMA.frame({name: values(column) for name, column in drawn.items()})
    np.testing.assert_array_equal(found["n"], expected["n"])
    assert found["c"].tolist() == expected["c"].tolist()
    assert unreadable.tolist() == bad.tolist()
    assert set(found) == {"n", "c"}


def test_a_time_that_cannot_be_read_is_said():
    moments = [dt.datetime(2024, 1, 1, tzinfo=dt.UTC).isoformat(), "soon", None]
    rows = pa.table({"n": [1.0, 2.0, 3.0], "c": ["a", "b", "c"], "t": moments})
    _, unreadable = table_of_arrow(SCHEMA, rows, values)
    assert unreadable.tolist() == [False, True, False]


def test_a_feature_that_is_not_there_is_named():
    with pytest.raises(DataError, match="c: no such column"):
        table_of_arrow(SCHEMA, pa.table({"n": [1.0]}), values)
