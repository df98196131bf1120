"""A Ray cluster of one node, started, found again and ended by pid.

`hapredict up`, the demo and the tests use it. Several may run side by side: each has its own
folder, ports, token and HAProxy files, since Ray's and Serve's defaults collide. Everything that
Serve reads from the environment is set here, on the node: a driver's environment does not reach
Serve's controller and proxies.
"""

import atexit
import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import ray
from ray._private import auto_init_hook, ray_constants
from ray._private.ray_logging import stdout_deduplicator
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from hapredict.control.serve_flags import serve_flags
from hapredict.errors import ClusterUnavailable, NotFound

HOME_VARIABLE = "HAPREDICT_HOME"
NAMESPACE = "hapredict"
STARTED = b"Ray runtime started"
"""What `ray start` prints when all of the node's own processes run."""
DEFAULT_PORT = 8000
DEFAULT_GRPC_PORT = 9000
BLOCK_PORTS = 240
NAMED_PORTS = 20
STARTS_MAX = 3
"""Ray's raylet sometimes misses its own start-up limit on a busy machine."""


def find_home(given: str | None = None) -> Path:
    """The home: what is given, or `HAPREDICT_HOME`, or `.hapredict` where the caller stands."""
    return Path(given or os.environ.get(HOME_VARIABLE) or ".hapredict").absolute()


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """Where a running cluster is, as written to `cluster.json` in its home."""

    home: str
    pid: int
    temp_dir: str
    address: str
    dashboard_url: str
    serve_url: str
    grpc_address: str
    """Host and port at which Serve answers gRPC."""
    environment: dict[str, str]
    """What every process that talks to the cluster must have in its environment."""

    @property
    def serve_port(self) -> int:
        return int(self.serve_url.rpartition(":")[2])

    @property
    def grpc_port(self) -> int:
        return int(self.grpc_address.rpartition(":")[2])


def start(
    home: Path,
    *,
    num_cpus: int = 8,
    serve_port: int | None = None,
    grpc_port: int | None = None,
    start_s: float = 120,
) -> LocalCluster:
    """Start a node and wait until it answers. Raises ClusterUnavailable with Ray's last words.

    `num_cpus` is logical: how many replicas, workers and tasks fit, not how fast they are.
    `serve_port` None takes 8000, or any free port where 8000 is taken; 0 takes any free port. So
    does `grpc_port`, with 9000.
    """
    with contextlib.suppress(NotFound):
        running = find(home)
        raise ClusterUnavailable(
            f"a cluster already runs for {home} (pid {running.pid}); end it with `hapredict down`"
        )
    home.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, STARTS_MAX + 1):
        cluster, process, log = _launch(home, num_cpus, serve_port, grpc_port)
        if _answers(cluster, process, log, time.monotonic() + start_s):
            (home / "cluster.json").write_text(json.dumps(asdict(cluster), indent=1))
            return cluster
        _end(cluster)
        if attempt == STARTS_MAX:
            last = log.read_text(errors="replace").strip().splitlines()[-8:]
            raise ClusterUnavailable(
                f"Ray did not start in {STARTS_MAX} attempts; its last words:\n" + "\n".join(last)
            )
    raise AssertionError


def find(home: Path) -> LocalCluster:
    """The cluster that runs for `home`. Raises NotFound."""
    try:
        cluster = LocalCluster(**json.loads((home / "cluster.json").read_text()))
    except (OSError, ValueError, TypeError):
        raise NotFound(f"no cluster runs for {home}; start one with `hapredict up`") from None
    if not _alive(cluster):
        raise NotFound(f"the cluster of {home} has ended; start one with `hapredict up`")
    return cluster


def connect(home: Path) -> None:
    """Join the cluster that runs for `home`, or the one that `ray job submit` put us on.

    Raises NotFound if there is none, ClusterUnavailable if it does not answer.
    """
    if ray.is_initialized():
        return
    # inside a Ray job the address is given, and the environment comes from the node
    inside = os.environ.get("RAY_ADDRESS")
    if inside is None:
        cluster = find(home)
        os.environ.update(cluster.environment)
        inside = cluster.address
        _read_environment_again()
    # after `ray.shutdown`, threads of Serve handles would start a Ray of their own
    auto_init_hook.enable_auto_connect = False
    # Serve's flags for throughput break synchronous handles in a driver, except with this one
    os.environ["RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"] = "1"
    # what fails is raised; Ray's and Serve's own chatter is not for users of a command
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray prints what befalls any process of the cluster to our standard output, which may be JSON
    stdout_deduplicator.skip_re = re.compile("")
    try:
        ray.init(address=inside, namespace=NAMESPACE, log_to_driver=False, logging_level="error")
    except ConnectionError as error:
        raise ClusterUnavailable(f"the cluster at {inside} does not answer: {error}") from error
    atexit.register(disconnect)  # before Ray's own, which leaves threads to complain


def disconnect() -> None:
    """Leave the cluster that `connect` joined; it runs on."""
    # threads of Serve handles outlive the connection, and would complain until the process ends
    logging.getLogger("ray.serve").setLevel(logging.CRITICAL)
    ray.shutdown()


def _read_environment_again() -> None:
    """Make an imported Ray see the variables of `LocalCluster.environment`.

    Ray reads both when it is first imported: whether to use tokens, and whether to turn 127.0.0.1
    into the host's outer address (where this node does not listen).
    """
    ray_constants.ENABLE_RAY_CLUSTER = False
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def stop(home: Path) -> bool:
    """End the cluster of `home` and all its processes; False if none ran."""
    try:
        cluster = LocalCluster(**json.loads((home / "cluster.json").read_text()))
    except (OSError, ValueError, TypeError):
        return False
    ran = _alive(cluster)
    _end(cluster)
    shutil.rmtree(cluster.temp_dir, ignore_errors=True)
    (home / "cluster.json").unlink(missing_ok=True)
    return ran


def _launch(
    home: Path, num_cpus: int, serve_port: int | None, grpc_port: int | None
) -> tuple[LocalCluster, "subprocess.Popen[bytes]", Path]:
    short = hashlib.sha256(f"{home}{time.time_ns()}".encode()).hexdigest()[:6]
    # sockets lie below it and a socket's path may have 107 characters, so it cannot be in `home`
    temp_dir = Path(tempfile.gettempdir()) / f"hapredict-{short}"
    haproxy = temp_dir / "h"  # HAProxy adds 57 characters, and takes 97
    haproxy.mkdir(parents=True)
    token = home / "token"
    if not token.exists():
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
    ports = _free_block()
    http = _port(serve_port, DEFAULT_PORT, ports[11])
    grpc = _port(grpc_port, DEFAULT_GRPC_PORT, ports[12])
    replicas = (ports[NAMED_PORTS], ports[-1])
    environment = {
        HOME_VARIABLE: str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's name for: stay on the loopback
        # importing the runtime env of the driver into each worker takes seconds and brings none
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    }
    node_environment = {
        **environment,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        # one host serves and trains: without this, replicas would run at nice 15 too
        "RAY_worker_niceness": "0",
        "RAY_DISABLE_MEMORY_MONITOR": "1",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        **serve_flags(haproxy, ports, replicas),
    }
    cluster = LocalCluster(
        home=str(home),
        pid=0,
        temp_dir=str(temp_dir),
        address=f"127.0.0.1:{ports[0]}",
        dashboard_url=f"http://127.0.0.1:{ports[1]}",
        serve_url=f"http://127.0.0.1:{http}",
        grpc_address=f"127.0.0.1:{grpc}",
        environment=environment,
    )
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        "--node-ip-address=127.0.0.1",
        f"--port={ports[0]}",
        f"--dashboard-port={ports[1]}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-agent-listen-port={ports[2]}",
        f"--dashboard-agent-grpc-port={ports[3]}",
        f"--runtime-env-agent-port={ports[4]}",
        f"--metrics-export-port={ports[5]}",
        f"--ray-client-server-port={ports[6]}",
        "--min-worker-port=0",
        "--max-worker-port=0",
        f"--num-cpus={num_cpus}",
        "--num-gpus=0",
        f"--object-store-memory={400 << 20}",
        f"--temp-dir={temp_dir}",
        "--disable-usage-stats",
        "--include-log-monitor=false",  # it sends logs to drivers that want them; ours do not
    ]
    log = home / "ray.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env={**_clean_environment(), **node_environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return LocalCluster(**{**asdict(cluster), "pid": process.pid}), process, log


def _clean_environment() -> dict[str, str]:
    """Ours without what another cluster may have left in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def _answers(
    cluster: LocalCluster, process: "subprocess.Popen[bytes]", log: Path, deadline_s: float
) -> bool:
    host, _, port = cluster.address.partition(":")
    dashboard = int(cluster.dashboard_url.rpartition(":")[2])
    while time.monotonic() < deadline_s and process.poll() is None:
        # the ports are open seconds before Ray knows whether its raylet has come up
        up = STARTED in log.read_bytes()
        if up and _accepts(host, int(port)) and _accepts(host, dashboard):
            return True
        time.sleep(0.2)
    return False


def _accepts(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _alive(cluster: LocalCluster) -> bool:
    return any(True for _ in _processes(cluster))


def _processes(cluster: LocalCluster) -> Iterator[psutil.Process]:
    """The node's own process and all below it, and whatever names the cluster's folder."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if any(cluster.temp_dir in part for part in process.info["cmdline"] or ()):
            found[process.pid] = process
            with contextlib.suppress(psutil.Error):
                found |= {child.pid: child for child in process.children(recursive=True)}
    yield from found.values()


def _end(cluster: LocalCluster, grace_s: float = 8) -> None:
    processes = list(_processes(cluster))
    for process in processes:
        if process.pid == cluster.pid:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=grace_s)
    left += list(_processes(cluster))
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=grace_s)


def _free_block() -> range:
    """Ports in a row that nobody holds: the first NAMED_PORTS for services, the rest for replicas.

    They lie below the kernel's own range, from which any connection may take one before its service
    binds it, and begin anywhere, so that clusters which start together do not meet.
    """
    starts = list(range(20_000, 32_000, BLOCK_PORTS))
    for _ in range(len(starts)):
        first = starts.pop(secrets.randbelow(len(starts)))
        block = range(first, first + BLOCK_PORTS)
        if all(map(_is_free, block)):
            return block
    raise ClusterUnavailable(f"no {BLOCK_PORTS} free ports in a row between 20000 and 32000")


def _port(wanted: int | None, default: int, free: int) -> int:
    if wanted is None:
        return default if _is_free(default) else free
    return wanted or free


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
    return False
