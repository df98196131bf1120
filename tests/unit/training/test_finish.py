"""Scores are honest numbers, in the same order as the logits they are made of."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.training.extras import EXTRAS, extra_names
from hapredict.training.finish import Finish
from hapredict.training.network import NetworkShape
from hapredict.training.onnx_graph import Graph, to_model

logits = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40)
steps = st.lists(st.tuples(st.floats(0.1, 5), st.floats(0.05, 5)), min_size=2, max_size=8)


@st.composite
def finishes(draw):
    """Any finish of a binary model."""
    if draw(st.booleans()):
        return Finish(draw(st.floats(0.05, 20)), draw(st.floats(-5, 5)))
    x, y = np.cumsum(draw(steps), axis=0).T
    start = draw(st.floats(-10, 0))
    return Finish(knots=tuple(zip(x + start, y + start, strict=True)))


def shape_of(task="binary", outputs=1, **changes):
    """A shape with as many numbers as outputs, so that a graph can hand them on as logits."""
    return NetworkShape(
        edges=((-1.0, 1.0),) * outputs,
        levels=(),
        outputs=outputs,
        task=task,
        names=tuple(f"n{place}" for place in range(outputs)),
        **changes,
    )


def ran(shape, finish, values, members=None):
    """What ONNX Runtime answers to logits: scores and extras. `members`: votes a row."""
    rows = np.asarray(values, np.float32)
    given_rows = rows.reshape(len(rows), -1)
    width = given_rows.shape[1]
    told = replace(shape, edges=((-1.0, 1.0),) * width, names=("n",) * width)
    graph = Graph()
    value = graph.node("Gather", ["numbers", graph.integers(range(width))], axis=1)
    if members:
        three = graph.integers([-1, members, shape.outputs])
        graph.members = graph.node("Reshape", [value, three])
        value = graph.node("ReduceMean", [graph.members], axes=[1], keepdims=0)
    session = onnxruntime.InferenceSession(to_model(graph, value, told, finish))
    sent = np.concatenate([given_rows, np.zeros_like(given_rows)], axis=1)
    named = [output.name for output in session.get_outputs()]
    found = session.run(named, {"numbers": sent})
    assert named == (["scores", EXTRAS] if extra_names(session) else ["scores"])
    return found[0], (found[1] if len(found) > 1 else None), extra_names(session)


@given(finishes(), logits)
def test_who_ranks_above_whom_stays(finish, values):
    ordered = np.unique(values).astype(np.float64)[:, None]
    after = finish.calibrated(shape_of(), ordered)[:, 0]
    apart = np.diff(ordered[:, 0]) > 1e-9
    assert (np.diff(after)[apart] > 0).all()
    assert (np.diff(finish.scores(shape_of(), ordered)[:, 0]) >= 0).all()


@settings(max_examples=40)
@given(finishes(), logits)
def test_the_artefact_computes_the_same_and_keeps_the_order_too(finish, values):
    ordered = np.unique(np.array(values, np.float32))[:, None]
    scores, _, _ = ran(shape_of(), finish, ordered)
    expected = finish.scores(shape_of(), ordered)
    np.testing.assert_allclose(scores, expected, rtol=2e-4, atol=1e-30)
    assert (np.diff(scores[:, 0]) >= 0).all()


def test_the_rarest_events_keep_their_order_in_the_artefact():
    values = np.linspace(-60, -5, 4000, dtype=np.float32)[:, None]
    scores, _, _ = ran(shape_of(), Finish(), values)
    assert (np.diff(scores[:, 0]) > 0).all()
    np.testing.assert_allclose(scores, Finish().scores(shape_of(), values), rtol=1e-5)


@given(finishes())
def test_a_finish_comes_back_from_json(finish):
    assert Finish.from_json(json.loads(json.dumps(finish.to_json()))) == finish


def test_a_finish_says_what_it_is():
    assert Finish().kind == "none"
    assert Finish(2.0).kind == Finish(1.0, 0.5).kind == "temperature"
    assert Finish(knots=((0, 1), (1, 2))).kind == "isotonic"


@pytest.mark.parametrize(
    "parts",
    [
        {"slope": 0.0},
        {"slope": -1.0},
        {"offset": float("nan")},
        {"knots": ((0, 0),)},
        {"knots": ((0, 0), (0, 1))},
        {"knots": ((0, 1), (1, 1))},
        {"knots": ((0, 0), (1, 1)), "slope": 2.0},
    ],
)
def test_what_does_not_rise_is_refused(parts):
    with pytest.raises(ValueError, match=r"slope|knots"):
        Finish(**parts)


@settings(max_examples=30)
@given(st.floats(0.001, 0.999), st.floats(0.01, 100), st.floats(0.01, 100))
def test_class_weights_are_taken_out_of_two_classes(share, first, second):
    # a loss with weights is lowest at odds that are so many times as high
    taught = np.log(share * second / ((1 - share) * first))
    shape = shape_of(class_weights=(first, second))
    assert Finish().scores(shape, np.array([[taught]]))[0, 0] == pytest.approx(share)
    assert ran(shape, Finish(), [[taught]])[0][0, 0] == pytest.approx(share, rel=1e-4)


@settings(max_examples=30)
@given(
    st.lists(st.floats(0.01, 1), min_size=3, max_size=3),
    st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
)
def test_class_weights_are_taken_out_of_several_classes(shares, weights):
    shares = np.array(shares) / np.sum(shares)
    taught = np.log(shares * weights)[None] + 3  # a softmax does not see what is added to all
    shape = shape_of("multiclass", 3, class_weights=tuple(weights))
    np.testing.assert_allclose(Finish().scores(shape, taught), shares[None])
    np.testing.assert_allclose(ran(shape, Finish(), taught)[0], shares[None], rtol=1e-4, atol=1e-6)


@settings(max_examples=40)
@given(st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=9))
def test_quantiles_are_in_order_within_the_limits_and_the_median_is_the_score(values):
    shape = shape_of(
        "regression",
        3,
        quantiles=(0.1, 0.5, 0.9),
        label_mean=100.0,
        label_scale=10.0,
        label_low=70.0,
        label_high=120.0,
    )
    finish = Finish()
    quantiles = finish.quantiles(shape, np.array(values))
    assert (np.diff(quantiles, axis=1) >= 0).all()
    assert 70 <= quantiles.min() <= quantiles.max() <= 120
    np.testing.assert_array_equal(finish.scores(shape, np.array(values)), quantiles[:, 1:2])
    scores, extras, names = ran(shape, finish, values)
    assert names == ("q0.1", "q0.5", "q0.9")
    np.testing.assert_allclose(extras, quantiles, atol=1e-4)
    np.testing.assert_array_equal(scores, extras[:, 1:2])


@pytest.mark.parametrize("limits", [{}, {"label_low": 95.0}, {"label_high": 105.0}])
def test_a_regression_has_its_units_and_its_limits_back(limits):
    shape = shape_of("regression", label_mean=100.0, label_scale=10.0, **limits)
    values = np.array([[-3.0], [0.0], [3.0]])
    expected = np.clip([[70], [100], [130]], shape.label_low, shape.label_high)
    np.testing.assert_allclose(Finish().scores(shape, values), expected)
    np.testing.assert_allclose(ran(shape, Finish(), values)[0], expected)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression", "quantiles"])
def test_the_artefact_tells_how_far_members_are_apart(task):
    outputs = {"multiclass": 3, "quantiles": 3}.get(task, 1)
    said = {"label_mean": 5.0, "label_scale": 2.0} if task in ("regression", "quantiles") else {}
    if task == "quantiles":
        said["quantiles"] = (0.2, 0.5, 0.8)
    if task == "multiclass":
        said["class_weights"] = (1.0, 2.0, 3.0)
    shape = shape_of("regression" if task == "quantiles" else task, outputs, **said)
    finish = Finish(1.5) if task in ("binary", "multiclass") else Finish()
    members = np.random.default_rng(0).normal(size=(50, 4, outputs))
    scores, extras, names = ran(shape, finish, members, members=4)
    assert names[-1] == "uncertainty"
    expected = finish.uncertainty(shape, members)
    np.testing.assert_allclose(extras[:, -1:], expected, atol=1e-5)
    np.testing.assert_allclose(scores, finish.scores(shape, members.mean(axis=1)), atol=1e-5)
    agreed = np.repeat(members[:, :1], 4, axis=1)
    assert finish.uncertainty(shape, agreed).max() < 1e-12


def test_equal_graphs_give_equal_bytes():
    def made(finish):
        graph = Graph()
        value = graph.node("Gather", ["numbers", graph.integers([0])], axis=1)
        return to_model(graph, value, shape_of(), finish)

    assert made(Finish(2.0)) == made(Finish(2.0)) != made(Finish(3.0))
