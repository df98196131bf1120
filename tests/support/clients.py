"""What the Python clients talk to without a network, and one way to ask either of them."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx

from hapredict.client import AsyncClient, Client
from tests.support.serving import ask

KINDS: dict[str, Callable[..., Any]] = {"sync": Client, "async": AsyncClient}


class Nodes(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Ingress nodes by host name: an app, a response, or what goes wrong on the way.

    A list is what a node says, one after another; its last says it from then on.
    """

    def __init__(self, **nodes: Any) -> None:
        self.nodes = nodes
        self.asked: list[str] = []
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        said = self._said(request)
        if isinstance(said, httpx.Response):
            return said
        return asyncio.run(self._of(said, request, request.read()))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        said = self._said(request)
        if isinstance(said, httpx.Response):
            return said
        return await self._of(said, request, await request.aread())

    def _said(self, request: httpx.Request) -> Any:
        self.asked.append(request.url.host)
        self.requests.append(request)
        node = self.nodes[request.url.host]
        if isinstance(node, list):
            node = node.pop(0) if len(node) > 1 else node[0]
        if isinstance(node, Exception):
            raise node
        return node

    async def _of(self, app: Any, request: httpx.Request, body: bytes) -> httpx.Response:
        path = request.url.path.removeprefix("/orders")
        got = await ask(app, request.method, path, body, headers=dict(request.headers))
        return httpx.Response(got.status, headers=dict(got.headers), content=got.body)


class Waits(list[float]):
    """A sleep that only writes down how long it was."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


class Either:
    """A client of either kind; every call is awaited, and the one that waits has a thread."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        return method if inspect.iscoroutinefunction(method) else _in_thread(method)


def _in_thread(method: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*values: Any, **named: Any) -> Any:
        return await asyncio.to_thread(method, *values, **named)

    return call


async def _no_pause(_seconds: float) -> None:
    await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def either(kind: str, *values: Any, **options: Any) -> AsyncIterator[Either]:
    """A client of a kind of `KINDS`, closed at the end; its pauses take no time."""
    options = {"sleep": _no_pause if kind == "async" else Waits(), **options}
    client = Either(KINDS[kind](*values, **options))
    try:
        yield client
    finally:
        await client.close()
