"""Two controllers, every order of their steps: only the one with the newer term ever acts.

All schedules of a few steps are tried, and in each step the other controller may act once or twice
at its weak points: between looking and writing, and between writing and doing.
"""

from itertools import count, pairwise, product

import pytest

from hapredict.control.loop import step
from hapredict.errors import Conflict, LeaseLost
from tests.support.world import Controller, World

names = (f"fencing{number}" for number in count())
ROUNDS = 3
MEANWHILE = (("", 0), ("looked", 1), ("looked", 2), ("written", 1), ("written", 2))
"""Where the other one acts, and how often."""
SCHEDULES = tuple(product(*[tuple(product("ab", MEANWHILE))] * ROUNDS))


class Interrupted(Controller):
    """A controller that is suspended once, while `other` acts."""

    def __init__(self, world: World, name: str, term: int) -> None:
        super().__init__(world, name, term)
        self.other: Interrupted | None = None
        self.meanwhile = ("", 0)
        self.over = False

    def act(self) -> None:
        """One step, unless its lease was lost: then it has stopped for good."""
        if self.over:
            return
        try:
            step(self, self.term)
        except LeaseLost:
            self.over = True
        except Conflict:
            return

    def observe(self):
        found = super().observe()
        self._suspended("looked")
        return found

    def start_training(self, run: str, trigger: str) -> None:
        self._suspended("written")
        super().start_training(run, trigger)

    def _suspended(self, where: str) -> None:
        at, steps = self.meanwhile
        if at == where and self.other is not None:
            self.meanwhile = ("", 0)
            for _ in range(steps):
                self.other.act()


@pytest.mark.parametrize("first", [0, 1])
def test_whatever_the_order_one_of_two_controllers_decides(first):
    taken_over = 0
    for schedule in SCHEDULES[first::2]:
        world = World(next(names), seed=1)
        world.store._chance.random = lambda: 1.0  # no answer gets lost
        both = {"a": Interrupted(world, "a", 1), "b": Interrupted(world, "b", 2)}
        both["a"].other, both["b"].other = both["b"], both["a"]
        both["a"].act()  # term 1 reigns when the story begins
        for name, meanwhile in schedule:
            both[name].meanwhile = meanwhile
            both[name].act()

        history = world.history()
        assert [entry.sequence for entry in history] == list(range(1, len(history) + 1))
        for before, after in pairwise(history):
            assert after.term >= before.term
            assert (after.term > before.term) == (after.action == "TakeOver")
        assert all({1: "a", 2: "b"}[entry.term] == entry.actor for entry in history)
        begun = [entry.state.training for entry in history if entry.action == "Train"]
        assert len(begun) == len(set(begun))
        assert set(world.starts) <= set(begun)
        assert set(world.starts.values()) <= {1}
        taken_over += history[-1].term == 2
    assert taken_over > len(SCHEDULES) / 4
