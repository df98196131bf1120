"""A server on a real socket, and a caller who sends bytes as he likes."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httptools
import uvicorn

from tests.support.serving import Got

BUFFER_BYTES = 16384
"""What the kernel holds on each side; small, so that it soon shows who reads no more."""


@contextlib.asynccontextmanager
async def listening(
    app: Any, http: Any, *, keep_alive_s: int = 30
) -> AsyncIterator[tuple[int, uvicorn.Server]]:
    """The port at which uvicorn answers with the protocol class `http`, and the server."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            http=http,
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_keep_alive=keep_alive_s,
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:
            await asyncio.sleep(0.005)
            if task.done():
                await task
        try:
            yield sock.getsockname()[1], server
        finally:
            server.should_exit = True
            await task


class _Replies:
    """What httptools finds in an answer; it takes one reply after another."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body = b""

    def on_message_begin(self) -> None:
        self._headers, self._body = {}, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status != 100:
            self.got.append(Got(status, self._headers, self._body))


class Caller:
    """One connection. `got` are the replies so far, `closed` whether the server ended it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.closed = False
        self._reader = reader
        self._replies = _Replies()

    @classmethod
    async def at(cls, port: int) -> "Caller":
        """A new connection."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(*await asyncio.open_connection(sock=sock))

    @property
    def got(self) -> list[Got]:
        return self._replies.got

    async def send(self, pieces: Sequence[bytes]) -> None:
        """Each piece in a packet of its own, as far as that can be had."""
        for piece in pieces:
            self.writer.write(piece)
            with contextlib.suppress(ConnectionError):
                await self.writer.drain()
            await asyncio.sleep(0)

    async def hear(self, replies: int, wait_s: float = 20.0) -> list[Got]:
        """All replies so far, once there are so many or the server has closed."""
        async with asyncio.timeout(wait_s):
            while len(self.got) < replies and not self.closed:
                await self._read()
        return self.got

    async def ended(self, wait_s: float = 20.0) -> bool:
        """Waits until the server closes; whether it did."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                while not self.closed:
                    await self._read()
        return self.closed

    async def _read(self) -> None:
        try:
            data = await self._reader.read(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return
        with contextlib.suppress(httptools.HttpParserUpgrade):
            self._replies.parser.feed_data(data)

    async def leave(self) -> None:
        """Hangs up."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()
