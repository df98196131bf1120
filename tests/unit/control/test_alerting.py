"""What is still to be told outlives the process that was to tell it."""

import itertools

import pytest

from hapredict.control.alerting import WAITING_MAX, Alerting, name_of
from hapredict.errors import StoreUnavailable
from hapredict.monitoring.report import Alarm, MonitorReport
from hapredict.registry.catalog import pause
from hapredict.registry.store import encode_json, open_store
from hapredict.sections_alerts import AlertsSpec
from hapredict.serving.risk import risk_path, risk_prefix
from tests.support.bundles import MODEL, change, publish_linear

NAMES = itertools.count()
ALERTS = AlertsSpec.model_validate(
    {
        "sinks": [{"webhook": "http://sink"}, {"log": True}],
        "rules": [{"name": "risky", "when": "score > 0.9", "limit_per_hour": 5000}],
    }
)
HOOK, LOG = map(name_of, ALERTS.sinks)


@pytest.fixture
def store():
    store = open_store(f"memory://alerting-{next(NAMES)}")
    publish_linear(store)
    return store


def begun(store):
    alerting = Alerting(store, MODEL)
    alerting.look(ALERTS, None, 0.0)
    return alerting


def put_risks(store, *ids, seq=1):
    rows = [{"prediction_id": name, "at_s": 1.0, "fields": {"score": 0.95}} for name in ids]
    found = [{"rule": "risky", "matched": len(rows), "rows": rows}]
    store.put(risk_path(MODEL, "r1", seq), encode_json({"warnings": found}))


def names(alerting, sink=HOOK):
    return [notice.alert.name for notice in alerting.waiting(sink)]


class Failing:
    """A store whose writes fail on demand."""

    def __init__(self, store):
        self._store, self.fails = store, False

    def __getattr__(self, name):
        if self.fails and name in ("put", "delete"):
            raise StoreUnavailable("no answer")
        return getattr(self._store, name)


def test_history_is_not_told_and_what_comes_is(store):
    change(store, pause, "before")
    alerting = begun(store)
    assert names(alerting) == ["control_paused"]
    put_risks(store, "p1")
    alerting.look(ALERTS, None, 1.0)
    assert names(alerting) == ["control_paused", "risky"]
    assert store.list(risk_prefix(MODEL)) == []


def test_a_restart_loses_nothing_and_tells_nothing_twice(store):
    first = begun(store)
    put_risks(store, "p1", "p2")
    first.look(ALERTS, None, 1.0)
    first.taken(HOOK, first.waiting(HOOK)[:1])
    first.save()
    second = Alerting(store, MODEL)
    put_risks(store, "p1", "p2", seq=2)  # shipped again
    second.look(ALERTS, None, 2.0)
    assert [n.alert.about["prediction_id"] for n in second.waiting(HOOK)] == ["p2"]
    assert [n.alert.about["prediction_id"] for n in second.waiting(LOG)] == ["p1", "p2"]


def test_a_crash_between_sending_and_saving_sends_the_same_id_again(store):
    first = begun(store)
    put_risks(store, "p1")
    first.look(ALERTS, None, 1.0)
    (notice,) = first.waiting(HOOK)
    first.taken(HOOK, [notice])
    (again,) = Alerting(store, MODEL).waiting(HOOK)
    assert again.id == notice.id


def test_nobody_is_told_what_the_store_does_not_know(store):
    failing = Failing(store)
    alerting = begun(failing)
    put_risks(store, "p1")
    failing.fails = True
    with pytest.raises(StoreUnavailable):
        alerting.look(ALERTS, None, 1.0)
    assert alerting.waiting(HOOK) == ()
    failing.fails = False
    alerting.look(ALERTS, None, 2.0)
    assert names(alerting) == ["risky"]


def test_alarms_end_when_the_monitor_says_so_and_not_when_it_says_nothing(store):
    alerting = begun(store)
    alarm = Alarm("score drift", "", 5.0, 1.0, 0.2, 9.0, "scores moved")
    alerting.look(ALERTS, MonitorReport(MODEL, version=1, alarms=(alarm,)), 1.0)
    alerting.look(ALERTS, None, 2.0)
    assert len(alerting.waiting(HOOK)) == len(alerting.firing()) == 1
    alerting.look(ALERTS, MonitorReport(MODEL, version=1), 3.0)
    assert [n.ended_s for n in alerting.waiting(HOOK)] == [None, 3.0]


def test_a_sink_that_never_takes_anything_keeps_a_bounded_number_waiting(store):
    alerting = begun(store)
    put_risks(store, *(f"p{n}" for n in range(WAITING_MAX + 5)))
    alerting.look(ALERTS, None, 1.0)
    assert len(alerting.waiting(HOOK)) == WAITING_MAX
    assert alerting.summary()["given_up"][HOOK] == 5


def test_damaged_files_stop_nothing(store):
    alerting = begun(store)
    store.put(risk_path(MODEL, "r0", 1), b"torn")
    put_risks(store, "p1")
    alerting.look(ALERTS, None, 1.0)
    assert names(alerting) == ["risky"]
    store.put(f"alerts/{MODEL}/state.json", b"torn")
    again = begun(store)
    put_risks(store, "p2", seq=2)
    again.look(ALERTS, None, 2.0)
    assert names(again) == ["risky"]


def test_an_address_is_not_shown_for_it_may_be_a_secret():
    sink = AlertsSpec.model_validate({"sinks": [{"webhook": "https://u:p@a.example/T0/key"}]}).sinks
    assert name_of(sink[0]).startswith("webhook a.example ")
    assert not {"key", "T0", "u:p"} & set(name_of(sink[0]).replace("/", " ").split())


def test_a_sink_that_left_the_spec_is_forgotten(store):
    alerting = begun(store)
    put_risks(store, "p1")
    alerting.look(ALERTS, None, 1.0)
    alerting.look(ALERTS.model_copy(update={"sinks": ALERTS.sinks[1:]}), None, 2.0)
    assert set(alerting.summary()["waiting"]) == {LOG}
