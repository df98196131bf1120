import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.features.clock import DAY_HOURS, HOUR_S, WEEK_HOURS, Clock, Clocked, hour_of_week
from hapredict.features.plan import count_bins

DAY_S = DAY_HOURS * HOUR_S
TOTALS = (3, 2)


def rows_of(days, rows, seed=0):
    chance = np.random.default_rng(seed)
    bins = np.stack([chance.integers(0, total, rows) for total in TOTALS], axis=1)
    return np.sort(chance.uniform(0, days * DAY_S, rows)), bins.astype(np.int32)


def test_hours_of_the_week_begin_on_thursday_at_midnight_in_utc():
    friday_3_am = np.datetime64("2026-11-27T03:30").astype("datetime64[s]").astype(float)
    assert hour_of_week([0, HOUR_S - 1, 7 * DAY_S, -1]).tolist() == [0, 0, 0, WEEK_HOURS - 1]
    assert hour_of_week(friday_3_am) == DAY_HOURS + 3


def test_hours_are_told_apart_only_where_each_was_seen_several_times():
    groups = [Clock.of(0, days * DAY_S, 10_000, 5).groups for days in (1, 5, 30)]
    assert groups == [0, DAY_HOURS, WEEK_HOURS]


def test_stretches_are_as_short_as_rows_allow_and_cover_all_hours():
    assert Clock.of(0, 10 * DAY_S, 10 * 24 * 2000, 5).stretch_s == HOUR_S
    assert Clock.of(0, 10 * DAY_S, 10 * 1000, 5).stretch_s == 2 * DAY_S
    year = Clock.of(0, 365 * DAY_S, 365 * 24 * 5000, 5)
    counted = np.arange(365 * DAY_HOURS)[np.arange(365 * DAY_HOURS) % year.stride == 0]
    assert len(counted) <= 1000
    assert len(np.unique(counted % WEEK_HOURS)) == WEEK_HOURS


@given(st.integers(1, 40), st.integers(1, 400), st.lists(st.integers(0, 400), max_size=5))
@settings(max_examples=40)
def test_rows_cut_into_blocks_in_any_way_are_counted_the_same(days, rows, cuts):
    at_s, bins = rows_of(days, rows)
    clock = Clock.of(at_s[0], at_s[-1], rows * 100, sum(TOTALS))
    whole = clock.count(at_s, bins, TOTALS)
    blocks = np.split(
        np.random.default_rng(1).permutation(rows), sorted(min(c, rows) for c in cuts)
    )
    parts = Clocked.sum(clock.count(at_s[block], bins[block], TOTALS) for block in blocks)
    for name in ("hourly", "stretch", "counts", "hours"):
        assert (getattr(whole, name) == getattr(parts, name)).all()
    if clock.groups:
        assert (whole.hourly.sum(0) == count_bins(bins, TOTALS)).all()
    assert (whole.hours.sum(1) * len(TOTALS) == whole.counts.sum(1)).all()
