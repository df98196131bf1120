"""Two ways through a replica, one behaviour: what the fast data plane says is what ASGI says."""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hapredict.serving import fast_http
from hapredict.serving.asgi import App
from hapredict.serving.protocols import WIRE_PROTOCOLS
from tests.support.bundles import MODEL, columns_of, rows_as_json, spec_of
from tests.support.planes import Caller, listening
from tests.support.serving import Clock, FakeReplica, not_ready
from tests.unit.serving.test_rubbish import RUBBISH

ROOT = f"/{MODEL}"
V1 = f"/v1/models/{MODEL}:predict"
GOOD = json.dumps({"instances": rows_as_json(2)}).encode()


def http(method, path, body=b"", *, headers=(), version="1.1", length=True):
    lines = [f"{method} {path} HTTP/{version}", "Host: here", *headers]
    if length and (body or method == "POST"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body):
    head = http("POST", V1, headers=["Transfer-Encoding: chunked"], length=False)
    return (
        head + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (body[:7], body[7:])) + b"0\r\n\r\n"
    )


def over(name):
    """A good request by a wire protocol."""
    protocol = WIRE_PROTOCOLS.find(name)
    sent = protocol.encode_request(columns_of(3))
    headers = [f"{key.decode()}: {value.decode()}" for key, value in sent.headers]
    return http("POST", protocol.path.format(model=MODEL), sent.body, headers=headers)


REQUESTS = {
    **{f"over {name}": over(name) for name in WIRE_PROTOCOLS},
    "named": http("POST", V1, GOOD, headers=["X-Request-Id: mine"]),
    "named badly": http("POST", V1, GOOD, headers=["X-Request-Id: a b"]),
    "under the root": http("POST", ROOT + V1, GOOD),
    "with a key": http("POST", V1, GOOD, headers=["Idempotency-Key: theirs"]),
    "with a key that is none": http("POST", V1, GOOD, headers=["Idempotency-Key: a b"]),
    "in time": http("POST", V1, GOOD, headers=["X-Deadline-Ms: 1000"]),
    "too late": http("POST", V1, GOOD, headers=["X-Deadline-Ms: -1"]),
    "a deadline that is none": http("POST", V1, GOOD, headers=["X-Deadline-Ms: soon"]),
    "one version": http("POST", f"/v1/models/{MODEL}/versions/2:predict", GOOD),
    "no such version": http("POST", f"/v1/models/{MODEL}/versions/9:predict", GOOD),
    "another model": http("POST", "/v1/models/none:predict", GOOD),
    "another method": http("GET", V1),
    "OPTIONS": http("OPTIONS", V1),
    "a query": http("POST", V1 + "?a=b", GOOD),
    "an escaped path": http("POST", V1.replace("orders", "%6frders"), GOOD),
    "no length": http("POST", V1, length=False),
    "chunked": chunked(GOOD),
    "expecting": http("POST", V1, GOOD, headers=["Expect: 100-continue"]),
    "encoded": http("POST", V1, GOOD, headers=["Content-Encoding: gzip"]),
    "a column too many": http("POST", V1, GOOD.replace(b'"distance"', b'"distanze"')),
    "long": http("POST", V1, GOOD + b" " * 5000),
    "feedback": http("POST", f"/v1/models/{MODEL}:feedback", b'{"labels":[]}'),
    "ready": http("GET", "/readyz"),
}
LAST = {
    "a goodbye": http("POST", V1, GOOD, headers=["Connection: close"]),
    "HTTP 1.0": http("POST", V1, GOOD, version="1.0"),
    "no HTTP": b"\x16\x03\x01\x02\r\n\r\n",
    "no number as its length": http("POST", V1, headers=["Content-Length: x"], length=False),
    "two lengths": http("POST", V1, GOOD, headers=["Content-Length: 1"]),
    "upgrading": http("POST", V1, GOOD, headers=["Connection: upgrade", "Upgrade: h2c"]),
    "nothing more": b"",
}
"""After these a server may close."""


def app_of(replica=None):
    return App(replica or FakeReplica(), clock=Clock())


def plane(name, app, root=ROOT):
    return fast_http.protocol_for(app, root) if name == "fast" else HttpToolsProtocol


PLANES = ("standard", "fast")
planes = pytest.mark.parametrize("name", PLANES)


def told(got):
    """What must be the same; the moment of an answer is not."""
    return [
        (reply.status, {k: v for k, v in reply.headers.items() if k != "date"}, reply.body)
        for reply in got
    ]


def below_root(app):
    """The app as Ray Serve mounts it."""

    async def mounted(scope, receive, send):
        if scope["type"] == "http":
            scope["root_path"] = ROOT
        await app(scope, receive, send)

    return mounted


async def heard(name, pieces, replies, replica=None, *, last=b""):
    """What one caller hears from a plane, whether it hung up, and what the replica was asked.

    `last` is sent when the others are answered: uvicorn by itself refuses what is no HTTP at once,
    before it has answered what came before.
    """
    replica = replica or FakeReplica(spec_of(serving={"body_bytes_max": 4096}))
    app = App(replica, clock=Clock())
    async with listening(below_root(app), plane(name, app)) as (port, _):
        caller = await Caller.at(port)
        await caller.send(pieces)
        await caller.hear(replies)
        if last:
            await caller.send([last])
            await caller.hear(replies + 1)
        closed = caller.closed
        await caller.leave()
        await asyncio.sleep(0)
    asked = [what for what in replica.log if what.startswith(("predict", "after"))]
    return told(caller.got), closed, asked


def cut(draw, data):
    places = sorted(draw(st.sets(st.integers(1, max(1, len(data) - 1)), max_size=4)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True) if a < b]


@st.composite
def conversations(draw):
    """Requests one after another, torn at any place; how many they are; and one to end with."""
    names = draw(st.lists(st.sampled_from(list(REQUESTS)), min_size=1, max_size=4))
    last = draw(st.sampled_from(list(LAST)))
    return cut(draw, b"".join(REQUESTS[name] for name in names)), len(names), LAST[last]


@settings(max_examples=25)
@given(conversation=conversations())
def test_any_conversation_goes_the_same(conversation):
    pieces, replies, last = conversation

    async def both():
        return [await heard(name, pieces, replies, last=last) for name in PLANES]

    standard, fast = asyncio.run(both())
    assert fast == standard


@pytest.mark.parametrize("name", [*REQUESTS, *LAST])
def test_each_request_is_answered_the_same(name):
    data = {**REQUESTS, **LAST}[name]

    async def both():
        return [await heard(plane, [data], bool(data)) for plane in PLANES]

    standard, fast = asyncio.run(both())
    assert fast == standard


DIRECT = {f"over {name}" for name in WIRE_PROTOCOLS}
DIRECT |= {"named", "with a key", "in time", "under the root"}
JUDGED = {"named badly", "with a key that is none", "too late", "a deadline that is none"}
JUDGED |= {"a column too many"}


@pytest.mark.parametrize("name", REQUESTS)
def test_plain_predictions_and_nothing_else_are_direct(name, monkeypatch):
    asked = []
    direct = App.direct
    monkeypatch.setattr(App, "direct", lambda *args: asked.append(args) or direct(*args))
    asyncio.run(heard("fast", [REQUESTS[name]], 1))
    if name in DIRECT:
        assert asked
    elif asked:
        assert name in JUDGED


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_is_refused_with_the_same_words(name):
    data = b"".join(http("POST", path, RUBBISH[name]) for path in (V1, f"/v2/models/{MODEL}/infer"))

    async def both():
        return [await heard(plane, [data], 2, FakeReplica()) for plane in PLANES]

    standard, fast = asyncio.run(both())
    assert fast == standard
    assert all(400 <= status < 500 for status, _, _ in fast[0])


@pytest.mark.parametrize("fault", ["predict", "after"])
def test_a_fault_of_ours_is_told_the_same_and_ends_nothing(fault):
    data = REQUESTS["under the root"]

    async def both():
        found = []
        for name in PLANES:
            replica = FakeReplica(faults={fault: RuntimeError("broken")})
            found.append(await heard(name, [data, data], 2, replica))
        return found

    standard, fast = asyncio.run(both())
    assert fast == standard
    assert [status for status, _, _ in fast[0]] == [500 if fault == "predict" else 200] * 2


def test_who_is_not_ready_says_so():
    async def both():
        return [await heard(name, [REQUESTS["named"]], 1, not_ready()) for name in PLANES]

    standard, fast = asyncio.run(both())
    assert fast == standard
    assert fast[0][0][0] == 503


@planes
def test_callers_of_one_turn_are_answered_together_and_each_with_his_own(name):
    replica = FakeReplica()

    async def run():
        app = app_of(replica)
        async with listening(app, plane(name, app)) as (port, _):
            callers = [await Caller.at(port) for _ in range(20)]
            for place, caller in enumerate(callers):
                caller.writer.write(http("POST", V1, GOOD, headers=[f"X-Request-Id: {place}"]))
            got = [(await caller.hear(1))[0] for caller in callers]
            for caller in callers:
                await caller.leave()
        return got

    got = asyncio.run(run())
    assert [reply.headers["x-request-id"] for reply in got] == [str(n) for n in range(20)]
    ids = [row["prediction_id"] for reply in got for row in reply.json["predictions"]]
    assert len(set(ids)) == 40
    assert replica.calls < 20


@planes
def test_who_hangs_up_is_counted_and_what_he_asked_is_recorded(name):
    replica = FakeReplica()
    app = app_of(replica)

    async def run():
        async with listening(app, plane(name, app)) as (port, _):
            caller = await Caller.at(port)
            caller.writer.write(http("POST", V1, GOOD))
            caller.writer.transport.abort()
            other = await Caller.at(port)
            await other.send([http("POST", V1, GOOD)])
            await other.hear(1)
            await other.send([http("GET", "/metrics")])
            await other.hear(2)
            await other.leave()
        return other.got[1].body.decode()

    text = asyncio.run(run())
    assert replica.log.count("predict") == sum(line.startswith("after") for line in replica.log)
    assert 'hapredict_requests_in_progress{model="orders"} 1.0' in text  # the one that asks


@planes
def test_a_probe_is_answered_as_all_are_and_nobody_records_it(name):
    replica = FakeReplica()
    app = app_of(replica)

    async def run():
        async with listening(app, plane(name, app)) as (port, _):
            caller = await Caller.at(port)
            probe = http("POST", V1, GOOD, headers=["X-Hapredict-Probe: drill"])
            await caller.send([probe + http("POST", V1, GOOD) + probe])
            await caller.hear(3)
            await caller.leave()
        return caller.got

    got = asyncio.run(run())
    assert [reply.status for reply in got] == [200, 200, 200]
    recorded = [line for line in replica.log if line.startswith("after")]
    assert len(recorded) == 1, replica.log


def test_a_request_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(fast_http, "READ_S", 0.2)

    async def run(pieces):
        app = app_of()
        async with listening(app, plane("fast", app)) as (port, _):
            caller = await Caller.at(port)
            await caller.send(pieces)
            assert await caller.ended()
            await caller.leave()
        return caller.got

    request = http("POST", V1, GOOD)
    slow = http("POST", f"/v1/models/{MODEL}:feedback", b'{"labels":[]}')
    for pieces in ([request[:20]], [request[:-1]], [slow[:-1]]):
        (refused,) = asyncio.run(run(pieces))
        assert refused.status == 408
        assert "not all there" in refused.json["error"]
    answered, refused = asyncio.run(run([request, request[:-1]]))
    assert (answered.status, refused.status) == (200, 408)


@planes
def test_an_idle_connection_is_closed_without_a_word(name):
    async def run():
        app = app_of()
        async with listening(app, plane(name, app), keep_alive_s=1) as (port, _):
            caller = await Caller.at(port)
            await caller.send([REQUESTS["named"]])
            assert await caller.ended()
            await caller.leave()
        return caller.got

    assert [reply.status for reply in asyncio.run(run())] == [200]


def test_a_server_that_ends_answers_what_it_has_begun_to_read():
    async def run():
        app = app_of()
        async with listening(app, plane("fast", app)) as (port, server):
            begun, idle = await Caller.at(port), await Caller.at(port)
            request = http("POST", V1, GOOD)
            await begun.send([request[:-5]])
            await idle.send([request])
            await idle.hear(1)
            server.should_exit = True
            assert await idle.ended()
            await begun.send([request[-5:]])
            assert await begun.ended()
            for caller in (begun, idle):
                await caller.leave()
        return begun.got

    (reply,) = asyncio.run(run())
    assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_who_takes_no_answers_is_read_from_no_more():
    count = 600
    request = http("POST", V1, json.dumps({"instances": rows_as_json(20)}).encode())

    async def run():
        app = app_of(FakeReplica())
        async with listening(app, plane("fast", app)) as (port, server):
            caller = await Caller.at(port)
            caller.writer.write(request * count)
            await asyncio.sleep(0.5)
            (connection,) = server.server_state.connections
            held = connection.transport.get_write_buffer_size()
            answered = server.server_state.total_requests
            got = await caller.hear(count, wait_s=50)
            await caller.leave()
        return held, answered, got

    held, answered, got = asyncio.run(run())
    assert 0 < answered < count / 2
    assert held < 1_000_000
    assert {reply.status for reply in got} == {200}
    assert len(got) == count
