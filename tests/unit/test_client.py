"""The client against the real app without a network, and against answers that no app gives."""

import json
import random
import subprocess
import sys

import httpx
import numpy as np
import pytest

import hapredict
from hapredict.client import PAUSE_MAX_S, Client, Feedback, error_of
from hapredict.errors import (
    BadRequest,
    ClusterUnavailable,
    HapredictError,
    NotFound,
    Overloaded,
    SchemaMismatch,
    StoreUnavailable,
    TemporaryError,
    TimedOut,
    UnknownName,
)
from hapredict.serving.asgi import App
from tests.support.bundles import rows_as_json, schema_of
from tests.support.clients import Nodes, Waits
from tests.support.serving import Clock, FakeReplica, not_ready

LABEL = Feedback("p-1", "yes")


def _client(nodes, *, model="orders", **options):
    urls = [f"http://{name}/orders/" for name in nodes.nodes]
    options = {"sleep": Waits(), "chance": random.Random(0), **options}
    return Client(urls, model, transport=nodes, **options)


def _busy(seconds=3):
    return httpx.Response(503, headers={"retry-after": str(seconds)}, json={"error": "busy"})


@pytest.fixture
def replica():
    return FakeReplica()


@pytest.fixture
def app(replica):
    return App(replica, clock=Clock())


def test_rows_get_typed_predictions(app):
    with _client(Nodes(a=app)) as client:
        first, second = client.predict(rows_as_json(2))
        # the client names each call, so that asking again is the same prediction
        key, _, place = first.prediction_id.rpartition("-")
        assert (place, second.prediction_id) == ("0", f"{key}-1")
        assert (first.decision, first.model_version) == ("no", 1)
        assert first.score == pytest.approx(0.13)
        assert second.served_by == "champion"
        assert client.predict(rows_as_json(1), version=2)[0].model_version == 2


def test_several_classes_get_a_probability_each():
    app = App(FakeReplica(schema=schema_of(("a", "ß"), "multiclass")), clock=Clock())
    (row,) = _client(Nodes(a=app)).predict(rows_as_json(1))
    assert set(row.score) == {"a", "ß"}


def test_values_of_numpy_are_sent_and_nan_is_missing(app):
    row = {
        "收入": np.float64("nan"),
        "distance": np.int32(3),
        "性别": np.str_("女"),
        "carrier": None,
    }
    assert len(_client(Nodes(a=app)).predict([row])) == 1
    with pytest.raises(TypeError, match="a row holds a object, which has no form in JSON"):
        _client(Nodes(a=app)).predict([{"distance": object()}])


def test_labels_are_sent_as_values_or_as_mappings(app, replica):
    client = _client(Nodes(a=app))
    label = {"prediction_id": "p-2", "label": np.bool_(True), "at": "2026-03-01T00:00:00Z"}
    assert client.feedback([LABEL, label]) == 2
    assert [(each.id, each.value) for each in replica.labels] == [("p-1", "yes"), ("p-2", True)]


def test_the_model_describes_itself(app):
    model = _client(Nodes(a=app)).model()
    assert (model.name, model.version, model.versions) == ("orders", 1, (1, 2))
    assert model.schema == schema_of()
    with pytest.raises(TemporaryError, match="no version in service"):
        _client(Nodes(a=App(not_ready(), clock=Clock()))).model()


def test_readiness_of_any_node_is_enough(app):
    down, starting = httpx.ConnectError("refused"), App(not_ready(), clock=Clock())
    assert _client(Nodes(a=down, b=starting, c=app)).ready()
    assert not _client(Nodes(a=down, b=starting)).ready()


def test_faulty_fields_come_back_as_the_error_that_the_server_raised(app):
    nodes = Nodes(a=app)
    with pytest.raises(SchemaMismatch) as caught:
        _client(nodes).predict([{**rows_as_json(1)[0], "distance": "far"}])
    (problem,) = caught.value.problems
    assert problem.where == "rows[0].distance"
    assert caught.value.status == 422
    assert len(nodes.asked) == 1  # the same rows would be refused again


def test_an_unknown_model_or_version_comes_back_with_what_is_known(app):
    with pytest.raises(UnknownName, match="known: orders"):
        _client(Nodes(a=app), model="other").predict(rows_as_json(1))
    with pytest.raises(UnknownName, match="known: 1, 2"):
        _client(Nodes(a=app)).predict(rows_as_json(1), version=9)


def test_what_the_store_refuses_comes_back_as_trouble_of_the_store(app, replica):
    replica.faults["feedback"] = StoreUnavailable("no answer")
    waits = Waits()
    with pytest.raises(StoreUnavailable, match="no answer"):
        _client(Nodes(a=app), sleep=waits, rounds_max=3).feedback([LABEL])
    assert len(waits) == 2
    assert min(waits) >= 1  # as Retry-After said


def test_another_node_is_asked_at_once_and_from_then_on_first(app):
    nodes, waits = Nodes(a=httpx.ConnectError("refused"), b=app), Waits()
    client = _client(nodes, sleep=waits)
    client.predict(rows_as_json(1))
    client.predict(rows_as_json(1))
    assert nodes.asked == ["a", "b", "b"]
    assert not waits


@pytest.mark.parametrize(
    "trouble",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
        httpx.Response(502, text="<html>bad gateway"),
        httpx.Response(503, text="no server"),
        httpx.Response(504, text="gateway timeout"),
        httpx.Response(429, json={"error": "too many"}),
        httpx.Response(408, text=""),
    ],
    ids=str,
)
def test_what_fails_for_a_time_is_tried_again(app, trouble):
    nodes, waits = Nodes(a=[trouble, trouble, app]), Waits()
    assert _client(nodes, sleep=waits).predict(rows_as_json(1))
    assert len(waits) == 2
    with pytest.raises(TemporaryError):
        _client(Nodes(a=trouble)).predict(rows_as_json(1))


def test_pauses_grow_are_jittered_and_have_a_limit():
    waits = Waits()
    nodes = Nodes(a=httpx.ConnectError("refused"), b=httpx.ConnectError("refused"))
    with pytest.raises(ClusterUnavailable, match=r"http://b/orders\S+ cannot be reached"):
        _client(nodes, sleep=waits, rounds_max=12, pause_s=0.1).predict(rows_as_json(1))
    tops = [min(PAUSE_MAX_S, 0.1 * 2**turn) for turn in range(11)]
    assert all(0 <= wait <= top for wait, top in zip(waits, tops, strict=True))
    assert len(set(waits)) == 11
    assert nodes.asked == ["a", "b"] * 12


def test_retry_after_is_waited_for():
    waits = Waits()
    with pytest.raises(Overloaded, match="busy") as caught:
        _client(Nodes(a=_busy(7)), sleep=waits, rounds_max=2).predict(rows_as_json(1))
    assert 7 <= waits[0] <= 7.1
    assert caught.value.retry_after_s == 7


def test_the_server_is_told_how_long_the_caller_waits(app):
    seen = []

    class Spy(Nodes):
        def handle_request(self, request):
            seen.append(request.headers["x-deadline-ms"])
            return super().handle_request(request)

    _client(Spy(a=app), timeout_s=2.5).predict(rows_as_json(1))
    assert seen == ["2500"]


@pytest.mark.parametrize("body", [b"", b"hello", b"[]", b"{}", b'{"predictions": 7}', b"[" * 9999])
def test_an_answer_that_makes_no_sense_is_trouble_of_the_cluster(body):
    for call in (lambda c: c.predict([{}]), lambda c: c.model(), lambda c: c.feedback([LABEL])):
        with pytest.raises(TemporaryError):
            call(_client(Nodes(a=httpx.Response(200, content=body))))


@pytest.mark.parametrize(
    ("status", "value", "kind"),
    [
        (400, {"error": "no"}, BadRequest),
        (413, {"error": "no", "fields": "?"}, BadRequest),
        (422, {"fields": [{"field": "a", "problem": "b"}]}, SchemaMismatch),
        (404, {"error": "no", "unknown": {"kind": 1}}, NotFound),
        (404, None, NotFound),
        (503, {"type": "StoreUnavailable"}, StoreUnavailable),
        (503, {"type": ["x"]}, Overloaded),
        (504, {"error": "late"}, TimedOut),
        (500, {"error": "internal error"}, HapredictError),
        (301, None, HapredictError),
    ],
)
def test_any_refusal_becomes_an_error_of_the_tree(status, value, kind):
    answer = httpx.Response(
        status,
        content=b"\xff" if value is None else json.dumps(value).encode(),
        request=httpx.Request("GET", "http://a/"),
    )
    error = error_of(answer)
    assert type(error) is kind
    assert str(error)


def test_a_client_needs_a_url():
    with pytest.raises(ValueError, match="at least one URL"):
        Client([], "orders")


def test_the_package_hands_out_its_client_lazily():
    assert hapredict.Client is Client
    with pytest.raises(AttributeError, match="no attribute 'Server'"):
        _ = hapredict.Server
    program = (
        "import sys, hapredict; assert 'httpx' not in sys.modules; hapredict.Client; "
        "assert not {'ray', 'onnxruntime', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
