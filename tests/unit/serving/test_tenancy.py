"""Loading once, failing once, closing in order; the threads are real, the models are not."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from hapredict.errors import StoreUnavailable, TimedOut, UnknownName
from hapredict.serving import tenancy
from hapredict.serving.tenancy import Tenancy
from tests.unit.serving.test_pool import Model


class Loader:
    """Loads models of 100 bytes; `fails` says how the next loads of a name end."""

    def __init__(self, bytes_max=1000):
        self.log = []
        self.fails = {}
        self.clock = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.tenancy = Tenancy(
            bytes_max,
            load=self.load,
            close=lambda model: self.log.append(("closed", model.name)),
            came=lambda model: self.log.append(("came", model.name)),
            went=lambda model: self.log.append(("went", model.name)),
            clock=lambda: self.clock,
            threads=ThreadPoolExecutor(2),
        )

    def load(self, name):
        self.gate.wait(10)
        self.log.append(("load", name))
        if name in self.fails:
            raise self.fails[name]
        return Model(name, 100, time.monotonic())

    def count(self, what, name):
        return self.log.count((what, name))


def test_a_hundred_who_ask_for_a_cold_model_have_it_loaded_once():
    async def main():
        loader = Loader()
        found = await asyncio.gather(*(loader.tenancy.get("a") for _ in range(100)))
        assert len({id(model) for model in found}) == 1
        assert loader.count("load", "a") == 1

    asyncio.run(main())


def test_a_load_that_fails_is_told_to_who_asked_and_tried_again_later():
    async def main():
        loader = Loader()
        loader.fails["a"] = StoreUnavailable("away")
        told = await asyncio.gather(
            *(loader.tenancy.get(name) for name in "aaab"), return_exceptions=True
        )
        assert [type(one) for one in told] == [StoreUnavailable] * 3 + [Model]
        with pytest.raises(StoreUnavailable):
            await loader.tenancy.get("a")
        assert loader.count("load", "a") == 1
        loader.clock, loader.fails = tenancy.FAILED_S + 1, {}
        assert (await loader.tenancy.get("a")).name == "a"

    asyncio.run(main())


def test_who_leaves_does_not_end_the_load_for_others():
    async def main():
        loader = Loader()
        loader.gate.clear()
        first = asyncio.create_task(loader.tenancy.get("a"))
        second = asyncio.create_task(loader.tenancy.get("a"))
        await asyncio.sleep(0)
        with pytest.raises(TimedOut):
            await loader.tenancy.get("a", 0.001)
        first.cancel()
        loader.gate.set()
        assert (await second).name == "a"
        assert loader.count("load", "a") == 1

    asyncio.run(main())


def test_each_who_waited_gets_a_model_that_is_still_there():
    async def main():
        loader = Loader(bytes_max=150)  # room for one

        async def ask(name):
            model = await loader.tenancy.get(name)
            assert loader.tenancy.registry.get(name) is model
            model.requests += 1
            await asyncio.sleep(0.001)
            assert ("closed", name) not in loader.log
            model.requests -= 1

        await asyncio.gather(*(ask(f"m{place}") for place in range(20) for _ in range(3)))
        loader.tenancy.trim()
        assert len(loader.tenancy.registry) == 1
        assert loader.tenancy.evictions == 19

    asyncio.run(main())


def test_a_model_is_closed_before_it_is_loaded_again():
    async def main():
        loader = Loader()
        model = await loader.tenancy.get("a")
        model.requests = 1
        loader.tenancy.drop("a")
        again = asyncio.create_task(loader.tenancy.get("a"))
        await asyncio.sleep(0.02)
        assert loader.log == [("load", "a"), ("came", "a"), ("went", "a")]
        model.requests = 0
        assert (await again) is not model
        assert loader.log[3:] == [("closed", "a"), ("load", "a"), ("came", "a")]

    asyncio.run(main())


def test_a_request_that_lasts_does_not_keep_its_model_from_others(monkeypatch):
    monkeypatch.setattr(tenancy, "CLOSING_S", 0.01)

    async def main():
        loader = Loader()
        model = await loader.tenancy.get("a")
        model.requests = 1
        loader.tenancy.drop("a")
        other = await loader.tenancy.get("a")
        assert ("closed", "a") not in loader.log
        model.requests = 0
        loader.tenancy.drop("a")
        await loader.tenancy.close()
        assert other is not model
        await asyncio.sleep(0.05)
        assert loader.count("closed", "a") == 2

    asyncio.run(main())


def test_closing_the_pool_closes_each():
    async def main():
        loader = Loader()
        await asyncio.gather(*(loader.tenancy.get(name) for name in "abc"))
        await loader.tenancy.close()
        assert {name for what, name in loader.log if what == "closed"} == set("abc")
        assert len(loader.tenancy.registry) == 0

    asyncio.run(main())


def test_unknown_names_are_remembered_for_a_while_only():
    async def main():
        loader = Loader()
        for place in range(tenancy.FAILED_MAX + 50):
            loader.fails[f"m{place}"] = UnknownName("model", f"m{place}", ())
            with pytest.raises(UnknownName):
                await loader.tenancy.get(f"m{place}")
        assert len(loader.tenancy._failed) == tenancy.FAILED_MAX

    asyncio.run(main())
