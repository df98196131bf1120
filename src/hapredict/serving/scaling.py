"""How many replicas the load of now needs: a pure rule on what replicas report.

Ray Serve counts requests that go through its own request path, and the fast data plane does not.
So each replica measures itself, whichever way its requests come: how many it had in progress, by
Little's law with the wait before anybody looked at them, and how much of its processor it used.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

SPARE = 0.1
"""Room that must be left before a replica is let go, so that steady load does not swing."""


@dataclass(frozen=True, slots=True)
class Load:
    """One replica over a stretch of time."""

    ongoing: float
    """Requests in progress or waiting to be read, on average."""
    utilization: float
    """Share of the processor that it reserves, used by its process."""

    def to_json(self) -> dict[str, float]:
        """The load as numbers by name."""
        return asdict(self)


def replicas_for(
    loads: Sequence[Load], running: int, *, target_ongoing: float, target_utilization: float
) -> float:
    """Replicas that bring each to its targets, as a fraction; `running` to leave them as they are.

    Whichever target asks for more counts. Fewer than now only where `SPARE` is left after it.
    Replicas that have not reported yet carry no load; if none has, nothing is changed.
    """
    if not loads:
        return running
    ongoing = sum(load.ongoing for load in loads) / target_ongoing
    busy = sum(load.utilization for load in loads) / target_utilization
    wanted = max(ongoing, busy)
    if math.ceil(wanted) >= running:
        return wanted
    return min(running, math.ceil(wanted * (1 + SPARE)))


class LoadMeter:
    """The load of one process, from one question to the next. For one thread.

    `clock` tells wall time and `processor` processor time, both in seconds. `cpus` is what the
    process may use; more than one does not help a single event loop.
    """

    def __init__(
        self, clock: Callable[[], float], processor: Callable[[], float], cpus: float = 1.0
    ) -> None:
        self._clock = clock
        self._processor = processor
        self._cpus = min(1.0, cpus) or 1.0
        self._spent_s = 0.0
        self._requests = 0
        self._late_s = 0.0
        self._looks = 0
        self._last = Load(0.0, 0.0)
        self._since_s = clock()
        self._used_s = processor()

    def over(self, duration_s: float) -> None:
        """A request is over that was in progress for so long."""
        self._spent_s += duration_s
        self._requests += 1

    def late(self, late_s: float) -> None:
        """The event loop did something so much later than it was to: whatever came waited too."""
        self._late_s += late_s
        self._looks += 1

    def load(self, least_s: float = 0.1) -> Load:
        """The load since the last question, or the same again if that is less than `least_s`."""
        now_s, used_s = self._clock(), self._processor()
        took_s = now_s - self._since_s
        if took_s < least_s:
            return self._last
        waited_s = self._requests * (self._late_s / self._looks) if self._looks else 0.0
        self._last = Load(
            (self._spent_s + waited_s) / took_s,
            max(0.0, used_s - self._used_s) / took_s / self._cpus,
        )
        self._since_s, self._used_s = now_s, used_s
        self._spent_s, self._requests, self._late_s, self._looks = 0.0, 0, 0.0, 0
        return self._last
