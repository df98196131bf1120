import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.monitoring.windows import JUMP_MAX_S, JUMP_ROWS, Watermark, Windows
from hapredict.sections import DAY_S
from hapredict.serving.journal import WindowCounts

HOUR_S = 3600.0


def windows(window_rows=100, **changes):
    settings = {"window_rows": window_rows, "window_s": DAY_S, "bins": 3, "scores": 2, **changes}
    return Windows(1, **settings)


def counts(hour, rows=10, version=1, seed=0):
    """Counts of `rows` rows in an hour since the epoch; a bucket is an hour."""
    chance = np.random.default_rng(seed)
    bins = chance.multinomial(rows, [0.2, 0.3, 0.5])
    return WindowCounts(hour, version, rows, bins, chance.multinomial(rows, [0.5, 0.5]))


def end_of(hour):
    return (hour + 1) * HOUR_S


def test_a_window_closes_when_it_has_enough_rows():
    open_ = windows(window_rows=100)
    assert open_.add((counts(0, 60),), end_of(0)) == []
    (closed,) = open_.add((counts(1, 60),), end_of(1))
    assert (closed.rows, closed.bins.sum(), closed.scores.sum()) == (120, 120, 120)
    assert (closed.start_s, closed.end_s) == (0, end_of(1))
    assert closed.weight == pytest.approx(2 / 24)


def test_a_window_with_few_rows_closes_when_event_time_has_left_it():
    open_ = windows()
    open_.add((counts(0),), end_of(0))
    open_.add((counts(23),), end_of(23))
    (closed,) = open_.add((counts(24),), end_of(24))
    assert closed.rows == 20
    assert closed.weight == pytest.approx(1, abs=0.01)


def test_counts_for_a_closed_window_go_into_the_open_one_and_are_counted():
    open_ = windows(window_rows=50)
    open_.add((counts(0, 50),), end_of(0))
    open_.add((counts(9, 20),), end_of(9))
    assert open_.rows_late == 0
    (closed,) = open_.add((counts(2, 30),), end_of(9))
    assert (closed.rows, open_.rows_late) == (50, 30)
    assert closed.start_s > end_of(0)


def test_counts_made_with_another_plan_are_left_out_and_counted():
    open_ = windows(window_rows=20)
    assert open_.add((counts(0, 50, version=2),), end_of(0)) == []
    wider = WindowCounts(0, 1, 7, np.array([7, 0, 0, 0]), np.array([7, 0]))
    assert open_.add((wider,), end_of(0)) == []
    assert open_.rows_foreign == 57


def test_a_window_says_how_many_of_its_rows_came_in_each_hour_of_the_week():
    open_ = windows(window_rows=100)
    open_.add((counts(7 * 24 + 5, 30), counts(7 * 24 + 6, 60)), end_of(7 * 24 + 6))
    (closed,) = open_.add((counts(7 * 24 + 6, 20),), end_of(7 * 24 + 6))
    assert closed.hours[[5, 6]].tolist() == [30, 80]
    assert closed.hours.sum() == closed.rows
    coarse = windows(window_rows=10, window_s=7 * DAY_S)
    (closed,) = coarse.add((counts(0, 14),), 7 * HOUR_S)
    assert closed.hours[:8].tolist() == [2.0] * 7 + [0.0]


def test_windows_that_close_at_one_moment_share_the_time_between_them():
    open_ = windows(window_rows=50)
    closed = [w for _ in range(4) for w in open_.add((counts(0, 50),), end_of(0))]
    assert len(closed) == 4
    assert sum(window.weight for window in closed) == pytest.approx(1 / 24, rel=0.01)


HOURS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(1, 60), st.integers(0, 99)), min_size=1, max_size=30
)


@given(HOURS)
def test_every_row_is_in_one_window_and_weights_never_exceed_the_time_that_passed(steps):
    open_, closed, watermark_s = windows(window_rows=80), [], 0.0
    given_counts = [counts(hour, rows, seed=seed) for hour, rows, seed in steps]
    for one in given_counts:
        watermark_s = max(watermark_s, end_of(one.bucket))
        closed += open_.add((one,), watermark_s)
    left = open_.to_json()
    total = sum((one.bins for one in given_counts), np.zeros(3, int))
    assert (sum((w.bins for w in closed), np.array(left["bins"])) == total).all()
    assert sum(w.rows for w in closed) + left["rows"][0] == sum(one.rows for one in given_counts)
    assert all(w.start_s <= w.end_s and 0 < w.weight <= 1 for w in closed)
    assert sum(w.weight for w in closed) <= watermark_s / DAY_S + 1e-6 * len(closed)


@given(st.permutations(range(6)), st.integers(0, 5))
def test_within_a_window_the_order_of_counts_does_not_matter(order, cut):
    parts = [counts(3, 20, seed=seed) for seed in range(6)]
    straight, mixed = windows(window_rows=120), windows(window_rows=120)
    (one,) = [w for part in parts for w in straight.add((part,), end_of(3))]
    mixed.add(tuple(parts[i] for i in order[:cut]), end_of(3))
    (other,) = mixed.add(tuple(parts[i] for i in order[cut:]), end_of(3))
    assert (one.bins == other.bins).all()
    assert (one.scores == other.scores).all()
    assert (one.start_s, one.end_s, one.weight) == (other.start_s, other.end_s, other.weight)


@given(HOURS, st.integers(0, 30))
def test_windows_go_on_from_their_json(steps, cut):
    parts = [counts(hour, rows, seed=seed) for hour, rows, seed in steps]
    one, other = windows(window_rows=80), windows(window_rows=80)
    for part in parts[:cut]:
        one.add((part,), end_of(part.bucket))
    other.restore(json.loads(json.dumps(one.to_json())))
    for part in parts[cut:]:
        assert len(one.add((part,), end_of(part.bucket))) == len(
            other.add((part,), end_of(part.bucket))
        )
    assert one.to_json() == other.to_json()


def test_the_watermark_is_the_latest_event_seen():
    mark = Watermark()
    assert mark.at_s is None
    mark.advance(np.array([5.0, 20.0, np.nan]))
    mark.advance(np.array([7.0]))
    assert mark.at_s == 20


def test_one_wrong_year_does_not_move_the_watermark():
    mark = Watermark()
    mark.advance(np.arange(10.0))
    for _ in range(100):
        mark.advance(np.array([1e12]))
        mark.advance(np.array([11.0]))
    assert mark.at_s == 11


def test_a_jump_that_many_rows_agree_on_is_believed():
    mark = Watermark()
    mark.advance(np.array([0.0]))
    later = JUMP_MAX_S * 3
    for row in range(JUMP_ROWS):
        mark.advance(np.array([later + row]))
    assert mark.at_s == later + JUMP_ROWS - 1


@given(st.lists(st.lists(st.floats(-1e11, 1e11), max_size=8), max_size=20))
def test_the_watermark_never_falls(parts):
    mark, before = Watermark(), -np.inf
    for part in parts:
        mark.advance(np.array(part, float))
        now = -np.inf if mark.at_s is None else mark.at_s
        assert now >= before
        before = now
