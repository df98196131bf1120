"""A client's retries are bounded, whatever happens and however fast."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.client import RetryBudget

steps = st.lists(
    st.tuples(st.floats(0, 3), st.sampled_from(["call", "retry", "retry", "retry"])), max_size=200
)


@given(
    steps=steps,
    share=st.floats(0, 1),
    spare=st.integers(0, 12),
    per_s=st.floats(0, 2),
)
def test_retries_are_at_most_a_share_of_the_calls_and_a_few(steps, share, spare, per_s):
    budget = RetryBudget(share=share, spare=spare, per_s=per_s)
    now_s = began_s = 50.0
    calls = retries = 0
    budget.called(now_s)
    for passed_s, what in steps:
        now_s += passed_s
        if what == "call":
            calls += 1
            budget.called(now_s)
        else:
            retries += budget.take(now_s)
        assert retries <= spare + share * calls + per_s * (now_s - began_s) + 1e-6


def test_a_few_retries_are_there_from_the_start_and_come_back():
    budget = RetryBudget(share=0.2, spare=3, per_s=0.5)
    budget.called(0.0)
    assert [budget.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not budget.take(1.9)
    assert budget.take(2.0)
    for _ in range(5):
        budget.called(2.0)
    assert budget.take(2.0)
    assert not budget.take(2.0)


def test_calm_saves_up_for_no_storm():
    budget = RetryBudget(share=0.2, spare=3, per_s=1.0)
    for second in range(1000):
        budget.called(float(second))
    assert sum(budget.take(999.0) for _ in range(100)) == 3


def test_a_clock_that_a_thread_read_late_does_no_harm():
    budget = RetryBudget(spare=1, per_s=1.0)
    assert budget.take(10.0)
    assert not budget.take(9.0)
    assert not budget.take(10.5)
    assert budget.take(11.0)


def test_a_negative_budget_is_refused():
    with pytest.raises(ValueError, match="not be negative"):
        RetryBudget(share=-0.1)
