"""What a drill proves follows from what callers saw, and from nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.drill.drill_report import page, text
from hapredict.drill.outcome import (
    Asked,
    Drill,
    Outcome,
    Phase,
    budget_left,
    detect_s,
    failures_between_s,
    gap_s,
    phase,
    requests_needed,
    share_interval,
)


def outcome(requests=10_000, lost=0, restore_s=2.0, before_lost=0, **more):
    phases = {
        "before": Phase(requests=500, failed=before_lost, p99_ms=5.0),
        "during": Phase(requests=requests, failed=lost, worst_ms=900.0),
        "after": Phase(requests=0),
    }
    told = {"gap_s": 0.1, "detect_s": 0.4, "restore_s_max": 30.0, **more}
    return Outcome(
        fault="replica-kill", level=1, says="SIGKILL", restore_s=restore_s, **phases, **told
    )


def drill(*outcomes, **more):
    told = {"objective": 99.95, "at_s": 0.0, "wall_s": 60.0, **more}
    return Drill(model="orders", level=1, outcomes=outcomes, **told)


def test_a_fault_that_cost_nothing_and_was_mended_in_time_is_held():
    assert outcome().verdict(99.95) == "held"


def test_one_lost_request_is_not_held():
    assert outcome(lost=1).verdict(99.95) == "not held"


def test_what_is_never_restored_is_not_held():
    assert outcome(restore_s=None).verdict(99.95) == "not held"
    assert outcome(restore_s=31.0).verdict(99.95) == "not held"


def test_few_requests_tell_nothing_however_well_they_went():
    assert outcome(requests=1000).verdict(99.95) == "not enough load to tell"


def test_faults_before_the_blow_are_not_the_blows_fault():
    assert outcome(before_lost=1, lost=5).verdict(99.95) == "not enough load to tell"


def test_a_fault_may_have_an_allowance():
    assert outcome(lost=90, lost_share_max=0.01).verdict(99.95) == "held"
    assert outcome(lost=110, lost_share_max=0.01).verdict(99.95) == "not held"


def test_a_level_is_held_when_all_its_faults_are_and_none_was_left_out():
    assert drill(outcome()).verdict == "held"
    assert drill(outcome(), outcome(lost=1)).verdict == "not held"
    assert drill(outcome(), outcome(requests=10)).verdict == "not enough load to tell"
    assert drill(outcome(), skipped={"node-kill": "one node"}).verdict == "not enough load to tell"
    assert drill().verdict == "not enough load to tell"


@given(st.floats(90, 99.99))
def test_so_many_right_answers_show_the_objective_and_one_fewer_does_not(objective):
    needed = requests_needed(objective)
    assert share_interval(needed, needed)[0] >= objective / 100 - 1e-12
    assert share_interval(needed - 1, needed - 1)[0] < objective / 100


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_the_interval_holds_the_share_and_stays_between_nothing_and_all(right, wrong):
    low, high = share_interval(right, right + wrong)
    assert 0 <= low <= high <= 1
    if right + wrong:
        assert low <= right / (right + wrong) + 1e-9
        assert high >= right / (right + wrong) - 1e-9


asked = st.builds(
    Asked,
    st.floats(0, 100),
    st.floats(0.001, 10),
    st.sampled_from(["", "500", "hung up"]),
    st.just(False),
)


@given(st.lists(asked))
def test_every_request_is_right_failed_or_wrong(requests):
    found = phase(requests)
    assert found.requests == len(requests)
    assert found.lost == sum(bool(one.fault) for one in requests)
    assert found.p50_ms <= found.p99_ms <= found.worst_ms + 1e-9


@given(st.lists(asked))
def test_the_longest_gap_is_never_longer_than_the_time_looked_at(requests):
    assert 0 <= gap_s(requests, 10, 60) <= 50
    assert gap_s([], 10, 60) == 50


def test_a_gap_lies_between_two_right_answers():
    requests = [Asked(1, 0.1), Asked(2, 0.1, "500"), Asked(3.9, 0.1), Asked(5, 0.1)]
    assert gap_s(requests, 1, 5.1) == pytest.approx(2.9)


def test_a_blow_is_met_for_as_long_as_requests_run_into_it():
    before = Phase(p99_ms=10.0)
    requests = [Asked(9, 0.01), Asked(10.5, 2.0), Asked(12, 0.1, "500"), Asked(13, 0.01)]
    assert detect_s(requests, 10.0, before) == 2.0
    assert detect_s(requests[:1], 10.0, before) == 0.0


def test_the_error_budget_is_spent_by_what_drills_lost():
    assert budget_left([], 99.9) == 1.0
    assert budget_left([drill(outcome())], 99.9) == 1.0
    half = drill(outcome(requests=9500, lost=5))
    assert budget_left([half], 99.9) == pytest.approx(0.5)
    assert budget_left([drill(outcome(lost=1000))], 99.9) < 0


def test_time_between_failures_counts_those_that_callers_saw():
    assert failures_between_s([drill(outcome())]) is None
    assert failures_between_s([drill(outcome()), drill(outcome(lost=2))]) == 120.0


def test_a_drill_is_the_same_after_it_was_stored():
    done = drill(outcome(faults=("+0.10 s: 500",)), skipped={"node-kill": "one node"})
    assert Drill.from_json(json.loads(json.dumps(done.to_json()))) == done


def test_the_report_says_what_was_lost_and_what_is_proven():
    done = drill(outcome(lost=3, faults=("+0.10 s: 500 <oops>",)))
    said = text(done)
    assert "3" in said
    assert "not held" in said
    assert "7,680 requests a fault" in said
    assert "<oops>" not in page(done)
