"""When a champion in quiet service is challenged.

| trigger         | begins a training when                                        |
|-----------------|---------------------------------------------------------------|
| `manual`        | somebody asked for it                                         |
| `concept drift` | the live loss has risen over its frozen baseline              |
| `score drift`   | the scores have left their reference                          |
| `feature drift` | a feature has left its reference                              |
| `refused`       | replicas refuse the champion, and nothing earlier can serve   |
| `age`           | the champion was published `age_max_days` ago                 |

`manual` is somebody's decision and happens at once. The others also need `labels_min` labels that
no training has seen, `cooldown_days` since the last training began, and no freeze. A trigger only
begins a training; whether its model is promoted is decided on live losses alone.
"""

from collections.abc import Iterator

from hapredict.control.actions import Action, Hold, Snapshot, Train, day
from hapredict.monitoring.report import Alarm


def first_model(seen: Snapshot) -> Action | None:
    """The training of the first model, while there is no champion and no run."""
    state = seen.catalog
    if state.champion is not None or state.training:
        return None
    return Train(reason="there is no model yet", run=seen.next_run, trigger="first model")


def quiet_service(seen: Snapshot) -> Action:
    """Train if a trigger fires and nothing speaks against it; otherwise Hold, with what is missing.

    For stage `steady` with a champion and no run in progress.
    """
    if seen.retrain_requested:
        return Train(
            reason=f"asked for: {seen.retrain_requested}", run=seen.next_run, trigger="manual"
        )
    for trigger, why in _fired(seen):
        against = list(_against(seen))
        if against:
            return Hold(reason=f"{why}, but {' and '.join(against)}")
        return Train(reason=why, run=seen.next_run, trigger=trigger)
    return Hold(
        reason=f"v{seen.catalog.champion} serves and nothing asks for a training; it is "
        f"{_age_days(seen):.1f} of {seen.rules.age_max_days:g} days old"
    )


def _fired(seen: Snapshot) -> Iterator[tuple[str, str]]:
    """Triggers that ask for a training, the most telling first, each with its sentence."""
    champion = seen.catalog.champion
    yield from _alarms(seen)
    refusal = seen.refusal(champion)
    if refusal is not None:
        yield "refused", f"replicas refuse v{champion}: {refusal}"
    if _age_days(seen) >= seen.rules.age_max_days:
        yield "age", f"v{champion} is {_age_days(seen):.1f} days old"


def _alarms(seen: Snapshot) -> Iterator[tuple[str, str]]:
    report = seen.report
    # a report about an earlier champion says nothing about this one
    if report is None or report.version != seen.catalog.champion:
        return
    for kind in ("concept drift", "score drift", "feature drift"):
        alarms = [alarm for alarm in report.alarms if alarm.kind == kind]
        if alarms:
            largest = max(alarms, key=lambda alarm: alarm.effect)
            more = f" (and {len(alarms) - 1} more)" if len(alarms) > 1 else ""
            yield kind, f"{_sentence(largest)}{more}"


def _sentence(alarm: Alarm) -> str:
    since = f"since {day(alarm.since_s)}"
    match alarm.kind:
        case "concept drift":
            return f"the live loss is {alarm.effect:.3f} over its baseline {since}"
        case "score drift":
            return f"drift in the scores {since} (total variation {alarm.effect:.3f})"
        case "feature drift":
            return f"drift in {alarm.feature!r} {since} (total variation {alarm.effect:.3f})"
        case _:
            return alarm.reason


def _against(seen: Snapshot) -> Iterator[str]:
    """What forbids a training that nobody asked for."""
    state, rules = seen.catalog, seen.rules
    if state.frozen:
        yield f"trainings are frozen: {state.frozen}"
    if state.last_training_s is not None:
        left_days = rules.cooldown_days - seen.days_since(state.last_training_s)
        if left_days > 0:
            yield f"{left_days:.1f} of {rules.cooldown_days:g} cooldown days are left"
    fresh = max(0, seen.labels - state.labels_at_training)
    if fresh < rules.labels_min:
        yield f"only {fresh} of {rules.labels_min} new labels have come"


def _age_days(seen: Snapshot) -> float:
    """Days since the champion was published; 0 where the catalog does not know it."""
    champion = seen.catalog.versions.get(seen.catalog.champion or 0)
    return seen.days_since(champion.published_s) if champion else 0.0
