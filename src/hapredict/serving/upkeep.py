"""What a serving process does besides answering: follow the catalog, keep records, ship them."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from hapredict.serving.exchange import Receive, Send
from hapredict.spec import Spec

TICK_S = 0.05
"""Seconds between two writes to the spool: what a killed process may lose."""
WRITE_S = 0.25
"""Seconds between two writes of the access log."""

log = logging.getLogger(__name__)


class Worked(Protocol):
    """What is to be done again and again, and once at the end. All of it may block."""

    def refresh(self) -> object: ...
    def tick(self) -> None: ...
    def report(self) -> None: ...
    def close(self) -> None: ...


class Kept(Worked, Protocol):
    """A replica, whose spec says how often."""

    @property
    def ready(self) -> bool: ...
    @property
    def spec(self) -> Spec: ...


def upkeep_of(
    replica: Kept,
    *,
    tick_s: float = TICK_S,
    late: Callable[[float], None] = lambda _late_s: None,
    writes: Callable[[], None] | None = None,
) -> "Upkeep":
    """The upkeep of one replica, as often as its spec says."""
    return Upkeep(
        replica,
        poll_s=lambda: replica.spec.serving.catalog_poll_s if replica.ready else 0.1,
        report_s=lambda: replica.spec.monitoring.report_s if replica.ready else 0.1,
        tick_s=lambda: tick_s,
        late=late,
        writes=writes,
    )


class Upkeep:
    """Loops, each with a thread of its own, so that a slow store delays no other loop.

    A loop outlives any failure: the store is away for an hour, and serving goes on with what it
    has. Each distinct failure is logged once until the loop works again.
    """

    def __init__(
        self,
        replica: Worked,
        *,
        poll_s: Callable[[], float],
        report_s: Callable[[], float],
        tick_s: Callable[[], float] = lambda: TICK_S,
        late: Callable[[float], None] = lambda _late_s: None,
        writes: Callable[[], None] | None = None,
    ) -> None:
        """`poll_s`, `report_s` and `tick_s` say how long to wait before the next of each.

        `late` hears by how many seconds the event loop missed the time of a tick. `writes` may
        block and writes the access log, if there is one.
        """
        self._replica = replica
        self._poll_s = poll_s
        self._report_s = report_s
        self._late = late
        self._writes = writes
        self._tick_s = tick_s
        self.loop: asyncio.AbstractEventLoop | None = None
        """The event loop of `run`."""
        self._stop = asyncio.Event()
        self._done: asyncio.Event | None = None
        self._closed = asyncio.Event()
        self._told: dict[str, set[str]] = {}
        # Not the event loop's own threads: feedback waits for the disk in those.
        self._threads = ThreadPoolExecutor(4, "hapredict-upkeep")

    @property
    def stopping(self) -> bool:
        """Whether `close` was called."""
        return self._stop.is_set()

    async def run(self) -> None:
        """Runs the loops until `close`. A second call waits for the first one's end."""
        if self._done is not None:
            await self._done.wait()
            return
        self._done = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        replica = self._replica
        loops = [
            self._loop("refresh", replica.refresh, self._poll_s),
            self._loop("tick", replica.tick, self._tick_s),
            self._loop("report", replica.report, self._report_s),
        ]
        if self._writes is not None:
            loops.append(self._loop("access log", self._writes, lambda: WRITE_S))
        try:
            await asyncio.gather(*loops)
        finally:
            self._done.set()

    async def close(self) -> None:
        """Ends the loops, writes and ships what is left, and closes the replica.

        A second call waits for the first one's end.
        """
        if self.stopping:
            await self._closed.wait()
            return
        self._stop.set()
        if self._done is not None:
            await self._done.wait()
        for name in ("tick", "report", "close"):
            await self._attempt(name, getattr(self._replica, name))
        if self._writes is not None:
            await self._attempt("access log", self._writes)
        self._threads.shutdown(wait=False)
        self._closed.set()

    async def follow(self, receive: Receive, send: Send) -> None:
        """Starts and ends with an ASGI server that speaks `lifespan`."""
        running: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                running = asyncio.create_task(self.run())
            elif message["type"] == "lifespan.shutdown":
                await self.close()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                if running is not None:
                    await running
                return

    async def _loop(
        self, name: str, work: Callable[[], object], pause_s: Callable[[], float]
    ) -> None:
        clock = asyncio.get_running_loop().time
        while not self.stopping:
            await self._attempt(name, work)
            next_s = clock() + (pause := pause_s())
            try:
                await asyncio.wait_for(self._stop.wait(), pause)
            except TimeoutError:
                if name == "tick":
                    self._late(max(0.0, clock() - next_s))

    async def _attempt(self, name: str, work: Callable[[], object]) -> None:
        told = self._told.setdefault(name, set())
        try:
            await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except Exception as error:  # a loop must outlive any failure of its work
            message = f"{type(error).__name__}: {error}"
            if message not in told and len(told) < 100:
                told.add(message)
                log.warning("%s failed, and will be tried again: %s", name, message, exc_info=error)
            return
        if told:
            log.warning("%s works again", name)
            told.clear()
