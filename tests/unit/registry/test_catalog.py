"""States of the catalog and the moves between them."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import GateRefused, LeaseLost
from hapredict.registry import catalog
from hapredict.registry.catalog import CatalogState, Version

EMPTY = CatalogState("m")


def version(number, **changes):
    fields = {
        "number": number,
        "digest": f"d{number}",
        "run": f"run-{number}",
        "published_s": 10.0 * number,
        "trained_until_s": 9.0 * number,
        "metrics": {"auc": 0.5 + number / 100},
    }
    return Version(**{**fields, **changes})


def published(count):
    state = EMPTY
    for number in range(1, count + 1):
        state = catalog.publish(state, version(number))
    return state


def in_stage(stage):
    if stage == "empty":
        return EMPTY
    steady = published(2)
    if stage == "steady":
        return steady
    shadow = catalog.shadow(steady, 2, 20.0)
    if stage == "shadow":
        return shadow
    canary = catalog.share(shadow, 0.1, 30.0)
    return canary if stage == "canary" else catalog.promote(canary, 40.0)


def test_the_first_version_is_champion_at_once():
    state = published(1)
    assert (state.champion, state.stage, state.stage_since_s) == (1, "steady", 10.0)


def test_a_later_version_waits_to_be_tried():
    state = published(2)
    assert (state.champion, state.challenger, state.stage) == (1, None, "steady")


def test_a_challenger_goes_from_shadow_over_canary_to_champion_and_settles():
    state = catalog.shadow(published(2), 2, 20.0)
    assert (state.stage, state.challenger, state.share, state.stage_since_s) == ("shadow", 2, 0, 20)
    state = catalog.share(state, 0.1, 30.0)
    assert (state.stage, state.share, state.stage_since_s) == ("canary", 0.1, 30)
    state = catalog.share(state, 0.5, 40.0)
    assert (state.stage, state.share, state.stage_since_s) == ("canary", 0.5, 40)
    state = catalog.promote(state, 50.0)
    assert (state.stage, state.champion, state.challenger, state.previous) == ("watch", 2, None, 1)
    assert (state.share, state.stage_since_s) == (0, 50)
    state = catalog.settle(state, 60.0)
    assert (state.stage, state.champion, state.previous) == ("steady", 2, 1)


@pytest.mark.parametrize("stage", ["shadow", "canary"])
def test_an_aborted_challenger_changes_nothing_for_the_champion(stage):
    state = catalog.abort(in_stage(stage), 50.0)
    assert (state.stage, state.champion, state.challenger, state.share) == ("steady", 1, None, 0)


@pytest.mark.parametrize("stage", ["watch", "shadow", "canary"])
def test_rolling_back_restores_a_champion_and_drops_a_challenger(stage):
    before = in_stage(stage)
    if stage != "watch":
        before = replace(catalog.publish(before, version(3)), champion=3, previous=1)
    state = catalog.roll_back(before, 50.0, freeze="it was worse")
    assert (state.stage, state.champion, state.challenger, state.share) == ("steady", 1, None, 0)
    assert state.frozen == "it was worse"


def test_rolling_back_twice_does_not_restore_the_bad_one_unless_it_is_named():
    state = catalog.roll_back(in_stage("watch"), 50.0)
    with pytest.raises(GateRefused, match="no previous champion; name a published version"):
        catalog.roll_back(state, 60.0)
    assert catalog.roll_back(state, 60.0, to=2).champion == 2


def test_a_refused_version_never_serves_again():
    state = catalog.refuse(published(3), 2, "golden rows differ")
    for use in (
        lambda: catalog.shadow(state, 2, 1.0),
        lambda: catalog.roll_back(state, 1.0, to=2),
    ):
        with pytest.raises(GateRefused, match="it was refused: golden rows differ"):
            use()


def test_a_pause_says_why_and_resuming_forgets_failures():
    state = catalog.start_training(published(1), "r", 5.0, 70)
    state = catalog.pause(catalog.end_training(state, failed=True), "trainings fail")
    assert (state.paused, state.failed_trainings) == ("trainings fail", 1)
    state = catalog.resume(replace(state, frozen="rolled back"))
    assert (state.paused, state.frozen, state.failed_trainings) == ("", "", 0)


def test_failed_trainings_are_counted_in_a_row():
    state = EMPTY
    for failed, expected in ((True, 1), (True, 2), (False, 0), (True, 1)):
        state = catalog.start_training(state, "r", 5.0, 70)
        assert (state.training, state.last_training_s, state.labels_at_training) == ("r", 5.0, 70)
        state = catalog.end_training(state, failed=failed)
        assert (state.training, state.failed_trainings) == ("", expected)


ILLEGAL = {
    "a number twice": (published(2), lambda s: catalog.publish(s, version(2)), "number it 3"),
    "a second challenger": (
        catalog.publish(in_stage("shadow"), version(3)),
        lambda s: catalog.shadow(s, 3, 0.0),
        "one challenger at a time",
    ),
    "a trial while another is watched": (
        catalog.publish(in_stage("watch"), version(3)),
        lambda s: catalog.shadow(s, 3, 0.0),
        "from stage steady",
    ),
    "the champion as challenger": (
        published(2),
        lambda s: catalog.shadow(s, 1, 0.0),
        "it is the champion",
    ),
    "an unknown challenger": (
        published(2),
        lambda s: catalog.shadow(s, 7, 0.0),
        "published are 1, 2",
    ),
    "a trial of nothing": (EMPTY, lambda s: catalog.shadow(s, 1, 0.0), "from stage steady"),
    "a share for nobody": (published(2), lambda s: catalog.share(s, 0.5, 0.0), "shadow a version"),
    "a share of nothing": (
        in_stage("canary"),
        lambda s: catalog.share(s, 0.0, 0.0),
        "use promote or abort",
    ),
    "a share of all": (
        in_stage("shadow"),
        lambda s: catalog.share(s, 1.0, 0.0),
        "use promote or abort",
    ),
    "a share of nonsense": (
        in_stage("shadow"),
        lambda s: catalog.share(s, float("nan"), 0.0),
        "0 < share < 1",
    ),
    "promoting nobody": (published(2), lambda s: catalog.promote(s, 0.0), "shadow a version"),
    "aborting nobody": (in_stage("watch"), lambda s: catalog.abort(s, 0.0), "drops a challenger"),
    "settling too early": (in_stage("canary"), lambda s: catalog.settle(s, 0.0), "watch only"),
    "rolling back to nothing": (published(1), lambda s: catalog.roll_back(s, 0.0), "no previous"),
    "rolling back to oneself": (
        published(1),
        lambda s: catalog.roll_back(s, 0.0, to=1),
        "it is the champion",
    ),
    "rolling back to the unknown": (
        EMPTY,
        lambda s: catalog.roll_back(s, 0.0, to=1),
        "published are none",
    ),
    "pausing without reason": (EMPTY, lambda s: catalog.pause(s, ""), "say why"),
    "resuming what runs": (EMPTY, catalog.resume, "neither paused nor frozen"),
    "refusing the champion": (
        published(1),
        lambda s: catalog.refuse(s, 1, "bad"),
        "roll back first",
    ),
    "refusing the challenger": (
        in_stage("shadow"),
        lambda s: catalog.refuse(s, 2, "bad"),
        "abort first",
    ),
    "refusing the unknown": (EMPTY, lambda s: catalog.refuse(s, 2, "bad"), "published are none"),
    "refusing without reason": (published(2), lambda s: catalog.refuse(s, 2, ""), "say why"),
    "training twice": (
        catalog.start_training(EMPTY, "first", 0.0, 0),
        lambda s: catalog.start_training(s, "second", 0.0, 0),
        "run 'first' is in progress",
    ),
    "a run without name": (EMPTY, lambda s: catalog.start_training(s, "", 0.0, 0), "name it"),
    "ending no training": (EMPTY, lambda s: catalog.end_training(s, failed=True), "no run is"),
}


@pytest.mark.parametrize("move", list(ILLEGAL))
def test_an_illegal_move_is_refused_with_the_state_and_what_is_allowed(move):
    state, change, allowed = ILLEGAL[move]
    with pytest.raises(GateRefused) as caught:
        change(state)
    assert f"model 'm' is in stage {state.stage} (champion {state.champion}" in str(caught.value)
    assert allowed in str(caught.value)


def test_an_older_term_is_fenced_off():
    state = catalog.fence(EMPTY, 3)
    assert catalog.fence(state, 3) == state
    with pytest.raises(LeaseLost, match=r"term 2 is over, term 3 is in the catalog"):
        catalog.fence(state, 2)


numbers = st.integers(0, 6)
MOVES = st.one_of(
    st.builds(lambda n: lambda s, t: catalog.publish(s, version(n)), st.integers(1, 12)),
    st.just(lambda s, t: catalog.publish(s, version(max(s.versions, default=0) + 1))),
    st.builds(lambda n: lambda s, t: catalog.shadow(s, n, t), numbers),
    st.builds(lambda x: lambda s, t: catalog.share(s, x, t), st.floats(-0.5, 1.5)),
    st.just(catalog.promote),
    st.just(catalog.settle),
    st.just(catalog.abort),
    st.builds(lambda n: lambda s, t: catalog.roll_back(s, t, n), st.none() | numbers),
    st.builds(lambda n: lambda s, t: catalog.refuse(s, n, "bad"), numbers),
    st.just(lambda s, t: catalog.pause(s, "why")),
    st.just(lambda s, t: catalog.resume(s)),
    st.just(lambda s, t: catalog.start_training(s, "run", t, 5)),
    st.builds(lambda failed: lambda s, t: catalog.end_training(s, failed), st.booleans()),
    st.builds(lambda n: lambda s, t: catalog.fence(s, n), numbers),
)


@given(moves=st.lists(MOVES, max_size=40), warm=st.booleans())
def test_no_sequence_of_moves_leads_to_a_state_that_makes_no_sense(moves, warm):
    state = published(3) if warm else EMPTY
    for time_s, move in enumerate(moves):
        try:
            following = move(state, float(time_s))
        except (GateRefused, LeaseLost):
            continue
        assert set(state.versions) <= set(following.versions)
        assert max(following.versions, default=0) >= max(state.versions, default=0)
        assert following.term >= state.term
        state = following
        assert (state.champion is not None) == bool(state.versions) == (state.stage != "empty")
        assert state.challenger is None or state.challenger != state.champion
        assert state.previous is None or state.previous != state.champion
        assert (state.share > 0) == (state.stage == "canary")
        assert state.share < 1
        assert (state.challenger is not None) == (state.stage in {"shadow", "canary"})
        assert state.stage != "watch" or state.previous is not None
        named = {state.champion, state.challenger, state.previous} - {None}
        assert named <= set(state.versions)
        assert not {state.champion, state.challenger} & set(state.refused)
        assert CatalogState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_a_metric_that_is_not_finite_is_left_out():
    metrics = {"auc": float("nan"), "brier": 0.1, "r2": -float("inf"), "rows": 3}
    assert version(1, metrics=metrics).metrics == {"brier": 0.1, "rows": 3.0}
