"""Workers of one node add up in memory that they share."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from hapredict.training.keras_reduce import _Meeting, shared_memory

SIZE = 1001


def together(workers, work):
    """What each of so many threads made of its rank."""
    found = [None] * workers

    def keep(rank):
        found[rank] = work(rank)

    threads = [threading.Thread(target=keep, args=(rank,)) for rank in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found


def vector(rank, round_):
    return np.random.default_rng([rank, round_]).normal(size=SIZE).astype(np.float32)


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_all_get_the_same_bits_of_the_sum_in_each_round(tmp_path, workers):
    def work(rank):
        meeting = _Meeting(tmp_path / "meeting", rank, workers, SIZE)
        # one is late each time, another one each time
        sums = []
        for round_ in range(30):
            if round_ % workers == rank:
                threading.Event().wait(0.002)
            sums.append(meeting.add_up(vector(rank, round_)))
        return np.stack(sums)

    found = together(workers, work)
    expected = [sum(vector(rank, round_) for rank in range(workers)) for round_ in range(30)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-6)
    for other in found[1:]:
        assert found[0].tobytes() == other.tobytes()


def test_nothing_is_left_in_the_folder_once_all_have_met(tmp_path):
    together(2, lambda rank: _Meeting(tmp_path / "meeting", rank, 2, SIZE))
    assert list(tmp_path.iterdir()) == []


def test_vectors_of_several_sizes_are_added_up_apart(tmp_path):
    def work(rank):
        add_up = shared_memory(tmp_path / "meeting", rank, 2)
        return [add_up(tf.fill([size], float(rank + 1))).numpy() for size in (3, 7, 3)]

    for sums in together(2, work):
        assert [part.tolist() for part in sums] == [[3.0] * 3, [3.0] * 7, [3.0] * 3]
