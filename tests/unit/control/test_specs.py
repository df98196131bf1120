"""Specs are numbered as the catalog is, and a home of any name is found again."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.specs import (
    applied_models,
    home_store,
    latest_spec,
    read_spec,
    remember,
    store_url,
    train_folder,
    write_spec,
)
from hapredict.errors import CorruptBundle, NotFound, SpecError, StoreUnavailable
from hapredict.registry.store import open_store
from tests.support.bundles import MODEL, spec_of

HOMES = st.lists(
    st.text(
        st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"),
        min_size=1,
        max_size=8,
    ).filter(lambda part: part not in {".", ".."}),
    max_size=3,
).map(lambda parts: Path("/", "home", *parts))


@pytest.fixture
def store(request):
    return open_store(f"memory://{request.node.name}")


class TestWriteSpec:
    def test_the_same_spec_again_keeps_its_number(self, store):
        assert write_spec(store, spec_of()) == (1, True)
        assert write_spec(store, spec_of()) == (1, False)
        changed = spec_of(training={"seed": 7})
        assert write_spec(store, changed) == (2, True)
        assert write_spec(store, spec_of()) == (3, True)
        assert [read_spec(store, MODEL, number) for number in (1, 2, 3)] == [
            spec_of(),
            changed,
            spec_of(),
        ]
        assert read_spec(store, MODEL) == spec_of()

    def test_models_are_numbered_apart_even_if_one_name_begins_the_other(self, store):
        write_spec(store, spec_of("orders"))
        write_spec(store, spec_of("orders_2"))
        write_spec(store, spec_of("orders_2", training={"seed": 7}))
        assert (latest_spec(store, "orders"), latest_spec(store, "orders_2")) == (1, 2)
        assert latest_spec(store, "order") == 0

    def test_of_many_writers_each_gets_a_number_of_its_own(self, tmp_path):
        url = (tmp_path / "store").as_uri()
        wanted = [spec_of(training={"seed": seed}) for seed in range(6)]
        found, gate = {}, threading.Barrier(len(wanted))

        def write(spec):
            store = open_store(url)
            gate.wait(10)
            found[spec.training.seed] = write_spec(store, spec)

        threads = [threading.Thread(target=write, args=(spec,)) for spec in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(number for number, _ in found.values()) == list(range(1, 7))
        assert all(changed for _, changed in found.values())
        store = open_store(url)
        for spec in wanted:
            assert read_spec(store, MODEL, found[spec.training.seed][0]) == spec

    def test_of_many_writers_of_one_spec_one_writes_it(self, tmp_path):
        url = (tmp_path / "store").as_uri()
        found, gate = [], threading.Barrier(4)

        def write():
            store = open_store(url)
            gate.wait(10)
            found.append(write_spec(store, spec_of()))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(found) == [(1, False)] * 3 + [(1, True)]

    def test_a_model_that_was_never_applied_is_not_found(self, store):
        with pytest.raises(NotFound, match=r"no model 'orders' was ever applied to memory://"):
            read_spec(store, "orders")
        write_spec(store, spec_of())
        with pytest.raises(NotFound):
            read_spec(store, MODEL, 2)

    def test_a_stored_spec_of_another_time_is_refused_by_its_keys(self, store):
        store.put(f"specs/{MODEL}/00000001.json", b'{"name": "orders", "odd": 1}')
        with pytest.raises(SpecError, match="odd"):
            read_spec(store, MODEL)


class TestWhere:
    @given(HOMES, st.none() | st.sampled_from(["store", "数 据/a", "./x", "100%25 #1?"]))
    def test_checkpoints_lie_in_the_store_whatever_home_is_called(self, home, given_store):
        spec = spec_of(store=given_store)
        place = home / (given_store or "store")
        assert open_store(store_url(spec, home)).url == place.as_uri()
        assert Path(train_folder(spec, home, MODEL)) == place / "train" / MODEL

    def test_both_are_one_folder_on_disk(self, tmp_path):
        home = tmp_path / "主 页 100% #1"
        spec = spec_of()
        open_store(store_url(spec, home)).put("a/b.json", b"{}")
        assert (Path(train_folder(spec, home, MODEL)).parents[1] / "a" / "b.json").exists()

    @pytest.mark.parametrize(
        ("url", "folder"),
        [
            ("file:///data/a%20b/", "/data/a b/train/orders"),
            ("file://localhost/data", "/data/train/orders"),
            ("/data/数据", "/data/数据/train/orders"),
            ("s3://bucket/a%20b/", "s3://bucket/a%20b/train/orders"),
        ],
    )
    def test_a_store_of_its_own_is_taken_as_it_is(self, url, folder):
        assert train_folder(spec_of(store=url), Path("/home"), MODEL) == folder

    def test_a_relative_home_starts_where_the_caller_stands(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert store_url(spec_of(), Path("here")) == (tmp_path / "here" / "store").as_uri()
        assert train_folder(spec_of(), Path("here"), MODEL) == str(
            tmp_path / "here" / "store" / "train" / MODEL
        )


class TestHome:
    def test_a_home_knows_the_models_applied_from_it(self, tmp_path):
        home = tmp_path / "主 页"
        assert applied_models(home) == []
        url = store_url(spec_of(), home)
        remember(home, "routes", url)
        remember(home, "orders", "memory://elsewhere")
        remember(home, "orders", url)
        assert applied_models(home) == ["orders", "routes"]
        assert home_store(home, "orders").url == url

    def test_nothing_half_written_counts_as_a_model(self, tmp_path):
        remember(tmp_path, "orders", "memory://a")
        assert [file.name for file in (tmp_path / "models").iterdir()] == ["orders.json"]

    def test_an_unknown_model_is_answered_with_those_that_are_known(self, tmp_path):
        with pytest.raises(NotFound, match="none; see `hapredict apply`"):
            home_store(tmp_path, "orders")
        remember(tmp_path, "routes", "memory://a")
        with pytest.raises(NotFound, match=r"no model 'orders'.*: routes"):
            home_store(tmp_path, "orders")

    def test_a_broken_note_says_where_it_is(self, tmp_path):
        remember(tmp_path, "orders", "memory://a")
        (tmp_path / "models" / "orders.json").write_text("{")
        with pytest.raises(CorruptBundle, match=r"models/orders\.json"):
            home_store(tmp_path, "orders")

    def test_a_home_that_cannot_be_written_is_an_error_of_ours(self, tmp_path):
        (tmp_path / "models").write_text("a file in the way")
        with pytest.raises(StoreUnavailable):
            remember(tmp_path, "orders", "memory://a")
