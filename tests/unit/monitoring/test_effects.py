import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.monitoring.effects import (
    BINS_TOLD,
    moved_bins,
    places_of,
    population_stability,
    score_places,
    unusual_bins,
    wasserstein,
)
from tests.support.bundles import plan_of, schema_of, spec_of, table_of

COUNTS = st.lists(st.integers(0, 1000), min_size=4, max_size=4).filter(any)


def shares(counts):
    return np.array(counts) / sum(counts)


@given(COUNTS, COUNTS)
def test_the_bins_told_are_those_that_moved_most(before, now):
    told = moved_bins("abcd", shares(before), shares(now))
    gaps = [abs(one.now - one.before) for one in told]
    everything = sorted(np.abs(shares(now) - shares(before)), reverse=True)
    assert gaps == pytest.approx(everything[: len(told)])
    assert len(told) <= BINS_TOLD
    assert bool(told) == (shares(before) != shares(now)).any()


@given(COUNTS, COUNTS)
def test_the_stability_index_is_finite_and_nothing_only_for_what_did_not_move(before, now):
    found = population_stability(shares(before), shares(now), sum(now))
    assert np.isfinite(found)
    assert found >= 0
    assert population_stability(shares(now), shares(now), sum(now)) == 0


def test_the_stability_index_is_the_one_that_people_know():
    expected = 0.1 * np.log(0.6 / 0.5) + 0.1 * np.log(0.5 / 0.4)
    assert population_stability([0.5, 0.5], [0.6, 0.4], 10_000) == pytest.approx(expected)


@given(COUNTS, st.floats(-5, 5))
def test_values_that_all_move_by_one_place_moved_by_its_distance(counts, start):
    places = start + np.arange(5.0)
    before, now = [*shares(counts), 0.0], [0.0, *shares(counts)]
    assert wasserstein(places, before, now) == pytest.approx(1.0)


def test_missing_values_are_in_no_place():
    assert wasserstein([0.0, 1.0], [0.5, 0.5, 0.0], [0.9, 0.1, 0.0]) == pytest.approx(0)
    assert wasserstein([0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]) is None
    assert wasserstein((), [0.5, 0.5], [0.1, 0.9]) is None


def test_a_shift_of_a_number_is_read_off_its_bins_in_standard_deviations():
    schema = schema_of()
    table = dict(table_of(4000, seed=3, schema=schema))
    plan = plan_of(schema, table, spec_of())
    spread = np.std(table["distance"])
    place = plan.features.index("distance")
    bins = plan.bins(table)[:, place]
    moved = {**table, "distance": np.minimum(table["distance"] + 0.5 * spread, 2999)}
    before = np.bincount(bins, minlength=plan.bin_totals[place]) / 4000
    now = np.bincount(plan.bins(moved)[:, place], minlength=plan.bin_totals[place]) / 4000
    true = (np.sort(moved["distance"]) - np.sort(table["distance"])).mean() / spread
    assert wasserstein(places_of(plan)[place], before, now) == pytest.approx(true, rel=0.1)


def test_categories_lie_nowhere_and_numbers_have_a_place_an_interval():
    schema = schema_of()
    plan = plan_of(schema, table_of(400, schema=schema), spec_of())
    for name, places, total in zip(plan.features, places_of(plan), plan.bin_totals, strict=True):
        assert len(places) == (total - 1 if name in schema.numbers else 0)
        assert list(places) == sorted(places)


def test_a_column_without_a_value_has_no_place_that_breaks_anything():
    schema = schema_of()
    table = {**table_of(50, schema=schema), "distance": np.full(50, np.nan)}
    places = places_of(plan_of(schema, table, spec_of()))
    assert len(places[1]) == 1


def test_scores_have_a_place_a_bin():
    assert score_places(()) == (0.0,)
    assert score_places((0.25, 0.75)) == (0.25, 0.5, 0.75)


def test_bins_of_missing_and_unseen_values_are_found_by_their_place():
    schema = schema_of()
    plan = plan_of(schema, table_of(400, schema=schema), spec_of())
    labels = [plan.bin_labels(name) for name in plan.features]
    flat = [label for of_one in labels for label in of_one]
    found = unusual_bins(labels)
    assert [flat[missing] for missing, _ in found] == ["missing"] * 4
    assert [flat[unseen] if unseen is not None else None for _, unseen in found] == [
        None,
        None,
        "unseen",
        "unseen",
    ]
