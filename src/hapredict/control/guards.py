"""Guards: signs of a broken model that need no labels and no statistics.

| guard      | a version is broken when                                                      |
|------------|-------------------------------------------------------------------------------|
| `faults`   | it failed `faults_min` times, and `fault_share_max` more often than the other |
| `constant` | `constant_rows` rows had one score, and the other version tells them apart    |
| `latency`  | it takes `latency_ratio_max` times as long as the other for the same rows     |

In a shadow or a canary the challenger is measured against the champion and dropped; in a watch the
champion against the previous one, which is restored. Replicas count for both versions at once, so
that what ails both (a slow node, strange rows) speaks against neither. A version that replicas
refuse to load at all is `rollout.refusals`' matter.
"""

from hapredict.control.actions import Abort, Action, RollBack, Snapshot
from hapredict.sections_policy import GuardsSpec
from hapredict.serving.health import VersionHealth

PROBES_MIN = 5
"""Timings without which nothing is said of latency."""


def violated(seen: Snapshot) -> Action | None:
    """The end of a version that is broken; None if no guard speaks."""
    state = seen.catalog
    champion, challenger, previous = state.champion, state.challenger, state.previous
    if champion is None:
        return None
    if state.stage in {"shadow", "canary"} and challenger is not None:
        why = _broken(seen, challenger, champion)
        return Abort(reason=f"v{challenger} is broken: {why}") if why else None
    if state.stage == "watch" and previous is not None and seen.refusal(previous) is None:
        why = _broken(seen, champion, previous)
        if why:
            sentence = f"v{champion} is broken: {why}"
            return RollBack(reason=sentence, to=previous, freeze=sentence)
    return None


def _broken(seen: Snapshot, number: int, other: int) -> str:
    blank = VersionHealth()
    mine, theirs = seen.health.get(number, blank), seen.health.get(other, blank)
    limits = seen.rules.guards
    return (
        _faults(mine, theirs, limits)
        or _constant(mine, theirs, limits)
        or _slow(mine, theirs, other, limits)
    )


def _faults(mine: VersionHealth, theirs: VersionHealth, limits: GuardsSpec) -> str:
    more = mine.fault_share - theirs.fault_share
    if mine.faults < limits.faults_min or more <= limits.fault_share_max:
        return ""
    return f"it failed to score {mine.faults} times ({mine.fault_share:.1%} of its attempts)"


def _constant(mine: VersionHealth, theirs: VersionHealth, limits: GuardsSpec) -> str:
    if mine.rows < limits.constant_rows or not mine.constant or theirs.constant or not theirs.rows:
        return ""
    return f"it gives {mine.rows} rows the one score {mine.lowest:g}"


def _slow(mine: VersionHealth, theirs: VersionHealth, other: int, limits: GuardsSpec) -> str:
    took, usual = mine.fastest_ms, theirs.fastest_ms
    if min(mine.probes, theirs.probes) < PROBES_MIN or took <= limits.latency_free_ms:
        return ""
    if took <= limits.latency_ratio_max * usual:
        return ""
    return f"it takes {took:.1f} ms for 16 rows, v{other} takes {usual:.1f} ms"
