"""The journal moves into the table: each row once, whatever dies when, and readers see no seam."""

import io
import itertools
from datetime import UTC, datetime

import numpy as np
import pytest
from pyarrow import parquet

from hapredict.control.labelled import labelled_rows
from hapredict.errors import CorruptBundle, StoreUnavailable
from hapredict.monitoring import compact
from hapredict.monitoring.compact import Compactor, cleared, compacted, saved_path
from hapredict.monitoring.follow import Follower, snapshot_path
from hapredict.monitoring.table import (
    File,
    files,
    is_over,
    label_rows_prefix,
    rows_prefix,
    standing,
)
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import encode_json, open_store
from hapredict.sections import DAY_S
from hapredict.serving.journal import Label, labels_prefix, part_path, predictions_prefix
from tests.support.bundles import MODEL, publish_linear
from tests.support.live import labels_of, part_of, put_labels, put_part

NAMES = itertools.count()
DAYS, ROWS = 2, 20


@pytest.fixture(scope="module")
def filled():
    """What is in a store with traffic of two sources, by path; and the bundle's schema."""
    store = open_store(f"memory://compact-{next(NAMES)}")
    publish_linear(store)
    bundle = load(store, MODEL, Catalog(store, MODEL).latest().state.versions[1].digest)
    for source in ("a", "b"):
        for day in range(DAYS):
            part = part_of(bundle, day + 1, source=source, day=day, rows=ROWS)
            put_part(store, part)
            labels = labels_of(part, share=0.5)
            rows = [Label(str(part.table["order"][-1]), "yes", labels[0].at_s, of_row=True)]
            put_labels(store, [*labels, *rows], seq=day + 1, source=source)
    return {path: store.get(path) for path in store.list("")}, bundle.schema


class Killed(BaseException):
    """The process ends here."""


class Mortal:
    """A store whose user dies at the n-th write, before or after it; or reads fail for a while."""

    def __init__(self, store, writes=None, *, after=False):
        self._store, self._writes, self._after = store, writes, after

    def __getattr__(self, name):
        found = getattr(self._store, name)
        return self._dying(found) if name in ("put", "put_new", "delete") else found

    def _dying(self, write):
        def call(*arguments):
            if self._writes is None:
                return write(*arguments)
            self._writes -= 1
            if self._writes == 0 and not self._after:
                raise Killed
            result = write(*arguments)
            if self._writes == 0:
                raise Killed
            return result

        return call


@pytest.fixture
def store(filled):
    return copy_of(filled)


def copy_of(filled):
    store = open_store(f"memory://compact-{next(NAMES)}")
    for path, data in filled[0].items():
        store.put(path, data)
    return store


def whole(store, prefix):
    tables = [parquet.read_table(io.BytesIO(store.get(path))) for path in files(store, prefix)]
    return [row for table in tables for row in table.to_pylist()]


def move_all(store):
    compactor = Compactor(store, MODEL)
    while compactor.move(1.0, "order").full:
        pass
    return compactor


def snapshot(store):
    follower = Follower(store, MODEL)
    while follower.step():
        pass
    follower.save()
    return follower.monitor.report()


def all_positions():
    sources = {"a": DAYS, "b": DAYS}
    return {"predictions": sources, "labels": sources}


def known(rows):
    return rows.table["order"].tolist(), rows.labels.tolist(), rows.event_s.round(3).tolist()


def test_rows_and_labels_are_in_the_table_with_what_they_had(store):
    move_all(store)
    rows = whole(store, rows_prefix(MODEL))
    assert len(rows) == len({row["prediction_id"] for row in rows}) == 2 * DAYS * ROWS
    one = min(rows, key=lambda row: (row["source"], row["seq"], row["event_time"]))
    assert one["version"] == 1
    assert one["score"] == one["scores"][0]
    assert one["id"] is not None
    assert {"f_distance", "f_收入", "decision", "answered_at", "other_version"} <= one.keys()
    for path in files(store, rows_prefix(MODEL)):
        days = {row["event_time"].date().isoformat() for row in pairs(store, path)}
        assert days == {path.split("day=")[1].split("/")[0]}
    labels = whole(store, label_rows_prefix(MODEL))
    assert len(labels) == 2 * DAYS * (ROWS // 2 + 1)
    assert sum(label["prediction_id"] is None for label in labels) == 2 * DAYS
    assert {label["label"] for label in labels} == {"yes", "no"}


def pairs(store, path):
    return parquet.read_table(io.BytesIO(store.get(path))).to_pylist()


@pytest.mark.parametrize("after", [False, True])
def test_whoever_dies_at_whichever_write_each_row_is_in_the_table_once(filled, after, monkeypatch):
    monkeypatch.setattr(compact, "PARTS_MAX", 5)
    monkeypatch.setattr(compact, "TOGETHER_MIN", 2)
    schema = filled[1]
    expected = known(labelled_rows(copy_of(filled), MODEL, schema, all_positions()))
    ends = 0
    for write in range(1, 200, 5 if after else 4):
        store = copy_of(filled)
        snapshot(store)
        compactor = Compactor(Mortal(store, write, after=after), MODEL)
        try:
            while compactor.move(1.0, "order").full:
                pass
            compactor.clear()
            compactor.tidy(0.0, 1.0)
        except Killed:
            pass
        else:
            ends += 1
        assert known(labelled_rows(store, MODEL, schema, all_positions())) == expected
        compactor = move_all(store)
        compactor.clear()
        compactor.tidy(0.0, 1.0)
        ids = [row["prediction_id"] for row in whole(store, rows_prefix(MODEL))]
        assert len(ids) == len(set(ids)) == 2 * DAYS * ROWS
        assert len(whole(store, label_rows_prefix(MODEL))) == 2 * DAYS * (ROWS // 2 + 1)
        assert store.list(predictions_prefix(MODEL)) == store.list(labels_prefix(MODEL)) == []
        assert known(labelled_rows(store, MODEL, schema, all_positions())) == expected
        if ends:
            break
    assert ends, "no round came to its end"


def test_training_reads_the_same_before_and_after_and_only_what_it_may(store, filled):
    upto = {"predictions": {"a": 2, "b": 1}, "labels": {"a": 1, "b": 2}}
    before = known(labelled_rows(store, MODEL, filled[1], upto))
    move_all(store)
    snapshot(store)
    Compactor(store, MODEL).clear()
    assert known(labelled_rows(store, MODEL, filled[1], upto)) == before


def test_nothing_is_cleared_that_the_monitor_has_not_saved(store):
    compactor = move_all(store)
    assert compactor.clear() == 0
    saved = {"predictions": {"a": 1}, "labels": {}}
    store.put(saved_path(MODEL), encode_json({"positions": saved}))
    assert compactor.clear() == 1
    assert not store.exists(part_path(predictions_prefix(MODEL), "a", 1))
    assert cleared(store, MODEL) == {"predictions": {"a": 1}, "labels": {}}


def test_a_monitor_goes_on_after_parts_were_cleared_with_a_snapshot_or_without(store, filled):
    report = snapshot(store)
    move_all(store).clear()
    bundle = load(store, MODEL, Catalog(store, MODEL).latest().state.versions[1].digest)
    put_part(store, part_of(bundle, DAYS + 1, source="a", day=DAYS, rows=ROWS))
    assert snapshot(store).rows == report.rows + ROWS
    store.put(snapshot_path(MODEL), b"nonsense")
    follower = Follower(store, MODEL)
    assert follower.step() == 1
    assert follower.monitor.report().rows == ROWS
    assert "not a monitor's state" in follower.detail


def test_a_part_that_comes_back_after_it_was_cleared_is_no_new_part(store, filled):
    snapshot(store)
    compactor = move_all(store)
    compactor.clear()
    path = part_path(predictions_prefix(MODEL), "a", 1)
    store.put(path, filled[0][path])  # a replica's disk was away for a day
    assert compactor.move(1.0, "order").parts == 0
    assert compactor.clear() == 1
    assert len(whole(store, rows_prefix(MODEL))) == 2 * DAYS * ROWS


def test_two_that_move_at_once_move_each_part_once(store):
    one, other = Compactor(store, MODEL), Compactor(store, MODEL)
    one.move(1.0, "order")
    other.move(1.0, "order")
    ids = [row["prediction_id"] for row in whole(store, rows_prefix(MODEL))]
    assert len(ids) == len(set(ids)) == 2 * DAYS * ROWS


def test_small_files_of_a_day_are_put_together(store, monkeypatch):
    monkeypatch.setattr(compact, "PARTS_MAX", 1)
    monkeypatch.setattr(compact, "TOGETHER_MIN", 2)
    before = sorted(row["prediction_id"] for row in whole(store, rows_prefix(MODEL)))
    compactor = move_all(store)
    before = sorted(row["prediction_id"] for row in whole(store, rows_prefix(MODEL)))
    assert len(files(store, rows_prefix(MODEL))) == 2 * DAYS
    compactor.tidy(0.0, 1.0)
    assert len(files(store, rows_prefix(MODEL))) == DAYS
    assert sorted(row["prediction_id"] for row in whole(store, rows_prefix(MODEL))) == before


def test_a_sample_is_of_keys_and_the_same_for_everybody(store, filled):
    while Compactor(store, MODEL).move(0.5, "order").full:
        pass
    kept = {row["key"] or row["prediction_id"] for row in whole(store, rows_prefix(MODEL))}
    assert 0.3 < len(kept) / (2 * DAYS * ROWS) < 0.7
    other = copy_of(filled)
    while Compactor(other, MODEL).move(0.5, "order").full:
        pass
    again = {row["key"] or row["prediction_id"] for row in whole(other, rows_prefix(MODEL))}
    assert kept == again


def test_what_arrived_too_long_ago_goes(store):
    compactor = move_all(store)
    newest = max(File.of(path).day for path in files(store, rows_prefix(MODEL)))
    end_s = datetime.strptime(newest, "%Y%m%d").replace(tzinfo=UTC).timestamp() + DAY_S
    compactor.tidy(end_s + 1.0, 1.0)
    left = {File.of(path).day for path in files(store, rows_prefix(MODEL))}
    assert left == {newest} or newest in left
    compactor.tidy(end_s + DAY_S + 1.0, 1.0)
    assert files(store, rows_prefix(MODEL)) == []


def test_a_damaged_part_costs_itself_only(store):
    store.put(part_path(predictions_prefix(MODEL), "a", 2), b"torn")
    move_all(store)
    assert len(whole(store, rows_prefix(MODEL))) == (2 * DAYS - 1) * ROWS
    assert compacted(store, MODEL)["predictions"] == {"a": DAYS, "b": DAYS}


def test_files_that_others_cover_do_not_count():
    folder = "inference/m/day=2026-01-01"
    names = ["20260101-00000001", "20260101-00000002", "20260102-00000001-00000002"]
    names += ["20260103-00000003", "20260103-00000001-00000003"]
    counted, gone = standing(f"{folder}/part-{name}.parquet" for name in names)
    assert [(one.first, one.last) for one in counted] == [(1, 3)]
    assert len(gone) == 4
    assert standing(["inference/m/day=2026-01-01/other.parquet"]) == ([], [])
    assert not is_over(counted[0], 0.0, 1.0)


def test_a_store_that_fails_is_asked_again(store, monkeypatch):
    compactor = Compactor(store, MODEL)
    with monkeypatch.context() as patch:
        patch.setattr(compact.table, "rows_of_part", failing)
        with pytest.raises(StoreUnavailable):
            compactor.move(1.0, "order")
    assert compacted(store, MODEL) == compact.NOTHING
    assert compactor.move(1.0, "order").parts == 4 * DAYS
    with pytest.raises(CorruptBundle):
        compact.table.read(b"nonsense")


def failing(*_):
    raise StoreUnavailable("no answer")


def test_the_columns_of_the_model_come_back_as_they_were(store, filled):
    found = labelled_rows(store, MODEL, filled[1], all_positions())
    move_all(store)
    snapshot(store)
    Compactor(store, MODEL).clear()
    again = labelled_rows(store, MODEL, filled[1], all_positions())
    for name, values in found.table.items():
        np.testing.assert_array_equal(again.table[name], values)
