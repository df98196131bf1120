"""One learning run, from files and journal to a published bundle.

A run that was interrupted is started again under its name, reads the same rows, and goes on from
the last checkpoint. So does a new run that is asked to learn the same from the same rows.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from hapredict.control import runs
from hapredict.control.gates import Judged
from hapredict.control.hold_out import check_slices
from hapredict.control.labelled import as_columns, labelled_rows
from hapredict.control.publishing import Aside, judge_and_publish
from hapredict.control.ray_judging import golden_files, golden_set, timed_ms
from hapredict.control.ray_lineage import commit_of, libraries
from hapredict.control.ray_window import within_window
from hapredict.control.specs import on_disk, read_spec, train_folder
from hapredict.control.training_rows import (
    capped,
    check_source,
    mature,
    rows_of_one_sender_max,
    told,
)
from hapredict.data.ray_dataset import find_files, of_blocks, open_dataset, with_rows
from hapredict.data.schema import Schema
from hapredict.data.values import lenient_texts
from hapredict.errors import NotFound, TemporaryError
from hapredict.registry.catalog import Catalog, Version
from hapredict.registry.store import Store
from hapredict.sections import DAY_S
from hapredict.serving.decisions import check_costs
from hapredict.serving.engine import Loaded, load_version
from hapredict.spec import Spec
from hapredict.training.calibration import set_aside
from hapredict.training.families import find_family
from hapredict.training.metrics import summary
from hapredict.training.network import NetworkShape
from hapredict.training.prepared import Prepared, Recipe, folder_of
from hapredict.training.ray_checkpoints import keep_newest
from hapredict.training.ray_inputs import code_version, file_hashes
from hapredict.training.ray_prepare import Rows, find_prepared, prepare, read_rows
from hapredict.training.ray_train import train_on_ray
from hapredict.training.rules import name_of_task

CANCEL_LOOK_S = 1.0
TRAININGS_KEPT = 3
"""Folders of checkpoints: of the training in progress, and of those before that may go on."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What reading the data came to."""

    recipe: Recipe
    key: str
    rows: Rows | Prepared
    """Prepared where an earlier run did so."""


class Run:
    """One run: each method is a stage, and what it finds is kept for the next."""

    def __init__(self, store: Store, home: Path, request: runs.Request) -> None:
        self.store = store
        self.home = home
        self.request = request
        self.spec: Spec = read_spec(store, request.model, request.spec)
        self.record = runs.Record(request.run, "running", detail="reading")
        self._started_s = self._looked_s = time.monotonic()

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
        # a file that is not there shall not cost a training
        golden_files(self.spec.control, self.spec.data, self.home)
        with self.stage("read", "reading the data"):
            found = self._open(champion)
        with self.stage("prepare", "preparing the features"):
            prepared = self._prepare(found)
        del found  # and with it the rows in the object store
        schema, plan, held = prepared.schema, prepared.plan, prepared.held
        shape = NetworkShape.of(plan, schema, prepared.labels, self.spec.training)
        check_costs(self.spec.serving, schema)
        check_source(self.spec.control, schema)
        check_slices(self.spec.monitoring, schema)
        validation, calibration = set_aside(shape, self.spec.training, prepared.validation)
        with self.stage("train", "starting the workers"):
            storage = train_folder(self.spec, self.home, self.request.model)
            name = name_of_task(prepared.train.key, self.spec.training)
            keep_newest(storage, TRAININGS_KEPT, name)
            fitted = train_on_ray(
                name,
                shape,
                self.spec.training,
                prepared.train,
                validation,
                storage,
                on_epoch=self._epoch,
                cancelled=self._cancelled,
            )
        with self.stage("export", "exporting, and comparing with what was fitted"):
            exported = ray.get(
                exporter().export.remote(
                    shape, self.spec.training, fitted.weights, held, calibration
                )
            )
        with self.stage("publish", "judging and publishing"):
            judged = judge_and_publish(
                self.store,
                self.request.model,
                self.spec,
                prepared,
                exported,
                champion,
                lambda verdict: self._card(prepared, fitted, verdict.reason, exported.report),
                self._aside(schema),
            )
        until_s = prepared.last if schema.time else (self.request.event_s or 0.0)
        version = Version(
            number=0,
            digest=judged.digest,
            run=self.request.run,
            published_s=self.request.event_s or until_s,
            trained_until_s=until_s,
            metrics=judged.metrics,
        )
        total_s = round(time.monotonic() - self._started_s, 2)
        self.tell(
            state="finished",
            detail=summary(judged.metrics),
            restarts=fitted.restarts,
            version=version,
            verdict=judged.verdict,
            seconds={**self.record.seconds, "total": total_s},
        )

    def _champion(self) -> Loaded | None:
        version = self._champion_version()
        return None if version is None else load_version(self.store, self.request.model, version)

    def _champion_version(self) -> Version | None:
        entry = Catalog(self.store, self.request.model).latest()
        if self.request.champion is None or entry is None:
            return None
        return entry.state.versions[self.request.champion]

    def _aside(self, schema: Schema) -> Aside:
        """What the gates look at beside the hold-out."""
        rules, version = self.spec.control, self._champion_version()

        def timed(mine: Any, champion: Any, few: Any) -> tuple[float, float]:
            took_ms, champion_ms = timed_ms((mine, champion), few, time.perf_counter)
            return took_ms, champion_ms

        def trusted(mine: Any, champion: Any) -> Judged | None:
            return golden_set(rules, self.spec.data, self.home, schema, mine, champion)

        metrics = version.metrics if version is not None else {}
        return Aside(self.request.label_delay_days, metrics, timed, trusted)

    def _open(self, champion: Loaded | None) -> "_Found":
        """What an earlier run prepared of the same data; or else the rows that are to be prepared.

        A run that starts again under its name goes on with what it prepared, even if files changed.
        """
        model, data = self.request.model, self.spec.data
        live: dict[str, Any] = {}
        if champion is not None:
            # what a column is does not change with each new batch of data
            kinds = {column.name: column.kind for column in champion.schema.features}
            data = data.model_copy(update={"columns": {**kinds, **data.columns}})
            live = {"schema": champion.schema.to_json(), "positions": self.request.positions}
        rules = self.spec.control
        recipe = Recipe.of(data, self.spec.features, self.spec.training, rules.purge_days * DAY_S)
        with contextlib.suppress(NotFound):
            key = self.store.get(self._key_path).decode()
            if found := self._before(key):
                return _Found(recipe, key, found)
        files = find_files(self.spec.data, self.home)
        hashes = file_hashes(files, self.store, model)
        key = recipe.key(
            files=self.request.run if hashes is None else hashes,
            columns=dict(self.spec.data.columns),
            live=live,
            picked=[
                rules.training_window,
                rules.source_column,
                rules.source_share_max,
                self.request.label_delay_days,
            ],
            code=code_version(),
        )
        if found := self._before(key):
            self.store.put(self._key_path, key.encode())
            return _Found(recipe, key, found)
        dataset, left_out = self._with_live_rows(open_dataset(files, self.spec.data), champion)
        rows, window = within_window(
            read_rows(dataset, recipe), recipe, rules.training_window, self.spec.training.seed
        )
        parts = (rows.counts.sentence(), left_out, f"learned from: {window.reason}")
        self.tell(rows="; ".join(part for part in parts if part))
        return _Found(recipe, key, rows)

    @property
    def _key_path(self) -> str:
        return f"runs/{self.request.model}/{self.request.run}/prepared.txt"

    def _before(self, key: str) -> Prepared | None:
        model = self.request.model
        found = find_prepared(self.store, model, key, on_disk(self.store, folder_of(model, key)))
        if found is not None:
            self.tell(rows=found.counts.sentence())
        return found

    def _with_live_rows(
        self, dataset: ray.data.Dataset, champion: Loaded | None
    ) -> tuple[ray.data.Dataset, str]:
        """The rows of files and those answered live; and what was left out of the latter."""
        if champion is None or not self.request.positions:
            return dataset, ""
        schema = champion.schema
        live = labelled_rows(self.store, self.request.model, schema, self.request.positions)
        if schema.id is not None:
            name = schema.id
            asked = frozenset(live.table[name].tolist()) - {None}
            known = frozenset[str]().union(
                *of_blocks(dataset, lambda columns: asked & set(lenient_texts(columns[name])[0]))
            )
            live = live.without(name, known)
        rules, asked_rows = self.spec.control, len(live.labels)
        live = mature(live, self.request.event_s, self.request.label_delay_days)
        grown = len(live.labels)
        most = rows_of_one_sender_max(rules, dataset.count() + grown)
        live = capped(live, rules.source_column, most)
        kept = len(live.labels)
        left_out = told(rules, asked_rows, grown, kept)
        return with_rows(dataset, as_columns(live, schema)) if kept else dataset, left_out

    def _prepare(self, found: "_Found") -> Prepared:
        if isinstance(found.rows, Prepared):
            return found.rows
        model = self.request.model
        folder = on_disk(self.store, folder_of(model, found.key))
        prepared = prepare(found.rows, found.recipe, self.store, model, found.key, folder)
        self.store.put(self._key_path, found.key.encode())
        return prepared

    def _cancelled(self) -> bool:
        now_s = time.monotonic()
        if now_s - self._looked_s < CANCEL_LOOK_S:
            return False
        self._looked_s = now_s
        with contextlib.suppress(TemporaryError):
            return runs.cancel_wanted(self.store, self.request.model, self.request.run)
        return False

    def _epoch(self, report: dict[str, Any]) -> None:
        self.tell(
            detail="training",
            epoch=report["epoch"],
            epochs=report["epochs"],
            validation_loss=report["validation_loss"],
            restarts=report["restarts"],
            notes=report["notes"],
            pids=tuple(worker["pid"] for worker in report["workers"]),
        )

    def _card(
        self, prepared: Prepared, fitted: Any, verdict: str, report: dict[str, Any]
    ) -> dict[str, Any]:
        """Where the version comes from; its spec is a file of its own."""
        training = self.spec.training
        return {
            "run": self.request.run,
            "trigger": self.request.trigger,
            "rows": prepared.counts.used,
            "rows_told": self.record.rows,
            "from": prepared.first,
            "until": prepared.last,
            "data": prepared.train.key,
            "spec": self.request.spec,
            "seed": training.seed,
            "workers": len(self.record.pids),
            "libraries": libraries(find_family(training.family).kind),
            "commit": commit_of(self.home),
            "epochs": fitted.epochs,
            "best_epoch": fitted.best_epoch,
            "notes": list(fitted.notes),
            "seconds": dict(self.record.seconds),
            "export": report,
            "verdict": verdict,
        }
