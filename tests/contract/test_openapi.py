"""The app against its own OpenAPI document: requests that are of its shapes, and that are not."""

import secrets

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from hapredict.registry.store import open_store
from hapredict.serving.asgi import App
from hapredict.serving.openapi import document
from hapredict.serving.replica import Replica
from tests.support.bundles import MODEL, publish_linear
from tests.support.serving import Clock, FakeReplica

ROWS_MAX = 1000
DOCUMENT = document(MODEL, FakeReplica().about(), time_required=False, rows_max=ROWS_MAX)
_SERVED: dict[str, App] = {}


async def _served(scope, receive, send):
    """The app of the fixture; it runs no loops of its own."""
    if scope["type"] != "http":
        raise ValueError(scope["type"])
    await _SERVED["app"](scope, receive, send)


API = schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config())
API.config.update(base_url="http://testserver")
# HTTP lets proxies add headers, so that a server must bear those that it does not know.
API.config.generation.update(allow_extra_parameters=False)
API.config.checks.negative_data_rejection.expected_statuses = ["400", "404", "413", "422", "504"]
API.app = _served


@pytest.fixture(scope="module", autouse=True)
def served(tmp_path_factory):
    """A real replica behind the document."""
    store = open_store(f"memory://{secrets.token_hex(8)}")
    publish_linear(store)
    replica = Replica(store, MODEL, "r1", tmp_path_factory.mktemp("spool"), Clock())
    replica.refresh()
    _SERVED["app"] = App(replica, clock=Clock())
    yield
    replica.close()


@API.parametrize()
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_what_is_generated_is_answered_as_the_document_says(case):
    # A deadline of 0 ms is met by nobody: that 504 is no fault, and no other 5xx may come.
    excluded = [not_a_server_error]
    if isinstance(case.body, dict) and "inputs" in case.body:
        # That columns and tensors of one request are equally long is beyond JSON Schema.
        excluded.append(positive_data_acceptance)
    response = case.call_and_validate(excluded_checks=excluded)
    assert response.status_code < 500 or response.status_code == 504
