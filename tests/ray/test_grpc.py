"""Predictions over gRPC through Ray Serve: its port, its balancer, replicas that answer."""

import asyncio
import queue

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from hapredict.serving.inference_messages import DESCRIPTOR, MESSAGES
from hapredict.serving.inference_service import OpenInference, add_to_server
from tests.support.clusters import eventually
from tests.support.grpc_calls import columns_in, predictions_in, request_of, stub
from tests.support.people import FIELDS, people

TIMEOUT_S = 20


@pytest.fixture(scope="module")
def channel(cluster):
    with grpc.insecure_channel(cluster.grpc_address) as channel:
        yield channel


@pytest.fixture(scope="module")
def address(cluster):
    return cluster.grpc_address


@pytest.fixture(scope="module")
def told(model):
    """The metadata that name the model to Serve, which other models of the session need."""
    return [("application", model.name)]


@pytest.fixture(scope="module")
def infer(model, channel, told):
    call = stub(channel, "ModelInfer")

    def answer(message, *metadata, timeout_s=TIMEOUT_S):
        return call(message, metadata=[*told, *metadata], timeout=timeout_s)

    # its balancer takes a moment to find a server that is up
    ready = stub(channel, "ModelReady")
    eventually(
        lambda: (
            ready(
                MESSAGES["ModelReadyRequest"](name=model.name), metadata=told, timeout=TIMEOUT_S
            ).ready
        ),
        during=grpc.RpcError,
    )
    return answer


def columns(rows):
    return {name: [row[name] for row in rows] for name in FIELDS}


@pytest.mark.parametrize("raw", [False, True])
def test_the_answers_are_those_of_http(model, infer, raw):
    rows = people(20, seed=41)
    by_grpc = predictions_in(infer(request_of(columns(rows), model.name, raw=raw)))
    for row, other in zip(by_grpc, model.predict(rows), strict=True):
        for name in ("score", "decision", "model_version", "served_by"):
            assert row[name] == other[name]
    assert len({row["prediction_id"] for row in by_grpc}) == 20


def test_a_large_request_goes_through(model, infer):
    rows = people(1000, seed=42)
    message = request_of(columns(rows), model.name, raw=True, id="large")
    message.outputs.add(name="score")
    answer = infer(message)
    assert answer.id == "large"
    assert len(columns_in(answer)["score"]) == 1000


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        (lambda m: setattr(m, "model_name", "nobody"), "NOT_FOUND", "nobody"),
        (lambda m: setattr(m, "model_version", "99"), "NOT_FOUND", "99"),
        (
            lambda m: setattr(m.inputs[1], "name", "收入额"),
            "INVALID_ARGUMENT",
            "did you mean '收入'",
        ),
        (lambda m: setattr(m.inputs[1], "datatype", "FP8"), "INVALID_ARGUMENT", "收入: its data"),
    ],
)
def test_a_fault_is_named_and_its_status_arrives(model, infer, change, code, named):
    message = request_of(columns(people(2, seed=43)), model.name)
    change(message)
    with pytest.raises(grpc.RpcError) as caught:
        infer(message)
    assert caught.value.code().name == code
    assert named in caught.value.details()


def test_a_replica_knows_when_its_caller_stops_waiting(model, infer):
    message = request_of(columns(people(2, seed=44)), model.name)
    assert columns_in(infer(message, ("x-deadline-ms", "15000"), timeout_s=30))
    with pytest.raises(grpc.RpcError) as caught:
        infer(message, ("x-deadline-ms", "0"))
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the caller waits 0 ms" in caught.value.details()


def test_an_open_stream_is_answered_before_it_ends(model, channel, infer, told):
    waiting = queue.Queue()
    stream = stub(channel, "ModelStreamInfer")(
        iter(waiting.get, None), metadata=told, timeout=TIMEOUT_S
    )
    rows = columns(people(2, seed=45))
    for name in (model.name, "nobody", model.name):
        waiting.put(request_of(rows, name, id=name))
        said = next(stream)
        assert said.infer_response.id == name
        assert bool(said.error_message) == (name == "nobody")
    waiting.put(None)
    assert list(stream) == []


def test_the_service_describes_itself_as_interactive_clients_ask_it_to(channel, infer, told):
    waiting = queue.Queue()
    asked = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
        iter(waiting.get, None), metadata=told, timeout=TIMEOUT_S
    )
    waiting.put(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = next(asked).list_services_response.service
    assert "inference.GRPCInferenceService" in [service.name for service in listed]
    waiting.put(
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="inference.GRPCInferenceService"
        )
    )
    (file,) = next(asked).file_descriptor_response.file_descriptor_proto
    assert file == DESCRIPTOR.serialized_pb
    waiting.put(None)


def test_a_client_that_knows_nothing_but_the_address_learns_the_messages(model, address, infer):
    """As interactive clients do: by reflection alone, without a file of ours."""

    class Told(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
        def intercept_unary_unary(self, go_on, details, request):
            return go_on(self._with(details), request)

        def intercept_stream_stream(self, go_on, details, requests):
            return go_on(self._with(details), requests)

        def _with(self, details):
            return details._replace(metadata=[("application", model.name)])

    with grpc.insecure_channel(address) as plain:
        channel = grpc.intercept_channel(plain, Told())
        known = ProtoReflectionDescriptorDatabase(channel)
        assert "inference.GRPCInferenceService" in known.get_services()
        service = DescriptorPool(known).FindServiceByName("inference.GRPCInferenceService")
        method = service.FindMethodByName("ModelMetadata")
        asks, says = map(GetMessageClass, (method.input_type, method.output_type))
        call = channel.unary_unary(
            f"/{service.full_name}/{method.name}",
            request_serializer=asks.SerializeToString,
            response_deserializer=says.FromString,
        )
        told = call(asks(name=model.name), timeout=TIMEOUT_S)
    assert set(FIELDS) <= {tensor.name for tensor in told.inputs}


def test_what_serve_hands_to_a_replica_says_how_long_the_caller_waits():
    """Serve puts methods of its own in the place of ours, which see the metadata only."""
    from ray.serve._private.grpc_util import gRPCGenericServer
    from ray.serve.grpc_util import RayServegRPCContext

    seen = []

    def of_serve(service_method, streaming_type):
        async def answer(request, context):
            seen.append(dict(RayServegRPCContext(context).invocation_metadata()))
            return MESSAGES["ServerLiveResponse"](live=True).SerializeToString()

        return answer

    async def ask():
        server = gRPCGenericServer(of_serve)
        add_to_server(OpenInference(None), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await stub(channel, "ServerLive")(MESSAGES["ServerLiveRequest"](), timeout=20)
        await server.stop(None)

    asyncio.run(ask())
    assert 0 < float(seen[0]["x-deadline-ms"]) < 30_000  # clocks differ by a little
