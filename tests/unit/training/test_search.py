"""What a search tries next, who wins, and when that counts as a gain."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.sections import TrainingSpec, TuningSpec
from hapredict.training.search import STARTUP_TRIALS, Trial, compare, propose, too_slow, winner
from hapredict.training.space import Space, key_of, space_of

MLP = TrainingSpec(dropout=0.1)
SMALL = Space({"mlp": {"dropout": (0.0, 0.1, 0.2), "hidden": ((8,), (16,))}}, {"family": "mlp"})


def finished(number, values, loss, **more):
    return Trial(number, values, "finished", share=1.0, loss=loss, reports=((1.0, loss),), **more)


def run(space, loss_of, trials, seed=0, **more):
    """A search in which each trial finishes at once."""
    done = []
    for number in range(trials):
        values = propose(space, done, seed, more.get("limit"))
        if values is None:
            break
        done.append(
            finished(number, values, loss_of(values), **more.get("told", lambda _: {})(values))
        )
    return done


def test_the_first_trial_has_the_specs_own_settings():
    space = space_of(MLP, TuningSpec(families=("trees",)))
    assert propose(space, [], 0) == space.own
    assert space.own["family"] == "mlp"


@settings(max_examples=4)
@given(st.integers(0, 1000))
def test_a_proposal_depends_on_the_trials_and_the_seed_alone(seed):
    space = space_of(MLP, TuningSpec(families=("linear", "trees")))

    def loss_of(values):
        return len(key_of(values)) % 7

    done = run(space, loss_of, 12, seed)
    assert done == run(space, loss_of, 12, seed)


def test_no_settings_are_tried_twice_and_all_are_tried_in_the_end():
    space = replace(SMALL, own={"family": "mlp", "dropout": 0.1, "hidden": (8,)})
    done = run(space, lambda values: values["dropout"], 100)
    assert len(done) == space.size
    assert len({key_of(trial.settings) for trial in done}) == len(done)


def test_own_settings_outside_of_the_space_do_not_use_it_up():
    space = replace(SMALL, own={"family": "mlp", "dropout": 0.5, "hidden": (8,)})
    assert len(run(space, lambda values: values["dropout"], 100)) == space.size + 1


def far(values):
    """How far settings of trees are from the best ones."""
    wanted = (0.25, 0.66, 0.0, 0.5, 1.0, 0.5)
    places = [choices.index(values[name]) / (len(choices) - 1) for name, choices in TREES.items()]
    return sum(abs(place - best) for place, best in zip(places, wanted, strict=True))


TREES = space_of(MLP, TuningSpec(families=("trees",))).families["trees"]
FOREST = Space({"trees": TREES}, {"family": "trees"} | {name: c[0] for name, c in TREES.items()})


def test_what_did_well_is_tried_more_often():
    done = run(FOREST, far, 30)
    later = [trial.loss for trial in done[STARTUP_TRIALS:]]
    by_chance = np.mean([far(settings) for settings in FOREST])
    assert np.mean(later) < 0.7 * by_chance
    assert min(later) < min(trial.loss for trial in done[:STARTUP_TRIALS])


def test_settings_that_are_too_slow_are_tried_less_often_and_never_win():
    def slow(values):
        return values["trees.depth_max"] < 6

    def search(limit_ms):
        return run(
            FOREST,
            lambda values: far(values) - slow(values),
            24,
            limit=limit_ms,
            told=lambda values: {"latency_ms": 2.0 if slow(values) else 0.5},
        )

    free, limited = search(None), search(1.0)
    tried = [
        sum(slow(trial.settings) for trial in done[STARTUP_TRIALS:]) for done in (free, limited)
    ]
    assert tried[1] < tried[0] / 2
    assert slow(winner(free).settings)
    assert not slow(winner(limited, 1.0).settings)


def test_trials_that_failed_were_stopped_or_run_do_not_stop_the_search():
    space = space_of(MLP, TuningSpec())
    done = run(space, lambda values: values["dropout"], 12)
    for number, state in ((3, "failed"), (5, "stopped"), (11, "running")):
        reports = ((0.1, 0.7),) if state == "stopped" else ()
        done[number] = replace(done[number], state=state, loss=None, reports=reports)
    assert propose(space, done, 0) in space


def test_the_winner_finished_in_time_and_the_first_of_equals_stays():
    own, other = {"family": "mlp"}, {"family": "linear"}
    trials = [
        finished(0, own, 0.5, latency_ms=1.0),
        finished(1, other, 0.4, latency_ms=9.0),
        finished(2, other, 0.5, latency_ms=1.0),
        Trial(3, other, "stopped", loss=0.1),
        Trial(4, other, "failed", loss=0.1),
        Trial(5, other, "running", loss=0.1),
    ]
    assert winner(trials).number == 1
    assert winner(trials, 5.0).number == 0
    assert winner(trials, 0.5) is None
    assert winner([]) is None
    assert [too_slow(trial, 5.0) for trial in trials[:2]] == [False, True]


def test_a_trial_comes_back_from_json():
    trial = Trial(
        2, {"family": "mlp", "hidden": (8, 8)}, reports=((0.5, 0.3), (1.0, 0.2)), loss=0.2
    )
    assert Trial.from_json({**trial.to_json(), "reports": [[0.5, 0.3], [1.0, 0.2]]}) == trial


def labelled(rows, seed, gain):
    """Labels of a binary task and the scores of two models, of which the second gains so much."""
    chance = np.random.default_rng(seed)
    truth = chance.random(rows)
    labels = (chance.random(rows) < truth).astype(float)
    first = np.clip(truth + chance.normal(0, 0.2, rows), 0.01, 0.99)
    second = first + gain * (truth - first)
    return labels, first[:, None], second[:, None]


def test_a_gain_beyond_doubt_is_better_and_the_other_way_round_worse():
    labels, own, tuned = labelled(4000, 1, 0.5)
    gain = compare("binary", labels, {0: own}, {0: tuned})
    loss = compare("binary", labels, {0: tuned}, {0: own})
    assert (gain.outcome, loss.outcome) == ("better", "worse")
    assert gain.low < gain.difference < gain.high < 0
    assert loss.difference == pytest.approx(-gain.difference)
    assert "better than the spec's own settings: loss on 4000 hold-out rows" in gain.sentence


def test_few_rows_prove_nothing():
    labels, own, tuned = labelled(40, 1, 1.0)
    assert compare("binary", labels, {0: own}, {0: tuned}).outcome == "not better"
    one = compare("binary", labels[:1], {0: own[:1]}, {0: tuned[:1]})
    assert one.outcome == "not better"


def test_equal_models_are_not_better():
    labels, own, _ = labelled(500, 1, 0)
    found = compare("binary", labels, {0: own, 1: own}, {0: own, 1: own})
    assert (found.outcome, found.difference, found.by_seed) == ("not better", 0.0, (0.0, 0.0))


@settings(max_examples=5)
@given(st.integers(0, 50))
def test_a_gain_where_there_is_none_is_seldom_claimed(first_seed):
    claims = 0
    for seed in range(first_seed * 100, first_seed * 100 + 100):
        labels, own, _ = labelled(200, seed, 0)
        noise = np.random.default_rng(seed + 1).normal(0, 0.05, own.shape)
        sign = np.random.default_rng(seed + 2).choice([-1, 1], own.shape)
        one, other = np.clip(own + noise, 0, 1), np.clip(own + sign * noise, 0, 1)
        claims += compare("binary", labels, {0: one}, {0: other}).outcome == "better"
    # 2.5 in 100 are expected; 11 would come once in fifty thousand times
    assert claims < 11


def test_each_seed_counts_alike():
    labels, own, tuned = labelled(1000, 3, 0.4)
    both = compare("binary", labels, {0: own, 1: own}, {0: tuned, 1: own})
    alone = compare("binary", labels, {0: own}, {0: tuned})
    assert both.difference == pytest.approx(alone.difference / 2)
    assert both.by_seed == pytest.approx((alone.difference, 0.0))
