"""The list of a catalog's states: append, follow, race."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from hapredict.errors import Conflict, CorruptBundle, LeaseLost, NotFound
from hapredict.registry import catalog
from hapredict.registry.catalog import Catalog, CatalogState, Entry, Version
from hapredict.registry.store import open_store

EMPTY = CatalogState("m")
TRIED = catalog.shadow(
    catalog.publish(
        catalog.publish(EMPTY, Version(1, "d1", "run-1", 10.0, 9.0, {"auc": 0.7})),
        Version(2, "d2", "run-2", 20.0, 19.0),
    ),
    2,
    30.0,
)


def append(history, previous, state, **changes):
    told = {"action": "act", "reason": "because", "at_s": 1.0, "event_s": 2.0, "actor": "test"}
    return history.append(previous, state, **{**told, **changes})


@pytest.fixture
def store(tmp_path):
    return open_store(f"memory://{tmp_path}")


@pytest.fixture
def history(store):
    return Catalog(store, "m")


def test_an_empty_catalog_has_no_latest_entry(history):
    assert history.latest() is None
    assert history.entries() == []


def test_an_entry_comes_back_as_it_was_appended(history, store):
    first = append(history, None, EMPTY, action="begin", reason="für Größe", actor="日本")
    second = append(history, first, TRIED)
    assert (first.sequence, second.sequence) == (1, 2)
    assert Catalog(store, "m").latest() == history.latest() == second
    assert Catalog(store, "m").entries() == [first, second]
    assert Catalog(store, "m").entries(after=1) == [second]
    assert store.list("") == ["catalog/m/00000001.json", "catalog/m/00000002.json"]


def test_a_reader_follows_a_writer(history, store):
    reader = Catalog(store, "m")
    assert reader.latest() is None
    entry = None
    for _ in range(3):
        entry = append(history, entry, EMPTY)
        assert reader.latest() == entry
    entry = append(history, append(history, entry, EMPTY), EMPTY)
    assert reader.latest() == entry


def test_looking_when_nothing_is_new_costs_one_failed_read(history, store, monkeypatch):
    append(history, append(history, None, EMPTY), EMPTY)
    reader = Catalog(store, "m")
    reader.latest()
    asked = []

    def get(path):
        asked.append(path)
        raise NotFound(path)

    monkeypatch.setattr(store, "get", get)
    monkeypatch.setattr(store, "list", asked.append)
    assert reader.latest().sequence == 2
    assert asked == ["catalog/m/00000003.json"]


def test_a_writer_that_read_too_early_gets_a_conflict_and_writes_nothing(history, store):
    first = append(history, None, EMPTY)
    second = append(history, first, EMPTY, actor="fast")
    for previous in (None, first):
        with pytest.raises(Conflict):
            append(Catalog(store, "m"), previous, EMPTY, actor="slow")
    assert history.entries() == [first, second]


def test_a_controller_whose_term_is_over_is_told_so(history, store):
    old = append(history, None, catalog.fence(EMPTY, 1))
    new = append(history, old, catalog.fence(old.state, 2))
    with pytest.raises(LeaseLost, match="term 1 is over"):
        append(Catalog(store, "m"), old, old.state)
    with pytest.raises(LeaseLost, match="term 1 is over"):
        append(Catalog(store, "m"), new, old.state)
    assert history.entries() == [old, new]


def test_racing_appenders_make_a_dense_history_with_each_entry_once(store):
    writers, entries = 6, 8
    start = threading.Barrier(writers)

    def write(writer):
        mine = Catalog(store, "m")
        start.wait()
        for number in range(entries):
            while True:
                latest = mine.latest()
                state = latest.state if latest else EMPTY
                state = replace(state, labels_at_training=state.labels_at_training + 1)
                try:
                    append(mine, latest, state, actor=f"{writer}-{number}")
                    break
                except Conflict:
                    continue

    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    history = Catalog(store, "m").entries()
    assert [entry.sequence for entry in history] == list(range(1, writers * entries + 1))
    assert [entry.state.labels_at_training for entry in history] == list(
        range(1, writers * entries + 1)
    )
    assert len({entry.actor for entry in history}) == writers * entries


def test_two_models_have_two_catalogs(store, history):
    append(history, None, EMPTY)
    assert Catalog(store, "n").latest() is None


def damaged(raw, **changes):
    return json.dumps({**json.loads(raw), **changes}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:-20],
        lambda raw: b"[]",
        lambda raw: b"{}",
        lambda raw: damaged(raw, format=2),
        lambda raw: damaged(raw, sequence=2),
        lambda raw: damaged(raw, surprise=1),
        lambda raw: damaged(raw, state=None),
        lambda raw: damaged(raw, state={**json.loads(raw)["state"], "stage": "asleep"}),
        lambda raw: damaged(raw, state={**json.loads(raw)["state"], "model": "other"}),
    ],
)
def test_an_entry_that_cannot_be_read_is_named(history, store, damage):
    append(history, None, TRIED)
    path = "catalog/m/00000001.json"
    store.put(path, damage(store.get(path)))
    for look in (Catalog(store, "m").latest, history.entries):
        with pytest.raises(CorruptBundle, match=path):
            look()


def test_an_entry_is_json_both_ways():
    entry = Entry(1, "act", "because", 1.5, 2.5, 3, "me", TRIED)
    assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry
