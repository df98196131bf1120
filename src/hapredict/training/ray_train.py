"""The same fit on many workers, surviving the loss of any process or node.

Ray Train starts the workers (`ray_attempt`). When one is lost, all are started again, as many as
there is room for then, and each resumes from the last checkpoint: with as many workers as before it
ends in the same bits. What this file holds in memory can be lost too: whoever calls `train_on_ray`
with the same run and storage goes on where the last caller was lost.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from textwrap import shorten
from typing import Any

import ray
import ray.train
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from hapredict.errors import PermanentError, TrainingCancelled, TrainingFailed
from hapredict.sections import TrainingSpec
from hapredict.training.families import find_family
from hapredict.training.fitted import Fitted
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.ray_attempt import Start, Stopped, remove_groups, run_start
from hapredict.training.ray_checkpoints import Checkpoints
from hapredict.training.ray_nodes import NODE_ID_LABEL, free_nodes, head_node, silent_nodes
from hapredict.training.ray_reports import Event, Mailbox, ask
from hapredict.training.ray_workers import Meeting, OutOfMemory, Told, work
from hapredict.training.scale import Group, given_back, size_group, worker_limits, worth_growing
from hapredict.training.shards import ShardSet

OnEpoch = Callable[[Event], None]

_CONTROLLER_DEATHS_MAX = 3
_ROOM_S = 600.0
"""How long a run waits for room before the cluster counts as too small."""
_PATIENCE_S = 15.0
"""How long a start waits for more room than it needs."""
_FREED_S = 3.0
"""How long Ray may take to count what lost workers held as free."""
_LOOK_S = 2.0
_LINE_MAX = 400
_CANCELLED = "cancelled"
_ROOM = "room"
_BY_MEMORY = "running low on memory"
"""How Ray words it when its memory monitor has ended a worker."""
_LOST = (RayActorError, OutOfMemory, OutOfMemoryError)
_BROKEN_OFF = {"UnavailableError", "AbortedError", "CancelledError", "XGBoostError"}
"""What workers raise, by name, when another one is lost in the middle of a sum."""
_INNER = ("cause", "_base_exc", "health_check_failure")
"""Where Ray's errors keep what is behind them."""


def train_on_ray(
    run: str,
    shape: NetworkShape,
    spec: TrainingSpec,
    train: ShardSet | Examples,
    validation: Examples,
    storage_path: str,
    on_epoch: OnEpoch | None = None,
    *,
    cancelled: Callable[[], bool] = lambda: False,
) -> Fitted:
    """The fitted model, from as many workers as `spec.workers` asks for; the same `run` resumes.

    `storage_path` is a directory or a URL that every node reaches; checkpoints lie in its folder
    `run`. Blocks until the end, and may be called in a task or an actor. Deaths of workers are
    survived up to `spec.worker_failures_max` times.

    `on_epoch` is called between two looks at the workers, once when they have started and after
    each epoch, with run, epoch (passes finished), epochs, loss, validation_loss, rows_per_s (these
    three None at a start), restarts, notes (what was out of the ordinary so far, in sentences), and
    workers: rank, pid and node of each. An error that it raises ends the training.

    `cancelled` is asked often: once it is true, the workers are ended and TrainingCancelled is
    raised. Raises UnknownName for a family that there is not, and TrainingFailed with the cause in
    one sentence if no model came of it.
    """
    return _Run(run, shape, spec, train, validation, storage_path, on_epoch, cancelled).go()


def off_head() -> dict[str, Any]:
    """Options for an actor that should outlive the head: any other node, while there is one."""
    head = head_node()
    return {
        "label_selector": {NODE_ID_LABEL: f"!{head}"},
        "fallback_strategy": [{"label_selector": {NODE_ID_LABEL: head}}],
    }


class _Run:
    """One call of `train_on_ray`: what it was asked for, and what it has seen."""

    def __init__(
        self,
        run: str,
        shape: NetworkShape,
        spec: TrainingSpec,
        train: ShardSet | Examples,
        validation: Examples,
        storage_path: str,
        on_epoch: OnEpoch | None,
        cancelled: Callable[[], bool],
    ) -> None:
        self._run = run
        self._spec = spec
        self._storage_path = storage_path
        self._on_epoch = on_epoch
        self._cancelled = cancelled
        self._checkpoints = Checkpoints(storage_path, run, spec.checkpoints_kept)
        here = ray.get_runtime_context().get_node_id()
        self._box = Mailbox.options(label_selector={NODE_ID_LABEL: here}).remote()  # type: ignore[attr-defined]
        self._told = Told(
            run=run,
            start=0,
            shape=shape,
            spec=spec,
            train=ray.put(train),
            validation=ray.put(validation),
            resume=None,
            micro_batches=1,
            storage_path=storage_path,
            box=self._box,
        )
        self._meeting = Meeting(
            run=run, start=0, gpu=False, fitter=find_family(spec.family).fitter, threads=None
        )
        self._starts = self._failures = self._deaths = 0
        self._fault = ("", 0)
        self._notes: list[str] = []
        self._sizes: list[tuple[int, int]] = []
        self._last: Event = {"epoch": 0, "epochs": 0, "workers": []}
        self._group: Group | None = None
        self._most = worker_limits(spec)[1]
        self._hoped = 0
        self._roomless_s: float | None = None
        self._begun_s = self._start_s = self._looked_s = 0.0
        self._saved = False

    def go(self) -> Fitted:
        try:
            while True:
                remove_groups(self._run)
                found = self._try()
                if found is not None:
                    return replace(
                        found,
                        restarts=max(0, len(self._sizes) - 1),
                        notes=(*found.notes, *self._notes),
                        workers=tuple(self._sizes),
                    )
        finally:
            ray.kill(self._box)

    def _try(self) -> Fitted | None:
        """Start the workers once; None if they have to be started again."""
        try:
            found = self._start()
        except Stopped as stopped:
            if str(stopped) == _CANCELLED:
                raise TrainingCancelled(
                    f"run {self._run!r} was cancelled after epoch {self._last['epoch']}; "
                    "the same run name goes on from its last checkpoint"
                ) from None
            self._note("there is room for more workers")
        except RayActorError as error:
            # Ray Train's controller; a worker's death is a TrainingFailedError
            self._deaths += 1
            if self._deaths > _CONTROLLER_DEATHS_MAX:
                raise TrainingFailed(
                    f"run {self._run!r}: Ray Train's controller died {self._deaths} times: "
                    f"{_line(error)}"
                ) from error
            self._note("Ray Train's controller died")
        except ray.train.TrainingFailedError as error:
            self._judge(error)
        else:
            self._deliver()
            return found
        self._deliver()
        return None

    def _start(self) -> Any:
        checkpoint, damaged = self._checkpoints.newest()
        if damaged:
            onwards = f"epoch {checkpoint.epoch}" if checkpoint is not None else "scratch"
            self._note(f"{', '.join(damaged)}: damaged, set aside; going on from {onwards}")
        group, avoid = self._size()
        self._starts += 1
        told = replace(
            self._told,
            start=self._starts,
            resume=ray.put(checkpoint.state if checkpoint is not None else None),
        )
        same = checkpoint is not None and checkpoint.workers == group.workers
        meeting = replace(
            self._meeting,
            start=self._starts,
            gpu=group.gpu,
            threads=checkpoint.threads if checkpoint is not None and same else None,
        )
        fewest, allowed = worker_limits(self._spec)
        start = Start(
            run=self._run,
            number=self._starts,
            group=group,
            asked_for=group.workers if self._spec.workers == "auto" else allowed,
            avoid=avoid,
            storage_path=self._storage_path,
            room_s=_PATIENCE_S if group.workers > fewest else 60.0,
        )
        self._group, self._begun_s, self._saved = group, time.monotonic(), False
        return run_start(start, work, {"told": told}, meeting, self._why_stop)

    def _size(self) -> tuple[Group, tuple[str, ...]]:
        """How many workers to start, and on which nodes none."""
        avoid = silent_nodes()
        deadline_s = time.monotonic() + (_FREED_S if self._group is not None else 0)
        while True:
            nodes = [node for node in free_nodes() if node.id not in avoid]
            group = size_group(self._spec, nodes, self._most)
            # right after a loss, what the lost workers held still counts as taken
            if group.workers >= min(self._hoped, self._most) or time.monotonic() >= deadline_s:
                break
            time.sleep(0.2)
        if self._group is not None and group.workers != self._group.workers:
            self._note(f"{group.workers} workers in place of {self._group.workers}")
        self._hoped = group.workers
        return group, avoid

    def _why_stop(self) -> str:
        """Why the workers have to end now, or ""."""
        self._deliver()
        if self._cancelled():
            return _CANCELLED
        fewest, allowed = worker_limits(self._spec)
        now_s = time.monotonic()
        if fewest == allowed or not self._saved or now_s - self._looked_s < _LOOK_S:
            return ""
        # now the last checkpoint is as new as it can be
        self._saved, self._looked_s = False, now_s
        return _ROOM if self._can_grow(now_s) else ""

    def _can_grow(self, now_s: float) -> bool:
        group, last = self._group, self._last
        done = last["epoch"] - self._sizes[-1][0] if self._sizes else 0
        if group is None or done < 1:
            return False
        held = [worker["node"] for worker in last["workers"]]
        try:
            nodes = given_back(free_nodes(), group, held)
        except (RayError, OSError, RuntimeError):  # the head is away
            return False
        more = size_group(self._spec, nodes)
        if more.gpu != group.gpu:
            return False
        epoch_s = (now_s - self._start_s) / done
        grow = worth_growing(
            group.workers,
            more.workers,
            remaining_s=epoch_s * (last["epochs"] - last["epoch"]),
            restart_s=self._start_s - self._begun_s,
        )
        if grow:
            self._hoped = more.workers
        return grow

    def _judge(self, error: Exception) -> None:
        """Note why the workers ended. Raises TrainingFailed if it is no use to start them again."""
        causes = _causes(error)
        for cause in causes:
            if isinstance(cause, PermanentError):
                raise TrainingFailed(f"run {self._run!r}: {cause}") from error
        if any(type(cause).__name__ == "WorkerGroupStartupTimeoutError" for cause in causes):
            self._wait_for_room()
            return
        what = _line(causes[0])
        if any(_is_memory(cause) for cause in causes):
            if self._told.micro_batches > 1:
                raise TrainingFailed(
                    f"run {self._run!r}: out of memory with half of each batch at a time too: "
                    f"{what}; lower training.batch_rows or training.hidden, or use nodes with more "
                    "memory"
                ) from error
            self._told = replace(self._told, micro_batches=2)
            self._note(f"out of memory: {what}; each batch is taken in two halves from now on")
            return
        self._failures += 1
        before, self._fault = self._fault, (what, self._last["epoch"])
        if before == self._fault and not _is_loss(causes[0]):
            raise TrainingFailed(f"run {self._run!r}: {what}; and so it was again") from error
        if self._failures > self._spec.worker_failures_max:
            raise TrainingFailed(
                f"run {self._run!r}: {what}; it is failure {self._failures} of the workers, and "
                f"training.worker_failures_max is {self._spec.worker_failures_max}"
            ) from error
        self._note(f"the workers failed: {what}")

    def _wait_for_room(self) -> None:
        """There was no room in time: try with fewer, or wait for longer."""
        if self._group is None:
            return
        needed = f"{self._group.workers} workers of {self._group.resources}"
        fewest, _ = worker_limits(self._spec)
        now_s = time.monotonic()
        self._roomless_s = self._roomless_s or now_s
        if now_s - self._roomless_s > _ROOM_S:
            free = [{"CPU": node.cpus, "GPU": node.gpus} for node in free_nodes()]
            raise TrainingFailed(
                f"run {self._run!r}: no room for {needed} in {_ROOM_S:.0f} s; free on the nodes: "
                f"{free}; add nodes, or lower training.workers or training.cpus_per_worker"
            )
        self._most = max(fewest, self._group.workers - 1)
        self._note(f"no room for {needed}")

    def _deliver(self) -> None:
        for event in ask(self._box.take.remote()) or ():
            self._take(event)

    def _take(self, event: Event) -> None:
        kind = event.pop("kind")
        if kind == "saved":
            self._saved = not event["fault"]
            if event["fault"]:
                self._note(f"checkpoint {event['epoch']} was not saved: {event['fault']}")
            return
        self._last = event
        if kind == "start":
            self._start_s, self._roomless_s = time.monotonic(), None
            self._most = worker_limits(self._spec)[1]
            self._sizes.append((event["epoch"], len(event["workers"])))
        self._tell(event)

    def _note(self, what: str) -> None:
        """Put on record what was out of the ordinary."""
        epoch = self._last["epoch"]
        self._notes.append(f"after epoch {epoch}: {what}" if epoch else what)

    def _tell(self, event: Event) -> None:
        if self._on_epoch is None:
            return
        restarts = max(0, len(self._sizes) - 1)
        self._on_epoch({"run": self._run, **event, "restarts": restarts, "notes": (*self._notes,)})


def _causes(error: BaseException) -> list[BaseException]:
    """What is behind a failed start, what comes first first."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        found = [_innermost(failures[rank]) for rank in sorted(failures)]
        # a worker that is lost breaks the connections of the others, who then fail as well
        return sorted(found, key=lambda one: not isinstance(one, (PermanentError, *_LOST)))
    inner = getattr(error, "controller_failure", None)
    return [_innermost(inner)] if inner is not None else [error]


def _is_memory(cause: BaseException) -> bool:
    if isinstance(cause, (OutOfMemory, OutOfMemoryError)):
        return True
    return isinstance(cause, RayActorError) and _BY_MEMORY in str(cause)


def _is_loss(cause: BaseException) -> bool:
    """Whether a process or a node was lost, rather than our code at fault."""
    return isinstance(cause, RayActorError) or type(cause).__name__ in _BROKEN_OFF


def _innermost(error: BaseException) -> BaseException:
    seen = {id(error)}
    while True:
        named = (getattr(error, name, None) for name in _INNER)
        inner = next((one for one in named if isinstance(one, BaseException)), error.__cause__)
        if inner is None or id(inner) in seen:
            return error
        seen.add(id(inner))
        error = inner


def _line(error: BaseException) -> str:
    """The innermost error as `Type: text`, on one line and cut."""
    error = _innermost(error)
    if isinstance(error, RayActorError):
        return f"a process died ({type(error).__name__})"
    if _is_loss(error):
        return f"a worker lost touch with another ({type(error).__name__})"
    text = " ".join(str(error).split()) or "no message"
    return shorten(f"{type(error).__name__}: {text}", _LINE_MAX, placeholder=" ...")
