"""A Ray cluster of several nodes on this machine, whose nodes can be lost and come back.

Each node has a loopback address of its own, so that Ray and the workers take them for different
machines. This process does not join the cluster, so it outlives all of it; trainings are started by
`tests/support/trainer.py`.
"""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from hapredict.control.ray_embedded import STARTED

ROOT = Path(__file__).parents[2]
START_S = 150
BUSY = "timed out during startup"
HEAD_IP = "127.0.0.2"  # Ray takes 127.0.0.1 for another name of the machine


@dataclass(eq=False)
class RayNode:
    """One `ray start`, and all processes below it."""

    name: str
    command: list
    environment: dict
    log: Path
    process: subprocess.Popen | None = None

    def start(self):
        """Start it; what it says goes to its log."""
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self):
        """Wait until Ray says that it has started; on a busy machine that may take several tries.

        Ray gives a process of its own 15 s, whatever else the machine has to do.
        """
        deadline_s = time.monotonic() + START_S
        while STARTED not in self.log.read_bytes():
            told = self.log.read_text(errors="replace")
            assert time.monotonic() < deadline_s, told[-2000:]
            if self.process.poll() is not None:
                assert BUSY in told, told[-2000:]
                self.start()
            time.sleep(0.1)

    def kill(self):
        """Lose the node: all its processes get SIGKILL at once."""
        found = [psutil.Process(self.process.pid)]
        found += found[0].children(recursive=True)
        # first what would start others again
        for process in found:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=10)
        self.process.wait(timeout=10)

    def pids(self, title):
        """The node's processes whose command line begins with `title`."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found


class Nodes:
    """A head without CPUs, and nodes that come and go. The head's storage outlives it."""

    def __init__(self, folder):
        self.folder = folder
        # a socket's path may have 107 characters
        self._temp = Path("/tmp") / f"hapredict-n{secrets.token_hex(3)}"
        self._port = _free_port()
        self._token = secrets.token_hex(32)
        self._count = 2
        self.nodes = {}
        self.head = None

    @property
    def environment(self):
        """What every process that talks to the cluster needs."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        return {
            **inherited,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": f"{HEAD_IP}:{self._port}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_DISABLE_MEMORY_MONITOR": "1",
            "RAY_worker_niceness": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "HAPREDICT_HOME": str(self.folder),
        }

    @property
    def hold(self):
        """While this file exists, trainings of the family `slow` take their time."""
        return self.folder / "hold"

    def start_head(self):
        """Start the head, or the next one in its place, from what the last one stored."""
        (self._temp / "h" / "ray_current_cluster").unlink(missing_ok=True)
        storage = {
            "RAY_gcs_storage": "rocksdb",
            "RAY_gcs_storage_path": str(self.folder / "gcs"),
        }
        self.head = self._start("h", HEAD_IP, 0, ["--head", f"--port={self._port}"], storage)
        self.head.wait()

    def add(self, cpus=2, *, wait=True):
        """Start one more node; it is there once `wait` has returned."""
        self._count += 1
        name = f"w{self._count}"
        address = [f"--address={HEAD_IP}:{self._port}"]
        node = self._start(name, f"127.0.0.{self._count}", cpus, address, {})
        self.nodes[name] = node
        if wait:
            node.wait()
        return node

    def remove(self, node):
        """Lose a node."""
        del self.nodes[node.name]
        node.kill()

    def stop(self):
        for node in (*self.nodes.values(), self.head):
            if node is not None and node.process.poll() is None:
                node.kill()
        self.nodes.clear()
        shutil.rmtree(self._temp, ignore_errors=True)

    def node_of(self, pid):
        """The node on which a process runs."""
        parents = {parent.pid for parent in psutil.Process(pid).parents()}
        return next(node for node in self.nodes.values() if node.process.pid in parents)

    def pids(self, title):
        """Processes of all nodes whose command line begins with `title`."""
        return [pid for node in self.nodes.values() for pid in node.pids(title)]

    def _start(self, name, ip, cpus, where, more):
        log = self.folder / f"{name}-{time.monotonic_ns()}.log"
        temp = self._temp / name
        temp.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *where),
            f"--node-ip-address={ip}",
            f"--num-cpus={cpus}",
            "--num-gpus=0",
            f"--object-store-memory={100 << 20}",
            f"--temp-dir={temp}",
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--disable-usage-stats",
            "--include-log-monitor=false",
            *(["--include-dashboard=false"] if "--head" in where else []),
        ]
        environment = {k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"}
        node = RayNode(name, command, {**environment, **more}, log)
        node.start()
        return node


@dataclass
class Training:
    """A training on such a cluster, seen through the files that it writes."""

    nodes: Nodes
    run: str
    driver: subprocess.Popen

    @property
    def storage(self):
        return self.nodes.folder / "storage"

    def events(self):
        """All reports so far."""
        file = self.storage / f"{self.run}.events"
        if not file.exists():
            return []
        lines = file.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def result(self):
        """How it ended, or None."""
        file = self.storage / f"{self.run}.json"
        return json.loads(file.read_text()) if file.exists() else None

    def until(self, wanted, since=0, wait_s=180):
        """Wait for an event that is `wanted`, `since` so many; the newest one."""
        deadline_s = time.monotonic() + wait_s
        while True:
            events = self.events()
            found = [event for event in events[since:] if wanted(event)]
            if found:
                return found[-1]
            assert self.result() is None, f"it ended before: {self.result()}"
            assert time.monotonic() < deadline_s, f"{self.run}: still {events[-1:]}"
            time.sleep(0.02)

    def strike(self, blow, *told):
        """Do `blow(*told)`, and wait for an epoch of workers that have started since."""
        before = self.events()
        blow(*told)
        return self.until(
            lambda event: is_epoch(event) and event["workers"] != before[-1]["workers"],
            since=len(before),
        )

    def end(self, wait_s=200):
        """Wait for the result."""
        deadline_s = time.monotonic() + wait_s
        while self.result() is None:
            assert time.monotonic() < deadline_s, f"{self.run}: still {self.events()[-1:]}"
            time.sleep(0.05)
        found = self.result()
        assert not found["error"], found["error"]
        return found


def is_epoch(event):
    """Whether an epoch was finished, as opposed to workers that have started."""
    return event["loss"] is not None


def train(nodes, run, how="detached", **spec):
    """Begin a training of `tests.support.trainer` with changes to its spec."""
    (nodes.folder / "storage").mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.support.trainer", how, run),
        *(str(nodes.folder / "storage"), json.dumps(spec)),
    ]
    driver = subprocess.Popen(
        command,
        env=nodes.environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    training = Training(nodes, run, driver)
    if how == "detached":
        assert driver.wait(timeout=START_S) == 0
    return training


def kill(pid):
    """SIGKILL, and wait until the process is gone."""
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    process.wait(timeout=30)


def _free_port():
    with socket.socket() as probe:
        probe.bind((HEAD_IP, 0))
        return probe.getsockname()[1]
