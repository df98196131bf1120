"""Alerts and housekeeping of many models in a few threads, on real sinks. Needs no cluster."""

import threading
from dataclasses import dataclass

import pytest

from hapredict.control.ray_pool_upkeep import SENDERS, PoolHousekeeper, PoolTeller
from hapredict.monitoring.compact import compacted, saved_path
from hapredict.monitoring.table import rows_prefix
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog, pause, resume
from hapredict.registry.store import encode_json, open_store
from hapredict.serving.journal import predictions_prefix
from hapredict.spec import Spec
from tests.support.bundles import MODEL, change, publish_linear, spec_of
from tests.support.clusters import eventually
from tests.support.live import part_of, put_part
from tests.support.sinks import Sink


@dataclass
class Led:
    spec: Spec
    report: None = None
    leads: bool = True


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def start():
    """Start upkeep; it ends with the test."""
    started = []

    def start(upkeep):
        started.append(upkeep)
        upkeep.start()
        return upkeep

    yield start
    for upkeep in started:
        upkeep.stop()


def telling(store, names, *sinks):
    """Models that tell these sinks."""
    for name in names:
        publish_linear(store, name, spec=spec_of(name))
    return {name: Led(spec_of(name, alerts={"sinks": list(sinks)})) for name in names}


def begun(teller, names):
    eventually(lambda: all("waiting" in teller.status(name) for name in names))


def heard(sink):
    return {(one["labels"]["model"], one["state"]) for one in sink.alerts}


def test_many_models_tell_one_sink_in_a_few_threads(store, start):
    names = [f"model_{number}" for number in range(30)]
    before = threading.active_count()
    with Sink() as sink:
        models = telling(store, names, {"webhook": sink.url})
        teller = start(PoolTeller(store, lambda: models))
        begun(teller, names)
        assert threading.active_count() - before <= SENDERS + 2 + 1  # a sink's server, and its call
        for name in names:
            change(store, pause, "by hand", model=name)
            teller.wake(name)
        eventually(lambda: heard(sink) == {(name, "firing") for name in names})
        change(store, resume, model=names[0])
        eventually(lambda: (names[0], "resolved") in heard(sink))
    assert len({one["id"] for one in sink.alerts}) == len(sink.alerts) == len(names) + 1


def test_a_sink_that_hangs_and_one_that_refuses_delay_no_other(store, start):
    with Sink() as stuck, Sink() as down, Sink() as sink:
        stuck.hold.clear()
        down.statuses = [503] * 1000
        urls = {"a": stuck.url, "b": down.url, "c": sink.url}
        models = {}
        for name, url in urls.items():
            models |= telling(store, [name], {"webhook": url})
        teller = start(PoolTeller(store, lambda: models))
        begun(teller, urls)
        for name in urls:
            change(store, pause, "by hand", model=name)
        eventually(lambda: heard(sink) == {("c", "firing")})
        eventually(lambda: "503" in str(teller.status("b")["trouble"]))
        assert stuck.requests == []
        assert teller.status("c")["trouble"] == {}


def test_what_a_sink_refuses_of_one_model_it_takes_of_the_others(store, start):
    with Sink() as sink:
        models = telling(store, ["a", "b"], {"webhook": sink.url})
        sink.statuses = [503]
        teller = start(PoolTeller(store, lambda: models))
        begun(teller, models)
        for name in models:
            change(store, pause, "by hand", model=name)
        eventually(lambda: len(sink.requests) >= 3)
        assert heard(sink) == {("a", "firing"), ("b", "firing")}


def test_nothing_is_told_of_a_model_that_is_led_elsewhere(store, start):
    with Sink() as sink:
        models = telling(store, ["a", "b"], {"webhook": sink.url})
        models["a"].leads = False
        teller = start(PoolTeller(store, lambda: models))
        begun(teller, ["b"])
        for name in models:
            change(store, pause, "by hand", model=name)
        eventually(lambda: sink.requests)
        assert heard(sink) == {("b", "firing")}
        assert not store.exists("alerts/a/state.json")
        models["a"].leads = True
        begun(teller, ["a"])


def test_journals_are_moved_in_turn_and_a_damaged_one_stops_no_other(store, start):
    publish_linear(store)
    bundle = load(store, MODEL, Catalog(store, MODEL).latest().state.versions[1].digest)
    for day in range(3):
        put_part(store, part_of(bundle, day + 1, day=day))
    store.put(
        saved_path(MODEL),
        encode_json({"positions": {"predictions": {"replica-a": 3}, "labels": {}}}),
    )
    store.put("compaction/broken/done/00000001.json", b"{}")
    store.put("compaction/broken/plans/00000001.json", b"no JSON")
    rules = {"compact_s": 0.2, "retention_days": 36500}
    specs = {name: spec_of(name, monitoring=rules) for name in (MODEL, "broken")}
    models = {name: Led(spec) for name, spec in specs.items()} | {
        "other": Led(specs[MODEL], leads=False)
    }
    keeper = start(PoolHousekeeper(store, lambda: models))
    eventually(lambda: keeper.status("broken") != "well")
    eventually(lambda: compacted(store, MODEL)["predictions"] == {"replica-a": 3})
    eventually(lambda: store.list(predictions_prefix(MODEL)) == [])
    assert store.list(rows_prefix(MODEL))
    assert keeper.status(MODEL) == keeper.status("other") == "well"
