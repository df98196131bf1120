"""Two Python clients, one behaviour: against a real server, and against nodes that fail at will."""

import ast
import asyncio
import contextlib
import socket
from dataclasses import replace
from pathlib import Path

import httpx
import pandas as pd
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hapredict.client import Feedback, RetryBudget
from hapredict.data.schema import Column, Schema
from hapredict.errors import (
    ClusterUnavailable,
    Overloaded,
    SchemaMismatch,
    TemporaryError,
    TimedOut,
    UnknownName,
)
from hapredict.serving.asgi import App
from tests.support.bundles import MODEL, columns_of, rows_as_json, schema_of, spec_of
from tests.support.clients import KINDS, Nodes, either
from tests.support.planes import listening
from tests.support.serving import Clock, FakeReplica, not_ready
from tests.test_docs import shown

ROWS = rows_as_json(2)
README = Path(__file__).parents[2] / "README.md"
LABEL = Feedback("p-1", "yes")


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def app_of(replica=None):
    return App(replica or FakeReplica(), clock=Clock())


def frame_of(rows):
    return pd.DataFrame(columns_of(rows), index=[f"r{row}" for row in range(rows)])


class Node:
    """A server's address, its connections so far, and the ids of the requests that it had."""

    def __init__(self):
        self.connections = 0
        self.ids = []
        self.at_once = self.at_once_max = 0
        self.url = ""


@contextlib.asynccontextmanager
async def node(app, **options):
    """uvicorn on a real socket, watched."""
    found = Node()

    class Counted(HttpToolsProtocol):
        def connection_made(self, transport):
            found.connections += 1
            super().connection_made(transport)

    async def watched(scope, receive, send):
        if scope["type"] == "http":
            found.ids.append(dict(scope["headers"]).get(b"x-request-id", b"").decode())
            found.at_once += 1
            found.at_once_max = max(found.at_once_max, found.at_once)
        try:
            await app(scope, receive, send)
        finally:
            found.at_once -= scope["type"] == "http"

    async with listening(watched, Counted, **options) as (port, _):
        found.url = f"http://127.0.0.1:{port}"
        yield found


class Slow:
    """An app that answers when it is told to; only its readiness it tells at once."""

    def __init__(self, app, trickles=False):
        self.app = app
        self.trickles = trickles
        self.go_on = asyncio.Event()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            if self.trickles:
                await send({"type": "http.response.start", "status": 200, "headers": []})
            while self.trickles and not self.go_on.is_set():
                await send({"type": "http.response.body", "body": b" ", "more_body": True})
                await asyncio.sleep(0.01)
            if self.trickles:
                await send({"type": "http.response.body", "body": b""})
                return
            await self.go_on.wait()
        await self.app(scope, receive, send)


class Named(FakeReplica):
    """A replica whose prediction ids are the ids of the rows."""

    def predict(self, table, *, version=None, named=()):
        answer = super().predict(table, version=version, named=named)
        return replace(answer, ids=tuple(table["order"]))


async def until(reached):
    async with asyncio.timeout(20):
        while True:
            if reached():
                return
            await asyncio.sleep(0.001)


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def run(test):
    """Waits for a coroutine function's end."""
    asyncio.run(test())


def test_each_call_says_the_same(kind):
    async def test():
        nodes = Nodes(a=app_of(Named()))
        async with either(kind, "http://a/orders", MODEL, transport=nodes) as c:
            first, second = await c.predict(ROWS)
            assert (first.prediction_id, second.prediction_id) == ("o0-0", "o0-1")
            assert (await c.predict(ROWS, version=2))[0].model_version == 2
            assert await c.feedback([LABEL]) == 1
            assert (await c.model()).schema == schema_of()
            assert await c.ready()
            frame = frame_of(7)
            answers = await c.predict_frame(frame, rows_a_request=2, request_id="f")
            assert answers["prediction_id"].to_dict() == frame["order"].to_dict()
            ids = [request.headers["x-request-id"] for request in nodes.requests[-4:]]
            assert ids == ["f-0", "f-2", "f-4", "f-6"]
            assert len(await c.predict_frame(frame_of(0))) == 0
            with pytest.raises(SchemaMismatch, match=r"rows\[0\].distance"):
                await c.predict([{**ROWS[0], "distance": "far"}])
            with pytest.raises(UnknownName):
                await c.predict(ROWS, version=9)
        async with either(kind, "http://a/", MODEL, transport=Nodes(a=app_of(not_ready()))) as c:
            assert not await c.ready()
            with pytest.raises(TemporaryError, match="no version in service"):
                await c.model()

    run(test)


def test_all_attempts_of_a_call_have_one_id(kind):
    async def test():
        busy = httpx.Response(503, json={"error": "busy"})
        nodes = Nodes(a=[busy, httpx.ReadTimeout("slow"), app_of()], b=httpx.ConnectError("no"))
        async with either(kind, ["http://a", "http://b"], MODEL, transport=nodes) as client:
            await client.predict(ROWS, request_id="mine")
            assert [request.headers["x-request-id"] for request in nodes.requests] == ["mine"] * 5
            del nodes.requests[:]
            await client.feedback([LABEL])
            await client.feedback([LABEL])
            assert len({request.headers["x-request-id"] for request in nodes.requests}) == 2
            for wrong in ("", "two words", "ä", "x" * 101):
                with pytest.raises(ValueError, match="1 to 100 visible ASCII"):
                    await client.predict(ROWS, request_id=wrong)
                with pytest.raises(ValueError, match="1 to 100 visible ASCII"):
                    await client.predict_frame(frame_of(1), request_id=wrong)

    run(test)


def test_who_is_overloaded_is_not_asked_beyond_the_budget(kind):
    async def test():
        nodes = Nodes(a=httpx.Response(429, json={"error": "too many"}))
        budget = RetryBudget(share=0, spare=2, per_s=0)
        async with either(kind, "http://a", MODEL, transport=nodes, retry_budget=budget) as client:
            for asked in (3, 4):
                with pytest.raises(Overloaded) as caught:
                    await client.predict(ROWS)
                assert len(nodes.asked) == asked
            assert any("retry budget" in note for note in caught.value.__notes__)

    run(test)


def test_connections_are_used_again_and_limited(kind):
    async def test():
        slow = Slow(app_of())
        async with node(slow) as a, either(kind, a.url, MODEL, connections_max=2) as client:
            slow.go_on.set()
            for _ in range(10):
                await client.predict(ROWS)
            assert a.connections == 1
            slow.go_on.clear()
            asked = asyncio.gather(*(client.predict(ROWS) for _ in range(10)))
            await until(lambda: a.at_once == 2)
            slow.go_on.set()
            await asked
            assert a.at_once_max == 2
            assert len(set(a.ids)) == 20

    run(test)


def test_a_server_that_closes_idle_connections_is_no_trouble(kind):
    async def test():
        async with (
            node(app_of(), keep_alive_s=0) as a,
            either(kind, a.url, MODEL, retry_budget=RetryBudget(spare=0)) as client,
        ):
            for _ in range(10):
                await client.predict(ROWS)
                await asyncio.sleep(0.001)  # so that the server gets to close
            assert a.connections > 1

    run(test)


def test_one_of_two_nodes_is_dead(kind):
    async def test():
        dead = f"http://127.0.0.1:{closed_port()}"
        async with node(app_of()) as a, either(kind, [dead, a.url], MODEL) as client:
            assert await client.ready()
            assert len(await client.predict(ROWS)) == 2
            assert len(await client.predict_frame(frame_of(9), rows_a_request=2)) == 9
        async with either(kind, dead, MODEL) as client:
            assert not await client.ready()
            with pytest.raises(ClusterUnavailable, match="cannot be reached"):
                await client.predict(ROWS)

    run(test)


def test_a_node_dies_between_two_calls(kind):
    async def test():
        async with node(app_of()) as b, contextlib.AsyncExitStack() as stack:
            a = await stack.enter_async_context(node(app_of()))
            async with either(kind, [a.url, b.url], MODEL) as client:
                await client.predict(ROWS)
                await stack.aclose()
                for _ in range(3):
                    await client.predict(ROWS)
                assert (len(a.ids), len(b.ids)) == (1, 3)

    run(test)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_slow_node_is_left_for_one_that_answers(kind, trickles):
    async def test():
        slow = Slow(app_of(), trickles)
        async with (
            node(slow) as a,
            node(app_of()) as b,
            either(kind, [a.url, b.url], MODEL, timeout_s=0.1) as client,
        ):
            assert len(await client.predict(ROWS, request_id="mine")) == 2
            assert a.ids == b.ids == ["mine"]
            slow.go_on.set()

    run(test)


@pytest.mark.parametrize("trickles", [False, True])
def test_a_deadline_ends_what_a_slow_node_would_not(kind, trickles):
    async def test():
        slow = Slow(app_of(), trickles)
        async with node(slow) as a, either(kind, a.url, MODEL, deadline_s=60) as client:
            for call in (
                client.predict(ROWS, deadline_s=0.1),
                client.predict_frame(frame_of(3), deadline_s=0.1),
                client.feedback([LABEL], deadline_s=0.1),
                client.model(deadline_s=0.1),
            ):
                with pytest.raises(TimedOut, match=r"deadline of 0.1 s; the last trouble: http"):
                    await call
            slow.go_on.set()
            slow.trickles = False
            assert len(await client.predict(ROWS)) == 2

    run(test)


def test_what_the_readme_shows_runs():
    async def test():
        features = (Column("customer", "category"), Column("amount", "number"))
        schema = Schema(features, target="returned", task="binary", classes=("false", "true"))
        replica = FakeReplica(schema=schema, model="order_risk")
        (block,) = [code for code in shown(README, "python") if "AsyncClient" in code]
        frame = pd.DataFrame({"customer": ["c-1", None, "c-3"], "amount": [1.0, 2.0, None]})
        async with node(app_of(replica)) as a, node(app_of(replica)) as b:
            for number, each in ((1, a), (2, b)):
                block = block.replace(f"http://node-{number}:8000/order_risk", each.url)
            names = {"frame": frame}
            program = compile(block, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            await asyncio.to_thread(lambda: asyncio.run(eval(program, names)))  # noqa: S307 - our own
            assert a.ids[0] == "order-4711"
        assert list(names["risky"]) == ["customer", "amount", "score", "decision"]
        assert len(names["answers"]) == 3
        assert [label.value for label in replica.labels] == [True]

    run(test)


def test_pieces_of_a_frame_are_asked_four_at_once_and_keep_their_order():
    async def test():
        slow, frame = Slow(app_of(Named(spec_of(serving={"rows_max": 3})))), frame_of(40)
        async with node(slow) as a, either("async", a.url, MODEL) as client:
            asked = asyncio.create_task(client.predict_frame(frame, rows_a_request=3))
            await until(lambda: a.at_once >= 4)
            slow.go_on.set()
            answers = await asked
            assert a.at_once_max == 4
            assert answers["prediction_id"].to_dict() == frame["order"].to_dict()
            answers = await client.predict_frame(frame)  # more at once than the server takes
            assert answers["prediction_id"].to_dict() == frame["order"].to_dict()

    run(test)


def test_a_piece_that_fails_ends_the_others_with_one_error():
    async def test():
        frame = frame_of(20)
        frame["carrier"] = ["x" * 1001 if row == 3 else "a" for row in range(20)]
        slow = Slow(app_of())
        async with node(slow) as a, either("async", a.url, MODEL) as client:
            with pytest.raises(SchemaMismatch, match="too long") as caught:
                await client.predict_frame(frame, rows_a_request=2)
            assert caught.value.rows == (2, 4)
            slow.go_on.set()
            assert len(await client.predict(ROWS)) == 2  # the client is as good as before

    run(test)


def test_cancelling_a_call_ends_that_call_only():
    async def test():
        slow = Slow(app_of())
        async with node(slow) as a, either("async", a.url, MODEL, connections_max=2) as client:
            given_up = asyncio.create_task(client.predict(ROWS))
            framed = asyncio.create_task(client.predict_frame(frame_of(9), rows_a_request=9))
            await until(lambda: a.at_once >= 2)
            given_up.cancel()
            with pytest.raises(asyncio.CancelledError):
                await given_up
            third = asyncio.create_task(client.predict(ROWS))  # has the connection's place
            await until(lambda: a.connections >= 3)
            slow.go_on.set()
            assert (len(await framed), len(await third)) == (9, 2)
            assert a.connections == 3

    run(test)


def test_cancelling_a_frame_cancels_its_pieces():
    async def test():
        slow = Slow(app_of())
        async with node(slow) as a, either("async", a.url, MODEL) as client:
            framed = asyncio.create_task(client.predict_frame(frame_of(9), rows_a_request=1))
            await until(lambda: a.at_once >= 4)
            framed.cancel()
            with pytest.raises(asyncio.CancelledError):
                await framed
            slow.go_on.set()
            await client.predict(ROWS)
            assert len(a.ids) == 5

    run(test)
