"""How much of its traffic a client may repeat, so that retries do not make trouble an outage.

When servers are overloaded, each retry is one more request for them. A client that repeats every
refusal four times asks four times as much just when less would help; with a budget it asks a
constant and a fifth more. Finagle and Envoy bound their retries in the same way.
"""

import threading


class RetryBudget:
    """Allows retries for a share of the calls, and a few beyond.

    In any `t` seconds with `n` calls it allows at most `spare + share * n + per_s * t` retries.
    It is a bucket that is full at the start: each call puts `share` into it, each second `per_s`,
    up to `spare`; a retry takes one out. Several clients may share one, from several threads.
    """

    def __init__(self, *, share: float = 0.2, spare: float = 10.0, per_s: float = 1.0) -> None:
        """Raises ValueError for a negative number."""
        if min(share, spare, per_s) < 0:
            raise ValueError("share, spare and per_s of a retry budget must not be negative")
        self._share = share
        self._spare = spare
        self._per_s = per_s
        self._left = spare
        self._filled_s: float | None = None
        self._lock = threading.Lock()

    def called(self, now_s: float) -> None:
        """A call begins, at `now_s` of any clock that only goes forward."""
        with self._lock:
            self._fill(now_s, self._share)

    def take(self, now_s: float) -> bool:
        """Whether a retry is allowed now; if so, it is counted."""
        with self._lock:
            self._fill(now_s, 0.0)
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def _fill(self, now_s: float, more: float) -> None:
        last_s = now_s if self._filled_s is None else self._filled_s
        self._filled_s = max(now_s, last_s)  # threads read their clocks before they get here
        passed_s = self._filled_s - last_s
        self._left = min(self._spare, self._left + more + passed_s * self._per_s)
