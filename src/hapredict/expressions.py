"""Conditions on a prediction, such as `score > 0.9 and amount > 1000`: read, never run as code.

A condition is made of names, numbers, texts, comparisons, `and`, `or`, `not`, brackets, `in (...)`
and `is None`; anything else is refused with its place. A name is a column of the model or one of
`score`, `decision`, `uncertainty`, `version`; `row["unit price"]` names a column that is no word,
or that has one of those names.
"""

import ast
import difflib
import math
import unicodedata
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

LENGTH_MAX = 1000
"""Characters of a condition."""
DEPTH_MAX = 20
"""How deep brackets may go."""

Type = Literal["number", "text"]
Operator = Literal["==", "!=", "<", "<=", ">", ">="]

RESERVED = ("score", "decision", "uncertainty", "version")
"""Names that are about the answer."""

_OPERATORS: Mapping[type[ast.cmpop], Operator] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


class ExpressionError(ValueError):
    """A condition that cannot be read; its sentence says where and what to do."""


@dataclass(frozen=True, slots=True)
class Name:
    """A column, or with `answer` something about the answer."""

    name: str
    answer: bool = False


@dataclass(frozen=True, slots=True)
class Constant:
    """A number or a text of the condition."""

    value: float | str


Value = Name | Constant


@dataclass(frozen=True, slots=True)
class Compare:
    """Two values compared. With a missing value on either side it is false, also for `!=`."""

    left: Value
    operator: Operator
    right: Value


@dataclass(frozen=True, slots=True)
class Within:
    """Whether a value is one of some; false if it is missing, also where `negated`."""

    value: Name
    members: tuple[Constant, ...]
    negated: bool


@dataclass(frozen=True, slots=True)
class Missing:
    """Whether a value is missing, or `negated` whether it is there."""

    value: Name
    negated: bool


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite."""

    part: "Condition"


@dataclass(frozen=True, slots=True)
class Every:
    """True where all parts are."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Some:
    """True where any part is."""

    parts: tuple["Condition", ...]


Condition = Compare | Within | Missing | Not | Every | Some


def parse(text: str) -> Condition:
    """The condition in a text. Raises ExpressionError that says what is not allowed, and where."""
    if len(text) > LENGTH_MAX:
        raise ExpressionError(f"is longer than {LENGTH_MAX} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd backslash in a text is the text's affair
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        told = getattr(error, "msg", str(error))
        raise ExpressionError(
            f"cannot be read: {told}; write it like: score > 0.9 and amount > 1000"
        ) from None
    return _condition(tree.body, 0)


def names_of(condition: Condition) -> Iterator[Name]:
    """The names in a condition, in the order in which they stand there."""
    for value in _values(condition):
        if isinstance(value, Name):
            yield value


def check(
    condition: Condition, columns: Mapping[str, Type], decision: Type, classes: Collection[str] = ()
) -> list[str]:
    """What is wrong with a condition for a model with these columns; nothing if it can be used.

    `decision` is what the model's decisions are, `classes` all of them if they are known.
    """
    problems = []
    for name in dict.fromkeys(names_of(condition)):
        if not name.answer and spelled(name.name, columns) not in columns:
            near = difflib.get_close_matches(name.name, [*columns, *RESERVED], 1)
            guess = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(columns)}"
            problems.append(f"no such column {name.name!r}; {guess}")
    if problems:
        return problems
    for part in _parts(condition):
        if isinstance(part, Compare):
            pairs = [(part.left, part.right)]
        elif isinstance(part, Within):
            pairs = [(part.value, member) for member in part.members]
        else:
            continue
        for left, right in pairs:
            types = _type(left, columns, decision), _type(right, columns, decision)
            if types[0] != types[1]:
                problems.append(
                    f"{_shown(left)} is a {types[0]} and {_shown(right)} a {types[1]}; "
                    "compare like with like"
                )
                continue
            problems += _unknown_class(left, right, classes)
    return list(dict.fromkeys(problems))


def _unknown_class(left: Value, right: Value, classes: Collection[str]) -> list[str]:
    pair = {type(value): value for value in (left, right)}
    name, constant = pair.get(Name), pair.get(Constant)
    if not (isinstance(name, Name) and isinstance(constant, Constant) and classes):
        return []
    if not (name.answer and name.name == "decision") or constant.value in classes:
        return []
    return [f"decision is never {constant.value!r}; it is one of {', '.join(sorted(classes))}"]


def _condition(node: ast.expr, depth: int) -> Condition:
    if depth > DEPTH_MAX:
        raise ExpressionError(f"has more than {DEPTH_MAX} levels of brackets")
    match node:
        case ast.BoolOp(op=op, values=values):
            parts = tuple(_condition(value, depth + 1) for value in values)
            return Every(parts) if isinstance(op, ast.And) else Some(parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return Not(_condition(operand, depth + 1))
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [left, *comparators]
            parts = tuple(
                _comparison(one, op, other)
                for one, op, other in zip(sides, ops, comparators, strict=False)
            )
            return parts[0] if len(parts) == 1 else Every(parts)
        case _:
            raise ExpressionError(
                f"{_source(node)} is no comparison; compare it with something, such as > 0.9"
            )


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Condition:
    if isinstance(op, (ast.Is, ast.IsNot)):
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise ExpressionError(f"{_source(right)}: `is` stands before None only; use ==")
        return Missing(_name(left, "is None"), isinstance(op, ast.IsNot))
    if isinstance(op, (ast.In, ast.NotIn)):
        if not isinstance(right, (ast.Tuple, ast.List, ast.Set)) or not right.elts:
            raise ExpressionError(f'{_source(right)}: `in` needs a list, such as ("a", "b")')
        members = tuple(_constant(member) for member in right.elts)
        return Within(_name(left, "in"), members, isinstance(op, ast.NotIn))
    one, other = _value(left), _value(right)
    if isinstance(one, Constant) and isinstance(other, Constant):
        raise ExpressionError(
            f"{_source(left)} and {_source(right)}: nothing here depends on a row"
        )
    return Compare(one, _OPERATORS[type(op)], other)


def _value(node: ast.expr) -> Value:
    match node:
        case ast.Name(id=name):
            return Name(name, name in RESERVED)
        case ast.Subscript(value=ast.Name(id="row"), slice=ast.Constant(value=str(name))):
            return Name(name)
        case _:
            return _constant(node)


def _name(node: ast.expr, before: str) -> Name:
    found = _value(node)
    if not isinstance(found, Name):
        raise ExpressionError(f"{_source(node)}: before `{before}` stands a name")
    return found


def _constant(node: ast.expr) -> Constant:
    match node:
        case ast.Constant(value=bool(value)):
            raise ExpressionError(f'{value} is neither number nor text; write 1, 0 or "true"')
        case ast.Constant(value=str(value)):
            return Constant(value)
        case ast.Constant(value=int() | float() as value):
            return Constant(_finite(value))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if (
            not isinstance(value, bool)
        ):
            return Constant(-_finite(value))
        case ast.Constant(value=None):
            raise ExpressionError("None is compared by `is None` or `is not None`")
        case _:
            raise ExpressionError(
                f"{_source(node)} is not allowed; there are names, numbers, texts, comparisons, "
                "and, or, not, in (...), is None"
            )


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ExpressionError("a number in it is too large")
    return number


def _source(node: ast.AST) -> str:
    text = ast.unparse(node)
    return f"`{text if len(text) <= 40 else text[:40] + '...'}`"


def _parts(condition: Condition) -> Iterator[Condition]:
    yield condition
    if isinstance(condition, Not):
        yield from _parts(condition.part)
    elif isinstance(condition, (Every, Some)):
        for part in condition.parts:
            yield from _parts(part)


def _values(condition: Condition) -> Iterator[Value]:
    for part in _parts(condition):
        if isinstance(part, Compare):
            yield from (part.left, part.right)
        elif isinstance(part, (Within, Missing)):
            yield part.value


def _type(value: Value, columns: Mapping[str, Type], decision: Type) -> Type:
    if isinstance(value, Constant):
        return "text" if isinstance(value.value, str) else "number"
    if not value.answer:
        return columns[spelled(value.name, columns)]
    return decision if value.name == "decision" else "number"


def _shown(value: Value) -> str:
    return repr(value.value) if isinstance(value, Constant) else value.name


def spelled(name: str, columns: Collection[str]) -> str:
    """The column that a word of a condition means: reading it brings letters into one form."""
    if name in columns:
        return name
    same = [column for column in columns if unicodedata.normalize("NFKC", column) == name]
    return same[0] if len(same) == 1 else name
