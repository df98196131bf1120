"""A training in one process parts rows by time, is the same each time, and says what it lacks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.data.rows import RowCounts
from hapredict.data.schema import rows_of, take
from hapredict.errors import DataError
from hapredict.features.plan import FeaturePlan
from hapredict.features.stats import TableStats
from hapredict.training.alone import learn, prepare
from hapredict.training.prepared import Recipe
from tests.support.pasts import past_of, spec_of_past

SPEC = spec_of_past()
PAST = past_of(days=20)
RECIPE = Recipe.of(SPEC.data, SPEC.features, SPEC.training)


def lesson(rows=None):
    return PAST.lesson(np.arange(len(PAST)) if rows is None else rows)


@given(seed=st.integers(0, 100), rows=st.integers(200, 800))
def test_the_order_of_rows_does_not_matter(seed, rows):
    mixed = np.random.default_rng(seed).permutation(rows)
    one, train = prepare(*lesson(np.arange(rows)), RECIPE, key="a")
    two, same = prepare(*lesson(mixed), RECIPE, key="a")
    assert np.array_equal(train.numbers, same.numbers)
    assert np.array_equal(train.labels, same.labels)
    assert np.array_equal(one.held.labels, two.held.labels)
    assert one.plan.to_json() == two.plan.to_json()


def test_the_newest_rows_judge_and_no_row_has_two_parts():
    prepared, train = prepare(*lesson(), RECIPE, key="a")
    parts = (train.rows, prepared.validation.rows, prepared.held.rows)
    assert sum(parts) == len(PAST)
    held = prepared.held_table["at"]
    assert np.array_equal(held, np.sort(held))
    assert held[0] >= PAST.event_s[sum(parts[:2]) - 1]


def test_the_plan_knows_the_training_rows_only():
    prepared, train = prepare(*lesson(), RECIPE, key="a")
    early = take(PAST.table, np.arange(train.rows))
    plan = FeaturePlan.from_stats(TableStats.of(early, PAST.schema), PAST.schema, SPEC.features)
    assert prepared.plan.to_json() == plan.to_json()


def test_what_is_learned_beats_chance_and_is_learned_again_to_the_byte():
    one, two = (learn(*lesson(), RECIPE, SPEC.training, key="a") for _ in range(2))
    assert one.exported.onnx == two.exported.onnx
    assert one.exported.parity < SPEC.training.parity_max
    assert rows_of(one.prepared.held_table) == one.prepared.held.rows


def test_too_few_rows_are_refused_with_their_number():
    schema, table, labels, _ = lesson(np.arange(40))
    with pytest.raises(DataError, match=r"40 of 40 rows are used.*rows_min is 100"):
        prepare(schema, table, labels, RowCounts(40, 40), RECIPE, key="a")


def test_rows_without_a_time_are_refused():
    schema, table, labels, counts = lesson()
    with pytest.raises(DataError, match=r"data\.time"):
        prepare(replace(schema, time=None), table, labels, counts, RECIPE, key="a")
