"""Snapshots for tests of control, and the rules that every catalog state keeps."""

import math
from dataclasses import replace

import pytest

from hapredict.control.actions import Action, RunStatus, Snapshot, apply
from hapredict.control.decide import decide
from hapredict.monitoring.report import Alarm, MonitorReport, Paired
from hapredict.registry import catalog
from hapredict.registry.catalog import CatalogState, Version
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from hapredict.training.metrics import Verdict

START_S = 1_362_096_000.0  # 2013-03-01
PASSED = Verdict("pass", "no worse on 900 rows")
SURE = math.log(20.0)
"""Log evidence that `control.evidence_min` asks for."""


def at(days: float) -> float:
    """`days` after the first version was published, in seconds since the epoch."""
    return START_S + days * DAY_S


def version(number: int = 0, days: float = 0.0, run: str = "run-x") -> Version:
    return Version(number, f"digest-{number}", run, at(days), at(days) - DAY_S)


def empty() -> CatalogState:
    return CatalogState("flights", term=1)


def steady() -> CatalogState:
    """v1 serves since day 0."""
    return catalog.publish(empty(), version(1))


def training(run: str = "run-7", days: float = 20.0) -> CatalogState:
    """v1 serves, and `run` is in progress."""
    return catalog.start_training(steady(), run, at(days), 1000)


def shadowing(days: float = 20.0) -> CatalogState:
    """v1 serves, and v2 is in shadow since `days`."""
    return catalog.shadow(catalog.publish(steady(), version(2, days)), 2, at(days))


def canarying(share: float = 0.1, days: float = 23.0) -> CatalogState:
    """v2 is in shadow since day 20 and answers `share` since `days`."""
    return catalog.share(shadowing(), share, at(days))


def watching(days: float = 30.0) -> CatalogState:
    """v2 was promoted on day `days`; v1 runs along."""
    return catalog.promote(canarying(0.5), at(days))


def paired(
    labels: int = 1000, better: float = 0.0, worse: float = 0.0, low: int = 1, high: int = 2
) -> Paired:
    return Paired(low, high, labels, better, worse, low_loss=0.12, high_loss=0.11)


def alarm(
    kind: str = "feature drift", feature: str = "dep_hour", days: float = 10.0, **changes
) -> Alarm:
    """One of an important feature."""
    found = Alarm(kind, feature, at(days), at(days - 1), 0.2, 12.0, "it moved", importance=0.4)
    return replace(found, **changes)


def report(*pairs: Paired, alarms: tuple[Alarm, ...] = (), **changes) -> MonitorReport:
    standard = MonitorReport(
        "flights",
        watermark_s=at(60),
        labels_joined=10_000,
        version=1,
        alarms=alarms,
        paired=pairs,
    )
    return replace(standard, **changes)


WORSE = report(paired(worse=SURE))
BETTER = report(paired(better=SURE))
EQUAL = report(paired(better=math.log(3.0), worse=math.log(3.0)))
DRIFT = report(alarms=(alarm(),))
WATCHED_WORSE = replace(WORSE, version=2)
WATCHED_BETTER = replace(BETTER, version=2)


def snapshot(state: CatalogState, days: float | None, **changes) -> Snapshot:
    now_s = None if days is None else at(days)
    rules = ControlSpec(**changes.pop("rules", {}))
    return Snapshot(now_s=now_s, catalog=state, rules=rules, sequence=41, **changes)


def finished(run: str = "run-7", verdict: Verdict | None = PASSED, **changes) -> RunStatus:
    return RunStatus(run, "finished", version=version(run=run), verdict=verdict, **changes)


def check_state(state: CatalogState) -> None:
    """Assert what holds in every catalog state, however it came about."""
    assert (state.stage == "empty") == (state.champion is None)
    assert state.champion is None or state.champion in state.versions
    assert (state.challenger is not None) == (state.stage in {"shadow", "canary"})
    assert state.challenger is None or state.challenger in state.versions
    assert state.challenger is None or state.challenger != state.champion
    assert (state.share > 0) == (state.stage == "canary")
    assert state.stage != "watch" or state.previous in state.versions
    assert state.champion not in state.refused
    assert state.challenger not in state.refused
    assert CatalogState.from_json(state.to_json()) == state


Row = tuple[Snapshot, Action]
"""What is seen, and the action that must follow, sentence and all."""


def rows(table: dict[str, Row]) -> pytest.MarkDecorator:
    """One test a row, named after the row's sentence."""
    return pytest.mark.parametrize(("seen", "expected"), table.values(), ids=table.keys())


def check_row(seen: Snapshot, expected: Action) -> CatalogState:
    """Assert that the action follows and fits the catalog. Returns the state that follows."""
    assert decide(seen) == expected
    state = apply(expected, seen)
    check_state(state)
    return state
