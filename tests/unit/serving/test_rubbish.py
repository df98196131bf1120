"""Whatever is sent to whichever path, it is a fault of the request, and the replica lives on."""

import asyncio
import gzip
import json
import random

import pytest

from hapredict.serving.asgi import App
from hapredict.serving.v2 import V2Binary
from tests.support.bundles import MODEL, columns_of, rows_as_json
from tests.support.replicas import NOW_S
from tests.support.serving import Clock, ask

PREDICT = f"/v1/models/{MODEL}:predict"
PATHS = (
    PREDICT,
    f"/v1/models/{MODEL}:explain",
    f"/v1/models/{MODEL}:feedback",
    f"/v2/models/{MODEL}/infer",
    f"/v2/models/{MODEL}/versions/1/infer",
)
ROW = rows_as_json(1)[0]
LONG = b"1" * 100_000
RUBBISH = {
    "nothing": b"",
    "deep lists": b'{"instances":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"inputs":' * 50_000 + b"1" + b"}" * 50_000,
    "a deep value": b'{"instances":[{"distance":' + b"[" * 900 + b"]" * 900 + b"}]}",
    "a long whole number": b'{"instances":[{"distance":' + LONG + b"}]}",
    "a long fraction": b'{"instances":[{"distance":0.' + LONG + b"}]}",
    "a large exponent": b'{"instances":[{"distance":1e999999999}]}',
    "a long number as an id": b'{"id":' + LONG + b',"inputs":[]}',
    "NaN": b'{"instances":[{"distance":NaN}],"labels":[NaN],"inputs":[Infinity]}',
    "half a character": b'{"instances":[{"carrier":"\\udc00"}]}',
    "no UTF-8": b'{"instances":[{"carrier":"\xff"}]}',
    "UTF-16": '{"instances":[]}'.encode("utf-16"),
    "a byte-order mark": b'\xef\xbb\xbf{"instances":[]}',
    "zeros": bytes(1000),
    "a form": b"instances=1&labels=2",
    "two values": b'{"instances":[{}]} {"instances":[{}]}',
    "gzip that says nothing of it": gzip.compress(b"{}"),
    "keys beyond number": json.dumps({f"k{i}": i for i in range(20_000)}).encode(),
    "fields beyond number": json.dumps(
        {"instances": [{f"k{i}": i for i in range(20_000)}]}
    ).encode(),
    "a long name": json.dumps({"instances": [{"x" * 100_000: 1}]}).encode(),
    "tensors without end": json.dumps({"inputs": [{"name": "a"}] * 20_000}).encode(),
    "a shape beyond number": json.dumps(
        {"inputs": [{"name": "a", "datatype": "FP64", "shape": [10**30], "data": []}]}
    ).encode(),
    "many dimensions": json.dumps(
        {"inputs": [{"name": "a", "datatype": "FP64", "shape": [1] * 10_000, "data": [1]}]}
    ).encode(),
}
HEADERS = (
    {},
    {"Content-Type": "text/plain"},
    {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "2"},
    {"Content-Type": "application/json; charset=latin-1", "X-Deadline-Ms": "10000"},
)


@pytest.fixture
def app(replica):
    return App(replica, clock=Clock(NOW_S))


def _ask(app, *args, **options):
    return asyncio.run(ask(app, *args, **options))


def _is_a_refusal(got, path):
    assert 400 <= got.status < 500, (path, got.status, got.body[:500])
    assert got.headers["content-type"] == "application/json"
    assert 0 < len(got.json["error"]) < 20_000
    assert len(got.body) < 60_000
    assert "Traceback" not in got.json["error"]


@pytest.mark.parametrize("what", RUBBISH)
def test_rubbish_is_refused_everywhere_and_the_next_request_answered(app, what):
    for path in PATHS:
        for headers in HEADERS:
            got = _ask(app, "POST", path, RUBBISH[what], headers=headers)
            _is_a_refusal(got, path)
    assert _ask(app, "POST", PREDICT, {"instances": [ROW]}).status == 200


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_behind_json_are_refused_or_answered(app, seed):
    chance, sent = random.Random(seed), V2Binary.encode_request(columns_of(4))
    length = int(sent.headers[0][1])
    for _ in range(10):
        body = bytearray(sent.body)
        for _ in range(chance.randint(1, 4)):
            body[chance.randrange(len(body))] = chance.randrange(256)
        if chance.random() < 0.3:
            del body[chance.randrange(len(body)) :]
        told = length + chance.choice((0, 0, 0, -1, 1, 1000, -length))
        headers = {"Inference-Header-Content-Length": str(told)}
        got = _ask(app, "POST", PATHS[3], bytes(body), headers=headers)
        if got.status != 200:
            _is_a_refusal(got, PATHS[3])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, identity", "x" * 999])
def test_an_encoded_body_is_refused_with_the_name_of_its_encoding(app, encoding):
    body = gzip.compress(json.dumps({"instances": [ROW]}).encode())
    for path in PATHS:
        got = _ask(app, "POST", path, body, headers={"Content-Encoding": encoding})
        assert got.status == 415
        assert encoding[:40] in got.json["error"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "\t;;="])
def test_json_is_read_whatever_it_calls_itself(app, kind):
    got = _ask(app, "POST", PREDICT, {"instances": [ROW]}, headers={"Content-Type": kind})
    assert got.status == 200


def test_a_body_in_chunks_of_one_byte_is_read_with_bytes_behind_it(app):
    sent = V2Binary.encode_request(columns_of(2))
    headers = {key.decode(): value.decode() for key, value in sent.headers}
    chunks = [sent.body[place : place + 1] for place in range(len(sent.body))]
    assert _ask(app, "POST", PATHS[3], chunks=[*chunks, b""], headers=headers).status == 200


def test_of_a_field_that_is_there_twice_the_last_one_counts(app):
    row = json.dumps(ROW)[1:-1]
    body = '{"instances": [{"distance": "far", %s}]}' % row  # noqa: UP031 - braces
    assert _ask(app, "POST", PREDICT, body.encode()).status == 200
