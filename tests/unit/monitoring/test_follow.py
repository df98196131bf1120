import itertools
from collections import Counter

import pytest

from hapredict.errors import StoreUnavailable
from hapredict.monitoring.follow import Follower, snapshot_path
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog, promote, shadow
from hapredict.registry.store import open_store
from hapredict.sections import DAY_S
from hapredict.serving.journal import part_path, predictions_prefix
from tests.support.bundles import MODEL, START_S, change, publish_linear, spec_of
from tests.support.live import labels_of, part_of, put_labels, put_part

NAMES = itertools.count()


@pytest.fixture
def store():
    store = open_store(f"memory://follow-{next(NAMES)}")
    publish_linear(store)
    return store


class Failing:
    """A store that fails at every n-th read of a journal part."""

    def __init__(self, store, every):
        self._store, self._every, self._reads = store, every, 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get(self, path):
        self._reads += path.startswith("journal/")
        if path.startswith("journal/") and self._reads % self._every == 0:
            raise StoreUnavailable(f"{path}: no answer")
        return self._store.get(path)


def bundle_in(store):
    return load(store, MODEL, Catalog(store, MODEL).latest().state.versions[1].digest)


def write_traffic(store, sources=("replica-a", "replica-b"), days=5):
    bundle = bundle_in(store)
    for source in sources:
        for day in range(days):
            part = part_of(bundle, day + 1, source=source, day=day)
            put_part(store, part)
            put_labels(store, labels_of(part), seq=day + 1, source=source)


def test_nothing_is_folded_before_there_is_a_champion():
    assert Follower(open_store("memory://follow-none"), MODEL).step() == 0


def test_all_parts_are_folded_once(store):
    write_traffic(store)
    follower = Follower(store, MODEL)
    assert follower.step() == 20
    assert follower.step() == 0
    report = follower.monitor.report()
    assert (report.rows, report.labels_joined) == (600, 600)
    assert report.positions["labels"] == {"replica-a": 5, "replica-b": 5}


def test_sources_are_folded_in_the_order_of_time_however_few_parts_a_step_takes():
    spec = spec_of(monitoring={"label_delay_max_days": 2})
    store = open_store("memory://follow-order")
    publish_linear(store, spec=spec)
    write_traffic(store, days=15)
    follower = Follower(store, MODEL)
    while follower.step(parts_max=7):
        pass
    report = follower.monitor.report()
    # else the first source would carry the watermark past the second one's labels
    assert report.labels_joined == report.rows == 2 * 15 * 60
    assert report.labels_late == report.labels_unmatched == report.rows_late == 0


def test_a_new_part_waits_for_the_one_before_it(store):
    bundle = bundle_in(store)
    follower = Follower(store, MODEL)
    put_part(store, part_of(bundle, 2))
    assert follower.step() == 0
    put_part(store, part_of(bundle, 1))
    assert follower.step() == 2


@pytest.mark.parametrize("every", [2, 3, 7])
def test_a_store_that_fails_again_and_again_costs_and_doubles_nothing(store, every):
    write_traffic(store)
    follower = Follower(Failing(store, every), MODEL)
    failures = 0
    for _ in range(200):
        try:
            if not follower.step():
                break
        except StoreUnavailable:
            failures += 1
    straight = Follower(store, MODEL)
    straight.step()
    assert failures
    report = follower.monitor.report()
    assert (report.rows, report.labels_joined) == (600, 600)
    assert report.positions == straight.monitor.report().positions


class Counting:
    """A store that counts the looks into each source of the journal."""

    def __init__(self, store):
        self._store, self.looks = store, Counter()

    def __getattr__(self, name):
        return getattr(self._store, name)

    def get(self, path):
        if path.startswith("journal/"):
            self.looks[path.split("/")[3]] += 1
        return self._store.get(path)


def test_sources_that_ended_long_ago_cost_next_to_nothing(store):
    ended = tuple(f"ended-{number}" for number in range(10))
    write_traffic(store, (*ended, "lives"), days=1)
    counting = Counting(store)
    follower = Follower(counting, MODEL)
    bundle = bundle_in(store)
    follower.step()
    for look in range(600):
        if look == 500:
            put_part(store, part_of(bundle, 2, source="lives", rows=1))
            counting.looks.clear()
        follower.step(everywhere=False)
    # of each of the two kinds, where it is quiet for 500 looks and more
    assert max(counting.looks[source] for source in ended) <= 2 * 2
    assert counting.looks["lives"] > 15


def test_a_part_that_an_ended_source_left_behind_is_found_within_64_looks(store):
    write_traffic(store, days=1)
    follower = Follower(store, MODEL)
    bundle = bundle_in(store)
    follower.step()
    for _ in range(600):
        assert follower.step(everywhere=False) == 0
    put_part(store, part_of(bundle, 2, source="replica-a", day=1))
    assert sum(follower.step(everywhere=False) for _ in range(64)) == 1
    put_part(store, part_of(bundle, 2, source="replica-b", day=1))
    assert follower.step() == 1


def test_a_follower_goes_on_from_the_snapshot(store):
    write_traffic(store, days=3)
    first = Follower(store, MODEL)
    first.step()
    assert first.unsaved == 12
    first.save()
    bundle = bundle_in(store)
    put_part(store, part_of(bundle, 4, day=3))
    second = Follower(store, MODEL)
    assert (first.step(), second.step()) == (1, 1)
    assert second.monitor.report() == first.monitor.report()


def test_a_damaged_snapshot_is_told_and_the_journal_read_again(store):
    write_traffic(store)
    store.put(snapshot_path(MODEL), b"nonsense")
    follower = Follower(store, MODEL)
    assert follower.step() == 20
    assert snapshot_path(MODEL) in follower.detail


def test_a_damaged_part_is_told_and_does_not_stop_its_source(store):
    bundle = bundle_in(store)
    put_part(store, part_of(bundle, 1))
    store.put_new(part_path(predictions_prefix(MODEL), "replica-a", 2), b"nonsense")
    put_part(store, part_of(bundle, 3))
    follower = Follower(store, MODEL)
    assert follower.step() == 2
    assert follower.monitor.report().rows == 120
    assert "00000002.parquet" in follower.detail


def test_a_promotion_in_the_catalog_switches_the_champion(store):
    follower = Follower(store, MODEL)
    follower.step()
    publish_linear(store, weights={"distance": 2.0})
    change(store, shadow, 2, START_S)
    change(store, promote, START_S + DAY_S)
    follower.step()
    assert follower.monitor.report().version == 2
