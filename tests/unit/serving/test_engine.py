"""A version answers only if it is what was published, and says the same here as there."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from hapredict.data.schema import Column
from hapredict.errors import GateRefused, StoreUnavailable
from hapredict.registry.store import open_store
from hapredict.serving.engine import OnnxEngine, Speed, load_version, why_not_beside
from tests.support.bundles import (
    MODEL,
    linear_network,
    plan_of,
    publish_linear,
    schema_of,
    spec_of,
    table_of,
)

SCHEMA = schema_of()
TABLE = table_of(200, seed=99)
PLAN = plan_of(SCHEMA, TABLE, spec_of())
NETWORK = linear_network(PLAN, SCHEMA)


@pytest.fixture
def store(request):
    return open_store(f"memory://{request.node.name}")


def test_the_engine_computes_what_the_network_says():
    engine = OnnxEngine(NETWORK, numbers=4, categories=2, outputs=1)
    matrices = PLAN.apply(TABLE)
    weights = np.array([1, 1, 0.1, 0.1])
    levels = (matrices.categories % 3 - 1.0).sum(axis=1)
    expected = 1 / (1 + np.exp(-(matrices.numbers @ weights + levels)))
    scores = engine.scores(matrices)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[:, 0], expected, atol=1e-6)


def test_rows_are_scored_alike_alone_and_in_a_batch():
    engine = OnnxEngine(NETWORK, numbers=4, categories=2, outputs=1)
    whole = engine.scores(PLAN.apply(TABLE))
    for row in range(0, 200, 40):
        alone = engine.scores(PLAN.apply({name: c[row : row + 1] for name, c in TABLE.items()}))
        np.testing.assert_allclose(alone[0], whole[row], atol=1e-6)


@pytest.mark.parametrize(
    ("network", "widths", "told"),
    [
        (b"not ONNX", {"numbers": 4, "categories": 2}, "cannot be loaded"),
        (NETWORK, {"numbers": 4, "categories": 0}, "takes"),
        (NETWORK, {"numbers": 6, "categories": 2}, "of shape"),
    ],
)
def test_a_network_that_does_not_fit_the_plan_is_refused(network, widths, told):
    with pytest.raises(GateRefused, match=told):
        OnnxEngine(network, outputs=1, **widths)


def test_what_a_network_says_beside_its_scores_goes_by_its_own_names():
    network = linear_network(PLAN, SCHEMA, extras=("q0.1", "uncertainty"))
    engine = OnnxEngine(network, numbers=4, categories=2, outputs=1)
    assert engine.extras == ("q0.1", "uncertainty")
    scores, extras = engine.answer(PLAN.apply(TABLE))
    np.testing.assert_array_equal(scores, engine.scores(PLAN.apply(TABLE)))
    assert extras.dtype == np.float32
    np.testing.assert_allclose(extras[:, 1], 2 * extras[:, 0])


def test_a_network_that_says_nothing_beside_its_scores_answers_nothing_more():
    engine = OnnxEngine(NETWORK, numbers=4, categories=2, outputs=1)
    assert engine.extras == ()
    scores, extras = engine.answer(PLAN.apply(TABLE))
    assert extras is None
    np.testing.assert_array_equal(scores, engine.scores(PLAN.apply(TABLE)))


@pytest.mark.parametrize("told", ['["q0.1"]', "[]"])
def test_extras_without_a_name_each_are_refused(told):
    model = onnx.load_from_string(linear_network(PLAN, SCHEMA, extras=("q0.1", "q0.9")))
    model.metadata_props[0].value = told
    with pytest.raises(GateRefused, match="names the extras"):
        OnnxEngine(model.SerializeToString(), numbers=4, categories=2, outputs=1)


@pytest.mark.parametrize("kind", ["number", "category"])
def test_a_model_may_have_columns_of_one_kind_only(store, kind):
    schema = replace(SCHEMA, features=tuple(c for c in SCHEMA.features if c.kind == kind))
    version = publish_linear(store, schema=schema, table=TABLE)
    loaded = load_version(store, MODEL, version)
    assert loaded.scores(TABLE).shape == (200, 1)


def test_a_published_version_loads_and_keeps_no_trainable_network(store):
    loaded = load_version(store, MODEL, publish_linear(store))
    assert (loaded.number, loaded.schema, loaded.plan) == (1, SCHEMA, PLAN)
    assert not hasattr(loaded, "source")


def test_a_version_that_answers_differently_here_is_refused(store):
    version = publish_linear(store, golden_off=2e-4)
    with pytest.raises(GateRefused, match="8 of its 8 golden rows"):
        load_version(store, MODEL, version)


def test_a_difference_below_the_limit_is_accepted(store):
    load_version(store, MODEL, publish_linear(store, golden_off=5e-5))


def test_a_version_that_answers_with_nan_is_refused(store):
    with pytest.raises(GateRefused, match="golden"):
        load_version(store, MODEL, publish_linear(store, bias=np.nan))


def test_a_version_whose_bytes_changed_is_refused(store):
    version = publish_linear(store)
    path = f"bundles/{MODEL}/{version.digest}/network.onnx"
    store.put(path, store.get(path)[:-1] + b"\0")
    with pytest.raises(GateRefused, match=r"network\.onnx"):
        load_version(store, MODEL, version)


def test_a_version_whose_bundle_is_gone_is_refused(store):
    version = publish_linear(store)
    store.delete(f"bundles/{MODEL}/{version.digest}/manifest.json")
    with pytest.raises(GateRefused, match="bundle"):
        load_version(store, MODEL, version)


def test_trouble_of_the_store_is_no_fault_of_the_version(store, monkeypatch):
    version = publish_linear(store)

    def unavailable(path):
        raise StoreUnavailable(path)

    monkeypatch.setattr(store, "get", unavailable)
    with pytest.raises(StoreUnavailable):
        load_version(store, MODEL, version)


def test_versions_serve_beside_each_other_only_if_they_take_the_same_requests(store):
    champion = load_version(store, MODEL, publish_linear(store))
    assert why_not_beside(champion, champion) == ""
    features = (*SCHEMA.features[:3], Column("weight", "number"))
    other = replace(champion, schema=replace(SCHEMA, features=features))
    assert "carrier, weight" in why_not_beside(other, champion)
    other = replace(champion, schema=replace(SCHEMA, classes=("0", "1")))
    assert "tells" in why_not_beside(other, champion)
    other = replace(champion, schema=replace(SCHEMA, task="regression", classes=()))
    assert "regression" in why_not_beside(other, champion)
    order = replace(champion, schema=replace(SCHEMA, features=SCHEMA.features[::-1]))
    assert why_not_beside(order, champion) == ""


class Timer:
    """A processor's time of which each call that is timed takes the next of `took_ms`."""

    def __init__(self, *took_ms):
        self.now_s = 0.0
        self.calls = 0
        self.took_ms = took_ms

    def __call__(self):
        if self.calls % 2:
            self.now_s += self.took_ms[self.calls // 2 % len(self.took_ms)] / 1000
        self.calls += 1
        return self.now_s


def test_a_version_that_is_too_slow_is_refused_with_both_numbers(store):
    version = publish_linear(store)
    with pytest.raises(GateRefused, match=r"takes 31 ms of a processor .*latency_ms_max allows 30"):
        load_version(store, MODEL, version, speed=Speed(Timer(31), 30))
    assert load_version(store, MODEL, version, speed=Speed(Timer(29), 30))


def test_some_slow_calls_make_no_version_slow(store):
    version = publish_linear(store)
    assert load_version(store, MODEL, version, speed=Speed(Timer(900, 1, 1, 900, 1), 30))
