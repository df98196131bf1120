"""Fitting alone and as one of several, stopping and going on."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import TrainingFailed
from hapredict.training.feed import Resident, plan_windows
from hapredict.training.finish import Finish
from hapredict.training.fitted import State, pack_arrays, unpack_arrays
from hapredict.training.keras_export import logits
from hapredict.training.keras_families import build
from hapredict.training.keras_fit import cut_batches, fit
from hapredict.training.keras_step import Stepper
from hapredict.training.metrics import constant_scores, evaluate, losses
from hapredict.training.network import Examples
from tests.support.learnable import SPEC, learnable, split


def fitted(shape, spec, train, validation, **more):
    reports = []
    feed = Resident(train, spec.shuffle_rows)
    found = fit(shape, spec, feed, validation, on_epoch=reports.append, **more)
    return found, reports


def together(shape, spec, train, validation, workers):
    """Fits with workers that are threads, their vectors added up between two barriers."""
    barrier = threading.Barrier(workers, timeout=120)
    vectors, found = [None] * workers, [None] * workers

    def adding(rank):
        def add_up(vector):
            vectors[rank] = vector.numpy()
            barrier.wait()
            total = np.sum(vectors, axis=0)
            barrier.wait()
            return tf.constant(total)

        return add_up

    def work(rank):
        parts = {"reduce": adding(rank), "rank": rank, "workers": workers}
        found[rank], _ = fitted(shape, spec, train, validation, **parts)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(workers)]
    # compiled, they would wait for each other within TensorFlow's few threads
    tf.config.run_functions_eagerly(True)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        tf.config.run_functions_eagerly(False)
    return found


def largest_difference(one, other):
    pairs = zip(unpack_arrays(one.weights), unpack_arrays(other.weights), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


@settings(max_examples=60)
@given(
    st.integers(1, 400),
    st.integers(1, 130),
    st.integers(1, 5),
    st.integers(0, 9),
    st.integers(1, 9),
)
def test_each_row_is_taken_once_an_epoch_whatever_the_workers(rows, batch, workers, seed, epoch):
    (window,) = plan_windows(rows, rows, seed=seed, epoch=epoch)
    parts = [cut_batches(window.rows, batch, rank=rank, workers=workers) for rank in range(workers)]
    index = np.concatenate([part[0] for part in parts], axis=1)
    weight = np.concatenate([part[1] for part in parts], axis=1)
    count = parts[0][2]
    assert sorted(index[weight > 0]) == list(range(rows))
    assert (count <= batch).all()
    assert count.sum() == rows
    np.testing.assert_allclose(weight.sum(axis=1), 1, rtol=1e-5)
    alone, alone_weight, _ = cut_batches(window.rows, batch, rank=0, workers=1)
    for step in range(len(index)):
        assert set(index[step][weight[step] > 0]) == set(alone[step][alone_weight[step] > 0])


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_fit_learns_more_than_the_constant(task):
    shape, examples = learnable(task, 2000)
    train, validation = split(examples)
    found, reports = fitted(shape, SPEC.model_copy(update={"epochs_max": 12}), train, validation)
    scores = Finish().scores(shape, logits(shape, SPEC, found.weights, validation))
    base = constant_scores(task, train.labels, validation.rows, shape.outputs)
    scale = shape.label_scale * 4
    learned = losses(task, validation.labels, scores, scale).mean()
    assert learned < 0.9 * losses(task, validation.labels, base, scale).mean()
    assert [report.epoch for report in reports] == list(range(1, 13))
    assert found.best_epoch == 1 + np.argmin([report.validation_loss for report in reports])
    assert evaluate(task, validation.labels, scores)


def test_the_same_seed_gives_the_same_bits_and_another_seed_gives_others():
    shape, examples = learnable()
    train, validation = split(examples)
    one, _ = fitted(shape, SPEC, train, validation)
    same, _ = fitted(shape, SPEC, train, validation)
    other, _ = fitted(shape, SPEC.model_copy(update={"seed": 4}), train, validation)
    assert one.weights == same.weights
    assert one.weights != other.weights


def test_a_fit_that_resumes_after_any_epoch_ends_in_the_same_bits():
    shape, examples = learnable("multiclass")
    train, validation = split(examples)
    whole, reports = fitted(shape, SPEC, train, validation)
    for done, report in enumerate(reports, start=1):
        resumed, later = fitted(shape, SPEC, train, validation, resume=report.checkpoint)
        assert resumed.weights == whole.weights
        assert resumed.best_epoch == whole.best_epoch
        assert len(resumed.history) == len(whole.history)
        assert len(later) == SPEC.epochs_max - done


def standard(shape, examples):
    return (examples.labels - shape.label_mean) / np.float32(shape.label_scale)


def stepped(shape, spec, examples, shares, at_once):
    """A network after as many steps as there are shares, at once or one a call."""
    stepper = Stepper(build(shape, spec), shape, spec, reduce=None, workers=1, micro_batches=1)
    data = (examples.numbers, examples.categories, standard(shape, examples))
    steps, after = len(shares), []
    index = np.arange(examples.rows, dtype=np.int32).reshape(steps, -1)
    weight = np.full(index.shape, 1 / index.shape[1], np.float32)
    chance, rates = np.zeros((steps, 2), np.int64), np.full(steps, 0.01)
    each = steps if at_once else 1
    for first in range(0, steps, each):
        now = slice(first, first + each)
        stepper.run(
            data, (index[now], weight[now]), chance[now], rates[now], shares[now], first_step=first
        )
        after.append(np.concatenate([part.ravel() for part in stepper.weights()]))
    return stepper, after, stepper.judged(data, np.ones(examples.rows, np.float32))


def test_the_mean_holds_the_weights_after_each_step_by_their_shares():
    shape, examples = learnable("regression", rows=96)
    shares = np.array([1.0, 0.5, 0.5, 0.25, 0.0, 0.75])
    once, _, _ = stepped(shape, SPEC, examples, shares, at_once=True)
    _, after, _ = stepped(shape, SPEC, examples, shares, at_once=False)
    mean = np.zeros_like(after[0])
    for share, weights in zip(shares, after, strict=True):
        mean += share * (weights - mean)
    np.testing.assert_allclose(once.memory()[2], mean, atol=1e-6)


def test_the_last_weights_or_their_mean_are_kept_whichever_judges_lower():
    shape, examples = learnable("regression", rows=96)
    last = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    first = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    _, after, (low, found) = stepped(shape, SPEC, examples, last, at_once=True)
    _, _, (lower, kept) = stepped(shape, SPEC, examples, first, at_once=True)
    assert lower == low  # six steps beat one
    assert [part.tolist() for part in kept] == [part.tolist() for part in found]
    untrained, _, (high, _) = stepped(shape, SPEC, examples, last[:1], at_once=True)
    untrained.restore((*untrained.memory()[:2], after[0]))
    data = (examples.numbers, examples.categories, standard(shape, examples))
    mean_loss, mean = untrained.judged(data, np.ones(examples.rows, np.float32))
    assert mean_loss == pytest.approx(low)
    assert mean_loss < high
    assert np.concatenate([part.ravel() for part in mean]).tolist() == after[0].tolist()


def test_a_network_with_statistics_of_its_own_is_kept_as_it_is():
    shape, examples = learnable()
    spec = SPEC.model_copy(update={"family": "tests.support.families:deep"})
    found, reports = fitted(shape, spec, *split(examples))
    state = State.from_bytes(reports[found.best_epoch - 1].checkpoint)
    assert found.weights == pack_arrays(state.weights)


def test_three_workers_end_where_one_does():
    shape, examples = learnable(rows=701)
    train, validation = split(examples)
    spec = SPEC.model_copy(update={"dropout": 0.0})
    alone, _ = fitted(shape, spec, train, validation)
    workers = together(shape, spec, train, validation, 3)
    assert workers[0].weights == workers[1].weights == workers[2].weights
    assert largest_difference(alone, workers[0]) < 1e-5


def test_workers_drop_different_units_and_still_agree():
    shape, examples = learnable()
    train, validation = split(examples)
    first = together(shape, SPEC, train, validation, 2)
    again = together(shape, SPEC, train, validation, 2)
    assert {found.weights for found in (*first, *again)} == {first[0].weights}
    assert first[0].weights != fitted(shape, SPEC, train, validation)[0].weights


def test_a_code_that_occurs_twice_in_a_batch_is_learned_as_if_it_occurred_once():
    # Keras' Adam mistakes the rows of a sparse gradient for separate ones
    shape, examples = learnable(rows=38, numbers=0)
    codes = np.stack([np.zeros(38), np.arange(2, 40)], axis=1).astype(np.int32)
    once = Examples(examples.numbers, codes, examples.labels)
    twice = once.take(np.repeat(np.arange(38), 2))
    spec = SPEC.model_copy(update={"dropout": 0.0, "batch_rows": 128, "epochs_max": 10})
    one, _ = fitted(shape, spec, once, once)
    other, _ = fitted(shape, spec, twice, once)
    assert largest_difference(one, other) < 1e-5


def test_a_loss_that_is_no_number_ends_the_fit_with_advice():
    shape, examples = learnable("regression")
    spec = SPEC.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingFailed, match="learning_rate"):
        fitted(shape, spec, *split(examples))


def test_a_loss_that_explodes_late_leaves_the_best_weights_and_says_at_which_step():
    shape, examples = learnable("regression", 600)
    train, validation = split(examples)
    calm, reports = fitted(shape, SPEC, train, validation)
    labels = train.labels.copy()
    labels[7] = np.inf
    poisoned = Examples(train.numbers, train.categories, labels)
    found, _ = fitted(shape, SPEC, poisoned, validation, resume=reports[1].checkpoint)
    assert found.weights == pack_arrays(State.from_bytes(reports[1].checkpoint).best)
    assert "of epoch 3" in found.notes[0]
    assert "row 7 (label inf" in found.notes[0]
    assert calm.notes == ()


def test_a_batch_in_two_halves_is_the_same_batch():
    shape, examples = learnable(rows=701)
    train, validation = split(examples)
    spec = SPEC.model_copy(update={"dropout": 0.0})
    whole, _ = fitted(shape, spec, train, validation)
    halves, _ = fitted(shape, spec, train, validation, micro_batches=2)
    assert largest_difference(whole, halves) < 1e-5


def test_halves_of_a_batch_drop_different_units_and_the_same_ones_again():
    shape, examples = learnable(rows=701)
    parts = (shape, SPEC, *split(examples))
    whole, _ = fitted(*parts)
    halves, _ = fitted(*parts, micro_batches=2)
    again, _ = fitted(*parts, micro_batches=2)
    assert halves.weights == again.weights != whole.weights


def test_data_of_several_windows_are_learned_from_whole_and_resume():
    shape, examples = learnable(rows=11_000)
    train, validation = split(examples)
    spec = SPEC.model_copy(update={"shuffle_rows": 5000, "epochs_max": 2})
    found, reports = fitted(shape, spec, train, validation)
    resumed, _ = fitted(shape, spec, train, validation, resume=reports[0].checkpoint)
    assert resumed.weights == found.weights
    one_window, _ = fitted(
        shape, spec.model_copy(update={"shuffle_rows": 1_000_000}), train, validation
    )
    assert found.weights != one_window.weights
    assert abs(found.history[-1].loss - one_window.history[-1].loss) < 0.05


def test_a_class_that_weighs_more_is_answered_more_often():
    shape, examples = learnable(rows=2000)
    train, validation = split(examples)
    spec = SPEC.model_copy(update={"epochs_max": 12})
    even, _ = fitted(shape, spec, train, validation)
    heavy = replace(shape, class_weights=(0.4, 4.0))
    leaning, _ = fitted(heavy, spec, train, validation)

    def mean(found):
        return logits(shape, spec, found.weights, validation).mean()

    # ten times the weight is a shift of the logit by log 10 at most
    assert 1.0 < mean(leaning) - mean(even) < 4.0


def test_quantiles_are_above_as_many_labels_as_they_say():
    shape, examples = learnable("regression", 6000)
    train, validation = split(examples)
    shape = replace(shape, outputs=3, quantiles=(0.1, 0.5, 0.9))
    spec = SPEC.model_copy(update={"epochs_max": 40, "dropout": 0.0})
    found, _ = fitted(shape, spec, train, validation)
    raw = logits(shape, spec, found.weights, validation)
    standard = (validation.labels - shape.label_mean) / shape.label_scale
    below = (standard[:, None] <= raw).mean(axis=0)
    np.testing.assert_allclose(below, shape.quantiles, atol=0.08)


def test_half_precision_learns_as_well():
    shape, examples = learnable(rows=4000)
    train, validation = split(examples)
    spec = SPEC.model_copy(update={"epochs_max": 12})
    exact, _ = fitted(shape, spec, train, validation)
    half, _ = fitted(shape, spec.model_copy(update={"precision": "bfloat16"}), train, validation)
    assert half.weights != exact.weights
    best = [min(line.validation_loss for line in found.history) for found in (exact, half)]
    assert best[1] == pytest.approx(best[0], abs=0.01)


def test_weights_under_a_constraint_are_refused():
    shape, examples = learnable()
    spec = SPEC.model_copy(update={"family": "tests.support.families:bounded"})
    with pytest.raises(TrainingFailed, match="use a penalty"):
        fitted(shape, spec, *split(examples))


def test_a_checkpoint_of_another_task_is_refused():
    shape, examples = learnable()
    train, validation = split(examples)
    _, reports = fitted(shape, SPEC, train, validation)
    wider = SPEC.model_copy(update={"hidden": (17,)})
    with pytest.raises(TrainingFailed, match="another"):
        fitted(shape, wider, train, validation, resume=reports[0].checkpoint)


def test_nothing_to_learn_from_is_refused():
    shape, examples = learnable()
    with pytest.raises(TrainingFailed, match="0 rows"):
        fitted(shape, SPEC, examples.take(slice(0, 0)), examples)


def test_batch_statistics_are_refused_where_workers_would_not_share_them():
    shape, examples = learnable()
    spec = SPEC.model_copy(update={"family": "tests.support.families:deep"})
    with pytest.raises(TrainingFailed, match="layer normalisation"):
        fitted(shape, spec, examples, examples, workers=2, reduce=lambda vector: vector)
