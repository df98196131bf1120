import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.training.importance import importance_of

NAMES = ("a", "b", "c")


def table(rows=400, seed=0):
    chance = np.random.default_rng(seed)
    found = {name: chance.normal(size=rows) for name in NAMES}
    return {**found, "id": np.array([f"row {row}" for row in range(rows)], object)}


def weighted(**weights):
    def score(given):
        return sum(weight * given[name] for name, weight in weights.items())[:, None]

    return score


@given(st.lists(st.floats(0, 10), min_size=3, max_size=3), st.integers(0, 5))
def test_shares_sum_to_one_and_follow_what_a_linear_model_uses(weights, seed):
    found = importance_of(weighted(**dict(zip(NAMES, weights, strict=True))), table(), NAMES, seed)
    assert tuple(found) == NAMES
    assert sum(found.values()) == pytest.approx(1)
    total = sum(weights)
    if total > 1e-6:
        expected = [weight / total for weight in weights]
        assert list(found.values()) == pytest.approx(expected, abs=0.05)


def test_what_the_model_does_not_use_has_no_share():
    assert importance_of(weighted(a=1.0), table(), NAMES, 1) == {"a": 1.0, "b": 0.0, "c": 0.0}


def test_where_nothing_moves_all_are_alike():
    for rows in (0, 1, 50):
        found = importance_of(lambda given: np.zeros((len(given["a"]), 1)), table(rows), NAMES, 1)
        assert set(found.values()) == {1 / 3}
    assert importance_of(weighted(a=1.0), table(), (), 1) == {}


def test_the_same_seed_gives_the_same_shares():
    one, two = (importance_of(weighted(a=1.0, b=1.0), table(), NAMES, 7) for _ in range(2))
    assert one == two
