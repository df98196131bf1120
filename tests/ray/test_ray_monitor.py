import os
import signal
import time

import pytest
import ray

from hapredict.errors import NotFound
from hapredict.monitoring.ray_monitor import find_monitor, start_monitor, stop_monitor
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import open_store
from tests.support.bundles import publish_linear, spec_of
from tests.support.live import labels_of, part_of, put_labels, put_part

MODEL = "watched"
WAIT_S = 60


@pytest.fixture
def store(cluster, tmp_path):
    store = open_store(str(tmp_path / "store"))
    publish_linear(store, MODEL, spec=spec_of(MODEL, monitoring={"window_rows": 50}))
    yield store
    stop_monitor(MODEL)


def write_days(store, first, last):
    """A part and its labels a day; returns the positions to wait for."""
    state = Catalog(store, MODEL).latest().state
    bundle = load(store, MODEL, state.versions[state.champion].digest)
    for day in range(first, last):
        part = part_of(bundle, day + 1, day=day, scores=0.2)
        put_part(store, part, MODEL)
        put_labels(store, labels_of(part, rate=0.6), seq=day + 1, model=MODEL)
    return {"predictions": {"replica-a": last}, "labels": {"replica-a": last}}


def report_at(monitor, positions):
    assert ray.get(monitor.folded.remote(positions, WAIT_S), timeout=2 * WAIT_S)
    return MonitorReport.from_json(ray.get(monitor.report.remote(), timeout=WAIT_S))


def kill(monitor):
    """SIGKILL the monitor's process and wait until Ray has started another."""
    dead = ray.get(monitor.ping.remote(), timeout=WAIT_S)
    os.kill(dead, signal.SIGKILL)
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        try:
            if ray.get(monitor.ping.remote(), timeout=WAIT_S) != dead:
                return
        except ray.exceptions.ActorUnavailableError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"process {dead} was not replaced")


def test_a_killed_monitor_comes_back_with_the_same_report(store):
    monitor = start_monitor(MODEL, store.url, poll_s=0.1, snapshot_s=0.2)
    before = report_at(monitor, write_days(store, 0, 6))
    assert (before.rows, before.labels_joined, before.version) == (360, 360, 1)
    assert {"concept drift", "score drift"} <= {alarm.kind for alarm in before.alarms}
    kill(monitor)
    assert report_at(monitor, before.positions) == before
    after = report_at(monitor, write_days(store, 6, 8))
    assert (after.rows, after.labels_joined, after.labels_repeated) == (480, 480, 0)
    kill(monitor)
    assert report_at(monitor, after.positions) == after


def test_a_monitor_killed_before_its_first_snapshot_reads_the_journal_again(store):
    monitor = start_monitor(MODEL, store.url, poll_s=0.1, snapshot_s=3600)
    before = report_at(monitor, write_days(store, 0, 3))
    assert store.children(f"monitor/{MODEL}") == []
    kill(monitor)
    assert report_at(monitor, before.positions) == before


def test_starting_twice_gives_one_monitor_and_stopping_ends_it(store):
    one = start_monitor(MODEL, store.url)
    other = start_monitor(MODEL, store.url)
    found = find_monitor(MODEL)
    assert len({ray.get(m.ping.remote(), timeout=WAIT_S) for m in (one, other, found)}) == 1
    stop_monitor(MODEL)
    with pytest.raises(NotFound, match="no monitor runs for model 'watched'"):
        find_monitor(MODEL)


def test_a_monitor_without_its_store_says_so_and_goes_on_when_it_returns(store, tmp_path):
    monitor = start_monitor(MODEL, store.url, poll_s=0.1, snapshot_s=0.1)
    positions = write_days(store, 0, 1)
    before = report_at(monitor, positions)
    folder, aside = tmp_path / "store", tmp_path / "aside"
    folder.rename(aside)
    folder.symlink_to(folder)  # every access fails: too many levels of symbolic links
    deadline_s = time.monotonic() + WAIT_S
    while not ray.get(monitor.report.remote(), timeout=WAIT_S)["detail"]:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    folder.unlink()
    aside.rename(folder)
    after = report_at(monitor, write_days(store, 1, 2))
    assert (after.rows, before.rows) == (120, 60)
    while ray.get(monitor.report.remote(), timeout=WAIT_S)["detail"]:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_the_monitor_does_not_load_tensorflow(store):
    @ray.remote(num_cpus=0)
    def modules():
        import sys

        import hapredict.monitoring.ray_monitor  # noqa: F401

        return sorted(sys.modules)

    loaded = ray.get(modules.remote(), timeout=WAIT_S)
    assert "hapredict.monitoring.ray_monitor" in loaded
    assert not {"tensorflow", "keras", "jax"} & set(loaded)
