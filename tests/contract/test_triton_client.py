"""Triton's own HTTP client, unmodified, against the app under uvicorn: JSON, bytes and errors."""

import asyncio
import secrets
import socket
import threading

import numpy as np
import pytest
import uvicorn
from tritonclient import http
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from hapredict.registry.store import open_store
from hapredict.serving.asgi import App
from hapredict.serving.replica import Replica
from hapredict.serving.tensors import OUTPUTS
from tests.support.bundles import MODEL, columns_of, publish_linear, schema_of
from tests.support.serving import Clock

ROWS = 5
CLOCK = Clock(1_800_000_000.0)


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    store = open_store(f"memory://{secrets.token_hex(8)}")
    publish_linear(store, schema=schema_of(("a", "b", "ß"), "multiclass"), extras=["uncertainty"])
    replica = Replica(store, MODEL, "r1", tmp_path_factory.mktemp("spool"), CLOCK)
    replica.refresh()
    yield replica
    replica.close()


@pytest.fixture(scope="module")
def client(replica):
    app = App(replica, clock=CLOCK)
    config = uvicorn.Config(app, log_level="error", lifespan="off", timeout_graceful_shutdown=2)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),), daemon=True)
    thread.start()
    client = http.InferenceServerClient(f"127.0.0.1:{listener.getsockname()[1]}")
    yield client
    client.close()
    server.should_exit = True
    thread.join(20)


def _inputs(columns, kinds=None, *, binary=True):
    """The columns as the client's tensors; `binary` may also be the names that go as bytes."""
    inputs = []
    for name, values in columns.items():
        number = name in ("收入", "distance", "at")
        array = np.array(values, dtype=(kinds or {}).get(name, np.float64 if number else object))
        if not number:
            array = np.array([text.encode() for text in array], dtype=object)
        tensor = http.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        as_bytes = binary if isinstance(binary, bool) else name in binary
        inputs.append(tensor.set_data_from_numpy(array, binary_data=as_bytes))
    return inputs


def _columns(rows=ROWS):
    columns = columns_of(rows)
    columns["carrier"] = [level or "UA" for level in columns["carrier"]]  # bytes have no null
    columns["收入"] = [value or 8000.0 for value in columns["收入"]]
    return columns


def _expected(replica, columns):
    return replica.predict(replica.schema.table(columns)).scores


def test_it_finds_server_and_model_alive_ready_and_described(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "9")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    told = client.get_model_metadata(MODEL)
    assert told == client.get_model_metadata(MODEL, "1")
    assert [tensor["name"] for tensor in told["inputs"]] == list(_columns())
    assert [tensor["name"] for tensor in told["outputs"]] == [*OUTPUTS, "uncertainty"]


@pytest.mark.parametrize("binary", [True, False, ("distance", "carrier")], ids=str)
@pytest.mark.parametrize("answered", [True, False, None], ids=str)
def test_bytes_and_json_both_ways_give_the_scores(client, replica, binary, answered):
    columns = _columns()
    outputs = None
    if answered is not None:
        outputs = [http.InferRequestedOutput(name, binary_data=answered) for name in OUTPUTS]
    got = client.infer(MODEL, _inputs(columns, binary=binary), outputs=outputs, request_id="r7")
    np.testing.assert_allclose(got.as_numpy("score"), _expected(replica, columns), atol=1e-6)
    assert got.as_numpy("score").dtype == np.float32
    assert got.as_numpy("model_version").tolist() == [1] * ROWS
    decisions = [np.asarray(text, object).item() for text in got.as_numpy("decision")]
    texts = [text.decode() if isinstance(text, bytes) else text for text in decisions]
    assert set(texts) <= {"a", "b", "ß"}
    assert len(set(got.as_numpy("prediction_id").tolist())) == ROWS
    assert (got.as_numpy("uncertainty") is None) == (outputs is not None)
    assert got.get_response()["id"] == "r7"
    assert got.get_output("score")["parameters"]["classes"] == ["a", "b", "ß"]


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int64, np.uint16, np.int8])
def test_numbers_of_other_kinds_are_taken(client, replica, kind):
    columns = {**_columns(), "distance": [1, 2, 3, 4, 100]}
    got = client.infer(MODEL, _inputs(columns, {"distance": kind}))
    np.testing.assert_allclose(got.as_numpy("score"), _expected(replica, columns), atol=1e-6)


def test_nan_in_bytes_is_a_missing_value(client, replica):
    columns = {**_columns(), "distance": [np.nan, 1.0, np.nan, 2.0, 3.0]}
    missing = {**columns, "distance": [None, 1.0, None, 2.0, 3.0]}
    got = client.infer(MODEL, _inputs(columns))
    np.testing.assert_allclose(got.as_numpy("score"), _expected(replica, missing), atol=1e-6)


def test_a_version_may_be_named_and_only_asked_outputs_come(client):
    outputs = [http.InferRequestedOutput("decision"), http.InferRequestedOutput("served_by")]
    got = client.infer(MODEL, _inputs(_columns()), model_version="1", outputs=outputs)
    assert got.as_numpy("score") is None
    assert {bytes(who) for who in got.as_numpy("served_by")} == {b"pinned"}


def test_it_reads_what_is_wrong(client):
    columns = _columns()
    cases = {
        "there is no loaded version": {"model_version": "9"},
        "there is no model 'other'": {"model_name": "other"},
        "carrier: is missing": {"inputs": _inputs(columns)[:3]},
        "distance: its shape must be": {
            "inputs": _inputs({**columns, "distance": np.ones((ROWS, 2))})
        },
        "there is no output 'logits'": {"outputs": [http.InferRequestedOutput("logits")]},
        "asks for 'classification'": {
            "outputs": [http.InferRequestedOutput("score", class_count=2)]
        },
        "the content encoding 'gzip' is not read here": {"request_compression_algorithm": "gzip"},
    }
    for sentence, changes in cases.items():
        asked = {"model_name": MODEL, "inputs": _inputs(columns), **changes}
        with pytest.raises(InferenceServerException, match=sentence):
            client.infer(**asked)
    assert client.is_server_live()
