"""The ASGI application of one replica of a pool: finds the model that a request names.

    /v1/models/MODEL:predict, /v2/models/MODEL/infer    as any server of several models has it
    /MODEL/...                                          all that a model alone has below its root
    /v1/models, /v2, /livez, /readyz, /metrics          of the pool

What follows is the model's own app, so that answers do not depend on where a model lives.
"""

import asyncio
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hapredict.errors import BadRequest, HapredictError, TemporaryError
from hapredict.serving import descriptions
from hapredict.serving.asgi import App
from hapredict.serving.exchange import Receive, Send, read_deadline_s, sent_request_id, write
from hapredict.serving.fast_http import Sent, Target
from hapredict.serving.metrics import CONTENT_TYPE, Metrics
from hapredict.serving.pooled import Tenant, Tenants
from hapredict.serving.protocols import WireProtocol
from hapredict.serving.replies import (
    Reply,
    error_reply,
    internal_error,
    json_reply,
    status_of,
    wrong_method,
)
from hapredict.serving.scaling import Load, LoadMeter
from hapredict.serving.upkeep import TICK_S, Upkeep

_NAMED = re.compile(r"/v[12]/models/([^/:]+)")
_BELOW = re.compile(r"/([a-z][a-z0-9_]{0,62})(?:/.*)?")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_OWN = frozenset(("v1", "v2", "livez", "readyz", "healthz", "metrics", "docs"))
"""First parts of the pool's own paths; a model of such a name has those of `/v1/models` only."""
PAUSE_MIN_S = 0.1
"""Models that are due within it are looked at together."""

log = logging.getLogger(__name__)


class PoolApp:
    """The ASGI application (scopes `http` and `lifespan`) in front of the models of a pool.

    As `asgi.App`: `clock` tells wall time, `meter` hears of all that is done.
    """

    def __init__(
        self,
        tenants: Callable[[Callable[[Tenant, bool], None]], Tenants],
        *,
        clock: Callable[[], float],
        meter: LoadMeter,
        tick_s: float = TICK_S,
    ) -> None:
        """`tenants` makes them, given who is told of each that came or went."""
        self.paths: dict[bytes, Target] = {}
        """Paths that the fast data plane answers: those of models that are loaded."""
        self._tenants = tenants(self._told)
        self._clock = clock
        self._meter = meter
        self._upkeep = Upkeep(
            self._tenants,
            poll_s=lambda: max(PAUSE_MIN_S, self._tenants.rota.pause_s / 10),
            report_s=self._tenants.report_s,
            tick_s=lambda: self._tenants.tick_s(tick_s),
            late=meter.late,
        )
        numbers = itertools.count(1)
        self._request_ids: Callable[[], str] = lambda: (
            f"{self.pool}-{clock():.6f}-{next(numbers):x}"
        )
        self._metrics = Metrics(self.pool, lambda: 0.0)
        self._looking: asyncio.Task[None] | None = None

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answers one HTTP request, or follows the server's life."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            self._begin()
            await self._upkeep.follow(receive, send)
        else:
            raise ValueError(f"this app speaks http, not {scope['type']}")

    @property
    def pool(self) -> str:
        """The pool's name."""
        return self._tenants.pool

    @property
    def ready(self) -> bool:
        """Whether requests can be answered now."""
        return self._tenants.looked and not self._upkeep.stopping

    @property
    def exhausted(self) -> bool:
        """Whether there was a request for which this process had no memory; it had better go."""
        return any(tenant.app.exhausted for tenant in self._tenants.tenancy.registry)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop of `run`, which all of this belongs to."""
        return self._upkeep.loop

    def load(self) -> Load:
        """What this replica had to do since the last question, for all models together."""
        return self._meter.load()

    async def run(self) -> None:
        """Runs the upkeep loops until `close`."""
        self._begin()
        await self._upkeep.run()

    async def close(self) -> None:
        """Ends the loops, brings recorded rows to the store and closes the models."""
        await self._upkeep.close()

    def tenant(self, model: str) -> Tenant | None:
        """The model, if it is loaded."""
        return self._tenants.tenancy.registry.get(model)

    async def app_of(self, model: str, wait_s: float | None = None) -> App:
        """The app of a model, loaded if it was not; to be called before giving way to others.

        Raises UnknownName, StoreUnavailable, Overloaded, and TimedOut after `wait_s`.
        """
        found = self.tenant(model)
        if found is None:
            if not _NAME.fullmatch(model):
                raise self._tenants.unknown(model)
            if self._tenants.known(model) is None:
                await self.look()
            if not self._tenants.known(model):
                raise self._tenants.unknown(model)
            found = await self._tenants.tenancy.get(model, wait_s)
        return found.app

    async def predict_rows(
        self, model: str, rows: Sequence[Mapping[str, Any]], version: int | None = None
    ) -> list[dict[str, Any]]:
        """As `App.predict_rows`, by the model of that name. Raises also what `app_of` raises."""
        return await (await self.app_of(model)).predict_rows(rows, version=version)

    def detail(self) -> dict[str, Any]:
        """What is loaded, as JSON values."""
        tenancy = self._tenants.tenancy
        rota = self._tenants.rota
        return {
            "pool": self.pool,
            "models": len(self._tenants.names),
            "loaded": len(tenancy.registry),
            "memory_bytes": tenancy.registry.memory_bytes,
            "memory_bytes_max": tenancy.registry.bytes_max,
            "loads": tenancy.loads,
            "evictions": tenancy.evictions,
            "catalog_poll_s": rota.pause_s * rota.stretch,
        }

    async def look(self) -> None:
        """Learn which models there are. Raises StoreUnavailable."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(asyncio.to_thread(self._tenants.look))
            self._looking.add_done_callback(_seen)
        await asyncio.shield(self._looking)

    def _begin(self) -> None:
        self._tenants.later = asyncio.get_running_loop().call_soon_threadsafe

    async def _http(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        root: str = scope.get("root_path", "").rstrip("/")
        if root and (path == root or path.startswith(root + "/")):
            path = path[len(root) :]
        start_s = self._clock()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        try:
            named, below = _NAMED.match(path), _BELOW.fullmatch(path)
            app = None
            if named is not None:
                app = await self._asked(named[1], headers, start_s)
            elif below is not None and below[1] not in _OWN:
                app = await self._asked(below[1], headers, start_s)
                scope = {**scope, "root_path": f"{root}/{below[1]}"}
            if app is not None:
                await app(scope, receive, send)
                return
            reply = await self._own(path, scope["method"], root)
        except HapredictError as error:
            status = status_of(error)
            reply = error_reply(error, status) if status else self._fault(error)
        except Exception as error:  # one request's fault must not end the replica
            reply = self._fault(error)
        request_id = sent_request_id(headers) or self._request_ids().encode()
        self._metrics.request("other", reply.status, max(0.0, self._clock() - start_s))
        try:
            await write(send, reply, request_id, head=scope["method"] == "HEAD")
        except OSError:
            return  # nobody is left to be answered

    async def _asked(self, model: str, headers: Mapping[bytes, bytes], start_s: float) -> App:
        found = self.tenant(model)
        if found is not None:
            return found.app
        deadline_s = read_deadline_s(headers, start_s)
        return await self.app_of(model, None if deadline_s is None else deadline_s - start_s)

    def _fault(self, error: Exception) -> Reply:
        request_id = self._request_ids()
        log.error("request %s failed", request_id, exc_info=error)
        return internal_error(request_id)

    async def _own(self, path: str, method: str, root: str) -> Reply:
        said: Callable[[], Reply] | None = {
            "/v1/models": lambda: json_reply({"models": list(self._tenants.names)}),
            "/v2": lambda: json_reply(descriptions.v2_server()),
            "/v2/health/live": lambda: json_reply({"live": True}),
            "/livez": lambda: json_reply({"live": True}),
            "/v2/health/ready": self._readiness,
            "/readyz": self._readiness,
            "/healthz": self._readiness,
            "/metrics": lambda: Reply(200, self._text(), CONTENT_TYPE),
        }.get(path.rstrip("/"))
        if said is None:
            raise BadRequest(
                f"there is nothing at {path[:200]}; {root}/v1/models lists the models, and "
                f"{root}/MODEL/docs what each has",
                404,
            )
        if method not in ("GET", "HEAD"):
            return wrong_method(method[:20], "GET, HEAD")
        if path.startswith("/v1/models") and self._tenants.known("") is None:
            await self.look()
        return said()

    def _readiness(self) -> Reply:
        reasons = ["the replica is shutting down"] if self._upkeep.stopping else []
        if not self._tenants.looked:
            reasons.append("the store has not told yet which models there are")
        said = {**self.detail(), "ready": not reasons, "reasons": reasons}
        return json_reply(said, 503 if reasons else 200)

    def _told(self, tenant: Tenant, here: bool) -> None:
        """A model can be found from now on, or no longer: so can its plain paths."""
        for path, found in tenant.app.direct_paths().items():
            for root in (f"/{self.pool}", f"/{self.pool}/{tenant.name}"):
                if here:
                    self.paths[root.encode() + path] = (tenant, *found)
                else:
                    self.paths.pop(root.encode() + path, None)
        if not here:
            tenant.direct = _gone

    def _text(self) -> bytes:
        """The numbers of all loaded models, and of the pool."""
        registry = CollectorRegistry()
        registry.register(_Numbers(self._families()))
        return generate_latest(registry)

    def _families(self) -> list[Metric]:
        families: dict[str, Metric] = {}
        tenancy = self._tenants.tenancy
        for metrics in (self._metrics, *(tenant.app.metrics for tenant in tenancy.registry)):
            for family in metrics.collect():
                first = families.setdefault(family.name, family)
                if first is not family:
                    first.samples += family.samples
        told = self.detail()
        for name, what in (
            ("loaded", "Models in memory."),
            ("memory_bytes", "What they take, by estimate."),
        ):
            gauge = GaugeMetricFamily(f"hapredict_pool_{name}", what, labels=("pool",))
            gauge.add_metric((self.pool,), told[name])
            families[gauge.name] = gauge
        for name, what in (("loads", "Models loaded."), ("evictions", "Models let go.")):
            counter = CounterMetricFamily(f"hapredict_pool_{name}", what, labels=("pool",))
            counter.add_metric((self.pool,), told[name])
            families[counter.name] = counter
        return list(families.values())


def _seen(task: "asyncio.Task[None]") -> None:
    """Who asked may have left; asyncio complains of errors that nobody took."""
    if not task.cancelled():
        task.exception()


class _Numbers:
    """What Prometheus' registry asks for."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _gone(
    _route: str,
    _protocol: type[WireProtocol],
    headers: Mapping[bytes, bytes],
    _body: bytes,
    send: Sent,
) -> None:
    """A model went between a request's head and its body: HAProxy sends it again."""
    error = TemporaryError("the model was just unloaded; send the request again")
    send(error_reply(error, 503), sent_request_id(headers) or b"unloaded")
