import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.monitoring.rates import CALM_WINDOWS, RateDetector

ROWS = 500


def detector(rates=(0.0, 0.05), tolerance=0.02, level=90.0, rows=20_000):
    return RateDetector([rate * rows for rate in rates], [rows] * len(rates), tolerance, level)


def feed(found, rates, windows, seed=0, first=0):
    """Windows of ROWS rows, a day each; how many until the first alarm, or None."""
    chance = np.random.default_rng(seed)
    raised = None
    for day in range(windows):
        hits = chance.binomial(ROWS, rates)
        start = float(first + day)
        found.update(hits, ROWS, start_s=start, end_s=start + 1, weight=1.0)
        if found.changes and raised is None:
            raised = day + 1
    return raised


def test_a_rate_that_is_as_it_was_raises_no_alarm():
    assert sum(feed(detector(), [0.0, 0.05], 400, seed) is not None for seed in range(10)) == 0


def test_a_rise_within_the_tolerance_is_nobodys_concern():
    assert sum(feed(detector(), [0.01, 0.065], 400, seed) is not None for seed in range(10)) <= 1


@pytest.mark.parametrize("rate", [0.1, 0.3, 1.0])
def test_a_broken_column_shows_within_two_windows(rate):
    for seed in range(10):
        assert feed(detector(), [rate, 0.05], 10, seed) <= 2


def test_a_fall_is_no_alarm():
    assert feed(detector((0.5, 0.5)), [0.0, 0.1], 200) is None


def test_an_alarm_says_since_when_and_how_much():
    found = detector()
    feed(found, [0.0, 0.05], 50)
    feed(found, [0.25, 0.05], 5, first=50)
    (place,) = found.changes
    change = found.changes[place]
    assert place == 0
    assert change.since_s == pytest.approx(50, abs=1)
    assert change.live[0] == pytest.approx(0.25, abs=0.05)
    assert change.rows == pytest.approx(5 * ROWS, abs=ROWS)


def test_a_repaired_pipeline_is_believed_after_a_few_windows_and_watched_again():
    found = detector()
    feed(found, [1.0, 0.05], 6)
    assert found.changes
    feed(found, [0.0, 0.05], CALM_WINDOWS - 1, first=6)
    assert found.changes
    feed(found, [0.0, 0.05], 1, first=6 + CALM_WINDOWS)
    assert found.changes == {}
    assert feed(found, [1.0, 0.05], 5, first=20) == 1


def test_what_is_usual_at_an_hour_is_no_news_and_more_than_that_is():
    """A column that half of the night's rows lack."""
    found = detector()
    for seed, (rate, news) in enumerate([(0.5, False), (0.6, True)]):
        chance = np.random.default_rng(seed)
        for day in range(60):
            hits = chance.binomial(ROWS, [rate, 0.05])
            times = {"start_s": float(day), "end_s": day + 1.0, "weight": 1.0}
            found.update(hits, ROWS, **times, usual=[0.5, 0.05])
        assert bool(found.changes) == news


def test_a_small_reference_is_not_believed_to_the_digit():
    """40 rows without a missing value do not say that a twentieth would be news."""
    assert detector((0.0,), rows=40, tolerance=0.0).bound[0] > 0.05
    assert detector((0.0,), rows=40_000, tolerance=0.0).bound[0] < 0.001


def test_false_alarms_keep_to_the_level():
    """Rates at their bounds, the worst that is tolerated: one alarm in `level` windows at most."""
    alarms = windows = 0
    for seed in range(20):
        chance = np.random.default_rng(seed)
        found = detector((0.0, 0.05, 0.2), level=100)
        for day in range(200):
            before = set(found.changes)
            hits = chance.binomial(ROWS, found.bound)
            found.update(hits, ROWS, start_s=day, end_s=day + 1, weight=1.0)
            alarms += len(set(found.changes) - before)
            windows += 1
    assert alarms <= windows / 100


@given(st.integers(0, 12))
@settings(max_examples=8)
def test_stopping_and_going_on_anywhere_ends_the_same(stop):
    straight, stopped = detector(), detector()
    chance = np.random.default_rng(5)
    for day in range(12):
        if day == stop:
            again = detector()
            again.restore(json.loads(json.dumps(stopped.to_json())))
            stopped = again
        hits = chance.binomial(ROWS, [0.3 if 4 <= day < 8 else 0.0, 0.05])
        for found in (straight, stopped):
            found.update(hits, ROWS, start_s=day, end_s=day + 1, weight=1.0)
    assert stopped.to_json() == straight.to_json()


def test_nothing_to_watch_is_no_error():
    found = RateDetector([], [], 0.02, 90)
    found.update([], 10, start_s=0, end_s=1, weight=1)
    assert found.changes == {}
