"""What to do next, from what was seen: a pure function over values.

Rules are tried from the top, and the first that acts ends the search. No rule remembers anything:
what must be counted is in the catalog, what must be known is in the snapshot.

| #  | seen                                                       | action                        |
|----|------------------------------------------------------------|-------------------------------|
| 1  | paused                                                     | Hold                          |
| 2  | a guard: the challenger is broken                          | Abort                         |
|    | a guard: the champion is broken, in its watch              | RollBack, with a freeze       |
| 3  | `trainings_failed_max` trainings in a row failed           | Pause                         |
| 4  | the run failed, was refused by a gate or lacks data        | RejectRun                     |
|    | the run brought a model, and there is no champion          | Install                       |
|    | the run brought a model, in stage steady                   | StartShadow                   |
| 5  | no champion, no run                                        | Train "first model"           |
| 6  | replicas refuse the challenger                             | Abort                         |
|    | replicas refuse the champion, an earlier one can serve     | RollBack, with a freeze       |
| 7  | challenger is worse (at any moment)                        | Abort                         |
|    | challenger lacks labels at the deadline                    | Abort "not enough data"       |
|    | last step is over, deadline, `strict`                      | Abort                         |
|    | the same, begun by drift of inputs and nothing else        | Abort                         |
|    | watch: champion is worse than the previous one             | RollBack, with a freeze       |
| 8  | alarms of broken data                                      | BeginIncident                 |
|    | an incident without its alarms                             | EndIncident                   |
| 9  | a canary step or a promotion is due, but there is an       |                               |
|    | incident, or a freeze window                               | Hold                          |
|    | shadow or canary step is over                              | SetShare to the next          |
|    | last step is over, challenger is better                    | Promote                       |
|    | last step is over, deadline, `if_not_worse`                | Promote                       |
|    | watch: `watch_days` are over                               | Settle                        |
|    | catalog names a run that nobody runs                       | EnsureTraining                |
| 10 | steady, no run: a trigger, and nothing against it          | Train                         |
|    | anything else                                              | Hold, with what is waited for |

Rule 2 is in `guards`, rules 6, 7 and 9 in `rollout`, rules 5, 8 and 10 in `triggers`;
docs/decisions/0007-challengers.md and 0018-policy.md say why they are as they are.

All days run on the model's clock. "Worse" and "better" mean an e-value of at least
`evidence_min` on paired live losses: drift by itself begins a training and never promotes.
A run that ends while a challenger or a watch is on waits for it.
"""

from dataclasses import replace

from hapredict.control import guards, rollout, triggers
from hapredict.control.actions import (
    Abort,
    Action,
    EnsureTraining,
    Hold,
    Install,
    Pause,
    RejectRun,
    RollBack,
    Snapshot,
    StartShadow,
)


def decide(seen: Snapshot) -> Action:
    """The one action that follows from a snapshot. Total: never raises, always gives a reason."""
    state = seen.catalog
    if state.paused:
        return Hold(reason=f"paused: {state.paused}")
    broken = guards.violated(seen)
    if broken is not None:
        return broken
    if state.failed_trainings >= seen.rules.trainings_failed_max:
        return Pause(reason=f"{state.failed_trainings} trainings in a row failed")

    step = rollout.next_step(seen)
    action = (
        _ended_run(seen)
        or triggers.first_model(seen)
        or rollout.refusals(seen)
        or (step if isinstance(step, Abort | RollBack) else None)
        or triggers.incident(seen)
        or (None if isinstance(step, Hold) else step)
        or _abandoned_run(seen)
        or step
        or _running(seen)
    )
    return action or triggers.quiet_service(seen)


def _ended_run(seen: Snapshot) -> Action | None:
    state, run = seen.catalog, seen.run
    if not state.training or run is None or run.run != state.training:
        return None
    if run.state == "running" or (run.state == "failed" and run.retry):
        return None
    if run.state == "failed":
        # a person's will says nothing about the training
        return RejectRun(reason=f"{run.run} failed: {run.reason}", failed=not run.cancelled)
    if run.version is None or run.verdict is None:
        what = "a model" if run.version is None else "a verdict of the offline gates"
        return RejectRun(reason=f"{run.run} ended without {what}", failed=True)
    verdict = run.verdict
    if verdict.outcome == "fail":
        # the training did its work; with a champion, nothing is lost by looking on
        return RejectRun(
            reason=f"{run.run} is refused: {verdict.reason}", failed=state.champion is None
        )
    if verdict.outcome == "not enough data":
        need = f" (need {verdict.need})" if verdict.need is not None else ""
        # without a champion a training follows at once: the count ends that
        return RejectRun(
            reason=f"{run.run}: not enough data{need}: {verdict.reason}",
            failed=state.champion is None,
        )

    number = max(state.versions, default=0) + 1
    version = replace(
        run.version, number=number, published_s=seen.time_s, trigger=state.training_trigger
    )
    if state.champion is None:
        return Install(reason=f"first model, of {run.run}: {verdict.reason}", version=version)
    if state.stage == "steady":
        return StartShadow(reason=f"v{number}, of {run.run}: {verdict.reason}", version=version)
    return None


def _abandoned_run(seen: Snapshot) -> Action | None:
    name, run = seen.catalog.training, seen.run
    if not name:
        return None
    if run is None or run.run != name:
        return EnsureTraining(reason=f"{name} began and nobody runs it", run=name)
    if run.state == "failed" and run.retry:
        return EnsureTraining(reason=f"{name} was interrupted: {run.reason}", run=name)
    return None


def _running(seen: Snapshot) -> Action | None:
    if not seen.catalog.training:
        return None
    detail = f": {seen.run.reason}" if seen.run and seen.run.reason else ""
    return Hold(reason=f"{seen.catalog.training} is in progress{detail}")
