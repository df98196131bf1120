"""Answers to the rows of a file: as live, whatever the task, and said in columns."""

from dataclasses import replace

import numpy as np
import pytest

from hapredict.errors import DataError, GateRefused, NotFound, UnknownName
from hapredict.registry.catalog import Catalog, CatalogState
from hapredict.registry.store import open_store
from hapredict.serving.answers import scores_and_decisions
from hapredict.serving.batch import (
    CALL_ROWS,
    Predicted,
    answer_table,
    chosen_version,
    names_of,
)
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import load_version
from tests.support.bundles import MODEL, columns_of, publish_linear, schema_of

TASKS = {
    "binary": schema_of(),
    "multiclass": schema_of(("a", "b", "c"), "multiclass"),
    "regression": schema_of((), "regression"),
}


@pytest.fixture
def store(request):
    return open_store(f"memory://{request.node.name}")


class Live:
    """What protocols read of a live answer."""

    def __init__(self, schema, scores, rule):
        self.schema, self.scores, self.rule = schema, scores, rule


@pytest.mark.parametrize("costs", [None, {"yes": {"no": 3}, "no": {"yes": 1}, "b": {"a": 9}}])
@pytest.mark.parametrize("task", TASKS)
def test_scores_and_decisions_are_those_of_a_live_answer(store, task, costs):
    schema = TASKS[task]
    loaded = load_version(store, MODEL, publish_linear(store, schema=schema))
    columns = columns_of(60, seed=3)
    scores = loaded.scores(schema.table(columns))
    # a threshold that one of the rows meets exactly
    rule = Rule(float(scores[7, 0])) if costs is None else Rule(costs=costs)
    found = answer_table(loaded, schema.table(columns), rule)
    _, decisions = scores_and_decisions(Live(schema, scores, rule))
    *names, decision, version = names_of(schema)
    np.testing.assert_array_equal(np.stack([found[name] for name in names], axis=1), scores)
    assert found[decision].tolist() == decisions
    assert set(found[version].tolist()) == {1}


def test_what_a_version_says_beside_its_scores_has_columns_of_its_own(store):
    extras = ("q0.1", "uncertainty")
    loaded = load_version(store, MODEL, publish_linear(store, extras=extras))
    columns = columns_of(6, seed=2)
    found = answer_table(loaded, loaded.schema.table(columns), Rule())
    names = ("score", "decision", "model_version", *extras)
    assert tuple(found) == names_of(loaded.schema, extras) == names
    _, said = loaded.answer(loaded.schema.table(columns))
    np.testing.assert_array_equal(found["uncertainty"], said[:, 1])
    with pytest.raises(DataError, match=r"q0\.1"):
        names_of(loaded.schema, extras, kept=("q0.1",))


def test_a_threshold_between_two_float32_numbers_decides_as_live(store):
    schema = TASKS["binary"]
    loaded = load_version(store, MODEL, publish_linear(store))
    columns = columns_of(5, seed=4)
    scores = loaded.scores(schema.table(columns))
    rule = Rule(float(scores[2, 0]) + 1e-10)
    _, decisions = scores_and_decisions(Live(schema, scores, rule))
    found = answer_table(loaded, schema.table(columns), rule)
    assert found["decision"].tolist() == decisions


def test_rows_are_answered_in_their_order_however_many_calls_it_takes(store):
    loaded = load_version(store, MODEL, publish_linear(store, extras=("uncertainty",)))
    table = loaded.schema.table(columns_of(2 * CALL_ROWS + 3, seed=1))
    found = answer_table(loaded, table, Rule())
    scores, extras = loaded.answer(table)
    np.testing.assert_allclose(found["score"], scores[:, 0], rtol=1e-5)
    np.testing.assert_allclose(found["uncertainty"], extras[:, 0], rtol=1e-5, atol=1e-6)


def test_several_classes_have_a_score_each():
    assert names_of(TASKS["multiclass"]) == (
        "score_a",
        "score_b",
        "score_c",
        "decision",
        "model_version",
    )


@pytest.mark.parametrize("kept", ["score", "decision"])
def test_a_column_with_the_name_of_an_answer_is_not_kept(kept):
    with pytest.raises(DataError, match=kept):
        names_of(TASKS["binary"], kept=(kept,))


def test_the_champion_answers_unless_a_version_is_named(store):
    with pytest.raises(NotFound, match="no champion"):
        chosen_version(CatalogState(MODEL), None)
    first, second = publish_linear(store), publish_linear(store, bias=1.0)
    state = Catalog(store, MODEL).latest().state
    assert chosen_version(state, None) == first
    assert chosen_version(state, 2) == second
    with pytest.raises(UnknownName, match="known: 1, 2"):
        chosen_version(state, 3)
    with pytest.raises(GateRefused, match="it is broken"):
        chosen_version(replace(state, refused={2: "it is broken"}), 2)


def test_the_sentence_says_how_many_how_fast_and_what_could_not_be_read():
    done = Predicted("orders", 3, 2000, 7, scored=2000, seconds=0.5, output="out", summary={})
    assert done.sentence() == (
        "2,000 rows answered by v3 of 'orders' in 0.5 s (4,000 rows/s); 7 of them have unreadable "
        "values, taken as missing"
    )
    some = replace(done, scored=500, unreadable=0)
    assert some.sentence() == (
        "2,000 rows answered by v3 of 'orders', 500 of them now, in 0.5 s (1,000 rows/s)"
    )
    assert replace(some, scored=0).sentence().endswith("; all of them were there already")
