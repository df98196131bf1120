"""The artefact predicts what the network predicts, or does not leave the house."""

import keras
import numpy as np
import onnx
import pytest

from hapredict.errors import GateRefused
from hapredict.training.fitted import pack_arrays
from hapredict.training.keras_export import export, keras_scores, onnx_scores
from hapredict.training.keras_families import FAMILIES, build
from hapredict.training.keras_fit import fit
from hapredict.training.network import Examples
from tests.support.learnable import SPEC, learnable, split

COLUMNS = [(3, 2), (1, 0), (0, 1), (2, 1)]


def exported(shape, examples, **changes):
    spec = SPEC.model_copy(update={"epochs_max": 2, **changes})
    train, validation = split(examples)
    found = fit(shape, spec, train, validation, on_epoch=lambda _: None)
    return export(shape, spec, found.weights, validation)


def loaded(raw, folder):
    path = folder / "network.keras"
    path.write_bytes(raw)
    return keras.saving.load_model(path, safe_mode=True)


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize(("numbers", "categories"), COLUMNS)
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_onnx_and_keras_agree_for_all_tasks_and_columns(
    family, task, numbers, categories, tmp_path
):
    shape, examples = learnable(task, 300, numbers, categories)
    found = exported(shape, examples, family=family)
    assert found.parity < 1e-5
    assert found.rows > 60
    scores = onnx_scores(found.onnx, shape, examples)
    assert scores.shape == (300, shape.outputs)
    assert scores.dtype == np.float32
    again = keras_scores(loaded(found.keras, tmp_path), shape, examples)
    np.testing.assert_allclose(scores, again, atol=1e-5 * shape.label_scale, rtol=1e-6)
    if task == "multiclass":
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
    if task == "regression":
        assert abs(scores.mean() - examples.labels.mean()) < 3 * shape.label_scale


def test_the_inputs_and_the_output_bear_the_names_that_replicas_use():
    shape, examples = learnable(rows=200)
    graph = onnx.load_from_string(exported(shape, examples).onnx).graph
    assert [value.name for value in graph.input] == ["numbers", "categories"]
    assert [value.name for value in graph.output] == ["scores"]


def test_one_row_scores_as_it_does_among_others():
    shape, examples = learnable(rows=200)
    found = exported(shape, examples)
    one = onnx_scores(found.onnx, shape, examples.take(slice(7, 8)))
    np.testing.assert_allclose(
        one, onnx_scores(found.onnx, shape, examples)[7:8], rtol=1e-5, atol=1e-7
    )


def test_the_largest_numbers_there_are_score_alike_and_finite():
    shape, examples = learnable(rows=200)
    found = exported(shape, examples)
    numbers = np.zeros((2, 6), dtype=np.float32)
    numbers[0, :3], numbers[1, :3] = 3e38, -3e38
    huge = Examples(numbers, examples.categories[:2], examples.labels[:2])
    scores = onnx_scores(found.onnx, shape, huge)
    assert np.isfinite(scores).all()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_equal_weights_give_equal_bytes():
    shape, examples = learnable("regression", 200)
    one, other = exported(shape, examples), exported(shape, examples)
    assert one.onnx == other.onnx
    assert one.keras == other.keras


def test_layers_of_a_users_family_are_exported():
    shape, examples = learnable(rows=300)
    found = exported(shape, examples, family="tests.support.families:deep")
    assert found.parity < 1e-4


def test_a_layer_without_an_onnx_form_is_refused_by_name():
    shape, examples = learnable(rows=100)
    with pytest.raises(GateRefused, match=r"odd_one.*UnitNormalization.*to_onnx"):
        exported(shape, examples, family="tests.support.families:unknown_layer")


def test_a_difference_above_the_limit_is_refused():
    shape, examples = learnable(rows=200)
    with pytest.raises(GateRefused, match="parity_max"):
        exported(shape, examples, parity_max=1e-12)


def test_weights_that_are_no_numbers_are_refused():
    shape, examples = learnable(rows=100)
    weights = [np.full_like(array, np.nan) for array in build(shape, SPEC).get_weights()]
    with pytest.raises(GateRefused):
        export(shape, SPEC, pack_arrays(weights), examples)


def test_a_graph_with_other_inputs_is_refused():
    shape, examples = learnable(rows=200, categories=0)
    found = exported(shape, examples)
    other_shape, other = learnable(rows=200)
    with pytest.raises(GateRefused, match="categories"):
        onnx_scores(found.onnx, other_shape, other)
