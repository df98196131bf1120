"""Summaries of blocks add up to the summary of the whole, however the data were split."""

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.data.schema import Column, Schema, take
from hapredict.errors import DataError
from hapredict.features import histogram, stats
from hapredict.features.plan import FeaturePlan
from hapredict.features.stats import CategoryStats, NumberStats, TableStats, exact_sum
from hapredict.sections import FeatureSpec

SCHEMA = Schema((Column("收入", "number"), Column("城市", "category")), "y", "binary", ("0", "1"))


def make(rows, seed=0):
    rng = np.random.default_rng(seed)
    income = rng.lognormal(8, 2, rows) * rng.choice([-1.0, 1.0], rows)
    income[rng.random(rows) < 0.2] = np.nan
    income[rng.random(rows) < 0.2] = 0.0
    cities = np.array([None, "北京", "上海", "Zürich", "深圳"], dtype=object)
    return {"收入": income, "城市": cities[rng.integers(0, 5, rows)]}


def add_up(parts):
    total = TableStats.empty()
    for part in parts:
        total = total + part
    return total


def split(table, rng, parts_max):
    rows = len(table["收入"])
    groups = rng.integers(0, rng.integers(1, parts_max + 1), rows)
    return [
        TableStats.of(take(table, rng.permutation(np.flatnonzero(groups == group))), SCHEMA)
        for group in rng.permutation(groups.max() + 1)
    ]


def as_text(summary):
    plan = FeaturePlan.from_stats(summary, SCHEMA, FeatureSpec())
    return json.dumps([summary.to_json(), plan.to_json()])


def test_a_thousand_random_splits_give_one_summary(monkeypatch):
    monkeypatch.setattr(histogram, "BUCKETS_MAX", 48)
    table = make(120)
    whole = TableStats.of(table, SCHEMA)
    assert whole.numbers["收入"].histogram.drop > 0
    rng = np.random.default_rng(1)
    for _ in range(1000):
        assert add_up(split(table, rng, 4)) == whole


def test_splits_of_many_rows_give_one_summary_and_one_plan():
    table = make(30_000)
    whole = TableStats.of(table, SCHEMA)
    expected = as_text(whole)
    assert whole.numbers["收入"].histogram.drop > 0
    rng = np.random.default_rng(2)
    for _ in range(15):
        parts = split(table, rng, 6)
        assert as_text(add_up(parts)) == expected
        assert as_text(add_up(parts[:2]) + add_up(parts[2:])) == expected


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=50))
def test_sums_are_exact(values):
    total = exact_sum(np.array(values, dtype=np.float64))
    assert Fraction(total, 2**1126) == sum(map(Fraction, values))


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=50))
def test_the_mean_is_the_correctly_rounded_one(values):
    summary = NumberStats.of(np.array(values))
    assert summary.mean == float(sum(map(Fraction, values)) / len(values))
    assert (summary.minimum, summary.maximum) == (min(values), max(values))


def test_missing_values_are_counted_and_no_more():
    summary = NumberStats.of(np.array([np.nan, 2.0, np.nan, -0.0]))
    assert (summary.missing, summary.count, summary.mean) == (2, 2, 1.0)
    assert math.copysign(1, summary.minimum) == 1
    nothing = NumberStats.of(np.array([np.nan]))
    assert (nothing.missing, nothing.count, nothing.mean) == (1, 0, 0.0)
    assert nothing + summary == summary + nothing
    assert (nothing + summary).minimum == 0.0


def test_nothing_added_changes_nothing():
    whole = TableStats.of(make(100), SCHEMA)
    assert whole + TableStats.empty() == TableStats.empty() + whole == whole
    assert TableStats.empty() + TableStats.empty() == TableStats.empty()


def test_a_summary_survives_json():
    whole = TableStats.of(make(10_000), SCHEMA)
    assert TableStats.from_json(json.loads(json.dumps(whole.to_json()))) == whole


def test_levels_are_ranked_by_count_and_then_by_text():
    summary = CategoryStats.of(np.array(["b", "a", None, "c", "c", "é", "北"], dtype=object))
    assert summary.most_frequent(10) == ("c", "a", "b", "é", "北")
    assert summary.most_frequent(2) == ("c", "a")
    assert (summary.missing, summary.count) == (1, 6)


def test_a_column_that_names_rows_is_no_category(monkeypatch):
    monkeypatch.setattr(stats, "LEVELS_MAX", 3)
    few = {"收入": np.zeros(2), "城市": np.array(["a", "b"], dtype=object)}
    others = {"收入": np.zeros(2), "城市": np.array(["c", "d"], dtype=object)}
    first, second = TableStats.of(few, SCHEMA), TableStats.of(others, SCHEMA)
    with pytest.raises(DataError, match="城市: has more than 3 different values"):
        first + second
