"""The app in front of a replica that is no model: what callers send, and what they get."""

import asyncio
import json
import logging
import threading

import pytest

from hapredict.errors import (
    BadRequest,
    CorruptBundle,
    SchemaMismatch,
    StoreUnavailable,
    TemporaryError,
    UnknownName,
)
from hapredict.serving.asgi import App
from hapredict.serving.v2 import JSON_LENGTH, V2Binary
from tests.support.bundles import columns_of, rows_as_json, spec_of
from tests.support.serving import Clock, FakeReplica, ask, not_ready

PREDICT = "/v1/models/orders:predict"
FEEDBACK = "/v1/models/orders:feedback"


@pytest.fixture
def replica():
    return FakeReplica()


@pytest.fixture
def app(replica):
    return App(replica, clock=Clock())


def _ask(app, *args, **options):
    return asyncio.run(ask(app, *args, **options))


def _rows(count: int = 2):
    return {"instances": rows_as_json(count)}


def test_rows_are_answered_one_by_one(app):
    got = _ask(app, "POST", PREDICT, _rows(3))
    assert got.status == 200
    assert got.headers["content-type"] == "application/json"
    assert int(got.headers["content-length"]) == len(got.body)
    assert got.headers["x-model-version"] == "1"
    assert (got.json["model_name"], got.json["model_version"]) == ("orders", 1)
    first, *others = got.json["predictions"]
    assert len(others) == 2
    assert first == {
        "prediction_id": "call1-0",
        "score": pytest.approx(0.13),
        "decision": "no",
        "model_version": 1,
        "served_by": "champion",
    }


@pytest.mark.parametrize("where", ["around the model", "in the model"])
def test_without_memory_another_replica_is_to_answer_and_this_one_to_go(app, replica, where):
    assert not app.exhausted
    fault = MemoryError("no room")
    if where == "in the model":
        fault = TemporaryError("v1 could not score")
        fault.__cause__ = MemoryError("no room")
    replica.faults["predict"] = fault
    got = _ask(app, "POST", PREDICT, _rows())
    assert got.status == 503
    assert got.headers["retry-after"] == "1"
    assert app.exhausted


def test_columns_and_tensors_get_the_same_scores(app):
    columns = columns_of(2)
    tensors = [
        {"name": name, "datatype": kind, "shape": [2], "data": columns[name]}
        for name, kind in (
            ("收入", "FP64"),
            ("distance", "FP64"),
            ("性别", "BYTES"),
            ("carrier", "BYTES"),
        )
    ]
    rows = _ask(app, "POST", PREDICT, _rows(2)).json["predictions"]
    by_columns = _ask(app, "POST", PREDICT, {"inputs": columns}).json["predictions"]
    reply = _ask(app, "POST", "/v2/models/orders/infer", {"id": "7", "inputs": tensors}).json
    score = next(tensor for tensor in reply["outputs"] if tensor["name"] == "score")
    assert [row["score"] for row in rows] == [row["score"] for row in by_columns] == score["data"]
    assert reply["id"] == "7"


def test_tensors_as_bytes_get_the_same_scores_as_bytes(app):
    sent = V2Binary.encode_request(columns_of(3))
    headers = {key.decode(): value.decode() for key, value in sent.headers}
    got = _ask(app, "POST", "/v2/models/orders/infer", sent.body, headers=headers)
    assert (got.status, got.headers["content-type"]) == (200, "application/octet-stream")
    assert int(got.headers["content-length"]) == len(got.body)
    assert got.headers["x-model-version"] == "1"
    length = int(got.headers["inference-header-content-length"])
    assert all("data" not in tensor for tensor in json.loads(got.body[:length])["outputs"])
    reply = V2Binary.decode_response(got.body, {JSON_LENGTH: b"%d" % length})
    rows = _ask(app, "POST", PREDICT, {"inputs": columns_of(3)}).json["predictions"]
    assert [one.score for one in reply.predictions] == [row["score"] for row in rows]


def test_a_version_can_be_asked_for_by_number(app):
    got = _ask(app, "POST", "/v1/models/orders/versions/2:predict", _rows())
    assert got.headers["x-model-version"] == "2"
    assert {row["model_version"] for row in got.json["predictions"]} == {2}
    got = _ask(app, "POST", "/v1/models/orders/versions/9:predict", _rows())
    assert got.status == 404
    assert got.json["error"] == "there is no loaded version '9'; known: 1, 2"
    assert _ask(app, "POST", "/v1/models/orders/versions/new:predict", _rows()).status == 404


def test_an_answer_is_recorded_only_once_it_is_written(app, replica):
    _ask(app, "POST", PREDICT, _rows(), on_send=lambda m: replica.log.append(m["type"]))
    start, body = "http.response.start", "http.response.body"
    assert replica.log == ["predict", start, body, "after call1-0"]


def test_a_caller_who_hangs_up_before_the_answer_harms_nobody(app, replica):
    def reset(_message):
        raise OSError("connection reset")

    _ask(app, "POST", PREDICT, _rows(), on_send=reset)
    assert replica.log == ["predict", "after call1-0"]
    text = _metrics(app)
    assert 'code="499"' in text
    assert 'hapredict_requests_in_progress{model="orders"} 1.0' in text  # this very request


def test_a_caller_who_hangs_up_while_sending_is_not_answered(app, replica):
    got = _ask(app, "POST", PREDICT, chunks=[])
    assert got.status == 0
    assert not replica.log


def test_a_fault_in_recording_is_logged_and_harms_nobody(app, replica, caplog):
    replica.faults["after"] = RuntimeError("disk on fire")
    assert _ask(app, "POST", PREDICT, _rows()).status == 200
    assert "could not be recorded" in caplog.text
    assert "disk on fire" in caplog.text


def test_the_request_id_is_echoed_or_made(app):
    assert (
        _ask(app, "GET", "/livez", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"]
        == "abc-1"
    )
    made = [_ask(app, "GET", "/livez").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]
    unsafe = _ask(app, "GET", "/livez", headers={"X-Request-Id": "a\r\nb"})
    assert unsafe.headers["x-request-id"] not in ("", "a\r\nb")


def test_another_model_is_refused_with_the_name_of_this_one(app):
    for path in ("/v1/models/other:predict", "/v2/models/other/infer"):
        got = _ask(app, "POST", path, _rows())
        assert got.status == 404
        assert got.json["error"] == "there is no model 'other'; known: orders"


def test_unknown_paths_are_refused(app):
    for path in ("/", "/v1", "/v1/models/orders:explode", "/v2/models/orders/versions//infer"):
        got = _ask(app, "POST", path)
        assert got.status == 404
        assert "/docs" in got.json["error"]


def test_a_wrong_method_is_told_the_right_ones(app):
    got = _ask(app, "GET", PREDICT)
    assert (got.status, got.headers["allow"]) == (405, "POST, OPTIONS")
    got = _ask(app, "DELETE", "/livez")
    assert (got.status, got.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert "DELETE" in got.json["error"]


def test_head_is_get_without_a_body_and_options_says_what_is_allowed(app):
    got, head = _ask(app, "GET", "/livez"), _ask(app, "HEAD", "/livez")
    assert head.status == 200
    assert head.body == b""
    assert head.headers["content-length"] == got.headers["content-length"]
    options = _ask(app, "OPTIONS", PREDICT)
    assert (options.status, options.headers["allow"]) == (204, "POST, OPTIONS")
    assert "content-length" not in options.headers


@pytest.mark.parametrize("root", ["/orders", "/a/b/"])
def test_a_prefix_under_which_the_app_is_mounted_is_taken_off(app, root):
    prefix = root.rstrip("/")
    assert _ask(app, "POST", prefix + PREDICT, _rows(), root=root).status == 200
    assert _ask(app, "GET", prefix + "/livez/", root=root).status == 200
    # a server may have taken it off already
    assert _ask(app, "POST", PREDICT, _rows(), root=root).status == 200
    servers = _ask(app, "GET", prefix + "/openapi.json", root=root).json["servers"]
    assert servers == [{"url": prefix}]


def test_rows_that_do_not_fit_are_refused_field_by_field(app, replica):
    rows = rows_as_json(2)
    rows[1]["distance"] = "far"
    rows[0]["carrier"] = ["UA"]
    got = _ask(app, "POST", PREDICT, {"instances": rows})
    assert got.status == 422
    assert {field["field"] for field in got.json["fields"]} == {
        "rows[1].distance",
        "rows[0].carrier",
    }
    assert all(field["problem"] for field in got.json["fields"])
    assert not replica.calls


def test_nan_is_refused_with_the_name_of_its_field(app):
    body = json.dumps(_rows(1)).replace('"distance": ', '"distance": NaN, "was": ').encode()
    got = _ask(app, "POST", PREDICT, body)
    assert got.status == 400
    what = "NaN is not JSON; send null"
    assert got.json["fields"] == [{"field": "distance", "problem": what}]
    assert got.json["error"] == f"distance: {what}"


def test_too_many_rows_are_refused(app):
    got = _ask(app, "POST", PREDICT, {"instances": [{}] * 1001})
    assert got.status == 413
    assert "at most 1000" in got.json["error"]


def test_a_long_body_is_refused_before_it_is_read():
    app = App(FakeReplica(spec_of(serving={"body_bytes_max": 2000})), clock=Clock())
    read = []

    async def receive():
        read.append(1)
        return {"type": "http.request", "body": b" " * 900, "more_body": True}

    async def refused(headers):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": headers}
        await app(scope, receive, send)
        return sent[0]["status"]

    for length in (b"2001", b"9" * 5000):
        assert asyncio.run(refused([(b"content-length", length)])) == 413
    assert not read
    assert asyncio.run(refused([])) == 413
    assert len(read) == 3  # what is too long is noticed with the third piece, and no more is read


def test_a_body_may_come_in_pieces(app):
    body = json.dumps(_rows()).encode()
    pieces = [body[start : start + 50] for start in range(0, len(body), 50)]
    assert _ask(app, "POST", PREDICT, chunks=[*pieces, b""]).status == 200


@pytest.mark.parametrize(
    "headers", [{"Content-Encoding": "gzip"}, {"Inference-Header-Content-Length": "10"}]
)
def test_encoded_bodies_and_binary_rows_are_refused(app, headers):
    assert _ask(app, "POST", PREDICT, _rows(), headers=headers).status == 415
    assert _ask(app, "POST", PREDICT, _rows(), headers={"Content-Encoding": "identity"}).json


@pytest.mark.parametrize("fault", [RuntimeError("secret detail"), CorruptBundle("of ours")])
def test_a_fault_of_ours_is_a_500_without_details_and_the_app_lives(app, replica, fault, caplog):
    replica.faults["predict"] = fault
    got = _ask(app, "POST", PREDICT, _rows(), headers={"X-Request-Id": "r-1"})
    assert got.status == 500
    assert got.json == {"error": "internal error", "request_id": "r-1"}
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "r-1" in record.getMessage()
    assert record.exc_info
    replica.faults.clear()
    assert _ask(app, "POST", PREDICT, _rows()).status == 200


def test_before_a_version_is_in_service_callers_are_told_to_come_back():
    app = App(not_ready(), clock=Clock())
    for method, path in (("POST", PREDICT), ("POST", FEEDBACK), ("GET", "/openapi.json")):
        got = _ask(app, method, path, _rows())
        assert (got.status, got.headers["retry-after"]) == (503, "1")
        assert "no version in service yet" in got.json["error"]
    assert _ask(app, "GET", "/livez").status == 200


@pytest.mark.parametrize("path", ["/readyz", "/healthz", "/v2/health/ready"])
def test_readiness_says_why_not(path):
    replica = not_ready()
    replica.trouble = "the store does not answer"
    got = _ask(App(replica, clock=Clock()), "GET", path)
    assert got.status == 503
    assert got.json["ready"] is False
    assert got.json["reasons"] == [
        "no version of model 'orders' is in service yet",
        "the store does not answer",
    ]


def test_a_ready_replica_with_store_trouble_stays_ready(app, replica):
    replica.trouble = "the store does not answer"
    got = _ask(app, "GET", "/readyz")
    assert (got.status, got.json["ready"], got.json["reasons"]) == (200, True, [])
    assert got.json["store_trouble"] == "the store does not answer"


def test_labels_are_acknowledged_only_after_they_are_durable(app, replica):
    threads = []
    keep = replica.feedback
    replica.feedback = lambda labels: (threads.append(threading.get_ident()), keep(labels))
    order = []
    body = {"labels": [{"prediction_id": "p", "label": "yes", "at": 5}] * 2}
    got = _ask(app, "POST", FEEDBACK, body, on_send=lambda _: order.append(len(replica.labels)))
    assert (got.status, got.json) == (200, {"acknowledged": 2})
    assert order == [2, 2]
    assert threads != [threading.get_ident()]  # the event loop does not wait for the disk
    label = replica.labels[0]
    assert (label.id, label.value, label.at_s, label.event_s) == ("p", "yes", 1000.0, 5.0)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (StoreUnavailable("no answer"), 503),
        (TemporaryError("later"), 503),
        (BadRequest("labels[0]: must be yes or no", 422), 422),
        (OSError("disk full"), 500),
    ],
)
def test_labels_that_could_not_be_kept_are_not_acknowledged(app, replica, fault, status):
    replica.faults["feedback"] = fault
    got = _ask(app, "POST", FEEDBACK, {"prediction_id": "p", "label": 1})
    assert got.status == status
    assert "acknowledged" not in got.json
    assert ("retry-after" in got.headers) == (status == 503)
    assert 'hapredict_labels_total{model="orders"} 0.0' in _metrics(app)


def test_too_many_labels_are_refused(app):
    got = _ask(app, "POST", FEEDBACK, {"labels": [{"prediction_id": "p", "label": 1}] * 1001})
    assert got.status == 413


def test_a_handle_gets_the_answers_and_errors_of_http(app, replica):
    rows = rows_as_json(2)
    over_http = _ask(app, "POST", PREDICT, {"instances": rows}).json["predictions"]
    by_handle = asyncio.run(app.predict_rows(rows))
    assert [{**row, "prediction_id": ""} for row in by_handle] == [
        {**row, "prediction_id": ""} for row in over_http
    ]
    assert replica.log[-1] == "after call2-0"
    for bad, error in ((["x"], SchemaMismatch), ([{"a": 1}], SchemaMismatch), ([], BadRequest)):
        with pytest.raises(error):
            asyncio.run(app.predict_rows(bad))
    with pytest.raises(UnknownName):
        asyncio.run(app.predict_rows(rows, version=9))
    replica.faults["predict"] = TemporaryError("busy")
    with pytest.raises(TemporaryError):
        asyncio.run(app.predict_rows(rows))
    assert 'route="python"} 6.0' in _metrics(app)


def test_numbers_are_kept_by_model_route_and_code(app, replica):
    _ask(app, "POST", PREDICT, _rows(3))
    _ask(app, "POST", "/v1/models/orders/versions/2:predict", _rows(1))
    _ask(app, "POST", PREDICT, b"nonsense")
    _ask(app, "GET", "/no/such/path/of/a/scanner")
    _ask(app, "POST", FEEDBACK, {"prediction_id": "p", "label": "no"})
    text = _metrics(app)
    route = 'route="/v1/models/{model}:predict"'
    for line in (
        f'hapredict_requests_total{{code="200",model="orders",{route}}} 1.0',
        f'hapredict_requests_total{{code="400",model="orders",{route}}} 1.0',
        'hapredict_requests_total{code="404",model="orders",route="other"} 1.0',
        'hapredict_rows_total{model="orders",version="1"} 3.0',
        'hapredict_rows_total{model="orders",version="2"} 1.0',
        'hapredict_labels_total{model="orders"} 1.0',
        'hapredict_requests_in_progress{model="orders"} 1.0',
        f'hapredict_request_duration_seconds_count{{model="orders",{route}}} 2.0',
    ):
        assert line in text
    assert "scanner" not in text


def _metrics(app) -> str:
    got = _ask(app, "GET", "/metrics")
    assert got.headers["content-type"].startswith("text/plain; version=0.0.4")
    return got.body.decode()
