"""Shadow, canary and watch: one row a rule."""

from dataclasses import replace

from hapredict.control.actions import Abort, Hold, Promote, RollBack, SetShare, Settle, apply
from hapredict.control.decide import decide
from hapredict.control.rollout import compare
from hapredict.registry import catalog
from tests.support.control import (
    BETTER,
    EQUAL,
    SURE,
    WATCHED_BETTER,
    WATCHED_WORSE,
    WORSE,
    alarm,
    at,
    canarying,
    check_row,
    paired,
    report,
    rows,
    shadowing,
    snapshot,
    version,
    watching,
)

LOSSES = "loss 0.1100 against 0.1200 on 1000 labels"
IS_WORSE = f"v2 is worse than v1: evidence 20, {LOSSES}"
IS_BETTER = f"v2 is better than v1: evidence 20, {LOSSES}"
NOT_WORSE = f"after 14.0 days nothing shows that v2 is worse than v1: {LOSSES}"

SHADOW = {
    "shadow lasts its days, even if the challenger is better": (
        snapshot(shadowing(), 22.5, report=BETTER),
        Hold(reason="v2 in shadow: day 2.5 of 3, 1000 of 200 labels"),
    ),
    "shadow waits for labels": (
        snapshot(shadowing(), 25, report=report(paired(labels=150, better=SURE))),
        Hold(reason="v2 in shadow: day 5.0 of 3, 150 of 200 labels"),
    ),
    "shadow without a report waits": (
        snapshot(shadowing(), 25),
        Hold(reason="v2 in shadow: day 5.0 of 3, 0 of 200 labels"),
    ),
    "shadow without labels ends at the deadline": (
        snapshot(shadowing(), 34, report=report(paired(labels=150))),
        Abort(
            reason="not enough data about v2 after 14.0 days: "
            "150 labels that v1 shares, need 50 more"
        ),
    ),
    "a worse challenger is dropped on the first day": (
        snapshot(shadowing(), 20.2, report=WORSE),
        Abort(reason=IS_WORSE),
    ),
    "after shadow the challenger answers the first share": (
        snapshot(shadowing(), 23, report=EQUAL),
        SetShare(
            reason=f"v2 went 3.0 days in shadow without being worse: {LOSSES}",
            share=0.1,
        ),
    ),
    "without canary steps shadow alone decides": (
        snapshot(shadowing(), 23, report=BETTER, rules={"canary_shares": ()}),
        Promote(reason=IS_BETTER),
    ),
}

CANARY = {
    "a canary step lasts its days, even if the challenger is better": (
        snapshot(canarying(0.1, 23), 23.5, report=BETTER),
        Hold(reason="v2 in canary at 10%: day 0.5 of 1, 1000 of 200 labels"),
    ),
    "after a canary step the share grows": (
        snapshot(canarying(0.1, 23), 24, report=BETTER),
        SetShare(
            reason=f"v2 went 1.0 days in canary at 10% without being worse: {LOSSES}",
            share=0.5,
        ),
    ),
    "a share that the rules no longer name grows to the next one": (
        snapshot(canarying(0.2, 23), 24, report=EQUAL),
        SetShare(
            reason=f"v2 went 1.0 days in canary at 20% without being worse: {LOSSES}",
            share=0.5,
        ),
    ),
    "a challenger that turns out worse in canary is dropped at once": (
        snapshot(canarying(0.5, 24), 24.1, report=WORSE),
        Abort(reason=IS_WORSE),
    ),
    "a better challenger is promoted after the last step": (
        snapshot(canarying(0.5, 24), 25, report=BETTER),
        Promote(reason=IS_BETTER),
    ),
    "without evidence the last step waits for the deadline": (
        snapshot(canarying(0.5, 24), 33, report=EQUAL),
        Hold(reason="v2 in canary at 50%: evidence 3 of 20 that it is better; day 13.0 of 14"),
    ),
    "at the deadline a challenger that is not worse is promoted": (
        snapshot(canarying(0.5, 24), 34, report=EQUAL),
        Promote(reason=NOT_WORSE),
    ),
    "the deadline counts from the start of shadow, not from the last step": (
        snapshot(canarying(0.5, 33), 34, report=EQUAL),
        Promote(reason=NOT_WORSE),
    ),
    "at the deadline the strict rule drops a challenger without evidence": (
        snapshot(canarying(0.5, 24), 34, report=EQUAL, rules={"deadline_rule": "strict"}),
        Abort(
            reason="after 14.0 days nothing shows that v2 is better than v1, "
            f"which deadline_rule 'strict' asks for: {LOSSES}"
        ),
    ),
    "at the deadline steps that are still due come first": (
        snapshot(canarying(0.1, 34), 34.5, report=EQUAL),
        Hold(reason="v2 in canary at 10%: day 0.5 of 1, 1000 of 200 labels"),
    ),
    "a canary whose labels got lost is not promoted": (
        snapshot(canarying(0.5, 24), 34, report=report()),
        Abort(
            reason="not enough data about v2 after 14.0 days: "
            "0 labels that v1 shares, need 200 more"
        ),
    ),
}

WATCH = {
    "a promoted champion that is worse is rolled back and trainings freeze": (
        snapshot(watching(30), 31, report=WATCHED_WORSE),
        RollBack(reason=IS_WORSE, to=1, freeze=IS_WORSE),
    ),
    "a watch lasts its days": (
        snapshot(watching(30), 36, report=WATCHED_BETTER),
        Hold(reason="v2 is watched: day 6.0 of 7"),
    ),
    "a report that has not seen the promotion yet does not count": (
        snapshot(watching(30), 31, report=WORSE),
        Hold(reason="v2 is watched: day 1.0 of 7"),
    ),
    "a watch without trouble ends, with labels or without": (
        snapshot(watching(30), 37),
        Settle(reason="v2 was watched for 7.0 days"),
    ),
}


@rows({**SHADOW, **CANARY, **WATCH})
def test_rule(seen, expected):
    check_row(seen, expected)


def test_a_rollback_restores_the_previous_champion_and_freezes_trainings():
    state = check_row(
        *WATCH["a promoted champion that is worse is rolled back and trainings freeze"]
    )
    assert (state.champion, state.stage, state.previous) == (1, "steady", None)
    later = snapshot(state, 80, report=report(alarms=(alarm("concept drift", ""),)))
    assert decide(later).reason.endswith(f"but trainings are frozen: {IS_WORSE}")


def test_evidence_is_about_the_version_that_is_judged_whichever_is_older():
    # somebody tries version 1 again, so the challenger is the lower number of the pair
    state = catalog.settle(watching(30), at(37))
    state = replace(state, versions={**state.versions, 1: version(1, 40)})
    state = catalog.shadow(state, 1, at(40))
    assert isinstance(decide(snapshot(state, 41, report=WATCHED_BETTER)), Abort)
    assert isinstance(decide(snapshot(state, 41, report=WATCHED_WORSE)), Hold)


def test_comparing_the_other_way_round_swaps_better_and_worse():
    seen = snapshot(shadowing(), 21, report=report(paired(better=3.0, worse=1.0)))
    one, other = compare(seen, 1, 2), compare(seen, 2, 1)
    assert (one.log_better, one.log_worse) == (other.log_worse, other.log_better) == (1.0, 3.0)
    assert (one.loss, one.other_loss) == (other.other_loss, other.loss) == (0.12, 0.11)


def test_promotion_keeps_the_old_champion_running_along():
    seen = snapshot(canarying(0.5, 24), 25, report=BETTER)
    state = apply(decide(seen), seen)
    assert (state.stage, state.champion, state.previous) == ("watch", 2, 1)
