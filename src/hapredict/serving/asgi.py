"""The ASGI application of one replica: HTTP in, HTTP out, and nothing between that costs time.

A prediction is read, judged, answered and written; only then is it recorded. Every fault of a
request is a 4xx that names the field, every fault of the surroundings a 503 that says when to come
back, and a fault of ours a 500 that leaves the process alive.
"""

import asyncio
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from hapredict.data.schema import Table
from hapredict.errors import BadRequest, HapredictError, UnknownName
from hapredict.sections import ServingSpec
from hapredict.serving import descriptions, docs_page, openapi
from hapredict.serving.admission import Admission
from hapredict.serving.answers import Answered, Request, predictions
from hapredict.serving.batching import Batcher, Part
from hapredict.serving.bodies import check_rows, columns_from
from hapredict.serving.exchange import (
    GONE_STATUS,
    Call,
    Gone,
    Handler,
    Receive,
    Route,
    Send,
    fixed,
    pattern_of,
    read_body,
    read_version,
    sent_request_id,
    version_header,
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
    json_reply,
    shed_reason,
    status_of,
    wrong_method,
)
from hapredict.serving.upkeep import TICK_S, Kept, Upkeep

log = logging.getLogger(__name__)

Said = TypeVar("Said")

_PAGE_POLICY = (
    b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
)


class Replica(descriptions.Described, Kept, Protocol):
    """What the app needs of a replica; see `replica.Replica` for the promises."""

    def predict(self, table: Table, *, version: int | None = None) -> Answered: ...
    def after(self, answer: Any) -> None: ...
    def feedback(self, labels: Sequence[Label]) -> None: ...


class App:
    """The ASGI application (scopes `http` and `lifespan`) in front of one replica.

    `clock` tells wall time in seconds. `request_ids` names requests whose caller did not. Under a
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
    ) -> None:
        self._replica = replica
        self._clock = clock
        self._request_ids = request_ids or _counted(f"{replica.model}-{clock():.6f}")
        limit = ServingSpec().max_ongoing_requests
        self._admission = Admission(limit)
        # Feedback waits for a disk, predictions for a processor: one must not block the other.
        self._feedback_admission = Admission(limit)
        self._batcher = Batcher(replica.predict, self._after, clock=clock)
        self._in_progress = 0
        self._metrics = Metrics(replica.model, lambda: self._in_progress)
        self._upkeep = Upkeep(replica, tick_s=tick_s)
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
        self._in_progress += 1
        try:
            serving = self._settings(self._admission)
            self._admission.check()
            request = read(serving)
            deadline_s = None if request.wait_s is None else start_s + request.wait_s
            part = await self._answer(request.columns, request.rows, request.version, deadline_s)
            # recorded in the next turn: the caller gets its rows first
            asyncio.get_running_loop().call_soon(self._batcher.written, part)
            self._metrics.rows(part.versions)
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
            self._in_progress -= 1
            self._metrics.request(route, code, max(0.0, self._clock() - start_s))

    async def _http(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        start_s = self._clock()
        self._in_progress += 1
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
            except HapredictError as error:
                reply = self._refusal(error, request_id)
            except Gone:
                raise
            except Exception:  # one request's fault must not end the replica
                log.exception("request %s failed", request_id.decode())
                reply = internal_error(request_id.decode())
            status = reply.status
            await write(send, reply, request_id, head=method == "HEAD")
        except (Gone, OSError):
            status = GONE_STATUS  # nobody is left to be answered
        finally:
            if reply is not None and reply.part is not None:
                self._batcher.written(reply.part)
            self._in_progress -= 1
            self._metrics.request(route, status, max(0.0, self._clock() - start_s))

    async def _reply(self, route: Route, method: str, call: Call) -> Reply:
        handler = route.handlers.get("GET" if method == "HEAD" else method)
        if handler is not None:
            return await handler(call)
        if method == "OPTIONS":
            return Reply(204, b"", headers=((b"allow", route.allowed.encode()),))
        return wrong_method(method[:20], route.allowed)

    def _refusal(self, error: HapredictError, request_id: bytes) -> Reply:
        status = status_of(error)
        if status is None:
            log.error("request %s failed", request_id.decode(), exc_info=error)
            return internal_error(request_id.decode())
        self._count_shed(error)
        return error_reply(error, status)

    def _count_shed(self, error: HapredictError) -> None:
        reason = shed_reason(error)
        if reason is not None:
            self._metrics.shed(reason)

    def _mount(self) -> None:
        """Exact paths of this model first: a request then costs one look-up."""
        v1, v2 = "/v1/models/{model}", "/v2/models/{model}"
        ready = self._readiness
        routes: list[tuple[str, dict[str, Handler]]] = [
            (v1, {"GET": self._v1_model}),
            (v1 + ":feedback", {"POST": self._feedback}),
            (v2, {"GET": self._v2_model}),
            (v2 + "/versions/{version}", {"GET": self._v2_model}),
            (v2 + "/ready", {"GET": self._v2_model_ready}),
            (v2 + "/versions/{version}/ready", {"GET": self._v2_model_ready}),
            ("/v2", {"GET": fixed({"name": "hapredict", "version": "2", "extensions": []})}),
            ("/v2/health/live", {"GET": fixed({"live": True})}),
            ("/v2/health/ready", {"GET": ready}),
            ("/livez", {"GET": fixed({"live": True})}),
            ("/readyz", {"GET": ready}),
            ("/healthz", {"GET": ready}),
            ("/openapi.json", {"GET": self._openapi}),
            ("/docs", {"GET": self._docs}),
            ("/metrics", {"GET": self._text}),
        ]
        for name in WIRE_PROTOCOLS:
            protocol = WIRE_PROTOCOLS.find(name)
            handlers: dict[str, Handler] = {"POST": self._predictor(protocol)}
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

    def _settings(self, admission: Admission) -> ServingSpec:
        """The settings of now. Raises TemporaryError if the replica is not ready."""
        serving = self._replica.spec.serving
        admission.limit_ongoing = serving.max_ongoing_requests
        return serving

    async def _answer(
        self,
        columns: Mapping[str, Sequence[Any]],
        rows: int,
        version: int | None,
        deadline_s: float | None,
    ) -> Part:
        """Judge the columns and ask the model. The caller owes one `Batcher.written`."""
        replica = self._replica
        on_event_clock = replica.spec.monitoring.clock == "event"
        self._admission.enter(self._clock(), deadline_s)
        try:
            table = replica.schema.table(columns, time_required=on_event_clock)
            return await self._batcher.predict(table, rows, version, deadline_s)
        finally:
            self._admission.leave(self._clock())

    def _predictor(self, protocol: type[WireProtocol]) -> Handler:
        async def predict(call: Call) -> Reply:
            serving = self._settings(self._admission)
            self._admission.check()
            deadline_s = call.deadline_s()
            body = await read_body(call, serving.body_bytes_max)
            request = protocol.decode_request(body, serving.rows_max)
            part = await self._answer(request.columns, request.rows, call.version, deadline_s)
            try:
                encoded = protocol.encode_response(part, request)
                self._metrics.rows(part.versions)
            except BaseException:
                self._batcher.written(part)
                raise
            return Reply(200, encoded, headers=version_header(part), part=part)

        return predict

    def _after(self, answer: Any) -> None:
        try:
            self._replica.after(answer)
        except Exception:  # the answer is out; recording it must not harm the next one
            log.exception("an answer could not be recorded")

    async def _feedback(self, call: Call) -> Reply:
        admission = self._feedback_admission
        serving = self._settings(admission)
        admission.check()
        labels = decode_feedback(await read_body(call, serving.body_bytes_max), serving.rows_max)
        now_s = self._clock()
        rows = [Label(label.id, label.value, now_s, label.event_s) for label in labels]
        admission.enter(now_s)
        try:
            await asyncio.to_thread(self._replica.feedback, rows)
        finally:
            admission.leave(self._clock())
        self._metrics.labels(len(rows))
        return json_reply({"acknowledged": len(rows)})

    async def _v1_model(self, _call: Call) -> Reply:
        return json_reply(descriptions.v1_model(self._replica))

    async def _v2_model(self, call: Call) -> Reply:
        descriptions.check_version(self._replica, call.version)
        return json_reply(descriptions.v2_model(self._replica))

    async def _v2_model_ready(self, call: Call) -> Reply:
        descriptions.check_version(self._replica, call.version)
        said = {"name": self._replica.model, "ready": self.ready}
        return json_reply(said, 200 if self.ready else 503)

    async def _readiness(self, _call: Call) -> Reply:
        said = descriptions.readiness(self._replica, stopping=self._upkeep.stopping)
        return json_reply(said, 200 if said["ready"] else 503)

    async def _openapi(self, call: Call) -> Reply:
        return json_reply(self._described(call.root))

    async def _docs(self, call: Call) -> Reply:
        page = docs_page.page(self._described(call.root)).encode()
        policy = ((b"content-security-policy", _PAGE_POLICY),)
        return Reply(200, page, b"text/html; charset=utf-8", policy)

    async def _text(self, _call: Call) -> Reply:
        return Reply(200, self._metrics.text(), CONTENT_TYPE)

    def _described(self, root: str) -> dict[str, Any]:
        replica = self._replica
        spec, schema = replica.spec, replica.schema
        return openapi.document(
            replica.model,
            schema,
            version=replica.model_version,
            time_required=spec.monitoring.clock == "event",
            rows_max=spec.serving.rows_max,
            root=root,
            extras=replica.extras,
        )


def _counted(prefix: str) -> Callable[[], str]:
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers):x}"
