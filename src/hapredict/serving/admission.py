"""Admission: which requests a replica takes, and when the others should come back.

The unit is the request. Rows would measure work better, but they are known only after parsing,
and a refusal must cost less than the work that it refuses.
"""

import math

from hapredict.errors import Overloaded, TimedOut

RETRY_AFTER_MAX_S = 30.0
"""A caller is never sent away for longer: by then another replica may run."""


class Admission:
    """Counts the requests in progress and measures how fast they are completed.

    Every call says the time, in seconds on one clock. The service rate is the completions per
    second of *busy* time (time with a request in progress), so that a quiet hour does not make
    the replica look slow; both sums fade with busy time, by half in `half_life_s`.
    """

    def __init__(self, limit_ongoing: int, *, half_life_s: float = 5.0) -> None:
        self.limit_ongoing = limit_ongoing
        """Requests in progress at most; may be changed at any time."""
        self.ongoing = 0
        """Requests in progress now."""
        self._fade = math.log(2) / half_life_s
        self._since_s = 0.0
        self._busy_s = 0.0
        self._completed = 0.0

    @property
    def full(self) -> bool:
        """Whether the next request would be refused."""
        return self.ongoing >= self.limit_ongoing

    @property
    def rate(self) -> float | None:
        """Requests completed per busy second; None before the first."""
        return self._completed / self._busy_s if self._busy_s > 0 else None

    def check(self) -> None:
        """Raises Overloaded, with a computed `retry_after_s`, if no more work may be taken."""
        if self.full:
            raise Overloaded(
                f"this replica has {self.ongoing} requests in progress and takes no more; "
                "try again, or add replicas",
                self.retry_after_s(),
            )

    def enter(self, now_s: float, deadline_s: float | None = None) -> None:
        """Take a request in. Each `enter` is followed by one `leave`.

        `deadline_s` is the time at which the caller stops waiting. Raises Overloaded if the
        replica is full, TimedOut if the answer would come too late; then nothing was taken.
        """
        self.check()
        if deadline_s is not None and now_s + self.wait_s() >= deadline_s:
            raise TimedOut(
                f"the answer would come too late: {self.ongoing} requests are ahead and the "
                f"caller waits {max(0.0, deadline_s - now_s) * 1000:.0f} ms"
            )
        if self.ongoing == 0:
            self._since_s = now_s
        self.ongoing += 1

    def leave(self, now_s: float) -> None:
        """A request that was taken in is over, whatever its end."""
        # Clocks may be set back; a negative stretch would corrupt the sums for good.
        busy_s = max(0.0, now_s - self._since_s)
        keep = math.exp(-self._fade * busy_s)
        self._busy_s = self._busy_s * keep + busy_s
        self._completed = self._completed * keep + 1.0
        self._since_s = now_s
        self.ongoing -= 1

    def wait_s(self) -> float:
        """Seconds until what is in progress now is done, at the measured rate; 0 if unknown."""
        rate = self.rate
        return self.ongoing / rate if rate else 0.0

    def retry_after_s(self) -> float:
        """Seconds after which a refused caller finds the present work done: 1 to 30."""
        return min(max(self.wait_s(), 1.0), RETRY_AFTER_MAX_S)
