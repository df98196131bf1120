"""What is told, how often, and in which form."""

import hashlib
import hmac
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.monitoring.alerts import (
    EVENT_S,
    HOUR_S,
    Alert,
    Book,
    Event,
    Notice,
    advance,
    alarms_of,
    alertmanager_body,
    events_of,
    log_line,
    risks_of,
    signature,
    states_of,
    webhook_body,
)
from hapredict.monitoring.report import Alarm, MonitorReport
from hapredict.registry.catalog import CatalogState, Entry

START_S = 1_700_000_000.0


def alert(name="feature_drift", feature="age", since_s=START_S):
    return Alert(name, "warning", {"model": "m", "feature": feature}, f"{feature} moved", since_s)


def told(book, lasting=(), events=(), now_s=START_S, limit=60):
    return advance(book, list(lasting), list(events), now_s, lambda _: limit)


def test_a_lasting_alert_is_told_when_it_appears_and_when_it_is_over():
    book, first = told(Book(), [alert()])
    book, again = told(book, [alert(since_s=START_S + 9)], now_s=START_S + 10)
    book, last = told(book, [], now_s=START_S + 20)
    book, never = told(book, [], now_s=START_S + 30)
    assert [n.ended_s for n in first] == [None]
    assert (again, never) == ((), ())
    assert [n.ended_s for n in last] == [START_S + 20]
    assert first[0].alert.fingerprint == last[0].alert.fingerprint
    assert first[0].id != last[0].id


def test_an_event_is_told_once():
    event = Event(alert("rolled_back"))
    book, first = told(Book(), events=[event, event])
    book, again = told(Book.from_json(json.loads(json.dumps(book.to_json()))), events=[event])
    assert (len(first), again) == (1, ())


def test_what_is_held_back_is_counted_and_told_with_the_next():
    events = [Event(alert("risky", str(n))) for n in range(5)]
    book, notices = told(Book(), events=[*events, Event(alert("risky", "x"), more=7)], limit=2)
    assert len(notices) == 2
    assert book.suppressed == {"risky": 3 + 1 + 7}
    book, notices = told(book, events=[Event(alert("risky", "y"))], now_s=START_S + HOUR_S, limit=2)
    assert [notice.suppressed for notice in notices] == [11]
    assert "11 more were held back" in log_line(notices[0])
    assert book.suppressed == {}


def test_a_lasting_alert_waits_for_room_and_is_not_lost():
    many = [alert(feature=str(n)) for n in range(3)]
    book, first = told(Book(), many, limit=2)
    book, later = told(book, many, now_s=START_S + HOUR_S, limit=2)
    assert (len(first), len(later)) == (2, 1)


def test_one_name_takes_no_room_from_another():
    book, _ = told(Book(), events=[Event(alert("risky", str(n))) for n in range(9)], limit=2)
    _, notices = told(book, events=[Event(alert("rolled_back"))], limit=2)
    assert len(notices) == 1


STEPS = st.lists(
    st.tuples(
        st.sets(st.sampled_from("abc")), st.lists(st.integers(0, 5), max_size=3), st.booleans()
    ),
    max_size=12,
)


@given(STEPS, st.integers(1, 4))
@settings(max_examples=60)
def test_notices_of_one_alert_take_turns_and_hours_have_a_limit(steps, limit):
    book, all_, moments = Book(), [], []
    for number, (names, numbers, restart) in enumerate(steps):
        now_s = START_S + 600.0 * number
        events = [Event(alert("risky", str(n))) for n in numbers]
        book, notices = told(book, [alert(feature=n) for n in names], events, now_s, limit)
        if restart:
            book = Book.from_json(json.loads(json.dumps(book.to_json())))
        all_ += notices
        moments += [(now_s, n.alert.name) for n in notices if n.ended_s is None]
    for feature in "abc":
        mine = [n.ended_s is not None for n in all_ if n.alert.about["feature"] == feature]
        assert mine == [bool(place % 2) for place in range(len(mine))]
    risky = [n.alert.fingerprint for n in all_ if n.alert.name == "risky"]
    assert len(set(risky)) == len(risky)
    for now_s, name in moments:
        assert sum(m > now_s - HOUR_S and m <= now_s for m, n in moments if n == name) <= limit


def test_alarms_pauses_rollbacks_and_risks_become_alerts():
    alarm = Alarm("feature drift", "age", 5.0, 1.0, 0.2, 9.0, "age moved")
    (drift,) = alarms_of(MonitorReport("m", version=3, alarms=(alarm,)))
    assert (drift.name, drift.about["feature"], drift.summary) == (
        "feature_drift",
        "age",
        "age moved",
    )
    assert drift.severity == "warning"
    worse = alarms_of(MonitorReport("m", alarms=(replace(alarm, slice="a=1", harm="worse"),)))
    assert worse[0].severity == "critical"
    assert worse[0].fingerprint != drift.fingerprint
    state = CatalogState("m", paused="by hand", frozen="rolled back")
    assert [one.name for one in states_of(state)] == ["control_paused", "training_frozen"]
    entry = Entry(7, "RollBack", "v3 was worse", 9.0, 9.0, 1, "c", state)
    (event,) = events_of(entry)
    assert (event.alert.name, event.alert.severity) == ("rolled_back", "critical")
    assert events_of(replace(entry, action="Hold")) == []
    row = {"prediction_id": "p1", "at_s": 3.0, "fields": {"score": 0.95}}
    (risk,) = risks_of("m", [{"rule": "high_risk", "matched": 4, "rows": [row]}])
    assert (risk.alert.name, risk.alert.details, risk.more) == ("high_risk", {"score": 0.95}, 3)


def test_a_webhook_body_says_what_where_since_when():
    notice = Notice(alert(), ended_s=START_S + 60, suppressed=2)
    (said,) = json.loads(webhook_body([notice]))["alerts"]
    assert (said["state"], said["suppressed"]) == ("resolved", 2)
    assert said["labels"] == {"model": "m", "feature": "age"}
    assert said["started_at"] == "2023-11-14T22:13:20.000+00:00"
    assert said["ended_at"] == "2023-11-14T22:14:20.000+00:00"


def test_a_signature_is_the_hmac_of_time_and_body():
    expected = hmac.new(b"key", b"17.{}", hashlib.sha256).hexdigest()
    assert signature("key", "17", b"{}") == f"sha256={expected}"


@pytest.mark.parametrize(
    ("notice", "ends"),
    [
        (Notice(alert(), lasting=True), "2023-11-14T22:18:30.000+00:00"),
        (Notice(alert()), "2023-11-14T22:18:30.000+00:00"),
        (Notice(alert(), ended_s=START_S + 5), "2023-11-14T22:13:25.000+00:00"),
    ],
)
def test_alertmanager_gets_labels_and_an_end(notice, ends):
    (said,) = json.loads(alertmanager_body([notice], START_S + 10))
    assert said["labels"] == {
        "alertname": "feature_drift",
        "severity": "warning",
        "model": "m",
        "feature": "age",
    }
    assert (said["startsAt"], said["endsAt"]) == ("2023-11-14T22:13:20.000+00:00", ends)
    assert said["annotations"]["summary"] == "age moved"
    assert EVENT_S == 300
