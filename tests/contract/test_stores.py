"""What every store promises. A new way to open one is a line in OPEN."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import BadRequest, Conflict, HapredictError, NotFound
from hapredict.registry.store import Store, open_store
from tests.support import bucket

OPEN = {
    "file": lambda folder: open_store(str(folder / "store")),
    "memory": lambda folder: open_store(f"memory://{folder}"),
    "s3": lambda folder: open_store(f"s3://bucket/{folder.name}"),
}


@pytest.fixture(scope="module")
def s3():
    with bucket.serving() as server:
        yield server


@pytest.fixture(autouse=True)
def s3_address(s3, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")


@pytest.fixture(params=list(OPEN))
def store(request, tmp_path) -> Store:
    return OPEN[request.param](tmp_path)


def in_threads(count, work):
    """What `work(number)` returns or raises (if foreseen) in threads that start together."""
    start = threading.Barrier(count)

    def run(number):
        start.wait()
        try:
            return work(number)
        except HapredictError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


@pytest.mark.parametrize(
    "data", [b"", b"x", bytes(range(256)), b"\x00" * 5_000_000], ids=["none", "one", "all", "5 MB"]
)
def test_what_is_put_is_what_is_read(store, data):
    store.put_new("a/created", data)
    store.put("a/written", data)
    assert store.get("a/created") == store.get("a/written") == data
    assert type(store.get("a/created")) is bytes


@pytest.mark.parametrize("name", ["é", "日本 語.json", "100%25 #?*&+=", "a~b", "-", "x" * 255])
def test_any_readable_name_is_a_name(store, name):
    store.put_new(f"folder {name[:200]}/{name}", b"1")
    assert store.list("") == [f"folder {name[:200]}/{name}"]
    assert store.children("") == [f"folder {name[:200]}"]
    assert store.get(store.list("")[0]) == b"1"


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a\nb", "a\\b", "\ud800", "x" * 256]
)
def test_a_name_that_some_store_could_not_hold_is_refused_by_all(store, name):
    for attempt in (
        lambda: store.put(name, b""),
        lambda: store.put_new(name, b""),
        lambda: store.get(name),
        lambda: store.exists(name),
        lambda: store.delete(name),
    ):
        with pytest.raises(BadRequest, match="store path"):
            attempt()


def test_what_is_missing_is_not_found_and_the_error_names_it(store):
    with pytest.raises(NotFound, match="a/missing"):
        store.get("a/missing")
    assert not store.exists("a/missing")


def test_a_folder_is_no_object(store):
    store.put("a/b", b"")
    assert not store.exists("a")
    with pytest.raises(NotFound):
        store.get("a")


def test_below_an_object_there_is_nothing(store):
    store.put("a", b"")
    assert not store.exists("a/b")
    assert store.list("a") == []
    assert store.children("a") == []
    with pytest.raises(NotFound):
        store.get("a/b")


def test_creating_twice_is_a_conflict_and_changes_nothing(store):
    store.put_new("a", b"first")
    with pytest.raises(Conflict, match="a: another writer"):
        store.put_new("a", b"second")
    assert store.get("a") == b"first"


def test_putting_once_forgives_the_same_bytes_only(store):
    store.put_once("a", b"first")
    store.put_once("a", b"first")
    with pytest.raises(Conflict):
        store.put_once("a", b"second")


def test_putting_replaces(store):
    store.put("a", b"longer than the next")
    store.put("a", b"next")
    assert store.get("a") == b"next"


def test_deleting_twice_is_no_error(store):
    store.put("a/b", b"1")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert not store.exists("a/b")
    assert store.list("") == []


def test_a_folder_whose_objects_are_gone_is_no_child(store):
    store.put("a/b/c", b"")
    store.delete("a/b/c")
    assert store.children("a") == []
    assert store.children("") == []


def test_a_deleted_name_can_be_created_again(store):
    store.put_new("a", b"1")
    store.delete("a")
    store.put_new("a", b"2")
    assert store.get("a") == b"2"


def test_lists_are_sorted_and_end_where_the_folder_ends(store):
    for path in ("b/2", "b/10", "b/1/z", "ba/1", "a"):
        store.put(path, b"")
    assert store.list("b") == store.list("b/") == ["b/1/z", "b/10", "b/2"]
    assert store.list("") == ["a", "b/1/z", "b/10", "b/2", "ba/1"]
    assert store.list("missing") == []
    assert store.children("b") == ["1"]
    assert store.children("") == ["b", "ba"]
    assert store.children("missing") == []


def test_a_list_starts_behind_after(store):
    for number in range(5):
        store.put(f"log/{number:08d}", b"")
    assert store.list("log", after="log/00000002") == ["log/00000003", "log/00000004"]
    assert store.list("log", after="log/00000004") == []
    assert store.list("log", after="log") == store.list("log")


def test_a_list_is_whole_where_it_comes_in_pages(store):
    paths = [f"many/{number:04d}" for number in range(3 * bucket.PAGE + 1)]
    for path in paths:
        store.put(path, b"")
    assert store.list("many") == paths
    assert store.list("many", after=paths[4]) == paths[5:]


def test_of_racing_threads_exactly_one_creates(store):
    for attempt in range(5):
        path = f"race/{attempt}"
        results = in_threads(8, lambda number, path=path: store.put_new(path, b"%d" % number))
        won = [number for number, result in enumerate(results) if result is None]
        assert len(won) == 1
        assert all(isinstance(result, Conflict) for result in results if result is not None)
        assert store.get(path) == b"%d" % won[0]


def test_a_reader_never_sees_a_mixture_while_an_object_is_replaced(store):
    values = [bytes([letter]) * (200_000 + 1000 * letter) for letter in range(4)]
    store.put("a", values[0])
    done = threading.Event()

    def write(_):
        try:
            for turn in range(40):
                store.put("a", values[turn % 4])
        finally:
            done.set()

    def read(_):
        seen = 0
        while not done.is_set() or not seen:
            assert store.get("a") in values
            assert store.list("") == ["a"]
            seen += 1
        return seen

    results = in_threads(2, lambda number: (write, read)[number](number))
    assert results[1] > 0


def test_a_new_object_is_whole_from_the_moment_it_is_listed(store):
    data = b"x" * 300_000
    done = threading.Event()

    def write(_):
        try:
            for number in range(30):
                store.put_new(f"parts/{number:03d}", data)
        finally:
            done.set()

    def read(_):
        finished = False
        while not finished:
            finished = done.is_set()
            assert all(store.get(path) == data for path in store.list("parts")[-3:])

    in_threads(2, lambda number: (write, read)[number](number))
    assert len(store.list("parts")) == 30


def test_two_doors_to_one_store_see_the_same(store):
    store.put("a", b"1")
    other = open_store(store.url)
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301 - our own bytes
    assert other.url == copy.url == store.url
    assert other.get("a") == copy.get("a") == b"1"
    with pytest.raises(Conflict):
        copy.put_new("a", b"2")


@given(
    writes=st.lists(
        st.tuples(
            st.sampled_from("pnd"), st.sampled_from(["a", "b/c", "b/d", "b/e/f"]), st.binary()
        )
    )
)
def test_a_store_is_a_mapping_with_a_first_writer(tmp_path_factory, writes):
    for name in ("file", "memory"):
        store = OPEN[name](tmp_path_factory.mktemp("store"))
        model: dict[str, bytes] = {}
        for verb, path, data in writes:
            if verb == "p":
                store.put(path, data)
                model[path] = data
            elif verb == "d":
                store.delete(path)
                model.pop(path, None)
            elif path in model:
                with pytest.raises(Conflict):
                    store.put_new(path, data)
            else:
                store.put_new(path, data)
                model[path] = data
        assert {path: store.get(path) for path in store.list("")} == model
