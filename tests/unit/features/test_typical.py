"""A typical row: each value is one that the model learned from, in the middle of those."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hapredict.data.schema import Column, Schema
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.features.stats import TableStats
from hapredict.features.typical import typical
from hapredict.sections import FeatureSpec
from tests.support.bundles import columns_of, plan_of, schema_of, spec_of, table_of

SCHEMA = Schema((Column("n", "number"), Column("c", "category")), "y", "regression")


def _typical(numbers, levels=None):
    table = SCHEMA.table({"n": numbers, "c": levels or ["a"] * len(numbers)})
    plan = FeaturePlan.from_stats(TableStats.of(table, SCHEMA), SCHEMA, FeatureSpec())
    return typical(plan, count_bins(plan.bins(table), plan.bin_totals).tolist())


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_a_number_is_in_the_bin_of_the_median_and_within_the_range(values):
    known = sorted(value for value in values if value is not None)
    found = _typical(values)["n"]
    if not known:
        assert found is None
        return
    assert known[0] <= found <= known[-1]
    if len(set(known)) == 1:
        assert found == known[0]


def test_a_number_that_most_rows_share_is_that_number():
    assert _typical([0.0] * 80 + list(range(1, 21)))["n"] == 0.0


def test_a_number_has_few_digits():
    assert _typical(np.linspace(0, 3000, 901).tolist())["n"] in range(1400, 1600, 10)


def test_a_category_is_the_most_frequent_level_and_none_if_there_is_no_level():
    assert _typical([1.0] * 3, ["b", "a", "b"])["c"] == "b"
    assert _typical([1.0] * 3, [None] * 3)["c"] is None


def test_it_is_a_row_that_the_schema_takes():
    schema = schema_of()
    table = table_of(200)
    plan = plan_of(schema, table, spec_of())
    row = typical(plan, count_bins(plan.bins(table), plan.bin_totals).tolist())
    assert row.keys() == columns_of(1).keys() - {"at", "order"}
    schema.table({name: [value] for name, value in row.items()})
