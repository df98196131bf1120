"""What a field does to a score: properties of the numbers, and what HTTP makes of them."""

import asyncio

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.data.schema import Column, Schema, rows_of
from hapredict.errors import BadRequest, TemporaryError, UnknownName
from hapredict.registry import catalog
from hapredict.serving.asgi import App
from hapredict.serving.decisions import Rule
from hapredict.serving.explain import ROWS_MAX, decode_explain, effects_of, rows_max
from tests.support.bundles import change, publish_linear, rows_as_json, schema_of, table_of
from tests.support.replicas import breaks
from tests.support.serving import Clock, FakeReplica, ask

EXPLAIN = "/v1/models/orders:explain"
NUMBERS = ("a", "b", "c")
SCHEMA = Schema(tuple(Column(name, "number") for name in NUMBERS), "y", "regression")
TYPICAL = {"a": 1.0, "b": -2.0, "c": 0.5}
values = st.floats(-100, 100)


def _effects(score, table, schema=SCHEMA, typical=TYPICAL, **options):
    options = {"version": 1, "baseline": "typical", "rule": Rule(), **options}
    return effects_of(score, table, schema, typical, **options)


def _table(rows):
    columns = zip(*rows, strict=True)
    return {name: np.array(column) for name, column in zip(NUMBERS, columns, strict=True)}


rows = st.lists(st.tuples(values, values, values), min_size=1, max_size=4)


@given(rows, st.tuples(values, values, values))
def test_of_a_sum_each_effect_is_the_fields_own_part(rows, weights):
    table = _table(rows)

    def score(many):
        return sum(w * many[name] for w, name in zip(weights, NUMBERS, strict=True))[:, None]

    found = _effects(score, table)
    for place, name in enumerate(NUMBERS):
        own = weights[place] * (table[name] - TYPICAL[name])
        np.testing.assert_allclose(found.effects[:, place], own, atol=1e-6)
    # and only for a sum do they add up
    np.testing.assert_allclose(
        found.effects.sum(axis=1), found.scores - found.baseline_scores, atol=1e-6
    )


@given(rows)
def test_a_field_that_the_model_ignores_has_no_effect(rows):
    found = _effects(lambda many: np.sin(many["a"] * many["c"])[:, None], _table(rows))
    assert found.fields == NUMBERS
    assert (found.effects[:, 1] == 0).all()


@given(rows)
def test_a_field_at_its_baseline_value_has_no_effect(rows):
    table = {**_table(rows), "a": np.full(len(rows), TYPICAL["a"])}
    found = _effects(lambda many: (many["a"] * many["b"] + many["c"])[:, None], table)
    assert (found.effects[:, 0] == 0).all()


@given(st.permutations(NUMBERS))
def test_effects_stand_in_the_order_of_the_schemas_fields(order):
    schema = Schema(tuple(Column(name, "number") for name in order), "y", "regression")
    found = _effects(lambda many: many["b"][:, None], _table([(3, 4, 5)]), schema)
    assert found.fields == tuple(order)
    assert found.effects[0].tolist() == [6.0 if name == "b" else 0.0 for name in order]


def test_the_model_is_asked_once():
    asked = []
    _effects(
        lambda many: asked.append(rows_of(many)) or many["a"][:, None], _table([(1, 2, 3)] * 2)
    )
    assert asked == [2 * (3 + 2)]


def test_a_missing_baseline_takes_the_value_away():
    found = _effects(
        lambda many: np.isnan(many["a"]).astype(float)[:, None],
        _table([(1, 2, 3)]),
        baseline="missing",
    )
    assert found.effects.tolist() == [[-1.0, 0.0, 0.0]]
    assert found.baseline_scores.tolist() == [1.0]


def test_with_several_classes_the_decided_one_is_explained():
    schema = schema_of(("x", "y", "z"), "multiclass")
    table = table_of(2, schema=schema)
    typical = {"收入": 1.0, "distance": 2.0, "性别": "男", "carrier": "UA"}

    def score(many):
        far = many["distance"] / (1 + many["distance"])
        return np.stack([1 - far, far / 4, 3 * far / 4], axis=1)

    found = _effects(score, table, schema, typical)
    assert set(found.decisions) <= {"x", "y", "z"}
    np.testing.assert_allclose(found.scores, score(table).max(axis=1))
    costly = Rule(costs={"y": {"x": 1000.0, "z": 1000.0}})
    assert set(_effects(score, table, schema, typical, rule=costly).decisions) == {"y"}


def test_a_request_may_ask_about_few_rows_and_fewer_of_a_wide_model():
    wide = Schema(tuple(Column(f"f{i}", "number") for i in range(5000)), "y", "regression")
    assert rows_max(SCHEMA) == ROWS_MAX
    assert rows_max(wide) == 1


@pytest.mark.parametrize("baseline", [None, 1, [], {}, "mean", "x" * 1000])
def test_an_unknown_baseline_is_refused(baseline):
    body = (
        b'{"instances": [{}], "baseline": %s}'
        % repr(baseline).replace("'", '"').replace("None", "null").encode()
    )
    with pytest.raises(BadRequest, match="one of typical, missing") as caught:
        decode_explain(body, SCHEMA)
    assert len(str(caught.value)) < 200


def test_a_replica_explains_what_it_would_answer(store, replica):
    found = replica.explain(table_of(3))
    assert found.version == 1
    np.testing.assert_allclose(found.scores, replica.predict(table_of(3)).scores[:, 0], atol=1e-6)
    publish_linear(store, weights={"distance": 0.0})
    change(store, catalog.shadow, 2, 10.0)
    replica.refresh()
    second = replica.explain(table_of(3), version=2)
    assert (second.effects[:, second.fields.index("distance")] == 0).all()
    assert (found.effects[:, found.fields.index("distance")] != 0).any()
    with pytest.raises(UnknownName):
        replica.explain(table_of(1), version=3)
    breaks(replica, 1, None)
    with pytest.raises(TemporaryError, match="v1 could not score"):
        replica.explain(table_of(1))


def _ask(*args, app=None, **options):
    return asyncio.run(ask(app or App(FakeReplica(), clock=Clock()), *args, **options))


def test_over_http_each_row_gets_its_effects_by_field():
    replica = FakeReplica()
    app = App(replica, clock=Clock())
    got = _ask("POST", EXPLAIN, {"instances": rows_as_json(2), "baseline": "missing"}, app=app)
    assert got.status == 200
    assert (got.json["model_version"], got.json["baseline"]) == (1, "missing")
    first, _second = got.json["explanations"]
    assert list(first["effects"]) == ["收入", "distance", "性别", "carrier"]
    assert first["decision"] in ("no", "yes")
    assert replica.log == ["explain"]  # and nothing is recorded
    pinned = _ask("POST", "/v1/models/orders/versions/2:explain", {"instances": rows_as_json(1)})
    assert pinned.json["model_version"] == 2


def test_over_http_too_many_rows_and_faulty_ones_are_refused():
    got = _ask("POST", EXPLAIN, {"instances": rows_as_json(ROWS_MAX + 1)})
    assert (got.status, "at most 16" in got.json["error"]) == (413, True)
    got = _ask("POST", EXPLAIN, {"instances": [{**rows_as_json(1)[0], "distance": "far"}]})
    assert (got.status, got.json["fields"][0]["field"]) == (422, "rows[0].distance")
    for body in (b"", b"{}", {"instances": []}, {"instances": [{}], "baselines": 1}):
        assert _ask("POST", EXPLAIN, body).status == 400
    assert (
        _ask("POST", "/v1/models/orders/versions/9:explain", {"instances": rows_as_json(1)}).status
        == 404
    )


def test_few_explanations_at_once_do_not_crowd_out_predictions():
    app = App(FakeReplica(), clock=Clock())
    body = {"instances": rows_as_json(1)}

    async def crowd():
        asked = [ask(app, "POST", EXPLAIN, body) for _ in range(8)]
        return await asyncio.gather(ask(app, "POST", "/v1/models/orders:predict", body), *asked)

    predicted, *explained = asyncio.run(crowd())
    assert predicted.status == 200
    statuses = [got.status for got in explained]
    assert set(statuses) == {200, 503}
    assert all("retry-after" in got.headers for got in explained if got.status == 503)
