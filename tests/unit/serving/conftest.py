"""A store and replicas on it, for the tests that need real ones."""

import secrets

import pytest

from hapredict.registry.store import open_store
from hapredict.serving.replica import Replica
from tests.support.bundles import MODEL, publish_linear
from tests.support.replicas import NOW_S


@pytest.fixture
def store():
    return open_store(f"memory://{secrets.token_hex(8)}")


@pytest.fixture
def make(store, tmp_path):
    made = []

    def replica(**others):
        made.append(Replica(store, MODEL, f"r{len(made)}", tmp_path, lambda: NOW_S, **others))
        return made[-1]

    yield replica
    for one in made:
        one.close()


@pytest.fixture
def replica(store, make):
    publish_linear(store)
    replica = make()
    assert replica.refresh()
    return replica
