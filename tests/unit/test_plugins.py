"""Tables of named things."""

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import UnknownName
from hapredict.plugins import Plugins


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters=":")), unique=True))
def test_what_was_registered_is_found_in_the_order_of_registration(names):
    table = Plugins[str]("thing")
    for name in names:
        assert table.register(name)(name.upper()) == name.upper()
    assert list(table) == names
    assert len(table) == len(names)
    assert [table.find(name) for name in names] == [name.upper() for name in names]


def test_registering_returns_the_thing_itself():
    table = Plugins[object]("loss")

    @table.register("brier")
    def brier(label, score):
        return (label - score) ** 2

    assert table.find("brier") is brier


def test_a_name_can_be_taken_once():
    table = Plugins[int]("loss")
    table.register("brier")(1)
    with pytest.raises(ValueError, match="two of loss 'brier'"):
        table.register("brier")(2)
    assert table.find("brier") == 1


def test_a_name_with_a_colon_is_imported():
    assert Plugins[object]("function").find("math:sqrt") is math.sqrt


def test_an_unknown_name_says_which_are_known():
    table = Plugins[int]("family")
    table.register("mlp")(1)
    with pytest.raises(UnknownName, match="no family 'mpl'; known: mlp") as caught:
        table.find("mpl")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301
