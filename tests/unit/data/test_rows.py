"""What is known of the rows adds up, and none of them is dropped unsaid."""

import functools
import itertools
import math
import operator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hapredict.data import rows as rows_module
from hapredict.data.rows import SAMPLE_MAX, RowCounts, Survey, cut, usable
from hapredict.data.schema import Column, Schema, infer_schema
from hapredict.data.values import lenient_texts
from hapredict.errors import DataError
from hapredict.sections import DataSpec

TARGETS = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["是", "否", "a\x00", ""])
)


def spec(**changed):
    return DataSpec(**{"sources": ("orders.csv",), "target": "late", **changed})


def survey_of(values, **columns):
    return Survey.of({"late": np.array(values, object), **columns}, "late")


def pieces(values, cuts):
    """The values, cut at these places."""
    places = [0, *sorted(place % (len(values) + 1) for place in cuts), len(values)]
    return [values[start:end] for start, end in itertools.pairwise(places)]


class TestSurvey:
    @given(st.lists(TARGETS, max_size=30), st.lists(st.integers(0, 30), max_size=4))
    def test_surveys_add_up_however_the_rows_are_cut(self, values, cuts):
        parts = [survey_of(piece) for piece in pieces(values, cuts)]
        whole = survey_of(values)
        total = functools.reduce(operator.add, parts)
        assert total == whole
        texts, _ = lenient_texts(np.array(values, object))
        assert sum(whole.classes.values()) == sum(text is not None for text in texts)
        assert set(whole.classes) == {text for text in texts if text is not None}

    @given(st.lists(st.integers(0, 12), max_size=30), st.lists(st.integers(0, 30), max_size=4))
    def test_too_many_classes_are_too_many_however_the_rows_are_cut(self, values, cuts):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rows_module, "CLASSES_MAX", 5)
            parts = [survey_of(piece) for piece in pieces(values, cuts)]
            total, whole = functools.reduce(operator.add, parts), survey_of(values)
        assert (total.many_classes, total.classes) == (whole.many_classes, whole.classes)
        assert whole.many_classes == (len(set(values)) > 5)
        assert not (whole.many_classes and whole.classes)

    @given(st.integers(0, 3 * SAMPLE_MAX))
    def test_a_sample_is_small_and_spread_over_the_block(self, rows):
        (sample,) = Survey.of({"x": np.arange(rows)}, "late").sample.values()
        assert min(rows, SAMPLE_MAX // 2) <= len(sample) <= SAMPLE_MAX
        assert len(set(np.diff(sample))) <= 1
        assert rows == 0 or (sample[0] == 0 and rows - sample[-1] <= 1 + rows // len(sample))

    def test_missing_values_are_no_sample_and_times_stay_times(self):
        survey = Survey.of(
            {
                "late": np.array([0, 1, 1]),
                "收入": np.array([np.nan, 2.0, np.nan]),
                "性别": np.array([None, None, "女"], object),
                "at": np.array(["2026-01-01", "NaT", "2026-01-03"], "datetime64[ns]"),
                "nothing": np.array([None] * 3, object),
            },
            "late",
        )
        assert survey.sample["收入"] == (2.0,)
        assert survey.sample["性别"] == ("女",)
        assert [moment.day for moment in survey.sample["at"]] == [1, 3]
        assert survey.sample["nothing"] == ()
        assert survey.classes == {"0": 1, "1": 2}

    def test_columns_that_only_some_blocks_have_are_all_there(self):
        total = Survey.of({"a": np.array([1])}, "late") + survey_of(["no"], b=np.array([2]))
        assert total.sample == {"a": (1,), "late": ("no",), "b": (2,)}
        assert (total.rows, total.classes) == (2, {"no": 1})
        assert Survey.of({}, "late").rows == 0

    @pytest.mark.parametrize(
        ("columns", "where", "told"),
        [
            ({"late": [1, 1, 1]}, "late", "only one value"),
            ({"late": [None] * 3}, "late", "nothing to learn"),
            ({"late_flag": [0, 1, 1]}, "late_flag", "looks like the target"),
            ({"收入": [None] * 3}, "收入", "holds no value"),
            ({"distance": ["far", "near", "far"]}, "distance", "as a number"),
        ],
    )
    def test_data_that_nobody_can_learn_from_are_refused_by_column(self, columns, where, told):
        good = {"late": [0, 1, 1], "distance": [1.0, 2.0, 3.0], "carrier": ["a", "b", "a"]}
        arrays = {
            name: np.array(values, dtype=object) for name, values in {**good, **columns}.items()
        }
        survey = Survey.of(arrays, "late") + Survey.of(arrays, "late")
        with pytest.raises(DataError) as refused:
            infer_schema(spec(columns={"distance": "number"}), survey.sample, survey.classes)
        assert refused.value.exit_code == 1
        assert {problem.where for problem in refused.value.problems} == {where}
        assert told in str(refused.value)
        assert where in str(refused.value)


COUNTS = st.builds(RowCounts, *[st.integers(0, 10**6)] * 6)


class TestRowCounts:
    @given(COUNTS, COUNTS, COUNTS)
    def test_counts_add_up_in_any_order(self, one, two, three):
        assert (one + two) + three == one + (two + three)
        assert one + two == two + one
        assert one + RowCounts() == one

    def test_the_sentence_says_why_rows_are_left_out(self):
        assert RowCounts(1000, 1000).sentence() == "1,000 of 1,000 rows are used"
        assert RowCounts(9, 5, 1, 1, 2, 3).sentence() == (
            "5 of 9 rows are used (left out: 1 without a usable target; 1 without a time; "
            "2 with a missing feature); 3 have unreadable values"
        )


SCHEMA = Schema(
    (Column("收入", "number"), Column("性别", "category")), "late", "binary", ("0", "1"), time="at"
)
ROW = st.tuples(
    st.sampled_from([0.0, 1.0, np.nan]),
    st.sampled_from([5.0, np.nan]),
    st.sampled_from(["女", None]),
    st.sampled_from([7.0, np.nan]),
    st.booleans(),
)


def usable_of(rows, the_spec, schema=SCHEMA):
    labels, incomes, sexes, times, bad = zip(*rows, strict=True) if rows else [()] * 5
    table = {
        "收入": np.array(incomes, float),
        "性别": np.array(sexes, object),
        "at": np.array(times, float),
    }
    return usable(table, np.array(labels, float), np.array(bad, bool), schema, the_spec)


class TestUsable:
    @given(st.lists(ROW), st.sampled_from(["keep", "drop"]), st.integers(0, 99))
    def test_each_row_is_used_or_counted_under_one_reason(self, rows, missing_values, place):
        the_spec = spec(time="at", missing_values=missing_values)
        used, counts = usable_of(rows, the_spec)
        reasons = counts.without_target + counts.without_time + counts.with_missing
        assert counts.used == used.sum()
        assert counts.rows == len(rows) == counts.used + reasons
        assert counts.unreadable == sum(row[4] for row in rows)
        for (label, income, sex, at, _), kept in zip(rows, used, strict=True):
            whole = sex is not None and not math.isnan(income)
            there = not (math.isnan(label) or math.isnan(at))
            assert kept == (there and (whole or missing_values == "keep"))
        split = place % (len(rows) + 1)
        parts = [usable_of(part, the_spec)[1] for part in (rows[:split], rows[split:])]
        assert parts[0] + parts[1] == counts

    def test_without_a_time_column_no_row_needs_a_time(self):
        schema = Schema(SCHEMA.features, "late", "binary", ("0", "1"))
        used, counts = usable_of([(1.0, 5.0, "女", np.nan, False)], spec(), schema)
        assert used.tolist() == [True]
        assert counts.without_time == 0

    def test_a_missing_target_can_be_an_error(self):
        rows = [(1.0, 5.0, "女", 7.0, False), (np.nan, 5.0, "女", 7.0, False)]
        strict = spec(time="at", rows_without_target="fail")
        with pytest.raises(DataError, match=r"late: 1 of 2 rows .* row 1 of its block"):
            usable_of(rows, strict)
        assert usable_of(rows[:1], strict)[1].used == 1


SHARES = st.floats(0.01, 0.49)


class TestCut:
    @given(st.lists(st.integers(0, 15).map(float), max_size=60), SHARES, SHARES)
    @example([], 0.1, 0.1)
    def test_times_never_mix_and_no_part_is_empty(self, times, validation_share, holdout_share):
        order = np.array(times)
        try:
            validation_from, held_from = cut(order, validation_share, holdout_share)
        except DataError:
            return
        training = order[order < validation_from]
        validation = order[(order >= validation_from) & (order < held_from)]
        held = order[order >= held_from]
        assert len(training)
        assert len(validation)
        assert len(held)
        # strictly: so equal moments are in one part
        assert training.max() < validation.min()
        assert validation.max() < held.min()

    @given(st.integers(10, 300), SHARES, SHARES, st.randoms())
    def test_different_times_are_split_by_the_shares_in_any_order(
        self, rows, validation_share, holdout_share, random
    ):
        order = np.array(random.sample(range(rows), rows), float)
        training_share = 1 - validation_share - holdout_share
        if min(validation_share, holdout_share, training_share) * rows < 1:
            return
        validation_from, held_from = cut(order, validation_share, holdout_share)
        assert abs((order >= held_from).sum() - holdout_share * rows) <= 1
        both = holdout_share + validation_share
        assert abs((order >= validation_from).sum() - both * rows) <= 1
        assert cut(np.sort(order), validation_share, holdout_share) == (validation_from, held_from)

    @pytest.mark.parametrize("times", [[], [1.0], [1.0] * 50, [1.0, 2.0] * 50])
    def test_too_few_moments_are_refused_in_words(self, times):
        with pytest.raises(DataError, match=r"cannot be split|no row is left"):
            cut(np.array(times), 0.1, 0.1)

    def test_a_row_on_the_edge_falls_into_the_later_part(self):
        order = np.array([0.0] * 6 + [1.0] * 2 + [2.0] * 2)
        assert cut(order, 0.2, 0.2) == (1.0, 2.0)
