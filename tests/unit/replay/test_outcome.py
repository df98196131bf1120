"""Figures about policies: intervals, stretches, and what is told of them."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.replay.learner import CachedLearner
from hapredict.replay.outcome import compare, delta, longest
from hapredict.replay.show import outcome_text, write_figure
from tests.support.pasts import live, past_of, spec_of_past

SPEC = spec_of_past()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    past = past_of(turns=30)
    learner = CachedLearner(past, SPEC)
    folder = tmp_path_factory.mktemp("replay")
    names = ("never", "20d", "10d", "ours")
    lived = [live(name, past, folder / name, SPEC, learner) for name in names]
    times = past.times("0.25", step_days=1, delay_days=1)
    return compare("orders", past, times, lived, SPEC.monitoring.loss_tolerance)


@given(rows=st.integers(10, 300), weeks=st.integers(1, 20), shift=st.floats(-0.5, 0.5))
def test_an_equal_shift_is_told_exactly_and_nothing_of_nothing(rows, weeks, shift):
    chance = np.random.default_rng(rows)
    loss, week = chance.random(rows), chance.integers(0, weeks, rows)
    same = delta(loss, loss, week)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    found = delta(loss + shift, loss, week)
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9
    assert found.mean == pytest.approx(shift, abs=1e-9)


def test_weeks_that_differ_make_wider_intervals_than_rows_that_do():
    chance = np.random.default_rng(0)
    weeks = np.repeat(np.arange(20), 100)
    by_row = delta(chance.normal(size=2000), np.zeros(2000), weeks)
    by_week = delta(np.repeat(chance.normal(size=20), 100), np.zeros(2000), weeks)
    assert by_week.high - by_week.low > 3 * (by_row.high - by_row.low)


@given(st.lists(st.booleans(), max_size=30))
def test_the_longest_run_is_found(marks):
    text = "".join("x" if yes else " " for yes in marks)
    assert longest(np.array(marks, bool)) == max(map(len, text.split()), default=0)


def test_the_best_schedule_is_the_one_that_others_are_measured_by(outcome):
    lines = {line.policy: line for line in outcome.lines}
    schedules = [line for line in outcome.lines if line.scheduled]
    assert {line.policy for line in schedules} == {"20d", "10d"}
    assert lines[outcome.best_schedule].loss == min(line.loss for line in schedules)
    assert lines[outcome.best_schedule].delta.mean == 0
    for line in outcome.lines:
        apart = line.loss - lines[outcome.best_schedule].loss
        assert line.delta.mean == pytest.approx(apart)


def test_who_never_retrains_has_a_longer_bad_stretch_when_the_world_turns(outcome):
    never, *others = outcome.lines
    assert never.worst_days > min(line.worst_days for line in others)
    assert never.alarms_true >= 1
    assert (never.trained, never.promoted, never.rolled_back) == (0, 0, 0)


def test_the_weeks_add_up_to_the_whole(outcome):
    assert len(outcome.week_starts) == len(outcome.lines[0].weeks)
    assert all(one < two for one, two in pairwise(outcome.week_starts))
    for line in outcome.lines:
        assert min(filter(None, line.weeks)) <= line.loss <= max(filter(None, line.weeks))


def test_the_outcome_is_json_and_text_and_a_figure(outcome, tmp_path):
    assert json.loads(json.dumps(outcome.to_json()))["best_schedule"] == outcome.best_schedule
    text = outcome_text(outcome)
    assert all(line.policy in text and f"{line.loss:.4f}" in text for line in outcome.lines)
    write_figure(outcome, tmp_path / "figures" / "orders.html")
    page = (tmp_path / "figures" / "orders.html").read_text(encoding="utf-8")
    assert "promoted" in page
    assert "http" not in page.partition("<body>")[0]
