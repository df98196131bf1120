"""Rules over rows that were answered: which are warned of, and what is said about them."""

import json
import math
import operator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import SpecError
from hapredict.expressions import Compare, Constant, Every, Missing, Not, Some, Within, parse
from hapredict.sections_alerts import AlertsSpec
from hapredict.serving.journal import PredictionPart, decode, encode, merge, pack, unpack
from hapredict.serving.risk import Frame, Rule, check_rules, holds, warnings_of
from tests.support.bundles import schema_of


def part(amount, city, scores, decisions=(), **extras):
    rows = len(amount)
    return PredictionPart(
        source="r1",
        seq=1,
        ids=tuple(f"p{row}" for row in range(rows)),
        at_s=np.full(rows, 5.0),
        event_s=np.full(rows, 5.0),
        keys=(None,) * rows,
        versions=np.full(rows, 2),
        scores=np.array(scores, float).reshape(rows, -1),
        other_versions=np.zeros(rows, np.int64),
        other_scores=np.full((rows, 1), np.nan),
        table={"amount": np.array(amount, float), "city": np.array(city, object)},
        windows=(),
        decisions=tuple(decisions),
        extras={name: np.array(values, float) for name, values in extras.items()},
    )


PART = part(
    [1, 2000, math.nan, 5000],
    ["a", "b", None, "a"],
    [0.1, 0.95, 0.99, 0.95],
    ["no", "yes", "yes", "yes"],
    uncertainty=[0.1, 0.2, 0.3, math.nan],
)


def rows_of(text, found=PART):
    return np.flatnonzero(holds(parse(text), Frame(found))).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("score > 0.9 and amount > 1000", [1, 3]),
        ("score > 0.9 or amount <= 1", [0, 1, 2, 3]),
        ("not amount > 1000", [0, 2]),
        ("amount != 1", [1, 3]),
        ("amount is None", [2]),
        ("city is not None and city != 'a'", [1]),
        ("city in ('a', 'c')", [0, 3]),
        ("city not in ('a', 'c')", [1]),
        ("city < 'b'", [0, 3]),
        ("decision == 'yes' and uncertainty < 0.25", [1]),
        ("version == 2 and uncertainty is None", [3]),
        ("0.1 < uncertainty <= 0.3", [1, 2]),
        ("gone == 1", []),
        ("gone is None", [0, 1, 2, 3]),
        ("city > amount", []),
    ],
)
def test_a_condition_holds_where_it_says(text, rows):
    assert rows_of(text) == rows


def test_of_several_classes_the_score_is_the_highest():
    assert rows_of("score > 0.5", part([1, 2], ["a", "b"], [[0.2, 0.8], [0.4, np.nan]])) == [0]


def test_a_warning_tells_the_named_fields_and_nothing_else():
    (found,) = warnings_of(PART, [Rule("risky", parse("score > 0.9 and amount > 1000"), 1)])
    assert found["rule"] == "risky"
    assert found["matched"] == 2
    assert found["rows"] == [
        {"prediction_id": "p1", "at_s": 5.0, "fields": {"score": 0.95, "amount": 2000.0}}
    ]
    json.dumps(found, allow_nan=False)


def test_missing_values_are_told_as_null():
    (found,) = warnings_of(PART, [Rule("gone", parse("amount is None and city is None"), 9)])
    assert found["rows"][0]["fields"] == {"amount": None, "city": None}


def test_no_row_no_warning():
    assert warnings_of(PART, [Rule("never", parse("score > 2"), 9)]) == []


@pytest.mark.parametrize("through", [lambda p: decode(encode(p)), lambda p: unpack(pack(p))])
def test_decisions_and_extras_go_through_the_journal(through):
    back = through(merge([PART, part([1], ["a"], [0.5])], source="r", seq=1, model="m"))
    assert back.decisions == (*PART.decisions, None)
    np.testing.assert_array_equal(back.extras["uncertainty"], [0.1, 0.2, 0.3, np.nan, np.nan])


def rules(*conditions):
    raw = [{"name": f"r{place}", "when": when} for place, when in enumerate(conditions)]
    return AlertsSpec.model_validate({"sinks": [{"log": True}], "rules": raw})


def test_a_spec_is_checked_against_the_model():
    check_rules(rules("distance > 3 and carrier == 'a'", "order == 'o1'"), schema_of())
    with pytest.raises(SpecError) as caught:
        check_rules(rules("distance > 3", "distanc > 3 and decision == 'maybe'"), schema_of())
    (problem,) = caught.value.problems
    assert problem.where == "alerts.rules[1].when"
    assert "did you mean 'distance'" in problem.what


# The same conditions, looked at row by row in plain Python

SIGNS = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">=": operator.ge}
NUMBERS = st.sampled_from(["amount", "score", "1.5", "-2", "0"])
TEXTS = st.sampled_from(["city", "decision", "'a'", "'b'"])
LEAVES = st.one_of(
    *(
        st.tuples(sides, st.sampled_from(sorted(SIGNS)), sides)
        .filter(lambda one: one[0][0].isalpha() or one[2][0].isalpha())
        .map(" ".join)
        for sides in (NUMBERS, TEXTS)
    ),
    st.sampled_from(["city in ('a', 'x')", "amount not in (0, 1.5)", "amount is None"]),
    st.sampled_from(["city is not None", "decision is None"]),
)
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        inner.map("not ({})".format),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(
            lambda one: f"({one[0]}) {one[1]} ({one[2]})"
        ),
    ),
    max_leaves=6,
)
ROWS = st.lists(
    st.tuples(
        st.sampled_from([math.nan, -2.0, 0.0, 1.5, 3.0]),
        st.sampled_from([None, "a", "b"]),
        st.sampled_from([0.0, 1.5, math.nan]),
        st.sampled_from([None, "a", "c"]),
    ),
    min_size=1,
    max_size=5,
)


def is_missing(value):
    return value is None or value != value  # noqa: PLR0124 - only NaN differs from itself


def plainly(node, row):
    match node:
        case Every(parts):
            return all(plainly(part, row) for part in parts)
        case Some(parts):
            return any(plainly(part, row) for part in parts)
        case Not(part):
            return not plainly(part, row)
        case Missing(name, negated):
            return is_missing(row[name.name]) != negated
        case Within(name, members, negated):
            value = row[name.name]
            found = value in [member.value for member in members]
            return not is_missing(value) and found != negated
        case Compare(left, sign, right):
            one, other = (
                side.value if isinstance(side, Constant) else row[side.name]
                for side in (left, right)
            )
            return not (is_missing(one) or is_missing(other)) and SIGNS[sign](one, other)


@given(CONDITIONS, ROWS)
@settings(max_examples=150)
def test_arrays_and_single_rows_agree(text, rows):
    amount, city, scores, decisions = zip(*rows, strict=True)
    names = ("amount", "city", "score", "decision")
    condition = parse(text)
    expected = [plainly(condition, dict(zip(names, row, strict=True))) for row in rows]
    found = part(amount, city, scores, decisions)
    assert holds(condition, Frame(found)).tolist() == expected
