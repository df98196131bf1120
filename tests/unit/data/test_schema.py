"""The strict door names each faulty field; the lenient one reads files."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype

from hapredict.data.schema import ABSENT, Column, Schema, columns_of, concat, rows_of, take
from hapredict.errors import BadRequest, DataError, SchemaMismatch

SCHEMA = Schema(
    (Column("distance", "number"), Column("收入", "number"), Column("性别", "category")),
    target="late",
    task="binary",
    classes=("0", "1"),
    time="at",
    id="order",
)


def request(**changed):
    return {"distance": [1.5, 2], "收入": [None, 10], "性别": ["女", None], **changed}


def problems(columns, **how):
    with pytest.raises(SchemaMismatch) as refused:
        SCHEMA.table(columns, **how)
    assert refused.value.status == 422
    return {problem.where: problem.what for problem in refused.value.problems}


def test_a_request_becomes_a_table_of_canonical_values():
    table = SCHEMA.table(request(at=["1970-01-01T00:01:00Z", 5], order=["a", 7]))
    assert table["distance"].tolist() == [1.5, 2.0]
    assert math.isnan(table["收入"][0])
    assert table["性别"].tolist() == ["女", None]
    assert table["at"].tolist() == [60.0, 5.0]
    assert table["order"].tolist() == ["a", "7"]
    assert rows_of(table) == 2


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([1, "abc"], "must be a number or null; got the text 'abc'"),
        ([1, True], "must be a number or null; got true"),
        ([1, [2]], "must be a number or null; got a list"),
        ([1, math.nan], "is not a finite number; send null if it is unknown"),
        ([1, -math.inf], "is not a finite number; send null if it is unknown"),
        ([1, 10**400], "is too large for a number; got a very long number"),
        ([1, ABSENT], "is missing; send null if it is unknown"),
    ],
)
def test_a_faulty_number_is_named_by_row_and_field(values, what):
    assert problems(request(收入=values)) == {"rows[1].收入": what}


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ([], "must be a text, a number, true, false or null; got a list"),
        ({}, "must be a text, a number, true, false or null; got an object"),
        ("x" * 1001, "is too long (1001 characters); at most 1000 can be a category"),
        (math.nan, "is not a finite number; send null if it is unknown"),
        ("\udc00", "is no valid Unicode text (it holds half of a character)"),
    ],
)
def test_a_faulty_category_is_named_by_row_and_field(value, what):
    assert problems(request(性别=[value, "男"])) == {"rows[0].性别": what}


def test_faulty_times_and_ids_are_named_too():
    found = problems(request(at=["soon", True], order=[1.5, True]))
    assert set(found) == {"rows[0].at", "rows[1].at", "rows[0].order", "rows[1].order"}
    assert "such as '2026-03-01T09:30:00Z'" in found["rows[0].at"]


def test_a_missing_field_an_unknown_one_and_the_target_are_all_reported_at_once():
    columns = request(distanze=[1, 2], late=[0, 1], q=[1, 2])
    del columns["性别"]
    assert problems(columns) == {
        "distanze": "no such column; did you mean 'distance'?",
        "late": "is what the model predicts; leave it out",
        "q": "no such column; the model has 'distance', '收入', '性别', 'at', 'order'",
        "性别": "is missing; send null if it is unknown",
    }


def test_columns_of_different_length_or_no_list_at_all_are_refused():
    assert problems(request(收入=[1])) == {"收入": "has 1 values where 'distance' has 2"}
    assert problems(request(性别=["女"])) == {"性别": "has 1 values where 'distance' has 2"}
    assert problems(request(order=["a"])) == {"order": "has 1 values where 'distance' has 2"}
    assert problems(request(distance=5)) == {
        "distance": "must be a list of values; got the number 5"
    }
    assert problems(request(性别="女男")) == {
        "性别": "must be a list of values; got the text '女男'"
    }


def test_at_most_twenty_problems_are_listed():
    assert len(problems({"distance": ["x"] * 100, "收入": ["x"] * 100, "性别": [[]] * 100})) == 20


def test_a_model_whose_clock_runs_on_time_asks_for_it():
    what = "is missing; the model's clock runs on it"
    assert problems(request(), time_required=True) == {"at": what}
    assert list(problems(request(at=[5, None]), time_required=True)) == ["rows[1].at"]
    assert problems(request(at=[5, ABSENT]), time_required=True) == {"rows[1].at": what}
    assert SCHEMA.table(request(at=[5, 6]), time_required=True)["at"].tolist() == [5.0, 6.0]


def test_rows_become_columns_and_a_field_that_one_row_lacks_is_named_there():
    rows = [{"distance": 1, "收入": 2, "性别": "女"}, {"distance": 1, "性别": "男"}]
    assert problems(columns_of(rows)) == {"rows[1].收入": "is missing; send null if it is unknown"}
    rows[0]["order"] = "a"
    rows[1]["收入"] = None
    assert SCHEMA.table(columns_of(rows))["order"].tolist() == ["a", None]


def test_a_request_without_rows_is_an_empty_table():
    assert rows_of(SCHEMA.table({"distance": [], "收入": [], "性别": []})) == 0


def test_arrays_are_taken_like_lists():
    table = SCHEMA.table(request(distance=np.array([1, 2]), 收入=(3, 4)))
    assert table["distance"].tolist() == [1.0, 2.0]
    assert table["收入"].tolist() == [3.0, 4.0]


KINDS = {
    "distance": "bhilBHILefd",
    "性别": "?bhilBHILefd",
    "at": "bhilBHILefd",
    "order": "bhilBHIL",
}


@given(st.data(), st.sampled_from(sorted(KINDS)))
def test_an_array_is_read_as_the_list_of_its_values(data, name):
    kind = np.dtype(data.draw(st.sampled_from(KINDS[name])))
    values = data.draw(arrays(kind, 2, elements=from_dtype(kind)))
    plain = [None if value != value else value for value in values.tolist()]  # noqa: PLR0124
    outcomes = []
    for column in (values, plain):
        try:
            outcomes.append(SCHEMA.table(request(**{name: column})))
        except SchemaMismatch as refused:
            outcomes.append(str(refused))
    by_array, by_list = outcomes
    if isinstance(by_array, str):
        assert by_array == by_list
    else:
        assert by_array.keys() == by_list.keys()
        for column in by_array:
            np.testing.assert_array_equal(by_array[column], by_list[column])
            assert by_array[column].dtype == by_list[column].dtype


def test_arrays_of_all_fields_are_read_wherever_a_field_stands():
    fields = (Column("a", "category"), Column("b", "number"), Column("c", "category"))
    schema = Schema((*fields, Column("d", "number")), "y", "regression", time="t", id="i")
    columns = {name: np.array([3, 4], np.int32) for name in "abcdti"}
    table = schema.table(columns, time_required=True)
    for name in "abcdti":
        assert table[name].tolist() == (["3", "4"] if name in "aci" else [3.0, 4.0])


def test_nan_in_an_array_is_missing_and_infinity_is_told_with_its_row():
    table = SCHEMA.table(request(distance=np.array([1, np.nan], np.float32)))
    assert np.isnan(table["distance"]).tolist() == [False, True]
    told = problems(request(distance=np.array([np.nan, np.inf])))
    assert told == {"rows[1].distance": "is not a finite number; send null if it is unknown"}
    assert list(problems(request(收入=np.array([True, False])))) == ["rows[0].收入", "rows[1].收入"]


def test_an_array_is_as_long_as_the_others_has_one_dimension_and_every_time():
    assert list(problems(request(distance=np.array([1.0])))) == ["收入", "性别"]
    assert "rows[0].distance" in problems(request(distance=np.ones((2, 1))))
    assert list(problems(request(at=np.array([5, np.nan])), time_required=True)) == ["rows[1].at"]
    assert list(problems(request(distance=np.ones(2)), time_required=True)) == ["at"]


def test_whole_numbers_beyond_a_floats_precision_are_taken():
    assert SCHEMA.table(request(distance=[2**53 + 1, 2**80]))["distance"][1] == 2.0**80


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*request(), "at", "order", "late", "x"]), anything))
def test_any_json_gives_a_table_or_a_refusal_and_nothing_else(columns):
    try:
        table = SCHEMA.table(columns)
    except SchemaMismatch as refused:
        assert 1 <= len(refused.problems) <= 20  # noqa: PT017 - either outcome is lawful
    else:
        assert np.isfinite(table["distance"][~np.isnan(table["distance"])]).all()
        assert all(value is None or type(value) is str for value in table["性别"])


@given(st.lists(anything, min_size=1, max_size=4))
def test_a_file_never_fails_on_a_value(values):
    filler = [None] * len(values)
    for name in ("distance", "性别", "at", "order"):
        columns = {"distance": filler, "收入": filler, "性别": filler, name: values}
        table, unreadable = SCHEMA.frame(columns)
        assert len(unreadable) == rows_of(table) == len(values)


def test_a_file_counts_rows_that_could_not_be_read_and_leaves_other_columns_out():
    columns = {**request(distance=["x", 1.0], 收入=np.array([np.inf, 2])), "late": [0, 1], "q": [1]}
    table, unreadable = SCHEMA.frame(columns)
    assert unreadable.tolist() == [True, False]
    assert list(table) == ["distance", "收入", "性别"]


def test_a_file_without_a_feature_or_with_ragged_columns_is_refused():
    with pytest.raises(DataError, match="收入: no such column"):
        SCHEMA.frame({"distance": [1], "性别": ["a"]})
    with pytest.raises(DataError, match="different lengths"):
        SCHEMA.frame(request(distance=[1]))


def test_labels_are_places_of_classes_and_unknown_ones_are_missing():
    labels = SCHEMA.labels([0, 1.0, "1", True, None, 2, []])
    assert np.array_equal(labels, [0, 1, 1, 1, np.nan, np.nan, np.nan], equal_nan=True)
    assert SCHEMA.labels(np.array([0.0, np.nan, 1.0]))[2] == 1
    several = Schema(SCHEMA.features, "类别", "multiclass", ("低", "高"))
    assert several.labels(["高", "低"]).tolist() == [1.0, 0.0]
    assert several.outputs == 2
    amount = Schema(SCHEMA.features, "amount", "regression")
    assert amount.labels([1, 2.5]).tolist() == [1.0, 2.5]
    assert amount.outputs == SCHEMA.outputs == 1


def test_one_label_is_known_or_refused_with_the_known_ones():
    assert SCHEMA.label_of(1) == SCHEMA.label_of(True) == SCHEMA.label_of("1") == 1.0
    for value in (2, None, [1], math.nan):
        with pytest.raises(BadRequest, match=r"'late' must be one of '0', '1'; got"):
            SCHEMA.label_of(value)
    amount = Schema(SCHEMA.features, "amount", "regression")
    assert amount.label_of(3) == 3.0
    for value in ("3", None, math.inf, True):
        with pytest.raises(BadRequest, match="must be a number"):
            amount.label_of(value)


def test_a_schema_survives_json_and_pickle():
    again = Schema.from_json(json.loads(json.dumps(SCHEMA.to_json())))
    assert again == SCHEMA
    moved = pickle.loads(pickle.dumps(again))  # noqa: S301 - our own bytes
    assert moved.table(request()).keys() == SCHEMA.table(request()).keys()


def test_the_example_is_accepted():
    example = {name: [value] for name, value in SCHEMA.example().items()}
    assert rows_of(SCHEMA.table(example, time_required=True)) == 1


def test_rows_can_be_taken_and_put_together_again():
    table = SCHEMA.table(request())
    parts = [take(table, np.array([place])) for place in range(2)]
    again = concat(parts)
    assert all(np.array_equal(again[name][1:], table[name][1:]) for name in table)
    assert rows_of(take(table, np.array([True, False]))) == 1
    assert concat([]) == {}


def test_a_column_that_one_table_lacks_is_missing_in_its_rows():
    named = SCHEMA.table(request(at=[5, 6], order=["a", "b"]))
    for tables in ([named, SCHEMA.table(request())], [SCHEMA.table(request()), named]):
        together = concat(tables)
        assert rows_of(together) == len(together["at"]) == len(together["order"]) == 4
        assert sorted(map(str, together["order"])) == ["None", "None", "a", "b"]
        assert np.isnan(together["at"]).sum() == 2


def test_a_table_without_columns_has_no_rows():
    assert rows_of({}) == 0
