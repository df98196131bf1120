"""A Ray cluster of many nodes on one machine: a head, workers, and a balancer in front of them.

    client --> balancer (HAProxy, on the bridge) --> Serve's ingress on each worker
                                 head (no CPUs, storage that outlives it)

Each node is what a machine would be: a network and a process table of its own, its own address,
and a supervisor that starts `ray start --block` again whenever it ends. Several raylets that share
one process table give wrong results, since a driver attaches to the head's.

A node is killed with all its processes at once, stays away as long as the caller says, and comes
back under the same address. Everything ends with the process that made the lab.
"""

import contextlib
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from hapredict.control.ray_embedded import (
    HOME_VARIABLE,
    STARTED,
    _clean_environment,
)
from hapredict.control.serve_flags import serve_flags
from hapredict.errors import ClusterUnavailable
from hapredict.testing.network import Direction, Network
from hapredict.testing.ray_balancer import Balancer

HEAD = "head"
GCS_PORT = 6379
HTTP_PORT = 8000
START_S = 240
RESTART_S = 1.0
_PORTS = range(20_000, 20_240)
_PR_SET_PDEATHSIG = 1


class LabNode:
    """One node: its supervisor starts it again whenever it ends, unless it is `away`."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self.starts = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = threading.Event()
        self._ended = threading.Event()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name=f"node-{name}", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The node's first process, as this machine sees it. Raises ClusterUnavailable."""
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(psutil.Error, IndexError):
                return int(psutil.Process(process.pid).children()[0].pid)
        raise ClusterUnavailable(f"node {self.name!r} is down")

    def start(self) -> None:
        """Have it run from now on; returns at once."""
        self._wanted.set()

    def wait(self, wait_s: float = START_S) -> None:
        """Until Ray runs on it. Raises ClusterUnavailable with the node's last words."""
        deadline_s = time.monotonic() + wait_s
        while not self._up.is_set():
            if time.monotonic() > deadline_s:
                last = self.log.read_text(errors="replace")[-2000:]
                raise ClusterUnavailable(f"node {self.name!r} did not start in {wait_s} s:\n{last}")
            self._look()
            time.sleep(0.1)

    def kill(self, *, away: bool = False) -> None:
        """SIGKILL to all its processes at once. With `away` it stays down until `start`."""
        if away:
            self._wanted.clear()
        self._up.clear()
        process = self._process
        if process is not None and process.poll() is None:
            # the first process of a process table takes all others with it
            with contextlib.suppress(ClusterUnavailable, ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            process.kill()
            process.wait(timeout=30)

    def end(self) -> None:
        """Down for good."""
        self._ended.set()
        self._wanted.set()
        self.kill()
        self._thread.join(timeout=30)

    def pids(self, title: str) -> list[int]:
        """Processes of the node whose command line contains `title`."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    found.append(process.pid)
        return found

    def _look(self) -> None:
        if self.log.exists() and STARTED in self.log.read_bytes():
            self._up.set()

    def _supervise(self) -> None:
        while True:
            self._wanted.wait()
            if self._ended.is_set():
                return
            with self.log.open("wb") as out:
                self._process = subprocess.Popen(
                    self._command,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_die_with_parent,  # noqa: PLW1509  it makes one system call
                )
            self.starts += 1
            self._process.wait()
            self._up.clear()
            if not self._ended.is_set():
                time.sleep(RESTART_S)


class Lab:
    """A head, `workers` workers and a balancer, on a network of their own.

    `folder` keeps the head's storage and logs; it is the cluster's home and, on a real cluster,
    would be the shared store. Raises NotPermitted where namespaces are not, ClusterUnavailable
    if a node does not start.
    """

    def __init__(
        self,
        folder: Path,
        *,
        workers: int = 2,
        cpus: int = 4,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True, exist_ok=True)
        name = secrets.token_hex(2)
        # a socket's path may have 107 characters, so it cannot be in `folder`
        self._temp = Path(tempfile.gettempdir()) / f"hapredict-{name}"
        self._token = secrets.token_hex(32)
        self._more = dict(environment or {})
        self._cpus = cpus
        self.network = Network(name)
        self.nodes: dict[str, LabNode] = {}
        self.balancer: Balancer | None = None
        try:
            self.network.add(HEAD)
            self.nodes[HEAD] = self._node(HEAD, 0)
            for number in range(1, workers + 1):
                self.network.add(f"w{number}")
                self.nodes[f"w{number}"] = self._node(f"w{number}", cpus)
            self.balancer = Balancer(
                self._temp / "balancer",
                f"{self.network.address}:{HTTP_PORT}",
                {n: f"{self.network.address_of(n)}:{HTTP_PORT}" for n in self.workers},
            )
        except BaseException:
            self.stop()
            raise

    @property
    def workers(self) -> tuple[str, ...]:
        return tuple(name for name in self.nodes if name != HEAD)

    @property
    def url(self) -> str:
        """Where clients ask: the balancer."""
        return f"http://{self.network.address}:{HTTP_PORT}"

    @property
    def address(self) -> str:
        """The head's address for `ray.init`, from inside a node."""
        return f"{self.network.address_of(HEAD)}:{GCS_PORT}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all nodes and wait for them. Raises ClusterUnavailable."""
        self.nodes[HEAD].start()
        self.nodes[HEAD].wait()
        for name in self.workers:
            self.nodes[name].start()
            self.nodes[name].wait()
        if self.balancer is not None:
            self.balancer.start()

    def stop(self) -> None:
        """End everything."""
        if self.balancer is not None:
            self.balancer.stop()
        for node in self.nodes.values():
            node.end()
        self.network.remove()
        shutil.rmtree(self._temp, ignore_errors=True)

    def kill(self, name: str, *, away: bool = False) -> None:
        """Lose a node; without `away` its supervisor starts it again."""
        self.nodes[name].kill(away=away)

    def cut(self, name: str, direction: Direction = "both") -> None:
        """Cut a node's cable."""
        self.network.cut(name, direction)

    def mend(self, name: str) -> None:
        """Mend it."""
        self.network.mend(name)

    def run(
        self, name: str, command: Sequence[str], log: Path | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a program as if somebody had typed it on the node, joined to the cluster.

        Its output goes to `log`, or with None to pipes.
        """
        inside = self.nodes[name].pid
        environment = self._environment(name)
        environment |= {"RAY_ADDRESS": self.address}
        command = ["nsenter", f"--target={inside}", "--net", "--pid", "--mount", *command]
        where = subprocess.PIPE if log is None else log.open("ab")
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=where,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # noqa: PLW1509  it makes one system call
        )

    def call(self, name: str, command: Sequence[str], wait_s: float = 300) -> str:
        """Run a program on a node to its end; what it printed. Raises ClusterUnavailable."""
        process = self.run(name, command)
        try:
            output, _ = process.communicate(timeout=wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            raise ClusterUnavailable(f"{' '.join(command)} took over {wait_s} s") from None
        text = output.decode(errors="replace")
        if process.returncode:
            raise ClusterUnavailable(f"{' '.join(command)} ended {process.returncode}:\n{text}")
        return text

    def _node(self, name: str, cpus: int) -> LabNode:
        address = self.network.address_of(name)
        temp = self._temp / name
        (temp / "h").mkdir(parents=True)
        head = name == HEAD
        where = ["--head", f"--port={GCS_PORT}", "--dashboard-host=0.0.0.0"]
        start = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block"),
            *(where if head else [f"--address={self.address}"]),
            f"--node-ip-address={address}",
            f"--num-cpus={cpus}",
            "--num-gpus=0",
            f"--object-store-memory={100 << 20}",
            f"--temp-dir={temp}",
            f"--labels=hapredict-node={name}",
            "--disable-usage-stats",
        ]
        # what a killed head leaves behind makes Ray believe that it still runs
        clean = 'rm -f "$0"/ray_current_cluster; exec "$@"'
        command = [
            *("nsenter", f"--net={self.network.namespace(name)}"),
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("sh", "-c", clean, str(temp), *start),
        ]
        environment = self._environment(name)
        if head:
            environment["RAY_gcs_storage"] = "rocksdb"
            environment["RAY_gcs_storage_path"] = str(self.folder / "gcs")
        return LabNode(name, command, environment, self.folder / f"{name}.log")

    def _environment(self, name: str) -> dict[str, str]:
        return {
            **_clean_environment(),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            HOME_VARIABLE: str(self.home),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_DISABLE_MEMORY_MONITOR": "1",
            "RAY_worker_niceness": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "RAY_SERVE_DEFAULT_HTTP_HOST": "0.0.0.0",  # noqa: S104  a network of its own
            **serve_flags(self._temp / name / "h", _PORTS, (_PORTS[20], _PORTS[-1])),
            **self._more,
        }


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
