"""The artefact predicts what the model predicts, or does not leave the house."""

import functools
from dataclasses import replace
from importlib import import_module
from itertools import count

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from hapredict.errors import GateRefused
from hapredict.sections import TreesSpec
from hapredict.training import export as export_file
from hapredict.training.export import artefact_scores, export, join
from hapredict.training.extras import UNCERTAINTY, extra_names, quantile_names
from hapredict.training.families import FAMILIES, find_family
from hapredict.training.feed import Resident
from hapredict.training.fitted import pack_arrays, unpack_arrays
from hapredict.training.keras_export import load_source, model_logits
from hapredict.training.keras_families import build
from hapredict.training.network import Examples
from tests.support.learnable import SPEC, learnable, split

COLUMNS = [(3, 2), (1, 0), (0, 1)]
QUANTILES = (0.1, 0.5, 0.9)
TASKS = ["binary", "multiclass", "regression", "quantiles"]
TREES = TreesSpec(rounds_max=20, rounds_patience=20, depth_max=3)


def problem(task, rows=300, numbers=3, categories=2):
    """A shape, examples and what the spec says of the task."""
    if task != "quantiles":
        return (*learnable(task, rows, numbers, categories), {})
    shape, examples = learnable("regression", rows, numbers, categories)
    limits = {"label_low": 450.0, "label_high": 620.0}
    shape = replace(shape, outputs=len(QUANTILES), quantiles=QUANTILES, **limits)
    return shape, examples, {"quantiles": QUANTILES}


def fitted(shape, examples, **changes):
    """The spec and the weights of a short fit."""
    spec = SPEC.model_copy(update={"epochs_max": 2, "trees": TREES, **changes})
    train, validation = split(examples)
    fit = import_module(find_family(spec.family).fitter).fit
    feed = Resident(train, spec.shuffle_rows)
    return spec, fit(shape, spec, feed, validation, on_epoch=lambda _: None).weights


def exported(shape, examples, **changes):
    spec, weights = fitted(shape, examples, **changes)
    return export(shape, spec, weights, split(examples)[1], None)


@functools.cache
def small(family="mlp", task="binary", numbers=3, categories=2):
    """Shape, examples, spec, weights and export of a small model, made once."""
    shape, examples, said = problem(task, 300, numbers, categories)
    spec, weights = fitted(shape, examples, family=family, **said)
    calibration = join((examples, examples))
    made = export(shape, spec, weights, split(examples)[1], calibration)
    return shape, examples, spec, weights, made


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("task", TASKS)
class TestEveryFamily:
    @pytest.mark.parametrize(("numbers", "categories"), COLUMNS)
    def test_the_artefact_scores_as_the_library_that_fitted_it(
        self, family, task, numbers, categories
    ):
        shape, examples, spec, weights, made = small(family, task, numbers, categories)
        assert made.parity < 1e-5
        assert made.report["rank_shift"] == 0
        assert made.rows > 60
        scores, extras = artefact_scores(made.onnx, shape, examples)
        assert scores.dtype == np.float32
        exporter = import_module(find_family(family).exporter)
        logits = exporter.logits(shape, spec, weights, examples)
        assert logits.shape == (300, shape.outputs)
        again = made.finish.scores(shape, logits)
        np.testing.assert_allclose(scores, again, atol=1e-5 * shape.label_scale, rtol=1e-5)
        if task == "multiclass":
            np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
        if task == "quantiles":
            assert (np.diff(extras[:, :3], axis=1) >= 0).all()
            np.testing.assert_array_equal(scores[:, 0], extras[:, 1])
            assert 450 <= extras[:, :3].min() <= extras[:, :3].max() <= 620

    def test_its_extras_are_named(self, family, task):
        shape, *_, made = small(family, task)
        names = quantile_names(shape.quantiles)
        if family == "mlp_ensemble":
            names += (UNCERTAINTY,)
        assert extra_names(onnxruntime.InferenceSession(made.onnx)) == names
        assert tuple(made.report["extras"]) == names

    def test_equal_weights_give_equal_bytes(self, family, task):
        shape, examples, spec, weights, made = small(family, task)
        twice = join((examples, examples))
        again = export(shape, spec, weights, split(examples)[1], twice, clock=count().__next__)
        assert again.onnx == made.onnx
        assert again.source == made.source
        assert again.report["latency_us"] == 1e6  # a tick of this clock
        assert "latency_us" not in made.report

    def test_the_largest_and_smallest_numbers_there_are_score_finitely(self, family, task):
        shape, examples, *_, made = small(family, task)
        numbers = np.zeros((4, 6), dtype=np.float32)
        numbers[:, :3] = np.array([3e38, -3e38, 1e-45, -1e-45])[:, None]
        huge = Examples(numbers, examples.categories[:4], examples.labels[:4])
        for found in artefact_scores(made.onnx, shape, huge):
            assert np.isfinite(found).all()

    def test_one_row_scores_as_it_does_among_others(self, family, task):
        shape, examples, *_, made = small(family, task)
        for alone, among in zip(
            artefact_scores(made.onnx, shape, examples.take(slice(7, 8))),
            artefact_scores(made.onnx, shape, examples),
            strict=True,
        ):
            np.testing.assert_allclose(alone, among[7:8], rtol=1e-5, atol=1e-6)

    def test_one_weight_changed_in_the_graph_is_refused(self, family, task, monkeypatch):
        shape, examples, spec, weights, _ = small(family, task)
        honest = export_file.to_model
        monkeypatch.setattr(export_file, "to_model", lambda *told: one_weight_off(honest(*told)))
        with pytest.raises(GateRefused, match="differs from the fitted one"):
            export(shape, spec, weights, examples, None)


def one_weight_off(raw):
    """The model with its largest table of weights a little off in one place."""
    model = onnx.load_from_string(raw)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "target_weights":
                attribute.floats[0] += 0.5
                return model.SerializeToString()
    floats = [c for c in model.graph.initializer if c.data_type == onnx.TensorProto.FLOAT]
    largest = max(floats, key=lambda constant: np.prod(constant.dims))
    array = numpy_helper.to_array(largest).copy()
    array.flat[np.argmax(np.abs(array))] += 0.5
    largest.CopyFrom(numpy_helper.from_array(array, largest.name))
    return model.SerializeToString()


def test_swapped_inputs_are_refused(monkeypatch):
    shape, examples, spec, weights, _ = small()
    honest = export_file.to_model

    def swapped(*told):
        model = onnx.load_from_string(honest(*told))
        first, second = model.graph.input
        kept = onnx.ValueInfoProto()
        kept.CopyFrom(first)
        first.CopyFrom(second)
        second.CopyFrom(kept)
        return model.SerializeToString()

    monkeypatch.setattr(export_file, "to_model", swapped)
    with pytest.raises(GateRefused, match="a replica gives"):
        export(shape, spec, weights, examples, None)


def test_columns_swapped_within_an_input_are_refused(monkeypatch):
    shape, examples, spec, weights, _ = small()
    exporter = import_module(find_family("mlp").exporter)
    honest = exporter.graph_logits

    def swapped(graph, *told):
        logits = honest(graph, *told)
        turned = graph.node("Gather", ["numbers", graph.integers([1, 0, 2, 4, 3, 5])], axis=1)
        for node in graph.nodes[:-1]:
            node.input[:] = [turned if name == "numbers" else name for name in node.input]
        graph.nodes.insert(0, graph.nodes.pop())
        return logits

    monkeypatch.setattr(exporter, "graph_logits", swapped)
    with pytest.raises(GateRefused, match="differs from the fitted one"):
        export(shape, spec, weights, examples, None)


@pytest.mark.parametrize("bend", ["order", "nothing"])
def test_scores_that_are_close_but_in_another_order_are_refused(bend, monkeypatch):
    """As half precision would make them, for a model whose scores are all small."""
    shape, examples, *_ = problem("binary")
    spec = SPEC.model_copy(update={"parity_max": 1e-3, "calibration": "none"})
    arrays = build(shape, spec).get_weights()
    arrays[-1] = arrays[-1] - 12  # the last bias: scores of a millionth
    honest = export_file.artefact_scores

    def rounded(*told):
        scores, extras = honest(*told)
        step = np.float32(1e-6 if bend == "order" else 1e-12)
        return (np.round(scores / step) * step).astype(np.float32), extras

    monkeypatch.setattr(export_file, "artefact_scores", rounded)
    if bend == "nothing":
        assert export(shape, spec, pack_arrays(arrays), examples, None).parity < 1e-3
        return
    with pytest.raises(GateRefused, match=r"ranks a row \d+\.\d+% of 300 rows away"):
        export(shape, spec, pack_arrays(arrays), examples, None)


def test_the_source_of_a_network_is_a_keras_file_that_loads_safely():
    shape, examples, *_, made = small("mlp_ensemble")
    assert made.source_name == "network.keras"
    members = model_logits(load_source(made.source), shape, examples)
    scores = made.finish.scores(shape, members.mean(axis=1))
    expected, extras = artefact_scores(made.onnx, shape, examples)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    beside = made.finish.uncertainty(shape, members)
    np.testing.assert_allclose(beside, extras, atol=1e-5)
    assert extras.min() >= 0
    assert extras.max() > extras.min()


def test_the_source_of_trees_is_what_xgboost_itself_loads():
    import xgboost

    *_, made = small("trees")
    assert made.source_name == "trees.ubj"
    assert xgboost.Booster(model_file=bytearray(made.source)).num_boosted_rounds() > 0


def test_a_calibrated_model_says_what_it_gained_and_keeps_its_order():
    shape, examples, _ = problem("binary", rows=1500)
    spec, weights = fitted(shape, examples, dropout=0.0)
    arrays = list(unpack_arrays(weights))
    arrays[-2], arrays[-1] = arrays[-2] * 6, arrays[-1] * 6  # far too sure of itself
    sure = pack_arrays(arrays)
    plain = spec.model_copy(update={"calibration": "none"})
    before = export(shape, plain, sure, examples, examples)
    after = export(shape, spec, sure, examples, examples)
    told = after.report["calibration"]
    assert told["kind"] == after.finish.kind == "temperature"
    assert told["logloss_after"] < told["logloss_before"]
    assert told["calibration_error_after"] < told["calibration_error_before"] / 2
    one, other = (artefact_scores(made.onnx, shape, examples)[0] for made in (before, after))
    order = np.argsort(one[:, 0], kind="stable")
    assert (np.diff(other[order, 0]) >= -1e-7).all()
    assert before.report["calibration"]["reason"] == "training.calibration is none"


def test_class_weights_are_taken_out_again():
    shape, examples, _ = problem("binary", rows=2000)
    weighted = replace(shape, class_weights=(1.0, 9.0))
    well = {"epochs_max": 15, "learning_rate": 0.01, "dropout": 0.0}
    spec, weights = fitted(weighted, examples, calibration="none", **well)
    made = export(weighted, spec, weights, examples, None)
    scores, _ = artefact_scores(made.onnx, weighted, examples)
    assert scores.mean() == pytest.approx(examples.labels.mean(), abs=0.05)
    kept, _ = artefact_scores(export(shape, spec, weights, examples, None).onnx, shape, examples)
    assert kept.mean() > scores.mean() + 0.1
    assert (np.argsort(kept[:, 0]) == np.argsort(scores[:, 0])).mean() > 0.99


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
        export(shape, SPEC, pack_arrays(weights), examples, None)


def test_a_source_that_loads_as_another_network_is_refused(monkeypatch):
    shape, examples, spec, weights, _ = small()
    changed = build(shape, spec)
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: changed)
    with pytest.raises(GateRefused, match="other weights"):
        export(shape, spec, weights, examples, None)


def test_a_graph_with_other_inputs_is_refused():
    shape, examples = learnable(rows=200, categories=0)
    found = exported(shape, examples)
    other_shape, other = learnable(rows=200)
    with pytest.raises(GateRefused, match="categories"):
        artefact_scores(found.onnx, other_shape, other)
