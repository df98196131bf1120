"""What holds for every snapshot, likely or not."""

import math
import pickle
from dataclasses import replace

from hypothesis import given

from hapredict.control.actions import (
    Abort,
    EnsureTraining,
    Hold,
    Promote,
    RollBack,
    Train,
    apply,
)
from hapredict.control.decide import decide
from hapredict.control.rollout import compare
from hapredict.monitoring.report import MonitorReport, Paired
from tests.support.control import check_state
from tests.support.snapshots import snapshots


@given(snapshots)
def test_every_snapshot_has_one_action_that_says_why_and_fits_the_catalog(seen):
    action = decide(seen)
    assert action.reason
    check_state(apply(action, seen))
    assert decide(pickle.loads(pickle.dumps(seen))) == action  # noqa: S301 - our own bytes


@given(snapshots)
def test_a_promotion_rests_on_live_labels_that_do_not_speak_against_it(seen):
    action, state = decide(seen), seen.catalog
    if isinstance(action, Promote):
        assert state.champion is not None
        assert state.challenger is not None
        evidence = compare(seen, state.challenger, state.champion)
        assert evidence.labels >= seen.rules.shadow_labels_min
        assert evidence.log_worse < math.log(seen.rules.evidence_min)


@given(snapshots)
def test_no_training_begins_beside_another_and_none_at_all_while_paused(seen):
    action, state = decide(seen), seen.catalog
    if isinstance(action, Train):
        assert not state.training
        assert state.stage in {"empty", "steady"}
    if isinstance(action, EnsureTraining):
        assert action.run == state.training
    paused = replace(seen, catalog=replace(state, paused="a sale is on"))
    assert isinstance(decide(paused), Hold)


@given(snapshots)
def test_a_challenger_that_is_surely_worse_never_stays(seen):
    state = seen.catalog
    if state.challenger is None or state.paused or state.failed_trainings or state.training:
        return
    low, high = sorted((state.champion, state.challenger))
    worse, better = (50.0, 0.0) if state.challenger == high else (0.0, 50.0)
    pair = Paired(low, high, 1000, better, worse, 0.1, 0.1)
    action = decide(
        replace(seen, report=MonitorReport("flights", version=state.champion, paired=(pair,)))
    )
    assert isinstance(action, Abort | RollBack)


@given(snapshots)
def test_while_nothing_new_is_seen_deciding_comes_to_rest(seen):
    for _ in range(12):
        state = apply(decide(seen), seen)
        if state == seen.catalog:
            return
        seen = replace(seen, catalog=state, sequence=seen.sequence + 1)
    raise AssertionError(f"still deciding: {decide(seen)}")
