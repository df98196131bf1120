"""The whole loop on a year of real rows, with faults on the way: `make demo`.

Nothing here is special to the demo but the traffic: the spec, the detectors, the rules and the
processes are those of production. Every promise is checked, and the demo fails if one is broken.
"""

import json
import shutil
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from ray import serve
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hapredict.control import ray_embedded, runs
from hapredict.control.ray_apply import Applied, apply
from hapredict.control.ray_cluster import controller
from hapredict.control.show import Shown, moment
from hapredict.control.specs import store_url
from hapredict.data.schema import columns_of
from hapredict.drill.past import Answered, Day, Row, plan
from hapredict.drill.ray_faults import kill, kill_replica, wait_for_replicas
from hapredict.drill.ray_traffic import Traffic
from hapredict.drill.report import Counts, Step, Story, months_of, page, text
from hapredict.errors import HapredictError, NotFound
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import open_store
from hapredict.serving.engine import load_version
from hapredict.spec import Spec
from hapredict.training.scale import worker_limits

say = Console(highlight=False)


class Demo:
    """One run of the demo; its methods are the steps in order."""

    def __init__(self, spec: Spec, home: Path, group: Sequence[str]) -> None:
        self.spec = spec
        self.home = home
        self.group = group
        self.story = Story(spec.name)
        self.store = open_store(store_url(spec, home))
        self.catalog = Catalog(self.store, spec.name)
        self._seen = 0
        self._alarms: set[tuple[str, str, int | None]] = set()
        self._killed_replica = ""
        self._worker: _WorkerKiller | None = None
        self._curl = ""
        self._handle = ""

    def go(self, live: Sequence[Path], *, keep: bool) -> Story:
        """Everything; the story says what was kept. Raises HapredictError if it cannot go on."""
        began_s = time.monotonic()
        ray_embedded.stop(self.home)
        self._start_afresh()
        days = plan(rows_of_files(live, self.spec), self.group)
        say.print("[bold]Starting Ray on this machine[/]")
        cluster = ray_embedded.start(self.home, num_cpus=8)
        try:
            ray_embedded.connect(self.home)
            say.print(f"  dashboard {cluster.dashboard_url}")
            say.print("[bold]Applying the spec: train, export, serve, watch[/]")
            with Shown(say) as shown:
                applied = apply(self.spec, self.home, shown.tell, wait_s=600)
            self._first(applied, days)
            say.print(f"[bold]Replaying {len(days)} days of live traffic[/]")
            traffic = Traffic(applied.url, self.spec.name, self._controller())
            try:
                self._replay(traffic, days)
            finally:
                traffic.close()
            self._finish(applied, traffic, time.monotonic() - began_s)
        finally:
            ray_embedded.disconnect()
            if not keep:
                ray_embedded.stop(self.home)
        return self.story

    def _start_afresh(self) -> None:
        """Put an earlier demo's model aside: this one begins without a past."""
        old = [self.home / name for name in ("store", "spool") if (self.home / name).exists()]
        if old:
            aside = self.home / f"before-{time.strftime('%Y%m%d-%H%M%S')}"
            aside.mkdir()
            for folder in old:
                shutil.move(str(folder), aside / folder.name)
            say.print(f"an earlier store was moved to {aside}")

    def _controller(self) -> Any:
        return controller(self.spec.name, self.store.url, self.home)

    def _first(self, applied: Applied, days: Sequence[Day]) -> None:
        """What the first model is, and that it answers by HTTP and by handle."""
        record = applied.record
        state = applied.entry.state
        version = state.versions[state.champion or 1]
        say.print(f"  {record.rows if record else ''}")
        seconds = ", ".join(f"{k} {v:.1f}" for k, v in record.seconds.items()) if record else ""
        say.print(f"  seconds: {seconds}", soft_wrap=True)
        body = {"instances": [dict(days[0].requests[0][0].fields)]}
        url = f"{applied.url}/v1/models/{self.spec.name}:predict"
        request = json.dumps(body, ensure_ascii=False)
        say.print("  try it:")
        say.print(f"  curl -s {url} -d '{request}'", soft_wrap=True)
        answer = httpx.post(
            url,
            content=request.encode(),
            headers={"content-type": "application/json"},
            trust_env=False,
        )
        say.print(f"  {answer.text}", soft_wrap=True)
        self._curl = "" if answer.status_code == httpx.codes.OK else answer.text
        handle: Any = serve.get_app_handle(self.spec.name)
        by_handle = handle.predict.remote(body["instances"]).result(timeout_s=30)
        self._handle = f"score {by_handle[0]['score']:.4f} of v{by_handle[0]['model_version']}"
        pids = record.pids if record else ()
        fewest, most = worker_limits(self.spec.training)
        self._step(
            "trained data-parallel on Ray Train",
            fewest <= len(pids) <= most,
            f"{len(pids)} workers; {record.detail if record else 'no record'}",
        )
        parity = version.metrics.get("parity", float("nan"))
        self._step(
            "exported with proven parity",
            parity <= self.spec.training.parity_max,
            f"largest difference from Keras {parity:.1e}",
        )
        self._step("the curl line works", not self._curl, self._curl or answer.text[:90])
        self._step("a Python handle works", "score" in self._handle, self._handle)

    def _replay(self, traffic: Traffic, days: Sequence[Day]) -> None:
        self._worker = _WorkerKiller(self.store, self.spec.name)
        self._worker.start()
        # the two calls of `_first` were answered and recorded like any other
        traffic.counts.requests, traffic.counts.rows = 2, 2
        fault_day = days[len(days) // 4]
        bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.completed}/{task.total} days"),
            TimeElapsedColumn(),
            console=say,
            transient=True,
        )
        with bar:
            task = bar.add_task(days[0].date, total=len(days))
            for day in days:
                bar.update(task, description=day.date)
                during = self._kill_replica if day is fault_day else None
                report = traffic.day(day, during)
                self._narrate(day.date, report)
                bar.advance(task)
        self._worker.stop()
        last = days[-1]
        closing = Day(last.start_s + 86_400.0, ())
        self._narrate(closing.date, traffic.day(closing))
        for fault in traffic.faults:
            say.print(f"  [red]{fault}[/]")

    def _kill_replica(self) -> None:
        pid = kill_replica(self.spec.name)
        self._killed_replica = f"pid {pid}"
        say.print(f"  [red]killed a replica[/] (SIGKILL, pid {pid}) under traffic")

    def _narrate(self, date: str, report: Any) -> None:
        for entry in self.catalog.entries(self._seen):
            self._seen = entry.sequence
            self.story.history.append(entry)
            if entry.action != "TakeOver":
                line = f"  {moment(entry.event_s)}  [bold]{entry.action}[/]  {entry.reason}"
                say.print(line, soft_wrap=True)
        for alarm in report.alarms:
            name = (alarm.kind, alarm.feature, report.version)
            if name not in self._alarms:
                self._alarms.add(name)
                self.story.evidence.append((date, alarm))
                if alarm.kind != "feature drift":
                    say.print(f"  {date}  {alarm.kind}: {alarm.reason}", soft_wrap=True)

    def _finish(self, applied: Applied, traffic: Traffic, wall_s: float) -> None:
        self.story.counts = traffic.counts
        self.story.history = self.catalog.entries()
        first = applied.entry.state.versions[applied.entry.state.champion or 1]
        loaded = load_version(self.store, self.spec.name, first)
        self.story.months = months_of(
            traffic.answers, static_scores(loaded, traffic.answers), loaded.schema.task
        )
        self._judge(traffic.counts, traffic.answers)
        self.story.wall_s = wall_s
        path = self.home / "report.html"
        path.write_text(page(self.story), encoding="utf-8")
        say.print()
        say.print(text(self.story), soft_wrap=True)
        say.print(f"\nfigures: {path}")

    def _judge(self, counts: Counts, answers: Sequence[Answered]) -> None:
        history = self.story.history
        led = [entry for entry in history if entry.actor.startswith("controller")]
        trained = [e for e in led if e.action == "Train"]
        self._step("retrained by itself", len(trained) > 1, f"{len(trained)} trainings")
        for action, promise in (
            ("StartShadow", "a challenger ran in shadow"),
            ("SetShare", "and in canary"),
            ("Promote", "and was promoted by control"),
        ):
            found = [entry for entry in led if entry.action == action]
            self._step(promise, bool(found), f"{len(found)} times")
        by_hand = [entry for entry in history if not entry.actor.startswith("controller")]
        self._step("nobody touched anything", not by_hand, f"{len(by_hand)} entries by hand")
        challenged = {answer.served_by for answer in answers}
        self._step(
            "the canary answered a share of live requests",
            "challenger" in challenged,
            ", ".join(sorted(challenged)),
        )
        try:
            back_s = wait_for_replicas(self.spec.name, self.spec.serving.min_replicas, 30)
            replaced = f"{self._killed_replica}; {self.spec.serving.min_replicas} run"
        except HapredictError as error:
            back_s, replaced = -1.0, str(error)
        back = back_s >= 0 and bool(self._killed_replica)
        self._step("a killed replica was replaced", back, replaced)
        self._step(
            "no request failed", counts.failed == 0, f"{counts.failed} of {counts.requests:,}"
        )
        worker = self._worker
        self._step(
            "a killed training worker did not end its training",
            worker is not None and worker.resumed(),
            worker.story if worker else "none was killed",
        )
        self._step(
            "every label was acknowledged",
            counts.labels_acknowledged == counts.labels_sent > 0,
            f"{counts.labels_acknowledged:,} of {counts.labels_sent:,}",
        )
        accounted = counts.labels_joined + counts.labels_waiting
        self._step(
            "every acknowledged label is accounted for",
            accounted == counts.labels_acknowledged,
            f"{counts.labels_joined:,} joined, {counts.labels_waiting:,} wait for a prediction",
        )

    def _step(self, promise: str, kept: bool, detail: str) -> None:
        self.story.steps.append(Step(promise, kept, detail))


class _WorkerKiller:
    """Kills one training worker of the second training, in the middle of it."""

    def __init__(self, store: Any, model: str) -> None:
        self._store = store
        self._catalog = Catalog(store, model)
        self._model = model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.run = ""
        self.story = "no worker was killed"

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def resumed(self) -> bool:
        """Whether the training whose worker died ended with a model after a restart."""
        record = runs.noted(self._store, self._model, self.run) if self.run else None
        if record is None:
            return False
        self.story += f"; {record.run} {record.state} after {record.restarts} restart(s)"
        return record.state == "finished" and record.restarts >= 1

    def _work(self) -> None:
        while not self._stop.wait(0.05):
            with suppress(HapredictError):
                entry = self._catalog.latest()
                if entry is None or not entry.state.training:
                    continue
                record = runs.noted(self._store, self._model, entry.state.training)
                if record is None or len(record.pids) < 2 or record.epoch < 2:
                    continue
                if kill(record.pids[1]):
                    self.run = record.run
                    self.story = (
                        f"worker 1 of {record.run} (pid {record.pids[1]}) got SIGKILL after "
                        f"epoch {record.epoch} of {record.epochs}"
                    )
                    say.print(f"  [red]{self.story}[/]")
                    return


def rows_of_files(paths: Sequence[Path], spec: Spec) -> list[Row]:
    """The rows of Parquet files as past traffic, with JSON values."""
    data = spec.data
    if data.time is None:
        raise NotFound("a replay needs data.time, which says when a row happened")
    rows = []
    for path in paths:
        frame = pd.read_parquet(path)
        moments = pd.to_datetime(frame[data.time], utc=True)
        event_s = moments.astype("int64").to_numpy() / (1e9 if moments.dt.unit == "ns" else 1e6)
        frame[data.time] = moments.dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        records = frame.drop(columns=[*data.exclude]).astype(object).to_dict("records")
        for record, moment_s in zip(records, event_s, strict=True):
            clean = {
                str(name): None if pd.isna(value) else getattr(value, "item", lambda v=value: v)()
                for name, value in record.items()
            }
            label = clean.pop(data.target)
            rows.append(Row(clean, label, float(moment_s)))
    return rows


def static_scores(loaded: Any, answers: Sequence[Answered]) -> list[float]:
    """What one version would have answered to every row."""
    scores: list[float] = []
    for start in range(0, len(answers), 1000):
        batch = [answer.row.fields for answer in answers[start : start + 1000]]
        table = loaded.schema.table(columns_of(batch))
        scores += np.asarray(loaded.scores(table))[:, 0].tolist()
    return scores
