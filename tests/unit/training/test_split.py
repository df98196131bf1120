"""Where judging begins, told from summaries: exactly what sorting all rows would say."""

import functools
import itertools
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.data.rows import cut
from hapredict.errors import DataError
from hapredict.training import split
from hapredict.training.network import Examples
from hapredict.training.split import (
    SHARD_BYTES_MAX,
    Orders,
    add_counted,
    by_hash,
    counted_within,
    row_hashes,
    sampled,
    shard_count,
    shard_of,
    spread,
)

VALUES = st.one_of(
    st.integers(0, 5).map(float),
    st.floats(-1e12, 1e12, allow_nan=False),
    st.floats(1.7e9, 1.71e9),
)
SHARES = st.floats(0.05, 0.45)


def blocks_of(order, cuts):
    places = [0, *sorted(place % (len(order) + 1) for place in cuts), len(order)]
    return [order[start:stop] for start, stop in itertools.pairwise(places)]


def summary_of(blocks):
    return functools.reduce(operator.add, map(Orders.of, blocks), Orders())


def cut_by_summaries(blocks, shares):
    orders = summary_of(blocks)
    within = [
        functools.reduce(add_counted, [counted_within(block, *ends) for block in blocks])
        for ends in orders.between(*shares)
    ]
    return orders.cut(*shares, within)


def told(work):
    try:
        return work()
    except DataError as error:
        return str(error)


@settings(max_examples=60)
@given(
    st.lists(VALUES, min_size=1, max_size=80).map(np.array),
    st.lists(st.integers(0, 100), max_size=4),
    SHARES,
    SHARES,
    st.sampled_from([0, 10, 1000]),
)
def test_the_cut_is_that_of_all_rows_however_few_are_looked_at(order, cuts, one, other, exact):
    blocks = blocks_of(order, cuts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "EXACT_ROWS", exact)
        found = told(lambda: cut_by_summaries(blocks, (one, other)))
    assert found == told(lambda: cut(order, one, other))


def test_of_many_rows_only_a_histogram_is_kept(monkeypatch):
    monkeypatch.setattr(split, "EXACT_ROWS", 1000)
    order = np.random.default_rng(0).random(20_000)
    blocks = np.array_split(order, 40)
    orders = summary_of(blocks)
    assert orders.values is None
    assert (orders.rows, orders.first, orders.last) == (20_000, order.min(), order.max())
    asked = [counted_within(order, *ends)[0] for ends in orders.between(0.1, 0.1)]
    assert all(0 < len(values) < 100 for values in asked)
    assert cut_by_summaries(blocks, (0.1, 0.1)) == cut(order, 0.1, 0.1)


def test_no_row_cannot_be_split():
    with pytest.raises(DataError, match="no row is left"):
        Orders().cut(0.1, 0.1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(1, 200))
def test_rows_are_spread_evenly_however_they_are_cut_into_blocks(sizes, most):
    total = sum(sizes)
    starts = np.cumsum([0, *sizes]).tolist()
    picked = [
        start + place
        for start, size in zip(starts, sizes, strict=False)
        for place in spread(start, size, total, most).tolist()
    ]
    assert picked == spread(0, total, total, most).tolist()
    assert len(picked) == min(total, most)
    gaps = np.diff(picked)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def examples_of(rows, seed=0):
    chance = np.random.default_rng(seed)
    return Examples(
        (chance.random((rows, 4)) < 0.5).astype(np.float32),
        chance.integers(0, 3, (rows, 2), dtype=np.int32),
        (chance.random(rows) < 0.5).astype(np.float32),
    )


class TestHashes:
    @given(st.integers(1, 3000), st.integers(0, 2**31))
    @settings(max_examples=20)
    def test_a_row_has_the_same_hashes_wherever_it_stands(self, rows, seed):
        examples, order = examples_of(rows, seed), np.arange(rows, dtype=np.float64)
        ids = np.arange(rows, dtype=np.uint64)
        index = np.random.default_rng(seed).permutation(rows)[: rows // 2 + 1]
        found = row_hashes(examples, order, ids)
        assert found[index].tolist() == (
            row_hashes(examples.take(index), order[index], ids[index]).tolist()
        )

    def test_different_rows_have_different_hashes(self):
        rows = 20_000
        examples, order = examples_of(rows), np.repeat(np.arange(rows / 2), 2)
        same = row_hashes(examples, order)
        content = np.column_stack(
            [examples.numbers, examples.categories, examples.labels[:, None], order]
        )
        assert len(np.unique(same, axis=0)) == len(np.unique(content, axis=0))
        named = row_hashes(examples, order, np.arange(rows, dtype=np.uint64))
        assert len(np.unique(named, axis=0)) == rows

    def test_hashes_spread_evenly_over_shards_even_of_rows_that_differ_little(self):
        rows = 40_000
        blank = Examples(
            np.zeros((rows, 0), np.float32),
            np.zeros((rows, 0), np.int32),
            np.zeros(rows, np.float32),
        )
        hashes = row_hashes(blank, np.arange(rows, dtype=np.float64))
        for count in (1, 7, 32):
            filled = np.bincount(shard_of(hashes, count), minlength=count)
            assert len(filled) == count
            assert abs(filled - rows / count).max() < 5 * (rows / count) ** 0.5

    def test_shards_follow_each_other_in_the_order_of_hashes(self):
        hashes = row_hashes(examples_of(500), np.arange(500.0))
        assert (np.diff(shard_of(hashes, 9)[by_hash(hashes)]) >= 0).all()

    @given(st.integers(1, 3000), st.integers(1, 400))
    @settings(max_examples=30)
    def test_a_sample_holds_the_lowest_hashes(self, rows, most):
        hashes = row_hashes(examples_of(rows), np.arange(rows, dtype=np.float64))
        kept = sampled(hashes, rows, most)
        assert kept.sum() >= min(rows, most)
        assert set(by_hash(hashes)[:most].tolist()) <= set(np.flatnonzero(kept).tolist())
        assert kept.sum() <= most + 15 * most**0.5 + 100

    def test_a_sample_is_not_too_small_even_where_next_to_nothing_is_asked_for(self):
        hashes = row_hashes(examples_of(500_000), np.arange(500_000.0))
        for most in (1, 2, 5, 20):
            sizes = [sampled(part, 100, most).sum() for part in hashes.reshape(5000, 100, 2)]
            assert most <= min(sizes)


@given(st.integers(0, 10**13))
def test_shards_grow_in_number_and_then_keep_their_size(total):
    count = shard_count(total)
    assert count >= 1
    assert total / count <= SHARD_BYTES_MAX
    assert count == 1 or total / count >= 8 << 20
