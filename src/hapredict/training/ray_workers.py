"""What happens in the processes that train, from their start to the fitted model.

As soon as the workers exist, and before they know of each other, each begins to import what it
trains with: that takes longer than all else in a start. Then each says where it is, and is told
with how many threads it works and how the workers add up.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.backend import Backend, BackendConfig

from hapredict.sections import TrainingSpec
from hapredict.training.families import find_family
from hapredict.training.feed import Feed, Resident
from hapredict.training.fitted import EpochReport, Fitted, State
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.ray_checkpoints import Checkpoint, Checkpoints, Writer
from hapredict.training.rules import settle
from hapredict.training.scale import Joint, how_to_add_up, threads_each
from hapredict.training.shards import ShardSet

_SHARED = Path("/dev/shm")  # noqa: S108 - memory that processes share, which is what is wanted
_QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "KERAS_BACKEND": "tensorflow",
}


class OutOfMemory(Exception):
    """A step did not fit in a worker's memory, and half of it may."""


@dataclass(frozen=True, slots=True)
class Told:
    """What every worker of a start is told; arrays and states by reference."""

    run: str
    start: int
    shape: NetworkShape
    spec: TrainingSpec
    train: Any
    """Reference to a ShardSet or to Examples."""
    validation: Any
    """Reference to Examples."""
    resume: Any
    """Reference to the bytes of a state or to None."""
    micro_batches: int
    storage_path: str
    box: Any


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place among the others."""

    joint: Joint
    threads: int
    beside: int
    """Workers on its node, itself among them."""
    key: str
    """The same for all workers of a start, and new in each."""
    addresses: tuple[str, ...]
    """Host and port of each worker, by rank; the ports were free a moment ago."""


@dataclass
class Meeting(BackendConfig):
    """How the workers meet: where each is goes out, and what follows from it comes back."""

    run: str
    start: int
    gpu: bool
    fitter: str
    """The module that fits, to be imported early."""
    threads: int | None
    """Of each worker, where a run that goes on with as many workers began with so many."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _Meeting


class _Meeting(Backend):
    def on_start(self, worker_group: Any, backend_config: Meeting) -> None:
        config = backend_config
        where = worker_group.execute(_look_around, config.fitter)
        nodes = [node for node, _, _ in where]
        threads = config.threads or threads_each(nodes, [cores for _, cores, _ in where])
        joint = how_to_add_up(nodes, gpu=config.gpu)
        addresses = tuple(address for _, _, address in where)
        # a start that is ended may leave a file behind: the next one must not meet in it
        key = f"hapredict-{config.run}-{config.start}-{os.getpid()}"
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _take_place, Place(joint, threads, nodes.count(node), key, addresses)
                )
                for rank, node in enumerate(nodes)
            ]
        )


_here: list[Place] = []
"""The place of the worker that this process is."""


def _look_around(fitter: str) -> tuple[str, int, str]:
    """The node of this worker, the node's cores, and an address for it."""
    os.environ.update(_QUIET)
    threading.Thread(target=import_module, args=(fitter,), name="imports", daemon=True).start()
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    return ray.get_runtime_context().get_node_id(), cores(), address


def _take_place(place: Place) -> None:
    _here[:] = [place]


def cores() -> int:
    """Processor cores that this process may use."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max"
        return allowed


def work(config: dict[str, Any]) -> Fitted | None:
    """One worker's life: the fitted model from the worker of rank 0; `config` holds `told`.

    Raises OutOfMemory, and what the family's `fit` raises.
    """
    # Ray Train lets everything at level INFO through to the caller's terminal
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    told: Told = config["told"]
    (place,), spec, box = _here, told.spec, told.box
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    checkpoints = Checkpoints(told.storage_path, told.run, spec.checkpoints_kept)
    checkpoints.check_reach()
    rows, validation, resume = ray.get([told.train, told.validation, told.resume])
    feed = _feed(rows, spec, place.beside)
    box.started.remote(
        told.start,
        workers,
        _begun(spec, feed, resume),
        {"rank": rank, "pid": os.getpid(), "node": ray.get_runtime_context().get_node_id()},
    )

    def saved(epoch: int, fault: str) -> None:
        box.told.remote(told.start, {"kind": "saved", "epoch": epoch, "fault": fault})

    writer = Writer(checkpoints, saved) if rank == 0 else None

    def on_epoch(report: EpochReport) -> None:
        if writer is None:
            return
        box.told.remote(told.start, {"kind": "epoch", **_event(report)})
        if report.checkpoint is not None:
            writer.put(Checkpoint(report.epoch, workers, place.threads, report.checkpoint))

    family = find_family(spec.family)
    fitter = import_module(family.fitter)
    join = _trees if family.kind == "trees" else _network
    try:
        with join(place, rank, workers) as arguments:
            found: Fitted = fitter.fit(
                told.shape,
                spec,
                feed,
                validation,
                rank=rank,
                workers=workers,
                micro_batches=told.micro_batches,
                resume=resume,
                on_epoch=on_epoch,
                **arguments,
            )
    except Exception as error:
        # by its name, since TensorFlow is not for this file
        if type(error).__name__ in {"ResourceExhaustedError", "MemoryError"}:
            raise OutOfMemory(" ".join(str(error).split())[:200]) from None
        raise
    if writer is None:
        return None
    writer.close()
    return found


@contextmanager
def _network(place: Place, rank: int, workers: int) -> Iterator[dict[str, Any]]:
    """How networks add up, with the threads that they use set."""
    from hapredict.training import keras_fit  # TensorFlow is needed in workers alone

    keras_fit.use_threads(place.threads, workers)
    if place.joint == "alone":
        yield {}
        return
    if place.joint == "one_node":
        from hapredict.training.keras_reduce import shared_memory

        yield {"reduce": shared_memory(_SHARED / place.key, rank, workers)}
        return
    task = {"type": "worker", "index": rank}
    cluster = {"worker": place.addresses}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": cluster, "task": task})
    hint = "nccl" if place.joint == "nccl" else "auto"
    yield {"reduce": keras_fit.join_workers(workers, hint)}


@contextmanager
def _trees(place: Place, rank: int, _workers: int) -> Iterator[dict[str, Any]]:
    """How trees add up: by XGBoost's own communicator."""
    from hapredict.training import ray_trees  # XGBoost is an extra

    with ray_trees.joined(place.addresses, rank):
        yield ray_trees.fit_arguments(place.threads)


def _feed(rows: ShardSet | Examples, spec: TrainingSpec, beside: int) -> Feed:
    if isinstance(rows, Examples):
        return Resident(rows, spec.shuffle_rows)
    from hapredict.training.ray_feed import worker_feed

    return worker_feed(rows, spec, beside)


def _begun(spec: TrainingSpec, feed: Feed, resume: bytes | None) -> dict[str, Any]:
    nothing = dict.fromkeys(("loss", "validation_loss", "rows_per_s"))
    if resume is None:
        return {"epoch": 0, "epochs": settle(spec, feed.rows).epochs_max, **nothing}
    state = State.from_bytes(resume)
    return {"epoch": state.epoch, "epochs": state.history[-1].epochs, **nothing}


def _event(report: EpochReport) -> dict[str, Any]:
    event = asdict(report)
    del event["checkpoint"]
    return event
