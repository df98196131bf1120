"""The same fit on many workers, surviving their loss.

Ray Train starts the workers and starts all of them again when one dies; each resumes from the last
checkpoint and ends in the same bits. Ray Train's own controller is not started again when it dies,
so this file does that. Reports reach the caller through a mailbox, an actor that outlives workers.
"""

import json
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError, RayError
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hapredict.errors import PermanentError, TrainingFailed
from hapredict.spec import TrainingSpec
from hapredict.training.fitted import EpochReport, Fitted, State
from hapredict.training.network import Examples, NetworkShape

OnEpoch = Callable[[dict[str, Any]], None]

_STATE = "state.bin"
_CONTROLLER_DEATHS_MAX = 3
_STARTS_MAX = 10
"""Tries to start the workers, each of one minute, before a cluster counts as too small."""
_POLL_S = 0.1
_ANSWER_S = 10.0
_LINE_MAX = 400


def train_on_ray(
    run: str,
    shape: NetworkShape,
    spec: TrainingSpec,
    train: Examples,
    validation: Examples,
    storage_path: str,
    on_epoch: OnEpoch | None = None,
) -> Fitted:
    """The fitted network, from `spec.workers` workers; the same `run` and path resume.

    `storage_path` is a directory or a URL that every node reaches; checkpoints lie in its folder
    `run`. Blocks until the end, and may be called in a task or an actor. Deaths of workers are
    survived up to `spec.worker_failures_max` times.

    `on_epoch` is called from a thread of its own, once when the workers have started and after each
    epoch, with run, epoch (passes finished), epochs, loss, validation_loss, rows_per_s (these three
    None at a start), restarts, and workers: rank, pid and node of each. An error that it raises is
    raised here at the end.

    Raises TrainingFailed with the cause in one sentence if no network came of it.
    """
    box = _Mailbox.options(  # type: ignore[attr-defined]
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(_node(), soft=True)
    ).remote(run, spec.workers)
    told = {
        "shape": shape,
        "spec": spec,
        "train": ray.put(train),
        "validation": ray.put(validation),
        "box": box,
    }
    # epochs can be shorter than the 2 s in which Ray Train looks for reports by default
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    try:
        with _delivered(box, on_epoch), _interrupt_kept():
            found = _fit(run, told, spec, storage_path)
        restarts = _ask(box.restarts.remote()) or 0
    finally:
        ray.kill(box)
    return replace(found, restarts=restarts)


def _fit(run: str, told: dict[str, Any], spec: TrainingSpec, storage_path: str) -> Fitted:
    for death in range(_CONTROLLER_DEATHS_MAX + 1):
        try:
            result = _trainer(run, told, spec, storage_path).fit()
        except RayActorError as error:
            # the controller died; a new one finds the run's last checkpoint
            if death == _CONTROLLER_DEATHS_MAX:
                raise TrainingFailed(
                    f"run {run!r}: Ray Train's controller died {death + 1} times: {_line(error)}"
                ) from error
            time.sleep(1.0)
        except ray.train.TrainingFailedError as error:
            raise TrainingFailed(f"run {run!r}: {_cause(error)}") from error
        else:
            break
    found = result.return_value
    if isinstance(found, str):
        raise TrainingFailed(f"run {run!r}: {found}")
    if isinstance(found, Fitted):
        return found
    if result.checkpoint is None:
        raise TrainingFailed(f"run {run!r} ended without a checkpoint")
    return State.from_bytes(_read(result.checkpoint)).fitted()


def _trainer(
    run: str, told: dict[str, Any], spec: TrainingSpec, storage_path: str
) -> DataParallelTrainer:
    return DataParallelTrainer(
        _work,
        train_loop_config=told,
        backend_config=_Addresses() if spec.workers > 1 else BackendConfig(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=spec.workers, resources_per_worker={"CPU": spec.cpus_per_worker}
        ),
        run_config=ray.train.RunConfig(
            name=run,
            storage_path=_absolute(storage_path),
            failure_config=ray.train.FailureConfig(
                max_failures=spec.worker_failures_max, controller_failure_limit=_STARTS_MAX
            ),
            # two, since a report can be lost between a worker and the controller
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            logging_config=ray.train.LoggingConfig(log_level="WARNING"),
        ),
    )


def _work(told: dict[str, Any]) -> Fitted | str:
    """One worker's life: the fitted network, or why there can be none."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Ray Train lets everything at level INFO through to the caller's terminal
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("tensorflow").setLevel(logging.WARNING)
    from hapredict.training import keras_fit  # TensorFlow is needed here and nowhere before

    spec, box = told["spec"], told["box"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    keras_fit.use_threads(max(1, int(spec.cpus_per_worker)))
    checkpoint = ray.train.get_checkpoint()
    resume = None if checkpoint is None else _read(checkpoint)
    reduce = keras_fit.join_workers(workers) if workers > 1 else None
    train, validation = ray.get([told["train"], told["validation"]])
    done = State.from_bytes(resume).epoch if resume is not None else 0
    box.started.remote(rank, os.getpid(), _node(), done, spec.epochs_max)

    def on_epoch(report: EpochReport) -> None:
        if rank == 0:
            box.finished.remote(_event(report))
        _report(report)

    try:
        return keras_fit.fit(
            told["shape"],
            spec,
            train,
            validation,
            reduce=reduce,
            rank=rank,
            workers=workers,
            resume=resume,
            on_epoch=on_epoch,
        )
    except PermanentError as error:
        # all workers find the same fault, and to try again would find it again
        return str(error)


def _report(report: EpochReport) -> None:
    metrics = {"epoch": report.epoch, "validation_loss": report.validation_loss}
    if report.checkpoint is None:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _STATE).write_bytes(report.checkpoint)
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _absolute(storage_path: str) -> str:
    """Workers run in a folder of their own, where a relative path would mean another place."""
    return storage_path if "://" in storage_path else str(Path(storage_path).resolve())


def _read(checkpoint: ray.train.Checkpoint) -> bytes:
    with checkpoint.as_directory() as folder:
        return (Path(folder) / _STATE).read_bytes()


def _event(report: EpochReport) -> dict[str, Any]:
    return {
        "epoch": report.epoch,
        "epochs": report.epochs,
        "loss": report.loss,
        "validation_loss": report.validation_loss,
        "rows_per_s": report.rows_per_s,
    }


@ray.remote
class _Mailbox:
    """Keeps the workers' reports until the caller takes them."""

    def __init__(self, run: str, workers: int) -> None:
        self._run = run
        self._count = workers
        self._workers: dict[int, dict[str, Any]] = {}
        self._restarts = 0
        self._events: list[dict[str, Any]] = []

    def started(self, rank: int, pid: int, node: str, epoch: int, epochs: int) -> None:
        if rank in self._workers:  # Ray Train starts all of them again when one dies
            self._workers.clear()
            self._restarts += 1
        self._workers[rank] = {"rank": rank, "pid": pid, "node": node}
        if len(self._workers) == self._count:
            nothing = dict.fromkeys(("loss", "validation_loss", "rows_per_s"))
            self._add({"epoch": epoch, "epochs": epochs, **nothing})

    def finished(self, event: dict[str, Any]) -> None:
        self._add(event)

    def take(self) -> list[dict[str, Any]]:
        events, self._events = self._events, []
        return events

    def restarts(self) -> int:
        return self._restarts

    def _add(self, event: dict[str, Any]) -> None:
        workers = [self._workers[rank] for rank in sorted(self._workers)]
        self._events.append(
            {"run": self._run, **event, "restarts": self._restarts, "workers": workers}
        )


@contextmanager
def _delivered(box: Any, on_epoch: OnEpoch | None) -> Iterator[None]:
    """Hands the mailbox's events to `on_epoch` while the block runs, in order and each once."""
    if on_epoch is None:
        yield
        return
    ended = threading.Event()
    broken: list[Exception] = []

    def deliver() -> None:
        last = False
        while not last and not broken:
            last = ended.wait(_POLL_S)
            try:
                for event in _ask(box.take.remote()) or ():
                    on_epoch(event)
            except Exception as error:
                # raised in the caller's thread once the training has ended
                broken.append(error)

    thread = threading.Thread(target=deliver, name=f"reports of {box}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_ANSWER_S)
    if broken:
        raise broken[0]


def _ask(answer: Any) -> Any:
    """An actor's answer, or None where it is gone: reports are worth less than the training."""
    try:
        return ray.get(answer, timeout=_ANSWER_S)
    except RayError:
        return None


@contextmanager
def _interrupt_kept() -> Iterator[None]:
    """Puts back the handler of Ctrl-C, which Ray Train replaces for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if before is not None:  # None: a handler that Python did not set, and cannot put back
            signal.signal(signal.SIGINT, before)


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _cause(error: BaseException) -> str:
    """The root cause of a failed run in one line."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        rank, first = min(failures.items())
        return f"worker {rank} failed: {_line(first)}"
    inner = getattr(error, "controller_failure", None)
    return _line(inner if inner is not None else error)


def _line(error: BaseException) -> str:
    """The innermost error as `Type: text`, on one line and cut."""
    seen = {id(error)}
    while True:
        inner = getattr(error, "cause", None) or getattr(error, "_base_exc", None)
        inner = inner if isinstance(inner, BaseException) else error.__cause__
        if inner is None or id(inner) in seen:
            break
        seen.add(id(inner))
        error = inner
    text = " ".join(str(error).split()) or "no message"
    return shorten(f"{type(error).__name__}: {text}", _LINE_MAX, placeholder=" ...")


class _Addresses(BackendConfig):
    """Tells each worker where the others are, in TF_CONFIG.

    Ray Train's own TensorflowConfig imports TensorFlow in the caller, and turns Keras 3 off.
    """

    @property
    def backend_cls(self) -> type[Backend]:
        return _AddressBackend


class _AddressBackend(Backend):
    def on_start(self, worker_group: Any, _backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_free_address)
        ray.get(
            [
                worker_group.execute_single_async(rank, _set_addresses, addresses, rank)
                for rank in range(len(addresses))
            ]
        )


def _free_address() -> str:
    with socket.socket() as free:
        free.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"


def _set_addresses(addresses: list[str], rank: int) -> None:
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
