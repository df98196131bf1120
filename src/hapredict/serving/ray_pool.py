"""The edge to Ray Serve for pools: one deployment for all models that name the same pool."""

import os
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import serve

from hapredict.errors import BadRequest, ClusterUnavailable, NotFound, TemporaryError
from hapredict.registry.store import Store, decode_json, encode_json, open_store
from hapredict.sections_live import ServingSpec
from hapredict.serving.inference_service import OpenInference
from hapredict.serving.pool_app import PoolApp
from hapredict.serving.pooled import Tenants
from hapredict.serving.ray_serve import QUIET, access_log, data_plane, is_deployed, model_deployment
from hapredict.serving.scaling import LoadMeter

THREADS = 2
"""Models that are loaded at once, beside the event loop."""
ONGOING_MAX = 1024
"""Requests in progress a replica; each model has its own bound below it."""


@serve.ingress()
class PoolReplica(OpenInference):
    """One replica of a pool: HTTP, gRPC, and `predict` by a Serve handle, for each model."""

    def __init__(self, pool: str, settings: dict[str, Any], store_url: str, home: str) -> None:
        serving = ServingSpec(**settings)
        store, process = open_store(store_url), secrets.token_hex(6)
        self._process = f"r{process}"
        self._leaving = False
        meter = LoadMeter(time.time, time.process_time, serving.num_cpus)
        threads = ThreadPoolExecutor(THREADS, "hapredict-load")
        self._app = PoolApp(
            lambda told: Tenants(
                pool,
                store,
                # never the same again: not for another process, and not for another load
                lambda: f"r{process}{secrets.token_hex(3)}",
                Path(home) / "spool",
                memory_bytes=serving.pool_memory_mb * 1_000_000,
                poll_s=serving.catalog_poll_s,
                clock=time.time,
                steady=time.monotonic,
                meter=meter,
                threads=threads,
                told=told,
                timer=time.thread_time,
                access=lambda spec, source: access_log(spec, source, Path(home)),
            ),
            clock=time.time,
            meter=meter,
        )
        self._data_plane = data_plane(serving, lambda fast: fast.use(self._protocol))
        super().__init__(self._app)

    def __serve_build_asgi_app__(self) -> PoolApp:
        return self._app

    async def predict(
        self, rows: list[dict[str, Any]], version: int | None = None, *, model: str = ""
    ) -> list[dict[str, Any]]:
        """What `POST :predict` answers for these rows. Raises the errors of `hapredict.errors`."""
        if not model:
            raise BadRequest(f"name the model: pool {self._app.pool!r} has several")
        return await self._app.predict_rows(model, rows, version=version)

    def check_health(self) -> None:
        """Serve asks every two seconds. Raises TemporaryError if this process had better go."""
        if self._app.exhausted:
            raise TemporaryError("there was no memory for a request; a new process starts anew")
        if self._leaving:
            raise TemporaryError("it was asked to leave this node for another one")

    def place(self) -> dict[str, str]:
        """Who this replica is and on which node."""
        return {"source": self._process, "node": ray.get_runtime_context().get_node_id()}

    def leave(self, source: str) -> None:
        """Have Serve drain the replica of that name and start another elsewhere."""
        if source == self._process:
            self._leaving = True

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy hears of this replica, all models together; Serve asks."""
        return self._app.load().to_json()

    async def detail(self, model: str = "") -> dict[str, Any]:
        """What this replica has loaded, or what it knows of a model, and its process."""
        if model:
            await self._app.look()  # it may have been added a moment ago
        said = (await self._app.app_of(model)).replica.detail() if model else self._app.detail()
        return {**said, "pid": os.getpid(), "data_plane": self._data_plane}

    def _protocol(self) -> type:
        from hapredict.serving.fast_http import protocol_of

        return protocol_of(self._app, self._app.paths)


def deploy_pool(pool: str, settings: ServingSpec, store: Store, home: Path) -> bool:
    """Bring the replicas of a pool up, or to these settings, and wait until they run.

    False if they were so already. Raises ClusterUnavailable if they do not start.
    """
    said = settings.model_dump(mode="json")
    if is_deployed(pool) and _deployed(store, pool) == said:
        return False
    deployment = model_deployment(PoolReplica, settings, ongoing_max=ONGOING_MAX)
    app = deployment.bind(pool, said, store.url, str(home))
    try:
        serve.run(app, name=pool, route_prefix=f"/{pool}", logging_config=QUIET)
    except RuntimeError as error:
        raise ClusterUnavailable(f"the replicas of pool {pool!r} do not start: {error}") from error
    store.put(_path(pool), encode_json(said))
    return True


def deployed_settings(store: Store, pool: str) -> ServingSpec:
    """With which settings the replicas of a pool were brought up; before that, the defaults.

    Raises StoreUnavailable.
    """
    return ServingSpec(**(_deployed(store, pool) or {}))


def _deployed(store: Store, pool: str) -> Any:
    try:
        return decode_json(store.get(_path(pool)), _path(pool))
    except NotFound:
        return None


def _path(pool: str) -> str:
    return f"pools/{pool}/deployed.json"
