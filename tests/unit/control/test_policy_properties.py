"""What policy promises, in every snapshot and where a training or a promotion is near."""

import math
from dataclasses import replace

from hypothesis import given

from hapredict.control.actions import (
    Abort,
    Hold,
    Promote,
    RollBack,
    SetShare,
    Train,
    apply,
)
from hapredict.control.decide import decide
from hapredict.control.rollout import compare
from hapredict.control.triggers import INPUT_DRIFT
from hapredict.monitoring.report import Alarm, MonitorReport, Paired
from hapredict.registry import catalog
from hapredict.sections import DAY_S
from hapredict.serving.health import VersionHealth
from tests.support.control import check_state
from tests.support.snapshots import ALWAYS, moments_of_policy, quiet, snapshots, tried


@given(moments_of_policy)
def test_drift_begins_a_training_and_decides_nothing_else(seen):
    if seen.report is None:
        return
    others = tuple(alarm for alarm in seen.report.alarms if alarm.kind not in INPUT_DRIFT)
    with_drift, without = (
        decide(seen),
        decide(replace(seen, report=replace(seen.report, alarms=others))),
    )
    harmful = any(alarm.harm == "worse" for alarm in seen.alarms)
    if with_drift != without and not harmful:
        assert isinstance(with_drift, Train | Hold)
        assert isinstance(without, Train | Hold)
        assert seen.catalog.stage == "steady"


@given(quiet)
def test_harmless_drift_changes_nothing_that_is_done(seen):
    if seen.report is None:
        return
    others = tuple(alarm for alarm in seen.report.alarms if alarm.kind not in INPUT_DRIFT)
    long = Alarm("feature drift", "x", 0.0, 0.0, 0.9, 9.0, "moved", importance=1.0, harm="none")
    harmless = (*others, long)
    with_drift, without = (
        decide(replace(seen, report=replace(seen.report, alarms=kept)))
        for kept in (harmless, others)
    )
    assert type(with_drift) is type(without)
    assert apply(with_drift, seen) == apply(without, seen)


@given(tried)
def test_drift_of_inputs_alone_promotes_nothing_that_is_not_proven_better(seen):
    action, state = decide(seen), seen.catalog
    if not isinstance(action, Promote):
        return
    version = state.versions[state.challenger]
    due = seen.days_since(state.versions[state.champion].published_s) >= seen.rules.age_max_days
    harmed = any(a.kind in {"concept drift", "estimated loss"} for a in seen.alarms)
    harmed = harmed or any(a.harm == "worse" for a in seen.alarms)
    if version.trigger in INPUT_DRIFT and not due and not harmed:
        better = compare(seen, state.challenger, state.champion).log_better
        assert better >= math.log(seen.rules.evidence_min)


@given(quiet)
def test_no_training_begins_by_itself_in_a_freeze_of_either_kind_an_incident_or_a_pause(seen):
    action, state = decide(seen), seen.catalog
    if isinstance(action, Train) and state.champion is not None:
        assert not state.paused
        assert not state.incident
        assert not seen.frozen_by_calendar
        assert not state.frozen or action.trigger == "manual"


@given(tried)
def test_nothing_more_is_answered_by_a_challenger_in_a_freeze_window_or_an_incident(seen):
    if isinstance(decide(seen), Promote | SetShare):
        assert not seen.frozen_by_calendar
        assert not seen.catalog.incident
        assert not any(
            alarm.incident and alarm.at_s > (seen.catalog.cleared_s or -math.inf)
            for alarm in seen.alarms
        )


@given(quiet)
def test_what_nobody_asked_for_stays_within_the_budget_of_a_month(seen):
    after = apply(action := decide(seen), seen)
    if isinstance(action, Train) and action.trigger not in {"manual", "first model"}:
        month = [moment for moment in after.trainings_s if seen.time_s - moment < 30 * DAY_S]
        assert len(month) <= seen.rules.trainings_per_month_max


@given(snapshots)
def test_a_rollback_by_hand_is_possible_whatever_else_is_forbidden(seen):
    state = seen.catalog
    if state.previous in {None, state.champion} or state.previous in state.refused:
        return
    locked = replace(state, paused="a sale", frozen="v2 was worse", incident="no prices")
    check_state(back := catalog.roll_back(locked, seen.time_s))
    assert back.champion == state.previous


@given(snapshots)
def test_evidence_and_guards_roll_back_in_a_freeze_window_and_in_an_incident(seen):
    state = seen.catalog
    if state.stage != "watch" or state.paused or seen.refusal(state.previous) is not None:
        return
    seen = replace(seen, rules=seen.rules.model_copy(update={"freeze": ALWAYS}), health={})
    seen = replace(seen, catalog=replace(state, incident="no prices", training=""))
    low, high = sorted((state.champion, state.previous))
    worse, better = (50.0, 0.0) if state.champion == high else (0.0, 50.0)
    pair = Paired(low, high, 1000, better, worse, 0.1, 0.1)
    still = (Alarm("missing values", "x", seen.time_s, seen.time_s, 0.5, 9.0, "gone"),)
    told = MonitorReport("flights", version=state.champion, alarms=still, paired=(pair,))
    if not state.failed_trainings:
        assert isinstance(decide(replace(seen, report=told)), RollBack)
    broken = {state.champion: VersionHealth(rows=0, faults=99)}
    assert isinstance(decide(replace(seen, health=broken)), RollBack)


@given(snapshots)
def test_a_guard_acts_at_the_next_decision_whatever_else_is_seen(seen):
    state = seen.catalog
    if state.challenger is None or state.paused:
        return
    broken = {state.challenger: VersionHealth(rows=100, faults=50)}
    action = decide(replace(seen, health=broken))
    assert isinstance(action, Abort)
    assert apply(action, seen).challenger is None


@given(snapshots)
def test_what_ails_both_versions_speaks_against_neither(seen):
    state = seen.catalog
    numbers = [n for n in (state.champion, state.challenger, state.previous) if n is not None]
    ailing = VersionHealth(300, 50, 0.5, 0.5, 9, 9000.0)
    assert decide(replace(seen, health=dict.fromkeys(numbers, ailing))) == decide(
        replace(seen, health={})
    )
