"""Real processes of a real cluster get SIGKILL; users notice nothing, and nothing is lost."""

import os
import signal
import time

import httpx
import psutil
import pytest
import ray

from hapredict.control import runs
from hapredict.control.ray_learner import learner
from hapredict.drill.ray_faults import wait_for_replicas
from hapredict.errors import ClusterUnavailable
from hapredict.monitoring.ray_monitor import find_monitor
from hapredict.registry import catalog as transitions
from hapredict.serving.journal import decode_labels, labels_prefix
from tests.support.clusters import WAIT_S, eventually, post
from tests.support.load import Load
from tests.support.people import people, sent

TRAINING_S = 180
LOST = (ray.exceptions.RayActorError, ClusterUnavailable)
"""What is raised while an actor is started again."""


def kill(pid):
    """SIGKILL, and wait until the process is gone."""
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    process.wait(timeout=WAIT_S)


@pytest.fixture
def steady(model):
    """The model with no challenger, before and after."""
    yield model
    entry = model.catalog.latest()
    if entry.state.challenger is not None:
        model.catalog.append(
            entry,
            transitions.abort(entry.state, time.time()),
            action="Abort",
            reason="a test is over",
            at_s=time.time(),
            event_s=time.time(),
            actor="tests",
        )
    assert model.state.stage == "steady"


def check_dense(model):
    entries = model.catalog.entries()
    assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
    terms = [entry.term for entry in entries]
    assert terms == sorted(terms)


def ask_for_training(model, reason):
    """Start a training; its name, once control has written it down."""
    assert not model.state.training
    runs.request_retrain(model.store, model.name, reason)
    return eventually(lambda: model.state.training)


def finished(model, run):
    """Wait until a run has become a challenger; what the catalog says of it since its start."""
    eventually(lambda: model.state.challenger is not None, wait_s=TRAINING_S)
    record = runs.noted(model.store, model.name, run)
    assert record.state == "finished"
    version = model.state.versions[model.state.challenger]
    assert version.run == run
    return [entry for entry in model.catalog.entries() if entry.state.training == run]


def test_killed_replicas_cost_no_request_and_are_replaced(model):
    rows = model.report().rows
    with Load(model.predict_url, {"instances": list(map(sent, people(3, seed=20)))}) as load:
        for _ in range(3):  # one kill hits a request that is half sent in every other case
            before = model.pids()
            assert len(before) == 2
            load.more(100)
            victim = min(before)
            kill(victim)
            after = eventually(model.pids, lambda pids, gone=victim: len(pids - {gone}) == 2)
            assert len(after - before) == 1
            wait_for_replicas(model.name, 2, WAIT_S)
            load.more(100)
    assert load.faults == []
    # the last instants of a killed process are lost to the monitor, what it had spooled is not
    eventually(lambda: model.report().rows - rows, lambda seen: seen >= 3 * load.answered - 300)


def test_a_killed_controller_is_followed_by_one_of_the_next_term(steady):
    before = eventually(steady.controller, lambda seen: seen["term"] > 0, during=LOST)
    entries = steady.catalog.entries()
    kill(before["pid"])
    after = eventually(steady.controller, lambda seen: seen["term"] > before["term"], during=LOST)
    assert after["term"] == before["term"] + 1
    assert (after["owner"], after["pid"]) != (before["owner"], before["pid"])
    taken = eventually(lambda: steady.catalog.entries(entries[-1].sequence))
    assert [(entry.action, entry.term) for entry in taken] == [("TakeOver", after["term"])]
    assert steady.catalog.entries()[: len(entries)] == entries
    check_dense(steady)


def test_a_controller_killed_during_a_training_does_not_start_a_second(steady):
    names = set(steady.store.children(f"runs/{steady.name}"))
    versions = set(steady.state.versions)
    run = ask_for_training(steady, "the controller is to die meanwhile")
    kill(eventually(steady.controller, lambda seen: seen["term"] > 0, during=LOST)["pid"])
    entries = finished(steady, run)
    assert entries[0].action == "Train"
    assert {entry.action for entry in entries[1:]} <= {"TakeOver"}
    assert set(steady.store.children(f"runs/{steady.name}")) - names == {run}
    assert len(set(steady.state.versions) - versions) == 1
    check_dense(steady)


def test_a_learner_killed_in_a_training_resumes_the_run_under_its_name(steady):
    names = set(steady.store.children(f"runs/{steady.name}"))
    actor = learner(steady.name, steady.store.url, steady.home)
    pid = ray.get(actor.pid.remote(), timeout=WAIT_S)
    run = ask_for_training(steady, "the learner is to die meanwhile")
    eventually(
        lambda: runs.noted(steady.store, steady.name, run),
        lambda record: record is not None and record.detail.startswith("training"),
        wait_s=TRAINING_S,
        pause_s=0.02,
    )
    kill(pid)
    assert runs.noted(steady.store, steady.name, run).state == "running"
    finished(steady, run)
    again = eventually(lambda: ray.get(actor.pid.remote(), timeout=WAIT_S), during=LOST)
    assert again != pid
    assert set(steady.store.children(f"runs/{steady.name}")) - names == {run}
    check_dense(steady)


def test_a_killed_monitor_knows_again_what_it_knew(model):
    rows = people(60, seed=21)
    joined = model.report().labels_joined
    assert model.feedback(model.predict(rows), rows) == len(rows)
    before = eventually(model.report, lambda seen: seen.labels_joined == joined + len(rows))
    pid = ray.get(find_monitor(model.name).ping.remote(), timeout=WAIT_S)
    kill(pid)
    after = eventually(
        model.report, lambda seen: seen.labels_joined >= before.labels_joined, during=LOST
    )
    assert after == before
    assert ray.get(find_monitor(model.name).ping.remote(), timeout=WAIT_S) != pid


def labels_in_the_journal(model):
    store = model.store
    paths = [path for path in store.list(labels_prefix(model.name)) if path.endswith(".json")]
    return {(label.id, label.value) for path in paths for label in decode_labels(store.get(path))}


def test_every_acknowledged_label_is_in_the_journal_though_its_replica_dies_at_once(model):
    def answers():
        return [model.predict(people(1)) for _ in range(4)]

    ledger = set()
    for turn in range(3):
        pids = model.pids()
        assert len(pids) == 2
        labels = [
            {"prediction_id": f"ledger-{turn}-{place}", "label": place % 2} for place in range(20)
        ]
        assert post(model.feedback_url, {"labels": labels}).json() == {"acknowledged": 20}
        for pid in pids:  # whichever it was that promised
            os.kill(pid, signal.SIGKILL)
        ledger |= {(label["prediction_id"], label["label"]) for label in labels}
        assert ledger <= labels_in_the_journal(model)
        eventually(model.pids, lambda found, dead=pids: len(found - dead) == 2)
        eventually(
            lambda: [model.predict(people(1)) for _ in range(4)],
            during=(AssertionError, httpx.HTTPError),
        )
    joined = model.report().labels_unmatched
    assert joined >= 0
