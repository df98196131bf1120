"""What a model of a pool keeps when it is unloaded and comes back, with a real store."""

import pytest

from hapredict.errors import StoreUnavailable, TemporaryError
from hapredict.monitoring.monitor import Monitor
from hapredict.registry.store import open_store
from hapredict.serving.health import read_health
from hapredict.serving.journal import Label, decode, labels_prefix, predictions_prefix, unread
from hapredict.serving.pooled import Noted
from hapredict.serving.recorder import LabelWriter
from tests.support.bundles import MODEL, publish_linear
from tests.support.replicas import NOW_S, TABLE, breaks, try_second

ROWS = len(next(iter(TABLE.values())))
LABELS = (Label("p", "yes", NOW_S),)


@pytest.fixture
def store(tmp_path):
    found = open_store(f"file://{tmp_path}/store")
    publish_linear(found)
    return found


@pytest.fixture
def load(store, tmp_path):
    """Load the model, under the mark that it left; tells what notes itself for the upkeep."""

    def load(source):
        replica = Noted(store, MODEL, source, tmp_path / "spool", lambda: NOW_S)
        replica.notes = []
        replica.noted = lambda: replica.notes.append("noted")
        replica.refresh()
        return replica

    return load


def test_counts_about_a_version_on_trial_go_on_after_an_unloading(store, load):
    try_second(store, 0.5)
    mark = "a"
    for _ in range(3):
        replica = load(mark)
        replica.after(replica.predict(TABLE))
        replica.report()
        replica.close()
        mark = replica.mark()
    assert len(store.list("health")) == 1
    assert {one.rows for one in read_health(store, MODEL, 2).values()} == {3 * ROWS}


def test_a_request_that_no_version_can_score_is_noted_for_control(store, load):
    try_second(store, 0.5)
    replica = load("a")
    breaks(replica, 1, None)
    breaks(replica, 2, None)
    with pytest.raises(TemporaryError):
        replica.predict(TABLE)
    assert replica.notes
    replica.report()
    assert sum(one.faults for one in read_health(store, MODEL, 2).values()) > 0


def test_rows_that_do_not_fit_are_noted_and_told_by_column(store, load):
    replica = load("a")
    replica.refused("distance", 7)
    assert replica.notes
    replica.close()
    ((_, _, path),) = unread(store, predictions_prefix(MODEL), {})
    assert decode(store.get(path), columns=Monitor(MODEL).columns).refused == {"distance": 7}


def test_labels_of_a_source_that_began_anew_go_on_there(store):
    class Away:
        def put_once(self, path, data):
            raise StoreUnavailable("away")

    first = LabelWriter(store, MODEL, "a")
    first.add(LABELS)
    first._store = Away()
    with pytest.raises(StoreUnavailable):
        first.add(LABELS)
    first._store = store
    first.add(LABELS)
    again = LabelWriter(store, MODEL, "a", at=first.at)
    again.add(LABELS)
    found = [(source, seq) for source, seq, _ in unread(store, labels_prefix(MODEL), {})]
    assert sorted(found) == [("a", 1), ("a-1", 1), ("a-1", 2)]
