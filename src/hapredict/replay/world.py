"""A past lived again under one policy: real replica, monitor, catalog and control, simulated time.

    for each step:  rows are asked  ->  answered by whom the catalog says, compared, counted
                    labels that have become known  ->  joined
                    control looks and acts until it holds; a training ends at the moment it begins
                    whoever is on call resumes what has been frozen or paused for some days

There is no cluster, no clock and no thread: what decides here is `control.loop.step` over a store
in memory, and what scores is a `Replica`. Trainings take no simulated time, which is minutes
against days.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hapredict.control.actions import Hold, RunStatus, Snapshot
from hapredict.control.loop import step
from hapredict.control.publishing import Aside, Published, judge_and_publish
from hapredict.data.schema import Schema, take
from hapredict.errors import GateRefused, HapredictError
from hapredict.monitoring.monitor import Monitor
from hapredict.monitoring.report import Alarm, MonitorReport
from hapredict.registry import catalog
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog, CatalogState, Entry, Version
from hapredict.registry.store import open_store
from hapredict.replay.past import Past, Times
from hapredict.replay.policies import Policy
from hapredict.sections import DAY_S
from hapredict.serving.engine import load_version
from hapredict.serving.journal import Label
from hapredict.serving.replica import Replica
from hapredict.serving.scoring import Answer, part_of
from hapredict.spec import Spec
from hapredict.training.alone import Learned
from hapredict.training.metrics import Verdict, no_harm

TERM = 1
SOURCE = "replay"
_ACTIONS_MAX = 20
"""In one step: a training may end, fail and begin again, but not for ever."""

_worlds = count()


class Learner(Protocol):
    """What trains."""

    def learn(self, rows: NDArray[np.int64]) -> Learned:
        """A model of these rows of the past. Raises HapredictError if none comes of it."""


@dataclass(slots=True)
class Lived:
    """What came of a policy."""

    policy: Policy
    entries: list[Entry] = field(default_factory=list)
    alarms: list[tuple[int, Alarm]] = field(default_factory=list)
    """The champion that each was about, and the alarm as it first appeared."""
    baselines: dict[int, float] = field(default_factory=dict)
    """The loss that each version was expected to have."""
    rows: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Rows of the past that were answered and have a label."""
    scores: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 1)))
    """[rows, outputs]: what was answered, over the classes of the past's schema."""
    versions: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[rows]: who answered."""

    def count(self, action: str) -> int:
        """Entries of the catalog with that action."""
        return sum(entry.action == action for entry in self.entries)


class World:
    """One policy's life. Also the `Cluster` that `control.loop` acts on."""

    def __init__(
        self, past: Past, times: Times, spec: Spec, policy: Policy, learner: Learner, folder: Path
    ) -> None:
        """`folder` is for what a replica keeps on disk, which stays empty."""
        monitoring = spec.monitoring.model_copy(update={"clock": "event"})
        self._spec = spec.model_copy(update={"monitoring": monitoring, "control": policy.rules})
        self._past, self._times, self._policy, self._learner = past, times, policy, learner
        self._now_s = times.start_s
        self._store = open_store(f"memory://replay-{next(_worlds)}")
        self._catalog = Catalog(self._store, spec.name)
        self._monitor = Monitor(spec.name)
        self._replica = Replica(
            self._store, spec.name, SOURCE, folder, self._clock, spec=self._spec
        )
        self._runs: dict[str, RunStatus] = {}
        self._stopped_s: float | None = None
        self._sent = 0
        self._waiting: list[tuple[float, str, int]] = []
        self._label_parts = 0
        self._lived = Lived(policy)
        self._answered: list[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]] = []
        self._alarms: dict[tuple[Any, ...], tuple[int, Alarm]] = {}

    def live(self, on_step: Callable[[str], None] = lambda _: None) -> Lived:
        """Live from start to end. `on_step` hears of each step what control does.

        Raises GateRefused if there is no first model to begin with.
        """
        self._control()
        state = self._state()
        if state.champion is None:
            ended = [e.reason for e in self._catalog.entries() if e.action == "RejectRun"]
            why = ended[-1] if ended else "no training ended"
            raise GateRefused(f"there is no first model: {why}; begin later, or give more rows")
        for begin_s, end_s in self._times:
            self._now_s = begin_s
            self._serve(begin_s, end_s)
            self._now_s = end_s
            self._tell_labels()
            on_step(self._control())
        return self._finished()

    def observe(self) -> tuple[Entry | None, Snapshot]:
        """The latest entry, and a snapshot around its state."""
        entry = self._catalog.latest()
        state = entry.state if entry is not None else CatalogState(self._spec.name)
        refused = self._replica.detail()["refused"]
        return entry, Snapshot(
            now_s=self._now_s,
            catalog=state,
            rules=self._policy.rules,
            report=self._report(),
            run=self._runs.get(state.training),
            refused={int(number): why for number, why in refused.items()},
        )

    def append(
        self,
        previous: Entry | None,
        state: CatalogState,
        *,
        action: str,
        reason: str,
        event_s: float,
    ) -> Entry:
        """Write the entry, and let replica and monitor follow."""
        entry = self._catalog.append(
            previous,
            state,
            action=action,
            reason=reason,
            at_s=self._now_s,
            event_s=event_s,
            actor="replay",
        )
        if not state.frozen and not state.paused:
            self._stopped_s = None
        elif self._stopped_s is None:
            self._stopped_s = self._now_s
        if state.champion is not None:
            self._replica.refresh()
            self._monitor.on_catalog(
                state, lambda n: load(self._store, self._spec.name, state.versions[n].digest)
            )
        return entry

    def start_training(self, run: str, trigger: str) -> None:
        """Train, judge and publish at once."""
        try:
            self._runs[run] = self._train(run, trigger)
        except HapredictError as error:
            self._runs[run] = RunStatus(run, "failed", str(error))

    def _clock(self) -> float:
        return self._now_s

    def _state(self) -> CatalogState:
        entry = self._catalog.latest()
        return entry.state if entry is not None else CatalogState(self._spec.name)

    def _report(self) -> MonitorReport:
        return self._monitor.report()

    def _control(self) -> str:
        self._act_as_a_person()
        for _ in range(_ACTIONS_MAX):
            action = step(self, TERM, self._policy.decide)
            if isinstance(action, Hold):
                break
        self._note_alarms()
        return action.reason

    def _act_as_a_person(self) -> None:
        entry, stopped_s = self._catalog.latest(), self._stopped_s
        if entry is None or stopped_s is None:
            return
        if self._now_s - stopped_s >= self._times.resume_s:
            self.append(
                entry,
                catalog.resume(entry.state),
                action="Resume",
                reason="somebody has looked at it",
                event_s=self._now_s,
            )

    def _serve(self, begin_s: float, end_s: float) -> None:
        rows = self._past.between(begin_s, end_s)
        places = np.arange(rows.start, rows.stop)
        if not len(places):
            return
        answer = self._replica.predict(take(self._past.table, places))
        self._sent += 1
        part = part_of([answer], SOURCE, lambda _: None)
        self._monitor.fold_predictions(replace(part, seq=self._sent))
        known = ~np.isnan(self._past.labels[places])
        self._answered.append(
            (places[known], _over(answer, self._past.schema)[known], answer.versions[known])
        )
        due_s = self._past.event_s[places] + self._times.delay_s
        ids = [answer.ids[place] for place in np.flatnonzero(known)]
        self._waiting += zip(due_s[known].tolist(), ids, places[known].tolist(), strict=True)

    def _tell_labels(self) -> None:
        ready = [one for one in self._waiting if one[0] <= self._now_s]
        if not ready:
            return
        self._waiting = [one for one in self._waiting if one[0] > self._now_s]
        labels = [Label(name, self._past.value(row), due, due) for due, name, row in ready]
        self._label_parts += 1
        self._monitor.fold_labels(SOURCE, self._label_parts, labels)

    def _train(self, run: str, trigger: str) -> RunStatus:
        state = self._state()
        number = state.champion
        champion, metrics = None, None
        if number is not None:
            champion = load_version(self._store, self._spec.name, state.versions[number])
            metrics = state.versions[number].metrics
        learned = self._learner.learn(self._past.known(self._now_s, self._times.delay_s))
        judged = judge_and_publish(
            self._store,
            self._spec.name,
            self._spec,
            learned.prepared,
            learned.exported,
            champion,
            lambda verdict: {"run": run, "trigger": trigger, "verdict": verdict.reason},
            Aside(self._times.delay_s / DAY_S, metrics),
        )
        version = Version(
            number=0,
            digest=judged.digest,
            run=run,
            published_s=self._now_s,
            trained_until_s=learned.prepared.last,
            metrics=judged.metrics,
        )
        verdict = self._verdict(learned, judged)
        return RunStatus(run, "finished", version=version, verdict=verdict)

    def _verdict(self, learned: Learned, judged: Published) -> Verdict:
        champion = judged.champion_scores
        if self._policy.gate == "no harm" or champion is None:
            return judged.verdict
        if self._policy.gate == "none":
            return Verdict("pass", "nothing is asked of it")
        held, task = learned.prepared.held, self._past.schema.task
        # turned round: the champion does harm beside it
        found = no_harm(task, held.labels, judged.scores, champion)
        if found.failed:
            return Verdict("pass", "significantly better than the champion on the hold-out")
        return Verdict("fail", "not significantly better than the champion on the hold-out")

    def _note_alarms(self) -> None:
        report = self._report()
        for alarm in report.alarms:
            name = (alarm.kind, alarm.feature, alarm.at_s, report.version)
            self._alarms.setdefault(name, (report.version or 0, alarm))

    def _finished(self) -> Lived:
        lived = self._lived
        lived.entries = self._catalog.entries()
        if self._answered:
            rows, scores, versions = zip(*self._answered, strict=True)
            lived.rows, lived.versions = np.concatenate(rows), np.concatenate(versions)
            lived.scores = np.concatenate(scores)
        lived.alarms = list(self._alarms.values())
        lived.baselines = {
            number: load(self._store, self._spec.name, version.digest).reference.loss_mean
            for number, version in self._state().versions.items()
        }
        for folder in ("bundles", "catalog"):  # what is in memory would stay there
            for path in self._store.list(folder):
                self._store.delete(path)
        return lived


def _over(answer: Answer, schema: Schema) -> NDArray[np.float64]:
    """The scores of an answer [rows, outputs] over the classes of the past's schema."""
    scores = answer.scores.astype(np.float64)
    if schema.task != "multiclass" or answer.schema.classes == schema.classes:
        return scores
    wide = np.zeros((len(scores), schema.outputs))
    places = [schema.classes.index(name) for name in answer.schema.classes]
    wide[:, places] = scores
    return wide
