"""A sample and the spec give a schema, or all that is wrong at once."""

import numpy as np
import pytest

from hapredict.data.infer import leaks
from hapredict.data.schema import infer_schema
from hapredict.errors import DataError
from hapredict.sections import DataSpec

LONG = [f"the {place} parcel was left at the back door of the house" for place in range(10)]


def spec(**changed):
    return DataSpec(**{"sources": ("orders.csv",), "target": "late", **changed})


def sample(**changed):
    return {"distance": np.arange(10.0), "late": np.array([0, 1] * 5), **changed}


def problems(the_spec, the_sample, classes=None):
    with pytest.raises(DataError) as refused:
        infer_schema(the_spec, the_sample, classes)
    return {problem.where: problem.what for problem in refused.value.problems}


def test_kinds_follow_the_values_and_text_and_times_are_left_out():
    schema = infer_schema(
        spec(),
        sample(
            收入=np.array([1, 2] * 5),
            性别=["男", "女"] * 5,
            member=np.array([True, False] * 5),
            maybe=[True, None] * 5,
            note=LONG,
            seen=np.array(["2026-01-01"] * 10, dtype="datetime64[us]"),
            day=["2026-01-01", None] * 5,
            mixed=[1, "a"] * 5,
            whole=[1, None] * 5,
        ),
    )
    assert schema.numbers == ("distance", "收入", "whole")
    assert schema.categories == ("性别", "member", "maybe", "mixed")
    assert schema.task == "binary"
    assert schema.classes == ("0", "1")


def test_declared_kinds_win():
    columns = {"distance": "category", "note": "category", "code": "text"}
    schema = infer_schema(spec(columns=columns), sample(note=LONG, code=["a", "b"] * 5))
    assert schema.categories == ("distance", "note")
    assert schema.numbers == ()


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["yes", "no"], "binary", ("no", "yes")),
        (["ok", "no"], "binary", ("no", "ok")),
        (["a", "No"], "binary", ("No", "a")),
        (["是", "否"], "binary", ("否", "是")),
        ([True, False], "binary", ("false", "true")),
        ([10, 9], "binary", ("9", "10")),
        ([-1, 1], "binary", ("-1", "1")),
        (["late", "early"], "binary", ("early", "late")),
        ([3, 10, 2], "multiclass", ("2", "3", "10")),
        ([1.0, 2.0, None], "binary", ("1", "2")),
        (["低", "高", "中"], "multiclass", ("中", "低", "高")),
        ([0.5, 1.5, 2.5], "regression", ()),
        (list(range(21)), "regression", ()),
    ],
)
def test_the_task_and_its_classes_follow_the_target(values, task, classes):
    schema = infer_schema(spec(), {"distance": np.arange(len(values)), "late": values})
    assert (schema.task, schema.classes) == (task, classes)


def test_counts_over_all_rows_outvote_the_sample():
    only = sample(late=np.zeros(10))
    assert "only one value" in problems(spec(), only)["late"]
    schema = infer_schema(spec(), only, {"0": 990, "1": 10})
    assert schema.classes == ("0", "1")


def test_targets_that_do_not_fit_the_task_are_refused():
    three = sample(late=["a", "b", "c", "a", "b", "c", "a", "b", "c", "a"])
    assert (
        "has 3 values where data.task: binary needs two"
        in problems(spec(task="binary"), three)["late"]
    )
    assert "can be read as a number" in problems(spec(task="regression"), three)["late"]
    assert "holds no value" in problems(spec(), sample(late=[None] * 10))["late"]
    many = {str(place): 1 for place in range(1001)}
    assert "at most 1000 classes" in problems(spec(task="multiclass"), sample(), many)["late"]


def test_everything_wrong_is_reported_at_once():
    found = problems(
        spec(time="att", id="order", columns={"distence": "number"}, exclude=("cancel_reason",)),
        {
            "distance": np.arange(4.0),
            "at": np.arange(4),
            "empty": np.full(4, np.nan),
            "late_flag": np.array([0, 1, 0, 1]),
            "late": np.zeros(4),
        },
    )
    assert set(found) == {
        "att", "order", "distence", "cancel_reason", "empty", "late_flag", "late",
    }  # fmt: skip
    assert "did you mean 'distance'" in found["distence"]
    assert "data.exclude names it" in found["cancel_reason"]
    assert "data.exclude" in found["late_flag"]
    assert "data.columns" in found["late_flag"]
    assert "data.columns" in found["empty"]


def test_a_leak_is_let_in_by_declaring_it_and_kept_out_by_excluding_it():
    leaky = sample(late_count=np.arange(10))
    assert "late_count" in problems(spec(), leaky)
    declared = infer_schema(spec(columns={"late_count": "number"}), leaky)
    assert "late_count" in declared.numbers
    assert infer_schema(spec(exclude=("late_count",)), leaky).numbers == ("distance",)


def test_columns_that_cannot_be_read_as_declared_are_refused():
    found = problems(
        spec(columns={"word": "number"}, time="at"), sample(word=["a"] * 10, at=["soon"] * 10)
    )
    assert "the text 'a'" in found["word"]
    assert "the text 'soon'" in found["at"]


def test_a_time_column_without_values_is_refused():
    found = problems(spec(time="at"), sample(at=[None] * 10))
    assert found == {"at": "is data.time, and holds no value"}


def test_columns_of_a_sample_may_have_different_lengths():
    schema = infer_schema(spec(), {"distance": (1.0, 2.0, 3.0), "late": (0, 1), "性别": ("男",)})
    assert [column.kind for column in schema.features] == ["number", "category"]


def test_a_model_needs_a_feature():
    assert "no column can be a feature" in problems(spec(), {"late": [0, 1]})[""]


@pytest.mark.parametrize(
    ("feature", "target", "held"),
    [
        ("is_late", "late", True),
        ("late_flag", "late", True),
        ("Target Late", "late", True),
        ("wasLate", "late", True),
        ("LATE", "late", True),
        ("latest", "late", False),
        ("plate", "late", False),
        ("islate", "is_late", True),
        ("is_late_2", "is_late", True),
        ("late_is", "is_late", False),
        ("y", "y", True),
        ("Y", "y", True),
        ("y_coord", "y", False),
        ("是否晚点", "晚点", True),
        ("晚点", "是否晚点", False),
        ("早点", "晚点", False),
        ("性别", "收入", False),
        ("__", "_", False),
    ],
)
def test_names_leak_word_by_word(feature, target, held):
    assert leaks(feature, target) is held
