"""One plan turns raw columns into matrices and bins, the same wherever it runs."""

import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hapredict.data.schema import Column, Schema, take
from hapredict.features.plan import SCALED_MAX, FeaturePlan, count_bins
from hapredict.features.stats import TableStats
from hapredict.sections import FeatureSpec

SCHEMA = Schema(
    (Column("金额", "number"), Column("城市", "category"), Column("month", "number")),
    "y",
    "binary",
    ("0", "1"),
)
ONE = Schema((Column("x", "number"),), "y", "binary", ("0", "1"))


def make(rows=5000, seed=0):
    rng = np.random.default_rng(seed)
    amount = rng.lognormal(3, 1, rows)
    amount[rng.random(rows) < 0.3] = 0.0
    amount[rng.random(rows) < 0.1] = np.nan
    cities = np.array([None, *(f"城{place}" for place in range(60))], dtype=object)
    return {
        "金额": amount,
        "城市": cities[np.minimum(rng.geometric(0.06, rows) - 1, 60)],
        "month": rng.integers(1, 13, rows).astype(np.float64),
    }


def fit(table, schema=SCHEMA, **spec):
    return FeaturePlan.from_stats(TableStats.of(table, schema), schema, FeatureSpec(**spec))


def fit_one(values, **spec):
    return fit({"x": np.array(values, dtype=np.float64)}, ONE, **spec)


TABLE = make()
PLAN = fit(TABLE)


def test_matrices_have_the_shapes_and_types_that_a_network_takes():
    made = PLAN.apply(TABLE)
    assert PLAN.features == ("金额", "month", "城市")
    assert made.numbers.shape == (5000, 4)
    assert made.numbers.dtype == np.float32
    assert made.categories.shape == (5000, 1)
    assert made.categories.dtype == np.int32
    missing = np.isnan(TABLE["金额"])
    assert np.array_equal(made.numbers[:, 2], missing)
    assert np.all(made.numbers[missing, 0] == 0)
    assert 0 < made.categories.max() < PLAN.level_counts[0]


def test_missing_unseen_and_known_levels_have_codes_of_their_own():
    table = {
        "金额": np.array([np.nan, 1.0, 2.0]),
        "month": np.array([1.0, 2.0, 3.0]),
        "城市": np.array([None, "新城", "城0"], dtype=object),
    }
    assert PLAN.apply(table).categories[:, 0].tolist()[:2] == [0, 1]
    assert PLAN.bins(table)[:, 2].tolist()[:2] == [0, 1]
    assert PLAN.bins(table)[0, 0] == 0
    assert PLAN.bin_labels("城市")[PLAN.bins(table)[2, 2]] == "城0"


def test_levels_beyond_the_limit_are_unseen_and_rare_ones_are_counted_together():
    plan = fit(TABLE, levels_max=20, bins_max=5)
    assert plan.level_counts == (22,)
    assert plan.bin_totals[2] == 2 + 5 + 1
    assert plan.bin_labels("城市")[-1] == "other"
    codes = plan.apply(TABLE).categories[:, 0]
    bins = plan.bins(TABLE)[:, 2]
    assert np.array_equal(bins[codes < 7], codes[codes < 7])
    assert np.all(bins[codes >= 7] == 7)
    few = fit(TABLE, levels_max=5, bins_max=5)
    assert few.bin_totals[2] == 2 + 5
    assert "other" not in few.bin_labels("城市")


def test_counts_of_bins_are_counts_of_rows():
    counts = count_bins(PLAN.bins(TABLE), PLAN.bin_totals)
    assert counts.dtype == np.int64
    assert len(counts) == sum(PLAN.bin_totals)
    ends = np.cumsum(PLAN.bin_totals)
    assert np.add.reduceat(counts, [0, *ends[:-1]]).tolist() == [5000] * 3
    assert counts[0] == np.isnan(TABLE["金额"]).sum()
    parts = [take(TABLE, np.arange(5000) % 3 == part) for part in range(3)]
    again = sum(count_bins(PLAN.bins(part), PLAN.bin_totals) for part in parts)
    assert np.array_equal(again, counts)
    assert count_bins(np.empty((0, 3), dtype=np.int32), PLAN.bin_totals).tolist() == [0] * len(
        counts
    )


def test_quantile_bins_hold_equal_shares_and_a_frequent_value_has_its_own():
    counts = count_bins(PLAN.bins(TABLE), PLAN.bin_totals)[: PLAN.bin_totals[0]]
    labels = PLAN.bin_labels("金额")
    zeros = int(np.sum(TABLE["金额"] == 0))
    present = 5000 - counts[0]
    assert counts[labels.index("< 0")] == 0
    assert zeros in counts
    rest = [count for count in counts[1:] if count not in (0, zeros)]
    assert max(rest) <= 1.1 * present / 32


def test_labels_are_readable():
    plan = fit_one([3, 3, 7, 12.5, np.nan])
    assert plan.bin_labels("x") == ("missing", "< 3", "3 to 7", "7 to 12.5", "12.5", "> 12.5")
    coarse = fit_one(np.arange(1000.0), bins_max=4)
    assert coarse.bin_labels("x") == ("missing", "< 250", "250 to 500", "500 to 750", ">= 750")
    table = {"x": np.array([np.nan, -5, 250, 999.0])}
    assert coarse.bins(table)[:, 0].tolist() == [0, 1, 2, 4]
    assert len(fit_one(1.7e9 + np.arange(1000.0)).bin_labels("x")) == 33
    stamps = fit_one(1.7e9 + np.arange(1000.0), bins_max=2).bin_labels("x")
    assert stamps == ("missing", "< 1700000500", ">= 1700000500")
    named = fit({**make(3), "城市": np.array(["other", "a", "a"], dtype=object)})
    assert named.bin_labels("城市") == ("missing", "unseen", "a", '"other"')
    with pytest.raises(KeyError):
        PLAN.bin_labels("no")


def test_every_bin_has_a_label_and_labels_differ():
    for name, total in zip(PLAN.features, PLAN.bin_totals, strict=True):
        labels = PLAN.bin_labels(name)
        assert len(set(labels)) == len(labels) == total


finite = st.floats(allow_nan=False, allow_infinity=False)
learned = st.lists(finite | st.sampled_from([0.0, 1.0, 5e-324, 1.7e308, -1.7e308]), max_size=30)


@given(learned, hnp.arrays(np.float64, 12, elements=finite), st.integers(2, 40))
def test_any_finite_input_gives_finite_outputs_and_lawful_bins(values, inputs, bins_max):
    plan = fit_one(values, bins_max=bins_max)
    numbers = plan.apply({"x": inputs}).numbers
    assert np.isfinite(numbers).all()
    assert np.abs(numbers[:, 0]).max() <= SCALED_MAX
    bins = plan.bins({"x": inputs})[:, 0]
    assert bins.min() >= 1
    assert bins.max() < plan.bin_totals[0]
    order = np.argsort(inputs, kind="stable")
    assert np.all(np.diff(bins[order]) >= 0)
    assert np.all(np.diff(numbers[order, 0]) >= 0)


@given(learned, st.integers(2, 40))
def test_edges_grow_strictly_and_are_floats_of_32_bits(values, bins_max):
    (edges,) = fit_one(values, bins_max=bins_max).edges_scaled
    assert len(edges) >= 2
    assert all(low < high for low, high in pairwise(edges))
    assert all(math.isfinite(edge) and float(np.float32(edge)) == edge for edge in edges)


@given(learned, hnp.arrays(np.float64, 5, elements=st.floats(allow_infinity=False)))
def test_one_row_and_many_rows_give_the_same(values, inputs):
    plan = fit_one([*values, 1.0, 2.0, 3.0])
    many = np.resize(inputs, 20)
    for place, value in enumerate(inputs):
        alone = {"x": np.array([value])}
        assert plan.bins(alone)[0, 0] == plan.bins({"x": many})[place, 0]
        assert np.array_equal(plan.apply(alone).numbers[0], plan.apply({"x": many}).numbers[place])


def test_an_empty_or_constant_column_is_allowed():
    empty = fit_one([np.nan, np.nan])
    assert empty.bin_totals == (2,)
    assert empty.bin_labels("x") == ("missing", "any value")
    assert empty.bins({"x": np.array([np.nan, 4.0])})[:, 0].tolist() == [0, 1]
    constant = fit_one([5.0] * 10)
    assert constant.numbers[0].scale == 1.0
    assert constant.bin_labels("x") == ("missing", "< 5", "5", "> 5")
    assert constant.apply({"x": np.array([5.0])}).numbers.tolist() == [[0.0, 0.0]]
    nothing = FeaturePlan.from_stats(
        TableStats.of({"x": np.array([None], dtype=object)}, LEVELS := Schema(
            (Column("x", "category"),), "y", "binary", ("0", "1")
        )),
        LEVELS,
        FeatureSpec(),
    )  # fmt: skip
    assert nothing.level_counts == (2,)
    assert nothing.apply({"x": np.array(["a"], dtype=object)}).numbers.shape == (1, 0)


def test_one_absurd_value_does_not_squeeze_the_others():
    values = np.append(np.random.default_rng(0).normal(10, 2, 1000), 1e300)
    plan = fit_one(values)
    assert plan.numbers[0].mean == pytest.approx(10, abs=0.3)
    assert plan.numbers[0].scale == pytest.approx(2, rel=0.1)
    assert len(plan.edges_scaled[0]) == 33


def test_scaling_is_near_mean_zero_and_spread_one():
    rng = np.random.default_rng(0)
    for values in (
        rng.normal(5, 3, 20_000),
        rng.uniform(-1, 1, 20_000),
        1.7e9 + rng.normal(size=9999),
    ):
        scaled = fit_one(values).apply({"x": values}).numbers[:, 0]
        assert abs(float(scaled.mean())) < 0.05
        assert 0.9 < float(scaled.std()) < 1.1
    rare = np.zeros(1000)
    rare[:5] = 1.0
    assert fit_one(rare).numbers[0].scale == pytest.approx(rare.std())


def test_a_plan_survives_json_and_pickle_to_the_bit():
    for again in (
        FeaturePlan.from_json(json.loads(json.dumps(PLAN.to_json(), ensure_ascii=False))),
        pickle.loads(pickle.dumps(PLAN)),  # noqa: S301 - our own bytes
    ):
        assert again == PLAN
        assert again.edges_scaled == PLAN.edges_scaled
        left, right = again.apply(TABLE), PLAN.apply(TABLE)
        assert left.numbers.tobytes() == right.numbers.tobytes()
        assert left.categories.tobytes() == right.categories.tobytes()
        assert np.array_equal(again.bins(TABLE), PLAN.bins(TABLE))


def test_a_file_and_a_request_give_the_same_inputs():
    live = SCHEMA.table({"金额": [None, 12], "城市": ["城3", None], "month": [3, 4.0]})
    filed, _ = SCHEMA.frame(
        {
            "金额": np.array([np.nan, 12.0]),
            "城市": np.array(["城3", np.nan], dtype=object),
            "month": np.array([3, 4], dtype=np.int64),
        }
    )
    assert np.array_equal(PLAN.apply(live).numbers, PLAN.apply(filed).numbers)
    assert np.array_equal(PLAN.bins(live), PLAN.bins(filed))


def test_an_empty_table_gives_empty_matrices():
    table = take(TABLE, np.arange(0))
    assert PLAN.apply(table).numbers.shape == (0, 4)
    assert PLAN.bins(table).shape == (0, 3)
