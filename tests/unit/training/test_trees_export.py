"""Trees as an ONNX graph: each row falls into the leaf in which XGBoost puts it."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from onnx import helper

from hapredict.errors import GateRefused, TrainingFailed
from hapredict.sections import TrainingSpec, TreesSpec
from hapredict.training import trees_export, trees_fit
from hapredict.training.export import export
from hapredict.training.feed import Resident
from hapredict.training.finish import Finish
from hapredict.training.fitted import pack_arrays
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.onnx_graph import TREES as TREES_DOMAIN
from hapredict.training.onnx_graph import Graph, to_model
from tests.support.learnable import learnable, split

KINDS = ("binary", "multiclass", "regression", "quantiles")
TREES = TreesSpec(rounds_max=12, depth_max=4, learning_rate=0.3)
SPEC = TrainingSpec(family="trees", trees=TREES)
TINY = np.float32(1e-45)
"""The smallest number above zero."""
LARGEST = float(np.float32(1e30))
ODD = (0, -0.0, TINY, -TINY, 1e-40, -1e-40, 1.1754944e-38, 1, -1, 1e4, -1e4, LARGEST, -LARGEST)

values = st.one_of(
    st.sampled_from([float(np.float32(value)) for value in ODD]),
    st.floats(-LARGEST, LARGEST, width=32),
    st.integers(-3, 3).map(float),
)


def learned(kind, rows=500, spec=SPEC, **chosen):
    shape, examples = learnable("regression" if kind == "quantiles" else kind, rows, **chosen)
    if kind == "quantiles":
        shape = replace(shape, quantiles=(0.1, 0.5, 0.9), outputs=3)
    train, validation = split(examples)
    return shape, grown(shape, spec, train, validation), validation


def grown(shape, spec, train, validation):
    feed = Resident(train, 1_000_000)
    return trees_fit.fit(shape, spec, feed, validation, on_epoch=lambda _: None).weights


def onnx_logits(shape, weights, examples):
    """What ONNX Runtime makes of the graph up to its logits."""
    graph = Graph()
    name = trees_export.graph_logits(graph, shape, SPEC, weights)
    given = {"numbers": examples.numbers, "categories": examples.categories}
    kinds = {"numbers": onnx.TensorProto.FLOAT, "categories": onnx.TensorProto.INT32}
    inputs = [
        helper.make_tensor_value_info(name, kinds[name], ["rows", given[name].shape[1]])
        for name in shape.inputs
    ]
    output = helper.make_tensor_value_info(name, Graph.FLOAT, ["rows", shape.outputs])
    made = helper.make_model(
        helper.make_graph(graph.nodes, "trees", inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(TREES_DOMAIN, 3)],
        ir_version=9,
    )
    onnx.checker.check_model(made, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([name], {name: given[name] for name in shape.inputs})[0]


def thresholds(weights):
    """[columns][...]: all numbers that trees ask about."""
    booster = xgboost.Booster(model_file=bytearray(trees_fit.trees_of(weights)))
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]
    found = {}
    for tree in model["trees"]:
        for column, value, left in zip(
            tree["split_indices"], tree["split_conditions"], tree["left_children"], strict=True
        ):
            if left >= 0:
                found.setdefault(column, set()).add(np.float32(value))
    return {column: np.array(sorted(values)) for column, values in found.items()}


def at_thresholds(shape, weights, examples):
    """The examples with numbers at, just below and just above what trees ask about."""
    numbers = np.tile(examples.numbers, (3, 1))
    chance = np.random.default_rng(0)
    count = len(shape.edges)
    for column, asked in thresholds(weights).items():
        if column < count:
            picked = chance.choice(asked, len(numbers)).astype(np.float32)
            sides = np.repeat(np.float32([-np.inf, 0, np.inf]), examples.rows)
            beside = np.where(sides == 0, picked, np.nextafter(picked, sides))
            numbers[:, column] = np.where(numbers[:, count + column] > 0, 0, beside)
    return Examples(numbers, np.tile(examples.categories, (3, 1)), np.tile(examples.labels, 3))


def apart(shape, weights, examples):
    """The largest difference of a logit from XGBoost's."""
    expected = trees_export.logits(shape, SPEC, weights, examples)
    got = onnx_logits(shape, weights, examples)
    assert got.shape == expected.shape == (examples.rows, shape.outputs)
    return np.max(np.abs(got - expected) / np.maximum(1, np.abs(expected)))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_xgboost(kind):
    shape, weights, validation = learned(kind)
    assert apart(shape, weights, validation) <= 1e-5
    assert apart(shape, weights, at_thresholds(shape, weights, validation)) <= 1e-5
    unseen = replace(validation, categories=np.ones_like(validation.categories))
    assert apart(shape, weights, unseen) <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_trees_pass_the_gate_of_the_export(kind):
    shape, weights, validation = learned(kind)
    made = export(shape, SPEC, weights, validation, None)
    assert made.parity < 1e-5
    assert made.source_name == "trees.ubj"
    assert xgboost.Booster(model_file=bytearray(made.source)).num_boosted_rounds() > 0


@pytest.mark.parametrize(("numbers", "categories"), [(2, 0), (0, 2)])
def test_numbers_and_categories_may_be_alone(numbers, categories):
    shape, weights, validation = learned("binary", numbers=numbers, categories=categories)
    assert apart(shape, weights, validation) <= 1e-5


@st.composite
def tables(draw):
    """Few rows of one number and one category, with a label that may be anything."""
    rows = draw(st.integers(2, 25))
    numbers = draw(npst.arrays(np.float32, (rows, 2), elements=values))
    numbers[:, 1] = draw(npst.arrays(np.bool_, rows))
    numbers[:, 0] *= 1 - numbers[:, 1]
    codes = draw(npst.arrays(np.int32, (rows, 1), elements=st.integers(0, 5)))
    kind = draw(st.sampled_from(KINDS))
    top = {"binary": 1, "multiclass": 2}.get(kind)
    label = st.integers(0, top) if top else st.floats(-1e3, 1e3, width=32)
    labels = np.array(draw(st.lists(label, min_size=rows, max_size=rows)), np.float32)
    regression = top is None
    return NetworkShape(
        ((0.0, 1.0),),
        (6,),
        1 if kind in {"binary", "regression"} else 3,
        "regression" if regression else kind,
        ("a", "b"),
        label_mean=float(labels.mean()) if regression else 0.0,
        label_scale=float(labels.std() + 1) if regression else 1.0,
        quantiles=(0.1, 0.5, 0.9) if kind == "quantiles" else (),
    ), Examples(numbers, codes, labels)


@settings(max_examples=15)
@given(tables())
def test_any_trees_part_any_rows_as_xgboost_does(table):
    shape, examples = table
    trees = TREES.model_copy(update={"rounds_max": 3, "weight_min": 0, "l2": 0.1, "row_share": 1})
    spec = SPEC.model_copy(update={"trees": trees})
    weights = grown(shape, spec, examples, examples)
    assert apart(shape, weights, examples) <= 1e-5
    assert apart(shape, weights, at_thresholds(shape, weights, examples)) <= 1e-5


SHAPE, WEIGHTS, _ = learned("binary", rows=300)


@settings(max_examples=20)
@given(
    npst.arrays(np.float32, (8, 3), elements=values),
    npst.arrays(np.bool_, (8, 3)),
    npst.arrays(np.int32, (8, 2), elements=st.integers(0, 4)),
)
def test_rows_that_no_training_saw_fall_where_xgboost_puts_them(numbers, missing, codes):
    """`numbers` may hold what it likes where the flag says that it is missing."""
    flags = missing.astype(np.float32)
    rows = Examples(np.concatenate([numbers, flags], axis=1), codes, np.zeros(8, np.float32))
    assert apart(SHAPE, WEIGHTS, rows) <= 1e-5


def test_labels_that_are_all_the_same_make_trees_that_say_so():
    shape, examples = learnable("binary", rows=100)
    for label in (0, 1):
        same = replace(examples, labels=np.full(100, label, np.float32))
        weights = grown(shape, SPEC, same, same)
        assert apart(shape, weights, same) <= 1e-5
        assert np.all((trees_export.logits(shape, SPEC, weights, same) > 0) == label)


def test_equal_trees_make_equal_bytes():
    first, again = Graph(), Graph()
    made = [
        to_model(graph, trees_export.graph_logits(graph, SHAPE, SPEC, WEIGHTS), SHAPE, Finish())
        for graph in (first, again)
    ]
    assert made[0] == made[1]


def test_trees_for_another_shape_are_refused():
    wide = replace(SHAPE, levels=(5, 40, 3), names=(*SHAPE.names, "more"))
    classes = replace(SHAPE, task="multiclass", outputs=3)
    for shape in (wide, classes):
        with pytest.raises(GateRefused, match="the shape has"):
            trees_export.graph_logits(Graph(), shape, SPEC, WEIGHTS)


def test_the_source_is_what_xgboost_loads():
    booster = xgboost.Booster(model_file=bytearray(trees_export.source(SHAPE, SPEC, WEIGHTS)))
    assert booster.num_features() == 5
    with pytest.raises(TrainingFailed, match="no trees"):
        trees_export.source(SHAPE, SPEC, pack_arrays(()))
