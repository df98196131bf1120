"""The loop writes first and acts afterwards, outlives trouble and yields to a newer term."""

from itertools import count

import pytest

from hapredict.control.actions import EnsureTraining, Hold, TakeOver, Train
from hapredict.control.loop import run, step
from hapredict.errors import Conflict, LeaseLost, StoreUnavailable
from hapredict.registry import catalog
from tests.support.world import MODEL, Controller, World, write

names = (f"loop{number}" for number in count())


@pytest.fixture
def world() -> World:
    made = World(next(names), seed=1)
    made.store._chance.random = lambda: 1.0  # no answer gets lost
    return made


@pytest.fixture
def controller(world) -> Controller:
    return Controller(world, "a", term=1)


class Driver:
    """What `run` needs besides its cluster: it notes waits and words and stops in time."""

    def __init__(self, waits: int) -> None:
        self.waits: list[float] = []
        self.told: list[str] = []
        self.beats = 0
        self._left = waits

    def drive(self, controller, **changes) -> None:
        run(
            controller,
            term=controller.term,
            beat=changes.get("beat", self.beat),
            stop=lambda: len(self.waits) >= self._left,
            sleep=changes.get("sleep", self.waits.append),
            tell=lambda action: self.told.append(action.reason),
            tick_s=2.0,
            wait_s_max=10.0,
        )

    def beat(self) -> None:
        self.beats += 1


def test_a_new_owner_writes_its_term_before_anything_else(world, controller):
    assert step(controller, 1) == TakeOver(reason="a controller begins term 1", term=1)
    assert world.state().term == 1
    assert isinstance(step(controller, 1), Train)


def test_a_training_is_written_down_before_it_starts(world, controller):
    step(controller, 1)

    def nothing_runs_yet() -> None:
        assert not world.running

    controller.before_append = nothing_runs_yet
    step(controller, 1)
    assert world.state().training == "run-00000002"
    assert list(world.running) == ["run-00000002"]


def test_a_training_whose_controller_died_before_starting_it_is_started_by_the_next(
    world, controller
):
    step(controller, 1)

    def die(run: str, trigger: str) -> None:
        raise StoreUnavailable("this controller died here")

    controller.start_training = die
    with pytest.raises(StoreUnavailable):
        step(controller, 1)
    successor = Controller(world, "b", term=2)
    assert isinstance(step(successor, 2), TakeOver)
    assert isinstance(step(successor, 2), EnsureTraining)
    assert list(world.running) == ["run-00000002"]
    assert isinstance(step(successor, 2), Hold)


def test_an_entry_that_was_written_though_the_store_gave_no_answer_is_acted_on(world, controller):
    step(controller, 1)
    world.store._chance.random = lambda: 0.0
    with pytest.raises(StoreUnavailable):
        step(controller, 1)
    assert not world.running
    assert isinstance(step(controller, 1), EnsureTraining)
    assert world.starts == {"run-00000002": 1}


def test_a_racing_writer_wins_and_nothing_is_started(world, controller):
    step(controller, 1)
    controller.before_append = lambda: write(
        world, lambda state: catalog.pause(state, "a sale is on"), "Pause"
    )
    with pytest.raises(Conflict):
        step(controller, 1)
    assert not world.running
    assert step(controller, 1) == Hold(reason="paused: a sale is on")


def test_an_owner_that_sees_a_newer_term_stops(world, controller):
    step(controller, 1)
    step(Controller(world, "b", term=2), 2)
    with pytest.raises(LeaseLost, match="term 2"):
        step(controller, 1)


def test_an_owner_that_was_suspended_between_looking_and_writing_writes_nothing(world, controller):
    step(controller, 1)
    controller.stale = controller.observe()  # it looks, decides to train, and is suspended
    step(Controller(world, "b", term=2), 2)
    entries = len(world.history())
    with pytest.raises((Conflict, LeaseLost)):
        step(controller, 1)
    assert len(world.history()) == entries
    assert not world.running


def test_holding_writes_nothing(world, controller):
    for _ in range(5):
        step(controller, 1)
    assert [entry.action for entry in world.history()] == ["TakeOver", "Train"]


def test_history_says_who_decided_what_when_and_why(world, controller):
    step(controller, 1)
    step(controller, 1)
    entry = world.history()[-1]
    assert (entry.action, entry.reason, entry.actor) == ("Train", "there is no model yet", "a")
    assert (entry.event_s, entry.term, entry.state.model) == (world.now_s, 1, MODEL)


def test_running_beats_before_each_step_and_tells_each_reason_once(controller):
    driver = Driver(waits=6)
    driver.drive(controller)
    assert driver.beats == 6
    assert driver.waits == [2.0] * 6
    assert driver.told == [
        "a controller begins term 1",
        "there is no model yet",
        "run-00000002 is in progress",
    ]


def test_running_outlives_an_outage_and_waits_longer_each_time(world, controller):
    driver = Driver(waits=7)

    def sleep(wait_s: float) -> None:
        driver.waits.append(wait_s)
        world.store.down = 2 <= len(driver.waits) <= 5

    driver.drive(controller, sleep=sleep)
    assert driver.waits == [2.0, 2.0, 4.0, 8.0, 10.0, 10.0, 2.0]
    assert driver.told[2] == "trying again in 4 s: the simulated store is down"
    assert driver.told[-1] == "run-00000002 is in progress"


def test_running_outlives_a_lease_that_cannot_be_renewed_for_a_while(controller):
    driver = Driver(waits=2)

    def beat() -> None:
        raise StoreUnavailable("no answer")

    driver.drive(controller, beat=beat)
    assert driver.waits == [4.0, 8.0]


def test_running_looks_again_soon_after_another_writer_was_faster(world, controller):
    def race() -> None:
        controller.before_append = lambda: None
        write(world, lambda state: catalog.pause(state, "a sale is on"), "Pause")

    driver = Driver(waits=2)
    step(controller, 1)
    controller.before_append = race
    driver.drive(controller)
    assert driver.waits == [2.0, 2.0]
    assert driver.told[0].startswith("another writer was faster")
    assert driver.told[1] == "paused: a sale is on"


def test_running_ends_when_the_lease_is_lost(world, controller):
    step(Controller(world, "b", term=2), 2)
    driver = Driver(waits=9)
    with pytest.raises(LeaseLost):
        driver.drive(controller)
    assert driver.waits == []
