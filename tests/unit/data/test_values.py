"""The two doors give the same form to the same value."""

import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.data.schema import Column, Schema
from hapredict.data.values import (
    UnreadableValue,
    lenient_numbers,
    lenient_texts,
    lenient_times,
    strict_category,
    strict_number,
    strict_time,
)

SCHEMA = Schema(
    (Column("收入", "number"), Column("性别", "category")),
    "逾期",
    "binary",
    ("0", "1"),
    time="时间",
    id="编号",
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
whole = st.integers(-(2**70), 2**70)
finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.none() | whole | finite
categories = st.none() | texts | whole | st.booleans() | finite
moments = st.datetimes(timezones=st.none() | st.just(UTC))
times = (
    st.none()
    | moments.map(datetime.isoformat)
    | st.integers(-(10**10), 10**11)
    | st.floats(-1e10, 1e11)
)
ids = st.none() | texts | whole
rows = st.lists(st.tuples(numbers, categories, times, ids), min_size=1, max_size=6)


def same(left, right):
    if left.dtype == object:
        return left.tolist() == right.tolist()
    return np.array_equal(left, right, equal_nan=True)


def columns(drawn):
    names = ("收入", "性别", "时间", "编号")
    return {
        name: list(values) for name, values in zip(names, zip(*drawn, strict=True), strict=True)
    }


@given(rows)
def test_a_file_and_a_request_give_the_same_table_to_the_same_values(drawn):
    live = SCHEMA.table(columns(drawn))
    filed, unreadable = SCHEMA.frame(columns(drawn))
    assert not unreadable.any()
    assert list(live) == list(filed)
    for name, column in live.items():
        assert same(column, filed[name]), name
        assert column.dtype == filed[name].dtype


@given(rows)
def test_a_single_row_gives_what_it_gives_among_others(drawn):
    whole_table = SCHEMA.table(columns(drawn))
    for place, row in enumerate(drawn):
        alone = SCHEMA.table(columns([row]))
        for name, column in alone.items():
            assert same(column, whole_table[name][place : place + 1]), name


@given(st.lists(st.none() | st.integers(-(2**53), 2**53), min_size=1, max_size=6))
def test_whole_numbers_that_pandas_made_floats_keep_their_text(drawn):
    filed, _ = lenient_texts(pd.Series(drawn, dtype="float64").to_numpy())
    assert filed.tolist() == [strict_category(value) for value in drawn]
    nullable, _ = lenient_texts(pd.Series(drawn, dtype="Int64").to_numpy())
    assert nullable.tolist() == filed.tolist()


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=6))
def test_integer_arrays_read_as_integers_do(drawn):
    array = np.array(drawn, dtype=np.int64)
    assert lenient_numbers(array)[0].tolist() == [strict_number(value) for value in drawn]
    assert lenient_texts(array)[0].tolist() == [strict_category(value) for value in drawn]


@given(st.lists(st.none() | texts, min_size=1, max_size=6))
def test_text_columns_of_pandas_and_numpy_keep_every_sign(drawn):
    assert lenient_texts(pd.Series(drawn, dtype="str").to_numpy())[0].tolist() == drawn
    assert lenient_texts(pd.Series(drawn, dtype="str"))[0].tolist() == drawn


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_time_arrays_of_every_unit_read_as_their_text_does(unit):
    moment = "2026-03-01T09:30:00.250" if unit != "s" else "2026-03-01T09:30:00"
    seconds, bad = lenient_times(np.array([moment, "NaT"], dtype=f"datetime64[{unit}]"))
    assert seconds[0] == strict_time(moment)
    assert math.isnan(seconds[1])
    assert not bad.any()


@given(st.lists(moments.map(lambda moment: moment.replace(tzinfo=None)), min_size=1, max_size=6))
def test_times_are_the_same_as_array_as_object_and_as_text(drawn):
    expected = [strict_time(moment.isoformat()) for moment in drawn]
    assert lenient_times(np.array(drawn, dtype="datetime64[us]"))[0].tolist() == expected
    assert lenient_times(drawn)[0].tolist() == expected
    aware = pd.Series(drawn, dtype="datetime64[us]").dt.tz_localize("UTC")
    assert lenient_times(aware.to_numpy())[0].tolist() == expected


def test_a_time_without_zone_is_utc_and_one_with_a_zone_is_that_moment():
    assert strict_time("2026-03-01T09:30:00") == strict_time("2026-03-01T09:30:00Z")
    assert strict_time("2026-03-01T11:30:00+02:00") == strict_time("2026-03-01T09:30:00Z")
    assert strict_time("1970-01-02") == 86_400.0
    east = datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert lenient_times([east, date(1970, 1, 2)])[0].tolist() == [0.0, 86_400.0]


def test_seconds_far_outside_the_calendar_are_taken_for_milliseconds():
    with pytest.raises(UnreadableValue, match="not milliseconds"):
        strict_time(1_700_000_000_000)
    seconds, bad = lenient_times(np.array([1_700_000_000_000, 5]))
    assert bad.tolist() == [True, False]
    assert math.isnan(seconds[0])


def test_a_file_reads_what_it_can_and_says_where_it_could_not():
    values = ["12.5", " 7 ", "", "abc", "1_000", None, math.nan, math.inf, True, Decimal("1.5")]
    numbers_read, bad = lenient_numbers(values)
    expected = [12.5, 7.0, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 1.0, 1.5]
    assert np.array_equal(numbers_read, expected, equal_nan=True)
    assert np.flatnonzero(bad).tolist() == [3, 4, 7]
    assert lenient_numbers([10**400, 1])[1].tolist() == [True, False]
    categories_read, bad = lenient_texts(["a", ["b"], "x" * 1001, pd.NA, pd.NaT, b"c", math.inf])
    assert categories_read.tolist() == ["a", None, None, None, None, "c", None]
    assert np.flatnonzero(bad).tolist() == [1, 2, 6]
    _, bad = lenient_times(["2026-03-01", "soon", "", None])
    assert bad.tolist() == [False, True, False, False]


def test_one_value_of_a_category_has_one_text():
    for value in (1, 1.0, np.int8(1), np.float32(1), Decimal(1), "1"):
        assert lenient_texts([value])[0].tolist() == ["1"]
    assert lenient_texts(np.array([True, False]))[0].tolist() == ["true", "false"]
    assert lenient_texts(np.array([1.5, -0.0, np.nan]))[0].tolist() == ["1.5", "0", None]
    assert lenient_texts([True, 1, 1.0])[0].tolist() == ["true", "1", "1"]
    assert strict_category(float(2**60)) == str(2**60)


def test_half_a_character_is_refused():
    with pytest.raises(UnreadableValue, match="Unicode"):
        strict_category("\ud800")
