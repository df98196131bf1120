"""The shape of a network, its examples, and what a fit hands on."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hapredict.errors import TrainingFailed
from hapredict.sections import TrainingSpec
from hapredict.training.fitted import EpochReport, State, pack_arrays, unpack_arrays
from hapredict.training.network import Examples, NetworkShape

SHAPE = NetworkShape(((-1.0, 0.5, 2.0), (0.0, 1.0)), (5, 30), 1, "binary", ("a", "b", "c", "d"))

arrays = npst.arrays(
    st.sampled_from([np.float32, np.int64]),
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


def schema(task, outputs=1):
    return SimpleNamespace(task=task, outputs=outputs, numbers=("a",), categories=("b",))


PLAN = SimpleNamespace(edges_scaled=((0.0, 1.0),), level_counts=(4,))


def test_a_shape_survives_json():
    assert NetworkShape.from_json(json.loads(json.dumps(SHAPE.to_json()))) == SHAPE


def test_a_shape_is_made_from_plan_and_schema():
    shape = NetworkShape.of(PLAN, schema("multiclass", 3), np.array([0, 1, 2]))
    assert shape == NetworkShape(((0.0, 1.0),), (4,), 3, "multiclass", ("a", "b"))


def test_the_labels_of_a_regression_are_standardised():
    shape = NetworkShape.of(PLAN, schema("regression"), np.array([10.0, 20, 30]))
    assert shape.label_mean == 20
    assert shape.label_scale == pytest.approx(np.std([10, 20, 30]))


def test_equal_labels_of_a_regression_leave_the_scale_at_one():
    assert NetworkShape.of(PLAN, schema("regression"), np.full(4, 7.0)).label_scale == 1


def test_only_the_inputs_with_columns_are_named():
    assert SHAPE.inputs == ("numbers", "categories")
    assert NetworkShape((), (5,), 1, "binary", ("c",)).inputs == ("categories",)
    assert NetworkShape(((0.0, 1.0),), (), 1, "binary", ("a",)).inputs == ("numbers",)


@pytest.mark.parametrize(
    "parts",
    [
        (((0.0,),), (), 1, "binary", ("a",)),
        (((0.0, 0.0),), (), 1, "binary", ("a",)),
        (((1.0, 0.0),), (), 1, "binary", ("a",)),
        (((0.0, 1.0),), (), 2, "binary", ("a",)),
        (((0.0, 1.0),), (), 0, "multiclass", ("a",)),
        (((0.0, 1.0),), (), 1, "binary", ("a", "b")),
        ((), (), 1, "binary", ()),
        (((0.0, 1.0),), (), 1, "regression", ("a",), 0.0, 0.0),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts):
    with pytest.raises(ValueError):
        NetworkShape(*parts)


def test_examples_of_unequal_length_are_refused():
    with pytest.raises(ValueError):
        Examples(np.zeros((3, 2), "f4"), np.zeros((3, 1), "i4"), np.zeros(2, "f4"))


def test_taking_examples_takes_the_same_rows_of_each_part():
    rows = np.arange(4)
    all_of_them = Examples(
        np.stack([rows, rows], 1).astype("f4"), rows[:, None].astype("i4"), rows.astype("f4")
    )
    some = all_of_them.take(np.array([3, 1]))
    assert some.rows == 2
    assert some.numbers[:, 0].tolist() == some.categories[:, 0].tolist() == some.labels.tolist()


@given(st.lists(arrays, max_size=12))
def test_packed_arrays_come_back_in_order_and_equal_ones_give_equal_bytes(values):
    raw = pack_arrays(values)
    back = unpack_arrays(raw)
    assert len(back) == len(values)
    for one, other in zip(values, back, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert pack_arrays(back) == raw


def test_arrays_that_would_need_pickle_are_neither_written_nor_read():
    with pytest.raises(ValueError):
        pack_arrays([np.array([object()], dtype=object)])
    with pytest.raises(TrainingFailed):
        unpack_arrays(b"no arrays")


def state():
    history = (EpochReport(1, 0.5, 0.625, 1e4), EpochReport(2, 0.25, 0.75, 2e4))
    weights = (np.ones((2, 3), np.float32), np.zeros((), np.int64))
    return State("run", 2, 1, 0.625, history, weights, (np.arange(4),), (np.zeros(3),))


def test_a_state_comes_back_whole():
    before, after = state(), State.from_bytes(state().to_bytes())
    assert after.history == before.history
    assert (after.epoch, after.best_epoch, after.best_loss) == (2, 1, 0.625)
    assert after.to_bytes() == before.to_bytes()
    fitted = after.fitted(restarts=3)
    assert unpack_arrays(fitted.weights)[0].tolist() == [0, 0, 0]
    assert (fitted.epochs, fitted.best_epoch, fitted.restarts) == (2, 1, 3)


@given(st.data())
def test_a_damaged_state_is_refused(data):
    raw = bytearray(state().to_bytes())
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TrainingFailed, match="damaged"):
        State.from_bytes(bytes(raw))
    with pytest.raises(TrainingFailed, match="damaged"):
        State.from_bytes(bytes(raw[:place]))


CLASSES = SimpleNamespace(
    task="multiclass",
    outputs=3,
    numbers=("a",),
    categories=("b",),
    classes=("x", "y", "z"),
    target="kind",
)
VALUES = SimpleNamespace(
    task="regression", outputs=1, numbers=("a",), categories=("b",), classes=(), target="load"
)


@given(st.lists(st.integers(0, 2), min_size=1))
def test_balanced_classes_weigh_the_same_and_a_row_weighs_one_on_average(labels):
    spec = TrainingSpec(class_weights="balanced")
    weights = NetworkShape.of(PLAN, CLASSES, np.array(labels), spec).class_weights
    counts = np.bincount(labels, minlength=3)
    total = counts * np.array(weights)
    present = total[counts > 0]
    np.testing.assert_allclose(present, present[0])
    assert total.sum() == pytest.approx(len(labels))


def test_named_weights_keep_their_ratio_and_others_weigh_one():
    spec = TrainingSpec(class_weights={"y": 4.0})
    shape = NetworkShape.of(PLAN, CLASSES, np.array([0, 1, 2]), spec)
    assert np.array(shape.class_weights) / shape.class_weights[0] == pytest.approx([1, 4, 1])


@pytest.mark.parametrize(
    ("schema_", "spec", "told"),
    [
        (CLASSES, TrainingSpec(class_weights={"w": 2.0}), r"names \['w'\]; 'kind' has the classes"),
        (VALUES, TrainingSpec(class_weights="balanced"), "'load' makes a regression"),
        (CLASSES, TrainingSpec(quantiles=(0.1, 0.5)), "'kind' makes a multiclass model"),
    ],
)
def test_what_does_not_fit_the_task_is_told_by_name(schema_, spec, told):
    with pytest.raises(TrainingFailed, match=told):
        NetworkShape.of(PLAN, schema_, np.array([0, 1, 2]), spec)


def test_a_forecast_has_an_output_a_quantile_and_a_range():
    spec = TrainingSpec(quantiles=(0.1, 0.5, 0.9))
    shape = NetworkShape.of(PLAN, VALUES, np.array([0.0, 10.0]), spec)
    assert (shape.outputs, shape.quantiles) == (3, (0.1, 0.5, 0.9))
    assert (shape.label_low, shape.label_high) == (-1.0, 11.0)
    assert NetworkShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape
