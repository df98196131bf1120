"""In which order rows are learned from: each once, in windows, the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.training import feed
from hapredict.training.feed import Resident, plan_windows, window_rows
from hapredict.training.network import Examples

PIECE = 8
SEEDS = st.integers(0, 2**31)


@pytest.fixture(autouse=True)
def _short_pieces(monkeypatch):
    monkeypatch.setattr(feed, "PIECE_ROWS", PIECE)


ROWS = st.integers(1, 40 * PIECE)
SHUFFLED = st.integers(1, 50 * PIECE)


def plans(rows, shuffled, seed=0, epoch=0):
    return list(plan_windows(rows, shuffled, seed=seed, epoch=epoch))


class TestPlanWindows:
    @given(ROWS, SHUFFLED, SEEDS, st.integers(0, 5))
    def test_each_row_is_learned_from_once_an_epoch(self, rows, shuffled, seed, epoch):
        seen = np.concatenate([plan.rows for plan in plans(rows, shuffled, seed, epoch)])
        assert sorted(seen.tolist()) == list(range(rows))

    @given(ROWS, SHUFFLED, SEEDS)
    def test_windows_have_the_same_sizes_in_every_epoch(self, rows, shuffled, seed):
        for epoch in range(3):
            sizes = tuple(len(plan.rows) for plan in plans(rows, shuffled, seed, epoch))
            assert sizes == window_rows(rows, shuffled)

    @given(ROWS, st.integers(PIECE, 50 * PIECE))
    def test_a_window_has_at_most_a_piece_more_than_asked_for(self, rows, shuffled):
        sizes = window_rows(rows, shuffled)
        assert sum(sizes) == rows
        assert max(sizes) < shuffled + PIECE

    @given(ROWS, SHUFFLED, SEEDS)
    def test_the_same_seed_and_epoch_give_the_same_order(self, rows, shuffled, seed):
        once, again = plans(rows, shuffled, seed, 1), plans(rows, shuffled, seed, 1)
        assert [plan.rows.tolist() for plan in once] == [plan.rows.tolist() for plan in again]
        assert [plan.pieces for plan in once] == [plan.pieces for plan in again]

    @given(st.integers(20 * PIECE, 40 * PIECE), st.integers(PIECE, 50 * PIECE), SEEDS)
    def test_another_seed_or_epoch_gives_another_order(self, rows, shuffled, seed):
        def order(seed, epoch):
            return np.concatenate([p.rows for p in plans(rows, shuffled, seed, epoch)]).tolist()

        assert order(seed, 0) != order(seed, 1)
        assert order(seed, 0) != order(seed + 1, 0)

    @given(ROWS, SHUFFLED, SEEDS)
    def test_what_is_read_for_a_window_is_what_is_learned_from(self, rows, shuffled, seed):
        for plan in plans(rows, shuffled, seed):
            read = np.concatenate([np.arange(*piece) for piece in plan.pieces])
            assert sorted(plan.order.tolist()) == list(range(len(read)))
            assert sorted(plan.rows.tolist()) == sorted(read.tolist())

    def test_large_data_are_read_in_long_pieces(self):
        for plan in plans(100 * PIECE, 10 * PIECE):
            assert all(stop - start == PIECE for start, stop in plan.pieces)


def test_rows_in_memory_are_never_copied():
    numbers = np.arange(200, dtype=np.float32).reshape(100, 2)
    examples = Examples(numbers, np.zeros((100, 0), np.int32), np.zeros(100, np.float32))
    held = Resident(examples, 3 * PIECE)
    windows = list(held.windows(seed=1, epoch=2))
    assert all(window.examples is examples for window in windows)
    assert tuple(len(window.rows) for window in windows) == held.window_rows
    assert [window.rows.tolist() for window in windows] == [
        plan.rows.tolist() for plan in plans(100, 3 * PIECE, 1, 2)
    ]
