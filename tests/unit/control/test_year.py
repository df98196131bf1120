"""A year of control, simulated: outages, restarts, clocks that jump, and a dead man who comes back.

What is asserted is read from the history that the year leaves behind, as an auditor would read it.
"""

from itertools import count, pairwise

import pytest

from hapredict.control.loop import step
from hapredict.errors import LeaseLost, TemporaryError
from hapredict.registry import catalog
from hapredict.registry.catalog import Entry
from hapredict.sections import DAY_S
from tests.support.control import check_state
from tests.support.world import TICK_S, Controller, World, write

PLAN = ("good", "worse", "good", "refused", "crash", "turns bad", "good")
CHANGES = (40.0, 150.0, 260.0)
JUMPS = 0.005
"""The chance of a jump of the clock in a tick: about 15 a year."""
ENDS_A_RUN = {"Install", "StartShadow", "RejectRun"}

names = (f"year{number}" for number in count())


def live_through(world: World, days: float) -> None:
    """Let controllers decide for so many days; each invariant is checked at each tick."""
    chance, terms = world.chance, count(2)
    alive, outage_ticks = [Controller(world, "c1", 1)], 0
    for _ in range(int(days * DAY_S / TICK_S)):
        world.advance()
        outage_ticks = max(0, outage_ticks - 1)
        if chance.random() < 0.01:
            outage_ticks = chance.randint(1, 16)
        world.store.down = outage_ticks > 0
        if chance.random() < JUMPS:
            world.jump(chance.uniform(-1.0, 1.0))
        if chance.random() < 0.01:
            replace_controller(world, alive, next(terms))
        for controller in chance.sample(alive, len(alive)):
            try:
                step(controller, controller.term)
            except LeaseLost:
                alive.remove(controller)
            except TemporaryError:
                continue
        assert len(world.running) <= 1
        act_as_a_person(world)


def replace_controller(world: World, alive: list[Controller], term: int) -> None:
    """Start a new controller. The old one dies with its training, or is a zombie from now on."""
    old = alive[-1]
    if world.chance.random() < 0.5:
        alive.clear()
        world.kill(old.name)
    elif not world.store.down:
        old.stale = old.observe()
    alive.append(Controller(world, f"c{term}", term))


def act_as_a_person(world: World) -> None:
    """Resume five days after a freeze or a pause."""
    state = world.state()
    since_s = world.now_s - state.stage_since_s
    if (state.frozen or state.paused) and since_s > 5 * DAY_S:
        write(world, catalog.resume, "Resume")


@pytest.fixture(scope="module", params=[1, 2, 3])
def year(request) -> World:
    world = World(next(names), request.param, PLAN, CHANGES)
    live_through(world, 365)
    return world


def outcome_of(world: World, entry: Entry, number: int | None) -> str:
    assert number is not None
    return world.outcomes[entry.state.versions[number].run]


def steps_of(world: World) -> list[tuple[Entry, Entry]]:
    return list(pairwise(world.history()))


def test_every_state_is_sound_and_every_step_says_why(year):
    for number, entry in enumerate(year.history(), 1):
        check_state(entry.state)
        assert entry.sequence == number
        assert entry.reason


def test_a_year_sees_every_kind_of_step(year):
    actions = {entry.action for entry in year.history()}
    assert actions >= {
        *("TakeOver", "Train", "RejectRun", "Install", "StartShadow", "SetShare"),
        *("Promote", "Abort", "RollBack", "Settle", "Resume"),
    }


def test_a_worse_challenger_is_aborted_and_never_answers_alone(year):
    aborted = [
        outcome_of(year, before, before.state.challenger)
        for before, after in steps_of(year)
        if after.action == "Abort"
    ]
    assert "worse" in aborted
    champions = {
        outcome_of(year, entry, entry.state.champion)
        for entry in year.history()
        if entry.state.champion
    }
    assert "worse" not in champions


def test_a_good_challenger_is_promoted_by_steps_of_its_share(year):
    promoted = 0
    share, outcomes = 0.0, []
    for _, after in steps_of(year):
        if after.action == "StartShadow":
            share = 0.0
        if after.action == "SetShare":
            assert after.state.share > share
            share = after.state.share
        if after.action == "Promote":
            assert share == max(year.rules.canary_shares)
            promoted += 1
            outcomes.append(outcome_of(year, after, after.state.champion))
    assert promoted >= 3
    assert "good" in outcomes


def test_a_champion_that_turns_bad_is_rolled_back_and_trainings_freeze(year):
    back = [(one, two) for one, two in steps_of(year) if two.action == "RollBack"]
    (before, after) = back[0]
    assert outcome_of(year, before, before.state.champion) == "turns bad"
    assert after.state.champion == before.state.previous
    assert "is worse than" in after.state.frozen
    # it turned bad two days after its promotion; outages may take two days more
    assert after.event_s - before.state.stage_since_s < 5 * DAY_S
    frozen = False
    for entry in year.history():
        assert not (frozen and entry.action == "Train")
        frozen = bool(entry.state.frozen)


def test_each_training_begins_once_and_ends_once(year):
    begun = [after.state.training for _, after in steps_of(year) if after.action == "Train"]
    assert len(begun) == len(set(begun)) >= 7
    ended = [
        before.state.training for before, after in steps_of(year) if after.action in ENDS_A_RUN
    ]
    assert ended == begun[: len(ended)]
    assert len(begun) - len(ended) <= 1
    assert set(year.starts) <= set(begun)


def test_trainings_keep_their_distance(year):
    trained_s = [
        after.event_s
        for before, after in steps_of(year)
        if after.action == "Train" and before.state.champion
    ]
    cooldown_s = year.rules.cooldown_days * DAY_S
    assert all(two - one >= cooldown_s for one, two in pairwise(trained_s))


def test_terms_never_fall_and_each_begins_with_a_take_over(year):
    for before, after in steps_of(year):
        assert after.term >= before.term
        if after.term > before.term:
            assert after.action == "TakeOver"


def test_predictions_are_better_for_it(year):
    never = sum(0.12 + 0.06 * sum(day >= change for change in CHANGES) for day in range(365)) / 365
    assert year.loss_sum / year.answers < 0.7 * never


def test_a_quiet_year_holds_to_the_schedule():
    world = World(next(names), 7)
    live_through(world, 200)
    triggers = {entry.action for entry in world.history()}
    assert "RollBack" not in triggers
    trained = [entry for entry in world.history() if entry.action == "Train"]
    assert all(entry.reason.startswith(("v", "drift", "there is no")) for entry in trained)
    assert 4 <= len(trained) <= 14
