"""A cluster holds a level only if each thing that the level needs was found."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.doctor import Facts, NodeFacts, as_text, diagnose
from hapredict.spec import build_spec

SPEC = build_spec({"name": "orders", "data": {"sources": ["x.csv"], "target": "late"}})
VERSIONS = {"onnxruntime": "1.23", "numpy": "2.0"}


def node(name, **more):
    told = {
        "cpus": 4.0,
        "cpus_free": 3.0,
        "ingress": True,
        "haproxy": True,
        "store_trouble": "",
        "clock_ahead_s": 0.01,
        "disk_free_bytes": 50 << 30,
        "memory_free_bytes": 8 << 30,
        "files_max": 65536,
        "token": True,
        "versions": VERSIONS,
        **more,
    }
    return NodeFacts(name, **told)


HEAD = node("head", head=True, cpus=0.0, cpus_free=0.0)
GOOD = Facts(
    nodes=(HEAD, node("w1"), node("w2")),
    replicas=("w1", "w2"),
    store_url="s3://bucket",
    head_storage="redis",
    head_storage_place="redis:6379",
    reconnect_s=600,
    retry_on="conn-failure empty-response 503",
    clusters=2,
)


def change(name, **more):
    """GOOD, with one node otherwise."""
    nodes = tuple(replace(n, **more) if n.node == name else n for n in GOOD.nodes)
    return replace(GOOD, nodes=nodes)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_a_cluster_that_has_all_holds_every_level(level):
    found = diagnose(SPEC, GOOD, level)
    assert found.holds, found.missing
    assert found.held == level


@pytest.mark.parametrize(
    ("facts", "name", "held"),
    [
        (replace(GOOD, replicas=("w1",)), "replicas", 0),
        (replace(GOOD, retry_on=""), "retries", 0),
        (change("w2", store_trouble="no route"), "store", 0),
        (change("w2", haproxy=False), "haproxy", 0),
        (change("w1", clock_ahead_s=-4.0), "clock", 0),
        (change("w1", clock_ahead_s=None), "clock", 0),
        (change("w1", disk_free_bytes=1 << 20), "disk", 0),
        (change("w1", memory_free_bytes=None), "memory", 0),
        (change("w1", files_max=1024), "files", 0),
        (change("w1", versions={"onnxruntime": "1.24", "numpy": "2.0"}), "versions", 0),
        (replace(GOOD, nodes=(HEAD, node("w1"))), "worker nodes", 1),
        (replace(GOOD, replicas=("w1", "w1")), "spread", 1),
        (change("w2", ingress=False), "ingress", 1),
        (change("w2", cpus_free=0.0), "room", 1),
        (replace(GOOD, store_url="memory://x"), "shared store", 1),
        (replace(GOOD, head_storage="memory"), "head storage", 2),
        (change("head", cpus=4.0), "nothing served from the head", 2),
        (replace(GOOD, reconnect_s=60), "patience", 2),
        (change("w1", token=False), "token", 2),
        (replace(GOOD, clusters=1), "second cluster", 3),
    ],
)
def test_one_missing_thing_is_named_and_costs_its_level(facts, name, held):
    found = diagnose(SPEC, facts, 4)
    assert name in [check.name for check in found.missing]
    assert found.held == held
    assert all(check.means and check.mend for check in found.missing)


def test_what_is_missing_once_is_told_once():
    found = diagnose(SPEC, change("w1", token=False), 4)
    assert [(check.name, check.found) for check in found.missing] == [
        ("token", "w1: anybody may talk to Ray")
    ]


def test_knowing_nothing_proves_nothing():
    found = diagnose(SPEC, Facts(), 1)
    assert not found.holds
    assert found.held == 0


def test_the_level_of_the_spec_is_meant_unless_another_is_asked_for():
    spec = SPEC.model_copy(
        update={"availability": SPEC.availability.model_copy(update={"level": 2})}
    )
    assert diagnose(spec, GOOD).level == 2
    assert diagnose(spec, GOOD, 1).level == 1


@given(st.lists(st.booleans(), min_size=4, max_size=4), st.integers(1, 4))
def test_a_higher_level_never_needs_less(broken, level):
    facts = replace(
        GOOD,
        retry_on="" if broken[0] else GOOD.retry_on,
        replicas=("w1", "w1") if broken[1] else GOOD.replicas,
        head_storage="memory" if broken[2] else "redis",
        clusters=1 if broken[3] else 2,
    )
    found = diagnose(SPEC, facts, level)
    assert found.holds == (not any(broken[:level]))
    assert found.held <= level


def test_the_text_says_what_to_do():
    said = as_text(diagnose(SPEC, replace(GOOD, head_storage="memory"), 3))
    assert "NOT OK head storage: memory redis:6379" in said
    assert "mend:  start the head with RAY_REDIS_ADDRESS" in said
    assert said.endswith("level 3 cannot be held; level 2 can")
    assert as_text(diagnose(SPEC, GOOD, 4)).endswith("level 4 can be held")
