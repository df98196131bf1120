"""The Open Inference Protocol over gRPC: the calls of `inference.proto`, answered by an app.

A plain gRPC server takes the service as it is, and so does Ray Serve, whose replicas have the
calls as methods. What a call asks for is admitted, batched, answered and recorded by the app, as
over HTTP; here is only what gRPC says differently: messages, status codes, deadlines.
"""

import logging
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import msgspec

from hapredict.errors import (
    BadRequest,
    NotFound,
    Overloaded,
    TemporaryError,
    TimedOut,
    UnknownName,
)
from hapredict.sections_live import ServingSpec
from hapredict.serving import descriptions
from hapredict.serving.answers import Request
from hapredict.serving.asgi import App
from hapredict.serving.exchange import read_version, read_wait_s, too_long
from hapredict.serving.inference_messages import MESSAGES, SERVICE, describe
from hapredict.serving.inference_tensors import decode_request, encode_response
from hapredict.serving.pool_app import PoolApp
from hapredict.serving.repeats import key_among

log = logging.getLogger(__name__)

ROUTE = "grpc"
"""What predictions are counted under."""
WAIT_KEY = "x-deadline-ms"
"""In a call's metadata, as over HTTP: how many milliseconds its caller waits."""
_LOCAL = re.compile(r"ipv4:127\.|ipv6:(\[|%5B)(::1|::ffff:127\.[0-9.]+)(\]|%5D):|unix:")
_FOREIGN = (grpc.StatusCode.PERMISSION_DENIED, "this cluster answers callers on its machine only")
_DETAILS_MAX = 4000
"""Bytes of an error's sentence on the wire; clients refuse answers with 8 KiB of headers."""


class OpenInference:
    """Answers the calls of `GRPCInferenceService` for an app, or for the apps of a pool.

    A call takes a message and a context, by grpc or by Ray Serve, and raises nothing: a fault sets
    the status and answers an empty message, for Serve passes on what a context says only then.
    """

    def __init__(self, app: App | PoolApp) -> None:
        self._inference = app

    async def ServerLive(self, _request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await _call("ServerLive", grpc_context, self._server_live)

    async def ServerReady(self, _request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await _call("ServerReady", grpc_context, self._server_ready)

    async def ServerMetadata(self, _request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await _call("ServerMetadata", grpc_context, self._server_metadata)

    async def ModelReady(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await _call("ModelReady", grpc_context, lambda: self._model_ready(request))

    async def ModelMetadata(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await _call("ModelMetadata", grpc_context, lambda: self._model_metadata(request))

    async def ModelInfer(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await _call("ModelInfer", grpc_context, lambda: self._infer(request, grpc_context))

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[Any], grpc_context: Any
    ) -> AsyncIterator[Any]:
        """One message for each of `requests`; one with an `error_message` where that is faulty."""
        made = MESSAGES["ModelStreamInferResponse"]
        async for request in requests:
            try:
                yield made(infer_response=await self._infer(request, grpc_context))
            except Exception as error:
                _, said = _fault(error, grpc_context)
                yield made(error_message=said, infer_response={"id": request.id})

    async def _server_live(self) -> Any:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def _server_ready(self) -> Any:
        return MESSAGES["ServerReadyResponse"](ready=self._inference.ready)

    async def _server_metadata(self) -> Any:
        return MESSAGES["ServerMetadataResponse"](name="hapredict", version="2")

    async def _model_ready(self, request: Any) -> Any:
        app = await self._app_of(request.name)
        _check_model(app, request.name)
        descriptions.check_version(app.replica, _version(request.version))
        return MESSAGES["ModelReadyResponse"](ready=app.ready)

    async def _model_metadata(self, request: Any) -> Any:
        app = await self._app_of(request.name)
        _check_model(app, request.name)
        descriptions.check_version(app.replica, _version(request.version))
        said = descriptions.v2_model(app.replica)
        for tensor in (*said["inputs"], *said["outputs"]):
            tensor.pop("parameters", None)  # the protocol has no place for them here
        return MESSAGES["ModelMetadataResponse"](**said)

    async def _infer(self, message: Any, context: Any) -> Any:
        app = await self._app_of(message.model_name, _wait_s(context))

        def read(serving: ServingSpec) -> Request:
            _check_model(app, message.model_name)
            if message.ByteSize() > serving.body_bytes_max:
                raise too_long(serving.body_bytes_max)
            key = key_among(context.invocation_metadata() or ())
            request = decode_request(message, serving.rows_max, _wait_s(context))
            return msgspec.structs.replace(request, key=key) if key else request

        raw = bool(message.raw_input_contents)
        return await app.answer(
            ROUTE, read, lambda part, request: encode_response(part, request, raw=raw)
        )

    async def _app_of(self, model: str, wait_s: float | None = None) -> App:
        """Who answers for the model of that name, or says that there is none."""
        inference = self._inference
        return inference if isinstance(inference, App) else await inference.app_of(model, wait_s)


def _check_model(app: App, name: str) -> None:
    model = app.replica.model
    if name != model:
        raise UnknownName("model", name[:100], (model,))


def add_to_server(servicer: Any, server: Any) -> None:
    """Give a gRPC server the service; Ray Serve finds this function by its name."""
    server.add_generic_rpc_handlers((_Handlers(_methods(servicer)),))


def add_to_local_server(servicer: Any, server: Any) -> None:
    """The same for callers on this machine only; Ray Serve listens on all of its addresses."""
    server.add_generic_rpc_handlers((_Handlers(_methods(servicer), is_local),))


def is_local(peer: str) -> bool:
    """Whether a caller, as gRPC names it, is on this machine."""
    return _LOCAL.match(peer) is not None


def _methods(servicer: Any) -> dict[str, Any]:
    describe()
    handlers = {}
    for method in SERVICE.methods:
        one = grpc.unary_unary_rpc_method_handler
        stream = grpc.stream_stream_rpc_method_handler
        handlers[f"/{SERVICE.full_name}/{method.name}"] = (
            stream if method.client_streaming else one
        )(
            getattr(servicer, method.name),
            MESSAGES[method.input_type.name].FromString,
            MESSAGES[method.output_type.name].SerializeToString,
        )
    return handlers


class _Handlers(grpc.ServiceRpcHandler):  # type: ignore[misc]
    """The service's methods; each call's deadline is put where its method can read it.

    Ray Serve replaces `_method_handlers` by its own, whose methods see a call's metadata and not
    its deadline. `welcome` says of a caller whether he is answered.
    """

    def __init__(
        self, handlers: dict[str, Any], welcome: Callable[[str], bool] = lambda _peer: True
    ) -> None:
        self._method_handlers = handlers
        self._welcome = welcome

    def service_name(self) -> str:
        return str(SERVICE.full_name)

    def service(self, handler_call_details: Any) -> Any:
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None:
            return None
        one, stream, welcome = handler.unary_unary, handler.stream_stream, self._welcome

        async def answer(request: Any, context: Any) -> Any:
            if not welcome(context.peer()):
                await context.abort(*_FOREIGN)
            return await one(request, _WithDeadline(context))

        async def answers(requests: Any, context: Any) -> Any:
            if not welcome(context.peer()):
                await context.abort(*_FOREIGN)
            async for said in stream(requests, context):  # its deadline is that of no message
                yield said

        return handler._replace(unary_unary=answer, stream_stream=answers)


class _WithDeadline:
    """A call's context whose metadata say how long the caller waits, unless for ever."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> Any:
        sent = self._context.invocation_metadata() or ()
        wait_s = self._context.time_remaining()
        return sent if wait_s is None else (*sent, (WAIT_KEY, f"{1000 * wait_s:.3f}"))


async def _call(method: str, context: Any, answer: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await answer()
    except Exception as error:
        code, said = _fault(error, context)
        context.set_code(code)
        context.set_details(said)
        if code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
            wait_s = error.retry_after_s if isinstance(error, Overloaded) else 1.0
            context.set_trailing_metadata([("retry-after", str(max(1, math.ceil(wait_s))))])
        return MESSAGES[SERVICE.methods_by_name[method].output_type.name]()


def _fault(error: Exception, context: Any) -> tuple[Any, str]:
    """The status and the sentence for an error; one of ours is told in the log only."""
    code = status_of(error)
    if code is not grpc.StatusCode.INTERNAL:
        return code, _short(str(error))
    known = dict(context.trailing_metadata() or ())
    request_id = known.get("request_id", "")
    log.error("call %s failed", request_id, exc_info=error)
    return code, f"internal error; request {request_id}" if request_id else "internal error"


def status_of(error: Exception) -> Any:
    """The gRPC status of an error; INTERNAL for those that no request can be blamed for."""
    if isinstance(error, BadRequest):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, UnknownName | NotFound):
        return grpc.StatusCode.NOT_FOUND
    if isinstance(error, Overloaded):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    if isinstance(error, TimedOut):
        return grpc.StatusCode.DEADLINE_EXCEEDED
    if isinstance(error, TemporaryError):
        return grpc.StatusCode.UNAVAILABLE
    return grpc.StatusCode.INTERNAL


def _short(text: str) -> str:
    """As much of a sentence as fits; a byte that is not ASCII takes three on the wire."""
    room = _DETAILS_MAX
    for place, character in enumerate(text):
        plain = character.isascii() and character.isprintable() and character != "%"
        room -= 1 if plain else 3 * len(character.encode("utf-8", "replace"))
        if room < 0:
            return text[:place] + "..."
    return text


def _version(text: str) -> int | None:
    return read_version(text) if text else None


def _wait_s(context: Any) -> float | None:
    waits = [
        read_wait_s(value.encode() if isinstance(value, str) else value)
        for key, value in context.invocation_metadata() or ()
        if key == WAIT_KEY
    ]
    return min(waits) if waits else None
