"""How a challenger becomes champion, and how a champion loses its place again.

    shadow    scores along, answers nobody      at least shadow_days and shadow_labels_min labels
    canary    answers a share of the keys       each of canary_shares at least canary_step_days
    watch     is champion, the old one runs on  watch_days

Evidence is an e-value on the paired live losses of two versions; it stays valid however often it
is looked at. Evidence of worse drops a challenger, or brings the old champion back, at any moment.
Evidence of better promotes after the last canary step. A challenger that has neither is judged
`deadline_days` after its shadow began: with `if_not_worse` it is promoted then and not before, with
`strict` it is dropped, as is one that only drift of inputs began. Without enough labels there is no
judgement, only "not enough data". An incident or a freeze window keeps shares and champions as they
are; what is worse or broken goes all the same.
"""

import math
from dataclasses import dataclass

from hapredict.control import triggers
from hapredict.control.actions import (
    Abort,
    Action,
    Hold,
    Promote,
    RollBack,
    SetShare,
    Settle,
    Snapshot,
    odds,
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rows that two versions both scored say about the first of them."""

    labels: int = 0
    log_better: float = 0.0
    log_worse: float = 0.0
    loss: float = math.nan
    other_loss: float = math.nan

    @property
    def losses(self) -> str:
        """Both mean losses and the number of labels, for a sentence."""
        return f"loss {self.loss:.4f} against {self.other_loss:.4f} on {self.labels} labels"


def compare(seen: Snapshot, version: int, other: int) -> Evidence:
    """Evidence about `version` against `other`; no labels where there is no comparison.

    Comparisons start afresh with each champion, so those of a report about an earlier one, which
    lags behind the catalog, do not count.
    """
    report = seen.report
    if report is None or report.version != seen.catalog.champion:
        return Evidence()
    pair = report.pair(version, other)
    if pair is None:
        return Evidence()
    if version == pair.high:
        return Evidence(pair.labels, pair.log_better, pair.log_worse, pair.high_loss, pair.low_loss)
    return Evidence(pair.labels, pair.log_worse, pair.log_better, pair.low_loss, pair.high_loss)


def refusals(seen: Snapshot) -> Action | None:
    """What follows when replicas refuse to serve the challenger or the champion."""
    state = seen.catalog
    why = seen.refusal(state.challenger)
    if why is not None:
        return Abort(reason=f"replicas refuse v{state.challenger}: {why}")
    why, back = seen.refusal(state.champion), state.previous
    if why is not None and back is not None and seen.refusal(back) is None:
        sentence = f"replicas refuse v{state.champion}: {why}"
        return RollBack(reason=sentence, to=back, freeze=sentence)
    return None


def next_step(seen: Snapshot) -> Action | None:
    """The next step of a shadow, a canary or a watch; None in every other stage."""
    state = seen.catalog
    if state.champion is None:
        return None
    if state.stage in {"shadow", "canary"} and state.challenger is not None:
        return _challenge(seen, state.champion, state.challenger)
    if state.stage == "watch":
        return _watch(seen, state.champion, state.previous)
    return None


def _challenge(seen: Snapshot, champion: int, challenger: int) -> Action:
    state, rules = seen.catalog, seen.rules
    evidence = compare(seen, challenger, champion)
    if evidence.log_worse >= math.log(rules.evidence_min):
        return Abort(
            reason=f"v{challenger} is worse than v{champion}: "
            f"evidence {odds(evidence.log_worse)}, {evidence.losses}"
        )

    # a version is published when its shadow begins
    tried_days = seen.days_since(state.versions[challenger].published_s)
    step_days = seen.days_since(state.stage_since_s)
    days_min = rules.shadow_days if state.stage == "shadow" else rules.canary_step_days
    where = "shadow" if state.stage == "shadow" else f"canary at {state.share:.0%}"
    missing = rules.shadow_labels_min - evidence.labels
    if missing > 0 and tried_days >= rules.deadline_days:
        return Abort(
            reason=f"not enough data about v{challenger} after {tried_days:.1f} days: "
            f"{evidence.labels} labels that v{champion} shares, need {missing} more"
        )
    if step_days < days_min or missing > 0:
        return Hold(
            reason=f"v{challenger} in {where}: day {step_days:.1f} of {days_min:g}, "
            f"{evidence.labels} of {rules.shadow_labels_min} labels"
        )

    wall = triggers.held(seen)
    for share in rules.canary_shares:
        if share > state.share:
            if wall:
                return Hold(reason=f"v{challenger} stays in {where}: {wall}")
            return SetShare(
                reason=f"v{challenger} went {step_days:.1f} days in {where} without being worse: "
                f"{evidence.losses}",
                share=share,
            )

    if evidence.log_better >= math.log(rules.evidence_min):
        if wall:
            return Hold(reason=f"v{challenger} is better than v{champion}, but {wall}")
        return Promote(
            reason=f"v{challenger} is better than v{champion}: "
            f"evidence {odds(evidence.log_better)}, {evidence.losses}"
        )
    if tried_days < rules.deadline_days:
        return Hold(
            reason=f"v{challenger} in {where}: evidence {odds(evidence.log_better)} of "
            f"{rules.evidence_min:g} that it is better; day {tried_days:.1f} of "
            f"{rules.deadline_days:g}"
        )
    if rules.deadline_rule == "strict":
        return Abort(
            reason=f"after {tried_days:.1f} days nothing shows that v{challenger} is better than "
            f"v{champion}, which deadline_rule 'strict' asks for: {evidence.losses}"
        )
    trigger = state.versions[challenger].trigger
    if triggers.proven_only(seen, trigger):
        return Abort(
            reason=f"after {tried_days:.1f} days nothing shows that v{challenger} is better than "
            f"v{champion}, and only {trigger} began it: {evidence.losses}"
        )
    if wall:
        return Hold(reason=f"v{challenger} is not worse than v{champion}, but {wall}")
    return Promote(
        reason=f"after {tried_days:.1f} days nothing shows that v{challenger} is worse than "
        f"v{champion}: {evidence.losses}"
    )


def _watch(seen: Snapshot, champion: int, previous: int | None) -> Action:
    days = seen.days_since(seen.catalog.stage_since_s)
    if previous is not None and seen.refusal(previous) is None:
        evidence = compare(seen, champion, previous)
        if evidence.log_worse >= math.log(seen.rules.evidence_min):
            why = (
                f"v{champion} is worse than v{previous}: "
                f"evidence {odds(evidence.log_worse)}, {evidence.losses}"
            )
            return RollBack(reason=why, to=previous, freeze=why)
    if days >= seen.rules.watch_days:
        return Settle(reason=f"v{champion} was watched for {days:.1f} days")
    return Hold(reason=f"v{champion} is watched: day {days:.1f} of {seen.rules.watch_days:g}")
