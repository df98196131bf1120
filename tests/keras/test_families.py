"""What every network family keeps to, how columns are encoded, and what members share."""

import itertools
from dataclasses import replace

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import TrainingFailed, UnknownName
from hapredict.training.families import FAMILIES
from hapredict.training.keras_encodings import (
    CategoryCodes,
    LevelEffects,
    PiecewiseLinear,
    embedding_width,
)
from hapredict.training.keras_families import build, model_inputs
from hapredict.training.keras_layers import Dropout, JoinedDense, MemberDense, MemberHeads
from hapredict.training.network import NetworkShape
from hapredict.training.onnx_graph import Graph
from tests.support.learnable import SPEC, learnable

NETWORKS = [name for name in FAMILIES if FAMILIES.find(name).kind == "network"]


@pytest.fixture(params=NETWORKS)
def spec(request):
    return SPEC.model_copy(update={"family": request.param})


def logits_of(model, shape, examples):
    """Keras' logits, the members' averaged."""
    answer = np.asarray(model(model_inputs(shape, examples.numbers, examples.categories)))
    return answer.mean(axis=1) if answer.ndim == 3 else answer


def run_onnx(layer, inputs):
    """What ONNX Runtime answers for one layer of ours."""
    graph = Graph()
    names = [f"x{place}" for place in range(len(inputs))]
    output = layer.to_onnx(graph, names)
    told = onnx.helper.make_tensor_value_info
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "layer",
            [
                told(name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), [None, x.shape[1]])
                for name, x in zip(names, inputs, strict=True)
            ],
            [told(output, Graph.FLOAT, None)],
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=9,
    )
    session = onnxruntime.InferenceSession(made.SerializeToString())
    return session.run([output], dict(zip(names, inputs, strict=True)))[0]


@pytest.mark.parametrize(("numbers", "categories"), [(1, 0), (0, 1), (3, 2)])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_family_answers_one_row_of_logits_a_row(spec, task, numbers, categories):
    shape, examples = learnable(task, 20, numbers, categories)
    logits = logits_of(build(shape, spec), shape, examples)
    assert logits.shape == (20, shape.outputs)
    assert np.isfinite(logits).all()


def test_a_family_answers_each_quantile(spec):
    shape, examples = learnable("regression", 20)
    shape = replace(shape, outputs=3, quantiles=(0.1, 0.5, 0.9))
    assert logits_of(build(shape, spec), shape, examples).shape == (20, 3)


def test_a_family_takes_a_hundred_columns(spec):
    names = tuple(f"feature_{place}" for place in range(100))
    shape = NetworkShape(((0.0, 1.0, 2.0),) * 60, (4,) * 40, 1, "binary", names)
    model = build(shape, spec)
    answer = model(model_inputs(shape, np.zeros((2, 120), "f4"), np.zeros((2, 40), "i4")))
    assert answer.shape[0] == 2


def test_half_precision_is_of_the_products_alone(spec):
    shape, examples = learnable(rows=200)
    model = build(shape, spec)
    half = build(shape, spec.model_copy(update={"precision": "bfloat16"}))
    assert {weight.dtype for weight in half.weights} == {"float32"}
    for a, b in zip(model.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    inputs = model_inputs(shape, examples.numbers, examples.categories)
    assert half(inputs).dtype == "float32"
    expected = logits_of(model, shape, examples)
    got = logits_of(half, shape, examples)
    np.testing.assert_allclose(got, expected, atol=0.05 * np.abs(expected).max())


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


def test_trees_are_not_built_by_keras():
    with pytest.raises(TrainingFailed, match="'trees' is no network"):
        build(learnable()[0], SPEC.model_copy(update={"family": "trees"}))


def test_a_family_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(UnknownName, match="mlp"):
        build(learnable()[0], SPEC.model_copy(update={"family": "mpl"}))


def test_a_family_with_other_inputs_is_refused():
    with pytest.raises(TrainingFailed, match=r"columns.*numbers"):
        build(learnable()[0], SPEC.model_copy(update={"family": "tests.support.families:misnamed"}))


def expected_bins(x, edges):
    parts = [(x - a) / (b - a) for a, b in itertools.pairwise(edges)]
    last = len(parts) - 1
    size = len(parts) ** -0.25
    return [
        size * float(np.clip(part, -1 if t == 0 else 0, 2 if t == last else 1))
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


def test_an_additive_model_adds_up_what_each_column_does():
    shape, examples = learnable(rows=50)
    model = build(shape, SPEC.model_copy(update={"family": "linear"}))
    chance = np.random.default_rng(0)
    model.set_weights([chance.normal(size=w.shape).astype("f4") for w in model.get_weights()])
    a, b = examples.take(slice(0, 25)), examples.take(slice(25, None))
    # swapping one column between two rows moves its effect from the one to the other
    swapped_a, swapped_b = a.numbers.copy(), b.numbers.copy()
    swapped_a[:, [0, 3]], swapped_b[:, [0, 3]] = b.numbers[:, [0, 3]], a.numbers[:, [0, 3]]
    swapped = (replace(a, numbers=swapped_a), replace(b, numbers=swapped_b))
    before = logits_of(model, shape, a) + logits_of(model, shape, b)
    after = logits_of(model, shape, swapped[0]) + logits_of(model, shape, swapped[1])
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)
    assert not np.allclose(logits_of(model, shape, a), logits_of(model, shape, swapped[0]))


def test_a_level_that_no_row_had_has_no_effect():
    layer = LevelEffects([4, 30], 2)
    np.testing.assert_array_equal(layer(np.array([[1, 1], [3, 20]], "i4")), np.zeros((2, 2)))


def test_an_ensemble_without_a_layer_to_share_is_refused():
    spec = SPEC.model_copy(update={"family": "mlp_ensemble", "hidden": ()})
    with pytest.raises(TrainingFailed, match=r"hidden is empty"):
        build(learnable()[0], spec)


@pytest.mark.parametrize("family", ["mlp", "mlp_ensemble"])
def test_units_are_dropped_for_classes_and_not_for_amounts_unless_the_spec_says_so(family):
    def dropped(task, dropout):
        spec = SPEC.model_copy(update={"family": family, "dropout": dropout})
        model = build(learnable(task)[0], spec)
        return [layer.rate for layer in model.layers if isinstance(layer, Dropout)]

    assert dropped("binary", "auto") == [0.3]
    assert dropped("regression", "auto") == []
    assert dropped("regression", 0.2) == [0.2]
    assert dropped("binary", 0.0) == []


def test_members_start_apart_and_cost_little():
    shape, examples = learnable(rows=30)
    spec = SPEC.model_copy(update={"hidden": (64, 64)})
    one = build(shape, spec.model_copy(update={"family": "mlp"}))
    eight = build(shape, spec.model_copy(update={"family": "mlp_ensemble"}))
    answers = np.asarray(eight(model_inputs(shape, examples.numbers, examples.categories)))
    assert answers.shape == (30, 8, 1)
    assert np.std(answers, axis=1).min() > 0
    assert eight.count_params() < 1.3 * one.count_params()


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_each_member_is_a_network_of_its_own(members, units, outputs, seed):
    chance = np.random.default_rng(seed)
    bins, codes = chance.normal(size=(7, 4)).astype("f4"), chance.normal(size=(7, 2)).astype("f4")
    first, heads = MemberDense(members, units, seed), MemberHeads(members, outputs, seed)
    answers = np.asarray(heads(first([bins, codes])))
    assert answers.shape == (7, members, outputs)
    scales, kernel, bias = (np.asarray(weight) for weight in first.weights)
    last, offset = (np.asarray(weight) for weight in heads.weights)
    for m in range(members):
        hidden = np.maximum(0, (np.hstack([bins, codes]) * (1 + scales[:, m])) @ kernel + bias)
        expected = hidden @ last[m] + offset[m]
        np.testing.assert_allclose(answers[:, m], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("outputs", [1, 3])
def test_onnx_runtime_answers_what_a_layer_of_ours_does(outputs):
    shape, examples = learnable(rows=40)
    numbers, codes = examples.numbers, examples.categories
    chance = np.random.default_rng(0)
    wide = chance.normal(size=(40, 5)).astype("f4")
    rows_of_members = chance.normal(size=(4 * 40, 6)).astype("f4")
    for layer, inputs in [
        (PiecewiseLinear(shape.edges), [numbers]),
        (CategoryCodes(shape.levels), [codes]),
        (LevelEffects(shape.levels, outputs), [codes]),
        (JoinedDense(6), [wide]),
        (JoinedDense(6), [numbers, wide]),
        (Dropout(0.5), [wide]),
        (MemberDense(4, 6), [wide]),
        (MemberDense(4, 6), [numbers, wide]),
        (MemberHeads(4, outputs), [rows_of_members]),
    ]:
        layer(inputs if len(inputs) > 1 else inputs[0])
        layer.set_weights([chance.normal(size=w.shape).astype("f4") for w in layer.get_weights()])
        expected = np.asarray(layer(inputs if len(inputs) > 1 else inputs[0]))
        np.testing.assert_allclose(run_onnx(layer, inputs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        PiecewiseLinear([[0.0, 1.0]]),
        CategoryCodes([4, 20], seed=2),
        LevelEffects([4, 20], 3),
        JoinedDense(8, seed=1),
        Dropout(0.25, seed=1),
        MemberDense(4, 8, seed=1),
        MemberHeads(4, 2, seed=1),
    ],
)
def test_a_layer_of_ours_comes_back_from_its_config(layer):
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config, safe_mode=True)
    assert again.get_config() == layer.get_config()
