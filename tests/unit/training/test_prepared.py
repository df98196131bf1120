"""A preparation is kept whole or not at all, and its name is what it depends on."""

from dataclasses import replace

import numpy as np
import pytest

from hapredict.data.rows import RowCounts
from hapredict.data.schema import rows_of
from hapredict.errors import CorruptBundle
from hapredict.features.clock import Clock
from hapredict.features.plan import count_bins
from hapredict.registry.store import open_store
from hapredict.training.network import Examples
from hapredict.training.prepared import (
    Prepared,
    Recipe,
    discard,
    discard_old,
    folder_of,
    known_hashes,
    mark_used,
    note_hashes,
    read,
    write,
)
from hapredict.training.shards import ShardSet, put_shard
from tests.support.bundles import plan_of, schema_of, spec_of, table_of

SPEC = spec_of()
RECIPE = Recipe.of(SPEC.data, SPEC.features, SPEC.training)
PREFIX = folder_of("orders", "k")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def prepared_in(store, prefix=PREFIX, rows=40):
    schema, table = schema_of(), table_of(rows, seed=3)
    plan = plan_of(schema, table, SPEC)
    matrices = plan.apply(table)
    labels = (np.arange(rows) % 2).astype(np.float32)
    examples = Examples(matrices.numbers, matrices.categories, labels)
    order = table["at"]
    shard = put_shard(store, prefix, examples.take(slice(0, 20)), order[:20], table["order"][:20])
    prepared = Prepared(
        schema=schema,
        plan=plan,
        counts=RowCounts(rows=rows + 1, used=rows, without_target=1),
        first=float(order.min()),
        last=float(order.max()),
        bins=count_bins(plan.bins(table), plan.bin_totals),
        train=ShardSet("k", prefix, 4, 2, True, (shard,), None, store),
        labels=labels[:20],
        validation=examples.take(slice(20, 30)),
        held=examples.take(slice(30, rows)),
        held_table={name: column[30:] for name, column in table.items()},
        clocked=Clock(24, 7200.0, 1).count(order, plan.bins(table), plan.bin_totals),
    )
    write(store, prefix, prepared)
    return prepared


def test_what_was_kept_is_read_back_to_the_bit(store):
    kept = prepared_in(store)
    found = read(store, PREFIX, None)
    for name in ("schema", "plan", "counts", "first", "last"):
        assert getattr(found, name) == getattr(kept, name)
    assert found.train == replace(kept.train, files=found.train.files)
    assert found.bins.tolist() == kept.bins.tolist()
    for name in ("hourly", "stretch", "counts", "hours"):
        assert (getattr(found.clocked, name) == getattr(kept.clocked, name)).all()
    assert found.labels.tobytes() == kept.labels.tobytes()
    for one, other in ((found.validation, kept.validation), (found.held, kept.held)):
        assert one.numbers.tobytes() == other.numbers.tobytes()
        assert one.categories.tobytes() == other.categories.tobytes()
        assert one.labels.tobytes() == other.labels.tobytes()
    assert rows_of(found.held_table) == kept.held.rows
    for name, column in kept.held_table.items():
        assert found.held_table[name].dtype == column.dtype
        assert list(map(repr, found.held_table[name])) == list(map(repr, column))


def test_rows_without_a_time_are_kept_without_counts_by_the_hour(store):
    write(store, PREFIX, replace(prepared_in(store), clocked=None))
    assert read(store, PREFIX, None).clocked is None


def test_the_hold_out_can_be_scored_again_from_what_was_kept(store):
    prepared_in(store)
    found = read(store, PREFIX, None)
    again = found.plan.apply(found.held_table)
    assert again.numbers.tobytes() == found.held.numbers.tobytes()
    assert again.categories.tobytes() == found.held.categories.tobytes()


def test_without_a_manifest_there_is_nothing(store):
    prepared_in(store)
    store.delete(f"{PREFIX}/manifest.json")
    assert read(store, PREFIX, None) is None
    assert read(store, folder_of("orders", "other"), None) is None


def test_damage_of_any_file_is_named(store):
    prepared_in(store)
    (shard,) = read(store, PREFIX, None).train.shards
    for path in store.list(PREFIX):
        whole = store.get(path)
        if path.endswith(shard.name):
            continue
        for broken in (whole[:-1], whole + b" ", b""):
            if path.endswith("manifest.json") and broken.strip() == whole:
                continue
            store.put(path, broken)
            with pytest.raises(CorruptBundle) as refused:
                read(store, PREFIX, None)
            assert path.rpartition("/")[2] in str(refused.value)
        store.delete(path)
        if not path.endswith("manifest.json"):
            with pytest.raises(CorruptBundle) as refused:
                read(store, PREFIX, None)
            assert path.rpartition("/")[2] in str(refused.value)
        store.put(path, whole)
    assert read(store, PREFIX, None) is not None


def test_the_last_used_are_kept_and_others_go_whole(store):
    for place, key in enumerate(("e", "a", "d", "b", "c")):
        prepared_in(store, folder_of("orders", key))
        mark_used(store, folder_of("orders", key), float(place))
    mark_used(store, folder_of("orders", "e"), 9.0)
    prepared_in(store, folder_of("other", "x"))
    note_hashes(store, "orders", {"a.csv": [1, 2, "3"]})
    assert discard_old(store, "orders") == ["a", "d"]
    assert store.children(folder_of("orders")) == ["b", "c", "e"]
    assert store.list(folder_of("orders", "a")) == []
    assert store.children(folder_of("other")) == ["x"]
    assert known_hashes(store, "orders") == {"a.csv": [1, 2, "3"]}
    assert discard_old(store, "orders") == []


def test_what_a_dead_run_began_goes_first(store):
    for place, key in enumerate("abc"):
        mark_used(store, folder_of("orders", key), 1.0 + place)
    store.put(f"{folder_of('orders', 'z')}/half.rows", b"")
    assert discard_old(store, "orders") == ["z"]


def test_a_discarded_preparation_is_gone(store):
    prepared_in(store)
    discard(store, PREFIX)
    assert store.list(PREFIX) == []


def test_the_key_changes_with_whatever_changes_the_rows():
    def key(**changed):
        spec = spec_of(**changed)
        return Recipe.of(spec.data, spec.features, spec.training).key(files=[["a", "1"]])

    base = key()
    changed = [
        key(data={"missing_values": "drop"}),
        key(data={"exclude": ["carrier"]}),
        key(features={"bins_max": 8}),
        key(training={"holdout_share": 0.2}),
        key(training={"validation_share": 0.2}),
        key(training={"judged_rows_max": 1000}),
        RECIPE.key(files=[["a", "2"]]),
        RECIPE.key(files=[["b", "1"]]),
    ]
    assert len({base, *changed}) == len(changed) + 1
    assert key(training={"hidden": [8], "seed": 5}) == key(serving={"num_cpus": 2}) == base


def test_notes_of_hashes_that_cannot_be_read_are_no_notes(store):
    assert known_hashes(store, "orders") == {}
    store.put("prepared/orders/files.json", b"{")
    assert known_hashes(store, "orders") == {}
