"""Policies are found by name, and schedules decide by the calendar alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.actions import Hold, RunStatus, Train, apply
from hapredict.errors import UnknownName
from hapredict.replay.names import DEFAULT, KNOWN
from hapredict.replay.policies import every, find_policy
from hapredict.sections_live import ControlSpec
from tests.support.control import (
    DRIFT,
    PASSED,
    at,
    check_state,
    finished,
    snapshot,
    steady,
    training,
)

RULES = ControlSpec(age_max_days=11)
TRAINED = replace(steady(), last_training_s=at(0))


@pytest.mark.parametrize("name", sorted({*DEFAULT, *KNOWN, "7d", "0.5d-safe"}))
def test_policies_are_found_by_their_names(name):
    assert find_policy(name, RULES).name == name


@pytest.mark.parametrize("name", ["", "sometimes", "d", "0d", "-3d", "30d-bold", "30 days"])
def test_an_unknown_policy_is_wrong_use(name):
    with pytest.raises(UnknownName) as error:
        find_policy(name, RULES)
    assert error.value.exit_code == 2
    assert "never" in str(error.value)


def test_ours_are_the_rules_of_the_spec():
    assert find_policy("ours", RULES).rules == RULES


@given(days=st.floats(0.5, 100), passed=st.floats(0, 200))
def test_a_schedule_trains_when_its_days_have_passed(days, passed):
    seen = snapshot(TRAINED, passed)
    action = every(days)(seen)
    assert isinstance(action, Train) == (seen.days_since(at(0)) >= days)
    assert isinstance(action, Train | Hold)
    check_state(apply(action, seen))


def test_a_schedule_heeds_no_alarm_and_the_loss_policy_no_drift_of_features():
    quiet, alarmed = (snapshot(TRAINED, 20, report=report) for report in (None, DRIFT))
    assert every(30)(quiet) == every(30)(alarmed)
    assert isinstance(find_policy("loss", RULES).decide(alarmed), Hold)


def test_a_run_without_a_model_ends_and_the_next_waits_its_days():
    failed = RunStatus("run-7", "failed", "no rows")
    seen = snapshot(training("run-7", 1), 1, run=failed)
    state = apply(every(30)(seen), seen)
    assert not state.training
    assert not state.failed_trainings
    assert isinstance(every(30)(snapshot(state, 2)), Hold)


def test_what_passes_its_gate_serves_at_once():
    decide = every(30)
    seen = snapshot(training("run-7", 1), 1, run=finished("run-7", PASSED))
    states = []
    for _ in range(3):
        state = apply(decide(seen), seen)
        check_state(state)
        states.append(state)
        seen = snapshot(state, 1)
    assert states[-1].stage == "steady"
    assert states[-1].champion == max(states[-1].versions)
