"""Prepared rows as files: what was written is what is learned from, and damage is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import NotFound, StoreUnavailable
from hapredict.registry.store import open_store
from hapredict.training import feed
from hapredict.training.feed import Resident
from hapredict.training.memory import WINDOW_BYTES_MAX, memory_for_rows, rows_shuffled
from hapredict.training.network import Examples
from hapredict.training.shards import (
    ShardSet,
    Streamed,
    copy_to,
    find_damage,
    load,
    name_row,
    open_feed,
    put_shard,
)

PREFIX = "prepared/orders/k"


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch):
    monkeypatch.setattr(feed, "PIECE_ROWS", 8)


class Folder:
    """Files in a folder, without what a store does for durability."""

    def __init__(self, root):
        self.root = Path(root)

    def put(self, path, data):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(data)

    def get(self, path):
        if not (self.root / path).is_file():
            raise NotFound(path)
        return (self.root / path).read_bytes()


class Memory(dict):
    put, get = dict.__setitem__, dict.__getitem__


def examples_of(rows, numbers=4, categories=2, seed=0):
    chance = np.random.default_rng(seed)
    return Examples(
        chance.normal(size=(rows, numbers)).astype(np.float32),
        chance.integers(0, 99, (rows, categories), dtype=np.int32),
        chance.random(rows, dtype=np.float32),
    )


def shard_set_of(files, sizes, numbers=4, categories=2, ids=None):
    """Shards of these sizes, and all their rows in one."""
    whole = examples_of(sum(sizes), numbers, categories)
    ends = np.cumsum(sizes)
    shards = tuple(
        put_shard(
            files,
            PREFIX,
            whole.take(slice(end - size, end)),
            np.arange(end - size, end, dtype=np.float64),
            None if ids is None else ids[end - size : end],
        )
        for size, end in zip(sizes, ends.tolist(), strict=True)
    )
    folder = str(files.root / PREFIX) if isinstance(files, Folder) else None
    found = ShardSet("k", PREFIX, numbers, categories, ids is not None, shards, folder, files)
    return found, whole


def same(one, other):
    return all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes()
        and getattr(one, name).dtype == getattr(other, name).dtype
        for name in ("numbers", "categories", "labels")
    )


SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)
SETTLED = settings(max_examples=30)


class TestReading:
    @SETTLED
    @given(SIZES, st.integers(0, 5), st.integers(0, 3))
    def test_what_was_written_is_read_whatever_the_widths(self, sizes, numbers, categories):
        found, whole = shard_set_of(Memory(), sizes, numbers, categories)
        assert found.rows == whole.rows
        assert same(load(found), whole)

    @SETTLED
    @given(SIZES, st.integers(1, 300), st.integers(0, 2**31), st.integers(0, 3))
    def test_rows_in_memory_and_rows_in_files_give_the_same_windows(
        self, sizes, shuffled, seed, epoch
    ):
        found, whole = shard_set_of(Memory(), sizes)
        held, streamed = Resident(whole, shuffled), Streamed(found, shuffled)
        assert held.rows == streamed.rows
        assert held.window_rows == streamed.window_rows
        pairs = zip(held.windows(seed, epoch), streamed.windows(seed, epoch), strict=True)
        for one, other in pairs:
            assert same(one.examples.take(one.rows), other.examples.take(other.rows))

    def test_how_rows_are_cut_into_shards_changes_nothing(self):
        def seen(sizes):
            found, _ = shard_set_of(Memory(), sizes)
            windows = Streamed(found, 30).windows(seed=7, epoch=2)
            return [window.examples.take(window.rows).numbers.tolist() for window in windows]

        assert seen([100]) == seen([1, 59, 40]) == seen([10] * 10)

    def test_a_file_can_be_read_by_numpy_alone(self, tmp_path):
        found, whole = shard_set_of(Folder(tmp_path), [5], ids=np.array(["a", "女", None, "", "d"]))
        with (Path(found.folder) / found.shards[0].name).open("rb") as file:
            arrays = [np.load(file, allow_pickle=False) for _ in range(6)]
        assert arrays[0].tolist() == whole.numbers.tolist()
        assert arrays[3].tolist() == [0, 1, 2, 3, 4]
        assert arrays[5].tobytes().decode() == "a女d"

    def test_the_same_rows_make_the_same_file(self):
        one, other = Memory(), Memory()
        shard_set_of(one, [7, 9])
        shard_set_of(other, [7, 9])
        assert one == other

    def test_a_set_is_the_same_after_its_json(self):
        files = Memory()
        found, _ = shard_set_of(files, [3, 4])
        assert ShardSet.from_json(found.to_json(), PREFIX, None, files) == found


class TestMemory:
    def test_the_feed_is_in_memory_while_it_fits_and_streamed_beyond(self, tmp_path):
        found, _ = shard_set_of(Folder(tmp_path), [50, 50])
        assert found.bytes == 100 * 4 * (4 + 2 + 1)
        assert isinstance(open_feed(found, found.bytes, 10), Resident)
        assert isinstance(open_feed(found, found.bytes - 1, 10), Streamed)

    def test_a_quarter_of_the_node_is_divided_by_the_workers_on_it(self):
        assert memory_for_rows("auto", 16 << 30) == 4 << 30
        assert memory_for_rows("auto", 16 << 30, 4) == 1 << 30
        assert memory_for_rows(5 << 20, 16 << 30, 4) == 5 << 20

    @given(
        st.integers(1000, 10**7),
        st.one_of(st.just("auto"), st.integers(1 << 20, 1 << 40)),
        st.integers(4, 10**5),
    )
    def test_two_windows_stay_within_an_explicit_limit(self, shuffle_rows, limit, row_bytes):
        rows = rows_shuffled(shuffle_rows, limit, row_bytes)
        assert 1 <= rows <= shuffle_rows
        assert rows * row_bytes <= WINDOW_BYTES_MAX
        assert limit == "auto" or 2 * rows * row_bytes <= limit

    def test_narrow_rows_are_shuffled_as_the_spec_says(self):
        assert rows_shuffled(1_000_000, "auto", 400) == 1_000_000


class TestCopies:
    def test_shards_of_a_bucket_are_copied_once_before_they_are_streamed(self, tmp_path):
        files = Memory()
        found, whole = shard_set_of(files, [20, 30])
        streamed = open_feed(found, 0, 10, tmp_path / "copy")
        files.clear()
        again = open_feed(found, 0, 10, tmp_path / "copy")
        for opened in (streamed, again):
            read = opened.read([(0, 50)])
            assert same(read, whole)
        assert {file.name for file in (tmp_path / "copy").iterdir()} == {
            shard.name for shard in found.shards
        }

    def test_damage_on_the_way_is_refused(self, tmp_path):
        files = Memory()
        found, _ = shard_set_of(files, [20])
        (path,) = files
        files[path] = files[path][:-1] + b"\xff"
        with pytest.raises(StoreUnavailable, match=found.shards[0].name):
            copy_to(found, tmp_path / "copy")
        assert not list((tmp_path / "copy").iterdir())


class TestDamage:
    @pytest.fixture
    def stored(self, tmp_path):
        found, _ = shard_set_of(Folder(tmp_path), [20, 30])
        return found, Path(found.folder) / found.shards[1].name

    def test_whole_shards_are_fine(self, stored):
        assert [find_damage(stored[0], shard) for shard in stored[0].shards] == ["", ""]

    @settings(max_examples=20)
    @given(st.data())
    def test_any_changed_byte_is_found_and_the_shard_named(self, tmp_path_factory, data):
        found, _ = shard_set_of(Folder(tmp_path_factory.mktemp("d")), [5])
        path = Path(found.folder) / found.shards[0].name
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        assert found.shards[0].name in find_damage(found, found.shards[0])

    def test_a_missing_shard_is_named(self, stored):
        found, path = stored
        path.unlink()
        assert path.name in find_damage(found, found.shards[1])
        with pytest.raises(StoreUnavailable, match=path.name):
            load(found)

    @pytest.mark.parametrize("kept", [0, 1, 40, 200, 500])
    def test_a_shard_cut_off_is_never_learned_from(self, stored, kept):
        found, path = stored
        path.write_bytes(path.read_bytes()[:kept])
        for read in (lambda: load(found), lambda: list(Streamed(found, 10).windows(0, 0))):
            with pytest.raises(StoreUnavailable, match=path.name):
                read()

    def test_a_shard_of_another_preparation_is_never_learned_from(self, stored):
        found, _ = stored
        for wrong in (replace(found, numbers=5), replace(found, categories=0, numbers=0)):
            with pytest.raises(StoreUnavailable, match=found.shards[0].name):
                load(wrong)


class TestNamingRows:
    def test_a_row_is_named_by_its_id_or_else_by_its_place(self, tmp_path):
        ids = np.array([None if row == 25 else f"订单-{row}" for row in range(50)], object)
        named, _ = shard_set_of(Folder(tmp_path / "a"), [20, 30], ids=ids)
        assert name_row(named, 0) == "'订单-0'"
        assert name_row(named, 49) == "'订单-49'"
        assert name_row(named, 25).startswith(f"5 of shard {named.shards[1].sha256[:12]}")
        plain, _ = shard_set_of(Folder(tmp_path / "b"), [20, 30])
        assert name_row(plain, 21).endswith("(at 21.0 in the order of rows)")
        with pytest.raises(IndexError):
            name_row(plain, 50)

    @SETTLED
    @given(SIZES, st.integers(8, 100), st.integers(0, 9))
    def test_a_row_of_any_window_has_the_name_of_its_own_values(self, sizes, shuffled, seed):
        rows = sum(sizes)
        ids = np.array([str(row) for row in range(rows)], object)
        found, whole = shard_set_of(Memory(), sizes, ids=ids)
        for memory in (0, found.bytes):
            for window in open_feed(found, memory, shuffled).windows(seed, 0):
                row = int(window.rows[0])
                place = int(window.names[row].strip("'"))
                assert window.examples.labels[row] == whole.labels[place]


def test_a_store_holds_shards_as_any_other_files_do(tmp_path):
    store = open_store(str(tmp_path))
    found, whole = shard_set_of(store, [4, 5])
    assert same(load(found), whole)
    on_disk = replace(found, folder=str(tmp_path / PREFIX), files=None)
    assert same(load(on_disk), whole)
