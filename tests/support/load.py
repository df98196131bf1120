"""Steady requests of several callers, each on its own connection; nothing is tried twice."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

from hapredict.drill.ray_load import WAIT_S, Line
from tests.support.clusters import eventually


class Load:
    """Requests from entering to leaving, of `callers` that wait `pause_s` after each answer.

    `check` is told each answer's body and says what is wrong with it. In a thread of its own.
    """

    def __init__(
        self,
        url: str,
        body: Any,
        *,
        callers: int = 4,
        pause_s: float = 0.005,
        check: Callable[[bytes], str] = lambda _body: "",
    ) -> None:
        parts = urlsplit(url)
        self.answered = 0
        self.faults: list[str] = []
        self.worst_s = 0.0
        self.pause_s = pause_s
        self.check = check
        data = json.dumps(body).encode()
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self.request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data
        self._at = parts.hostname, parts.port
        self._callers = callers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * WAIT_S)

    def more(self, requests: int, wait_s: float = 60.0) -> None:
        """Wait until so many further requests were answered."""
        enough = self.answered + requests
        eventually(lambda: self.answered >= enough or self.faults, wait_s=wait_s)

    async def _run(self) -> None:
        await asyncio.gather(*(self._call() for _ in range(self._callers)))

    async def _call(self) -> None:
        loop = asyncio.get_running_loop()
        line: Line | None = None
        while not self._stop.is_set():
            began_s = time.monotonic()
            try:
                if line is None or line.lost:
                    _, line = await loop.create_connection(Line, *self._at)
                status, body = await asyncio.wait_for(line.ask(self.request), WAIT_S)
                fault = self.check(body) if status == 200 else f"{status} {body[:200]!r}"
            except (OSError, TimeoutError) as error:
                fault = f"{type(error).__name__}: {error}"
                line = None
            self.worst_s = max(self.worst_s, time.monotonic() - began_s)
            if fault:
                self.faults.append(fault)
            else:
                self.answered += 1
            if self.pause_s or fault:
                await asyncio.sleep(self.pause_s or 0.01)
        if line is not None:
            line.transport.close()
