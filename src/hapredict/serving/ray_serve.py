"""The edge to Ray Serve: one deployment a model, and the model lives in its ingress replica.

Serve places, scales, heals and drains replicas and its HAProxy balances between them. Versions are
not Serve's affair: a replica follows the catalog, so that a canary, a promotion or a rollback
restarts no process. Only new code or a new `serving` section is a rolling update.
"""

import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.schema import ApplicationStatus, LoggingConfig

from hapredict.errors import ClusterUnavailable, NotFound, TemporaryError
from hapredict.registry.store import open_store
from hapredict.sections_live import ServingSpec
from hapredict.serving.access import AccessLog
from hapredict.serving.asgi import App
from hapredict.serving.inference_service import (
    OpenInference,
    add_to_local_server,
    add_to_server,
)
from hapredict.serving.ray_scaling import autoscaling
from hapredict.serving.replica import Replica
from hapredict.serving.scaling import LoadMeter
from hapredict.spec import Spec, build_spec

# what Serve logs per request costs more than the prediction; `serving.access_log` does not
QUIET = LoggingConfig(enable_access_log=False, log_level="ERROR")


@serve.ingress()
class ModelReplica(OpenInference):
    """One replica of one model: HTTP by the ASGI app, gRPC, and `predict` by a Serve handle."""

    def __init__(self, raw_spec: dict[str, Any], store_url: str, home: str) -> None:
        spec = build_spec(raw_spec)
        # a source is one process start: it must never come back under the same name
        self._source = f"r{secrets.token_hex(6)}"
        self._leaving = False
        self._replica = Replica(
            open_store(store_url),
            spec.name,
            self._source,
            Path(home) / "spool",
            time.time,
            spec=spec,
            timer=time.thread_time,
        )
        self._app = App(
            self._replica,
            clock=time.time,
            meter=LoadMeter(time.time, time.process_time, spec.serving.num_cpus),
            access=access_log(spec, self._source, Path(home)),
        )
        self._data_plane = data_plane(
            spec.serving, lambda fast: str(fast.install(self._app, f"/{spec.name}"))
        )
        super().__init__(self._app)

    def __serve_build_asgi_app__(self) -> App:
        return self._app

    async def predict(
        self, rows: list[dict[str, Any]], version: int | None = None
    ) -> list[dict[str, Any]]:
        """What `POST :predict` answers for these rows. Raises the errors of `hapredict.errors`."""
        return await self._app.predict_rows(rows, version=version)

    def check_health(self) -> None:
        """Serve asks every two seconds. Raises TemporaryError if this process had better go."""
        if self._app.exhausted:
            raise TemporaryError("there was no memory for a request; a new process starts anew")
        if self._leaving:
            raise TemporaryError("it was asked to leave this node for another one")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What the autoscaling policy hears of this replica; Serve asks."""
        return self._app.load().to_json()

    def place(self) -> dict[str, str]:
        """Who this replica is and on which node."""
        return {"source": self._source, "node": ray.get_runtime_context().get_node_id()}

    def leave(self, source: str) -> None:
        """Have Serve drain the replica of that name and start another elsewhere."""
        if source == self._source:
            self._leaving = True

    async def detail(self) -> dict[str, Any]:
        """What this replica has loaded and recorded, and its process."""
        return {**self._replica.detail(), "pid": os.getpid(), "data_plane": self._data_plane}


def access_log(spec: Spec, source: str, home: Path) -> AccessLog | None:
    """The access log of a replica, if its spec wants one."""
    serving = spec.serving
    if serving.access_log == "off":
        return None
    return AccessLog(
        spec.name,
        home / "logs" / spec.name / f"access-{source}.jsonl",
        errors_only=serving.access_log == "errors",
        bytes_max=serving.access_log_bytes_max,
    )


def data_plane(serving: ServingSpec, install: Callable[[Any], str]) -> str:
    """Take up the data plane that the settings ask for, if that can be; what it is, and why.

    `install` is given the module `fast_http` and says why not, or "". Serve starts this replica's
    HTTP server after the constructor, and in the same event loop.
    """
    if serving.data_plane == "standard":
        return "standard"
    try:
        from hapredict.serving import fast_http

        reason = install(fast_http)
    except ImportError as error:  # another uvicorn than the one this was written for
        reason = str(error)
    return f"standard, as {reason}" if reason else "fast"


def start_serve(port: int, grpc_port: int, host: str = "127.0.0.1") -> None:
    """Start Serve's controller and ingress for HTTP and gRPC, unless they run."""
    add = add_to_local_server if host == "127.0.0.1" else add_to_server
    serve.start(
        http_options=HTTPOptions(host=host, port=port),
        grpc_options=gRPCOptions(
            port=grpc_port, grpc_servicer_functions=[f"{add.__module__}.{add.__name__}"]
        ),
        proxy_location="EveryNode",
        logging_config=QUIET,
    )


def deploy(spec: Spec, store_url: str, home: Path) -> None:
    """Bring the replicas of a model up, or up to date, and wait until they run.

    Old replicas answer until new ones are ready. Raises ClusterUnavailable if they do not start.
    """
    serving = spec.serving
    deployment = model_deployment(ModelReplica, serving, ongoing_max=serving.max_ongoing_requests)
    app = deployment.bind(spec.model_dump(mode="json"), store_url, str(home))
    try:
        serve.run(app, name=spec.name, route_prefix=f"/{spec.name}", logging_config=QUIET)
    except RuntimeError as error:
        raise ClusterUnavailable(f"the replicas of {spec.name!r} do not start: {error}") from error


def model_deployment(replica: Any, serving: ServingSpec, *, ongoing_max: int) -> Any:
    """The deployment of a replica's class, as `serving` says."""
    return serve.deployment(
        replica,
        name="model",
        max_ongoing_requests=ongoing_max,
        autoscaling_config=autoscaling(serving),
        ray_actor_options={"num_cpus": serving.num_cpus},
        health_check_period_s=2,
        health_check_timeout_s=5,  # three in a row, and a replica that hangs is replaced
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
        max_surge_percent=100,
        logging_config=QUIET,
    )


def is_deployed(model: str) -> bool:
    """Whether Serve runs replicas of the model now."""
    return _status(model) == ApplicationStatus.RUNNING


def _status(model: str) -> ApplicationStatus | None:
    application = serve.status().applications.get(model)
    return application.status if application else None


def replica_states(model: str) -> dict[str, int]:
    """How many replicas are in which state. Raises NotFound if the model is not deployed."""
    application = serve.status().applications.get(model)
    if application is None:
        raise NotFound(f"model {model!r} is not deployed")
    states: dict[str, int] = {}
    for deployment in application.deployments.values():
        for state, count in deployment.replica_states.items():
            states[str(getattr(state, "value", state))] = count
    return states


def remove(model: str) -> None:
    """Take the replicas of a model down; what it has in the store stays."""
    serve.delete(model)
