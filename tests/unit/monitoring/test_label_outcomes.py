"""What becomes of a label: each line of the table in docs/decisions/0017, on a real journal."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hapredict.errors import BadRequest
from hapredict.monitoring.follow import Follower
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import open_store
from hapredict.sections import DAY_S
from hapredict.serving.feedback import decode_feedback
from hapredict.serving.journal import Label
from hapredict.serving.replica import Replica
from tests.support.bundles import MODEL, START_S, publish_linear, spec_of
from tests.support.live import part_of, put_labels, put_part

DOCUMENT = Path(__file__).parents[3] / "docs" / "decisions" / "0017-labels-and-alerts.md"
NAMES = itertools.count()
DELAY_DAYS = 10


class World:
    """A store with one part of the journal, and who follows it."""

    def __init__(self, **monitoring):
        self.store = open_store(f"memory://outcomes-{next(NAMES)}")
        rules = {"label_delay_max_days": DELAY_DAYS, **monitoring}
        publish_linear(self.store, spec=spec_of(monitoring=rules))
        state = Catalog(self.store, MODEL).latest().state
        self.bundle = load(self.store, MODEL, state.versions[1].digest)
        self.follower = Follower(self.store, MODEL)
        self.parts = self.sent = 0

    def answer(self, day=0.0, rows=60):
        self.parts += 1
        part = part_of(self.bundle, self.parts, day=day, rows=rows)
        put_part(self.store, part)
        self.follow()
        return part

    def label(self, name, value="yes", *, days=1.0, of_row=False):
        self.sent += 1
        label = Label(name, value, START_S + days * DAY_S, of_row=of_row)
        put_labels(self.store, [label], seq=self.sent)
        self.follow()

    def follow(self):
        while self.follower.step():
            pass
        self.follower.look()

    def counts(self):
        """The counters that are not 0."""
        report = self.follower.monitor.report()
        names = ("joined", "repeated", "late", "pending", "unmatched", "unreadable")
        counted = {f"labels_{name}": getattr(report, f"labels_{name}") for name in names}
        return {name: count for name, count in counted.items() if count}


def by_its_id():
    world = World()
    world.label(world.answer().ids[3])
    return [world.counts()]


def by_the_row():
    world = World()
    world.label(world.answer().table["order"][3], of_row=True)
    return [world.counts()]


def days_late():
    world = World()
    world.label(world.answer().ids[3], days=DELAY_DAYS - 1)
    return [world.counts()]


def out_of_order():
    world = World()
    one, other = world.answer(), world.answer(day=1)
    world.label(other.ids[0], days=3)
    world.label(one.ids[0], days=2)
    return [{name: count // 2 for name, count in world.counts().items()}]


def older_than_memory():
    world = World(rows_in_memory=1000)
    first = world.answer(rows=900)
    for day in range(3):
        world.answer(day=day, rows=900)
    assert world.follower.monitor.files
    world.label(first.ids[3], days=4)
    return [world.counts()]


def before_it_is_visible():
    world = World()
    world.answer()
    world.label("replica-a-2-5")
    waiting = world.counts()
    world.answer(day=1)
    return [waiting, world.counts()]


def twice(value="yes", *, of_row=False):
    world = World()
    part = world.answer()
    world.label(part.ids[3])
    assert world.counts() == {"labels_joined": 1}
    world.label(part.table["order"][3] if of_row else part.ids[3], value, of_row=of_row)
    counts = world.counts()
    assert counts.pop("labels_joined") == 1
    return [counts]


def too_late():
    world = World()
    world.label(world.answer().ids[3], days=DELAY_DAYS + 1)
    return [world.counts()]


def for_nobody():
    world = World()
    world.answer()
    world.label("nobody")
    waiting = world.counts()
    world.answer(day=DELAY_DAYS + 2)
    return [waiting, world.counts()]


def refused(tmp_path, label, **schema):
    store = open_store(f"memory://outcomes-{next(NAMES)}")
    publish_linear(store)
    replica = Replica(store, MODEL, "r1", tmp_path, lambda: START_S)
    replica.refresh()
    routes = replica._routes
    champion = replace(routes.champion, schema=replace(routes.champion.schema, **schema))
    replica._routes = replace(routes, versions={1: champion})
    with pytest.raises(BadRequest) as caught:
        replica.feedback([label])
    assert store.list(f"journal/{MODEL}/labels") == []
    return [{f"status {caught.value.status}": 1}]


OUTCOMES = {
    "for a prediction, by its id": by_its_id,
    "for a row, by the row's own id": by_the_row,
    "days late": days_late,
    "out of order": out_of_order,
    "for a prediction older than memory": older_than_memory,
    "before its prediction is visible": before_it_is_visible,
    "twice": twice,
    "twice, with another value": lambda: twice("no"),
    "by prediction id and by row": lambda: twice(of_row=True),
    "later than `label_delay_max_days`": too_late,
    "for an id that never existed": for_nobody,
    "of a class that no version in service knows": lambda path: refused(
        path, Label("p", "maybe", START_S)
    ),
    "by row, where the model has no `data.id`": lambda path: refused(
        path, Label("o1", "yes", START_S, of_row=True), id=None
    ),
}


def documented():
    """The first and the last column of the table."""
    text = DOCUMENT.read_text(encoding="utf-8")
    lines = re.findall(r"^\| (.+?) \| .+ \| (.+?) \|$", text, re.MULTILINE)
    return dict(lines[1:])


def test_each_line_of_the_table_is_tried():
    assert list(documented()) == list(OUTCOMES)


@pytest.mark.parametrize("sent", OUTCOMES)
def test_a_label_ends_as_the_table_says(sent, tmp_path):
    arguments = (tmp_path,) if "status" in documented()[sent] else ()
    found = OUTCOMES[sent](*arguments)
    said = [re.sub(r"`", "", name) for name in documented()[sent].split(", then ")]
    assert found == [{name: 1} for name in said]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b'{"id": "o", "prediction_id": "p", "label": 1}', "id"),
        (b'{"id": null, "label": 1}', "id"),
        (b'{"id": true, "label": 1}', "id"),
        (b'{"id": "", "label": 1}', "id"),
        (b'{"label": 1}', "prediction_id"),
    ],
)
def test_a_label_names_one_thing(body, where):
    with pytest.raises(BadRequest) as caught:
        decode_feedback(body, 10)
    assert [problem.where for problem in caught.value.problems] == [where]


def test_a_whole_number_is_an_id_of_a_row():
    (one,) = decode_feedback(b'{"id": 17, "label": 1}', 10)
    assert (one.id, one.of_row) == ("17", True)
