"""What replicas count about two versions that are compared, with real replicas and a real store."""

import numpy as np
import pytest

from hapredict.errors import TemporaryError
from hapredict.registry import catalog
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import open_store
from hapredict.serving.health import PROBES_MAX, read_health
from hapredict.serving.replica import Replica
from tests.support.bundles import MODEL, change, publish_linear
from tests.support.replicas import NOW_S, TABLE, breaks, try_second

ROWS = len(next(iter(TABLE.values())))


class Timer:
    """A clock that goes on by a second with each look."""

    def __init__(self):
        self.now_s = NOW_S

    def __call__(self):
        self.now_s += 1
        return self.now_s


@pytest.fixture
def store(tmp_path):
    found = open_store(f"file://{tmp_path}/store")
    publish_linear(found)
    return found


@pytest.fixture
def replica(store, tmp_path):
    made = Replica(store, MODEL, "a", tmp_path / "spool", Timer())
    made.refresh()
    return made


def answered(replica, times=1):
    for _ in range(times):
        replica.after(replica.predict(TABLE))
    replica.report()


def test_nothing_is_counted_while_one_version_serves_alone(store, replica):
    answered(replica)
    assert not store.list("health")


@pytest.mark.parametrize("share", [None, 0.5])
def test_both_versions_are_counted_on_the_same_rows(store, replica, share):
    try_second(store, share)
    replica.refresh()
    answered(replica)
    found = read_health(store, MODEL, 2)
    assert {number: (one.rows, one.faults) for number, one in found.items()} == {
        1: (ROWS, 0),
        2: (ROWS, 0),
    }
    assert not any(one.constant for one in found.values())
    assert {one.fastest_ms for one in found.values()} == {1000.0}


@pytest.mark.parametrize("score", [None, float("nan")])
@pytest.mark.parametrize("share", [None, 0.5])
def test_rows_that_a_challenger_fails_to_score_are_its_failures(store, replica, share, score):
    try_second(store, share)
    replica.refresh()
    breaks(replica, 2, score)
    answered(replica)
    found = read_health(store, MODEL, 2)
    assert (found[1].rows, found[1].faults) == (ROWS, 0)
    assert (found[2].rows, found[2].faults) == (0, ROWS)


def test_one_score_for_all_rows_shows(store, replica):
    try_second(store, 0.5)
    replica.refresh()
    breaks(replica, 2, 0.5)
    answered(replica)
    found = read_health(store, MODEL, 2)
    assert found[2].constant
    assert not found[1].constant


def test_a_watched_champion_that_fails_is_counted_by_request(store, replica):
    try_second(store, 0.5)
    change(store, catalog.promote, 30.0)
    replica.refresh()
    breaks(replica, 2, None)
    for _ in range(3):
        with pytest.raises(TemporaryError):
            replica.predict(TABLE)
    replica.report()
    assert read_health(store, MODEL, 2)[2].faults == 3


def test_replicas_add_up_and_timings_come_to_an_end(store, replica, tmp_path):
    try_second(store)
    other = Replica(store, MODEL, "b", tmp_path / "other", Timer())
    other.refresh()
    replica.refresh()
    answered(other)
    for _ in range(PROBES_MAX + 5):
        replica.report()
    found = read_health(store, MODEL, 2)
    assert found[2].rows == ROWS
    assert found[1].probes == found[2].probes == PROBES_MAX + 1


def test_a_rollback_restores_model_plan_reference_and_settings_of_one_bundle(store, replica):
    before = replica._routes.champion
    try_second(store, 0.5)
    change(store, catalog.promote, 30.0)
    replica.refresh()
    assert replica._routes.champion.digest != before.digest
    change(store, catalog.roll_back, 40.0, None, "v2 was worse")
    replica.refresh()
    after = replica._routes.champion
    bundle = load(store, MODEL, before.digest)
    assert (after.number, after.digest) == (1, before.digest)
    assert (after.plan, after.reference) == (bundle.plan, bundle.reference)
    assert (after.schema, after.spec) == (bundle.schema, bundle.spec)
    assert np.array_equal(after.scores(TABLE), before.scores(TABLE))
    assert Catalog(store, MODEL).latest().state.frozen == "v2 was worse"
