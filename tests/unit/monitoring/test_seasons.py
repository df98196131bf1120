import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.features.clock import DAY_HOURS, WEEK_HOURS
from hapredict.monitoring.evidence import DriftDetector
from hapredict.monitoring.seasons import MatchedShares, total_variation, usual_gaps

BINS = 8


def week(tilt, chance, rows=2000, weekend=0.0):
    """Shares [168, bins] that tilt with the hour of day (and the weekend), and counts of them."""
    hour = np.arange(WEEK_HOURS)
    slope = tilt * np.sin(2 * np.pi * hour / DAY_HOURS) + weekend * (hour >= 120)
    shares = np.exp(slope[:, None] * np.linspace(-1, 1, BINS))
    shares /= shares.sum(1, keepdims=True)
    return shares, np.array([chance.multinomial(rows, row) for row in shares])


def one_hour(hour, rows=500):
    return np.bincount([hour], minlength=WEEK_HOURS) * rows


def test_a_feature_that_is_the_same_at_all_hours_keeps_its_pooled_reference():
    chance = np.random.default_rng(0)
    _, counts = week(0.0, chance)
    expected = MatchedShares([counts.sum(0)], counts)
    assert expected.seasonal == ()
    shares, rows = expected.at(one_hour(3))
    assert (shares == expected.shares).all()
    assert rows == counts.sum()


def test_a_daily_season_is_told_by_the_hour_of_day_and_learned_from_all_days():
    shares, counts = week(0.5, np.random.default_rng(1))
    expected = MatchedShares([counts.sum(0)], counts)
    found, rows = expected.at(one_hour(30))
    assert total_variation(found[0], shares[30]) < 0.02 < total_variation(shares[30], shares[18])
    # an hour of the day was seen seven times a week
    assert 2000 < rows[0] <= 7.5 * 2000


def test_a_weekend_is_told_apart_where_whole_weeks_were_counted():
    shares, counts = week(0.5, np.random.default_rng(2), weekend=0.8)
    by_week = MatchedShares([counts.sum(0)], counts)
    by_day = MatchedShares([counts.sum(0)], counts.reshape(7, DAY_HOURS, BINS).sum(0))
    gap = [total_variation(e.at(one_hour(130))[0][0], shares[130]) for e in (by_week, by_day)]
    assert gap[0] < 0.04 < gap[1]


def test_few_rows_an_hour_are_drawn_to_those_of_all():
    shares, counts = week(0.5, np.random.default_rng(3), rows=30)
    expected = MatchedShares([counts.sum(0)], counts)
    raw = counts.reshape(7, DAY_HOURS, BINS).sum(0)
    raw = raw / raw.sum(1, keepdims=True)
    hours = range(DAY_HOURS)
    drawn = [total_variation(expected.at(one_hour(h))[0][0], shares[h]) for h in hours]
    assert np.mean(drawn) < np.mean([total_variation(raw[h], shares[h]) for h in hours])


@given(st.lists(st.integers(0, 500), min_size=WEEK_HOURS, max_size=WEEK_HOURS), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_what_is_expected_are_always_shares_that_no_row_is_impossible_in(hours, seed):
    chance = np.random.default_rng(seed)
    counts = np.concatenate([week(1.0, chance, rows=40)[1], week(0.0, chance, rows=40)[1]], axis=1)
    counts[:, BINS - 1] = 0
    counts[seed, :] = 0
    expected = MatchedShares(np.split(counts.sum(0), 2), counts)
    shares, rows = expected.at(hours)
    assert shares.sum(1) == pytest.approx(1)
    assert (shares > 0).all()
    assert (rows <= expected.rows).all()
    assert (expected.own_part(hours) >= 0).all()


def test_a_window_over_several_hours_is_compared_with_their_mixture():
    _, counts = week(0.5, np.random.default_rng(4))
    expected = MatchedShares([counts.sum(0)], counts)
    mixed = expected.at(one_hour(6, 300) + one_hour(18, 100))[0]
    parts = [expected.at(one_hour(hour))[0] for hour in (6, 18)]
    assert mixed == pytest.approx(0.75 * parts[0] + 0.25 * parts[1])


def rounds(detector, shares, days, chance, by_hour):
    """Whether any alarm is raised in days of 24 windows of 500 rows."""
    for hour in range(days * DAY_HOURS):
        detector.update(
            chance.multinomial(500, shares[hour % WEEK_HOURS]),
            start_s=hour,
            end_s=hour + 1,
            weight=1 / DAY_HOURS,
            hours=one_hour(hour % WEEK_HOURS) if by_hour else None,
        )
        if detector.changes:
            return True
    return False


def test_a_daily_cycle_is_drift_to_a_pooled_reference_and_none_to_a_matched_one():
    shares, counts = week(0.5, np.random.default_rng(5), rows=5000)
    for by_hour in (True, False):
        detector = DriftDetector(MatchedShares([counts.sum(0)], counts), 0.02, 90, ordered=[True])
        assert rounds(detector, shares, 14, np.random.default_rng(6), by_hour) is not by_hour


def test_a_shift_of_a_feature_with_a_season_is_found_within_a_day():
    shares, counts = week(0.5, np.random.default_rng(7), rows=5000)
    detector = DriftDetector(MatchedShares([counts.sum(0)], counts), 0.02, 90, ordered=[True])
    chance = np.random.default_rng(8)
    assert not rounds(detector, shares, 3, chance, by_hour=True)
    tilted = shares * np.exp(0.5 * np.linspace(-1, 1, BINS))
    assert rounds(detector, tilted / tilted.sum(1, keepdims=True), 1, chance, by_hour=True)


def stretches(shocks, chance, rows=4000):
    """Counts of hours whose shares are moved by shocks of such a size, each for itself."""
    hours = np.array([one_hour(h % WEEK_HOURS, rows) for h in range(len(shocks))])
    shares = np.exp(np.asarray(shocks)[:, None] * np.linspace(-1, 1, BINS))
    shares /= shares.sum(1, keepdims=True)
    return shares, np.array([chance.multinomial(rows, row) for row in shares]), hours


def test_hours_that_differ_by_luck_alone_make_no_tolerance():
    _, counts, hours = stretches(np.zeros(336), np.random.default_rng(9))
    assert usual_gaps(MatchedShares([counts.sum(0)]), counts, hours) < 0.01


def test_what_hours_usually_differ_by_is_tolerated():
    chance = np.random.default_rng(10)
    shares, counts, hours = stretches(0.2 * chance.normal(size=336), chance)
    usual = usual_gaps(MatchedShares([counts.sum(0)]), counts, hours)[0]
    gaps = total_variation(shares, shares.mean(0))
    assert np.quantile(gaps, 0.95) < usual < 1.5 * gaps.max()


def test_a_few_stretches_say_nothing():
    _, counts, hours = stretches([0.5, -0.5, 0.5], np.random.default_rng(11))
    assert usual_gaps(MatchedShares([counts.sum(0)]), counts, hours) == 0


@given(st.integers(0, 47))
@settings(max_examples=8, deadline=None)
def test_a_detector_with_seasons_goes_on_from_its_json_as_if_it_had_never_stopped(stop):
    shares, counts = week(0.5, np.random.default_rng(12))
    whole, first, second = (
        DriftDetector(MatchedShares([counts.sum(0)], counts), 0.02, 90, ordered=[True])
        for _ in range(3)
    )
    chance = np.random.default_rng(13)
    for hour in range(48):
        live = chance.multinomial(500, shares[(hour + 6) % WEEK_HOURS])
        if hour == stop:
            second.restore(json.loads(json.dumps(first.to_json())))
        parted = first if hour < stop else second
        for detector in (whole, parted):
            detector.update(live, start_s=hour, end_s=hour, weight=0.1, hours=one_hour(hour))
    assert second.to_json() == whole.to_json()
    assert whole.changes
