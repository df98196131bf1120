"""Snapshots for properties: whatever a catalog can be led to, and moments in which policy decides.

`snapshots` are anything. In `quiet` ones a training is near, in `tried` ones a promotion is; either
may be forbidden by whatever forbids it.
"""

import random
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from typing import get_args

from hypothesis import strategies as st

from hapredict.control.actions import RunStatus, Snapshot
from hapredict.errors import GateRefused
from hapredict.monitoring.report import Alarm, AlarmKind, Harm, MonitorReport, Paired
from hapredict.registry import catalog
from hapredict.registry.catalog import CatalogState, Version
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from hapredict.sections_policy import FreezeWindow, TriggersSpec
from hapredict.serving.health import VersionHealth
from hapredict.training.metrics import Verdict
from tests.support.control import at, canarying, shadowing, steady, version

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


def _near_training(
    days: float,
    begun: list[float],
    forbidden: tuple[str, str, str],
    found: list[Alarm],
    window: tuple[FreezeWindow, ...],
    wish: str,
    most: int,
) -> Snapshot:
    """v1 serves alone, labels have come, and no cooldown holds."""
    paused, frozen, incident = forbidden
    state = replace(
        steady(),
        versions={1: replace(version(1), metrics={"training_rows": 9000.0})},
        trainings_s=tuple(sorted(at(day) for day in begun if day <= days)),
        paused=paused,
        frozen=frozen,
        incident=incident,
    )
    rules = ControlSpec(
        cooldown_days=0, labels_min=0, age_max_days=25, freeze=window, trainings_per_month_max=most
    )
    report = MonitorReport("flights", labels_joined=4000, version=1, alarms=tuple(found))
    return Snapshot(at(days), state, rules, report, retrain_requested=wish, sequence=7)


def _near_promotion(
    days: float,
    state: CatalogState,
    trigger: str,
    incident: str,
    found: list[Alarm],
    window: tuple[FreezeWindow, ...],
    log_better: float,
    age_max_days: float,
) -> Snapshot:
    """v2 is tried beside v1 and is not worse."""
    began = replace(state.versions[2], trigger=trigger)
    state = replace(state, versions={**state.versions, 2: began}, incident=incident)
    rules = ControlSpec(freeze=window, age_max_days=age_max_days)
    report = MonitorReport(
        "flights",
        version=1,
        alarms=tuple(found),
        paired=(Paired(1, 2, 900, log_better, 0.0, 0.1, 0.1),),
    )
    return Snapshot(at(days), state, rules, report)


seldom = st.just("") | st.just("") | st.just("a reason")
windows = st.just(()) | st.just(()) | st.sampled_from(FREEZES).map(lambda window: (window,))
recent = st.floats(0, 40).map(at)
few_alarms = st.just([]) | st.lists(
    st.builds(
        Alarm,
        st.sampled_from(get_args(AlarmKind)) | st.sampled_from(("feature drift", "score drift")),
        words,
        recent,
        st.just(at(-5)),
        st.floats(0, 1),
        logs,
        words,
        importance=st.sampled_from((0.0, 0.5)),
        harm=st.sampled_from(get_args(Harm)),
    ),
    max_size=2,
)
quiet = st.builds(
    _near_training,
    st.floats(20, 24) | st.floats(20, 60),
    st.lists(st.floats(0, 60), max_size=6),
    st.tuples(seldom, seldom, seldom),
    few_alarms,
    windows,
    seldom,
    st.integers(1, 4),
)
tried = st.builds(
    _near_promotion,
    st.floats(34, 60) | st.floats(24, 30),
    st.sampled_from((shadowing(20), canarying(0.1, 23), canarying(0.5, 24))),
    st.sampled_from(("feature drift", "score drift", "age")),
    seldom,
    few_alarms,
    windows,
    st.sampled_from((0.0, 9.0)),
    st.sampled_from((30.0, 99.0)),
)
moments_of_policy = snapshots | quiet | tried
