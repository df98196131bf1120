"""Triton's own gRPC client, unmodified, against the service behind a gRPC server."""

import asyncio
import queue
import secrets
import threading

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from hapredict.registry.store import open_store
from hapredict.serving.asgi import App
from hapredict.serving.inference_service import OpenInference, add_to_server
from hapredict.serving.replica import Replica
from hapredict.serving.tensors import OUTPUTS
from tests.support.bundles import MODEL, columns_of, publish_linear, schema_of
from tests.support.serving import Clock

ROWS = 5
CLOCK = Clock(1_800_000_000.0)
WAIT_S = 20


@pytest.fixture(scope="module")
def replica(tmp_path_factory):
    store = open_store(f"memory://{secrets.token_hex(8)}")
    publish_linear(store, schema=schema_of(("a", "b", "ß"), "multiclass"), extras=["uncertainty"])
    replica = Replica(store, MODEL, "r1", tmp_path_factory.mktemp("spool"), CLOCK)
    replica.refresh()
    yield replica
    replica.close()


@pytest.fixture(scope="module")
def address(replica):
    """Where gRPC's own server answers, in a thread of its own."""
    told: queue.Queue[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def serve():
        server, over = grpc.aio.server(), asyncio.Event()
        add_to_server(OpenInference(App(replica, clock=CLOCK)), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        told.put((port, asyncio.get_running_loop(), over))
        await over.wait()
        await server.stop(None)

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    port, loop, over = told.get(timeout=WAIT_S)
    yield f"127.0.0.1:{port}"
    loop.call_soon_threadsafe(over.set)
    thread.join(WAIT_S)


@pytest.fixture(scope="module")
def client(address):
    with triton.InferenceServerClient(address) as client:
        yield client


def columns():
    found = columns_of(ROWS)
    found["carrier"] = [level or "UA" for level in found["carrier"]]  # bytes have no null
    found["收入"] = [value or 8000.0 for value in found["收入"]]
    return found


def inputs(columns):
    """The columns as the client's tensors, which it sends as raw contents."""
    tensors = []
    for name, values in columns.items():
        number = name in ("收入", "distance", "at")
        array = np.array(values, np.float64 if number else object)
        if not number:
            array = np.array([text.encode() for text in values], object)
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensors.append(tensor.set_data_from_numpy(array))
    return tensors


def expected(replica, columns):
    return replica.predict(replica.schema.table(columns)).scores


def test_it_finds_server_and_model_alive_ready_and_described(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert client.get_server_metadata().name == "hapredict"
    told = client.get_model_metadata(MODEL)
    assert told == client.get_model_metadata(MODEL, "1")
    assert [tensor.name for tensor in told.inputs] == list(columns())
    assert [tensor.name for tensor in told.outputs] == [*OUTPUTS, "uncertainty"]


def test_raw_contents_both_ways_give_the_scores(client, replica):
    got = client.infer(MODEL, inputs(columns()), request_id="r7")
    np.testing.assert_allclose(got.as_numpy("score"), expected(replica, columns()), atol=1e-6)
    assert got.as_numpy("score").dtype == np.float32
    assert got.as_numpy("model_version").tolist() == [1] * ROWS
    assert {text.decode() for text in got.as_numpy("decision")} <= {"a", "b", "ß"}
    assert len(set(got.as_numpy("prediction_id").tolist())) == ROWS
    assert got.get_response().id == "r7"


def test_a_key_in_the_metadata_names_the_predictions(client):
    got = client.infer(MODEL, inputs(columns()), headers={"idempotency-key": "order-4711"})
    ids = [text.decode() for text in got.as_numpy("prediction_id")]
    assert ids == [f"order-4711-{row}" for row in range(ROWS)]


def test_a_version_may_be_named_and_only_asked_outputs_come(client):
    outputs = [triton.InferRequestedOutput(name) for name in ("decision", "served_by")]
    got = client.infer(MODEL, inputs(columns()), model_version="1", outputs=outputs)
    assert got.as_numpy("score") is None
    assert set(got.as_numpy("served_by").tolist()) == {b"pinned"}


def test_a_stream_answers_each_request_in_its_order(client, replica):
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    try:
        for name, model in (("first", MODEL), ("second", "nobody"), ("third", MODEL)):
            client.async_stream_infer(model, inputs(columns()), request_id=name)
        first, second, third = (answers.get(timeout=WAIT_S) for _ in range(3))
    finally:
        client.stop_stream()
    assert (first[0].get_response().id, third[0].get_response().id) == ("first", "third")
    np.testing.assert_allclose(third[0].as_numpy("score"), expected(replica, columns()), atol=1e-6)
    assert second[0] is None
    assert "there is no model 'nobody'" in second[1].message()


def test_it_reads_what_is_wrong(client):
    cases = {
        "there is no loaded version": {"model_version": "9"},
        "there is no model 'other'": {"model_name": "other"},
        "carrier: is missing": {"inputs": inputs(columns())[:3]},
        "there is no output 'logits'": {"outputs": [triton.InferRequestedOutput("logits")]},
        "Idempotency-Key must have": {"headers": {"idempotency-key": "a b"}},
    }
    for sentence, changes in cases.items():
        asked = {"model_name": MODEL, "inputs": inputs(columns()), **changes}
        with pytest.raises(InferenceServerException, match=sentence):
            client.infer(**asked)
    assert client.is_server_live()
