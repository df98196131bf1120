"""What can be broken on purpose: one small class a fault, in one table.

A fault says what it does (`inject`), undoes it (`heal`), and knows when all is as before
(`restored`). It acts through a `Site`, which finds processes and nodes and ends them by pid; so the
same fault serves an embedded cluster, a lab of namespaces and a cluster of machines. A user's own
fault is named `module:attribute` on the command line.
"""

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from hapredict.errors import NotFound
from hapredict.plugins import Plugins

Part = Literal[
    "replica",
    "monitor",
    "controller",
    "learner",
    "serve controller",
    "ingress manager",
    "haproxy",
    "gcs",
]
"""Processes of a running model, by the work that they do."""

HEAD = "head"

EACH_NODE: frozenset[Part] = frozenset({"ingress manager", "haproxy"})
"""Parts that each node has."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of one node."""

    node: str
    pid: int


class Site(Protocol):
    """What a fault needs of a cluster. Each call may raise ClusterUnavailable."""

    def find(self, part: Part) -> list[Process]:
        """The processes of a part that live now."""

    def signal(self, process: Process, number: int) -> None:
        """Send a signal; no error if the process has ended."""

    def nodes(self) -> tuple[str, ...]:
        """Worker nodes that can be lost; none on one machine."""

    def answering(self) -> int:
        """Replicas that answered callers in the last second."""

    def lose(self, node: str) -> None:
        """SIGKILL to all of a node, which stays away. Raises NotPermitted where nobody can."""

    def bring_back(self, node: str) -> None:
        """Start it again."""

    def cut(self, node: str, direction: Literal["both", "out", "in"]) -> None:
        """Cut a node's cable. Raises NotPermitted where nobody can."""

    def mend(self, node: str) -> None:
        """Mend it."""

    def store(self, *, away: bool) -> None:
        """Take the store away, or bring it back. Raises NotPermitted where nobody can."""


class Fault(ABC):
    """One thing to break. `hold_s` passes between `inject` and `heal`."""

    name = ""
    level = 1
    """The lowest level that promises to survive it."""
    hold_s = 0.0
    restore_s_max = 30.0
    """Seconds, from `inject`, by which all must be as before."""
    lost_share_max = 0.0
    """The share of requests that it may cost, where it cannot cost nothing."""

    @abstractmethod
    def inject(self, site: Site) -> str:
        """Break it; a sentence that says what was done."""

    @abstractmethod
    def heal(self, site: Site) -> None:
        """Undo what does not undo itself. Called once in any case, also after a failed `inject`."""

    @abstractmethod
    def restored(self, site: Site) -> bool:
        """Whether all is as before."""


FAULTS: Plugins[Callable[[], Fault]] = Plugins("fault")
"""The table of faults."""


def faults_of(level: int) -> list[str]:
    """The names of the faults that a level promises to survive, the mildest first."""
    found = [(FAULTS.find(name)().level, place, name) for place, name in enumerate(FAULTS)]
    return [name for fault_level, _, name in sorted(found) if fault_level <= level]


def _one(site: Site, part: Part) -> Process:
    found = site.find(part)
    if not found:
        raise NotFound(f"no {part} runs here, so there is none to break")
    return found[0]


class _Signalled(Fault):
    """A process that gets a signal, and that others replace."""

    part: Part
    number = signal.SIGKILL

    def __init__(self) -> None:
        self._hit: Process | None = None
        self._answering = 0
        self._nodes: set[str] = set()

    def inject(self, site: Site) -> str:
        self._answering = site.answering()
        self._nodes = {process.node for process in site.find(self.part)}
        self._hit = _one(site, self.part)
        site.signal(self._hit, self.number)
        sent = signal.Signals(self.number).name
        return f"{sent} to the {self.part} (pid {self._hit.pid} on {self._hit.node})"

    def heal(self, site: Site) -> None:
        """Nothing: others replace the process."""

    def restored(self, site: Site) -> bool:
        found = site.find(self.part)
        if self._hit in found or site.answering() < self._answering:
            return False
        # what there is one of may come back anywhere, what each node has must be back there
        nodes = {process.node for process in found}
        return nodes >= self._nodes if self.part in EACH_NODE else bool(nodes)


def _signalled(name: str, part: Part, **more: Any) -> None:
    kind = type(name, (_Signalled,), {"name": name, "part": part, **more})
    FAULTS.register(name)(kind)


_signalled("replica-kill", "replica")
_signalled("replica-stop", "replica", number=signal.SIGSTOP, restore_s_max=60.0)
_signalled("monitor-kill", "monitor")
_signalled("controller-kill", "controller")
_signalled("learner-kill", "learner")
_signalled("serve-controller-kill", "serve controller")
_signalled("ingress-manager-kill", "ingress manager")
_signalled("haproxy-kill", "haproxy")


@FAULTS.register("store-away")
class StoreAway(Fault):
    """The store does not answer for a while; predictions must not notice."""

    name = "store-away"
    hold_s = 30.0
    restore_s_max = 60.0

    def inject(self, site: Site) -> str:
        site.store(away=True)
        return f"the store does not answer for {self.hold_s:g} s"

    def heal(self, site: Site) -> None:
        site.store(away=False)

    def restored(self, site: Site) -> bool:
        return site.answering() > 0


class _NodeFault(Fault):
    level = 2
    restore_s_max = 120.0

    def __init__(self) -> None:
        self.node = ""
        self._before = 0

    def _choose(self, site: Site) -> str:
        """The node whose loss hurts most: one that serves."""
        self._before = site.answering()
        serving = {process.node for process in site.find("replica")}
        nodes = [node for node in site.nodes() if node in serving] or list(site.nodes())
        if not nodes:
            raise NotFound("there is no worker node to lose; levels 2 and 3 need several nodes")
        self.node = nodes[0]
        return self.node

    def restored(self, site: Site) -> bool:
        here = {process.node for process in site.find("haproxy")}
        return self.node in here and site.answering() >= self._before


@FAULTS.register("node-kill")
class NodeKill(_NodeFault):
    """A worker node dies and comes back."""

    name = "node-kill"
    hold_s = 10.0

    def inject(self, site: Site) -> str:
        site.lose(self._choose(site))
        return f"node {self.node} is lost for {self.hold_s:g} s"

    def heal(self, site: Site) -> None:
        if self.node:
            site.bring_back(self.node)


class _Partition(_NodeFault):
    hold_s = 15.0
    direction: Literal["both", "out", "in"] = "both"

    def inject(self, site: Site) -> str:
        site.cut(self._choose(site), self.direction)
        way = {"both": "both ways", "out": "what it sends", "in": "what is sent to it"}
        return f"node {self.node} is cut off for {self.hold_s:g} s ({way[self.direction]})"

    def heal(self, site: Site) -> None:
        if self.node:
            site.mend(self.node)


@FAULTS.register("node-partition")
class Partition(_Partition):
    """A worker node hears nobody and nobody hears it."""

    name = "node-partition"


@FAULTS.register("node-partition-out")
class PartitionOut(_Partition):
    """What a worker node sends does not arrive."""

    name = "node-partition-out"
    direction = "out"


@FAULTS.register("node-partition-in")
class PartitionIn(_Partition):
    """A worker node hears nobody."""

    name = "node-partition-in"
    direction = "in"


class _HeadFault(Fault):
    level = 3
    restore_s_max = 240.0

    def __init__(self) -> None:
        self._answering = 0
        self._old: set[Process] = set()

    def _look(self, site: Site) -> None:
        self._answering = site.answering()
        self._old = set(site.find("serve controller"))

    def restored(self, site: Site) -> bool:
        fresh = set(site.find("serve controller")) - self._old
        back = fresh and site.find("monitor") and site.find("controller")
        return bool(back) and site.answering() >= self._answering


@FAULTS.register("head-kill")
class HeadKill(_HeadFault):
    """The head's GCS dies, and with it the head; its supervisor starts it again."""

    name = "head-kill"

    def inject(self, site: Site) -> str:
        self._look(site)
        found = _one(site, "gcs")
        site.signal(found, signal.SIGKILL)
        return f"SIGKILL to the head's gcs_server (pid {found.pid} on {found.node})"

    def heal(self, site: Site) -> None:
        """Nothing: the head's supervisor starts it again."""


@FAULTS.register("head-away")
class HeadAway(_HeadFault):
    """The head node is lost for a minute."""

    name = "head-away"
    hold_s = 60.0

    def inject(self, site: Site) -> str:
        self._look(site)
        site.lose(HEAD)
        return f"the head node is lost for {self.hold_s:g} s"

    def heal(self, site: Site) -> None:
        site.bring_back(HEAD)
