"""How many replicas a load needs: enough, not more than that, and the same while it is the same."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.serving.scaling import Load, LoadMeter, replicas_for

TARGETS = {"target_ongoing": 10.0, "target_utilization": 0.5}
loads = st.lists(st.builds(Load, st.floats(0, 1000), st.floats(0, 1)), min_size=1, max_size=20)


def wanted(loads, running=None):
    return replicas_for(loads, running or len(loads), **TARGETS)


@given(loads)
def test_what_is_wanted_brings_each_replica_to_its_targets(loads):
    count = max(1, math.ceil(wanted(loads)))
    assert sum(load.ongoing for load in loads) / count <= 10.0 * (1 + 1e-9)
    assert sum(load.utilization for load in loads) / count <= 0.5 * (1 + 1e-9)


@given(loads, st.integers(1, 20))
def test_the_same_load_on_what_was_wanted_changes_nothing(loads, running):
    """Spread over the new number of replicas, the load is not a reason to go back."""
    before = max(1, math.ceil(wanted(loads, running)))
    ongoing = sum(load.ongoing for load in loads) / before
    busy = sum(load.utilization for load in loads) / before
    spread = [Load(ongoing, busy)] * before
    after = max(1, math.ceil(round(wanted(spread), 9)))
    assert after <= before
    if before > running:
        assert after >= before - 1


@given(loads, st.integers(1, 20), st.floats(0.91, 1.09))
def test_a_small_change_of_load_lets_no_replica_go_that_is_wanted_again(loads, running, change):
    less = [Load(load.ongoing * change, load.utilization * change) for load in loads]
    kept = max(1, math.ceil(wanted(less, running)))
    if kept < running:
        again = max(1, math.ceil(round(wanted(less, kept), 9)))
        assert again <= kept


@given(loads)
def test_more_load_never_wants_fewer(loads):
    more = [Load(load.ongoing * 2, load.utilization) for load in loads]
    assert wanted(more) >= wanted(loads)


def test_without_reports_nothing_changes():
    assert wanted([], 3) == 3


@pytest.mark.parametrize(
    ("ongoing", "busy", "replicas"),
    [(0, 0, 0), (9, 0, 0.9), (25, 0, 2.5), (9, 0.9, 1.8), (40, 0.9, 4)],
)
def test_whichever_target_asks_for_more_counts(ongoing, busy, replicas):
    assert wanted([Load(ongoing, busy)]) == replicas


class Hands:
    """Clocks that a test sets."""

    def __init__(self):
        self.wall_s = 100.0
        self.used_s = 7.0

    def meter(self, cpus=1.0):
        return LoadMeter(lambda: self.wall_s, lambda: self.used_s, cpus)


def test_requests_in_progress_are_counted_by_their_time():
    hands = Hands()
    meter = hands.meter()
    for _ in range(40):
        meter.over(0.5)
    hands.wall_s += 10
    hands.used_s += 4
    load = meter.load()
    assert (load.ongoing, load.utilization) == pytest.approx((2.0, 0.4))
    hands.wall_s += 10
    assert meter.load() == Load(0.0, 0.0)


def test_what_waits_before_it_is_read_counts_as_in_progress():
    hands = Hands()
    meter = hands.meter()
    for _ in range(100):
        meter.over(0.0)
    for late_s in (0.1, 0.3):
        meter.late(late_s)
    hands.wall_s += 10
    assert meter.load().ongoing == pytest.approx(2.0)


def test_two_questions_at_once_get_one_answer():
    hands = Hands()
    meter = hands.meter()
    meter.over(1.0)
    hands.wall_s += 1
    assert meter.load() == meter.load() == Load(1.0, 0.0)


@pytest.mark.parametrize(("cpus", "utilization"), [(0.25, 0.8), (1, 0.2), (4, 0.2), (0, 0.2)])
def test_utilization_is_of_what_is_reserved_and_one_core_at_most(cpus, utilization):
    hands = Hands()
    meter = hands.meter(cpus)
    hands.wall_s += 10
    hands.used_s += 2
    assert meter.load().utilization == pytest.approx(utilization)
