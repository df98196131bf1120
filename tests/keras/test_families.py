"""What every model family keeps to, and how the first one encodes columns."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import TrainingFailed, UnknownName
from hapredict.training.keras_families import (
    FAMILIES,
    CategoryCodes,
    PiecewiseLinear,
    build,
    embedding_width,
    model_inputs,
)
from hapredict.training.network import NetworkShape
from tests.support.learnable import SPEC, learnable


@pytest.fixture(params=list(FAMILIES))
def spec(request):
    return SPEC.model_copy(update={"family": request.param})


@pytest.mark.parametrize(("numbers", "categories"), [(1, 0), (0, 1), (3, 2)])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_family_answers_one_row_of_logits_a_row(spec, task, numbers, categories):
    shape, examples = learnable(task, 20, numbers, categories)
    model = build(shape, spec)
    logits = model(model_inputs(shape, examples.numbers, examples.categories))
    assert logits.shape == (20, shape.outputs)
    assert np.isfinite(np.asarray(logits)).all()


def test_a_family_takes_a_hundred_columns(spec):
    names = tuple(f"feature_{place}" for place in range(100))
    shape = NetworkShape(((0.0, 1.0, 2.0),) * 60, (4,) * 40, 1, "binary", names)
    model = build(shape, spec)
    answer = model(model_inputs(shape, np.zeros((2, 120), "f4"), np.zeros((2, 40), "i4")))
    assert answer.shape == (2, 1)


def test_the_same_spec_gives_the_same_first_weights_and_another_seed_gives_others(spec):
    shape, _ = learnable()
    one, same = build(shape, spec), build(shape, spec)
    other = build(shape, spec.model_copy(update={"seed": 99}))
    for a, b in zip(one.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True)
    )


def test_a_family_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(UnknownName, match="mlp"):
        build(learnable()[0], SPEC.model_copy(update={"family": "mpl"}))


def test_a_family_with_other_inputs_is_refused():
    with pytest.raises(TrainingFailed, match=r"columns.*numbers"):
        build(learnable()[0], SPEC.model_copy(update={"family": "tests.support.families:misnamed"}))


def expected_bins(x, edges):
    parts = [(x - a) / (b - a) for a, b in itertools.pairwise(edges)]
    last = len(parts) - 1
    return [
        float(np.clip(part, -1 if t == 0 else 0, 2 if t == last else 1))
        for t, part in enumerate(parts)
    ]


@settings(max_examples=30)
@given(
    st.lists(st.integers(-50, 50), min_size=2, max_size=9, unique=True).map(sorted),
    st.floats(-80, 80, width=32, allow_subnormal=False),  # TensorFlow flushes them
)
def test_a_number_becomes_its_place_within_each_bin(edges, x):
    edges = [edge / 10 for edge in edges]
    row = np.array([[x, 0]], dtype=np.float32)
    encoded = np.asarray(PiecewiseLinear([edges])(row))[0]
    np.testing.assert_allclose(encoded[:-2], expected_bins(x, edges), rtol=1e-3, atol=1e-4)
    assert encoded[-2:].tolist() == [np.clip(np.float32(x), -8, 8), 0]


def test_a_missing_number_says_only_that_it_is_missing():
    encoded = np.asarray(PiecewiseLinear([[0.0, 1.0, 2.0]])(np.array([[1.5, 1]], "f4")))[0]
    assert encoded.tolist() == [0, 0, 0, 1]


def test_edges_that_no_float32_can_tell_apart_stay_finite():
    layer = PiecewiseLinear([[1.0, 1.0 + 1e-12], [0.0, 1e-30, 3.0]])
    encoded = np.asarray(layer(np.array([[3e38, -3e38, 0, 0]], "f4")))
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() <= 8


def test_small_categories_are_one_hot_and_large_ones_are_learned():
    layer = CategoryCodes([11, 12])
    encoded = np.asarray(layer(np.array([[3, 0]], "i4")))[0]
    assert len(encoded) == 11 + embedding_width(10)
    assert np.flatnonzero(encoded[:11]).tolist() == [3]
    assert len(layer.trainable_weights) == 1


@given(st.integers(1, 100_000))
def test_an_embedding_is_between_one_and_sixteen_wide(known):
    assert 1 <= embedding_width(known) <= 16


@pytest.mark.parametrize("layer", [PiecewiseLinear([[0.0, 1.0]]), CategoryCodes([4, 20], seed=2)])
def test_a_layer_of_ours_comes_back_from_its_config(layer):
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert again.get_config() == layer.get_config()
