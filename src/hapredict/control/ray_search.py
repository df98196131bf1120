"""One search for better settings, from the data to a verdict on the hold-out.

It keeps what matters in the store: whoever starts it again under the same request goes on with the
trials and the comparisons that are on record.
"""

import contextlib
import functools
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from hapredict.control import tuning
from hapredict.control.specs import on_disk, train_folder
from hapredict.control.tuning import Book, Progress, Request
from hapredict.data.ray_dataset import find_files, open_dataset
from hapredict.errors import HapredictError, TemporaryError, TrainingFailed
from hapredict.features.plan import Matrices
from hapredict.registry.store import Store
from hapredict.sections import TrainingSpec
from hapredict.serving.engine import OnnxEngine
from hapredict.spec import Spec
from hapredict.training.calibration import set_aside
from hapredict.training.export import export
from hapredict.training.fitted import pack_arrays, unpack_arrays
from hapredict.training.metrics import loss_scale
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.prepared import Prepared, Recipe, folder_of, mark_used
from hapredict.training.ray_inputs import code_version, file_hashes
from hapredict.training.ray_prepare import find_prepared, prepare, read_rows
from hapredict.training.ray_trial import Task, fit_settings, state_name
from hapredict.training.ray_tune import search_on_ray
from hapredict.training.search import Comparison, Trial, compare, winner
from hapredict.training.space import Settings, space_of

LOOK_S = 0.3
NOTE_S = 0.3
"""Seconds between two notes of progress, at least."""
USED_S = 30.0
"""Seconds between two notes that the prepared rows are in use."""
REFITS = 3
"""Seeds with which the best settings and the spec's own are compared."""
_LATENCY_S = 0.3
_EXPORT_ROWS = 2000
_NODE_S = 30.0
_FREE_S = 2.0


class Search:
    """One search: each method is a stage of it."""

    def __init__(self, store: Store, home: Path, request: Request) -> None:
        self.store = store
        self.home = home
        self.spec = request.spec
        before = tuning.noted(store, self.spec.name)
        begun = before is not None and before.request == request.id
        self.progress = before if begun and before else Progress(request.id)
        self.progress = replace(
            self.progress,
            state="running",
            detail="starting",
            planned=self.spec.tuning.trials,
            pid=os.getpid(),
        )
        self.stopping = threading.Event()
        self._before_s = self.progress.spent_s
        self._began_s = time.monotonic()
        self._noted_s = self._used_s = 0.0
        self._rows = ""

    def tell(self, **changes: Any) -> None:
        """Put on record what changed."""
        spent_s = round(self._before_s + time.monotonic() - self._began_s, 1)
        self.progress = replace(self.progress, **changes, spent_s=spent_s)
        running = self.progress.state == "running"
        # progress may get lost or come late; how a search ends may not
        if running and set(changes) <= {"trials"} and time.monotonic() - self._noted_s < NOTE_S:
            return
        with contextlib.suppress(*((TemporaryError,) if running else ())):
            tuning.note(self.store, self.spec.name, self.progress)
            if self._rows and time.monotonic() - self._used_s > USED_S:
                # only what was used last is kept, and retrainings go on
                mark_used(self.store, self._rows, time.time())
                self._used_s = time.monotonic()
        self._noted_s = time.monotonic()

    def go(self) -> None:
        """The whole search. Raises HapredictError."""
        spec = self.spec
        self.tell(detail="reading and preparing the data")
        prepared = _prepared(spec, self.store, self.home, self.progress)
        shape = NetworkShape.of(prepared.plan, prepared.schema, prepared.labels, spec.training)
        choosing, calibrating = set_aside(shape, spec.training, prepared.validation)
        self._rows = folder_of(spec.name, prepared.train.key)
        key, book = tuning.book_of(self.store, spec, prepared.train.key)
        if key != self.progress.key:
            # other data, or other settings, are another search
            self._before_s = 0.0
            self._began_s = time.monotonic()
        self.tell(key=key, rows=prepared.counts.sentence(), trials=tuple(book.trials()))
        at_once, cpus = self._room()
        task = Task(
            shape=shape,
            spec=spec.training,
            train=prepared.train,
            validation=choosing,
            book=book,
            latency_ms=functools.partial(_latency_ms, shape, choosing.take(slice(0, 200))),
            at_once=at_once,
        )
        limit_s = spec.tuning.time_max_s
        spent_s = self._before_s + time.monotonic() - self._began_s
        self.tell(detail=f"searching, {at_once} trial{'s' if at_once > 1 else ''} at once")
        trials = search_on_ray(
            f"tune-{key}",
            task,
            space_of(spec.training, spec.tuning),
            spec.tuning,
            train_folder(spec, self.home, spec.name),
            cpus=cpus,
            left_s=None if limit_s is None else max(0.0, limit_s - spent_s),
            on_change=lambda trials: self.tell(trials=tuple(trials)),
            cancelled=self.stopping.is_set,
        )
        self.tell(detail="the trials have ended", trials=tuple(trials))
        if trials and all(trial.state == "failed" for trial in trials):
            raise TrainingFailed(
                f"all {len(trials)} trials failed, the first with: {trials[0].reason}"
            )
        comparison: Comparison | str | None = None
        best = winner(trials, spec.tuning.latency_ms_max)
        contested = best is not None and best.number and trials[0].state != "failed"
        if best is not None and contested and not self.stopping.is_set():
            told = ray.put((task, calibrating, prepared.held))
            comparison = self._compare(task, told, prepared.held.labels, trials[0], best, cpus)
        if self.stopping.is_set():
            self.tell(state="stopped", detail="stopped; the same command goes on")
            return
        found = tuning.judged(spec.training, trials, comparison, spec.tuning.latency_ms_max)
        self.tell(state="finished", detail=found.sentence, found=found)
        with contextlib.suppress(TemporaryError):
            _tidy(book, trials, best)

    def _room(self) -> tuple[int, float]:
        """Trials at once, and the Ray CPUs that each reserves; waits until there are any.

        `auto`: as many as there are free CPUs, at most one a core. A number that is asked for
        shares the free CPUs where there are fewer.
        """
        wanted = self.spec.tuning.trials_at_once
        while True:
            free = float(ray.available_resources().get("CPU", 0.0))
            cores = _cores()
            most = self.spec.tuning.trials
            at_once = min(most, wanted if wanted != "auto" else min(cores, max(1, int(free))))
            cpus = min(1.0, int(100 * free / at_once) / 100)
            if cpus or self.stopping.is_set():
                return at_once, cpus or 1.0
            self.tell(detail="waiting for a free CPU: all are reserved, by replicas or trainings")
            self.stopping.wait(_FREE_S)

    def _compare(
        self, task: Task, told: Any, labels: NDArray[Any], own: Trial, best: Trial, cpus: float
    ) -> Comparison | str | None:
        """The spec's own settings and the best ones on the hold-out; None if it was stopped.

        A sentence if a fit fails with one of the seeds.
        """
        self.tell(detail=f"comparing on the hold-out, each fitted {REFITS} times")
        first = task.spec.seed
        wanted = [(trial, seed) for seed in range(first, first + REFITS) for trial in (own, best)]
        fitting = _scores.options(num_cpus=cpus, max_retries=task.spec.worker_failures_max)
        waiting: dict[Any, tuple[int, int]] = {}
        scores: dict[tuple[int, int], NDArray[Any]] = {}
        todo = list(wanted)
        while (todo or waiting) and not self.stopping.is_set():
            while todo and len(waiting) < task.at_once:
                trial, seed = todo.pop(0)
                # the fit of the trial itself is on record up to its end
                name = f"{trial.number:04d}-{seed}.state" if seed != first else None
                job = fitting.remote(told, trial, seed, name or state_name(trial.number))
                waiting[job] = trial.number, seed
            ended, _ = ray.wait(list(waiting), timeout=LOOK_S)
            for job in ended:
                found = ray.get(job)
                number, seed = waiting.pop(job)
                if isinstance(found, TemporaryError):
                    raise found
                if isinstance(found, HapredictError):
                    return f"trial {number} fails with seed {seed}: {found}"
                scores[number, seed] = found
                self.tell(detail=f"comparing on the hold-out, {len(scores)} of {len(wanted)} fits")
        for job in waiting:
            ray.cancel(job, force=True)
        if waiting or todo:
            return None
        before, after = (
            {seed: scores[trial.number, seed] for seed in range(first, first + REFITS)}
            for trial in (own, best)
        )
        kind = task.shape.task
        return compare(kind, labels, before, after, loss_scale(kind, labels))


def _prepared(spec: Spec, store: Store, home: Path, progress: Progress) -> Prepared:
    """The rows of the spec's files, prepared as for a first model, or found as prepared before."""
    recipe = Recipe.of(spec.data, spec.features, spec.training)
    files = find_files(spec.data, home)
    hashes = file_hashes(files, store, spec.name)
    key = recipe.key(
        files=f"tune {progress.begun_s}" if hashes is None else hashes,
        columns=dict(spec.data.columns),
        live={},
        code=code_version(),
    )
    folder = on_disk(store, folder_of(spec.name, key))
    found = find_prepared(store, spec.name, key, folder)
    if found is not None:
        return found
    rows = read_rows(open_dataset(files, spec.data), recipe)
    return prepare(rows, recipe, store, spec.name, key, folder)


@ray.remote
def _scores(told: Any, trial: Trial, seed: int, name: str) -> Any:
    """Scores [rows, outputs] on the hold-out of a fit with a trial's settings and a seed."""
    task, calibrating, held = told
    kept = f"{trial.number:04d}-{seed}.scores"
    try:
        found = task.book.kept(kept)
        if found is not None:
            return unpack_arrays(found)[0]
        settings: Settings = {**trial.settings, "seed": seed}
        spec, fitted = fit_settings(task, settings, name, lambda _: None)
        scores = _engine_scores(task.shape, spec, fitted.weights, calibrating, held)
        task.book.keep(kept, pack_arrays((scores,)))
    except HapredictError as error:
        return error  # Ray would wrap it, and drop what caused it
    return scores


def _engine_scores(
    shape: NetworkShape, spec: TrainingSpec, weights: bytes, calibrating: Any, held: Examples
) -> NDArray[np.float32]:
    """What a replica would answer."""
    exported = export(shape, spec, weights, held.take(slice(0, _EXPORT_ROWS)), calibrating)
    return _engine(shape, exported.onnx).scores(Matrices(held.numbers, held.categories))


def _latency_ms(shape: NetworkShape, rows: Examples, spec: TrainingSpec, weights: bytes) -> float:
    """Milliseconds of one core to score one row on ONNX Runtime: the 99th of 100 calls.

    Processor time, since other trials run on the same machine, and of many rounds the quietest,
    since what else goes on there can only add to it.
    """
    engine = _engine(shape, export(shape, spec, weights, rows, None).onnx)
    one = Matrices(rows.numbers[:1], rows.categories[:1])
    quietest_ns = 0
    until_s = time.thread_time() + _LATENCY_S
    while not quietest_ns or time.thread_time() < until_s:
        taken = []
        for _ in range(100):
            began_ns = time.thread_time_ns()
            engine.scores(one)
            taken.append(time.thread_time_ns() - began_ns)
        slowest_ns = sorted(taken)[98]
        quietest_ns = min(slowest_ns, quietest_ns or slowest_ns)
    return quietest_ns / 1e6


def _engine(shape: NetworkShape, onnx: bytes) -> OnnxEngine:
    outputs = 1 if shape.task != "multiclass" else shape.outputs
    return OnnxEngine(
        onnx, numbers=2 * len(shape.edges), categories=len(shape.levels), outputs=outputs
    )


def _tidy(book: Book, trials: list[Trial], best: Trial | None) -> None:
    """Drop the checkpoints of all but the two that a later comparison would need."""
    stay = {0, best.number if best is not None else 0}
    for trial in trials:
        if trial.number not in stay:
            book.drop(state_name(trial.number))


def _cores() -> int:
    """Cores of all nodes that are alive."""
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    asked = [
        _cores_here.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)
        ).remote()
        for node in nodes
    ]
    try:
        return sum(ray.get(asked, timeout=_NODE_S))
    except RayError:
        return os.cpu_count() or 1


@ray.remote(num_cpus=0)
def _cores_here() -> int:
    return len(os.sched_getaffinity(0))
