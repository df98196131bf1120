"""What is asked when, as steps in a world in which time passes by them alone."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.client.attempts import ATTEMPT_MIN_S, Attempts, Heard, Lost, Pause, Question
from hapredict.client.budget import RetryBudget
from hapredict.errors import (
    BadRequest,
    ClusterUnavailable,
    HapredictError,
    Overloaded,
    TemporaryError,
    TimedOut,
)

QUESTION = Question("POST", "/predict", "one-id", b"{}", {"content-type": "text/plain"})


def answer(status, headers=(), **value):
    return Heard(status, dict(headers), json.dumps(value).encode(), "http://a/predict")


def busy(seconds=1):
    return answer(503, {"retry-after": str(seconds)}, error="busy", type="Overloaded")


REFUSED = Lost(ClusterUnavailable("refused"), at_work=False)
SAID = {
    "fine": answer(200),
    "bad": answer(422, error="no"),
    "busy": busy(0),
    "busy for long": busy(5),
    "proxy": answer(502),
    "refused": REFUSED,
    "silent": None,
}
"""What a node may say; one that is silent takes all the time it is given."""


class World:
    """Nodes that say what a script has, and a clock that goes as far as they take."""

    def __init__(self, script, **options):
        self.now_s = 100.0
        self.script = script
        self.steps = []
        settings = {
            "timeout_s": 1.0,
            "rounds_max": 3,
            "pause_s": 0.2,
            "deadline_s": None,
            "budget": RetryBudget(spare=1000),
            "chance": random.Random(0),
        }
        nodes = options.pop("nodes", 2)
        settings |= options
        urls = [f"http://{name}/" for name in "abcdef"[:nodes]]
        self.attempts = Attempts(urls, clock=lambda: self.now_s, **settings)

    def ask(self, **options):
        """The answer's status; raises what the call raises."""
        steps = self.attempts.ask(QUESTION, self.attempts.deadline(options.get("deadline_s")))
        said = None
        while True:
            try:
                step = steps.send(said)
            except StopIteration as end:
                return end.value.status_code
            self.steps.append((self.now_s, step))
            if isinstance(step, Pause):
                self.now_s += step.pause_s
                said = None
                continue
            what, took_s = self.script(len(self.sends))
            self.now_s += step.within_s if what == "silent" else min(took_s, step.within_s)
            said = SAID[what]
            if said is None or isinstance(said, Lost):
                said = Lost(
                    TimedOut("slow") if said is None else ClusterUnavailable("no"), not said
                )

    def end(self):
        """The answer's status or None, and what was raised or None."""
        try:
            return self.ask(), None
        except HapredictError as error:
            return None, error

    @property
    def sends(self):
        return [step for _, step in self.steps if not isinstance(step, Pause)]


def always(what, took_s=0.01):
    return lambda _: (what, took_s)


def listed(whats, took_s=0.01):
    return lambda count: (whats[min(count, len(whats)) - 1], took_s)


scripts = st.lists(
    st.tuples(st.sampled_from(sorted(SAID)), st.floats(0.001, 2.0)), min_size=1, max_size=8
)


@given(
    script=scripts,
    nodes=st.integers(1, 3),
    deadline_s=st.floats(0, 12),
    timeout_s=st.floats(0.05, 3),
    spare=st.integers(0, 9),
)
def test_whatever_happens_a_call_ends_before_its_deadline(
    script, nodes, deadline_s, timeout_s, spare
):
    world = World(
        lambda count: script[count % len(script)],
        nodes=nodes,
        timeout_s=timeout_s,
        deadline_s=deadline_s,
        budget=RetryBudget(spare=spare),
    )
    end_s = world.now_s + deadline_s
    status, error = world.end()
    assert status in (200, None)
    if error is not None:
        assert error.__notes__[-1] == "X-Request-Id: one-id"
    if error is not None and "within the deadline" in str(error) and world.sends:
        assert isinstance(error, TimedOut)
        assert str(error).endswith(str(error.__cause__))
    assert world.now_s <= end_s + 1e-9
    for began_s, step in world.steps:
        if isinstance(step, Pause):
            assert began_s + step.pause_s <= end_s
            continue
        told_s = int(step.headers["x-deadline-ms"]) / 1000
        assert ATTEMPT_MIN_S <= told_s <= step.within_s <= timeout_s
        assert began_s + step.within_s <= end_s + 1e-9
        assert step.headers["x-request-id"] == "one-id"
        assert step.headers["content-type"] == "text/plain"
        assert step.body == b"{}"


@given(script=scripts, nodes=st.integers(1, 3))
def test_without_a_deadline_each_attempt_has_its_whole_time(script, nodes):
    world = World(lambda count: script[count % len(script)], nodes=nodes)
    _, error = world.end()
    assert "within the deadline" not in str(error)
    assert all(step.within_s == 1.0 for step in world.sends)
    assert len(world.sends) <= 3 * nodes


def test_a_deadline_names_its_last_trouble():
    world = World(always("busy for long"), deadline_s=4.0)
    with pytest.raises(TimedOut, match=r"within the deadline of 4 s; the last trouble: busy") as e:
        world.ask()
    assert isinstance(e.value.__cause__, Overloaded)
    assert len(world.sends) == 2  # a pause of 5 s would not end in time, so it does not begin
    assert not any(isinstance(step, Pause) for _, step in world.steps)


def test_a_call_may_have_a_deadline_of_its_own():
    world = World(always("silent"), deadline_s=60.0, timeout_s=2.0, nodes=1)
    with pytest.raises(TimedOut, match=r"deadline of 3 s; the last trouble: slow"):
        world.ask(deadline_s=3.0)
    assert world.now_s <= 103.0
    assert world.sends[0].within_s == 2.0
    assert world.sends[1].within_s < 1.0
    with pytest.raises(TimedOut, match="no node could be asked"):
        world.ask(deadline_s=0.0)


def test_a_refusal_is_final():
    world = World(always("bad"))
    with pytest.raises(BadRequest):
        world.ask()
    assert len(world.sends) == 1


@pytest.mark.parametrize("what", ["busy", "silent", "proxy"])
def test_an_outage_is_not_made_worse(what):
    """A hundred calls in a moment, each of which could be repeated eleven times."""
    world = World(
        always(what, 0.0), nodes=3, rounds_max=4, timeout_s=0.002, pause_s=0.0, budget=RetryBudget()
    )
    for _ in range(100):
        with pytest.raises(TemporaryError) as caught:
            world.ask()
    passed_s = world.now_s - 100.0
    assert len(world.sends) <= 100 + 10 + 0.2 * 100 + passed_s
    assert "retry budget is used up" in caught.value.__notes__[0]


def test_a_node_that_is_gone_costs_no_budget():
    world = World(always("refused"), nodes=2, rounds_max=4, budget=RetryBudget(spare=0, per_s=0))
    with pytest.raises(ClusterUnavailable):
        world.ask()
    assert len(world.sends) == 8


def test_fail_over_to_a_node_that_works_goes_on_when_the_budget_is_empty():
    whats = ["refused", "fine", "fine"]
    world = World(listed(whats), budget=RetryBudget(share=0, spare=0, per_s=0))
    assert (world.ask(), world.ask()) == (200, 200)
    assert [step.url for step in world.sends] == [
        "http://a/predict",
        "http://b/predict",
        "http://b/predict",
    ]
