"""The process that trains a model, whoever asked for it.

The learner is a detached actor: it outlives whoever asked for the training, and Ray starts it
again if its process dies. It lives off the head node where there is another one. It keeps nothing
that matters in memory: a run that nobody runs is started again by the controller under its name.
"""

import contextlib
import logging
import os
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from hapredict.control import runs
from hapredict.control.ray_embedded import NAMESPACE
from hapredict.control.ray_learn import Run
from hapredict.errors import HapredictError, TemporaryError, TrainingCancelled
from hapredict.registry.store import Store, open_store
from hapredict.training.export import export
from hapredict.training.ray_train import off_head

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 5
"""Starts of one run after failures that were not its own, such as a store without answer."""


@ray.remote(num_cpus=0)
class Exporter:
    """A process with Keras in it, kept from run to run: importing TensorFlow takes seconds."""

    def export(self, shape: Any, spec: Any, weights: bytes, sample: Any, calibration: Any) -> Any:
        return export(shape, spec, weights, sample, calibration, clock=time.perf_counter)


class Trainer:
    """Trains in one process, whichever model, and notes how it ended. For one thread."""

    def __init__(self, store: Store, home: Path) -> None:
        self._store = store
        self._home = home
        self._exporter: Any = None

    def train(self, model: str, run: str) -> None:
        """Do a run that has a request. Raises nothing that a training can raise."""
        record = runs.Record(run, "running")
        try:
            before = runs.noted(self._store, model, run)
            record = replace(record, attempts=before.attempts if before is not None else 0)
            job = Run(self._store, self._home, runs.asked(self._store, model, run))
            job.record = replace(job.record, attempts=record.attempts)
            try:
                job.go(self._export_process)
            finally:
                record = job.record
        except HapredictError as error:
            record = replace(record, cancelled=isinstance(error, TrainingCancelled))
            self._fail(model, record, str(error), retry=isinstance(error, TemporaryError))
        except Exception as error:  # whatever breaks a training must not break the learner
            log.exception("training %s failed", run)
            last = traceback.format_exception_only(error)[-1].strip()
            self._fail(model, record, f"unforeseen: {last}", retry=False)

    def _fail(self, model: str, record: runs.Record, why: str, *, retry: bool) -> None:
        attempts = record.attempts + 1
        again = retry and attempts < ATTEMPTS_MAX
        with contextlib.suppress(TemporaryError):
            ended = replace(record, state="failed", detail=why, retry=again, attempts=attempts)
            runs.note(self._store, model, ended)

    def _export_process(self) -> Any:
        if self._exporter is None:
            self._exporter = Exporter.options(  # type: ignore[attr-defined]
                max_restarts=-1, max_task_retries=2
            ).remote()
        return self._exporter


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)
class Learner:
    """Runs one training at a time for one model."""

    def __init__(self, model: str, store_url: str, home: str) -> None:
        self._model = model
        self._trainer = Trainer(open_store(store_url), Path(home))
        self._run = ""
        self._lock = threading.Lock()

    def start(self, run: str) -> bool:
        """Begin a run that has a request, unless it is in progress; False if another one is."""
        with self._lock:
            if self._run:
                return self._run == run
            self._run = run
        threading.Thread(target=self._work, args=(run,), name=run, daemon=True).start()
        return True

    def current(self) -> str:
        """The run in progress, or ""."""
        return self._run

    def pid(self) -> int:
        """The process, for drills."""
        return os.getpid()

    def _work(self, run: str) -> None:
        try:
            self._trainer.train(self._model, run)
        finally:
            self._run = ""


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)
class PoolLearner:
    """Runs one training at a time for all models of a pool, in the order in which they asked.

    A model has one run at most, so that none waits for more than one of each other model.
    """

    def __init__(self, store_url: str, home: str) -> None:
        self._store = open_store(store_url)
        self._trainer = Trainer(self._store, Path(home))
        self._lock = threading.Lock()
        self._queue: dict[str, str] = {}

    def start(self, model: str, run: str) -> bool:
        """Queue a run that has a request, unless it is; False if the model has another one."""
        with self._lock:
            before = list(self._queue)
            known = self._queue.setdefault(model, run)
            if not before:
                threading.Thread(target=self._work, name="train", daemon=True).start()
            elif (
                model not in before
            ):  # noted in the lock: it cannot begin, let alone end, meanwhile
                with contextlib.suppress(TemporaryError):
                    noted = runs.noted(self._store, model, run) or runs.Record(run, "running")
                    waits = f"waits for its turn; {len(before)} trainings of the pool come first"
                    runs.note(self._store, model, replace(noted, state="running", detail=waits))
        return known == run

    def current(self, model: str) -> str:
        """The model's run that is in progress or waits for its turn, or ""."""
        return self._queue.get(model, "")

    def pid(self, _model: str = "") -> int:
        """The process, for drills."""
        return os.getpid()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    return
                model, run = next(iter(self._queue.items()))
            try:
                self._trainer.train(model, run)
            finally:
                with self._lock:
                    del self._queue[model]


def learner(model: str, store_url: str, home: Path) -> Any:
    """The learner of a model, started if it does not run."""
    return Learner.options(  # type: ignore[attr-defined]
        name=f"hapredict:{model}:learner",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        **off_head(),
    ).remote(model, store_url, str(home))


def pool_learner(pool: str, store_url: str, home: Path) -> Any:
    """The learner of a pool, started if it does not run."""
    return PoolLearner.options(  # type: ignore[attr-defined]
        name=f"hapredict:pool:{pool}:learner",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        **off_head(),
    ).remote(store_url, str(home))
