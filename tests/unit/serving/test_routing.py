"""Who answers a key: decided alike everywhere, and never taken back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.serving.routing import Split, route, share_of

KEYS = st.lists(st.text(max_size=8), min_size=1, max_size=50)
SHARES = st.floats(0, 1)


def split(share, salt="orders/2", **others):
    return Split(1, 2, share, salt=salt, **others)


@given(KEYS, SHARES, SHARES)
def test_growing_the_share_moves_no_key_back(keys, one, two):
    low, high = sorted((one, two))
    before, after = route(keys, split(low)), route(keys, split(high))
    assert not (before & ~after).any()


@given(KEYS, SHARES)
def test_a_key_is_answered_alike_in_every_batch(keys, share):
    whole = route(keys, split(share))
    assert whole.tolist() == [route([key], split(share))[0] for key in keys]


@given(st.text(), st.text())
def test_every_key_has_a_place_from_0_to_1(key, salt):
    assert 0 <= share_of(key, salt) < 1


@given(KEYS)
def test_share_0_is_nobody_and_share_1_is_everybody(keys):
    assert not route(keys, split(0.0)).any()
    assert route(keys, split(1.0)).all()


@given(KEYS, SHARES)
def test_a_challenger_in_shadow_answers_nobody(keys, share):
    assert not route(keys, split(share, shadow=True)).any()
    assert not route(keys, Split(1)).any()


@given(st.integers(0, 1000), st.sampled_from([0.05, 0.1, 0.5]))
def test_about_that_share_of_keys_is_answered(seed, share):
    keys = [f"customer-{seed}-{i}" for i in range(2000)]
    count = route(keys, split(share)).sum()
    assert abs(count - 2000 * share) < 6 * math.sqrt(2000 * share * (1 - share))


def test_another_challenger_meets_other_keys():
    keys = [f"customer-{i}" for i in range(2000)]
    both = route(keys, split(0.5, "orders/2")) & route(keys, split(0.5, "orders/3"))
    assert 400 < both.sum() < 600


def test_what_a_key_hashes_to_never_changes():
    assert share_of("customer-1", "orders/2") == 0.028322778566820972


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(ValueError, match="share"):
        split(share)
