import json
from dataclasses import replace

import pytest

from hapredict.monitoring.monitor import Monitor
from hapredict.monitoring.refusals import Refusals
from hapredict.sections import DAY_S
from hapredict.serving.journal import decode, encode, merge
from hapredict.serving.recorder import refusals
from tests.support.bundles import MODEL, START_S
from tests.support.live import bundle_of, part_of, state_of

BUNDLE = bundle_of()


def monitor_of():
    monitor = Monitor(MODEL)
    monitor.on_catalog(state_of(1), {1: BUNDLE}.__getitem__)
    return monitor


def live(monitor, days, first=0, refused=None):
    for day in range(first, first + days):
        part = part_of(BUNDLE, day + 1, day=day, rows=100)
        monitor.fold_predictions(replace(part, refused=refused or {}))
    return monitor.report()


def breaks(report):
    return [alarm for alarm in report.alarms if alarm.kind == "schema breaks"]


def test_a_refused_row_now_and_then_is_nobodys_concern():
    report = live(monitor_of(), 100, refused={"distance": 1})
    assert breaks(report) == []
    assert report.rows_refused == {"distance": 100}


def test_a_caller_that_changed_its_fields_shows_within_two_days_with_the_column():
    monitor = monitor_of()
    live(monitor, 10)
    report = live(monitor, 2, 10, {"carrier": 40, "unknown fields": 5})
    (alarm,) = breaks(report)
    assert (alarm.incident, alarm.rank) == (True, 1)
    assert alarm.since_s == pytest.approx(START_S + 10 * DAY_S, abs=2 * DAY_S)
    assert "did not fit the schema" in alarm.reason
    assert "carrier: " in alarm.reason
    assert breaks(live(monitor, 6, 12)) == []


def test_it_shows_even_when_no_row_at_all_is_answered():
    monitor = monitor_of()
    live(monitor, 3)
    for seq in range(4, 10):
        part = refusals("replica-a", MODEL, {"distance": 100})
        monitor.fold_predictions(replace(part, seq=seq))
    assert breaks(monitor.report())


def test_refusals_add_up_and_survive_the_journal():
    one, two = (refusals("a", MODEL, {"x": n, "y": 1}) for n in (2, 3))
    rows = part_of(BUNDLE, rows=5)
    both = merge([one, rows, two], source="a", seq=1, model=MODEL)
    again = decode(encode(both, BUNDLE.schema), BUNDLE.schema)
    assert (again.rows, again.refused) == (5, {"x": 5, "y": 2})
    assert decode(encode(rows)).refused == {}


def test_stopping_and_going_on_ends_the_same():
    def fresh():
        return Refusals(begin_s=0, window_rows=100, unit_s=DAY_S, tolerance=0.02, level=90)

    straight, stopped = fresh(), fresh()
    for day in range(8):
        stopped = Refusals.from_json(json.loads(json.dumps(stopped.to_json())))
        for found in (straight, stopped):
            found.add(70, {"x": 9} if day > 3 else {}, day * DAY_S)
    assert stopped.to_json() == straight.to_json()
    assert list(stopped.alarms()) == list(straight.alarms()) != []
