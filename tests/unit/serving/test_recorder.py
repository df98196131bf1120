"""Every row that reached the spool is in the journal exactly once, whatever dies in between."""

import os
import secrets
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle as Drawn
from hypothesis.stateful import RuleBasedStateMachine, consumes, invariant, rule

from hapredict.errors import StoreUnavailable
from hapredict.registry.store import open_store
from hapredict.serving import recorder as recorder_module
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import load_version
from hapredict.serving.journal import (
    NO_VERSION,
    Label,
    decode,
    decode_labels,
    labels_prefix,
    predictions_prefix,
    unread,
)
from hapredict.serving.recorder import LabelWriter, Recorder
from hapredict.serving.routing import Split
from hapredict.serving.scoring import Routes, answer
from tests.support.bundles import MODEL, publish_linear, schema_of, table_of
from tests.support.replicas import die

SCHEMA = schema_of()
TABLES = {rows: table_of(rows, seed=rows) for rows in (1, 2, 5)}


def no_fault(what):
    raise AssertionError(what)


@pytest.fixture(scope="module")
def routes():
    return make_routes()


def make_routes():
    store = open_store(f"memory://{secrets.token_hex(8)}")
    loaded = load_version(store, MODEL, publish_linear(store))
    return Routes(MODEL, Split(1), {1: loaded}, None, Rule(0.5), "order", False, 3600.0)


def answered(routes, stem, rows=1, now_s=1000.0):
    return answer(routes, TABLES[rows], stem=stem, now_s=now_s, version=None, fault=no_fault)


def shipped(store):
    return [
        decode(store.get(path), SCHEMA)
        for _, _, path in unread(store, predictions_prefix(MODEL), {})
    ]


class Killed(BaseException):
    """The process ends here."""


class FaultyStore:
    """A store that fails on demand: before it writes, after it wrote, or with its process."""

    def __init__(self, store):
        self.store = store
        self.mode = "works"

    def put_new(self, path, data):
        if self.mode == "fails":
            raise StoreUnavailable(path)
        if self.mode == "dies before":
            raise Killed
        self.store.put_new(path, data)
        if self.mode == "fails after":
            raise StoreUnavailable(path)
        if self.mode == "dies after":
            raise Killed

    def put_once(self, path, data):
        if self.mode == "fails":
            raise StoreUnavailable(path)
        self.store.put_once(path, data)
        if self.mode == "fails after":
            raise StoreUnavailable(path)


class RowsSurvive(RuleBasedStateMachine):
    """Replicas on one machine that add, tick, report and die in any order."""

    recorders = Drawn("recorders")

    def __init__(self):
        super().__init__()
        self.routes = make_routes()
        self.store = open_store(f"memory://{secrets.token_hex(8)}")
        self.folder = tempfile.TemporaryDirectory()
        self.alive = {}
        self.calls = 0
        self.kept = []
        self.added = {}

    @rule(target=recorders)
    def starts(self):
        name = f"r{len(self.added)}"
        store = FaultyStore(self.store)
        self.alive[name] = Recorder(store, MODEL, name, Path(self.folder.name), fault=no_fault)
        self.added[name] = []
        return name

    @rule(name=recorders, rows=st.sampled_from(list(TABLES)))
    def answers(self, name, rows):
        self.calls += 1
        found = answered(self.routes, f"{name}-{self.calls}", rows)
        self.alive[name].add(found)
        self.added[name] += found.ids

    @rule(name=recorders)
    def ticks(self, name):
        self.alive[name].tick()
        self.kept += self.added[name]
        self.added[name] = []

    @rule(name=recorders, mode=st.sampled_from(["works", "works", "fails", "fails after"]))
    def reports(self, name, mode):
        recorder = self.alive[name]
        recorder._store.mode = mode
        self.ticks(name)
        recorder.report(SCHEMA)
        if mode == "works":
            assert recorder.state().parts_waiting == 0
            assert recorder.state().trouble == ""

    @rule(name=consumes(recorders), mode=st.sampled_from(["dies before", "dies after"]))
    def dies_while_it_reports(self, name, mode):
        recorder = self.alive.pop(name)
        recorder._store.mode = mode
        self.kept += self.added[name]
        with suppress(Killed):
            recorder.report(SCHEMA)
        die(recorder)

    @rule(name=consumes(recorders), torn=st.binary(max_size=30))
    def dies_while_it_ticks(self, name, torn):
        recorder = self.alive.pop(name)
        if recorder._spool._file is not None:
            os.write(recorder._spool._file, torn)
        die(recorder)

    @rule(name=consumes(recorders))
    def leaves(self, name):
        recorder = self.alive.pop(name)
        recorder._store.mode = "works"
        self.kept += self.added[name]
        recorder.close(SCHEMA)

    @invariant()
    def nothing_is_shipped_twice(self):
        ids = [id_ for part in shipped(self.store) for id_ in part.ids]
        assert len(ids) == len(set(ids))

    def teardown(self):
        for recorder in self.alive.values():
            die(recorder)
        heir = Recorder(self.store, MODEL, "heir", Path(self.folder.name), fault=no_fault)
        heir.report(SCHEMA)
        parts = shipped(self.store)
        assert sorted(id_ for part in parts for id_ in part.ids) == sorted(self.kept)
        for part in parts:
            assert sum(window.rows for window in part.windows) == part.rows
        assert len(parts) == len(self.store.list(predictions_prefix(MODEL)))
        heir.close(SCHEMA)
        assert list(Path(self.folder.name).iterdir()) == []
        self.folder.cleanup()


RowsSurvive.TestCase.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
TestRowsSurvive = RowsSurvive.TestCase


@pytest.fixture
def store(request):
    return open_store(f"memory://{secrets.token_hex(8)}")


def test_rows_wait_on_the_disk_while_the_store_does_not_answer(store, routes, tmp_path):
    faulty = FaultyStore(store)
    faulty.mode = "fails"
    recorder = Recorder(faulty, MODEL, "a", tmp_path, fault=no_fault)
    for call in range(5):
        recorder.add(answered(routes, f"a-{call}"))
        recorder.report(SCHEMA)
    state = recorder.state()
    assert (state.rows, state.rows_waiting, state.parts_waiting) == (5, 0, 5)
    assert "0000001.parquet" in state.trouble
    faulty.mode = "works"
    recorder.report(SCHEMA)
    assert recorder.state().trouble == ""
    assert [part.seq for part in shipped(store)] == [1, 2, 3, 4, 5]


def test_rows_beyond_the_limit_of_memory_are_dropped_and_counted(store, routes, tmp_path):
    recorder = Recorder(store, MODEL, "a", tmp_path, fault=no_fault, rows_max=4)
    for call in range(3):
        recorder.add(answered(routes, f"a-{call}", 2))
    assert recorder.state().rows_dropped == 2
    recorder.tick()
    recorder.add(answered(routes, "a-9", 2))
    recorder.report(SCHEMA)
    assert recorder.state().rows == 6


def test_rows_wait_in_memory_while_the_disk_is_full(store, routes, tmp_path, monkeypatch):
    recorder = Recorder(store, MODEL, "a", tmp_path, fault=no_fault)
    recorder.add(answered(routes, "a-1"))
    write = os.write

    def full(file, data):
        raise OSError("no space left")

    monkeypatch.setattr(os, "write", full)
    recorder.tick()
    assert "no space left" in recorder.state().trouble
    assert recorder.state().rows_waiting == 1
    monkeypatch.setattr(os, "write", write)
    recorder.report(SCHEMA)
    assert [part.ids for part in shipped(store)][-1] == answered(routes, "a-1").ids


def test_refused_rows_are_told_by_the_next_report_even_where_none_was_answered(
    store, routes, tmp_path, monkeypatch
):
    recorder = Recorder(store, MODEL, "r1", tmp_path, fault=no_fault)
    recorder.refuse("distance", 3)
    recorder.refuse("distance", 2)
    recorder.refuse("carrier", 1)
    recorder.report(SCHEMA)
    recorder.add(answered(routes, "one", 2))
    recorder.refuse("distance", 7)
    with monkeypatch.context() as full:
        full.setattr(recorder_module.Spool, "append", _full)
        recorder.report(SCHEMA)
        assert recorder.state().trouble
    recorder.report(SCHEMA)
    first, second = shipped(store)
    assert (first.rows, first.refused) == (0, {"distance": 5, "carrier": 1})
    assert (second.rows, second.refused) == (2, {"distance": 7})
    recorder.report(SCHEMA)
    assert len(shipped(store)) == 2


def _full(*_args):
    raise OSError("no space left")


def test_rows_that_cannot_be_recorded_do_not_stop_the_others(store, routes, tmp_path):
    faults = []
    recorder = Recorder(store, MODEL, "a", tmp_path, fault=faults.append)
    strange = msgspec.structs.replace(answered(make_routes(), "a-1"), versions=None)
    recorder.add(strange)
    recorder.add(answered(routes, "a-2"))
    recorder.report(SCHEMA)
    assert [part.ids for part in shipped(store)] == [answered(routes, "a-2").ids]
    assert recorder.state().rows_dropped == 1
    assert "could not be recorded" in faults[0]


def test_rows_of_many_threads_are_all_recorded(store, routes, tmp_path):
    recorder = Recorder(store, MODEL, "a", tmp_path, fault=no_fault)

    def add(thread):
        for call in range(100):
            recorder.add(answered(routes, f"{thread}-{call}"))

    threads = [threading.Thread(target=add, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        recorder.tick()
    recorder.report(SCHEMA)
    ids = [id_ for part in shipped(store) for id_ in part.ids]
    assert len(set(ids)) == len(ids) == 400


def labels_in(store):
    parts = unread(store, labels_prefix(MODEL), {})
    assert len(parts) == len(store.list(labels_prefix(MODEL)))
    return [label for _, _, path in parts for label in decode_labels(store.get(path))]


def test_labels_are_in_the_store_when_add_returns(store):
    writer = LabelWriter(store, MODEL, "a")
    labels = [Label("p1", "yes", 1.0), Label("p2", "no", 2.0, 3.0)]
    writer.add(labels)
    assert labels_in(store) == labels
    writer.add(labels[:1])
    assert labels_in(store) == [*labels, labels[0]]
    assert writer.written == 3


@pytest.mark.parametrize("mode", ["fails", "fails after"])
def test_labels_that_may_not_be_durable_are_refused_and_can_be_sent_again(store, mode):
    faulty = FaultyStore(store)
    writer = LabelWriter(faulty, MODEL, "a")
    faulty.mode = mode
    with pytest.raises(StoreUnavailable):
        writer.add([Label("p1", "yes", 1.0)])
    faulty.mode = "works"
    writer.add([Label("p2", "no", 2.0)])
    writer.add([Label("p1", "yes", 4.0)])
    assert {label.id for label in labels_in(store)} == {"p1", "p2"}


def test_callers_that_come_together_are_committed_together(store):
    entered, go_on = threading.Event(), threading.Event()
    put = store.put_once

    class Slow:
        def put_once(self, path, data):
            entered.set()
            assert go_on.wait(10)
            put(path, data)

    writer = LabelWriter(Slow(), MODEL, "a")
    threads = [
        threading.Thread(target=writer.add, args=([Label(f"p{i}", "yes", 1.0)],)) for i in range(8)
    ]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(writer._waiting) < 7:
        pass
    go_on.set()
    for thread in threads:
        thread.join()
    assert {label.id for label in labels_in(store)} == {f"p{i}" for i in range(8)}
    assert len(store.list(labels_prefix(MODEL))) == 2


def test_under_load_versions_that_are_only_compared_are_not_asked(store, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "COMPARED_ROWS_MAX", 4)
    first, second = (
        load_version(store, MODEL, publish_linear(store, weights={"distance": weight}))
        for weight in (1.0, 2.0)
    )
    shadow = Split(1, 2, shadow=True)
    routes = Routes(MODEL, shadow, {1: first, 2: second}, None, Rule(0.5), "order", False, 3600.0)
    recorder = Recorder(store, MODEL, "a", tmp_path, fault=no_fault)
    for stem, times in (("calm", 2), ("busy", 3)):
        for number in range(times):
            recorder.add(answered(routes, f"{stem}{number}", rows=2))
        recorder.report(SCHEMA)
    calm, busy = shipped(store)
    assert calm.other_versions.tolist() == [2] * 4
    assert busy.other_versions.tolist() == [NO_VERSION] * 6
    assert len(busy.ids) == 6
    assert recorder.state().rows_unpaired == 6
