"""What control looks at and what it may do, as values.

    observe -> Snapshot -> decide -> Action -> apply -> the next CatalogState -> append

A snapshot holds all that a decision depends on, the time included: pasted into a test, an
incident's snapshot is its replay. Each action carries the sentence that logs, `hapredict status`
and `hapredict history` show.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Literal

from hapredict.monitoring.report import Alarm, MonitorReport
from hapredict.registry import catalog
from hapredict.registry.catalog import CatalogState, Version
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from hapredict.serving.health import VersionHealth
from hapredict.training.metrics import Verdict


@dataclass(frozen=True, slots=True)
class RunStatus:
    """What is known about one training."""

    run: str
    state: Literal["running", "finished", "failed"]
    """`running` means that somebody runs it now; a run whose runner died is no status at all."""
    reason: str = ""
    """Why it failed, or what it is doing."""
    version: Version | None = None
    """The model of a finished run. Its number is 0 until the catalog gives it one."""
    verdict: Verdict | None = None
    """What the offline gates said about it. Without a verdict a model is not used."""
    retry: bool = False
    """The failure was not the training's own (a lost node, a store that did not answer): the same
    run may be started again."""
    cancelled: bool = False
    """Somebody wanted it to end."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a decision depends on."""

    now_s: float | None
    """The model's clock (`monitoring.clock`) in seconds since the epoch; None while an event clock
    has seen no event."""
    catalog: CatalogState
    rules: ControlSpec
    report: MonitorReport | None = None
    run: RunStatus | None = None
    """The run that the catalog names in `training`, if anything is known about it."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Versions that replicas refused to serve, and why."""
    health: Mapping[int, VersionHealth] = field(default_factory=dict)
    """What replicas count about versions while two of them are compared."""
    retrain_requested: str = ""
    """The reason somebody gave with `hapredict retrain`; "" while nobody asks."""
    sequence: int = 0
    """The number of the catalog entry that holds `catalog`; 0 before the first."""

    @property
    def time_s(self) -> float:
        """`now_s`, or without it the latest moment that the catalog or the run knows of."""
        if self.now_s is not None:
            return self.now_s
        state = self.catalog
        versions = list(state.versions.values())
        if self.run is not None and self.run.version is not None:
            versions.append(self.run.version)
        moments = [state.stage_since_s, state.last_training_s or 0.0]
        moments += [max(version.published_s, version.trained_until_s) for version in versions]
        return max(moments)

    @property
    def labels(self) -> int:
        """Labels joined to their predictions so far; 0 without a report."""
        return self.report.labels_joined if self.report else 0

    @property
    def next_run(self) -> str:
        """The name of a run that starts now: that of the catalog entry which will start it.

        Only one writer can append that entry, so no two runs share a name.
        """
        return f"run-{self.sequence + 1:08d}"

    def refusal(self, version: int | None) -> str | None:
        """Why a version must not serve, by its replicas or by the catalog; None if it may."""
        if version is None:
            return None
        if version in self.refused:
            return self.refused[version] or "no reason was given"
        return self.catalog.refused.get(version)

    @property
    def alarms(self) -> tuple[Alarm, ...]:
        """Alarms about the champion; those of a report about an earlier one say nothing."""
        if self.report is None or self.report.version != self.catalog.champion:
            return ()
        return self.report.alarms

    @property
    def frozen_by_calendar(self) -> str:
        """The window of `control.freeze` that holds now; "" if none does."""
        held = [str(window) for window in self.rules.freeze if window.holds_at(self.time_s)]
        return held[0] if held else ""

    def days_since(self, moment_s: float) -> float:
        """Days from `moment_s` to now."""
        return (self.time_s - moment_s) / DAY_S


@dataclass(frozen=True, slots=True, kw_only=True)
class _Action:
    reason: str
    """The sentence that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold(_Action):
    """Do nothing; the reason says what is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeOver(_Action):
    """Write a new owner's term into the catalog, which shuts out whoever held an older one."""

    term: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(_Action):
    """Begin a training under a new name."""

    run: str
    trigger: str
    """In a few words what began it: "first model", "manual", "concept drift", "age"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureTraining(_Action):
    """Start a run that the catalog names and nobody runs; under the same name it resumes."""

    run: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectRun(_Action):
    """End a run without using its model, if it has one."""

    failed: bool
    """Whether it counts as one of `control.trainings_failed_max`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Install(_Action):
    """Publish the first version, which becomes champion at once."""

    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class StartShadow(_Action):
    """Publish a version as challenger; it scores along and answers nobody."""

    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class SetShare(_Action):
    """Let the challenger answer this share of keys."""

    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Promote(_Action):
    """Make the challenger champion; the old champion runs along while it is watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort(_Action):
    """Drop the challenger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RollBack(_Action):
    """Make an earlier version champion again."""

    to: int
    freeze: str
    """Why no training starts by itself from now on; `hapredict resume` lifts it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle(_Action):
    """End the watch over a promoted champion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginIncident(_Action):
    """Note that the newest data are broken: until it ends nothing is trained and nothing promoted.

    `hapredict resume` ends it, or the end of its alarms.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class EndIncident(_Action):
    """Note that the newest data are whole again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause(_Action):
    """Stop deciding until somebody resumes."""


Action = (
    Hold
    | TakeOver
    | Train
    | EnsureTraining
    | RejectRun
    | Install
    | StartShadow
    | SetShare
    | Promote
    | Abort
    | RollBack
    | Settle
    | BeginIncident
    | EndIncident
    | Pause
)


def apply(action: Action, seen: Snapshot) -> CatalogState:
    """The catalog state that follows from an action; the same one where nothing is to be written.

    Raises GateRefused (LeaseLost for a term that is over) for an action that does not fit the
    state; `decide` returns none.
    """
    state, now_s = seen.catalog, seen.time_s
    match action:
        case Hold() | EnsureTraining():
            return state
        case TakeOver(term=term):
            return catalog.fence(state, term)
        case Train(run=run, trigger=trigger):
            return catalog.start_training(state, run, now_s, seen.labels, trigger)
        case RejectRun(failed=failed):
            return catalog.end_training(state, failed=failed)
        case Install(version=version):
            published = catalog.publish(catalog.end_training(state, failed=False), version)
            # an event clock had seen no event when the first training began
            began_s = max(state.last_training_s or 0.0, version.published_s)
            return replace(published, last_training_s=began_s)
        case StartShadow(version=version):
            published = catalog.publish(catalog.end_training(state, failed=False), version)
            return catalog.shadow(published, version.number, now_s)
        case SetShare(share=share):
            return catalog.share(state, share, now_s)
        case Promote():
            return catalog.promote(state, now_s)
        case Abort():
            return _refuse(catalog.abort(state, now_s), state.challenger, seen)
        case RollBack(to=to, freeze=freeze):
            back = catalog.roll_back(state, now_s, to=to, freeze=freeze)
            return _refuse(back, state.champion, seen)
        case Settle():
            return catalog.settle(state, now_s)
        case BeginIncident(reason=reason):
            return catalog.begin_incident(state, reason)
        case EndIncident():
            return catalog.end_incident(state)
        case Pause(reason=reason):
            return catalog.pause(state, reason)


def _refuse(state: CatalogState, number: int | None, seen: Snapshot) -> CatalogState:
    """Forbid a version for good if replicas refused it, now that it serves no more."""
    why = seen.refusal(number)
    if number is None or why is None or number in state.refused:
        return state
    return catalog.refuse(state, number, why)


def day(moment_s: float) -> str:
    """A moment as its UTC date; as seconds where no calendar reaches."""
    try:
        return datetime.fromtimestamp(moment_s, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{moment_s:.0f} s"


def odds(log_evidence: float) -> str:
    """Evidence as a number to compare with `control.evidence_min`."""
    return f"{math.exp(min(log_evidence, 700.0)):.3g}"
