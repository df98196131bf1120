"""Steady requests of several callers, each on its own connection; nothing is tried twice.

Each answer is checked, since a fault that makes answers wrong is worse than one that loses them.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

import httptools

from hapredict.drill.outcome import Asked
from hapredict.serving.answering import PROBE

WAIT_S = 30.0
"""Seconds after which a caller gives up."""

WINDOW_S = 1.0
"""Seconds for which a replica that answered counts as one that answers."""

Check = Callable[[bytes], tuple[str, str]]
"""Told an answer's body, says what is wrong with it ("" for nothing) and which replica gave it."""


class Load:
    """Requests from entering to leaving, of `callers` that wait `pause_s` after each answer.

    Callers go through `bodies` in turn; `checks` has one check a body. It runs in a thread of its
    own, on this process's event loop.
    """

    def __init__(
        self,
        url: str,
        bodies: Sequence[bytes],
        checks: Sequence[Check],
        *,
        callers: int = 8,
        pause_s: float = 0.01,
        wait_s: float = WAIT_S,
    ) -> None:
        parts = urlsplit(url)
        self.asked: list[Asked] = []
        """All requests so far, in the order of their ends."""
        self.pause_s = pause_s
        self._at = parts.hostname or "", parts.port or 80
        self._requests = [_request(parts.path, parts.netloc, body) for body in bodies]
        self._checks = list(checks)
        self._callers = callers
        self._wait_s = wait_s
        self._began_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * self._wait_s)

    def now_s(self) -> float:
        """Seconds on the clock of `Asked.at_s`."""
        return time.monotonic() - self._began_s

    def since(self, place: int) -> list[Asked]:
        """The requests from a place in `asked` on."""
        return self.asked[place:]

    def answering(self) -> int:
        """Replicas whose answers came in the last WINDOW_S seconds."""
        from_s, found = self.now_s() - WINDOW_S, set()
        for one in reversed(self.asked):
            if one.end_s < from_s:
                break
            if one.source:
                found.add(one.source)
        return len(found)

    async def _run(self) -> None:
        await asyncio.gather(*(self._call(number) for number in range(self._callers)))

    async def _call(self, number: int) -> None:
        line: Line | None = None
        turn = number
        while not self._stop.is_set():
            place = turn % len(self._requests)
            turn += self._callers
            at_s = self.now_s()
            wrong, source = False, ""
            try:
                if line is None or line.lost:
                    line = await asyncio.wait_for(_connected(*self._at), self._wait_s)
                status, body = await asyncio.wait_for(line.ask(self._requests[place]), self._wait_s)
            except (OSError, TimeoutError) as error:
                fault = f"{type(error).__name__}: {error}"
                if line is not None and line.transport is not None:
                    line.transport.abort()
                line = None
            else:
                fault = f"{status} {body[:200]!r}" if status != 200 else ""
                if not fault:
                    fault, source = self._checks[place](body)
                    wrong = bool(fault)
            self.asked.append(Asked(at_s, self.now_s() - at_s, fault, wrong, source))
            await asyncio.sleep(self.pause_s or (0.01 if fault else 0))
        if line is not None and line.transport is not None:
            line.transport.close()


class Line(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.lost = False
        """It cannot be used again."""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._body = b""
        self._parser: Any = None

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a request; its status and body. ConnectionError if the other side hangs up."""
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self.transport.write(request)
        return self._answer

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"hung up: {exc}"))

    def data_received(self, data: bytes) -> None:
        with contextlib.suppress(httptools.HttpParserUpgrade):
            self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.lost = True
            self.transport.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), self._body))


async def _connected(host: str, port: int) -> Line:
    _, line = await asyncio.get_running_loop().create_connection(Line, host, port)
    return line


def _request(path: str, host: str, body: bytes) -> bytes:
    named = f"Host: {host}\r\n{PROBE.decode()}: drill\r\nContent-Length: {len(body)}\r\n"
    head = f"POST {path} HTTP/1.1\r\n{named}\r\n"
    return head.encode() + body
