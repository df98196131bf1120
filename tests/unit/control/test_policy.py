"""What asks for a training, what forbids one, and what ends a broken model: one row a rule."""

import math
from dataclasses import replace

import pytest

from hapredict.control.actions import (
    Abort,
    BeginIncident,
    EndIncident,
    Hold,
    Promote,
    RollBack,
    SetShare,
    Train,
    apply,
)
from hapredict.control.decide import decide
from hapredict.registry import catalog
from hapredict.serving.health import VersionHealth, total
from tests.support.control import (
    BETTER,
    EQUAL,
    WATCHED_WORSE,
    alarm,
    at,
    canarying,
    check_row,
    report,
    rows,
    shadowing,
    snapshot,
    steady,
    version,
    watching,
)

QUIET = "v1 serves and nothing asks for a training; it is 12.0 of 30 days old"
MOVED = "drift in 'dep_hour' since 2013-03-10 (total variation 0.200)"
GONE = alarm("missing values", "dep_hour", reason="31% are missing, 2% in the reference")
BROKEN = "missing values of 'dep_hour' since 2013-03-10: 31% are missing, 2% in the reference"
INCIDENT = replace(steady(), incident=BROKEN)
WEEKEND = {"freeze": [{"from": "2013-03-01", "until": "2013-04-30"}]}
WINDOW = "nothing changes from 2013-03-01 to 2013-04-30"


def train(trigger: str, reason: str) -> Train:
    return Train(reason=reason, run="run-00000042", trigger=trigger)


def alarms(*found):
    return report(alarms=found)


def of(rows_learned: int, state=None):
    """The state, with a champion that learned from so many rows."""
    state = state or steady()
    learned = replace(version(1), metrics={"training_rows": rows_learned})
    return replace(state, versions={**state.versions, 1: learned})


def begun_by(trigger: str, state):
    versions = {**state.versions, 2: replace(state.versions[2], trigger=trigger)}
    return replace(state, versions=versions)


TRIGGERS = {
    "a loss that is expected to rise begins a training before labels show it": (
        snapshot(steady(), 12, report=alarms(alarm("estimated loss", ""), alarm())),
        train("estimated loss", "the loss to expect is 0.200 over its baseline since 2013-03-10"),
    ),
    "a loss that has risen in one slice begins a training and names the slice": (
        snapshot(steady(), 12, report=alarms(alarm("concept drift", "", slice="origin=JFK"))),
        train(
            "concept drift",
            "the live loss is 0.200 over its baseline since 2013-03-10 where origin=JFK",
        ),
    ),
    "drift of a feature that hardly matters begins none, and is told": (
        snapshot(steady(), 12, report=alarms(alarm(importance=0.01))),
        Hold(reason=f"{QUIET}; {MOVED} does not: its importance is 0.01 of 0.05"),
    ),
    "drift that has just begun is waited with": (
        snapshot(steady(), 12, report=alarms(alarm(days=11))),
        Hold(reason=f"{QUIET}; {MOVED.replace('10', '11')} does not: it has lasted 2.0 of 3 days"),
    ),
    "drift that labels show to be harmless begins none": (
        snapshot(steady(), 12, report=alarms(alarm(harm="none", labels=900))),
        Hold(reason=f"{QUIET}; {MOVED} does not: 900 labels show no harm"),
    ),
    "drift that does harm begins one at once, whatever the feature weighs": (
        snapshot(steady(), 12, report=alarms(alarm(days=11.5, importance=0.0, harm="worse"))),
        train("feature drift", MOVED.replace("10", "11")),
    ),
    "of drifting features the one that matters most is named": (
        snapshot(
            steady(), 12, report=alarms(alarm(feature="month", effect=0.9, importance=0.1), alarm())
        ),
        train("feature drift", f"{MOVED} (and 1 more)"),
    ),
    "as many new labels as half the training rows begin one": (
        snapshot(of(20_000), 12, report=report()),
        train("volume", "10000 new labels have come, 50% of the training rows"),
    ),
    "fewer new labels begin none": (
        snapshot(of(20_001), 12, report=report()),
        Hold(reason=QUIET),
    ),
    "age comes before drift of inputs, since it may end in a promotion without proof": (
        snapshot(steady(), 30, report=alarms(alarm())),
        train("age", "v1 is 30.0 days old"),
    ),
}

AGAINST = {
    "an incident forbids a training": (
        snapshot(INCIDENT, 12, report=alarms(alarm("concept drift", ""), GONE)),
        Hold(
            reason="the live loss is 0.200 over its baseline since 2013-03-10, but "
            f"there is a data incident: {BROKEN}"
        ),
    ),
    "an incident lets a wish wait": (
        snapshot(INCIDENT, 12, report=alarms(GONE), retrain_requested="new prices"),
        Hold(reason=f"asked for: new prices, but there is a data incident: {BROKEN}"),
    ),
    "a freeze window forbids a training": (
        snapshot(steady(), 30, report=report(), rules=WEEKEND),
        Hold(reason=f"v1 is 30.0 days old, but {WINDOW}"),
    ),
    "a freeze window lets a wish wait": (
        snapshot(steady(), 12, report=report(), rules=WEEKEND, retrain_requested="new prices"),
        Hold(reason=f"asked for: new prices, but {WINDOW}"),
    ),
    "after a freeze window all goes on": (
        snapshot(steady(), 61, report=report(), rules=WEEKEND),
        train("age", "v1 is 61.0 days old"),
    ),
    "the first model needs no permission": (
        snapshot(replace(catalog.CatalogState("flights")), 12, rules=WEEKEND),
        train("first model", "there is no model yet"),
    ),
    "the budget of a month forbids another training": (
        snapshot(
            replace(steady(), trainings_s=(at(1), at(8), at(20))),
            30.5,
            report=report(),
            rules={"trainings_per_month_max": 3},
        ),
        Hold(reason="v1 is 30.5 days old, but 3 of 3 trainings have begun in 30 days"),
    ),
    "trainings of more than 30 days ago do not count": (
        snapshot(
            replace(steady(), trainings_s=(at(1), at(8), at(20))),
            31,
            report=report(),
            rules={"trainings_per_month_max": 3},
        ),
        train("age", "v1 is 31.0 days old"),
    ),
    "a wish passes the budget": (
        snapshot(
            replace(steady(), trainings_s=(at(8),)),
            12,
            rules={"trainings_per_month_max": 1},
            retrain_requested="new prices",
        ),
        train("manual", "asked for: new prices"),
    ),
}

INCIDENTS = {
    "an alarm of broken data begins an incident, before anything else is decided": (
        snapshot(steady(), 12, report=alarms(alarm("concept drift", ""), GONE)),
        BeginIncident(reason=BROKEN),
    ),
    "it begins in a canary too": (
        snapshot(canarying(0.5), 26, report=replace(BETTER, alarms=(GONE,))),
        BeginIncident(reason=BROKEN),
    ),
    "it ends with its alarms": (
        snapshot(INCIDENT, 12, report=report()),
        EndIncident(reason=f"no alarm speaks of broken data any more: {BROKEN}"),
    ),
    "no report does not end it": (
        snapshot(INCIDENT, 12),
        Hold(reason=f"{QUIET}; there is a data incident: {BROKEN}"),
    ),
    "a report about an earlier champion does not end it": (
        snapshot(INCIDENT, 12, report=report(version=7)),
        Hold(reason=f"{QUIET}; there is a data incident: {BROKEN}"),
    ),
    "an alarm that somebody cleared begins none again": (
        snapshot(replace(steady(), cleared_s=at(11)), 12, report=alarms(GONE)),
        Hold(reason=QUIET),
    ),
    "a new alarm after that does": (
        snapshot(replace(steady(), cleared_s=at(9)), 12, report=alarms(GONE)),
        BeginIncident(reason=BROKEN),
    ),
}

PROMOTIONS = {
    "drift of inputs gives a challenger no right to be promoted unproven": (
        snapshot(
            begun_by("feature drift", canarying(0.5, 24)),
            34,
            report=EQUAL,
            rules={"age_max_days": 60},
        ),
        Abort(
            reason="after 14.0 days nothing shows that v2 is better than v1, and only feature "
            "drift began it: loss 0.1100 against 0.1200 on 1000 labels"
        ),
    ),
    "proven better it is promoted": (
        snapshot(begun_by("feature drift", canarying(0.5)), 26, report=BETTER),
        Promote(
            reason="v2 is better than v1: evidence 20, loss 0.1100 against 0.1200 on 1000 labels"
        ),
    ),
    "and also once the champion is due by its age": (
        snapshot(begun_by("feature drift", canarying(0.5, 24)), 34, report=EQUAL),
        Promote(
            reason="after 14.0 days nothing shows that v2 is worse than v1: "
            "loss 0.1100 against 0.1200 on 1000 labels"
        ),
    ),
    "and also once labels show harm": (
        snapshot(
            begun_by("score drift", canarying(0.5, 24)),
            34,
            report=replace(EQUAL, alarms=(alarm("concept drift", ""),)),
            rules={"age_max_days": 60},
        ),
        Promote(
            reason="after 14.0 days nothing shows that v2 is worse than v1: "
            "loss 0.1100 against 0.1200 on 1000 labels"
        ),
    ),
    "a freeze window holds a promotion": (
        snapshot(canarying(0.5), 26, report=BETTER, rules=WEEKEND),
        Hold(reason=f"v2 is better than v1, but {WINDOW}"),
    ),
    "a freeze window holds a canary's step": (
        snapshot(shadowing(), 24, report=EQUAL, rules=WEEKEND),
        Hold(reason=f"v2 stays in shadow: {WINDOW}"),
    ),
    "an incident holds a promotion at the deadline": (
        snapshot(
            replace(canarying(0.5), incident=BROKEN), 36, report=replace(EQUAL, alarms=(GONE,))
        ),
        Hold(reason=f"v2 is not worse than v1, but there is a data incident: {BROKEN}"),
    ),
    "in a freeze window the old champion comes back all the same": (
        snapshot(
            watching(),
            31,
            report=WATCHED_WORSE,
            rules={"freeze": [{"from": "2013-03-01", "until": "2013-05-30"}]},
        ),
        RollBack(
            reason="v2 is worse than v1: evidence 20, loss 0.1100 against 0.1200 on 1000 labels",
            to=1,
            freeze="v2 is worse than v1: evidence 20, loss 0.1100 against 0.1200 on 1000 labels",
        ),
    ),
}

FINE = VersionHealth(rows=1000, lowest=0.1, highest=0.9, probes=20, fastest_ms=2.0)
FAULTY = replace(FINE, faults=40)
CONSTANT = replace(FINE, lowest=0.5, highest=0.5)
SLOW = replace(FINE, fastest_ms=10.0)


def canary_with(**health):
    seen = {int(name[1:]): found for name, found in health.items()}
    return snapshot(canarying(0.1), 23.1, report=EQUAL, health=seen)


GUARDS = {
    "a challenger that fails is dropped at once": (
        canary_with(v1=FINE, v2=FAULTY),
        Abort(reason="v2 is broken: it failed to score 40 times (3.8% of its attempts)"),
    ),
    "a challenger that gives all rows one score is dropped at once": (
        canary_with(v1=FINE, v2=CONSTANT),
        Abort(reason="v2 is broken: it gives 1000 rows the one score 0.5"),
    ),
    "a challenger that is slow is dropped at once": (
        canary_with(v1=FINE, v2=SLOW),
        Abort(reason="v2 is broken: it takes 10.0 ms for 16 rows, v1 takes 2.0 ms"),
    ),
    "a champion that fails in its watch goes at once, and trainings freeze": (
        snapshot(watching(), 30.1, health={1: FINE, 2: FAULTY}),
        RollBack(
            reason="v2 is broken: it failed to score 40 times (3.8% of its attempts)",
            to=1,
            freeze="v2 is broken: it failed to score 40 times (3.8% of its attempts)",
        ),
    ),
}


@rows({**TRIGGERS, **AGAINST, **INCIDENTS, **PROMOTIONS, **GUARDS})
def test_rule(seen, expected):
    check_row(seen, expected)


@pytest.mark.parametrize(
    "health",
    [
        {1: FAULTY, 2: FAULTY},
        {1: FINE, 2: replace(FINE, faults=4)},
        {1: CONSTANT, 2: CONSTANT},
        {1: FINE, 2: replace(CONSTANT, rows=199)},
        {1: FINE, 2: replace(SLOW, probes=4)},
        {1: replace(FINE, fastest_ms=0.1), 2: replace(FINE, fastest_ms=4.9)},
        {2: FINE},
        {},
    ],
)
def test_no_guard_speaks_of_what_is_shared_rare_or_harmless(health):
    seen = snapshot(canarying(0.1), 23.1, report=EQUAL, health=health)
    assert isinstance(decide(seen), Hold)


def test_nothing_is_restored_that_replicas_refuse_too():
    seen = snapshot(watching(), 30.1, health={1: FINE, 2: FAULTY}, refused={1: "bad file"})
    assert isinstance(decide(seen), Hold)


def test_a_cleared_incident_stays_cleared_until_a_new_alarm():
    seen = snapshot(steady(), 12, report=alarms(GONE))
    state = apply(decide(seen), seen)
    assert state.incident == BROKEN
    resumed = catalog.resume(state, at(12))
    assert not resumed.incident
    assert isinstance(decide(replace(seen, catalog=resumed)), Hold)
    again = alarms(replace(GONE, at_s=at(13)))
    assert isinstance(decide(snapshot(resumed, 14, report=again)), BeginIncident)


def test_a_version_remembers_what_began_it():
    seen = snapshot(steady(), 12, report=alarms(alarm()))
    state = apply(decide(seen), seen)
    assert state.training_trigger == "feature drift"
    assert state.trainings_s == (at(12),)


def test_a_window_of_the_week_holds_shares_on_the_models_clock():
    rules = {"freeze": [{"from": "Fri 18:00", "until": "Mon 06:00"}]}
    friday = 3.75  # after 2013-03-22, a Friday, 18:00
    for days, wanted in ((21.7, SetShare), (18 + friday, Hold), (24.2, Hold), (24.25, SetShare)):
        seen = snapshot(shadowing(18), days, report=EQUAL, rules=rules)
        assert isinstance(decide(seen), wanted), days


def test_counts_of_replicas_add_up_and_survive_json():
    one, other = {1: FINE, 2: VersionHealth()}, {2: CONSTANT, 3: FAULTY}
    assert total([one, other]) == {1: FINE, 2: CONSTANT, 3: FAULTY}
    for health in (FINE, VersionHealth(), total([one, one])[1]):
        assert VersionHealth.from_json(health.to_json()) == health
    assert math.isinf(VersionHealth().lowest)
