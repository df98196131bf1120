"""What is appended to the spool outlives its owner, whole, and is never two replicas' at once."""

import os
import subprocess
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.serving.spool import Spool

RECORDS = st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=8)


def die(spool):
    """What SIGKILL leaves: files as they are, and no lock."""
    if spool._file is not None:
        os.close(spool._file)
    os.close(spool._lock)


def adopted(spool):
    found = []

    def ship(file):
        found.append((file.source, file.seq, list(file.records())))
        file.delete()

    spool.adopt(ship)
    return found


@given(RECORDS, st.binary(max_size=40))
def test_records_are_read_up_to_a_torn_one(tmp_path_factory, records, torn):
    directory = tmp_path_factory.mktemp("spool")
    spool = Spool(directory, "a")
    for record in records:
        spool.append(record)
    with (directory / "a.00000001.spool").open("ab") as file:
        whole = len(torn).to_bytes(4, "little") + zlib.crc32(torn).to_bytes(4, "little") + torn
        file.write(whole[:-1])
    spool.seal()
    (sealed,) = spool.sealed()
    assert list(sealed.records()) == records
    spool.close()


def test_zeros_that_a_power_cut_leaves_are_no_records(tmp_path):
    spool = Spool(tmp_path, "a")
    spool.append(b"one")
    with (tmp_path / "a.00000001.spool").open("ab") as file:
        file.write(b"\0" * 64)
    spool.seal()
    assert list(spool.sealed()[0].records()) == [b"one"]


def test_each_seal_begins_the_next_part(tmp_path):
    spool = Spool(tmp_path, "a")
    spool.seal()
    assert spool.waiting == 0
    for record in (b"one", b"two"):
        spool.append(record)
        assert spool.waiting == 1 + len(spool.sealed())
        spool.seal()
    assert [(f.seq, list(f.records())) for f in spool.sealed()] == [(1, [b"one"]), (2, [b"two"])]


def test_a_file_is_sealed_when_it_is_large(tmp_path):
    spool = Spool(tmp_path, "a", bytes_max=100)
    for _ in range(3):
        spool.append(b"x" * 60)
    assert [file.seq for file in spool.sealed()] == [1]
    assert spool.waiting == 2


def test_a_record_that_the_disk_refuses_can_be_appended_again(tmp_path, monkeypatch):
    spool = Spool(tmp_path, "a")
    spool.append(b"one")
    write, calls = os.write, []

    def full(file, data):
        calls.append(data)
        if len(calls) == 1:
            return write(file, data[:5])
        raise OSError("no space left")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        spool.append(b"two")
    monkeypatch.setattr(os, "write", write)
    spool.append(b"two")
    spool.seal()
    assert [list(file.records()) for file in spool.sealed()] == [[b"one"], [b"two"]]


def test_a_living_owner_keeps_its_files(tmp_path):
    owner, other = Spool(tmp_path, "a"), Spool(tmp_path, "b")
    owner.append(b"one")
    owner.seal()
    assert adopted(other) == []
    assert len(owner.sealed()) == 1


def test_a_dead_owners_files_are_adopted_once_and_oldest_first(tmp_path):
    owner, other, third = (Spool(tmp_path, name) for name in "abc")
    owner.append(b"one")
    owner.seal()
    owner.append(b"two")
    die(owner)
    assert adopted(other) == [("a", 1, [b"one"]), ("a", 2, [b"two"])]
    assert adopted(third) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.lock", "c.lock"]


def test_a_process_that_is_killed_leaves_what_it_appended(tmp_path):
    program = (
        "import pathlib, sys\n"
        "from hapredict.serving.spool import Spool\n"
        "spool = Spool(pathlib.Path(sys.argv[1]), 'victim')\n"
        "spool.append(b'one')\n"
        "spool.append(b'two')\n"
        "print('appended', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    heir = Spool(tmp_path, "heir")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as victim:
        assert victim.stdout.readline() == b"appended\n"
        assert adopted(heir) == []
        victim.kill()
        victim.wait()
        assert adopted(heir) == [("victim", 1, [b"one", b"two"])]


def test_nobody_adopts_what_another_one_is_adopting(tmp_path):
    owner, other, third = (Spool(tmp_path, name) for name in "abc")
    owner.append(b"one")
    die(owner)
    seen = []
    other.adopt(lambda file: seen.append((file.seq, adopted(third))))
    assert seen == [(1, [])]
    assert adopted(third) == [("a", 1, [b"one"])]


def test_an_adoption_that_fails_leaves_the_files_to_the_next_one(tmp_path):
    owner, other = Spool(tmp_path, "a"), Spool(tmp_path, "b")
    owner.append(b"one")
    die(owner)

    def fails(file):
        raise OSError(file.path)

    with pytest.raises(OSError, match="spool"):
        other.adopt(fails)
    assert adopted(other) == [("a", 1, [b"one"])]


def test_closing_leaves_nothing_behind_but_what_was_not_shipped(tmp_path):
    Spool(tmp_path, "a").close()
    assert list(tmp_path.iterdir()) == []
    spool = Spool(tmp_path, "b")
    spool.append(b"one")
    spool.close()
    with pytest.raises(OSError, match="closed"):
        spool.append(b"two")
    assert adopted(Spool(tmp_path, "c")) == [("b", 1, [b"one"])]


@pytest.mark.parametrize("source", ["", "a.b", "a/b", "../a", "a" * 101, "é"])
def test_a_source_that_is_no_name_of_a_file_is_refused(tmp_path, source):
    with pytest.raises(ValueError, match="source"):
        Spool(tmp_path, source)
