"""What is special about single stores; what all share is in tests/contract/test_stores.py."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import BadRequest, Conflict, CorruptBundle, StoreUnavailable, UnknownName
from hapredict.registry.store import decode_json, encode_json, open_store
from tests.support import bucket


def _race(url, number, start, results):
    store = open_store(url)
    start.wait()
    won = []
    for attempt in range(50):
        try:
            store.put_new(f"race/{attempt}", b"%d" % number * 1000)
            won.append(attempt)
        except Conflict:
            pass
    results.put((number, won))


def test_of_racing_processes_exactly_one_creates(tmp_path):
    context = multiprocessing.get_context("fork")  # importing again in each would take seconds
    start, results = context.Barrier(3), context.Queue()
    store = open_store(str(tmp_path))
    racers = [
        context.Process(target=_race, args=(store.url, number, start, results))
        for number in range(3)
    ]
    for racer in racers:
        racer.start()
    won = dict(results.get(timeout=10) for _ in racers)
    for racer in racers:
        racer.join()
    assert sorted(attempt for attempts in won.values() for attempt in attempts) == list(range(50))
    for number, attempts in won.items():
        assert all(store.get(f"race/{a}") == b"%d" % number * 1000 for a in attempts)


@pytest.fixture
def calls(monkeypatch):
    """System calls that bring data to the disk, in the order they are made."""
    made = []

    def noted(name, real):
        def call(*args, **kwargs):
            what = Path(f"/proc/self/fd/{args[0]}").readlink() if name == "fsync" else args[1]
            made.append((name, what.name))
            return real(*args, **kwargs)

        return call

    for name in ("fsync", "link"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    real_replace = Path.replace
    monkeypatch.setattr(Path, "replace", noted("replace", real_replace))
    return made


@pytest.mark.parametrize(("verb", "place"), [("put_new", "link"), ("put", "replace")])
def test_bytes_are_synced_before_they_get_their_name_and_the_folder_after(
    tmp_path, calls, verb, place
):
    store = open_store(str(tmp_path / "store"))
    store.put("folder/first", b"")
    calls.clear()
    getattr(store, verb)("folder/second", b"data")
    (synced, hidden), placed, folder = calls
    assert synced == "fsync"
    assert hidden.startswith(".")
    assert placed == (place, "second")
    assert folder == ("fsync", "folder")


def test_new_folders_are_synced_up_to_the_one_that_holds_the_store(tmp_path, calls):
    store = open_store(str(tmp_path / "store"))
    store.put("a/b/c", b"")
    synced = [name for call, name in calls if call == "fsync"]
    assert synced[:4] == ["b", "a", "store", tmp_path.name]


def test_a_store_whose_folder_was_removed_makes_it_again(tmp_path):
    store = open_store(str(tmp_path))
    store.put("a/b", b"1")
    (tmp_path / "a" / "b").unlink()
    (tmp_path / "a").rmdir()
    store.put("a/b", b"2")
    assert store.get("a/b") == b"2"


def test_nothing_hidden_is_left_or_listed(tmp_path):
    store = open_store(str(tmp_path))
    store.put_new("a/b", b"1")
    store.put("a/b", b"2")
    with pytest.raises(Conflict):
        store.put_new("a/b", b"3")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b"]
    (tmp_path / "a" / f".{os.getpid()}-7").write_bytes(b"left by a crash")
    assert store.list("") == ["a/b"]


def test_a_hidden_file_that_a_crash_left_stops_nobody(tmp_path):
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f".{os.getpid()}-{number}").write_bytes(b"half")
    store = open_store(str(tmp_path))
    store.put_new("a/b", b"whole")
    assert store.get("a/b") == b"whole"


def test_a_link_whose_answer_got_lost_counts_as_made(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    real_link = os.link

    def link(*args):
        real_link(*args)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link)
    store.put_new("a", b"mine")
    assert store.get("a") == b"mine"


def test_a_full_disk_is_a_temporary_trouble_and_leaves_the_old_bytes(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    store.put("a", b"old")

    def fsync(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    for write in (store.put, store.put_new):
        with pytest.raises(StoreUnavailable, match=r"a: could not .*No space left"):
            write("a", b"new")
    assert store.get("a") == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_store_below_a_file_is_unavailable(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailable, match="a/b: could not write it"):
        open_store(str(tmp_path / "file")).put("a/b", b"")


def test_a_path_becomes_an_absolute_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for url in ("my store", str(tmp_path / "my store"), f"file://{tmp_path}/my store"):
        store = open_store(url)
        assert store.url == f"file://{tmp_path}/my%20store"
        store.put("a", url.encode())
        assert (tmp_path / "my store" / "a").read_bytes() == url.encode()


@pytest.mark.parametrize("name", ["50% #1?", "日本", "a%20b"])
def test_a_path_of_any_letters_survives_becoming_a_url(tmp_path, name):
    store = open_store(str(tmp_path / name))
    store.put("a", b"")
    assert (tmp_path / name / "a").exists()
    assert open_store(store.url).url == store.url


@pytest.mark.parametrize("url", ["file://machine/path", "file://relative", "file://"])
def test_a_file_url_without_an_absolute_path_is_refused(url):
    with pytest.raises(BadRequest, match="expected file:///absolute/path"):
        open_store(url)


def test_an_unknown_scheme_is_told_with_the_known_ones():
    with pytest.raises(UnknownName, match="there is no store 'ftp'; known: file, memory"):
        open_store("ftp://machine/path")


def test_memory_stores_of_two_names_are_two():
    open_store("memory://test_store_1").put("a", b"")
    assert open_store("memory://test_store_1").exists("a")
    assert not open_store("memory://test_store_2").exists("a")


@pytest.fixture
def remote(monkeypatch):
    with bucket.serving() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        yield server, open_store("s3://bucket/here")


def test_a_bucket_that_fails_once_is_asked_again(remote):
    server, store = remote
    store.put("a", b"1")
    server.failures = 1
    assert store.get("a") == b"1"


def test_a_bucket_that_keeps_failing_is_unavailable_soon(remote):
    server, store = remote
    store.put("a", b"1")
    server.failures = 1000
    with pytest.raises(StoreUnavailable, match="a: could not read it in s3://bucket/here"):
        store.get("a")
    server.failures = 0
    assert store.get("a") == b"1"


def test_a_bucket_that_cannot_be_opened_is_unavailable():
    with pytest.raises(StoreUnavailable, match="could not open"):
        open_store("s3://")


# Few letters, each awkward in its way: hypothesis' table of all takes seconds to build.
text = st.text(st.sampled_from('a"\\/\x00\n\x7fé日\u2028\ud800\udc00\U0001f600'))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_json_comes_back_as_it_was(value):
    data = encode_json(value)
    assert decode_json(data, "here") == value
    assert encode_json(json.loads(data)) == data


def test_json_does_not_depend_on_the_order_of_keys():
    assert encode_json({"b": 1, "a": 2}) == encode_json({"a": 2, "b": 1}) == b'{"a":2,"b":1}'


def test_half_a_surrogate_is_text_too():
    assert decode_json(encode_json("\ud800"), "here") == "\ud800"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_not_written(value):
    with pytest.raises(ValueError, match="JSON"):
        encode_json({"a": [value]})


@pytest.mark.parametrize(
    "data", [b"", b"{", b"NaN", b"[Infinity]", b"\xff\xfe\x00", b"[" * 100_000, b"{} {}"]
)
def test_what_is_no_json_is_told_with_its_place(data):
    with pytest.raises(CorruptBundle, match=r"^catalog/m/00000001.json: is not JSON"):
        decode_json(data, "catalog/m/00000001.json")


def test_errors_of_a_store_survive_pickling(tmp_path):
    with pytest.raises(StoreUnavailable) as caught:
        open_store("s3://")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301
