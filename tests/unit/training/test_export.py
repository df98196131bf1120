"""What an export is measured by: places that move, and rows that would show a difference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.training.export import hard_rows, rank_shift
from tests.support.learnable import learnable

BINARY = learnable("binary", 10)[0]
CHANCE = np.random.default_rng(5)


def scores_of(logits):
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))[:, None]


@settings(max_examples=50)
@given(st.lists(st.floats(-25, 25), min_size=1, max_size=200))
def test_rounding_to_float32_moves_nobody(logits):
    scores = scores_of(logits)
    assert rank_shift(BINARY, scores, scores.astype(np.float32)) == 0


@pytest.mark.parametrize("base", [-12.0, 0.0, 8.0])
def test_a_row_that_jumps_is_found_whether_scores_are_large_or_small(base):
    logits = base + np.linspace(-1, 1, 1000)
    moved = logits.copy()
    moved[100] = logits[400] + 1e-4
    found = rank_shift(BINARY, scores_of(logits), scores_of(moved))
    assert found == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("step", [1e-6, 1e-7])
def test_scores_that_become_equal_have_moved(step):
    scores = scores_of(-12 + np.linspace(-1, 1, 1000))
    coarse = np.round(scores / step) * step
    assert np.abs(coarse - scores).max() < 1e-6
    assert rank_shift(BINARY, scores, coarse) > 0.004


def test_rows_that_were_equal_may_stand_in_any_order():
    scores = scores_of(np.repeat([0.0, 1.0], 500))
    noise = CHANCE.normal(size=(1000, 1)) * 1e-8
    assert rank_shift(BINARY, scores, scores + noise) == 0


def test_each_class_has_an_order_of_its_own():
    shape = learnable("multiclass", 10)[0]
    scores = CHANCE.dirichlet(np.ones(3), 500)
    swapped = scores[:, [0, 2, 1]]
    assert rank_shift(shape, scores, scores) == 0
    assert rank_shift(shape, scores, swapped) > 0.5


def test_the_places_of_a_regression_go_by_the_scale_of_its_labels():
    shape = learnable("regression", 10)[0]
    values = 500 + shape.label_scale * CHANCE.normal(size=(500, 1))
    assert rank_shift(shape, values, values + 1e-5 * shape.label_scale) == 0
    assert rank_shift(shape, values, -values) > 0.9


def test_hard_rows_show_each_thing_that_breaks_arithmetic():
    rows = hard_rows(BINARY)
    values, missing = rows.numbers[:, :3], rows.numbers[:, 3:]
    assert np.isfinite(rows.numbers).all()
    assert (np.abs(values) > 1e8).any()
    assert ((values != 0) & (np.abs(values) < 1e-38)).any()
    assert missing.all(axis=1).any()
    assert (missing.any(axis=1) & ~missing.all(axis=1)).any()
    assert (values[missing == 1] == 0).all()
    edges = np.array(BINARY.edges[0], np.float32)
    beside = [np.nextafter(edges, np.float32(to)) for to in (np.inf, -np.inf)]
    for wanted in (edges, *beside):
        assert np.isin(values[:, 0], wanted).any()
    for place, codes in enumerate(BINARY.levels):
        found = set(rows.categories[:, place].tolist())
        assert {0, 1, codes - 1} <= found <= set(range(codes))
