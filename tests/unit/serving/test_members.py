"""Who is in a pool, and what its models say of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import SpecError
from hapredict.registry.store import open_store
from hapredict.sections_live import ServingSpec
from hapredict.serving.members import (
    join,
    leave,
    member_path,
    members,
    read_member,
    remove,
    sayings,
    settle,
)
from tests.support.bundles import spec_of

values = st.dictionaries(
    st.sampled_from(["upscale_delay_s", "num_cpus", "pool_memory_mb"]), st.sampled_from([16, 32])
)


@pytest.fixture
def store(request):
    return open_store(f"memory://{request.node.name}")


def member(store, model):
    path = member_path("p", model)
    return read_member(store.get(path), path)


def test_what_one_model_says_holds_for_all(store):
    join(store, "p", spec_of("a", serving={"pool": "p", "num_cpus": 2}))
    settings = join(store, "p", spec_of("b", serving={"pool": "p", "min_replicas": 3}))
    assert (settings.num_cpus, settings.min_replicas) == (2, 3)
    assert settings.pool_memory_mb == ServingSpec().pool_memory_mb
    assert members(store, "p") == ("a", "b")


def test_who_says_something_else_is_refused_and_told_who_said_what(store):
    join(store, "p", spec_of("a", serving={"pool": "p", "num_cpus": 2}))
    with pytest.raises(SpecError) as caught:
        join(store, "p", spec_of("b", serving={"pool": "p", "num_cpus": 1, "threshold": 0.4}))
    said = str(caught.value)
    assert "serving.num_cpus" in said
    assert "1.0 in the spec of 'b' and 2.0 in that of 'a'" in said
    assert members(store, "p") == ("a",)


def test_a_model_may_change_what_it_alone_says(store):
    join(store, "p", spec_of("a", serving={"pool": "p", "num_cpus": 2}))
    join(store, "p", spec_of("b", serving={"pool": "p"}))
    settings = join(store, "p", spec_of("a", serving={"pool": "p", "num_cpus": 1}))
    assert settings.num_cpus == 1
    join(store, "p", spec_of("a", serving={"pool": "p"}))
    assert sayings(store, "p") == {}


def test_what_is_the_models_own_does_not_concern_the_pool(store):
    join(store, "p", spec_of("a", serving={"pool": "p", "threshold": 0.2, "rows_max": 5}))
    settings = join(store, "p", spec_of("b", serving={"pool": "p", "threshold": 0.9}))
    assert settings.threshold is None
    assert member(store, "a").serving.threshold == 0.2


def test_who_left_is_known_until_removed_and_says_nothing_more(store):
    join(store, "p", spec_of("a", serving={"pool": "p", "num_cpus": 2}))
    leave(store, "p", "a")
    assert member(store, "a").name == "a"
    assert sayings(store, "p") == {}
    remove(store, "p", "a")
    assert members(store, "p") == ()
    leave(store, "p", "a")
    assert members(store, "p") == ()


@given(st.dictionaries(st.sampled_from("abcd"), values, min_size=1))
def test_settings_are_what_all_say_or_nobody_has_them(said):
    newest = max(said)
    differ = {
        name
        for one in said.values()
        for other in said.values()
        for name in one.keys() & other.keys()
        if one[name] != other[name]
    }
    if differ:
        with pytest.raises(SpecError) as caught:
            settle("p", said, newest)
        assert all(f"serving.{name}" in str(caught.value) for name in _differ_from(said, newest))
        return
    settings = settle("p", said, newest)
    for one in said.values():
        assert {name: getattr(settings, name) for name in one} == one


def _differ_from(said, newest):
    return {
        name
        for one in said.values()
        for name in one.keys() & said[newest].keys()
        if one[name] != said[newest][name]
    }
