"""What follows from the data where the spec says auto."""

from math import ceil

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hapredict.sections import TrainingSpec
from hapredict.training.rules import explodes, mean_shares, settle


@given(st.integers(1, 10**9))
def test_auto_becomes_numbers_that_make_a_training(rows):
    spec = settle(TrainingSpec(), rows)
    assert isinstance(spec.batch_rows, int)
    assert spec.batch_rows >= 1
    assert 0 < spec.learning_rate < 0.1
    assert 1 <= spec.epochs_max <= 1000


@given(st.integers(1, 10**7), st.integers(1, 10**7))
def test_more_rows_never_make_a_smaller_batch_or_more_passes(one, other):
    few, many = sorted((one, other))
    small, large = settle(TrainingSpec(), few), settle(TrainingSpec(), many)
    assert small.batch_rows <= large.batch_rows
    assert small.learning_rate <= large.learning_rate
    assert ceil(few / small.batch_rows) <= ceil(many / large.batch_rows) * 2


@given(st.integers(1, 10**6))
def test_what_the_spec_says_stays(rows):
    said = TrainingSpec(batch_rows=7, learning_rate=0.5, epochs_max=3)
    assert settle(said, rows) == said


def test_a_larger_batch_of_the_users_gets_a_larger_step_by_the_square_root():
    small = settle(TrainingSpec(batch_rows=256), 10**5)
    large = settle(TrainingSpec(batch_rows=1024), 10**5)
    assert large.learning_rate == 2 * small.learning_rate


def test_a_loss_explodes_when_it_leaves_its_past_far_behind():
    assert not explodes(0.7, [])
    assert not explodes(3.0, [0.7, 0.1])
    assert explodes(11.0, [0.7, 0.1])
    assert explodes(float("nan"), [])
    assert explodes(float("inf"), [0.7])


def mean_of(values, steps_an_epoch):
    mean = -1e6  # what the weights were before all steps
    for value, share in zip(
        values, mean_shares(np.arange(len(values)), steps_an_epoch), strict=True
    ):
        mean += share * (value - mean)
    return mean


@given(st.integers(1, 400), st.integers(1, 200))
def test_the_mean_of_the_weights_holds_nothing_from_before_the_first_step(steps, steps_an_epoch):
    assert abs(mean_of(np.full(steps, 3.0), steps_an_epoch) - 3.0) < 1e-6


def test_the_mean_of_the_weights_lags_a_pass_behind_and_a_tenth_of_the_steps_at_first():
    steps = np.arange(5000)
    lag = [steps[count] - mean_of(steps[: count + 1], 400) for count in (100, 1000, 4999)]
    assert 5 < lag[0] < 15
    assert 80 < lag[1] < 120
    assert 350 < lag[2] < 420


def test_the_mean_of_the_weights_goes_on_where_it_stopped():
    whole = mean_shares(np.arange(50), 20)
    parts = [mean_shares(np.arange(30), 20), mean_shares(np.arange(30, 50), 20)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
