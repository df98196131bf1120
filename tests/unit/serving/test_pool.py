"""What a pool keeps loaded and whom it looks at: rules on values."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hapredict.serving.pool import SPARE, Registry, Rota

MAX = 1000


@dataclass
class Model:
    name: str
    memory_bytes: int = 100
    used_s: float = 0.0
    requests: int = 0

    @property
    def busy(self):
        return self.requests > 0


class Pool(RuleBasedStateMachine):
    """Loads, requests and growth in any order."""

    def __init__(self):
        super().__init__()
        self.registry = Registry(MAX)
        self.clock = 0.0
        self.newest = None
        self.made = 0

    def some(self, data):
        return data.draw(st.sampled_from(sorted(self.registry, key=lambda model: model.name)))

    def trimmed(self, keep=()):
        before = list(self.registry)
        needed = self.registry.memory_bytes > MAX
        gone = self.registry.trim(keep)
        assert not any(model.busy or model.name in keep for model in gone)
        assert needed or not gone
        assert gone == sorted(gone, key=lambda model: model.used_s)
        left = [model for model in before if model not in gone]
        idle = [model for model in left if not model.busy and model.name not in keep]
        assert all(one.used_s <= other.used_s for one in gone for other in idle)
        assert list(self.registry) == left
        if gone:  # and none was let go in vain
            spared = self.registry.memory_bytes + gone[-1].memory_bytes
            assert spared > (1 - SPARE) * MAX - 1

    @rule(size=st.integers(1, 2 * MAX))
    def load(self, size):
        self.clock += 1
        self.made += 1
        self.newest = f"m{self.made}"
        self.registry.add(Model(self.newest, size, self.clock))
        self.trimmed({self.newest})

    @precondition(lambda self: len(self.registry))
    @rule(data=st.data())
    def request(self, data):
        self.clock += 1
        model = self.some(data)
        model.requests += 1
        model.used_s = self.clock

    @precondition(lambda self: any(model.busy for model in self.registry))
    @rule(data=st.data())
    def answer(self, data):
        busy = sorted((m for m in self.registry if m.busy), key=lambda model: model.name)
        data.draw(st.sampled_from(busy)).requests -= 1
        self.trimmed({self.newest})

    @precondition(lambda self: len(self.registry))
    @rule(data=st.data(), size=st.integers(1, MAX))
    def grow(self, data, size):
        self.some(data).memory_bytes += size
        self.trimmed({self.newest})

    @invariant()
    def the_bound_holds_unless_the_rest_is_busy_or_one_alone_is_larger(self):
        if self.registry.memory_bytes > MAX:
            others = [model for model in self.registry if model.name != self.newest]
            assert all(model.busy for model in others)


TestPool = Pool.TestCase


def test_an_eviction_leaves_room_for_the_next_load():
    registry = Registry(MAX)
    for place in range(10):
        registry.add(Model(f"m{place}", 100, place))
    assert registry.trim() == []
    registry.add(Model("next", 100, 10))
    assert [model.name for model in registry.trim({"next"})] == ["m0", "m1"]
    registry.add(Model("after", 100, 11))
    assert registry.trim({"after"}) == []


def test_one_model_that_is_larger_than_the_pool_is_served_alone():
    registry = Registry(MAX)
    registry.add(Model("small", 100, 0))
    registry.add(Model("large", 5 * MAX, 1))
    assert [model.name for model in registry.trim({"large"})] == ["small"]
    assert [model.name for model in registry] == ["large"]


def looks(rota, until_s, *, took_s=0.001, news=()):
    """When each name is looked at, by a thread that does nothing else."""
    seen, now_s = {}, 0.0
    while now_s < until_s:
        name = rota.take(now_s)
        if name is None:
            now_s += max(rota.wait_s(now_s), 1e-3)
            continue
        seen.setdefault(name, []).append(now_s)
        now_s += took_s
        rota.looked(name, now_s, took_s, news=name in news)
    return seen


@given(count=st.integers(1, 300), took_s=st.floats(1e-5, 0.05))
def test_each_is_looked_at_in_turn_and_in_no_more_than_its_share_of_the_time(count, took_s):
    rota = Rota(0.5, share=0.1)
    rota.follow((f"m{place}" for place in range(count)), 0.0)
    period_s = max(0.5, count * took_s / 0.1)
    seen = looks(rota, 20 * period_s, took_s=took_s)
    assert len(seen) == count
    counts = [len(times) for times in seen.values()]
    assert max(counts) - min(counts) <= 2
    spent_s = sum(counts) * took_s
    assert spent_s <= 0.1 * 20 * period_s * 1.2 + count * took_s


def test_who_has_news_is_looked_at_often_and_the_quiet_ones_rarely():
    rota = Rota(0.5, quiet_s=30.0)
    rota.follow(("busy", "quiet"), 0.0)
    seen = looks(rota, 300.0, news={"busy"})
    assert len(seen["busy"]) > 500
    assert 8 < len(seen["quiet"]) < 20
    rota.wake("quiet", 300.0)
    assert "quiet" in {rota.take(300.0), rota.take(300.0)}


def test_who_is_followed_no_longer_is_not_looked_at():
    rota = Rota(0.5)
    rota.follow(("a", "b"), 0.0)
    rota.follow(("b", "c"), 0.0)
    rota.wake("a", 1.0)
    rota.looked("a", 1.0, 0.001)
    assert {rota.take(1.0), rota.take(1.0), rota.take(1.0)} == {"b", "c", None}
