"""Histograms add up to the bit, and stay fine where the data are."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hapredict.features import histogram
from hapredict.features.histogram import BUCKETS_MAX, Histogram, ordered, unordered

finite = st.floats(allow_nan=False, allow_infinity=False)
lists = st.lists(finite, max_size=60)


def of(values):
    return Histogram.of(np.array(values, dtype=np.float64))


@given(st.lists(finite, min_size=2, max_size=20))
def test_ordered_integers_grow_with_the_floats_and_lead_back(values):
    array = np.array(values, dtype=np.float64)
    assert np.array_equal(unordered(ordered(array)), array)
    assert np.array_equal(
        np.argsort(ordered(array), kind="stable"), np.argsort(array, kind="stable")
    )
    below = np.nextafter(array[array > -1e300], -np.inf)
    assert np.array_equal(ordered(below), ordered(array[array > -1e300]) - 1)


@given(lists, lists, lists)
def test_addition_does_not_depend_on_order_or_grouping(a, b, c):
    with_few_buckets = histogram.BUCKETS_MAX
    histogram.BUCKETS_MAX = 24
    try:
        whole = of(a + b + c)
        assert (of(a) + of(b)) + of(c) == of(a) + (of(b) + of(c)) == whole
        assert of(c) + (of(b) + of(a)) == whole
        assert of(a) + Histogram() == Histogram() + of(a) == of(a)
    finally:
        histogram.BUCKETS_MAX = with_few_buckets


@given(lists)
def test_every_value_lies_within_its_bucket_and_all_are_counted(values):
    made = of(values)
    assert sum(made.counts) == len(values)
    assert made.drop == 0
    assert made.lower.tolist() == made.upper.tolist() == sorted({value + 0.0 for value in values})


def test_many_values_share_buckets_that_are_narrow_against_their_spread():
    rng = np.random.default_rng(0)
    for values in (
        1.7e9 + rng.normal(0, 1000, 50_000),
        rng.lognormal(0, 5, 50_000),
        rng.normal(0, 1e-200, 50_000),
        np.ldexp(rng.uniform(-1, 1, 50_000), rng.integers(-1074, 1025, 50_000)),
    ):
        made = Histogram.of(values)
        assert len(made.keys) <= BUCKETS_MAX
        assert sum(made.counts) == 50_000
        assert np.all(made.lower <= made.upper)
        assert np.all(made.upper[:-1] < made.lower[1:])
        assert np.isfinite(made.lower).all()
        assert np.isfinite(made.upper).all()
        place = np.searchsorted(made.lower, values, side="right") - 1
        assert np.all((made.lower[place] <= values) & (values <= made.upper[place]))
        assert np.array_equal(np.bincount(place), made.counts)


def test_the_resolution_is_the_finest_that_fits():
    values = np.arange(1.0, BUCKETS_MAX + 1)
    assert Histogram.of(values).drop == 0
    more = Histogram.of(np.append(values, 0.5))
    assert more.drop > 0
    # One bit finer would not fit: that is what makes the result independent of the way there.
    keys = np.unique(ordered(np.append(values, 0.5)) >> (more.drop - 1))
    assert len(keys) > BUCKETS_MAX


def test_a_histogram_survives_json():
    made = Histogram.of(np.random.default_rng(0).normal(size=10_000))
    assert Histogram.from_json(made.to_json()) == made
