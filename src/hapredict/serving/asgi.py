"""The ASGI application of one replica: HTTP in, HTTP out, and nothing between that costs time.

A prediction is read, judged, answered and written; only then is it recorded. Every fault of a
request is a 4xx that names the field, every fault of the surroundings a 503 that says when to come
back, and a fault of ours a 500 that leaves the process alive.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from hapredict.data.schema import Table
from hapredict.errors import BadRequest, HapredictError, UnknownName
from hapredict.sections_live import ServingSpec
from hapredict.serving import descriptions, explain, told
from hapredict.serving.access import AccessLog
from hapredict.serving.admission import Admission
from hapredict.serving.answering import Answering, Predicts
from hapredict.serving.answers import Part, Request, predictions
from hapredict.serving.bodies import check_rows, columns_from
from hapredict.serving.exchange import (
    GONE_STATUS,
    Call,
    Gone,
    Handler,
    Handlers,
    Receive,
    Route,
    Send,
    counted,
    pattern_of,
    read_body,
    read_deadline_s,
    read_version,
    sent_request_id,
    write,
)
from hapredict.serving.feedback import decode_feedback
from hapredict.serving.journal import Label
from hapredict.serving.metrics import CONTENT_TYPE, Metrics
from hapredict.serving.protocols import WIRE_PROTOCOLS, WireProtocol
from hapredict.serving.replies import (
    Reply,
    error_reply,
    internal_error,
    is_memory,
    json_reply,
    shed_reason,
    status_of,
    without_memory,
    wrong_method,
)
from hapredict.serving.scaling import Load, LoadMeter
from hapredict.serving.upkeep import TICK_S, Kept, upkeep_of

log = logging.getLogger(__name__)

Said = TypeVar("Said")


class Replica(descriptions.Described, Kept, Predicts, Protocol):
    """What the app needs of a replica; see `replica.Replica` for the promises."""

    def explain(
        self, table: Table, *, version: int | None = None, baseline: explain.Baseline = "typical"
    ) -> explain.Effects: ...
    def feedback(self, labels: Sequence[Label]) -> None: ...


class App:
    """The ASGI application (scopes `http` and `lifespan`) in front of one replica.

    `clock` tells wall time in seconds. `request_ids` names requests whose caller did not. `meter`
    and `access`, if there is one, hear of all that is done; without a meter of its own, `load`
    knows no processor time. Under a
    server that speaks `lifespan` the upkeep loops start and end by themselves; others call `run`
    and `close`.
    """

    def __init__(
        self,
        replica: Replica,
        *,
        clock: Callable[[], float],
        request_ids: Callable[[], str] | None = None,
        tick_s: float = TICK_S,
        meter: LoadMeter | None = None,
        access: AccessLog | None = None,
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._request_ids = request_ids or counted(f"{replica.model}-{clock():.6f}")
        # Feedback waits for a disk, predictions for a processor: one must not block the other.
        self._feedback_admission = Admission(ServingSpec().max_ongoing_requests)
        self._explain_admission = Admission(explain.ONGOING_MAX)
        self.exhausted = False
        """Whether there was a request for which this process had no memory; it had better go."""
        self.in_progress = 0
        """Requests begun and not over."""
        self.used_s = clock()
        """When the last request was over, on the app's clock."""
        self.metrics = Metrics(replica.model, lambda: self.in_progress)
        self._answering = Answering(replica, clock=clock, metrics=self.metrics)
        self._meter = meter or LoadMeter(clock, processor=lambda: 0.0)
        self._access = access
        self.metrics.dropped = lambda: access.dropped if access is not None else 0
        writes = access.write if access is not None else None
        self._upkeep = upkeep_of(replica, tick_s=tick_s, late=self._meter.late, writes=writes)
        self._exact: dict[str, Route] = {}
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        self._mount()

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one HTTP request, or follows the server's life."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._upkeep.follow(receive, send)
        else:
            raise ValueError(f"this app speaks http, not {scope['type']}")

    @property
    def replica(self) -> Replica:
        """The replica that answers."""
        return self._replica

    @property
    def ready(self) -> bool:
        """Whether requests can be answered now."""
        return self._replica.ready and not self._upkeep.stopping

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of `run`, which all of this belongs to."""
        return self._upkeep.loop

    @property
    def body_bytes_max(self) -> int:
        """Length of the longest body that is read; 0 before there is a version to answer."""
        return self._replica.spec.serving.body_bytes_max if self._replica.ready else 0

    def load(self) -> Load:
        """What this replica had to do since the last question, whichever way it came."""
        return self._meter.load()

    async def run(self) -> None:
        """Runs the upkeep loops until `close`: catalog, spool, reports."""
        await self._upkeep.run()

    async def close(self) -> None:
        """Ends the loops, brings recorded rows to the store and closes the replica."""
        await self._upkeep.close()

    async def predict_rows(
        self, rows: Sequence[Mapping[str, Any]], version: int | None = None
    ) -> list[dict[str, Any]]:
        """Predictions for rows given as mappings, each with the fields of `Prediction`.

        The same checks, limits, batching and records as over HTTP. Raises BadRequest, UnknownName
        or TemporaryError.
        """

        def read(serving: ServingSpec) -> Request:
            check_rows(len(rows), serving.rows_max)
            return Request(columns_from(rows), len(rows), version=version)

        return await self.answer("python", read, lambda part, _request: predictions(part))

    async def answer(
        self,
        route: str,
        read: Callable[[ServingSpec], Request],
        write: Callable[[Part, Request], Said],
    ) -> Said:
        """What `write` makes of the answer to what `read` has read: each way in but HTTP.

        The same checks, limits, batching and records as over HTTP, counted under `route`. Raises
        what `read` raises, BadRequest, UnknownName or TemporaryError.
        """
        start_s, code = self._clock(), 500
        part, id_ = None, ""
        self.in_progress += 1
        try:
            part, request = await self._answering.part(read, start_s)
            id_ = request.id
            # recorded in the next turn: the caller gets its rows first
            asyncio.get_running_loop().call_soon(self._answering.written, part)
            said = write(part, request)
            code = 200
            return said
        except HapredictError as error:
            code = status_of(error) or code
            self._count_shed(error)
            raise
        except asyncio.CancelledError:
            code = GONE_STATUS
            raise
        finally:
            self._over(route, code, start_s, id_, part)

    def direct_paths(self) -> dict[bytes, tuple[str, type[WireProtocol]]]:
        """Paths of predictions by the version in service, with what `direct` is to be told."""
        paths: dict[bytes, tuple[str, type[WireProtocol]]] = {}
        for name in WIRE_PROTOCOLS:
            protocol = WIRE_PROTOCOLS.find(name)
            path = protocol.path.format(model=self._replica.model).encode()
            paths.setdefault(path, (protocol.path, protocol))
        return paths

    def direct(
        self,
        route: str,
        protocol: type[WireProtocol],
        headers: Mapping[bytes, bytes],
        body: bytes,
        send: Callable[[Reply, bytes], bool],
    ) -> None:
        """A prediction whose body is all here: what the ASGI call does, without ASGI.

        `send` is called once, in this turn or a later one, with the reply and the request's id;
        it says whether the caller was still there. Raises nothing. In the loop of `run` only.
        """
        start_s = self._clock()
        self.in_progress += 1
        request_id = sent_request_id(headers) or self._request_ids().encode()

        def replied(said: Reply | Exception) -> None:
            reply = said if isinstance(said, Reply) else self._refusal(said, request_id)
            status = GONE_STATUS
            try:
                if send(reply, request_id):
                    status = reply.status
            except Exception:  # others are still to be answered
                log.exception("the answer to request %s was not sent", request_id.decode())
            finally:
                if reply.part is not None:
                    self._answering.written(reply.part)
                self._over(route, status, start_s, request_id, reply.part)

        try:
            self._answering.settings()
            deadline_s = read_deadline_s(headers, start_s)
            self._answering.ask(protocol, body, headers, replied, deadline_s=deadline_s)
        except Exception as error:
            replied(error)

    def drain(self) -> None:
        """Answers all that `direct` was asked, now."""
        self._answering.drain()

    async def _http(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        start_s = self._clock()
        self.in_progress += 1
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = sent_request_id(headers) or self._request_ids().encode()
        method: str = scope["method"]
        route, status, reply = "other", GONE_STATUS, None
        try:
            try:
                found, version, root = self._find(scope)
                route = found.template
                call = Call(headers, receive, version, root, start_s)
                reply = await self._reply(found, method, call)
            except Gone:
                raise
            except Exception as error:  # one request's fault must not end the replica
                reply = self._refusal(error, request_id)
            status = reply.status
            await write(send, reply, request_id, head=method == "HEAD")
        except (Gone, OSError):
            status = GONE_STATUS  # nobody is left to be answered
        finally:
            part = reply.part if reply is not None else None
            if part is not None:
                self._answering.written(part)
            self._over(route, status, start_s, request_id, part)

    async def _reply(self, route: Route, method: str, call: Call) -> Reply:
        handler = route.handlers.get("GET" if method == "HEAD" else method)
        if handler is not None:
            return await handler(call)
        if method == "OPTIONS":
            return Reply(204, b"", headers=((b"allow", route.allowed.encode()),))
        return wrong_method(method[:20], route.allowed)

    def _refusal(self, error: Exception, request_id: bytes) -> Reply:
        error = without_memory(error)
        status = status_of(error) if isinstance(error, HapredictError) else None
        if status is None or not isinstance(error, HapredictError):
            log.error("request %s failed", request_id.decode(), exc_info=error)
            return internal_error(request_id.decode())
        self._count_shed(error)
        return error_reply(error, status)

    def _count_shed(self, error: HapredictError) -> None:
        self.exhausted = self.exhausted or is_memory(error)
        reason = shed_reason(error)
        if reason is not None:
            self.metrics.shed(reason)

    def _over(
        self, route: str, code: int, start_s: float, request_id: str | bytes, part: Part | None
    ) -> None:
        now_s = self.used_s = self._clock()
        duration_s = max(0.0, now_s - start_s)
        self.in_progress -= 1
        self.metrics.request(route, code, duration_s)
        self._meter.over(duration_s)
        if self._access is not None:
            self._access.add(route, code, now_s, duration_s, request_id, part)

    def _mount(self) -> None:
        """Exact paths of this model first: a request then costs one look-up."""
        v1 = "/v1/models/{model}"
        routes: list[tuple[str, Handlers]] = [
            *told.routes(self._replica, lambda: self._upkeep.stopping),
            (v1 + ":feedback", {"POST": self._feedback}),
            (v1 + ":explain", {"POST": self._explain}),
            (v1 + "/versions/{version}:explain", {"POST": self._explain}),
            ("/metrics", {"GET": self._text}),
        ]
        for name in WIRE_PROTOCOLS:
            protocol = WIRE_PROTOCOLS.find(name)
            handlers: Handlers = {"POST": self._predictor(protocol)}
            routes += [(protocol.path, handlers), (protocol.versioned_path, handlers)]
        for template, handlers in routes:
            route = Route(template, handlers)
            if "{version}" not in template:
                self._exact.setdefault(template.format(model=self._replica.model), route)
            if "{model}" in template:
                self._patterns.append((pattern_of(template), route))

    def _find(self, scope: Mapping[str, Any]) -> tuple[Route, int | None, str]:
        """The route, the version in the path and the root. Raises BadRequest or UnknownName."""
        path: str = scope["path"]
        root: str = scope.get("root_path", "").rstrip("/")
        if root and (path == root or path.startswith(root + "/")):
            path = path[len(root) :]
        route = self._exact.get(path) or self._exact.get(path.rstrip("/"))
        if route is not None:
            return route, None, root
        model = self._replica.model
        for pattern, route in self._patterns:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            named = match.groupdict()
            if named["model"] != model:
                raise UnknownName("model", named["model"][:100], (model,))
            version = named.get("version")
            return route, None if version is None else read_version(version), root
        raise BadRequest(f"there is nothing at {path[:200]}; {root}/docs lists what there is", 404)

    def _predictor(self, protocol: type[WireProtocol]) -> Handler:
        async def predict(call: Call) -> Reply:
            serving = self._answering.settings()
            deadline_s = call.deadline_s()
            body = await read_body(call, serving.body_bytes_max)
            return await self._answering.reply(
                protocol, body, call.headers, version=call.version, deadline_s=deadline_s
            )

        return predict

    async def _feedback(self, call: Call) -> Reply:
        admission = self._feedback_admission
        serving = self._replica.spec.serving
        admission.limit_ongoing = serving.max_ongoing_requests
        admission.check()
        labels = decode_feedback(await read_body(call, serving.body_bytes_max), serving.rows_max)
        now_s = self._clock()
        rows = [Label(one.id, one.value, now_s, one.event_s, one.of_row) for one in labels]
        admission.enter(now_s)
        try:
            await asyncio.to_thread(self._replica.feedback, rows)
        finally:
            admission.leave(self._clock())
        self.metrics.labels(len(rows))
        return json_reply({"acknowledged": len(rows)})

    async def _explain(self, call: Call) -> Reply:
        replica, admission = self._replica, self._explain_admission
        admission.check()
        body = await read_body(call, replica.spec.serving.body_bytes_max)
        request, baseline = explain.decode_explain(body, replica.schema)
        table = replica.schema.table(request.columns)
        admission.enter(self._clock(), call.deadline_s())
        try:  # in a thread: predictions do not wait for it
            effects = await asyncio.to_thread(
                replica.explain, table, version=call.version, baseline=baseline
            )
        finally:
            admission.leave(self._clock())
        return json_reply(explain.to_json(replica.model, effects))

    async def _text(self, _call: Call) -> Reply:
        return Reply(200, self.metrics.text(), CONTENT_TYPE)
