"""Policies: by which rules a past is lived again.

| name         | trains                     | a new model serves                              |
|--------------|----------------------------|-------------------------------------------------|
| `never`      | once                       |                                                 |
| `30d`        | every 30 days, or others   | at once                                         |
| `30d-safe`   | every 30 days              | at once, unless it is worse on the hold-out     |
| `30d-better` | every 30 days              | at once, if it is proven better on the hold-out |
| `drift`      | when the monitor alarms    | by shadow, canary and watch, as the spec says   |
| `loss`       | when the live loss rises   | likewise                                        |
| `ours`       | as the spec says           | likewise                                        |

The last three are `control.decide` itself. The others are what people do without it, as pure
functions over the same snapshots and actions; significance is that of one look at the hold-out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from hapredict.control.actions import (
    Action,
    Hold,
    Install,
    Promote,
    RejectRun,
    Settle,
    Snapshot,
    StartShadow,
    Train,
)
from hapredict.control.decide import decide
from hapredict.errors import UnknownName
from hapredict.replay.names import KNOWN
from hapredict.sections_live import ControlSpec

Gate = Literal["none", "no harm", "better"]

NEVER_DAYS = 1e6
"""A schedule that no past reaches."""
NEVER_SHARE = 1e9
"""More new labels than any past has."""


@dataclass(frozen=True, slots=True)
class Policy:
    """One way to lead a model."""

    name: str
    decide: Callable[[Snapshot], Action]
    rules: ControlSpec
    gate: Gate = "no harm"
    """What a trained model has to show on the hold-out before anything is done with it."""
    scheduled: bool = False
    """Whether it trains by the calendar alone: what others are compared with."""


def find_policy(name: str, control: ControlSpec) -> Policy:
    """The policy of that name, where `control` are the spec's own rules. Raises UnknownName."""
    alarms = control.triggers.model_copy(update={"volume_share": NEVER_SHARE})
    drift_only = control.model_copy(update={"age_max_days": NEVER_DAYS, "triggers": alarms})
    if name == "ours":
        return Policy(name, decide, control)
    if name == "drift":
        return Policy(name, decide, drift_only)
    if name == "loss":
        return Policy(name, _loss_alone, drift_only)
    if name == "never":
        return Policy(name, every(NEVER_DAYS), control, "none")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)d(-safe|-better)?", name)
    if found is None or not float(found[1]):
        raise UnknownName("policy", name, KNOWN)
    gates: dict[str | None, Gate] = {None: "none", "-safe": "no harm", "-better": "better"}
    return Policy(name, every(float(found[1])), control, gates[found[2]], scheduled=True)


def every(days: float) -> Callable[[Snapshot], Action]:
    """Train every so many days and let what passes the policy's gate serve at once."""

    def decide(seen: Snapshot) -> Action:
        state, run = seen.catalog, seen.run
        if state.challenger is not None:
            return Promote(reason=f"v{state.challenger} passed its gate")
        if state.stage == "watch":
            return Settle(reason="nobody watches")
        if state.training:
            if run is None or run.run != state.training or run.state == "running":
                return Hold(reason=f"{state.training} is in progress")
            if run.version is None or run.verdict is None or not run.verdict.passed:
                why = run.verdict.reason if run.verdict else run.reason
                return RejectRun(reason=f"{run.run} is refused: {why}", failed=False)
            version = replace(
                run.version, number=max(state.versions, default=0) + 1, published_s=seen.time_s
            )
            if state.champion is None:
                return Install(reason="first model", version=version)
            return StartShadow(reason=run.verdict.reason, version=version)
        if state.champion is None:
            return Train(reason="there is no model yet", run=seen.next_run, trigger="first model")
        passed_days = seen.days_since(state.last_training_s or 0.0)
        if passed_days >= days:
            return Train(
                reason=f"{passed_days:.1f} days have passed", run=seen.next_run, trigger="schedule"
            )
        return Hold(reason=f"day {passed_days:.1f} of {days:g}")

    return decide


def _loss_alone(seen: Snapshot) -> Action:
    if seen.report is None:
        return decide(seen)
    alarms = tuple(alarm for alarm in seen.report.alarms if alarm.kind == "concept drift")
    return decide(replace(seen, report=replace(seen.report, alarms=alarms)))
