"""Labels by a row's own id, and rows that memory has no room for."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import NotFound, StoreUnavailable
from hapredict.monitoring.labels import LabelJoin
from hapredict.serving.journal import Label, PredictionPart

DELAY_S = 1000.0
ROWS = ("a", "b", "c")


def part(ids, event_s=0.0):
    rows = len(ids)
    moments = np.zeros(rows) + event_s
    nothing = np.full((rows, 1), np.nan)
    return PredictionPart(
        source="a",
        seq=1,
        ids=tuple(ids),
        at_s=moments,
        event_s=moments,
        keys=(None,) * rows,
        versions=np.ones(rows, np.int64),
        scores=np.arange(rows, dtype=float)[:, None],
        other_versions=np.zeros(rows, np.int64),
        other_scores=nothing,
        table={},
        windows=(),
    )


def add(join, *labels, at_s=10.0):
    return join.add_labels(labels, [at_s] * len(labels), DELAY_S)


def of_row(name, value=1):
    return Label(name, value, 10.0, of_row=True)


class Files(dict):
    """Files in memory, which fail on demand."""

    fails = False

    def put(self, path, data):
        self.check()
        self[path] = data

    def get(self, path):
        self.check()
        if path not in self:
            raise NotFound(path)
        return self[path]

    def check(self):
        if self.fails:
            raise StoreUnavailable("no answer")


def restored(join):
    raw = json.loads(json.dumps(join.to_json()))
    return LabelJoin.from_json(raw, {name: a.copy() for name, a in join.arrays().items()})


def test_a_label_by_the_rows_own_id_is_that_of_its_earliest_prediction():
    join = LabelJoin()
    join.add_predictions(part(["p2", "p1"], [5, 4]), DELAY_S, ["order", "order"])
    join.add_predictions(part(["p0"], 3), DELAY_S, ["order"])
    assert add(join, of_row("order")).event_s.tolist() == [3]
    assert add(join, of_row("order"), Label("p0", 1, 10.0)).values == ()
    assert join.repeated == 2
    assert add(join, Label("p1", 1, 10.0)).event_s.tolist() == [4]


def test_a_label_by_row_waits_until_the_row_is_visible():
    join = LabelJoin()
    assert add(join, of_row("order", "yes"), of_row("order", "no")).values == ()
    assert (join.waiting, join.repeated) == (1, 1)
    assert join.add_predictions(part(["p1"]), DELAY_S, [None]).values == ()
    assert join.add_predictions(part(["p2"]), DELAY_S, ["order"]).values == ("yes",)


def test_ids_of_rows_and_of_predictions_are_never_taken_for_each_other():
    join = LabelJoin()
    join.add_predictions(part(["same"]), DELAY_S, [None])
    join.add_predictions(part(["other"]), DELAY_S, ["same"])
    assert add(join, of_row("other")).values == ()
    assert add(join, of_row("same")).scores.tolist() == [[0.0]]
    assert (join.waiting, join.repeated) == (1, 0)
    assert add(join, Label("same", 1, 10.0)).values == (1,)


def test_memory_holds_what_it_may_and_labels_of_older_rows_are_joined_from_files():
    join, files = LabelJoin(rows_max=100), Files()
    for number in range(40):
        names = [f"{number}-{row}" for row in range(25)]
        join.add_predictions(part(names, number), DELAY_S, [f"row-{name}" for name in names])
        join.spill(files, "rows")
        assert join.predictions <= 100
    join = restored(join)
    late = [Label("0-7", "x", 10.0), of_row("row-3-3", "y"), Label("39-0", "z", 10.0)]
    assert add(join, *late).values == ("z",)
    assert join.unsought == 2
    found = [value for joined in join.look(files, "rows", DELAY_S) for value in joined.values]
    assert sorted(found) == ["x", "y"]
    assert (join.waiting, join.unsought) == (0, 0)
    add(join, *late)
    assert join.look(files, "rows", DELAY_S)
    assert join.repeated == 3


def test_each_label_is_sought_once_and_given_up_in_the_end():
    join, files = LabelJoin(rows_max=1), Files()
    join.add_predictions(part(["a", "b"]), DELAY_S)
    join.spill(files, "rows")
    add(join, Label("ghost", 1, 10.0))
    assert join.unsought == 1
    join.look(files, "rows", DELAY_S)
    assert (join.unsought, join.waiting) == (0, 1)
    join.forget(0, DELAY_S)
    join.forget(3000, DELAY_S)
    assert (join.unmatched, join.waiting, join.spilled) == (1, 0, ())


def test_a_store_that_fails_changes_nothing():
    join, files = LabelJoin(rows_max=1), Files()
    join.add_predictions(part(["a", "b"]), DELAY_S)
    files.fails = True
    with pytest.raises(StoreUnavailable):
        join.spill(files, "rows")
    assert join.predictions == 2
    files.fails = False
    join.spill(files, "rows")
    add(join, Label("a", 1, 10.0))
    files.fails = True
    with pytest.raises(StoreUnavailable):
        join.look(files, "rows", DELAY_S)
    files.fails = False
    assert [joined.values for joined in join.look(files, "rows", DELAY_S)] == [(1,)]


def test_rows_whose_file_is_gone_are_counted():
    join, files = LabelJoin(rows_max=1), Files()
    join.add_predictions(part(["a", "b"]), DELAY_S)
    join.spill(files, "rows")
    files.clear()
    add(join, Label("a", 1, 10.0))
    assert join.look(files, "rows", DELAY_S) == ()
    assert (join.lost, join.spilled, join.waiting) == (2, (), 1)


PREDICTED = st.lists(st.tuples(st.sampled_from(ROWS), st.integers(0, 30)), max_size=3)
LABELLED = st.lists(
    st.one_of(
        st.sampled_from(ROWS).map(of_row),
        st.integers(0, 12).map(lambda number: Label(f"p{number}", 1, 10.0)),
    ),
    max_size=3,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("predict"), PREDICTED),
        st.tuples(st.just("label"), LABELLED),
        st.tuples(st.sampled_from(["look", "restore"]), st.none()),
    ),
    max_size=20,
)


@given(STEPS, st.sampled_from([1, 3, 1000]))
@settings(max_examples=60)
def test_no_prediction_is_joined_twice_and_no_label_is_lost(steps, rows_max):
    join, files = LabelJoin(rows_max), Files()
    joined, labels, count = 0, 0, 0
    for kind, what in steps:
        if kind == "predict" and what:
            names = [f"p{count + place}" for place in range(len(what))]
            count += len(what)
            moments = np.array([moment for _, moment in what], float)
            found = join.add_predictions(part(names, moments), DELAY_S, [row for row, _ in what])
            joined += len(found.values)
            join.spill(files, "rows")
        elif kind == "label" and what:
            labels += len(what)
            joined += len(add(join, *what).values)
        elif kind == "look":
            joined += sum(len(one.values) for one in join.look(files, "rows", DELAY_S))
        elif kind == "restore":
            join = replace_max(restored(join), rows_max)
    assert joined <= count
    assert joined + join.repeated + join.waiting == labels
    marked = sum(int(block.labelled.sum()) for block in blocks_of(join, files))
    assert marked == joined


def replace_max(join, rows_max):
    join.rows_max = rows_max
    return join


def blocks_of(join, files):
    from hapredict.monitoring.label_blocks import Block

    return [*join._blocks, *(Block.from_bytes(files[file.name]) for file in join.spilled)]


def test_rows_without_ids_take_no_room_for_an_index():
    join = LabelJoin()
    join.add_predictions(part(["a", "b"]), DELAY_S, [None, None])
    join.add_predictions(replace(part(["c"]), seq=2), DELAY_S)
    assert all(not len(block.rows) for block in join._blocks)
