"""Rows are prepared once, in parallel, to the same bytes; what was prepared is found again."""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hapredict.control import ray_learn
from hapredict.control.runs import Request
from hapredict.control.specs import on_disk, write_spec
from hapredict.data import ray_dataset
from hapredict.data.ray_dataset import columns_of_frame, find_files, open_dataset
from hapredict.data.rows import cut, usable
from hapredict.data.schema import take
from hapredict.errors import DataError, StoreUnavailable
from hapredict.features.histogram import Histogram
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.features.stats import TableStats
from hapredict.registry.store import open_store
from hapredict.sections import DAY_S
from hapredict.training import ray_prepare
from hapredict.training.network import Examples
from hapredict.training.prepared import Recipe, folder_of
from hapredict.training.ray_inputs import code_version, file_hashes
from hapredict.training.ray_prepare import find_prepared, prepare, read_rows
from hapredict.training.shards import load, name_row
from tests.support.people import people, small_spec, write

ROWS = 1200
MODEL = "orders"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """One file: rows in disorder, some of them unusable."""
    rows = people(ROWS)
    for place in range(0, ROWS, 50):
        rows[place]["bad"] = None
    order = np.random.default_rng(1).permutation(ROWS).tolist()
    return Path(write(tmp_path_factory.mktemp("data") / "people.csv", [rows[i] for i in order]))


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def recipe_of(source, **training):
    spec = small_spec(MODEL, str(source), training=training)
    return Recipe.of(spec.data, spec.features, spec.training)


def prepared(cluster, recipe, store, key="k"):
    files = find_files(recipe.data, Path(cluster.home))
    rows = read_rows(open_dataset(files, recipe.data), recipe)
    return prepare(rows, recipe, store, MODEL, key, on_disk(store, folder_of(MODEL, key)))


def bytes_of(examples):
    return [array.tobytes() for array in (examples.numbers, examples.categories, examples.labels)]


def rows_of(examples):
    """Each row's bytes, in no order."""
    parts = (examples.numbers, examples.categories, examples.labels[:, None])
    return sorted(b"".join(part.tobytes() for part in row) for row in zip(*parts, strict=True))


def outcome(found):
    """All that training and judging see, whatever it lies in."""
    return (
        found.schema,
        found.plan,
        found.counts,
        (found.first, found.last, found.bins.tolist(), found.labels.tobytes()),
        *(bytes_of(part) for part in (load(found.train), found.validation, found.held)),
        {name: list(map(repr, column)) for name, column in found.held_table.items()},
    )


@pytest.fixture(scope="module")
def found(cluster, source, tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("store")))
    return prepared(cluster, recipe_of(source), store)


class TestPreparing:
    def test_rows_are_what_one_process_would_make_of_the_file(self, found, source):
        recipe, schema = recipe_of(source), found.schema
        columns = columns_of_frame(pd.read_csv(source))
        table, unreadable = schema.frame(columns)
        labels = schema.labels(columns[schema.target])
        used, counts = usable(table, labels, unreadable, schema, recipe.data)
        table, labels = take(table, used), labels[used]
        order = table["time"]
        bounds = cut(order, recipe.validation_share, recipe.holdout_share)
        part = np.searchsorted(bounds, order, side="right")
        stats = TableStats.of(take(table, part == 0), schema)
        plan = FeaturePlan.from_stats(stats, schema, recipe.features)
        assert found.plan == plan
        assert found.counts == counts
        assert found.bins.tolist() == count_bins(plan.bins(table), plan.bin_totals).tolist()
        assert (found.first, found.last) == (order.min(), order.max())
        for which, rows in enumerate((load(found.train), found.validation, found.held)):
            place = np.flatnonzero(part == which)
            matrices = plan.apply(take(table, place))
            made = Examples(matrices.numbers, matrices.categories, labels[place].astype(np.float32))
            assert rows_of(rows) == rows_of(made)
        assert found.held_table["time"].tolist() == sorted(order[part == 2].tolist())

    def test_raw_rows_of_the_hold_out_match_its_matrices(self, found):
        again = found.plan.apply(found.held_table)
        assert again.numbers.tobytes() == found.held.numbers.tobytes()
        assert again.categories.tobytes() == found.held.categories.tobytes()
        assert (np.diff(found.held_table["time"]) >= 0).all()

    def test_a_row_can_be_named(self, found, source):
        frame = pd.read_csv(source).set_index("order")
        learned = load(found.train)
        named = [name_row(found.train, row) for row in range(learned.rows)]
        ids = [name.strip("'") for name in named]
        assert len(set(ids)) == learned.rows
        assert frame.loc[ids, "bad"].tolist() == learned.labels.tolist()

    def test_how_files_and_blocks_are_cut_and_listed_changes_nothing(
        self, found, cluster, source, store, tmp_path, monkeypatch
    ):
        frame = pd.read_csv(source, dtype={"age": "Int64", "bad": "Int64"})
        folder = tmp_path / "parts"
        folder.mkdir()
        mixed = np.random.default_rng(5).permutation(len(frame))
        for place, rows in enumerate(np.array_split(mixed, 5)):
            frame.iloc[rows].to_csv(folder / f"{place}.csv", index=False)
        sources = [str(folder / f"{place}.csv") for place in (3, 0, 4, 2, 1)]
        recipe = recipe_of(source)
        listed = replace(recipe, data=recipe.data.model_copy(update={"sources": tuple(sources)}))
        several = prepared(cluster, listed, store, "several")
        assert outcome(several) == outcome(found)
        monkeypatch.setattr(ray_dataset, "BLOCK_BYTES", 10_000)
        frame.to_parquet(tmp_path / "one.parquet", row_group_size=100)
        columnar = replace(
            recipe,
            data=recipe.data.model_copy(update={"sources": (str(tmp_path / "one.parquet"),)}),
        )
        assert outcome(prepared(cluster, columnar, store, "columnar")) == outcome(found)

    def test_how_many_shards_there_are_changes_nothing(
        self, found, cluster, source, store, monkeypatch
    ):
        monkeypatch.setattr(ray_prepare, "shard_count", lambda _: 5)
        several = prepared(cluster, recipe_of(source), store, "several")
        assert len(several.train.shards) == 5
        assert outcome(several) == outcome(found)

    def test_more_rows_than_are_looked_at_one_by_one_are_cut_at_the_same_moments(
        self, found, cluster, source, store
    ):
        recipe = recipe_of(source)
        files = find_files(recipe.data, Path(cluster.home))
        rows = read_rows(open_dataset(files, recipe.data), recipe)
        few = replace(rows.orders, histogram=Histogram.of(rows.orders.values), values=None)
        many = prepare(replace(rows, orders=few), recipe, store, MODEL, "many", None)
        assert outcome(many) == outcome(found)

    def test_no_more_rows_judge_than_are_asked_for(self, cluster, source, store):
        recipe = replace(recipe_of(source), judged_rows_max=30)
        thin, found = (
            prepared(cluster, each, store, key)
            for each, key in ((recipe, "thin"), (recipe_of(source), "all"))
        )
        assert (thin.held.rows, thin.validation.rows) == (30, 30)
        assert bytes_of(load(thin.train)) == bytes_of(load(found.train))
        assert thin.counts == found.counts
        assert set(thin.held_table["order"]) < set(found.held_table["order"])
        assert (np.diff(thin.held_table["time"]) >= 0).all()

    def test_data_that_cannot_be_learned_from_are_refused(self, cluster, source, store, tmp_path):
        recipe = recipe_of(source)
        strict = replace(recipe, data=recipe.data.model_copy(update={"rows_min": ROWS}))
        with pytest.raises(DataError, match=r"1,176 of 1,200 rows are used.*data.rows_min is 1200"):
            prepared(cluster, strict, store)
        moment = [{**row, "time": "2026-01-01T00:00:00+00:00"} for row in people(200)]
        still = recipe_of(write(tmp_path / "still.csv", moment))
        with pytest.raises(DataError, match="the same time"):
            prepared(cluster, still, store)
        assert find_prepared(store, MODEL, "k", None) is None

    def test_a_store_that_fails_says_so(self, cluster, source, tmp_path):
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(StoreUnavailable):
            prepared(cluster, recipe_of(source), open_store(str(tmp_path / "file")))


class TestFinding:
    def find(self, store, key="k"):
        return find_prepared(store, MODEL, key, on_disk(store, folder_of(MODEL, key)))

    def test_what_was_prepared_is_found_to_the_bit(self, cluster, source, store):
        assert self.find(store) is None
        made = prepared(cluster, recipe_of(source), store)
        assert outcome(self.find(store)) == outcome(made)

    @pytest.mark.parametrize("harm", ["a byte", "cut", "gone"])
    def test_a_damaged_shard_is_named_and_prepared_again(
        self, cluster, source, store, caplog, harm
    ):
        made = prepared(cluster, recipe_of(source), store)
        path = Path(made.train.folder) / made.train.shards[0].name
        whole = path.read_bytes()
        if harm == "gone":
            path.unlink()
        else:
            path.write_bytes(whole[:-9] if harm == "cut" else whole[:500] + b"?" + whole[501:])
        with caplog.at_level(logging.WARNING):
            assert self.find(store) is None
        assert path.name in caplog.text
        again = prepared(cluster, recipe_of(source), store)
        assert path.read_bytes() == whole
        assert again.train.shards == made.train.shards

    def test_what_a_dead_run_left_is_not_found(self, cluster, source, store):
        made = prepared(cluster, recipe_of(source), store)
        store.delete(f"{made.train.prefix}/manifest.json")
        assert self.find(store) is None
        assert outcome(prepared(cluster, recipe_of(source), store)) == outcome(made)

    def test_only_the_last_used_are_kept(self, cluster, source, store):
        for key in "abcd":
            prepared(cluster, recipe_of(source), store, key)
            if key == "c":
                assert self.find(store, "a") is not None
        assert store.children(folder_of(MODEL)) == ["a", "c", "d"]


class TestRun:
    """The data path of a training run, without the training."""

    @pytest.fixture
    def run(self, cluster, store, tmp_path):
        source = Path(write(tmp_path / "data" / "people.csv", people(400)))
        spec = small_spec(MODEL, str(source))
        number, _ = write_spec(store, spec)

        def run(name):
            return ray_learn.Run(store, tmp_path, Request(MODEL, name, "test", number, None))

        run.source = source
        return run

    def go(self, run):
        return run._prepare(run._open(None))

    def test_the_second_run_reads_no_data(self, run, monkeypatch):
        made = self.go(run("run-1"))
        monkeypatch.delattr(ray_learn, "open_dataset")
        second = run("run-2")
        assert outcome(self.go(second)) == outcome(made)
        assert second.record.rows == "400 of 400 rows are used"

    def test_new_rows_are_read_and_a_run_that_starts_again_keeps_its_own(self, run):
        made = self.go(run("run-1"))
        write(run.source, people(500))
        assert self.go(run("run-2")).counts.used == 500
        assert outcome(self.go(run("run-1"))) == outcome(made)

    def test_what_training_alone_needs_is_no_reason_to_prepare_again(self, run, store, monkeypatch):
        made = self.go(run("run-1"))
        spec = small_spec(MODEL, str(run.source), training={"hidden": [4], "seed": 9})
        number, _ = write_spec(store, spec)
        monkeypatch.delattr(ray_learn, "open_dataset")
        again = ray_learn.Run(store, run.source, Request(MODEL, "run-2", "test", number, None))
        assert outcome(self.go(again)) == outcome(made)


class TestHashes:
    @pytest.fixture
    def files(self, cluster, tmp_path):
        files = []
        for name in ("a.csv", "b.csv"):
            path = tmp_path / name
            path.write_text(f"x\n{name}\n")
            os.utime(path, (DAY_S, DAY_S))
            files.append(str(path))
        return files

    def test_a_file_with_new_bytes_has_a_new_hash(self, files, store):
        before = file_hashes(files, store, MODEL)
        Path(files[1]).write_text("x\n2\n")
        after = file_hashes(files, store, MODEL)
        assert len([told for told in after if told in before]) == 1
        Path(files[1]).write_text("x\nb.csv\n")
        assert file_hashes(files, store, MODEL) == before

    def test_a_file_that_did_not_change_is_not_read_again(self, files, store):
        before = file_hashes(files, store, MODEL)
        Path(files[0]).write_text("x\nA.CSV\n")
        os.utime(files[0], (DAY_S, DAY_S))
        assert file_hashes(files, store, MODEL) == before

    def test_a_file_that_may_change_within_its_clocks_tick_is_read_again(self, files, store):
        Path(files[0]).write_text("x\n1\n")
        state = Path(files[0]).stat()
        before = file_hashes(files, store, MODEL)
        Path(files[0]).write_text("x\n2\n")
        os.utime(files[0], ns=(state.st_atime_ns, state.st_mtime_ns))
        assert file_hashes(files, store, MODEL) != before

    def test_names_and_places_of_files_do_not_matter(self, files, store, tmp_path):
        before = file_hashes(files, store, MODEL)
        moved = Path(files[0]).rename(tmp_path / "z.csv")
        assert file_hashes([files[1], str(moved)], store, MODEL) == before
        other = moved.rename(tmp_path / "z.parquet")
        assert file_hashes([files[1], str(other)], store, MODEL) != before

    def test_a_file_that_cannot_be_read_is_named(self, files, store):
        Path(files[0]).unlink()
        Path(files[0]).mkdir()
        with pytest.raises(DataError, match=r"a\.csv: cannot be read"):
            file_hashes(files, store, MODEL)

    def test_a_url_is_told_by_its_size_and_time_or_not_at_all(self, files, store):
        (told,) = file_hashes([Path(files[0]).as_uri()], store, MODEL)
        assert told[0][1:] == [8, int(DAY_S * 1e9)]
        os.utime(files[0])
        assert file_hashes([Path(files[0]).as_uri()], store, MODEL) is None
        assert file_hashes(["file:///nowhere/*.csv"], store, MODEL) is None

    def test_the_code_has_a_version(self):
        assert code_version() == code_version()
