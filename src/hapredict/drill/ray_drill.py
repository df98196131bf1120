"""Breaks one thing after another under steady load, and writes down what callers saw."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hapredict.drill.faults import FAULTS, Fault, Site
from hapredict.drill.golden import Question
from hapredict.drill.outcome import (
    Drill,
    Outcome,
    Scaled,
    detect_s,
    gap_s,
    phase,
    requests_needed,
)
from hapredict.drill.ray_load import Load
from hapredict.errors import NotFound, NotPermitted, TemporaryError

LOOK_S = 0.2
FAULTS_TOLD = 5
STEADY_S = 1.5
"""Seconds for which all must be as before: longer than answers of a dead replica are counted."""
CALIBRATE_S = 3.0
SHARE = 0.4
"""Of what the model answers at most: how much a drill asks, unless told."""
CALLERS = 16

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to look before and after each fault, and for how many requests."""

    objective: float
    before_s: float = 3.0
    after_s: float = 3.0
    duration_s: float = 120.0
    """Seconds a fault at most, beside what it takes to be restored."""


def quiet_pause_s(url: str, questions: Sequence[Question], tell: Tell) -> float:
    """The pause at which CALLERS callers ask SHARE of what the model can answer."""
    with _load(url, questions, pause_s=0.0) as load:
        time.sleep(CALIBRATE_S)
    right = [one for one in load.asked if not one.fault]
    if not right:
        why = load.asked[-1].fault if load.asked else "no answer at all"
        raise NotFound(f"{url} does not answer, so there is nothing to drill: {why}")
    rate = len(right) / CALIBRATE_S
    took_s = sum(one.took_s for one in right) / len(right)
    tell(f"it answers {rate:,.0f} requests a second at most; the drill asks {SHARE * rate:,.0f}")
    # a caller's turn is the answer, which is quicker with less load, and the pause
    return max(0.002, CALLERS / (SHARE * rate) - 0.5 * took_s)


def drill(
    model: str,
    level: int,
    names: Sequence[str],
    url: str,
    questions: Sequence[Question],
    site_of: Callable[[Load], Site],
    plan: Plan,
    tell: Tell,
    *,
    pause_s: float | None = None,
    scaling: Sequence[Scaled] = (),
) -> Drill:
    """Break all that is named, one after another; each is healed before the next.

    Raises NotFound if nothing answers. What cannot be broken here is in `skipped`.
    """
    began_s, at_s = time.monotonic(), time.time()
    pause_s = quiet_pause_s(url, questions, tell) if pause_s is None else pause_s
    outcomes, skipped = [], {}
    for name in names:
        fault = FAULTS.find(name)()
        tell(f"{name}: looking on for {plan.before_s:g} s")
        with _load(url, questions, pause_s=pause_s) as load:
            try:
                outcome = break_one(fault, site_of(load), load, plan, tell)
            except (NotFound, NotPermitted) as error:
                skipped[name] = str(error)
                tell(f"{name}: left out: {error}")
                continue
        outcomes.append(outcome)
        tell(f"{name}: {outcome.verdict(plan.objective)}; {_told(outcome)}")
    return Drill(
        model=model,
        level=level,
        objective=plan.objective,
        at_s=at_s,
        wall_s=time.monotonic() - began_s,
        outcomes=tuple(outcomes),
        scaling=tuple(scaling),
        skipped=skipped,
    )


def break_one(fault: Fault, site: Site, load: Load, plan: Plan, tell: Tell) -> Outcome:
    """One fault from before to after. It is healed whatever happens, also at Ctrl-C.

    Raises NotFound, NotPermitted if it cannot be broken here.
    """
    time.sleep(plan.before_s)
    before = phase(load.asked)
    place, inject_s = len(load.asked), load.now_s()
    restore_s: float | None = None
    try:
        says = fault.inject(site)
        tell(f"{fault.name}: {says}")
        time.sleep(fault.hold_s)
    finally:
        fault.heal(site)
    deadline_s = inject_s + fault.hold_s + fault.restore_s_max
    while load.now_s() < deadline_s + STEADY_S:
        if not _restored(fault, site):
            restore_s = None
        elif restore_s is None:
            restore_s = load.now_s() - inject_s
        elif load.now_s() - inject_s - restore_s >= STEADY_S:
            break
        time.sleep(LOOK_S)
    middle, end_s = len(load.asked), load.now_s() + plan.after_s
    enough = requests_needed(min(plan.objective, 100 * (1 - fault.lost_share_max)))
    give_up_s = load.now_s() + plan.duration_s
    while load.now_s() < end_s or (len(load.asked) - place < enough and load.now_s() < give_up_s):
        time.sleep(LOOK_S)
    asked = load.since(place)
    lost = [one for one in asked if one.fault]
    return Outcome(
        fault=fault.name,
        level=fault.level,
        says=says,
        before=before,
        during=phase(asked[: middle - place]),
        after=phase(asked[middle - place :]),
        gap_s=round(gap_s(asked, inject_s, load.now_s()), 3),
        detect_s=round(detect_s(asked, inject_s, before), 3),
        restore_s=None if restore_s is None else round(restore_s, 3),
        restore_s_max=fault.hold_s + fault.restore_s_max,
        lost_share_max=fault.lost_share_max,
        faults=tuple(f"{one.at_s - inject_s:+.2f} s: {one.fault}" for one in lost[:FAULTS_TOLD]),
    )


def _restored(fault: Fault, site: Site) -> bool:
    # what is being restored may not answer, or not yet be found
    with contextlib.suppress(TemporaryError, NotFound):
        return fault.restored(site)
    return False


def _told(outcome: Outcome) -> str:
    asked = outcome.during.requests + outcome.after.requests
    back = "not restored" if outcome.restore_s is None else f"restored in {outcome.restore_s:.1f} s"
    worst_ms = max(outcome.during.worst_ms, outcome.after.worst_ms)
    return f"{outcome.lost} of {asked:,} lost, slowest {worst_ms / 1e3:.2f} s, {back}"


def _load(url: str, questions: Sequence[Question], *, pause_s: float) -> Load:
    return Load(
        url,
        [question.body for question in questions],
        [question.check for question in questions],
        callers=CALLERS,
        pause_s=pause_s,
    )
