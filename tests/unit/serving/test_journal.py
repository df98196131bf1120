"""The journal's files read back as they were written, each exactly once."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import BufferReader

from hapredict.errors import CorruptBundle
from hapredict.registry.store import open_store
from hapredict.serving.journal import (
    NO_VERSION,
    Label,
    PredictionPart,
    WindowCounts,
    add_windows,
    decode,
    decode_labels,
    encode,
    encode_labels,
    labels_prefix,
    merge,
    pack,
    part_path,
    predictions_prefix,
    unpack,
    unread,
)
from tests.support.bundles import schema_of

FINITE = st.floats(-1e9, 1e9)
TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


@st.composite
def windows(draw, bucket=None, version=None):
    return WindowCounts(
        bucket=draw(st.integers(-5, 5)) if bucket is None else bucket,
        version=draw(st.integers(1, 2)) if version is None else version,
        rows=draw(st.integers(0, 1000)),
        bins=np.array(draw(st.lists(st.integers(0, 1000), min_size=4, max_size=4)), np.int64),
        scores=np.array(draw(st.lists(st.integers(0, 1000), min_size=2, max_size=2)), np.int64),
    )


@st.composite
def parts(draw):
    rows = draw(st.integers(0, 6))

    def per_row(values):
        return draw(st.lists(values, min_size=rows, max_size=rows))

    widths = per_row(st.integers(1, 3))
    scores = np.full((rows, max(widths, default=0)), np.nan)
    other_scores = np.full((rows, 2), np.nan)
    others = np.array(per_row(st.sampled_from([NO_VERSION, 4])), np.int64)
    for row, width in enumerate(widths):
        scores[row, :width] = draw(st.lists(FINITE, min_size=width, max_size=width))
        if others[row] != NO_VERSION:
            other_scores[row] = draw(st.lists(FINITE, min_size=2, max_size=2))
    return PredictionPart(
        source="a",
        seq=3,
        model="orders",
        ids=tuple(f"p{row}" for row in range(rows)),
        at_s=np.array(per_row(FINITE), np.float64),
        event_s=np.array(per_row(FINITE), np.float64),
        keys=tuple(per_row(TEXT)),
        versions=np.array(per_row(st.integers(1, 9)), np.int64),
        scores=scores,
        other_versions=others,
        other_scores=other_scores,
        table={
            "收入": np.array(per_row(FINITE | st.just(np.nan)), np.float64),
            "性别": np.array(per_row(TEXT), object),
        },
        windows=tuple(draw(st.lists(windows(), max_size=2))),
    )


def trimmed(scores):
    return [[value for value in row if not np.isnan(value)] for row in scores.tolist()]


def assert_same(one, two):
    assert (one.ids, one.keys, one.model) == (two.ids, two.keys, two.model)
    for name in ("at_s", "event_s", "versions", "other_versions"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert trimmed(one.scores) == trimmed(two.scores)
    assert trimmed(one.other_scores) == trimmed(two.other_scores)
    assert list(one.table) == list(two.table)
    for name in one.table:
        np.testing.assert_array_equal(one.table[name], two.table[name])
        assert one.table[name].dtype == two.table[name].dtype
    assert [w.to_json() for w in one.windows] == [w.to_json() for w in two.windows]


@settings(max_examples=50)
@given(parts())
def test_a_part_reads_back_as_it_was_written(part):
    for back in (decode(encode(part)), unpack(pack(part))):
        assert (back.source, back.seq) == ("a", 3)
        assert_same(part, back)


@settings(max_examples=50)
@given(parts(), parts())
def test_merged_parts_hold_the_rows_of_each_in_order(one, two):
    both = merge([one, two], source="b", seq=1, model="orders")
    assert both.rows == one.rows + two.rows
    assert both.ids == one.ids + two.ids
    assert trimmed(both.scores) == trimmed(one.scores) + trimmed(two.scores)
    assert sum(w.rows for w in both.windows) == sum(w.rows for w in one.windows + two.windows)


@settings(max_examples=50)
@given(parts())
def test_a_schema_gives_every_part_the_same_columns(part):
    schema = schema_of()
    back = decode(encode(part, schema), schema)
    assert list(back.table) == ["收入", "distance", "性别", "carrier", "at", "order"]
    np.testing.assert_array_equal(back.table["收入"], part.table["收入"])
    assert np.isnan(back.table["distance"]).all()
    assert back.table["carrier"].tolist() == [None] * part.rows
    assert {len(values) for values in back.table.values()} <= {part.rows}


@settings(max_examples=50)
@given(parts())
def test_any_reader_of_parquet_finds_the_promised_columns(part):
    table = pq.read_table(BufferReader(encode(part)))
    assert table.column_names == [
        *("prediction_id", "at_s", "event_s", "key", "version", "scores"),
        *("other_version", "other_scores", "f:收入", "f:性别"),
    ]
    assert table.column("other_version").null_count == (part.other_versions == NO_VERSION).sum()
    assert table.column("other_scores").null_count == (part.other_versions == NO_VERSION).sum()
    told = json.loads(table.schema.metadata[b"hapredict"])
    assert (told["source"], told["seq"], told["model"]) == ("a", 3, "orders")
    assert len(told["windows"]) == len(part.windows)


@settings(max_examples=30)
@given(parts(), st.data())
def test_damaged_bytes_are_told_from_a_part(part, data):
    whole = pack(part)
    cut = data.draw(st.integers(0, len(whole) - 9))
    with pytest.raises(CorruptBundle):
        unpack(whole[:cut])
    written = encode(part)
    with pytest.raises(CorruptBundle):
        decode(written[: data.draw(st.integers(0, len(written) - 1))])


def test_half_a_character_in_one_row_does_not_lose_the_others():
    part = merge([], source="a", seq=1, model="orders")
    table = {"性别": np.array(["男", "\ud800"], object)}
    rows = {"ids": ("p0", "p1"), "keys": ("\udfff", None), "table": table}
    for name in ("at_s", "event_s"):
        rows[name] = np.zeros(2)
    for name in ("versions", "other_versions"):
        rows[name] = np.zeros(2, np.int64)
    for name in ("scores", "other_scores"):
        rows[name] = np.zeros((2, 1))
    fields = {name: getattr(part, name) for name in ("source", "seq", "model", "windows")}
    back = decode(encode(PredictionPart(**fields, **rows)))
    assert back.table["性别"].tolist() == ["男", "?"]
    assert back.keys == ("?", None)


@given(windows(0, 1), windows(0, 1), windows(1, 1), windows(0, 2))
def test_counts_of_one_window_add_up_and_others_stay_apart(a, b, later, other_version):
    both = add_windows([a, later, b, other_version])
    assert [(w.bucket, w.version) for w in both] == [(0, 1), (0, 2), (1, 1)]
    assert both[0].rows == a.rows + b.rows
    np.testing.assert_array_equal(both[0].bins, a.bins + b.bins)
    assert (a + b).to_json() == (b + a).to_json()
    with pytest.raises(ValueError, match="do not add up"):
        a + later


@given(windows())
def test_counts_read_back_from_json(window):
    back = WindowCounts.from_json(json.loads(json.dumps(window.to_json())))
    assert back.to_json() == window.to_json()
    assert back.bins.dtype == np.int64


@given(
    st.lists(
        st.builds(
            Label,
            id=st.text(max_size=9),
            value=st.none() | st.booleans() | st.integers() | FINITE | st.text(max_size=5),
            at_s=FINITE,
            event_s=st.none() | FINITE,
        )
    )
)
def test_labels_read_back_as_they_were_written(labels):
    assert decode_labels(encode_labels(labels)) == tuple(labels)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"labels":[1]}', b'{"labels":[{"id":"a"}]}', b"\xff", b"null"]
)
def test_bytes_that_are_no_labels_are_refused(data):
    with pytest.raises(CorruptBundle):
        decode_labels(data)


def test_unread_gives_each_part_once_and_never_jumps_over_a_missing_one():
    store = open_store("memory://journal-unread")
    prefix = predictions_prefix("orders")
    for source, seqs in {"a": (1, 2, 4), "b": (2,), "c": (1,)}.items():
        for seq in seqs:
            store.put_new(part_path(prefix, source, seq), b"")
    found = unread(store, prefix, {})
    assert [(source, seq) for source, seq, _ in found] == [("a", 1), ("a", 2), ("c", 1)]
    assert found[0][2] == "journal/orders/predictions/a/00000001.parquet"
    positions = {source: seq for source, seq, _ in found}
    assert unread(store, prefix, positions) == []
    store.put_new(part_path(prefix, "a", 3), b"")
    assert [seq for _, seq, _ in unread(store, prefix, positions)] == [3, 4]


def test_label_parts_lie_beside_prediction_parts():
    assert part_path(labels_prefix("m"), "s", 7) == "journal/m/labels/s/00000007.json"
    assert part_path(predictions_prefix("m"), "s", 7).endswith("predictions/s/00000007.parquet")
