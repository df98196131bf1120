"""What both clients have of HTTP: limits of connections, and a request's time as it runs out."""

import uuid
from collections.abc import Callable
from typing import Any

import httpx

from hapredict.client.attempts import ATTEMPT_MIN_S, Heard, Lost
from hapredict.errors import ClusterUnavailable, TimedOut

IDLE_S = 4.0
"""Seconds after which an idle connection is not used again: sooner than servers usually close one,
which is after five or more, so that requests seldom meet a connection that is just being closed."""


def limits(connections_max: int) -> httpx.Limits:
    """As many connections, all of them kept for the next request."""
    if connections_max < 1:
        message = f"a client needs at least one connection; got connections_max={connections_max}"
        raise ValueError(message)
    return httpx.Limits(
        max_connections=connections_max,
        max_keepalive_connections=connections_max,
        keepalive_expiry=IDLE_S,
    )


def new_id() -> str:
    """A name for a request that no other has."""
    return uuid.uuid4().hex


class Left(dict[str, Any]):
    """A request's timeouts by phase, for httpx: each phase has what the ones before it left.

    httpx by itself gives the whole time to each of connecting, sending and reading. What is left
    when the body begins holds for each of its reads, so `check` comes between them. Looking up a
    name has no time limit in Python.
    """

    def __init__(self, within_s: float, clock: Callable[[], float]) -> None:
        super().__init__(dict.fromkeys(("pool", "connect", "write", "read"), within_s))
        self._clock = clock
        self._end_s = clock() + within_s
        self.phase = ""

    def get(self, key: str, default: Any = None) -> Any:
        """The time left for a phase, which begins now."""
        if key not in self:
            return default
        self.phase = key
        return max(ATTEMPT_MIN_S, self._end_s - self._clock())

    def check(self, request: httpx.Request) -> None:
        """Raises httpx.ReadTimeout if no time is left."""
        if self._clock() >= self._end_s:
            raise httpx.ReadTimeout("it was still sending", request=request)

    def lost(self, url: str) -> Lost:
        """What came of a request that was stopped when its time had run out."""
        error = TimedOut(f"{url} did not answer in time")
        return Lost(error, at_work=self.phase not in ("pool", "connect"))


def heard(answer: httpx.Response, content: bytes) -> Heard:
    """An answer whose content was read."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Heard(answer.status_code, headers, content, str(answer.url))


def lost(error: httpx.RequestError, url: str) -> Lost:
    """What came of a request that failed on the way."""
    said = str(error) or type(error).__name__
    found: TimedOut | ClusterUnavailable
    if isinstance(error, httpx.PoolTimeout):
        found = TimedOut(f"no connection to {url} was free in time; raise connections_max")
    elif isinstance(error, httpx.TimeoutException):
        found = TimedOut(f"{url} did not answer in time: {said}")
    else:
        found = ClusterUnavailable(f"{url} cannot be reached: {said}")
    found.__cause__ = error
    return Lost(found, at_work=isinstance(error, (httpx.ReadTimeout, httpx.WriteTimeout)))
