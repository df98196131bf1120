"""Loading models of a pool when they are asked for, and closing those that are evicted.

Loads and closes run in a few threads beside the event loop, so that a cold model delays nobody
else. All who ask for the same cold model wait for one load, and hear the same if it fails.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

from hapredict.errors import HapredictError, Overloaded, TimedOut
from hapredict.serving.pool import Registry, Tenant

FAILED_S = 1.0
"""For how long a load that failed is not tried again."""
FAILED_MAX = 1000
WAITING_MAX = 1000
"""Requests that may wait for loads at once."""
CLOSING_S = 1.0
"""How long a load waits for the end of the same model's former requests."""
IDLE_S = 0.01

log = logging.getLogger(__name__)

T = TypeVar("T", bound=Tenant)


class Tenancy(Generic[T]):
    """The loaded models of one process. All methods run in one event loop."""

    def __init__(
        self,
        bytes_max: int,
        *,
        load: Callable[[str], T],
        close: Callable[[T], None],
        came: Callable[[T], None],
        went: Callable[[T], None],
        clock: Callable[[], float],
        threads: Executor,
    ) -> None:
        """`load` and `close` may block; they run in `threads`.

        `came` and `went` hear of a model in the turn in which it can be found, and in which it no
        longer can. `clock` tells seconds and never goes back.
        """
        self.registry: Registry[T] = Registry(bytes_max)
        self.loads = 0
        """Models that were loaded so far."""
        self.evictions = 0
        """Models that had to go, as there were too many."""
        self._load_it = load
        self._close_it = close
        self._came = came
        self._went = went
        self._clock = clock
        self._threads = threads
        self._loading: dict[str, asyncio.Task[T]] = {}
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._awaited: Counter[str] = Counter()
        self._failed: dict[str, tuple[float, HapredictError]] = {}

    async def get(self, name: str, wait_s: float | None = None) -> T:
        """The model, loaded if it was not.

        It stays until the caller first gives way to others; from then on it does while it is busy.
        Raises what loading it raised, now or within FAILED_S; TimedOut after `wait_s`; Overloaded.
        """
        tenant = self.registry.get(name)
        if tenant is not None:
            return tenant
        self._check(name)
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(self._load(name))
            task.add_done_callback(_seen)
        self._awaited[name] += 1
        try:
            # the others who wait for it must not suffer if this caller leaves
            return await asyncio.wait_for(asyncio.shield(task), wait_s)
        except TimeoutError:
            raise TimedOut(f"model {name!r} is being loaded; the caller waits no longer") from None
        finally:
            self._awaited[name] -= 1
            if not self._awaited[name]:
                del self._awaited[name]

    def trim(self) -> None:
        """Let go what is too much; for now and then, as who was busy may be idle now."""
        for tenant in self.registry.trim(self._awaited):
            self.evictions += 1
            self._let_go(tenant)

    def drop(self, name: str) -> None:
        """Let a model go; who asks for it again has it loaded anew."""
        tenant = self.registry.take(name)
        if tenant is not None:
            self._let_go(tenant)

    async def close(self) -> None:
        """Let all go, and wait until they are closed."""
        for tenant in self.registry:
            self.drop(tenant.name)
        while tasks := [*self._loading.values(), *self._closing.values()]:
            await asyncio.wait(tasks)
            for tenant in self.registry:  # loaded meanwhile
                self.drop(tenant.name)
            await asyncio.sleep(0)

    def _check(self, name: str) -> None:
        until_s, error = self._failed.get(name, (0.0, None))
        if error is not None:
            if self._clock() < until_s:
                raise error.with_traceback(None)
            del self._failed[name]
        if self._awaited.total() >= WAITING_MAX:
            raise Overloaded(
                f"{self._awaited.total()} requests wait for models to be loaded; try again, or "
                "give the pool more memory",
                1.0,
            )

    async def _load(self, name: str) -> T:
        try:
            closing = self._closing.get(name)
            if closing is not None:  # it goes on where this ends, unless that takes long
                await asyncio.wait([closing], timeout=CLOSING_S)
            loop = asyncio.get_running_loop()
            tenant = await loop.run_in_executor(self._threads, self._load_it, name)
        except HapredictError as error:
            while len(self._failed) >= FAILED_MAX:
                del self._failed[next(iter(self._failed))]
            self._failed[name] = (self._clock() + FAILED_S, error)
            raise
        finally:
            del self._loading[name]
        self.loads += 1
        self.registry.add(tenant)
        self._came(tenant)
        self.trim()
        return tenant

    def _let_go(self, tenant: T) -> None:
        self._went(tenant)
        task = asyncio.create_task(self._close(tenant))
        self._closing[tenant.name] = task

        def closed(_task: object) -> None:
            if self._closing.get(tenant.name) is task:
                del self._closing[tenant.name]

        task.add_done_callback(closed)

    async def _close(self, tenant: T) -> None:
        await asyncio.sleep(0)  # what was answered in this turn is recorded in the next
        await asyncio.sleep(0)
        while tenant.busy:  # noqa: ASYNC110 - an app does not tell when it becomes idle
            await asyncio.sleep(IDLE_S)
        try:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self._close_it, tenant)
        except Exception:  # the others are still to be served
            log.exception("model %s was not closed in order", tenant.name)


def _seen(task: "asyncio.Task[T]") -> None:
    """Who asked may have left; asyncio complains of errors that nobody took."""
    if not task.cancelled():
        task.exception()
