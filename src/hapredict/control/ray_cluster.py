"""The edge of control: looks at the live cluster, and writes down and does what was decided.

The controller is a detached actor that Ray starts again when its process dies; it takes a new term
of the lease then and goes on from the catalog. It keeps nothing else.
"""

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from hapredict.control import runs
from hapredict.control.actions import Action, Hold, RunStatus, Snapshot
from hapredict.control.loop import run as run_loop
from hapredict.control.loop import step
from hapredict.control.ray_alerts import Teller
from hapredict.control.ray_embedded import NAMESPACE
from hapredict.control.ray_housekeeping import Housekeeper
from hapredict.control.ray_learner import learner
from hapredict.control.ray_spread import keep_apart
from hapredict.control.specs import latest_spec, read_spec
from hapredict.errors import (
    ClusterUnavailable,
    Conflict,
    LeaseLost,
    NotFound,
    TemporaryError,
    TimedOut,
)
from hapredict.monitoring.ray_monitor import start_monitor
from hapredict.monitoring.report import MonitorReport
from hapredict.registry.catalog import Catalog, CatalogState, Entry
from hapredict.registry.lease import Lease
from hapredict.registry.store import Store, decode_json, open_store
from hapredict.serving.health import VersionHealth, read_health
from hapredict.serving.replica import refused_path
from hapredict.spec import Spec

ANSWER_S = 10.0
"""How long an actor may take to answer before it counts as not there."""

log = logging.getLogger(__name__)


class RayCluster:
    """`control.loop.Cluster` on a live Ray cluster."""

    def __init__(
        self,
        store: Store,
        model: str,
        home: Path,
        actor: str,
        *,
        find_monitor: Callable[[], Any] | None = None,
        find_learner: Callable[[], Any] | None = None,
    ) -> None:
        """`find_monitor` and `find_learner` bring handles; without them, to the model's own."""
        self.model = model
        self._find_monitor = find_monitor or (lambda: start_monitor(model, store.url))
        self._find_learner = find_learner or (lambda: learner(model, store.url, home))
        self._store = store
        self._actor = actor
        self._catalog = Catalog(store, model)
        self._spec: tuple[int, Spec] | None = None
        self._report: MonitorReport | None = None
        self._monitor: Any = None
        self._learner: Any = None

    def spec(self) -> Spec:
        """What was applied last. Raises NotFound, StoreUnavailable."""
        number = latest_spec(self._store, self.model)
        if self._spec is None or self._spec[0] != number:
            self._spec = (number, read_spec(self._store, self.model, number))
        return self._spec[1]

    @property
    def known_spec(self) -> Spec | None:
        """What was applied when that was last looked at; does not wait for the store."""
        return self._spec[1] if self._spec is not None else None

    @property
    def seen(self) -> MonitorReport | None:
        """What the monitor reported when the cluster was last looked at."""
        return self._report

    def latest(self) -> Entry | None:
        """The catalog's latest entry. Raises StoreUnavailable."""
        return self._catalog.latest()

    def observe(self) -> tuple[Entry | None, Snapshot]:
        """The latest entry and all that a decision depends on."""
        spec = self.spec()
        entry = self._catalog.latest()
        state = entry.state if entry is not None else CatalogState(self.model)
        self._report = self.report()
        on_events = spec.monitoring.clock == "event"
        return entry, Snapshot(
            now_s=self._report.watermark_s if on_events else time.time(),
            catalog=state,
            rules=spec.control,
            report=self._report,
            run=self._run(state.training) if state.training else None,
            refused=self._refused(state),
            health=self._health(state),
            retrain_requested=self._wish(),
        )

    def report(self, *, wake: bool = False) -> MonitorReport:
        """What the monitor knows now; `wake` makes it look at the journal at once.

        Raises ClusterUnavailable.
        """
        # a handle outlives restarts of its actor; making one anew sends the class to Ray each time
        monitor = self._monitor or self._find_monitor()
        self._monitor = None
        if wake:
            answer(monitor.folded.remote({}), "the monitor")
        report = MonitorReport.from_json(answer(monitor.report.remote(), "the monitor"))
        self._monitor = monitor
        return report

    def append(
        self,
        previous: Entry | None,
        state: CatalogState,
        *,
        action: str,
        reason: str,
        event_s: float,
    ) -> Entry:
        """Make `state` the entry after `previous`. Raises Conflict, LeaseLost."""
        return self._catalog.append(
            previous,
            state,
            action=action,
            reason=reason,
            at_s=time.time(),
            event_s=event_s,
            actor=self._actor,
        )

    def start_training(self, run: str, trigger: str) -> None:
        """Ask for a run and start it; one that is in progress is left alone."""
        spec = latest_spec(self._store, self.model)
        entry = self._catalog.latest()
        report = self._report
        runs.ask(
            self._store,
            runs.Request(
                model=self.model,
                run=run,
                trigger=trigger,
                spec=spec,
                champion=entry.state.champion if entry is not None else None,
                positions=report.positions if report is not None else {},
                event_s=report.watermark_s if report is not None else None,
                label_delay_days=report.label_delay_p95_days if report is not None else None,
            ),
        )
        self._store.delete(runs.retrain_path(self.model))
        self._ask_learner(lambda learner: learner.start.remote(run))

    def _run(self, run: str) -> RunStatus | None:
        record = runs.noted(self._store, self.model, run)
        if record is not None and record.state != "running":
            return record.status()
        if self._ask_learner(lambda learner: learner.current.remote()) != run:
            # it may have ended between the two looks
            record = runs.noted(self._store, self.model, run)
            ended = record is not None and record.state != "running"
            return record.status() if record is not None and ended else None
        return record.status() if record is not None else RunStatus(run, "running", "starting")

    def _refused(self, state: CatalogState) -> Mapping[int, str]:
        refused = {}
        for number in (state.champion, state.challenger, state.previous):
            if number is None or number in state.refused:
                continue
            path = refused_path(self.model, number)
            with contextlib.suppress(NotFound):
                refused[number] = str(decode_json(self._store.get(path), path)["reason"])
        return refused

    def _health(self, state: CatalogState) -> Mapping[int, VersionHealth]:
        watched = state.champion if state.stage == "watch" else None
        trial = state.challenger if state.challenger is not None else watched
        return read_health(self._store, self.model, trial) if trial is not None else {}

    def _wish(self) -> str:
        path = runs.retrain_path(self.model)
        with contextlib.suppress(NotFound):
            return str(decode_json(self._store.get(path), path)["reason"])
        return ""

    def _ask_learner(self, ask: Callable[[Any], Any]) -> Any:
        # as with the monitor: to find a place for it and send its class is not for every look
        actor = self._learner or self._find_learner()
        self._learner = None
        said = answer(ask(actor), "the learner")
        self._learner = actor
        return said


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3, max_concurrency=4)
class Controller:
    """Decides for one model, for as long as its lease holds."""

    def __init__(self, model: str, store_url: str, home: str) -> None:
        # a restarted controller must not pass for its former self
        self._owner = f"controller-{secrets.token_hex(4)}"
        self._model = model
        self._store = open_store(store_url)
        self._cluster = RayCluster(self._store, model, Path(home), self._owner)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._term = 0
        self._lease: Lease | None = None
        self._last: Action = Hold(reason="starting")
        threading.Thread(target=self._work, daemon=True, name="control").start()
        keep_apart(model, lambda: self._cluster.spec().serving.num_cpus, lambda: self._term > 0)
        self._teller = Teller(
            self._store,
            model,
            lambda: self._cluster.spec().alerts,
            lambda: self._cluster.seen,
            lambda: self._term > 0,
        )
        self._teller.start()
        self._housekeeper = Housekeeper(
            self._store, model, self._cluster.spec, lambda: self._term > 0
        )
        self._housekeeper.start()

    def status(self) -> dict[str, Any]:
        """Who controls, under which term, and what was done last and why."""
        return {
            "owner": self._owner,
            "pid": os.getpid(),
            "term": self._term,
            "action": type(self._last).__name__,
            "reason": self._last.reason,
            "alerts": self._teller.status(),
            "housekeeping": self._housekeeper.trouble or "well",
        }

    def settle(self, rows: int, labels: int, quiet_s: float, wait_s: float) -> dict[str, Any]:
        """Wait until the monitor knows `rows` rows and `labels` labels and nothing is left to do.

        For replays: event time must not run ahead of the decisions that it leads to. Gives up on
        rows and labels that do not appear within `quiet_s` of the last that did, and returns the
        report as JSON. Raises TimedOut after `wait_s` in all.
        """
        deadline_s = time.monotonic() + wait_s
        moved_s, before = time.monotonic(), (-1, -1)
        while True:
            report = self._cluster.report(wake=True)
            known = (report.rows, _labels(report))
            if known[0] >= rows and known[1] >= labels:
                break
            if known != before:
                moved_s, before = time.monotonic(), known
            if time.monotonic() - moved_s > quiet_s:
                break
            time.sleep(0.01)
        while True:
            action = self._step()
            with self._lock:
                _, seen = self._cluster.observe()
            if isinstance(action, Hold) and not seen.catalog.training:
                return report.to_json()
            if time.monotonic() > deadline_s:
                raise TimedOut(f"control of {self._model!r} did not settle: {action.reason}")
            if isinstance(action, Hold):
                time.sleep(0.05)

    def _step(self) -> Action:
        with self._lock:
            if not self._term:
                return Hold(reason="waiting for the lease")
            try:
                self._tell(step(self._cluster, self._term))
            except Conflict as error:
                self._tell(Hold(reason=f"another writer was faster: {error}"))
            return self._last

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._govern()
            except Exception:  # nothing that goes wrong may end control for good
                log.exception("control of %s goes on after an unforeseen failure", self._model)
                time.sleep(1)

    def _govern(self) -> None:
        try:
            rules = self._cluster.spec().control
            # one object for good: it remembers when it saw another owner's last beat
            lease = self._lease or Lease(self._store, self._model, self._owner, rules.lease_s)
            self._lease = lease
            term = lease.take(time.time()).number
        except (TemporaryError, NotFound) as error:
            self._tell(Hold(reason=str(error)))
            time.sleep(0.5)
            return
        self._term = term
        try:
            run_loop(
                _Locked(self._cluster, self._lock),
                term=term,
                beat=lambda: lease.beat(time.time()),
                stop=self._stop.is_set,
                sleep=time.sleep,
                tell=self._tell,
                tick_s=rules.tick_s,
                wait_s_max=rules.lease_s / 2,
            )
        except LeaseLost as error:
            self._term = 0
            self._tell(Hold(reason=str(error)))
            time.sleep(1)

    def _tell(self, action: Action) -> None:
        self._last = action


class _Locked:
    """The cluster, looked at and changed by one thread at a time.

    A step begins with `observe` and ends with its last write; `settle` steps beside the loop.
    """

    def __init__(self, cluster: RayCluster, lock: threading.Lock) -> None:
        self._cluster = cluster
        self._lock = lock

    def observe(self) -> tuple[Entry | None, Snapshot]:
        with self._lock:
            return self._cluster.observe()

    def append(self, previous: Entry | None, state: CatalogState, **why: Any) -> Entry:
        with self._lock:
            return self._cluster.append(previous, state, **why)

    def start_training(self, run: str, trigger: str) -> None:
        with self._lock:
            self._cluster.start_training(run, trigger)


def _labels(report: MonitorReport) -> int:
    """Labels whose fate the monitor knows."""
    return (
        report.labels_joined
        + report.labels_repeated
        + report.labels_late
        + report.labels_unmatched
        + report.labels_pending
    )


def answer(reference: Any, who: str) -> Any:
    """What an actor answers. Raises ClusterUnavailable if it is not there, or too slow."""
    try:
        return ray.get(reference, timeout=ANSWER_S)
    except GetTimeoutError as error:
        raise ClusterUnavailable(f"{who} did not answer within {ANSWER_S:g} s") from error
    except RayActorError as error:
        raise ClusterUnavailable(f"{who} is not there: {error}".splitlines()[0]) from error


def controller(model: str, store_url: str, home: Path) -> Any:
    """The controller of a model, started if it does not run."""
    return Controller.options(  # type: ignore[attr-defined]
        name=f"hapredict:{model}:controller",
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
    ).remote(model, store_url, str(home))


def stop_model_actors(model: str) -> None:
    """End the model's own controller and learner for good; no error where none runs.

    A training in progress ends with them; whoever leads the model next starts it again.
    """
    for part in ("controller", "learner"):
        try:
            actor = ray.get_actor(f"hapredict:{model}:{part}", namespace=NAMESPACE)
        except ValueError:
            continue
        ray.kill(actor, no_restart=True)
