"""Alerts reach real servers, and one that is down delays only itself. Needs no cluster."""

import hashlib
import hmac
import json
import logging

import pytest

from hapredict.control.ray_alerts import Teller
from hapredict.registry.catalog import pause, resume
from hapredict.registry.store import open_store
from hapredict.sections_alerts import AlertsSpec
from tests.support.bundles import MODEL, change, publish_linear
from tests.support.clusters import eventually
from tests.support.sinks import Sink


@pytest.fixture
def store(tmp_path):
    store = open_store(str(tmp_path / "store"))
    publish_linear(store)
    return store


@pytest.fixture
def telling(store):
    """Start telling to some sinks; all of them end with the test."""
    tellers = []

    def start(*sinks, leads=lambda: True):
        alerts = AlertsSpec.model_validate({"sinks": list(sinks)})
        tellers.append(Teller(store, MODEL, lambda: alerts, lambda: None, leads))
        tellers[-1].start()
        return tellers[-1]

    yield start
    for teller in tellers:
        teller.stop()


def begun(teller):
    eventually(lambda: "waiting" in teller.status())
    return teller


def test_a_webhook_is_signed_tried_again_and_told_of_the_end(store, telling, monkeypatch):
    monkeypatch.setenv("ALERT_KEY", "secret")
    with Sink() as sink:
        sink.statuses = [500, 302]
        begun(telling({"webhook": sink.url + "/hook", "secret_env": "ALERT_KEY"}))
        change(store, pause, "by hand")
        eventually(lambda: len(sink.requests) >= 3)
        change(store, resume)
        eventually(lambda: [one["state"] for one in sink.alerts][-1] == "resolved")
    assert len({one["id"] for one in sink.alerts}) == 2
    for path, headers, body in sink.requests:
        signed = headers["X-Hapredict-Timestamp"].encode() + b"." + body
        expected = hmac.new(b"secret", signed, hashlib.sha256).hexdigest()
        assert headers["X-Hapredict-Signature"] == f"sha256={expected}"
        assert path == "/hook"


def test_a_sink_that_hangs_delays_no_other(store, telling, caplog):
    with Sink() as stuck, Sink() as sink, caplog.at_level(logging.WARNING):
        stuck.hold.clear()
        begun(telling({"webhook": stuck.url}, {"alertmanager": sink.url}, {"log": True}))
        change(store, pause, "by hand")
        eventually(lambda: sink.requests)
        path, _, body = sink.requests[0]
        assert stuck.requests == []
        eventually(lambda: "control_paused: by hand" in caplog.text)
    (said,) = json.loads(body)
    assert path == "/api/v2/alerts"
    assert (said["labels"]["alertname"], said["labels"]["model"]) == ("control_paused", MODEL)


def test_a_sink_without_its_key_says_so_and_is_sent_nothing(store, telling):
    with Sink() as sink:
        teller = begun(telling({"webhook": sink.url, "secret_env": "NO_SUCH_KEY"}))
        change(store, pause, "by hand")
        eventually(lambda: "NO_SUCH_KEY" in str(teller.status()["trouble"]))
        assert sink.requests == []


def test_a_second_teller_goes_on_where_the_first_stopped(store, telling):
    with Sink() as sink:
        sink.statuses = [503] * 1000
        first = begun(telling({"webhook": sink.url}))
        change(store, pause, "by hand")
        eventually(lambda: sink.requests)
        first.stop()
        sink.statuses = []
        before = len(sink.requests)
        telling({"webhook": sink.url})
        eventually(lambda: len(sink.requests) > before)
        assert {one["id"] for one in sink.alerts} == {sink.alerts[0]["id"]}


def test_whoever_does_not_lead_tells_nothing(store, telling):
    with Sink() as sink:
        leads = []
        telling({"webhook": sink.url}, leads=lambda: bool(leads))
        change(store, pause, "by hand")
        assert not store.exists(f"alerts/{MODEL}/state.json")
        leads.append(True)
        eventually(lambda: sink.requests)
