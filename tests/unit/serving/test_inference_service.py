"""The calls of the Open Inference Protocol over gRPC: statuses, deadlines, streams, numbers."""

import asyncio
import logging

import grpc
import pytest

from hapredict.errors import (
    BadRequest,
    NotFound,
    Overloaded,
    PermanentError,
    Problem,
    SchemaMismatch,
    StoreUnavailable,
    TemporaryError,
    TimedOut,
    UnknownName,
)
from hapredict.serving.asgi import App
from hapredict.serving.inference_messages import MESSAGES
from hapredict.serving.inference_service import (
    OpenInference,
    add_to_local_server,
    is_local,
    status_of,
)
from tests.support.bundles import MODEL, columns_of, schema_of, spec_of
from tests.support.grpc_calls import columns_in, request_of, serving, stub
from tests.support.serving import FakeReplica, ask, not_ready

NAMED = {"name": MODEL}


@pytest.fixture
def replica():
    return FakeReplica()


def call(replica, method="ModelInfer", message=None, *, app=None, **options):
    """The answer of one call, or the error that its caller gets."""
    if message is None:
        message = request_of(columns_of(2), MODEL)

    async def one():
        served = app or App(replica, clock=asyncio.get_running_loop().time)
        async with serving(served) as channel:
            try:
                return await stub(channel, method)(message, timeout=30, **options)
            except grpc.aio.AioRpcError as error:
                return error

    return asyncio.run(one())


def message_of(message, **values):
    return MESSAGES[message](**values)


def test_a_process_that_answers_lives_and_is_ready_once_it_has_a_version(replica):
    for method, expected in (("ServerLive", "live"), ("ServerReady", "ready")):
        assert getattr(call(replica, method, message_of(f"{method}Request")), expected)
    assert call(replica, "ModelReady", message_of("ModelReadyRequest", **NAMED)).ready
    waiting = not_ready()
    assert call(waiting, "ServerLive", message_of("ServerLiveRequest")).live
    assert not call(waiting, "ServerReady", message_of("ServerReadyRequest")).ready
    assert not call(waiting, "ModelReady", message_of("ModelReadyRequest", **NAMED)).ready
    assert call(waiting).code() == grpc.StatusCode.UNAVAILABLE


def test_the_metadata_name_server_versions_and_tensors(replica):
    server = call(replica, "ServerMetadata", message_of("ServerMetadataRequest"))
    assert (server.name, server.version) == ("hapredict", "2")
    replica.schema = schema_of(("a", "b", "c"), "multiclass")
    said = call(replica, "ModelMetadata", message_of("ModelMetadataRequest", **NAMED))
    assert (said.name, list(said.versions)) == (MODEL, ["1", "2"])
    assert [tensor.name for tensor in said.inputs] == list(columns_of(1))
    answer = columns_in(call(replica))
    assert [tensor.name for tensor in said.outputs] == list(answer)
    assert [list(tensor.shape) for tensor in said.outputs] == [[-1, 3], *[[-1]] * 4]


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "ModelMetadata"])
def test_a_model_or_a_version_that_is_not_there_is_not_found(replica, method):
    for asked, reason in (
        ({"name": "nobody"}, "there is no model 'nobody'; known: orders"),
        ({"name": MODEL, "version": "9"}, "'9'"),
        ({"name": MODEL, "version": "new"}, "whole numbers"),
    ):
        if method == "ModelInfer":
            given = {"model_version": asked["version"]} if "version" in asked else {}
            message = request_of(columns_of(1), asked["name"], **given)
        else:
            message = message_of(f"{method}Request", **asked)
        error = call(replica, method, message)
        assert error.code() == grpc.StatusCode.NOT_FOUND
        assert reason in error.details()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadRequest("no", 400), "INVALID_ARGUMENT"),
        (BadRequest("long", 413), "INVALID_ARGUMENT"),
        (SchemaMismatch((Problem("a", "b"),)), "INVALID_ARGUMENT"),
        (UnknownName("model", "x", ()), "NOT_FOUND"),
        (NotFound("x"), "NOT_FOUND"),
        (Overloaded("busy", 3.0), "RESOURCE_EXHAUSTED"),
        (TimedOut("late"), "DEADLINE_EXCEEDED"),
        (StoreUnavailable("away"), "UNAVAILABLE"),
        (TemporaryError("away"), "UNAVAILABLE"),
        (PermanentError("ours"), "INTERNAL"),
        (RuntimeError("ours"), "INTERNAL"),
    ],
)
def test_each_error_has_its_status(error, code):
    assert status_of(error).name == code


def test_a_refusal_says_when_to_come_back(replica):
    for fault, seconds in ((Overloaded("busy", 2.2), "3"), (TemporaryError("away"), "1")):
        replica.faults["predict"] = fault
        error = call(replica)
        assert error.details() == str(fault)
        assert ("retry-after", seconds) in [(k, v) for k, v in error.trailing_metadata()]


def test_a_fault_of_ours_is_told_in_the_log_only(replica, caplog):
    replica.faults["predict"] = RuntimeError("the secret of the network")
    with caplog.at_level(logging.ERROR):
        error = call(replica)
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "the secret of the network" in caplog.text


def test_a_faulty_field_is_named_however_long_the_sentence(replica):
    columns = {**columns_of(2), "收入": ["x", "y"]}
    assert (
        "rows[0].收入: must be a number"
        in call(replica, message=request_of(columns, MODEL)).details()
    )
    replica.faults["predict"] = BadRequest("距" * 9000)
    error = call(replica)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error.details().startswith("距" * 100)
    assert error.details().endswith("...")


def test_a_request_that_is_too_long_is_refused(replica):
    replica.spec = spec_of(serving={"body_bytes_max": 2000})
    error = call(replica, message=request_of(columns_of(100), MODEL))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "2000 bytes" in error.details()
    assert replica.calls == 0


def test_the_callers_deadline_is_the_shorter_of_the_two_that_he_says(replica):
    late = call(replica, metadata=[("x-deadline-ms", "0")])
    assert late.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert "the caller waits 0 ms" in late.details()
    assert columns_in(call(replica, metadata=[("x-deadline-ms", "30000")]))
    wrong = call(replica, metadata=[("x-deadline-ms", "soon")])
    assert wrong.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_call_knows_its_deadline_without_saying_it_twice(replica):
    waits = []

    class Asked(OpenInference):
        async def ServerLive(self, request, grpc_context):  # noqa: N802
            waits.append(dict(grpc_context.invocation_metadata()).get("x-deadline-ms"))
            return await super().ServerLive(request, grpc_context)

    async def both():
        server = grpc.aio.server()
        add_to_local_server(Asked(App(replica, clock=lambda: 0.0)), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            live = stub(channel, "ServerLive")
            await live(message_of("ServerLiveRequest"), timeout=20)
            await live(message_of("ServerLiveRequest"))
        await server.stop(None)

    asyncio.run(both())
    within, without = waits
    assert 0 < float(within) < 30_000  # clocks differ by a little
    assert without is None


def test_callers_of_other_machines_are_told_from_those_of_this_one():
    here = ("ipv4:127.0.0.1:53", "ipv6:[::1]:53", "ipv6:%5B::1%5D:53", "unix:/tmp/x")
    here += ("ipv6:[::ffff:127.0.0.1]:53", "ipv6:%5B::ffff:127.0.0.1%5D:53")
    there = ("ipv4:10.0.0.7:53", "ipv6:[2001:db8::1]:53", "ipv6:[::ffff:10.0.0.7]:53", "")
    there += ("ipv4:10.127.0.1:53", "ipv6:[::1:2]:53")
    assert all(map(is_local, here))
    assert not any(map(is_local, there))


def test_a_local_server_refuses_callers_of_other_machines(replica):
    class Server:
        def add_generic_rpc_handlers(self, handlers):
            (self.handler,) = handlers

    class Refused(Exception):
        pass

    class Context:
        def peer(self):
            return "ipv4:10.0.0.7:53"

        async def abort(self, code, details):
            raise Refused(code, details)

    class Details:
        method = "/inference.GRPCInferenceService/ModelInfer"

    server = Server()
    add_to_local_server(OpenInference(App(replica, clock=lambda: 0.0)), server)
    found = server.handler.service(Details)
    with pytest.raises(Refused, match="on its machine only"):
        asyncio.run(found.unary_unary(request_of(columns_of(1), MODEL), Context()))
    assert replica.calls == 0


def test_a_stream_answers_message_by_message_and_outlives_a_faulty_one(replica):
    async def talk():
        async with serving(App(replica, clock=lambda: 0.0)) as channel:
            stream = stub(channel, "ModelStreamInfer")(timeout=30)
            said = []
            for model in (MODEL, "nobody", MODEL):
                await stream.write(request_of(columns_of(2), model, id=model))
                said.append(await stream.read())
            await stream.done_writing()
            return said

    first, second, third = asyncio.run(talk())
    assert len(columns_in(first.infer_response)["score"]) == 2
    assert second.error_message == "there is no model 'nobody'; known: orders"
    assert second.infer_response.id == "nobody"
    assert (third.error_message, third.infer_response.id) == ("", MODEL)


def test_calls_are_counted_and_recorded_as_those_over_http_are(replica):
    async def several():
        app = App(replica, clock=lambda: 0.0)
        async with serving(app) as channel:
            infer = stub(channel, "ModelInfer")
            await infer(request_of(columns_of(3), MODEL))
            for model, columns in (("nobody", columns_of(1)), (MODEL, {"a": [1]})):
                with pytest.raises(grpc.aio.AioRpcError):
                    await infer(request_of(columns, model))
        return (await ask(app, "GET", "/metrics")).body.decode()

    text = asyncio.run(several())
    for code in (200, 404, 422):
        assert f'hapredict_requests_total{{code="{code}",model="orders",route="grpc"}} 1.0' in text
    assert 'hapredict_rows_total{model="orders",version="1"} 3.0' in text
    assert "after call1-0" in replica.log
