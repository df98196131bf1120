"""Conditions of alerts: what is read, what is refused, what is said about it."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.expressions import ExpressionError, check, names_of, parse

COLUMNS = {"amount": "number", "city": "text", "收入": "number", "unit price": "number"}


@pytest.mark.parametrize(
    "text",
    [
        "score > 0.9 and amount > 1000",
        "0.2 < score <= 0.8",
        "not (city == 'Zürich' or city != \"北京\")",
        "收入 < -1.5",
        "city in ('Lyon', 'Paris') and amount not in [1, 2]",
        "amount is None or uncertainty is not None",
        'row["unit price"] >= 3',
        "decision == 'late'",
        "version == 3",
        "amount > 收入",
    ],
)
def test_conditions_of_the_language_are_read_and_fit_a_model(text):
    assert check(parse(text), COLUMNS, "text", ("late", "on time")) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "score",
        "score >",
        "score > 0.9; import os",
        "score = 0.9",
        "__import__('os').system('true')",
        "score.real > 1",
        "score + 1 > 2",
        "f(score) > 1",
        "row['a']['b'] > 1",
        "other['a'] > 1",
        "row[0] > 1",
        "[x for x in (1,)] == 1",
        "lambda: 1",
        "score if amount else city",
        "(score := 1) > 0",
        "f'{score}' == 'a'",
        "score > True",
        "score == None",
        "score is 1",
        "1 is None",
        "1 < 2",
        "score in amount",
        "score in ()",
        "1 in (1, 2)",
        "score > 1j",
        "score > b'a'",
        "score > ...",
        "score > 1e999",
        "score > " + "9" * 500,
        "score > -True",
        "~score > 1",
        "score > *amount",
        "score > 1\x00",
        "(" * 300 + "score > 1" + ")" * 300,
        "not " * 40 + "score > 1",
        "score > 1 and " * 200 + "score > 1",
        "await score > 1",
        "yield",
    ],
)
def test_everything_else_is_refused_with_a_sentence(text):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert str(caught.value)


@given(st.text(max_size=40))
@settings(max_examples=200)
def test_no_text_does_anything_but_be_read_or_refused(text):
    try:
        found = parse(text)
    except ExpressionError:
        return
    allowed = (
        ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Name, ast.Constant, ast.Subscript,
        ast.Tuple, ast.List, ast.Set, ast.boolop, ast.unaryop, ast.cmpop, ast.Load, ast.Expression,
    )  # fmt: skip
    assert all(isinstance(node, allowed) for node in ast.walk(ast.parse(text.strip(), mode="eval")))
    list(names_of(found))


def problems(text, **known):
    return check(parse(text), COLUMNS, **{"decision": "text", **known})


def test_an_unknown_column_gets_a_guess():
    assert problems("amout > 1") == ["no such column 'amout'; did you mean 'amount'?"]
    assert problems("zzz > 1") == [
        "no such column 'zzz'; known are amount, city, 收入, unit price",
    ]


def test_like_is_compared_with_like():
    assert problems("amount == 'a'") == [
        "amount is a number and 'a' a text; compare like with like"
    ]
    assert problems("city in ('a', 1)") == [
        "city is a text and 1.0 a number; compare like with like"
    ]
    assert problems("decision == 1", decision="number") == []


def test_a_decision_that_is_never_taken_is_told():
    assert problems("decision == 'lte'", classes=("late", "on time")) == [
        "decision is never 'lte'; it is one of late, on time"
    ]


def test_a_column_with_the_name_of_an_answer_can_be_reached():
    (one, other) = names_of(parse('score > 1 and row["score"] > 2'))
    assert (one.answer, other.answer) == (True, False)


def test_a_column_whose_letters_have_two_forms_is_found():
    assert check(parse("ﬁt > 1"), {"ﬁt": "number"}, "text") == []
