"""A replica follows the catalog, with versions that passed their checks, and keeps on."""

import itertools
import json
import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from hapredict.data.schema import Column, take
from hapredict.errors import BadRequest, StoreUnavailable, TemporaryError, UnknownName
from hapredict.registry import catalog
from hapredict.registry.store import decode_json
from hapredict.serving.decisions import Rule
from hapredict.serving.replica import Label, refused_path
from hapredict.serving.risk import risk_prefix
from tests.support.bundles import MODEL, change, publish_linear, schema_of, spec_of, table_of
from tests.support.replicas import TABLE, die, recorded, scores_of, try_second

# who serves


def test_without_a_version_nothing_is_ready_and_nothing_is_lost(make):
    replica = make()
    assert not replica.refresh()
    assert not replica.ready
    assert replica.detail()["champion"] is None
    for call in (
        lambda: replica.predict(TABLE),
        lambda: replica.feedback([Label("p", "yes", 1.0)]),
        lambda: replica.schema,
        lambda: replica.spec,
        lambda: replica.model_version,
    ):
        with pytest.raises(TemporaryError, match="no version"):
            call()


def test_the_first_version_serves_after_one_look_at_the_catalog(replica):
    assert replica.ready
    assert not replica.refresh()
    answer = replica.predict(TABLE)
    assert answer.versions.tolist() == [1] * 40
    assert set(answer.served_by) == {"champion"}
    assert answer.scores.dtype == np.float32
    np.testing.assert_array_equal(answer.scores, scores_of(replica, 1))
    assert (answer.model, answer.model_version, answer.rule) == (MODEL, 1, Rule())
    assert (replica.schema, replica.spec.name) == (schema_of(), MODEL)


def test_settings_that_were_applied_last_win_over_those_of_the_bundle(store, make):
    publish_linear(store)
    replica = make(spec=spec_of(serving={"threshold": 0.9}))
    replica.refresh()
    assert replica.predict(TABLE).rule == Rule(0.9)
    assert replica.spec.serving.threshold == 0.9


def test_a_promotion_a_settling_and_a_rollback_are_followed(store, replica):
    try_second(store)
    served = [replica.predict(TABLE).model_version]
    for transition in (catalog.promote, catalog.settle, catalog.roll_back):
        change(store, transition, 30.0)
        replica.refresh()
        served.append(replica.predict(TABLE).model_version)
    assert served == [1, 2, 2, 1]


def test_an_entry_that_changes_nothing_for_requests_changes_nothing(store, replica):
    routes = replica._routes
    change(store, catalog.pause, "holidays")
    assert not replica.refresh()
    assert replica._routes is routes
    assert replica.detail()["catalog_sequence"] == 2


def test_old_versions_stay_loaded_up_to_versions_kept(store, replica):
    for number in (2, 3, 4, 5):
        publish_linear(store, bias=float(number))
        change(store, catalog.shadow, number, 1.0)
        change(store, catalog.promote, 2.0)
        change(store, catalog.settle, 3.0)
        replica.refresh()
    assert replica.detail()["versions"] == [3, 4, 5]
    assert replica.predict(TABLE, version=3).model_version == 3


def test_a_challenger_that_fails_its_golden_rows_is_refused_and_said_so(store, replica):
    try_second(store, share=0.5, golden_off=0.1)
    replica.refresh()
    assert set(replica.predict(TABLE).versions.tolist()) == {1}
    assert "golden" in replica.detail()["refused"]["2"]
    note = decode_json(store.get(refused_path(MODEL, 2)), "refused")
    assert note["version"] == 2
    assert "golden" in note["reason"]


def test_a_second_replica_may_refuse_the_same_version(store, replica, make):
    try_second(store, golden_off=0.1)
    other = make()
    for one in (replica, other):
        assert one.refresh() == (one is other)
        assert list(one.detail()["refused"]) == ["2"]


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (replace(schema_of(), features=(*schema_of().features, Column("at2", "number"))), "at2"),
        (replace(schema_of(), features=schema_of().features[:3]), "carrier"),
        (schema_of(("0", "1")), "tells"),
    ],
)
def test_a_challenger_that_takes_other_requests_is_refused(store, replica, schema, told):
    table = {**table_of(200, seed=3), "at2": np.arange(200.0)}
    try_second(store, share=0.5, schema=schema, table=table)
    replica.refresh()
    assert told in replica.detail()["refused"]["2"]
    assert told in decode_json(store.get(refused_path(MODEL, 2)), "refused")["reason"]
    assert replica.detail()["challenger"] is None
    with pytest.raises(UnknownName):
        replica.predict(TABLE, version=2)


def test_a_champion_that_is_refused_leaves_the_one_that_serves(store, replica):
    try_second(store, golden_off=0.1)
    change(store, catalog.promote, 20.0)
    assert not replica.refresh()
    assert replica.predict(TABLE).model_version == 1
    assert "2" in replica.detail()["refused"]


def test_a_new_replica_falls_back_to_the_previous_champion(store, make):
    publish_linear(store)
    try_second(store, golden_off=0.1)
    change(store, catalog.promote, 20.0)
    replica = make()
    assert replica.refresh()
    assert replica.predict(TABLE).model_version == 1


def test_without_any_usable_version_a_replica_is_not_ready(store, make):
    publish_linear(store, golden_off=0.1)
    replica = make()
    assert not replica.refresh()
    assert not replica.ready
    assert "golden" in replica.detail()["refused"]["1"]


def test_a_challenger_that_is_too_slow_gets_no_request_and_is_told_of(store, make):
    publish_linear(store)
    took_s = itertools.count(step=0.4)  # from one look to the next
    replica = make(timer=lambda: next(took_s))
    assert replica.refresh()  # a champion is not asked
    try_second(store, share=0.5)
    assert not replica.refresh()
    assert replica.detail()["versions"] == [1]
    said = json.loads(store.get(refused_path(MODEL, 2)))
    assert "takes 400 ms of a processor" in said["reason"]
    assert set(replica.predict(TABLE).versions.tolist()) == {1}


# trouble of the store


def failing(monkeypatch, store, names, only=""):
    def patch(name):
        real = getattr(store, name)

        def call(path, *others, **named):
            if only in path:
                raise StoreUnavailable(f"{path}: away")
            return real(path, *others, **named)

        monkeypatch.setattr(store, name, call)

    for name in names:
        patch(name)


def test_without_the_store_a_replica_goes_on_and_says_so(store, replica, monkeypatch):
    with monkeypatch.context() as patch:
        failing(patch, store, ("get", "list", "put_new", "put_once"))
        assert not replica.refresh()
        assert "away" in replica.detail()["store_trouble"]
        replica.after(replica.predict(TABLE))
        replica.report()
        assert replica.detail()["parts_waiting"] == 1
        with pytest.raises(StoreUnavailable):
            replica.feedback([Label("p", "yes", 1.0)])
    assert not replica.refresh()
    assert replica.detail()["store_trouble"] == ""
    assert recorded(store, replica).rows == 40


def test_a_challenger_that_cannot_be_read_yet_comes_later(store, replica, monkeypatch):
    try_second(store, share=0.5)
    with monkeypatch.context() as patch:
        failing(patch, store, ("get",), only="bundles")
        assert not replica.refresh()
        assert replica.detail()["challenger"] is None
        assert "away" in replica.detail()["store_trouble"]
    assert replica.refresh()
    assert replica.detail()["challenger"] == 2


def test_a_champion_that_cannot_be_read_yet_leaves_the_one_that_serves(store, replica, monkeypatch):
    try_second(store)
    change(store, catalog.promote, 20.0)
    with monkeypatch.context() as patch:
        failing(patch, store, ("get",), only="bundles")
        assert not replica.refresh()
        assert replica.predict(TABLE).model_version == 1
    assert replica.refresh()
    assert replica.predict(TABLE).model_version == 2


def test_a_refusal_that_cannot_be_written_is_written_later(store, replica, monkeypatch):
    try_second(store, golden_off=0.1)
    with monkeypatch.context() as patch:
        failing(patch, store, ("put_new",))
        replica.refresh()
    assert not store.exists(refused_path(MODEL, 2))
    replica.refresh()
    assert store.exists(refused_path(MODEL, 2))


EACH = {"name": "each", "when": "score >= 0"}


def warned_ids(store):
    found = [decode_json(store.get(path), path) for path in store.list(risk_prefix(MODEL))]
    return [row["prediction_id"] for f in found for one in f["warnings"] for row in one["rows"]]


@pytest.mark.parametrize("leaves", [False, True])
def test_a_dead_replicas_rows_wait_for_one_that_knows_the_rules(store, make, leaves):
    publish_linear(store)
    spec = spec_of(alerts={"sinks": [{"log": True}], "rules": [EACH]})
    dead, heir = make(spec=spec), make(spec=spec)
    dead.refresh()
    answer = dead.predict(TABLE)
    dead.after(answer)
    dead.tick()
    die(dead._recorder)
    heir.report()  # as a process does at once, while it still loads its champion
    if leaves:
        heir.close()
        heir = make(spec=spec)
    assert store.list("journal") == []
    heir.refresh()
    assert recorded(store, heir).ids == answer.ids
    assert warned_ids(store) == list(answer.ids)


# labels


@pytest.mark.parametrize(
    "bad",
    [
        Label("p", "maybe", 1.0),
        Label("p", None, 1.0),
        Label("p", ["yes"], 1.0),
        Label("", "yes", 1.0),
        Label("p" * 201, "yes", 1.0),
        Label("p", "yes", math.nan),
        Label("p", "yes", 1.0, math.inf),
    ],
)
def test_one_bad_label_keeps_all_from_being_written(store, replica, bad):
    with pytest.raises(BadRequest, match=r"labels\[1\]"):
        replica.feedback([Label("p0", "yes", 1.0), bad])
    assert store.list("journal") == []


def test_labels_of_unknown_predictions_are_accepted(store, replica):
    replica.feedback([Label("never-seen", "no", 1.0)])
    replica.feedback([])
    assert len(store.list("journal")) == 1
    assert replica.detail()["labels_written"] == 1


# under load


def test_versions_change_under_load_without_a_failed_or_torn_answer(store, replica):
    publish_linear(store, weights={"distance": 3.0})
    failures, done = [], threading.Event()
    rows = take(TABLE, np.arange(3))
    expected = {1: scores_of(replica, 1, rows)}
    change(store, catalog.shadow, 2, 1.0)
    replica.refresh()
    expected[2] = scores_of(replica, 2, rows)

    def ask():
        while not done.wait(0.002):  # leaves the other thread its turn
            try:
                answer = replica.predict(rows)
                replica.after(answer)
                for row, version in enumerate(answer.versions.tolist()):
                    assert abs(answer.scores[row, 0] - expected[version][row, 0]) < 1e-5
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        change(store, catalog.share, 0.5, 2.0)
        replica.refresh()
        change(store, catalog.promote, 3.0)
        replica.refresh()
        replica.tick()
        change(store, catalog.roll_back, 4.0)
        replica.refresh()
        change(store, catalog.shadow, 2, 5.0)
        replica.refresh()
    done.set()
    for thread in threads:
        thread.join()
    assert failures == []
    part = recorded(store, replica)
    assert len(set(part.ids)) == part.rows > 0
