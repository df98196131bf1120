"""A world for the control loop: traffic, labels, trainings and a store that fails, all simulated.

The catalog is the real one over a store in memory. Time passes by `World.advance`, and jumps by
`World.jump`.
"""

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from hapredict.control.actions import RunStatus, Snapshot
from hapredict.errors import StoreUnavailable
from hapredict.monitoring.report import Alarm, MonitorReport, Paired
from hapredict.registry.catalog import Catalog, CatalogState, Entry, Version
from hapredict.registry.store import Store, open_store
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from hapredict.training.metrics import Verdict
from tests.support.control import PASSED, START_S

MODEL = "flights"
TICK_S = DAY_S / 8
LABELS_A_TICK = 40
TRAINING_S = DAY_S / 2
NOISE = 0.3
"""Standard deviation of the difference of two losses on one row."""
BETS = (0.1, 0.3)


class FlakyStore(Store):
    """A store in memory that may be down; a write that meets an outage may happen all the same."""

    def __init__(self, name: str, chance: random.Random) -> None:
        super().__init__(f"memory://{name}")
        self._store = open_store(self.url)
        self._chance = chance
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailable("the simulated store is down")

    def put_new(self, path: str, data: bytes) -> None:
        self._check()
        self._store.put_new(path, data)
        if self._chance.random() < 0.1:
            raise StoreUnavailable("the simulated store lost its answer")

    def put(self, path: str, data: bytes) -> None:
        self._check()
        self._store.put(path, data)

    def get(self, path: str) -> bytes:
        self._check()
        return self._store.get(path)

    def exists(self, path: str) -> bool:
        self._check()
        return self._store.exists(path)

    def delete(self, path: str) -> None:
        self._check()
        self._store.delete(path)

    def children(self, prefix: str) -> list[str]:
        self._check()
        return self._store.children(prefix)

    def list(self, prefix: str, after: str | None = None) -> list[str]:
        self._check()
        return self._store.list(prefix, after)


@dataclass(slots=True)
class Running:
    """A training that somebody runs."""

    runner: str
    ends_s: float


class World:
    """What happens outside of control.

    `plan` says how trainings end, in the order in which they begin: `good`, `worse` (its gate did
    not see it), `turns bad` (two days after its promotion), `refused` by its gate, `crash`, and
    `good` for all that follow. At each of `changes`, in days, the world moves on, and versions
    trained before lose.
    """

    def __init__(
        self, name: str, seed: int, plan: tuple[str, ...] = (), changes: tuple[float, ...] = ()
    ) -> None:
        self.chance = random.Random(seed)
        self.store = FlakyStore(name, self.chance)
        self.now_s = START_S
        self.rules = ControlSpec()
        self.requested = ""
        self.refused: dict[int, str] = {}
        self.running: dict[str, Running] = {}
        self.ended: dict[str, RunStatus] = {}
        self.outcomes: dict[str, str] = {}
        self.starts: Counter[str] = Counter()
        self.loss_sum = 0.0
        self.answers = 0
        self._plan = list(plan)
        self._changes_s = [START_S + days * DAY_S for days in changes]
        self._labels = 0
        self._sums: dict[tuple[int, int], tuple[int, float]] = {}
        self._judged: int | None = None
        self._worse_since_s: float | None = None
        self._reader = Catalog(open_store(self.store.url), MODEL)

    def state(self) -> CatalogState:
        """What replicas see: the latest catalog state, outage or not."""
        entry = self._reader.latest()
        return entry.state if entry else CatalogState(MODEL)

    def history(self) -> list[Entry]:
        return self._reader.entries()

    def loss(self, version: Version) -> float:
        """The true mean loss of a version now."""
        outcome = self.outcomes[version.run]
        if outcome == "worse":
            return 0.30
        if outcome == "turns bad":
            state = self.state()
            serves = state.champion == version.number
            if serves and self.now_s - state.stage_since_s >= 2 * DAY_S:
                return 0.30
        behind = sum(version.trained_until_s < change <= self.now_s for change in self._changes_s)
        return 0.12 + 0.06 * behind

    def advance(self) -> None:
        """One tick of traffic, labels and trainings."""
        self.now_s += TICK_S
        for run, running in list(self.running.items()):
            if self.now_s >= running.ends_s:
                del self.running[run]
                self.ended[run] = self._end(run)
        state = self.state()
        if state.champion is None:
            return
        self._labels += LABELS_A_TICK
        self._compare(state)
        loss = self.loss(state.versions[state.champion])
        self.loss_sum += loss
        self.answers += 1
        if loss <= 0.13:
            self._worse_since_s = None
        elif self._worse_since_s is None:
            self._worse_since_s = self.now_s

    def jump(self, days: float) -> None:
        """The clock is set: what is under way takes as long as it would have taken."""
        moved_s = days * DAY_S
        self.now_s += moved_s
        for running in self.running.values():
            running.ends_s += moved_s

    def start(self, run: str, runner: str) -> None:
        """Start a run, unless somebody runs it; how it ends does not depend on who does."""
        if run in self.running or run in self.ended:
            return
        self.starts[run] += 1
        if run not in self.outcomes:
            self.outcomes[run] = self._plan.pop(0) if self._plan else "good"
        self.running[run] = Running(runner, self.now_s + TRAINING_S)

    def kill(self, runner: str) -> None:
        """What a runner ran dies with it."""
        self.running = {run: at for run, at in self.running.items() if at.runner != runner}

    def status(self, run: str) -> RunStatus | None:
        return RunStatus(run, "running") if run in self.running else self.ended.get(run)

    def report(self) -> MonitorReport:
        return MonitorReport(
            MODEL,
            watermark_s=self.now_s,
            labels_joined=self._labels,
            version=self._judged,
            alarms=tuple(self._alarms()),
            paired=tuple(self._paired(low, high) for low, high in self._sums),
        )

    def _end(self, run: str) -> RunStatus:
        match self.outcomes[run]:
            case "crash":
                return RunStatus(run, "failed", "the loss is not finite")
            case "refused":
                verdict = Verdict("fail", "significantly worse in the hold-out")
            case _:
                verdict = PASSED
        made = Version(0, f"digest of {run}", run, 0.0, self.now_s - TRAINING_S)
        return RunStatus(run, "finished", version=made, verdict=verdict)

    def _alarms(self) -> list[Alarm]:
        since_s, alarms = self._worse_since_s, []
        if since_s is not None and self.now_s - since_s > DAY_S:
            why = "the live loss is over its baseline"
            alarms.append(Alarm("concept drift", "", self.now_s, since_s, 0.06, 9.0, why))
        if (self.now_s - START_S) // DAY_S % 50 > 45:  # harmless
            alarms.append(
                Alarm("feature drift", "month", self.now_s, self.now_s, 0.1, 9.0, "moved")
            )
        return alarms

    def _compare(self, state: CatalogState) -> None:
        if state.champion != self._judged:  # as the monitor does
            self._judged, self._sums = state.champion, {}
        beside = {"shadow": state.challenger, "canary": state.challenger, "watch": state.previous}
        other = beside.get(state.stage)
        if other is None or state.champion is None:
            return
        low, high = sorted((state.champion, other))
        gain = self.loss(state.versions[low]) - self.loss(state.versions[high])
        noise = self.chance.gauss(0.0, NOISE * math.sqrt(LABELS_A_TICK))
        labels, total = self._sums.get((low, high), (0, 0.0))
        self._sums[low, high] = (labels + LABELS_A_TICK, total + gain * LABELS_A_TICK + noise)

    def _paired(self, low: int, high: int) -> Paired:
        labels, total = self._sums[low, high]

        def log_evidence(gain: float) -> float:
            logs = [bet * gain - bet**2 * NOISE**2 * labels / 2 for bet in BETS]
            return max(logs) + math.log(sum(math.exp(x - max(logs)) for x in logs) / len(logs))

        loss = 0.12
        return Paired(
            low,
            high,
            labels,
            log_evidence(total),
            log_evidence(-total),
            loss,
            loss - total / labels,
        )


class Controller:
    """One controller's view of the world; `Cluster` of `hapredict.control.loop`."""

    def __init__(self, world: World, name: str, term: int) -> None:
        self.name, self.term = name, term
        self.world = world
        self.catalog = Catalog(world.store, MODEL)
        self.stale: tuple[Entry | None, Snapshot] | None = None
        """What a controller that was suspended still believes, once."""
        self.before_append: Callable[[], None] = lambda: None

    def observe(self) -> tuple[Entry | None, Snapshot]:
        if self.stale is not None:
            found, self.stale = self.stale, None
            return found
        entry = self.catalog.latest()
        state = entry.state if entry else CatalogState(MODEL)
        world = self.world
        seen = Snapshot(
            now_s=world.now_s,
            catalog=state,
            rules=world.rules,
            report=world.report(),
            run=world.status(state.training) if state.training else None,
            refused=world.refused,
            retrain_requested=world.requested,
        )
        return entry, seen

    def append(
        self,
        previous: Entry | None,
        state: CatalogState,
        *,
        action: str,
        reason: str,
        event_s: float,
    ) -> Entry:
        self.before_append()
        return self.catalog.append(
            previous,
            state,
            action=action,
            reason=reason,
            at_s=self.world.now_s,
            event_s=event_s,
            actor=self.name,
        )

    def start_training(self, run: str, trigger: str) -> None:
        self.world.requested = ""
        self.world.start(run, self.name)


def write(world: World, change: Callable[[CatalogState], CatalogState], action: str) -> None:
    """Change the catalog as a person does with the command line."""
    catalog = Catalog(open_store(world.store.url), MODEL)
    entry = catalog.latest()
    state = change(entry.state if entry else CatalogState(MODEL))
    catalog.append(
        entry,
        state,
        action=action,
        reason="somebody wanted it",
        at_s=world.now_s,
        event_s=world.now_s,
        actor="a person",
    )
