"""Whatever is sent: a 4xx that names the field, and the replicas live."""

import httpx
import pytest

from tests.support.clusters import post
from tests.support.people import people, sent

ROW = sent(people(1, seed=3)[0])


def rows(**changes):
    return {"instances": [{**ROW, **changes}]}


def without(field):
    return {"instances": [{name: value for name, value in ROW.items() if name != field}]}


NAN = b'{"instances": [{"age": 3, "\xe6\x94\xb6\xe5\x85\xa5": NaN, "city": "Lyon"}]}'

CASES = {
    "a text for a number": (rows(收入="much"), 422, "收入"),
    "a list for a category": (rows(性别=[1, 2]), 422, "性别"),
    "a boolean for a number": (rows(age=True), 422, "age"),
    "a time that is none": (rows(time="yesterday"), 422, "time"),
    "a missing field": (without("收入"), 422, "收入"),
    "an unknown field": (rows(收人=1), 422, "收人"),
    "a row that is a number": ({"instances": [7]}, 400, "rows[0]"),
    "no rows": ({"instances": []}, 400, "rows"),
    "too many rows": ({"instances": [ROW] * 1001}, 413, "1000"),
    "columns of different lengths": ({"inputs": {"age": [1], "city": []}}, 400, "city"),
    "another outline": ({"rows": [ROW]}, 400, "instances"),
    "a NaN literal": (NAN, 400, "收入"),
    "an infinite number": (b'{"instances": [{"age": 1e999}]}', 400, "range"),
    "10 MB": (b'{"instances": [' + b" " * (10 << 20), 413, "1048576"),
    "a deep list": (b"[" * 100_000, 400, "deep"),
    "deep JSON that is closed": (b"[" * 100_000 + b"]" * 100_000, 400, "deep"),
    "a deep object": (b'{"instances": ' + b'{"a":' * 100_000, 400, "deep"),
    "no JSON": (b"age=3&city=Lyon", 400, "not JSON"),
    "half of it": (b'{"instances": [{"age": 3', 400, "not JSON"),
    "no UTF-8": (b'{"instances": [{"city": "\xff\xfe"}]}', 400, "UTF-8"),
    "nothing": (b"", 400, "empty"),
    "a list": ([ROW], 400, "object"),
}


@pytest.fixture(scope="module", autouse=True)
def the_same_replicas_live_afterwards(model):
    pids = model.pids()
    assert len(pids) == 2
    yield
    assert model.pids() == pids
    assert len(model.predict(people(3, seed=4))) == 3


@pytest.mark.parametrize("name", CASES)
def test_a_bad_body_is_refused_with_a_sentence_about_the_fault(model, name):
    body, status, named = CASES[name]
    answer = post(model.predict_url, body)
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert named in answer.text, said
    assert said["error"]


@pytest.mark.parametrize("name", CASES)
def test_the_tensor_protocol_refuses_the_same_bodies(model, name):
    body, _, _ = CASES[name]
    answer = post(f"{model.url}/v2/models/{model.name}/infer", body)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "named"),
    [
        ("POST", "/v1/models/nobody:predict", 404, "nobody"),
        ("POST", "/v2/models/nobody/infer", 404, "nobody"),
        ("POST", "/v1/models/orders/versions/99:predict", 404, "99"),
        ("POST", "/v1/models/orders/versions/new:predict", 404, "new"),
        ("POST", "/v1/models/orders:divine", 404, "divine"),
        ("GET", "/v1/models/orders:predict", 405, "POST"),
        ("DELETE", "/v1/models/orders:predict", 405, "POST"),
        ("POST", "/livez", 405, "GET"),
        ("GET", "/" + "x" * 5000, 404, "x"),
    ],
)
def test_a_wrong_path_or_method_is_named(model, method, path, status, named):
    answer = httpx.request(method, model.url + path, json=rows(), timeout=30, trust_env=False)
    assert answer.status_code == status, answer.text
    assert named in answer.text


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"labels": []}, "labels"),
        ({"labels": [{"prediction_id": "x"}]}, "labels[0].label"),
        ({"labels": [{"label": 1}]}, "labels[0].prediction_id"),
        ({"labels": [{"prediction_id": "x", "label": "perhaps"}]}, "labels[0]"),
        ({"prediction_id": "x", "label": 1, "at": "soon"}, "at"),
        (b"[" * 100_000, "deep"),
    ],
)
def test_a_bad_label_is_refused_and_none_of_its_request_is_kept(model, body, named):
    answer = post(model.feedback_url, body)
    assert 400 <= answer.status_code < 500, answer.text
    assert named in answer.text


def test_a_model_that_was_never_applied_is_not_there(model, cluster):
    answer = post(f"{cluster.serve_url}/nobody/v1/models/nobody:predict", rows())
    assert answer.status_code == 404
