"""Every acknowledged label is kept and joined once, whatever kind of process dies when."""

import itertools
import random
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
import ray

from hapredict.errors import ClusterUnavailable, NotFound
from hapredict.monitoring.compact import compacted
from hapredict.monitoring.ray_monitor import find_monitor
from hapredict.monitoring.table import files, label_rows_prefix, read, rows_prefix
from hapredict.serving.journal import (
    decode,
    decode_labels,
    labels_prefix,
    predictions_prefix,
    unread,
)
from tests.support.clusters import eventually, post, serve_model
from tests.support.people import people, sent, small_spec, write
from tests.support.sinks import Sink

MODEL = "marked"
CALLERS = 3
ROUNDS = 4
"""Deaths of each kind of process."""
LOST = (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ClusterUnavailable)


@pytest.fixture(scope="module")
def marked(cluster):
    home = Path(cluster.home)
    source = write(home / "data" / "marked.csv", people(900, seed=6))
    with Sink() as sink:
        spec = small_spec(
            MODEL,
            source,
            training={"epochs_max": 5},
            monitoring={"compact_s": 1.0},
            alerts={
                "sinks": [{"webhook": sink.url}],
                "rules": [{"name": "each", "when": "score >= 0", "limit_per_hour": 10_000}],
            },
        )
        yield serve_model(spec, home), sink, home / "spool" / MODEL


class Callers:
    """Callers that ask and send the truth: by prediction id or by row, some of it twice."""

    def __init__(self, model):
        self.acknowledged: set[tuple[bool, str]] = set()
        self.asked = 0
        self._model = model
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(CALLERS)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _work(self):
        rows = people(50, seed=7)
        while not self._stop.is_set():
            number = next(self._numbers)
            row = {**rows[number % 50], "order": f"marked-{number}"}
            try:
                answer = post(self._model.predict_url, {"instances": [sent(row)]})
            except httpx.HTTPError:  # test_serving.py is about requests, this is about labels
                continue
            if answer.status_code != 200:
                continue
            (told,) = answer.json()["predictions"]
            of_row = number % 3 == 0
            id_ = row["order"] if of_row else told["prediction_id"]
            label = {"id" if of_row else "prediction_id": id_, "label": row["bad"]}
            for _ in range(1 + (number % 5 == 0)):
                self._send({"labels": [label]}, (of_row, id_))
            with self._lock:
                self.asked += 1

    def _send(self, body, name):
        for _ in range(200):  # whoever is not answered sends it again
            try:
                if post(self._model.feedback_url, body).status_code == 200:
                    with self._lock:
                        self.acknowledged.add(name)
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{name} was never acknowledged")


def replica(model):
    return min(model.pids())


def monitor(model):
    return ray.get(find_monitor(model.name).ping.remote(), timeout=10)


def controller(model):
    return model.controller()["pid"]


def read_all(model):
    """What the journal and the table hold: rows as (prediction id, row id), and labels."""
    store = model.store
    moved = compacted(store, model.name)
    rows, labels = [], []
    for _, _, path in unread(store, predictions_prefix(model.name), moved["predictions"]):
        part = decode(store.get(path))
        rows += zip(part.ids, part.table["order"].tolist(), strict=True)
    for _, _, path in unread(store, labels_prefix(model.name), moved["labels"]):
        labels += [(label.of_row, label.id) for label in decode_labels(store.get(path))]
    for path in files(store, rows_prefix(model.name)):
        rows += [(row["prediction_id"], row["id"]) for row in read(store.get(path)).to_pylist()]
    for path in files(store, label_rows_prefix(model.name)):
        for row in read(store.get(path)).to_pylist():
            labels.append((row["id"] is not None, row["id"] or row["prediction_id"]))
    return rows, labels


def test_each_acknowledged_label_is_joined_once_and_each_row_warned_of(marked):
    marked, sink, spool = marked
    chance = random.Random(1)
    victims = [replica, monitor, controller] * ROUNDS
    chance.shuffle(victims)
    with Callers(marked) as callers:
        eventually(lambda: callers.asked > 20)
        for find in victims:
            pid = eventually(lambda find=find: find(marked), during=(*LOST, ValueError))
            psutil.Process(pid).kill()
            before = callers.asked
            time.sleep(chance.uniform(0.3, 1.5))
            eventually(lambda before=before: callers.asked > before + 10)
        before = len(files(marked.store, rows_prefix(MODEL)))
        eventually(lambda: len(files(marked.store, rows_prefix(MODEL))) > before)
    asked = callers.asked
    assert spool.is_dir()

    def settled():
        if any(spool.glob("*.spool")):
            return False  # the last victim's rows wait for the replica that follows it
        rows, labels = read_all(marked)
        report = marked.report()
        known = {(False, prediction) for prediction, _ in rows} | {(True, own) for _, own in rows}
        meant = set(labels)
        counted = report.labels_joined + report.labels_repeated + report.labels_pending
        done = (
            report.rows == len(rows)
            and report.labels_joined == len(meant & known)
            and counted == len(labels)
        )
        return done and (rows, labels, report)

    # a file may be put together with others between being listed and being read
    rows, labels, report = eventually(settled, during=(*LOST, KeyError, NotFound))
    assert len(rows) == len(set(rows)), "a row is there twice"
    assert callers.acknowledged <= set(labels), "an acknowledged label is gone"
    # what a killed replica had answered in its last 50 ms it takes along
    assert asked - len(rows) <= 20 * ROUNDS
    assert report.labels_pending == len(set(labels)) - report.labels_joined
    assert report.labels_late == report.labels_unmatched == report.labels_unreadable == 0

    def told():
        """The warnings, once they are about the rows of the journal and no others."""
        warnings = [one for one in sink.alerts if one["name"] == "each"]
        answered = {prediction for prediction, _ in read_all(marked)[0]}
        return {one["labels"]["prediction_id"] for one in warnings} == answered and warnings

    warnings = eventually(told, during=(KeyError, NotFound))
    ids = {one["id"] for one in warnings}
    about = {one["labels"]["prediction_id"] for one in warnings}
    assert len(ids) == len(about) >= len(rows), "a warning that was sent twice has the same id"
    assert all(set(one["details"]) == {"score"} for one in warnings)
