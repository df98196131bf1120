"""What follows from the data where the spec says auto."""

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from hapredict.sections import TrainingSpec
from hapredict.training.rules import explodes, settle


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
