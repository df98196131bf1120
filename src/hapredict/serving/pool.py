"""Which models of a pool are loaded: a pure rule on sizes, last uses and requests in progress.

A pool serves more models than fit into memory at once. What is loaded is kept until the bound is
reached; then those go that were asked longest ago, and a little more than has to, so that the next
load does not push one out again. A model with requests in progress stays. For one thread.
"""

import heapq
from collections.abc import Container, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

SPARE = 0.1
"""Share of the bound that an eviction leaves free."""


class Tenant(Protocol):
    """One loaded model, as far as the rule sees it."""

    @property
    def name(self) -> str: ...
    @property
    def memory_bytes(self) -> int: ...
    @property
    def busy(self) -> bool: ...
    @property
    def used_s(self) -> float: ...


T = TypeVar("T", bound=Tenant)


class Registry(Generic[T]):
    """The loaded models by name.

    After each `trim` their sizes add up to at most `bytes_max`, unless all but one are busy or one
    alone is larger; it is for the caller to trim after each `add` and whenever a request is over.
    """

    def __init__(self, bytes_max: int, *, spare: float = SPARE) -> None:
        self.bytes_max = bytes_max
        self._kept = int(bytes_max * (1 - spare))
        self._tenants: dict[str, T] = {}

    def __len__(self) -> int:
        return len(self._tenants)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._tenants.values()))

    def __contains__(self, name: str) -> bool:
        return name in self._tenants

    @property
    def memory_bytes(self) -> int:
        """What all of them take."""
        return sum(tenant.memory_bytes for tenant in self._tenants.values())

    def get(self, name: str) -> T | None:
        """The model if it is loaded."""
        return self._tenants.get(name)

    def add(self, tenant: T) -> None:
        """A model is loaded. Raises ValueError if it was already."""
        if tenant.name in self._tenants:
            raise ValueError(f"model {tenant.name!r} is loaded twice")
        self._tenants[tenant.name] = tenant

    def take(self, name: str) -> T | None:
        """Leave a model out from now on; None if it is not loaded."""
        return self._tenants.pop(name, None)

    def trim(self, keep: Container[str] = ()) -> list[T]:
        """Leave out what is too much, and return it: least recently used first.

        Nobody who is busy or in `keep`. Nothing while the bound holds; else down to the bound
        less the spare.
        """
        left = self.memory_bytes
        if left <= self.bytes_max:
            return []
        idle = [t for t in self._tenants.values() if not t.busy and t.name not in keep]
        gone = []
        for tenant in sorted(idle, key=lambda tenant: tenant.used_s):
            if left <= self._kept:
                break
            left -= tenant.memory_bytes
            gone.append(self._tenants.pop(tenant.name))
        return gone


class Rota:
    """Whose turn it is to be looked at: each name again after a pause of `pause_s`.

    A name without news waits twice as long each time, up to `quiet_s`; without `quiet_s` all wait
    alike. Where looks would fill more than `share` of the time, all pauses are longer. Not for use
    from several threads.
    """

    def __init__(self, pause_s: float, *, quiet_s: float = 0.0, share: float = 0.05) -> None:
        self.pause_s = pause_s
        self.quiet_s = max(pause_s, quiet_s)
        self._share = share
        self._took_s = 0.0
        self._looks_a_s = 0.0
        self._pauses: dict[str, float] = {}
        self._due_s: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._due_s)

    @property
    def stretch(self) -> float:
        """By how much pauses are longer, so that looks take no more than their share."""
        return max(1.0, self._took_s * self._looks_a_s / self._share)

    def follow(self, names: Iterable[str], now_s: float) -> None:
        """Look at these names and no others; at new ones at once."""
        wanted = set(names)
        for name in self._due_s.keys() - wanted:
            del self._due_s[name]
            self._forget(name)
        for name in sorted(wanted - self._due_s.keys()):
            self._at(name, now_s)

    def take(self, now_s: float) -> str | None:
        """The name that is overdue for longest, or None. `looked` is to follow."""
        while self._queue and self._queue[0][0] <= now_s:
            due_s, name = heapq.heappop(self._queue)
            if self._due_s.get(name) == due_s:
                return name
        return None

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next turn, at most `pause_s`."""
        while self._queue and self._due_s.get(self._queue[0][1]) != self._queue[0][0]:
            heapq.heappop(self._queue)
        wait_s = max(0.0, self._queue[0][0] - now_s) if self._queue else self.pause_s
        return min(self.pause_s, wait_s)

    def looked(self, name: str, now_s: float, took_s: float, *, news: bool = False) -> None:
        """A look at a name took so long, and found that something had happened or not."""
        if name not in self._due_s:
            return
        # a running mean, that one slow look does not decide
        self._took_s += (took_s - self._took_s) * (0.05 if self._took_s else 1.0)
        before_s = self._forget(name)
        pause_s = self.pause_s
        if not news and before_s is not None:
            pause_s = min(self.quiet_s, 2 * before_s)
        self._pauses[name] = pause_s
        self._looks_a_s += 1 / pause_s
        self._at(name, now_s + (pause_s if news else pause_s * self.stretch))

    def wake(self, name: str, now_s: float) -> None:
        """Look at a name at once."""
        if name in self._due_s:
            self._forget(name)
            self._at(name, now_s)

    def _forget(self, name: str) -> float | None:
        pause_s = self._pauses.pop(name, None)
        if pause_s is not None:
            self._looks_a_s -= 1 / pause_s
        return pause_s

    def _at(self, name: str, due_s: float) -> None:
        self._due_s[name] = due_s
        heapq.heappush(self._queue, (due_s, name))
