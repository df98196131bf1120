"""Checkpoints are whole or not there, and a damaged one is set aside for the one before."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import TrainingFailed
from hapredict.training.fitted import State
from hapredict.training.ray_checkpoints import Checkpoint, Checkpoints, Writer


def checkpoint(epoch, workers=2, threads=1):
    arrays = (np.full(5, epoch, np.float32),)
    state = State("task", epoch, epoch, 0.5, (), arrays, arrays, arrays)
    return Checkpoint(epoch, workers, threads, state.to_bytes())


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(str(tmp_path), "a run", 3)


def files(tmp_path, ending):
    return sorted((tmp_path / "a run").glob(f"*.{ending}"))


def test_nothing_is_there_at_first(checkpoints):
    assert checkpoints.newest() == (None, ())


def test_the_newest_comes_back_as_it_was_and_only_some_are_kept(checkpoints, tmp_path):
    for epoch in range(1, 8):
        checkpoints.save(checkpoint(epoch, workers=epoch, threads=4))
    assert checkpoints.newest() == (checkpoint(7, workers=7, threads=4), ())
    assert [file.name[:8] for file in files(tmp_path, "state")] == [f"{n:08}" for n in (5, 6, 7)]


@given(cut=st.integers(0, 2000), flip=st.integers(0, 7), keep=st.booleans())
def test_any_damage_is_seen(tmp_path_factory, cut, flip, keep):
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(str(folder), "a run", 3)
    for epoch in (1, 2):
        checkpoints.save(checkpoint(epoch))
    (newest,) = (folder / "a run").glob("00000002*")
    raw = bytearray(newest.read_bytes())
    place = cut % len(raw)
    if keep:
        raw[place] ^= 1 << flip
    else:
        del raw[place:]
    newest.write_bytes(raw)
    assert checkpoints.newest() == (checkpoint(1), ("00000002-2-1.damaged",))
    assert checkpoints.newest() == (checkpoint(1), ())


def test_if_all_are_damaged_there_is_none(checkpoints, tmp_path):
    for epoch in (1, 2, 3):
        checkpoints.save(checkpoint(epoch))
    for file in files(tmp_path, "state"):
        file.write_bytes(b"")
    found, damaged = checkpoints.newest()
    assert found is None
    assert len(damaged) == len(files(tmp_path, "damaged")) == 3


def test_a_write_that_was_cut_short_is_never_seen(checkpoints, tmp_path):
    checkpoints.save(checkpoint(1))
    (tmp_path / "a run" / ".00000002-2-1.state").write_bytes(b"half")
    assert checkpoints.newest() == (checkpoint(1), ())


def test_a_node_that_does_not_see_the_storage_says_so(checkpoints):
    with pytest.raises(TrainingFailed, match=r"does not reach .*a run; the store .* must be"):
        checkpoints.check_reach()


class Slow:
    """Storage that takes as long as it is told to."""

    def __init__(self):
        self.saved = []
        self.begun, self.go = threading.Event(), threading.Event()

    def save(self, checkpoint):
        self.begun.set()
        self.go.wait(10)
        if checkpoint.epoch == 3:
            raise OSError("the disk is full")
        self.saved.append(checkpoint.epoch)


def test_training_does_not_wait_for_storage_and_the_last_epoch_is_saved_in_any_case():
    storage, told = Slow(), []
    writer = Writer(storage, lambda *what: told.append(what))
    writer.put(checkpoint(1))
    assert storage.begun.wait(10)
    for epoch in (2, 3, 4):
        writer.put(checkpoint(epoch))
    storage.go.set()
    writer.close()
    assert storage.saved == [1, 4]
    assert told == [(1, ""), (4, "")]


def test_storage_that_fails_is_told_and_the_next_checkpoint_is_tried():
    storage, told = Slow(), []
    storage.go.set()
    writer = Writer(storage, lambda *what: told.append(what))
    writer.put(checkpoint(3))
    while not told:
        storage.begun.wait(0.01)
    writer.put(checkpoint(4))
    writer.close()
    assert told == [(3, "OSError: the disk is full"), (4, "")]
