"""What holds for every snapshot, likely or not."""

import math
import pickle
import random
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.actions import (
    Abort,
    EnsureTraining,
    Hold,
    Promote,
    RollBack,
    RunStatus,
    SetShare,
    Snapshot,
    Train,
    apply,
)
from hapredict.control.decide import decide
from hapredict.control.rollout import compare
from hapredict.control.triggers import INPUT_DRIFT
from hapredict.errors import GateRefused
from hapredict.monitoring.report import Alarm, AlarmKind, Harm, MonitorReport, Paired
from hapredict.registry import catalog
from hapredict.registry.catalog import CatalogState, Version
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from hapredict.sections_policy import FreezeWindow, TriggersSpec
from hapredict.serving.health import VersionHealth
from hapredict.training.metrics import Verdict
from tests.support.control import at, check_state

CHANGES = {
    "publish": 3,
    "shadow": 9,
    "share": 4,
    "promote": 2,
    "settle": 1,
    "abort": 1,
    "roll back": 1,
    "refuse": 1,
    "pause": 1,
    "start": 3,
    "end": 2,
    "incident": 1,
}
"""Changes of a catalog, and how often one is tried."""

FREEZES = (
    FreezeWindow(**{"from": "Fri 18:00", "until": "Mon 06:00"}),
    FreezeWindow(**{"from": "2013-02-01", "until": "2013-12-31T12:00"}),
)
ALWAYS = (FreezeWindow(**{"from": "1900-01-01", "until": "2900-01-01"}),)
moments = st.floats(-5, 200).map(at)
logs = st.floats(-5, 5) | st.just(800.0)
small = st.integers(1, 4)
words = st.text("xy", max_size=2)


def changed(state: CatalogState, name: str, number: int, now_s: float) -> CatalogState:
    """One of the catalog's own changes. Raises GateRefused where it does not fit."""
    match name:
        case "publish":
            highest = max(state.versions, default=0)
            began = ("age", "feature drift", "score drift", "")[number - 1]
            rows = {"training_rows": 100.0 * number}
            found = Version(highest + 1, "digest", "run-1", now_s, now_s, rows, began)
            return catalog.publish(state, found)
        case "shadow":
            return catalog.shadow(state, number, now_s)
        case "share":
            return catalog.share(state, number / 5, now_s)
        case "promote":
            return catalog.promote(state, now_s)
        case "settle":
            return catalog.settle(state, now_s)
        case "abort":
            return catalog.abort(state, now_s)
        case "roll back":
            return catalog.roll_back(state, now_s, freeze="it was worse" if number > 2 else "")
        case "refuse":
            return catalog.refuse(state, number, "bad file")
        case "pause":
            return catalog.pause(state, "a sale is on") if number == 4 else state
        case "start":
            trigger = ("age", "feature drift")[number % 2]
            return catalog.start_training(
                state, f"run-{min(number, 2)}", now_s, 100 * number, trigger
            )
        case "incident" if state.incident:
            return catalog.resume(state, now_s)
        case "incident":
            return catalog.begin_incident(state, "a column is empty")
    return catalog.end_training(state, failed=number > 2)


def walked(seed: int) -> CatalogState:
    """A state that the catalog's own changes lead to, in a random order that it allows."""
    chance = random.Random(seed)
    state, now_s = CatalogState("flights", term=1), at(0)
    for _ in range(chance.randrange(60)):
        now_s += chance.choice((0.0, 0.5, 3.0)) * DAY_S
        with suppress(GateRefused):
            (name,) = chance.choices(list(CHANGES), list(CHANGES.values()))
            state = changed(state, name, chance.randint(1, 4), now_s)
    return state


alarms = st.builds(
    Alarm,
    st.sampled_from(get_args(AlarmKind)),
    words,
    moments,
    moments | st.just(1e18),
    st.floats(0, 1),
    logs,
    words,
    slice=st.sampled_from(("", "origin=JFK")),
    importance=st.floats(0, 1),
    harm=st.sampled_from(get_args(Harm)),
)


def all_pairs(labels: int, log_better: float, log_worse: float) -> tuple[Paired, ...]:
    """The same evidence about any two versions."""
    return tuple(
        Paired(low, high, labels, log_better, log_worse, 0.1, 0.2)
        for low, high in combinations(range(1, 12), 2)
    )


reports = st.builds(
    MonitorReport,
    model=st.just("flights"),
    labels_joined=st.integers(0, 5000),
    version=st.just(0) | st.none(),
    alarms=st.lists(alarms, max_size=3).map(tuple),
    paired=st.just(()) | st.builds(all_pairs, st.integers(0, 1000), logs, logs),
)
runs = st.builds(
    RunStatus,
    run=st.sampled_from(("run-1", "run-2")),
    state=st.sampled_from(("running", "finished", "failed")),
    reason=words,
    version=st.none() | st.builds(Version, st.just(0), words, words, moments, moments),
    verdict=st.none()
    | st.builds(Verdict, st.sampled_from(("pass", "fail", "not enough data")), words, st.none()),
    retry=st.booleans(),
)
days = st.sampled_from((0, 1, 7, 20))
rules = st.builds(
    ControlSpec,
    age_max_days=st.sampled_from((1, 30)),
    cooldown_days=days,
    labels_min=st.sampled_from((0, 500)),
    trainings_failed_max=st.integers(1, 3),
    shadow_days=days,
    shadow_labels_min=st.sampled_from((1, 200)),
    canary_shares=st.sampled_from(((), (0.1,), (0.1, 0.5))),
    canary_step_days=days,
    deadline_days=st.sampled_from((1, 14)),
    deadline_rule=st.sampled_from(("if_not_worse", "strict")),
    watch_days=days,
    trainings_per_month_max=st.integers(1, 3),
    triggers=st.builds(TriggersSpec, drift_days_min=days, volume_share=st.floats(0.1, 2)),
    freeze=st.just(()) | st.sampled_from(FREEZES).map(lambda window: (window,)),
)
healths = st.builds(
    VersionHealth,
    rows=st.integers(0, 400),
    faults=st.just(0) | st.integers(0, 20),
    lowest=st.floats(0, 0.5),
    highest=st.floats(0.5, 1),
    probes=st.integers(0, 9),
    fastest_ms=st.floats(0, 200),
)


def about_its_champion(seen: Snapshot) -> Snapshot:
    """With a report about the champion, where it is not about nothing."""
    if seen.report is None or seen.report.version is None:
        return seen
    return replace(seen, report=replace(seen.report, version=seen.catalog.champion))


snapshots = st.builds(
    Snapshot,
    now_s=st.none() | moments,
    catalog=st.integers(0, 2**32).map(walked),
    rules=rules,
    report=st.none() | reports,
    run=st.none() | runs,
    refused=st.dictionaries(small, words, max_size=2),
    health=st.just({}) | st.dictionaries(st.integers(1, 12), healths, max_size=4),
    retrain_requested=words,
    sequence=st.integers(0, 99),
).map(about_its_champion)


@given(snapshots)
def test_every_snapshot_has_one_action_that_says_why_and_fits_the_catalog(seen):
    action = decide(seen)
    assert action.reason
    check_state(apply(action, seen))
    assert decide(pickle.loads(pickle.dumps(seen))) == action  # noqa: S301 - our own bytes


@given(snapshots)
def test_a_promotion_rests_on_live_labels_that_do_not_speak_against_it(seen):
    action, state = decide(seen), seen.catalog
    if isinstance(action, Promote):
        assert state.champion is not None
        assert state.challenger is not None
        evidence = compare(seen, state.challenger, state.champion)
        assert evidence.labels >= seen.rules.shadow_labels_min
        assert evidence.log_worse < math.log(seen.rules.evidence_min)


@given(snapshots)
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


@given(snapshots)
def test_harmless_drift_changes_nothing_that_is_done(seen):
    if seen.report is None:
        return
    harmless = tuple(
        replace(alarm, harm="none") if alarm.kind in INPUT_DRIFT else alarm
        for alarm in seen.report.alarms
    )
    others = tuple(alarm for alarm in seen.report.alarms if alarm.kind not in INPUT_DRIFT)
    with_drift, without = (
        decide(replace(seen, report=replace(seen.report, alarms=kept)))
        for kept in (harmless, others)
    )
    assert type(with_drift) is type(without)
    assert apply(with_drift, seen) == apply(without, seen)


@given(snapshots)
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


@given(snapshots)
def test_no_training_begins_by_itself_in_a_freeze_of_either_kind_an_incident_or_a_pause(seen):
    action, state = decide(seen), seen.catalog
    if isinstance(action, Train) and state.champion is not None:
        assert not state.paused
        assert not state.incident
        assert not seen.frozen_by_calendar
        assert not state.frozen or action.trigger == "manual"


@given(snapshots)
def test_nothing_more_is_answered_by_a_challenger_in_a_freeze_window_or_an_incident(seen):
    if isinstance(decide(seen), Promote | SetShare):
        assert not seen.frozen_by_calendar
        assert not seen.catalog.incident
        assert not any(
            alarm.incident and alarm.at_s > (seen.catalog.cleared_s or -math.inf)
            for alarm in seen.alarms
        )


@given(snapshots)
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


@given(snapshots)
def test_no_training_begins_beside_another_and_none_at_all_while_paused(seen):
    action, state = decide(seen), seen.catalog
    if isinstance(action, Train):
        assert not state.training
        assert state.stage in {"empty", "steady"}
    if isinstance(action, EnsureTraining):
        assert action.run == state.training
    paused = replace(seen, catalog=replace(state, paused="a sale is on"))
    assert isinstance(decide(paused), Hold)


@given(snapshots)
def test_a_challenger_that_is_surely_worse_never_stays(seen):
    state = seen.catalog
    if state.challenger is None or state.paused or state.failed_trainings or state.training:
        return
    low, high = sorted((state.champion, state.challenger))
    worse, better = (50.0, 0.0) if state.challenger == high else (0.0, 50.0)
    pair = Paired(low, high, 1000, better, worse, 0.1, 0.1)
    action = decide(
        replace(seen, report=MonitorReport("flights", version=state.champion, paired=(pair,)))
    )
    assert isinstance(action, Abort | RollBack)


@given(snapshots)
def test_while_nothing_new_is_seen_deciding_comes_to_rest(seen):
    for _ in range(12):
        state = apply(decide(seen), seen)
        if state == seen.catalog:
            return
        seen = replace(seen, catalog=state, sequence=seen.sequence + 1)
    raise AssertionError(f"still deciding: {decide(seen)}")
