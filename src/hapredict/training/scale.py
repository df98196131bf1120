"""How many workers train, on what, with how many threads, and how they add up: pure functions.

What a cluster has room for is what is free on its nodes now, not what they have in total: replicas
and other trainings hold some of it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hapredict.sections import TrainingSpec, WorkerRange

Joint = Literal["alone", "one_node", "network", "nccl"]
"""How workers add up: not at all, within a node, between nodes, from GPU to GPU."""

_MANY = 1_000_000
_SLACK = 1e-6  # Ray counts CPUs in ten thousandths


@dataclass(frozen=True, slots=True)
class Node:
    """What is free on a node, in Ray's terms."""

    id: str
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Group:
    """Workers to start."""

    workers: int
    gpu: bool
    """Each reserves one."""
    one_a_node: bool
    cpus: float
    """Ray CPUs that each reserves."""

    @property
    def resources(self) -> dict[str, float]:
        """What each worker reserves."""
        return {"CPU": self.cpus, "GPU": 1.0} if self.gpu else {"CPU": self.cpus}


def worker_limits(spec: TrainingSpec) -> tuple[int, int]:
    """Fewest and most workers that the spec allows."""
    workers = spec.workers
    if isinstance(workers, WorkerRange):
        return workers.min, workers.max
    return (1, _MANY) if workers == "auto" else (workers, workers)


def size_group(spec: TrainingSpec, nodes: Sequence[Node], most: int = _MANY) -> Group:
    """The largest group that the spec allows and the nodes have room for, `most` at most.

    Where there is not even room for the fewest that the spec allows, the answer is those: they have
    to wait. `auto`: one worker a node, or one a GPU.
    """
    fewest, allowed = worker_limits(spec)
    with_gpu = sum(_slots(spec, node, gpu=True) for node in nodes)
    # a few GPUs are no reason to leave out workers that were asked for
    wanted = 1 if spec.workers == "auto" else fewest
    gpu = spec.device == "gpu" or (spec.device == "auto" and with_gpu >= wanted)
    one_a_node = spec.workers == "auto" and not gpu
    room = [_slots(spec, node, gpu=gpu) for node in nodes]
    count = sum(min(1, slots) for slots in room) if one_a_node else sum(room)
    return Group(
        workers=max(fewest, min(allowed, count, most)),
        gpu=gpu,
        one_a_node=one_a_node,
        cpus=spec.cpus_per_worker,
    )


def given_back(nodes: Sequence[Node], group: Group, held: Sequence[str]) -> list[Node]:
    """The nodes as if `group`, whose workers are on the nodes `held`, had ended."""
    count = Counter(held)
    return [
        Node(
            node.id,
            node.cpus + count[node.id] * group.cpus,
            node.gpus + count[node.id] * group.gpu,
        )
        for node in nodes
    ]


def worth_growing(workers: int, more: int, *, remaining_s: float, restart_s: float) -> bool:
    """Whether `more` workers save more time than it takes to start them.

    `remaining_s`: what is left of the training with `workers`; each row costs the same.
    """
    return more > workers and remaining_s * (1 - workers / more) > restart_s


def how_to_add_up(nodes: Sequence[str], *, gpu: bool) -> Joint:
    """How workers on these nodes, one entry each, add up their gradients."""
    if len(nodes) == 1:
        return "alone"
    if gpu:
        return "nccl"
    return "one_node" if len(set(nodes)) == 1 else "network"


def threads_each(nodes: Sequence[str], cores: Sequence[int]) -> int:
    """Threads of every worker: each entry is a worker's node and the cores of that node.

    All have as many as the one with the fewest, for they wait for each other at each step.
    """
    count = Counter(nodes)
    return max(1, min(c // count[node] for node, c in zip(nodes, cores, strict=True)))


def _slots(spec: TrainingSpec, node: Node, *, gpu: bool) -> int:
    slots = int((node.cpus + _SLACK) // spec.cpus_per_worker)
    return min(slots, int(node.gpus + _SLACK)) if gpu else slots
