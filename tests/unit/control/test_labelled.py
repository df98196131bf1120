"""What was answered live and has a label becomes rows to learn from, each once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.control.labelled import as_columns, labelled_rows
from hapredict.data.schema import Schema, rows_of
from hapredict.data.values import lenient_texts
from hapredict.errors import CorruptBundle, NotFound
from hapredict.registry.store import open_store
from hapredict.serving.journal import (
    NO_VERSION,
    Label,
    PredictionPart,
    encode,
    encode_labels,
    labels_prefix,
    part_path,
    predictions_prefix,
)
from tests.support.bundles import MODEL, schema_of

SCHEMA = schema_of()


@pytest.fixture
def store(request):
    return open_store(f"memory://{request.node.name}")


def put_rows(store, rows, source="a", seq=1):
    """A part of `rows`: (prediction id, event_s, own time, order id)."""
    ids, event_s, times, orders = zip(*rows, strict=True) if rows else [()] * 4
    count = len(rows)
    part = PredictionPart(
        source=source,
        seq=seq,
        model=MODEL,
        ids=tuple(ids),
        at_s=np.array(event_s, float),
        event_s=np.array(event_s, float),
        keys=(None,) * count,
        versions=np.ones(count, np.int64),
        scores=np.full((count, 1), 0.5),
        other_versions=np.full(count, NO_VERSION, np.int64),
        other_scores=np.full((count, 1), np.nan),
        table={
            "收入": np.array(event_s, float),
            "distance": np.full(count, np.nan),
            "性别": np.array(["女"] * count, object),
            "carrier": np.array([None] * count, object),
            "at": np.array(times, float),
            "order": np.array(orders, object),
        },
        windows=(),
    )
    store.put(part_path(predictions_prefix(MODEL), source, seq), encode(part, SCHEMA))


def put_labels(store, labels, source="a", seq=1):
    """A part of `labels`: (prediction id, value, at_s)."""
    data = encode_labels([Label(*label) for label in labels])
    store.put(part_path(labels_prefix(MODEL), source, seq), data)


def upto(predictions, labels):
    return {"predictions": predictions, "labels": labels}


BOTH = upto({"a": 1}, {"a": 1})


def orders_of(rows):
    return rows.table["order"].tolist()


def test_rows_with_a_label_come_in_the_order_of_their_events(store):
    put_rows(store, [("p1", 30.0, 3.0, "o1"), ("p2", 10.0, 1.0, "o2"), ("p3", 20.0, 2.0, "o3")])
    put_labels(store, [("p1", "yes", 0.0), ("p2", "no", 0.0), ("nobody", "yes", 0.0)])
    rows = labelled_rows(store, MODEL, SCHEMA, BOTH)
    assert orders_of(rows) == ["o2", "o1"]
    assert rows.labels.tolist() == [0.0, 1.0]
    assert rows.event_s.tolist() == [10.0, 30.0]
    assert rows.table["at"].tolist() == [1.0, 3.0]
    assert set(rows.table) == {"收入", "distance", "性别", "carrier", "at", "order"}


def test_the_label_that_arrived_first_counts_whichever_replica_took_it(store):
    put_rows(store, [("p1", 1.0, 1.0, "o1"), ("p2", 2.0, 2.0, "o2")])
    put_labels(store, [("p1", "no", 9.0), ("p2", "yes", 5.0)], source="a")
    put_labels(store, [("p1", "yes", 3.0), ("p2", "no", 5.0)], source="b")
    rows = labelled_rows(store, MODEL, SCHEMA, upto({"a": 1}, {"b": 1, "a": 1}))
    assert rows.labels.tolist() == [1.0, 1.0]


def test_a_label_of_an_unknown_class_leaves_the_place_to_a_known_one(store):
    put_rows(store, [("p1", 1.0, 1.0, "o1"), ("p2", 2.0, 2.0, "o2")])
    put_labels(store, [("p1", "maybe", 1.0), ("p2", None, 1.0), ("p1", "yes", 2.0)])
    assert orders_of(labelled_rows(store, MODEL, SCHEMA, BOTH)) == ["o1"]


def test_rows_that_the_files_hold_are_left_out_and_rows_without_id_never_are(store):
    put_rows(store, [("p1", 1.0, 1.0, "o1"), ("p2", 2.0, 2.0, "o2"), ("p3", 3.0, 3.0, None)])
    put_labels(store, [(name, "yes", 0.0) for name in ("p1", "p2", "p3")])
    found = labelled_rows(store, MODEL, SCHEMA, BOTH)
    assert orders_of(found.without(SCHEMA.id, {"o1", "o9", None})) == ["o2", None]


def test_ids_of_a_file_and_of_a_request_are_the_same_text(store):
    put_rows(store, [("p1", 1.0, 1.0, "7"), ("p2", 2.0, 2.0, "8")])
    put_labels(store, [("p1", "yes", 0.0), ("p2", "yes", 0.0)])
    known = set(lenient_texts(np.array([7.0, 9.0]))[0])
    assert orders_of(labelled_rows(store, MODEL, SCHEMA, BOTH).without(SCHEMA.id, known)) == ["8"]


def test_a_row_without_a_time_of_its_own_happened_when_it_was_asked_for(store):
    put_rows(store, [("p1", 5.0, np.nan, "o1"), ("p2", 6.0, 2.0, "o2")])
    put_labels(store, [("p1", "yes", 0.0), ("p2", "yes", 0.0)])
    assert labelled_rows(store, MODEL, SCHEMA, BOTH).table["at"].tolist() == [5.0, 2.0]


def test_parts_after_the_positions_are_not_read(store):
    for seq in (1, 2):
        put_rows(store, [(f"p{seq}", float(seq), 1.0, f"o{seq}")], seq=seq)
        put_labels(store, [(f"p{seq}", "yes", 0.0)], seq=seq)
    assert orders_of(labelled_rows(store, MODEL, SCHEMA, BOTH)) == ["o1"]
    assert orders_of(labelled_rows(store, MODEL, SCHEMA, upto({"a": 2}, {"a": 1}))) == ["o1"]
    both = labelled_rows(store, MODEL, SCHEMA, upto({"a": 2}, {"a": 2}))
    assert orders_of(both) == ["o1", "o2"]


@pytest.mark.parametrize("positions", [{}, upto({}, {}), upto({"a": 0}, {"a": 0})])
def test_without_parts_there_are_columns_and_no_rows(store, positions):
    rows = labelled_rows(store, MODEL, SCHEMA, positions)
    assert rows_of(rows.table) == len(rows.labels) == len(rows.event_s) == 0
    assert set(as_columns(rows, SCHEMA)) == {*rows.table, "late"}


def test_without_labels_there_are_columns_and_no_rows(store):
    put_rows(store, [("p1", 1.0, 1.0, "o1")])
    rows = labelled_rows(store, MODEL, SCHEMA, upto({"a": 1}, {}))
    assert rows_of(rows.table) == len(rows.labels) == 0
    assert as_columns(rows, SCHEMA)["late"].tolist() == []


def test_a_part_that_is_gone_or_broken_is_no_silence(store):
    with pytest.raises(NotFound, match="labels/a/00000001"):
        labelled_rows(store, MODEL, SCHEMA, upto({}, {"a": 1}))
    store.put(part_path(predictions_prefix(MODEL), "a", 1), b"torn")
    with pytest.raises(CorruptBundle):
        labelled_rows(store, MODEL, SCHEMA, upto({"a": 1}, {}))


@pytest.mark.parametrize(
    ("task", "classes", "labels"),
    [
        ("binary", ("no", "yes"), [0.0, 1.0, 0.0]),
        ("multiclass", ("低", "中", "高"), [2.0, 0.0, 1.0]),
        ("regression", (), [1.5, -2.0, 0.0]),
    ],
)
def test_rows_go_back_into_a_file_with_the_labels_they_came_with(store, task, classes, labels):
    schema = Schema(SCHEMA.features, "late", task, classes, time="at", id="order")
    put_rows(store, [(f"p{place}", float(place), 1.0, "o") for place in range(3)])
    values = [classes[int(label)] if classes else label for label in labels]
    put_labels(store, [(f"p{place}", value, 0.0) for place, value in enumerate(values)])
    rows = labelled_rows(store, MODEL, schema, BOTH)
    assert rows.labels.tolist() == labels
    columns = as_columns(rows, schema)
    assert schema.labels(columns["late"]).tolist() == labels
    table, unreadable = schema.frame(columns)
    assert table["at"].tolist() == rows.table["at"].tolist()
    assert not unreadable.any()


ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9), st.sampled_from(["yes", "no", "?"])),
    max_size=8,
)


@settings(max_examples=30)
@given(ROWS, st.lists(st.tuples(st.integers(0, 7), st.sampled_from(["yes", "no", "?"]))))
def test_each_prediction_is_a_row_once_at_most_and_its_first_usable_label_is_taken(rows, labels):
    store = open_store("memory://labelled-property")
    for path in store.list("journal"):
        store.delete(path)
    for source in ("a", "b"):
        mine = [
            (f"p{place}", float(event_s), 1.0, f"o{place}")
            for place, (where, event_s, _) in enumerate(rows)
            if where == source
        ]
        put_rows(store, mine, source)
        put_labels(
            store,
            [
                (f"p{place}", value, float(at_s))
                for at_s, (place, value) in enumerate(labels)
                if (source == "a") == (at_s % 2 == 0)
            ],
            source,
        )
    positions = upto({"a": 1, "b": 1}, {"a": 1, "b": 1})
    found = labelled_rows(store, MODEL, SCHEMA, positions)
    expected = {}
    for place, value in labels:
        if value != "?" and place < len(rows):
            expected.setdefault(f"o{place}", float(value == "yes"))
    assert dict(zip(orders_of(found), found.labels.tolist(), strict=True)) == expected
    assert len(orders_of(found)) == len(expected)
    assert found.event_s.tolist() == sorted(found.event_s.tolist())


def test_a_row_that_was_asked_for_twice_under_one_key_is_learned_from_once(store):
    put_rows(store, [("key", 20.0, 20.0, "again"), ("other", 21.0, 21.0, "x")], source="a")
    put_rows(store, [("key", 10.0, 10.0, "first")], source="b")
    put_labels(store, [("key", "yes", 30.0), ("other", "no", 31.0)])
    rows = labelled_rows(
        store, MODEL, SCHEMA, {"predictions": {"a": 1, "b": 1}, "labels": {"a": 1}}
    )
    assert rows.table["order"].tolist() == ["first", "x"]
