"""One learning run, from files and journal to a published bundle.

The learner is a detached actor: it outlives whoever asked for the training, and Ray starts it
again if its process dies. It keeps nothing that matters in memory. A run that nobody runs is
started again by the controller under its name, reads the same rows, and goes on from the last
checkpoint.
"""

import contextlib
import functools
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from hapredict.control import runs
from hapredict.control.labelled import as_columns, labelled_rows
from hapredict.control.learning import Prepared, golden, golden_rows, judge, reference
from hapredict.control.ray_embedded import NAMESPACE
from hapredict.control.specs import read_spec, train_folder
from hapredict.data.ray_dataset import (
    Columns,
    add_up,
    chance_of_rows,
    find_files,
    of_blocks,
    open_dataset,
    survey,
    with_rows,
)
from hapredict.data.rows import RowCounts, cut, usable
from hapredict.data.schema import Schema, Table, take
from hapredict.data.values import lenient_texts
from hapredict.errors import DataError, HapredictError, TemporaryError
from hapredict.features.plan import FeaturePlan
from hapredict.features.stats import TableStats
from hapredict.registry import bundle
from hapredict.registry.catalog import Catalog, Version
from hapredict.registry.store import Store, open_store
from hapredict.serving.engine import Loaded, OnnxEngine, load_version
from hapredict.spec import Spec
from hapredict.training.metrics import evaluate, summary
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.ray_train import train_on_ray

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 5
"""Starts of one run after failures that were not its own, such as a store without answer."""


class Run:
    """One run: each method is a stage, and what it finds is kept for the next."""

    def __init__(self, store: Store, home: Path, request: runs.Request) -> None:
        self.store = store
        self.home = home
        self.request = request
        self.spec: Spec = read_spec(store, request.model, request.spec)
        self.record = runs.Record(request.run, "running", detail="reading")
        self._started_s = time.monotonic()

    def tell(self, **changes: Any) -> None:
        """Put on record what changed."""
        self.record = replace(self.record, **changes)
        # progress may get lost; how a run ends may not
        with contextlib.suppress(*((TemporaryError,) if self.record.state == "running" else ())):
            runs.note(self.store, self.request.model, self.record)

    @contextlib.contextmanager
    def stage(self, name: str, detail: str) -> Iterator[None]:
        """Time a stage of the run, and say what it does."""
        self.tell(detail=detail)
        began_s = time.monotonic()
        yield
        seconds = {**self.record.seconds, name: round(time.monotonic() - began_s, 2)}
        self.record = replace(self.record, seconds=seconds)

    def go(self, exporter: Callable[[], Any]) -> None:
        """The whole run. Raises HapredictError; the record says how it ended in any case."""
        champion = self._champion()
        with self.stage("read", "reading the data"):
            dataset = self._open(champion)
        with self.stage("prepare", "preparing the features"):
            schema, plan, parts, prepared = self._prepare(dataset, champion)
        train, validation, held, held_table = parts
        shape = NetworkShape.of(plan, schema, train.labels)
        with self.stage("train", f"training on {self.spec.training.workers} workers"):
            fitted = train_on_ray(
                f"{self.request.model}-{self.request.run}",
                shape,
                self.spec.training,
                train,
                validation,
                train_folder(self.spec, self.home, self.request.model),
                on_epoch=self._epoch,
            )
        with self.stage("export", "exporting and comparing with Keras"):
            exported = ray.get(
                exporter().export.remote(shape, self.spec.training, fitted.weights, held)
            )
        with self.stage("publish", "judging and publishing"):
            engine = OnnxEngine(
                exported.onnx,
                numbers=2 * len(schema.numbers),
                categories=len(schema.categories),
                outputs=schema.outputs,
            )
            scores = engine.scores(plan.apply(held_table))
            before = champion.reference if champion else None
            live = reference(
                schema, prepared.bins, prepared.examples.rows, held.labels, scores, before
            )
            champion_scores = champion.scores(held_table) if champion else None
            verdict = judge(
                schema, train.labels, held.labels, scores, champion_scores, live.loss_scale
            )
            metrics = {
                **evaluate(schema.task, held.labels, scores),
                "holdout_rows": held.rows,
                "parity": exported.parity,
            }
            few = golden_rows(schema, held_table)
            digest = bundle.publish(
                self.store,
                self.request.model,
                spec=self.spec,
                schema=schema,
                plan=plan,
                reference=live,
                network_onnx=exported.onnx,
                network_keras=exported.keras,
                golden=golden(few, engine.scores(plan.apply(few))),
                metrics=metrics,
                card=self._card(prepared, fitted, verdict.reason),
            )
        until_s = float(prepared.order.max()) if schema.time else (self.request.event_s or 0.0)
        version = Version(
            number=0,
            digest=digest,
            run=self.request.run,
            published_s=self.request.event_s or until_s,
            trained_until_s=until_s,
            metrics=metrics,
        )
        total_s = round(time.monotonic() - self._started_s, 2)
        self.tell(
            state="finished",
            detail=summary(metrics),
            restarts=fitted.restarts,
            version=version,
            verdict=verdict,
            seconds={**self.record.seconds, "total": total_s},
        )

    def _champion(self) -> Loaded | None:
        if self.request.champion is None:
            return None
        entry = Catalog(self.store, self.request.model).latest()
        if entry is None:
            return None
        return load_version(
            self.store, self.request.model, entry.state.versions[self.request.champion]
        )

    def _open(self, champion: Loaded | None) -> ray.data.Dataset:
        files = find_files(self.spec.data, self.home)
        dataset = open_dataset(files, self.spec.data)
        if champion is None or not self.request.positions:
            return dataset
        schema = champion.schema
        known = frozenset[str]()
        if schema.id is not None:
            name = schema.id
            known = frozenset().union(
                *of_blocks(dataset, lambda columns: set(lenient_texts(columns[name])[0]))
            )
        live = labelled_rows(self.store, self.request.model, schema, self.request.positions, known)
        if not len(live.labels):
            return dataset
        return with_rows(dataset, as_columns(live, schema))

    def _prepare(
        self, dataset: ray.data.Dataset, champion: Loaded | None
    ) -> tuple[Schema, FeaturePlan, tuple[Examples, Examples, Examples, Table], Prepared]:
        spec = self.spec.data
        if champion is not None:
            # what a column is does not change with each new batch of data
            kinds = {column.name: column.kind for column in champion.schema.features}
            spec = spec.model_copy(update={"columns": {**kinds, **spec.columns}})
        _, schema = survey(dataset, spec)
        read = functools.partial(_usable_rows, schema=schema, spec=spec)
        found = of_blocks(dataset, lambda columns: read(columns)[2:])
        counts = sum((counts for _, counts in found), RowCounts())
        self.tell(rows=counts.sentence())
        if counts.used < spec.rows_min:
            raise DataError(
                f"{counts.sentence()}; data.rows_min is {spec.rows_min}, since less can be neither "
                "learned from nor judged"
            )
        order = np.concatenate([order for order, _ in found])
        training = self.spec.training
        validation_from, held_from = cut(order, training.validation_share, training.holdout_share)

        def stats_of(columns: Columns) -> TableStats:
            table, _, order, _ = read(columns)
            return TableStats.of(take(table, order < validation_from), schema)

        plan = FeaturePlan.from_stats(add_up(dataset, stats_of), schema, self.spec.features)

        def prepare(columns: Columns) -> Prepared:
            table, labels, order, _ = read(columns)
            return Prepared.of(table, labels, order, plan, held_from)

        prepared = add_up(dataset, prepare)
        return schema, plan, prepared.parts(validation_from, held_from), prepared

    def _epoch(self, report: dict[str, Any]) -> None:
        self.tell(
            detail="training",
            epoch=report["epoch"],
            epochs=report["epochs"],
            validation_loss=report["validation_loss"],
            restarts=report["restarts"],
            pids=tuple(worker["pid"] for worker in report["workers"]),
        )

    def _card(self, prepared: Prepared, fitted: Any, verdict: str) -> dict[str, Any]:
        return {
            "run": self.request.run,
            "trigger": self.request.trigger,
            "rows": prepared.examples.rows,
            "rows_told": self.record.rows,
            "from": float(prepared.order.min()),
            "until": float(prepared.order.max()),
            "epochs": fitted.epochs,
            "best_epoch": fitted.best_epoch,
            "verdict": verdict,
        }


def _usable_rows(
    columns: Columns, schema: Schema, spec: Any
) -> tuple[Table, np.ndarray[Any, Any], np.ndarray[Any, Any], RowCounts]:
    """The usable rows of a block: table, labels and order, and the counts of the others."""
    table, unreadable = schema.frame(columns)
    if schema.target in columns:
        labels = schema.labels(columns[schema.target])
    else:
        labels = np.full(len(unreadable), np.nan)
    used, counts = usable(table, labels, unreadable, schema, spec)
    if schema.time is not None:
        order = table[schema.time]
    else:
        order = chance_of_rows({name: columns[name] for name in sorted(columns)})
    return take(table, used), labels[used], order[used], counts


@ray.remote(num_cpus=0)
class Exporter:
    """A process with Keras in it, kept from run to run: importing TensorFlow takes seconds."""

    def export(self, shape: Any, spec: Any, weights: bytes, sample: Any) -> Any:
        from hapredict.training.keras_export import export

        return export(shape, spec, weights, sample)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)
class Learner:
    """Runs one training at a time for one model."""

    def __init__(self, model: str, store_url: str, home: str) -> None:
        self._model = model
        self._store = open_store(store_url)
        self._home = Path(home)
        self._run = ""
        self._lock = threading.Lock()
        self._exporter: Any = None

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
        record = runs.Record(run, "running")
        try:
            before = runs.noted(self._store, self._model, run)
            record = replace(record, attempts=before.attempts if before is not None else 0)
            job = Run(self._store, self._home, runs.asked(self._store, self._model, run))
            job.record = replace(job.record, attempts=record.attempts)
            try:
                job.go(self._export_process)
            finally:
                record = job.record
        except HapredictError as error:
            self._fail(record, str(error), retry=isinstance(error, TemporaryError))
        except Exception as error:  # whatever breaks a training must not break the learner
            log.exception("training %s failed", run)
            last = traceback.format_exception_only(error)[-1].strip()
            self._fail(record, f"unforeseen: {last}", retry=False)
        finally:
            self._run = ""

    def _fail(self, record: runs.Record, why: str, *, retry: bool) -> None:
        attempts = record.attempts + 1
        again = retry and attempts < ATTEMPTS_MAX
        with contextlib.suppress(TemporaryError):
            ended = replace(record, state="failed", detail=why, retry=again, attempts=attempts)
            runs.note(self._store, self._model, ended)

    def _export_process(self) -> Any:
        if self._exporter is None:
            self._exporter = Exporter.options(  # type: ignore[attr-defined]
                max_restarts=-1, max_task_retries=2
            ).remote()
        return self._exporter


def learner(model: str, store_url: str, home: Path) -> Any:
    """The learner of a model, started if it does not run."""
    return Learner.options(  # type: ignore[attr-defined]
        name=f"hapredict:{model}:learner",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
    ).remote(model, store_url, str(home))
