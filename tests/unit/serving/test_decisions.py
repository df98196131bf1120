"""The decision that a rule takes is the cheapest there is, whoever answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import GateRefused
from hapredict.sections_live import ServingSpec
from hapredict.serving.answers import predictions
from hapredict.serving.decisions import Rule, check_costs, cost_matrix, cost_metrics
from tests.support.bundles import schema_of
from tests.support.serving import answer_of

BINARY = schema_of(("no", "yes"))
SEVERAL = schema_of(("a", "b", "c"), "multiclass")
costs = st.floats(0, 100).map(lambda cost: round(cost, 2))


def shares(width):
    return st.lists(st.floats(0.01, 1), min_size=width, max_size=width).map(
        lambda parts: np.array(parts) / sum(parts)
    )


@given(costs, costs, st.floats(0, 1))
def test_two_classes_are_decided_at_the_lowest_expected_cost(eager, shy, score):
    rule = Rule(costs={"no": {"yes": eager}, "yes": {"no": shy}})
    place = rule.places(np.array([[score]]), BINARY.classes)[0]
    expected = [score * shy, (1 - score) * eager]
    assert expected[place] == pytest.approx(min(expected), abs=1e-9)


@given(st.lists(costs, min_size=6, max_size=6), shares(3))
def test_several_classes_are_decided_at_the_lowest_expected_cost(numbers, scores):
    matrix = np.zeros((3, 3))
    matrix[~np.eye(3, dtype=bool)] = numbers
    names = SEVERAL.classes
    rows = zip(names, matrix.tolist(), strict=True)
    rule = Rule(costs={true: dict(zip(names, row, strict=True)) for true, row in rows})
    expected = scores @ matrix
    assert expected[rule.places(scores[None], names)[0]] == pytest.approx(expected.min())


@given(costs.filter(bool), costs.filter(bool), st.floats(0, 1))
def test_a_binary_model_decides_as_one_of_two_classes_would(eager, shy, score):
    rule = Rule(costs={"no": {"yes": eager}, "yes": {"no": shy}})
    if abs(score - eager / (eager + shy)) < 1e-6:
        return  # both decisions cost the same
    alone = rule.places(np.array([[score]]), BINARY.classes)
    both = rule.places(np.array([[1 - score, score]]), BINARY.classes)
    assert alone == both


def test_a_missed_case_that_is_dear_lowers_the_threshold():
    rule = Rule(costs={"yes": {"no": 9}, "no": {"yes": 1}})
    assert rule.positive_from(("no", "yes")) == pytest.approx(0.1)
    rows = predictions(answer_of(BINARY, 8, rule=rule))
    assert all((row["decision"] == "yes") == (row["score"] >= 0.1) for row in rows)
    assert {row["decision"] for row in predictions(answer_of(BINARY, 8))} == {"no", "yes"}


def test_what_deciding_right_costs_counts_too():
    costs = {"yes": {"no": 10, "yes": 4}, "no": {"yes": 4}}
    assert Rule(costs=costs).positive_from(("no", "yes")) == pytest.approx(4 / 10)


def test_without_costs_the_likelier_class_is_decided():
    assert Rule().positive_from(("no", "yes")) == 0.5
    assert Rule(0.9).positive_from(("no", "yes")) == 0.9
    assert Rule(costs={"no": {"no": 0}}).positive_from(("no", "yes")) == 0.5
    assert Rule().places(np.array([[0.2, 0.5, 0.3]]), SEVERAL.classes) == 1


def test_a_class_that_the_costs_do_not_know_costs_nothing():
    rule = Rule(costs={"a": {"b": 5}, "gone": {"a": 100}})
    assert cost_matrix(rule.costs, ("a", "b", "new")).tolist() == [[0, 5, 0], [0, 0, 0], [0, 0, 0]]
    assert rule.places(np.array([[0.9, 0.05, 0.05]]), ("a", "b", "new")) == 0


def test_one_rule_serves_versions_with_different_classes():
    rule = Rule(costs={"yes": {"no": 9}, "no": {"yes": 1}, "maybe": {"no": 1}})
    assert rule.positive_from(("no", "yes")) == pytest.approx(0.1)
    assert rule.positive_from(("no", "maybe")) == 0
    assert rule.positive_from(("no", "yes")) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("schema", "costs", "told"),
    [
        (BINARY, {"no": {"ja": 1}}, r"names \['ja'\]; 'late' has the classes \['no', 'yes'\]"),
        (BINARY, {"1": {"0": 1}}, r"names \['0', '1'\]"),
        (BINARY, {"no": {"no": 5, "yes": 1}}, "a right decision may not be the dearer one"),
        (SEVERAL, {"a": {"b": -1}}, "deciding 'b' costs -1"),
        (schema_of((), "regression"), {"1": {"0": 1}}, "makes a regression"),
    ],
)
def test_costs_that_do_not_fit_a_model_are_refused(schema, costs, told):
    with pytest.raises(GateRefused, match=told):
        check_costs(ServingSpec(costs=costs), schema)


def test_costs_that_fit_are_taken():
    check_costs(ServingSpec(costs={"yes": {"no": 50}, "no": {"yes": 2}}), BINARY)
    check_costs(ServingSpec(threshold=0.3), BINARY)
    check_costs(ServingSpec(), schema_of((), "regression"))


@given(costs, costs, st.integers(0, 99))
def test_honest_scores_and_costs_save_what_costs_say(eager, shy, seed):
    chance = np.random.default_rng(seed)
    scores = chance.random((4000, 1))
    labels = (chance.random(4000) < scores[:, 0]).astype(float)
    spec = ServingSpec(costs={"no": {"yes": eager}, "yes": {"no": shy}})
    found = cost_metrics(spec, BINARY, labels, scores)
    assert found["cost"] <= found["cost_without"] + 0.05 * max(eager, shy)
    if max(eager, shy) > 5 * min(eager, shy):
        assert found["cost"] <= found["cost_without"]


def test_without_costs_nothing_is_said_of_them():
    assert cost_metrics(ServingSpec(), BINARY, np.zeros(3), np.zeros((3, 1))) == {}
