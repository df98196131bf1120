"""The tree of errors: what survives a trip between processes, and what a caller is told."""

import copy
import inspect
import pickle

import pytest

from hapredict import errors
from hapredict.errors import (
    BadRequest,
    Conflict,
    DataError,
    GateRefused,
    HapredictError,
    Overloaded,
    PermanentError,
    Problem,
    SchemaMismatch,
    SpecError,
    StoreUnavailable,
    TemporaryError,
    TimedOut,
    UnknownName,
)

PROBLEMS = (Problem("rows[0].income", "is text"), Problem("rows[1].性别", "is missing"))
EXAMPLES = {
    Overloaded: Overloaded("too much work", 1.5),
    SpecError: SpecError(PROBLEMS),
    DataError: DataError("no rows"),
    UnknownName: UnknownName("model", "orders", ("order_risk",)),
    BadRequest: BadRequest("not JSON", 415),
    SchemaMismatch: SchemaMismatch(PROBLEMS),
}
KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, HapredictError) and not kind.__name__.startswith("_")
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def error(request):
    return EXAMPLES.get(request.param) or request.param("a sentence")


def test_an_error_survives_pickling_with_its_sentence_and_its_fields(error):
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert copied.args == error.args
    assert vars(copied) == vars(error)


def test_an_error_can_be_copied(error):
    assert str(copy.copy(error)) == str(error)


def test_each_error_says_something(error):
    assert len(str(error)) > 3


def test_each_error_is_either_temporary_or_permanent(error):
    if type(error) is not HapredictError:
        assert isinstance(error, TemporaryError) != isinstance(error, PermanentError)


def test_the_tree_in_the_docstring_names_each_error():
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in KINDS if kind.__name__ not in drawn] == []


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (HapredictError, 1),
        (StoreUnavailable, 1),
        (Conflict, 1),
        (SpecError, 2),
        (UnknownName, 2),
        (GateRefused, 3),
        (TimedOut, 4),
    ],
)
def test_a_command_ends_with_the_code_of_its_error(kind, code):
    assert kind.exit_code == code


def test_one_problem_is_one_line():
    assert str(SpecError((Problem("data.target", "is required"),))) == (
        "the spec is wrong: data.target: is required"
    )


def test_several_problems_are_a_list_that_leaves_none_out():
    lines = str(SpecError(PROBLEMS)).splitlines()
    assert len(lines) == 1 + len(PROBLEMS)
    assert all(problem.where in line for problem, line in zip(PROBLEMS, lines[1:], strict=True))


def test_a_mismatch_shows_five_problems_and_counts_the_rest():
    text = str(SchemaMismatch(tuple(Problem(f"c{n}", "is text") for n in range(8))))
    assert "c4" in text
    assert "c5" not in text
    assert "3 more" in text


def test_a_request_that_fits_no_model_is_the_callers_fault():
    assert BadRequest("?").status == 400
    assert SchemaMismatch(PROBLEMS).status == 422
    assert SchemaMismatch(PROBLEMS).problems == PROBLEMS


def test_an_unknown_name_lists_the_known_ones():
    assert "mlp" in str(UnknownName("family", "mpl", ("mlp",)))
    assert "none" in str(UnknownName("model", "a", ()))
