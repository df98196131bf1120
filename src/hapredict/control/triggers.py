"""When a champion in quiet service is challenged, and what forbids it.

| trigger          | begins a training when                                        |
|------------------|---------------------------------------------------------------|
| `manual`         | somebody asked for it                                         |
| `concept drift`  | the live loss has risen over its frozen baseline              |
| `estimated loss` | the loss that the scores let expect has risen                 |
| `refused`        | replicas refuse the champion, and nothing earlier can serve   |
| `age`            | the champion was published `age_max_days` ago                 |
| `volume`         | `volume_share` of the training rows have come anew, labelled  |
| `score drift`    | the scores have left their reference                          |
| `feature drift`  | a feature that matters has left its reference                 |

The first that fires names the training. Drift of scores and features counts where it has lasted
`drift_days_min` and labels do not show it to be harmless, of a feature also only from
`importance_min` on; a training that nothing else began gives no right to be promoted unproven
(`rollout`).

| against a training                                             | with somebody's wish |
|----------------------------------------------------------------|----------------------|
| an incident: alarms of broken data, until they end or `resume` | waits                |
| a window of `control.freeze`                                   | waits                |
| a freeze after a rollback, until `resume`                      | passes               |
| `cooldown_days` since the last training                        | passes               |
| `trainings_per_month_max` in the last 30 days                  | passes               |
| fewer than `labels_min` labels that no training has seen       | passes               |

A trigger only begins a training; whether its model is promoted is decided on live losses alone.
"""

from collections.abc import Iterator

from hapredict.control.actions import (
    Action,
    BeginIncident,
    EndIncident,
    Hold,
    Snapshot,
    Train,
    day,
)
from hapredict.monitoring.report import Alarm
from hapredict.registry.catalog import MONTH_S

INPUT_DRIFT = frozenset({"score drift", "feature drift"})
"""Triggers that say that rows have changed, and nothing of how well they are answered."""


def first_model(seen: Snapshot) -> Action | None:
    """The training of the first model, while there is no champion and no run."""
    state = seen.catalog
    if state.champion is not None or state.training:
        return None
    return Train(reason="there is no model yet", run=seen.next_run, trigger="first model")


def incident(seen: Snapshot) -> Action | None:
    """The beginning or the end of a data incident; None where nothing changes.

    A report about an earlier champion says nothing either way.
    """
    state, report = seen.catalog, seen.report
    if report is None or state.champion is None or report.version != state.champion:
        return None
    cleared_s = state.cleared_s
    broken = [
        alarm
        for alarm in seen.alarms
        if alarm.incident and (cleared_s is None or alarm.at_s > cleared_s)
    ]
    if broken and not state.incident:
        worst = max(broken, key=lambda alarm: alarm.effect)
        return BeginIncident(reason=f"{_sentence(worst)}{_and_more(broken)}")
    if state.incident and not broken:
        return EndIncident(reason=f"no alarm speaks of broken data any more: {state.incident}")
    return None


def held(seen: Snapshot) -> str:
    """Why nothing may be trained or promoted now, whoever wants it; "" if it may."""
    if seen.catalog.incident:
        return f"there is a data incident: {seen.catalog.incident}"
    window = seen.frozen_by_calendar
    return f"nothing changes from {window}" if window else ""


def quiet_service(seen: Snapshot) -> Action:
    """Train if a trigger fires and nothing speaks against it; otherwise Hold, with what is missing.

    For stage `steady` with a champion and no run in progress.
    """
    wall = held(seen)
    if seen.retrain_requested:
        wish = f"asked for: {seen.retrain_requested}"
        if wall:
            return Hold(reason=f"{wish}, but {wall}")
        return Train(reason=wish, run=seen.next_run, trigger="manual")
    for trigger, why in _fired(seen):
        against = [*([wall] if wall else []), *_against(seen)]
        if against:
            return Hold(reason=f"{why}, but {' and '.join(against)}")
        return Train(reason=why, run=seen.next_run, trigger=trigger)
    also = [wall] if wall else _disregarded(seen)
    return Hold(
        reason=f"v{seen.catalog.champion} serves and nothing asks for a training; it is "
        f"{_age_days(seen):.1f} of {seen.rules.age_max_days:g} days old"
        + "".join(f"; {what}" for what in also)
    )


def proven_only(seen: Snapshot, trigger: str) -> bool:
    """Whether a challenger begun so may be promoted on evidence of better alone.

    So it is where only rows have changed. As soon as the champion is due for another reason (its
    age, a risen loss), the challenger is judged like any other.
    """
    if trigger not in INPUT_DRIFT:
        return False
    alarms = seen.alarms
    harmed = any(a.kind in {"concept drift", "estimated loss"} or a.harm == "worse" for a in alarms)
    return not harmed and _age_days(seen) < seen.rules.age_max_days


def _fired(seen: Snapshot) -> Iterator[tuple[str, str]]:
    """Triggers that ask for a training, the most telling first, each with its sentence."""
    champion = seen.catalog.champion
    yield from _alarms(seen, "concept drift", "estimated loss")
    refusal = seen.refusal(champion)
    if refusal is not None:
        yield "refused", f"replicas refuse v{champion}: {refusal}"
    if _age_days(seen) >= seen.rules.age_max_days:
        yield "age", f"v{champion} is {_age_days(seen):.1f} days old"
    yield from _volume(seen)
    yield from _alarms(seen, "score drift", "feature drift")


def _volume(seen: Snapshot) -> Iterator[tuple[str, str]]:
    version = seen.catalog.versions.get(seen.catalog.champion or 0)
    rows = version.metrics.get("training_rows", 0.0) if version is not None else 0.0
    share = _fresh(seen) / rows if rows > 0 else 0.0
    if share >= seen.rules.triggers.volume_share:
        yield "volume", f"{_fresh(seen)} new labels have come, {share:.0%} of the training rows"


def _alarms(seen: Snapshot, *kinds: str) -> Iterator[tuple[str, str]]:
    for kind in kinds:
        alarms = [a for a in seen.alarms if a.kind == kind and not _why_not(seen, a)]
        if alarms:
            largest = max(alarms, key=lambda alarm: (alarm.importance, alarm.effect))
            yield kind, f"{_sentence(largest)}{_and_more(alarms)}"


def _why_not(seen: Snapshot, alarm: Alarm) -> str:
    """Why an alarm asks for no training; "" if it does."""
    limits = seen.rules.triggers
    if alarm.kind not in INPUT_DRIFT or alarm.harm == "worse":
        return ""
    if alarm.harm == "none":
        return f"{alarm.labels} labels show no harm"
    if alarm.kind == "feature drift" and alarm.importance < limits.importance_min:
        return f"its importance is {alarm.importance:.2g} of {limits.importance_min:g}"
    lasted = seen.days_since(alarm.since_s)
    if lasted < limits.drift_days_min:
        return f"it has lasted {lasted:.1f} of {limits.drift_days_min:g} days"
    return ""


def _disregarded(seen: Snapshot) -> list[str]:
    alarms = [alarm for alarm in seen.alarms if alarm.kind in INPUT_DRIFT]
    if not alarms:
        return []
    largest = max(alarms, key=lambda alarm: (alarm.importance, alarm.effect))
    return [f"{_sentence(largest)} does not: {_why_not(seen, largest)}{_and_more(alarms)}"]


def _and_more(alarms: list[Alarm]) -> str:
    return f" (and {len(alarms) - 1} more)" if len(alarms) > 1 else ""


def _sentence(alarm: Alarm) -> str:
    since = f"since {day(alarm.since_s)}"
    where = f" where {alarm.slice}" if alarm.slice else ""
    match alarm.kind:
        case "concept drift":
            return f"the live loss is {alarm.effect:.3f} over its baseline {since}{where}"
        case "estimated loss":
            return f"the loss to expect is {alarm.effect:.3f} over its baseline {since}{where}"
        case "score drift":
            return f"drift in the scores {since} (total variation {alarm.effect:.3f}){where}"
        case "feature drift":
            moved = f"drift in {alarm.feature!r} {since}"
            return f"{moved} (total variation {alarm.effect:.3f}){where}"
        case _:
            what = f"{alarm.kind} of {alarm.feature!r}" if alarm.feature else alarm.kind
            return f"{what} {since}: {alarm.reason}"


def _against(seen: Snapshot) -> Iterator[str]:
    """What forbids a training that nobody asked for."""
    state, rules = seen.catalog, seen.rules
    if state.frozen:
        yield f"trainings are frozen: {state.frozen}"
    if state.last_training_s is not None:
        left_days = rules.cooldown_days - seen.days_since(state.last_training_s)
        if left_days > 0:
            yield f"{left_days:.1f} of {rules.cooldown_days:g} cooldown days are left"
    begun = sum(seen.time_s - moment < MONTH_S for moment in state.trainings_s)
    if begun >= rules.trainings_per_month_max:
        yield f"{begun} of {rules.trainings_per_month_max} trainings have begun in 30 days"
    if _fresh(seen) < rules.labels_min:
        yield f"only {_fresh(seen)} of {rules.labels_min} new labels have come"


def _fresh(seen: Snapshot) -> int:
    """Labels that no training has seen."""
    return max(0, seen.labels - seen.catalog.labels_at_training)


def _age_days(seen: Snapshot) -> float:
    """Days since the champion was published; 0 where the catalog does not know it."""
    champion = seen.catalog.versions.get(seen.catalog.champion or 0)
    return seen.days_since(champion.published_s) if champion else 0.0
