"""HTTP for predictions without ASGI: from uvicorn's parser straight to the model.

An ASGI server makes a task, a scope, two queues and a dozen calls for each request, and Ray Serve
as much again on its way to the app. A prediction whose path, method and length are plain needs none
of it: its body goes to `App.direct` and the reply is written in one piece. All else, such as other
paths, long or encoded bodies and old HTTP, takes the usual way on the same connection.

This leans on two things that are no public promise: the methods of uvicorn's protocol class, and
the name under which uvicorn looks it up when it starts a server for Ray Serve. Both are looked at
before they are used; where they are not as expected, `install` says so and nothing changes.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, Protocol

import uvicorn
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hapredict.serving.protocols import WireProtocol
from hapredict.serving.replies import Reply

VERSIONS = ("0.54.",)
"""Beginnings of uvicorn's versions whose protocol class was read and tried."""
BODY_BYTES_MAX = 1 << 20
"""Longer bodies take the usual way, which reads them piece by piece."""
READ_S = 20.0
READ_BYTES_S = 50_000
"""A request that is not all there after so long, and a second for each so many bytes that came, is
given up: slow senders hold no connection."""

_EXPECTED = {
    "__init__": ("self", "config", "server_state", "app_state", "_loop"),
    "on_message_begin": ("self",),
    "on_url": ("self", "url"),
    "on_header": ("self", "name", "value"),
    "on_headers_complete": ("self",),
    "on_body": ("self", "body"),
    "on_message_complete": ("self",),
    "send_400_response": ("self", "msg"),
    "connection_made": ("self", "transport"),
    "connection_lost": ("self", "exc"),
    "data_received": ("self", "data"),
    "pause_writing": ("self",),
    "resume_writing": ("self",),
    "shutdown": ("self",),
}
_ODD = frozenset((b"transfer-encoding", b"content-encoding", b"expect", b"upgrade"))
"""Headers of requests that take the usual way."""

Sent = Callable[[Reply, bytes], bool]
"""Takes the reply and the request's id; whether anybody was there to take it."""


class Direct(Protocol):
    """Who answers; see `asgi.App` for the promises."""

    @property
    def body_bytes_max(self) -> int: ...
    def direct(
        self,
        route: str,
        protocol: type[WireProtocol],
        headers: Mapping[bytes, bytes],
        body: bytes,
        send: Sent,
    ) -> None: ...
    def drain(self) -> None: ...


class DirectApp(Direct, Protocol):
    """What this needs of the app of one model."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...
    def direct_paths(self) -> Mapping[bytes, tuple[str, type[WireProtocol]]]: ...


class Home(Protocol):
    """Whose event loop it is."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...


Target = tuple[Direct, str, type[WireProtocol]]
"""Who answers a path, and what `direct` is to be told."""


def why_not() -> str:
    """Why this cannot be used with the uvicorn that is installed; "" if it can."""
    version = uvicorn.__version__
    if not version.startswith(VERSIONS):
        return f"uvicorn {version} is not one of {', '.join(f'{v}x' for v in VERSIONS)}"
    for name, parameters in _EXPECTED.items():
        method = getattr(HttpToolsProtocol, name, None)
        if method is None or tuple(inspect.signature(method).parameters) != parameters:
            return f"uvicorn {version} has another HttpToolsProtocol.{name}"
    if getattr(auto, "AutoHTTPProtocol", None) is None:
        return f"uvicorn {version} has no protocols.http.auto.AutoHTTPProtocol"
    return ""


def install(app: DirectApp, root: str) -> str:
    """Let servers that this process starts from now on use it for `app`; why not, or "".

    `root` is the prefix of paths, as Ray Serve's `route_prefix`. For processes with one app.
    """
    return use(lambda: protocol_for(app, root))


def use(protocol: Callable[[], type["FastProtocol"]]) -> str:
    """Let servers that this process starts from now on use a protocol class; why not, or ""."""
    reason = why_not()
    if not reason:
        auto.AutoHTTPProtocol = protocol()
    return reason


def protocol_for(app: DirectApp, root: str = "") -> type["FastProtocol"]:
    """The protocol class for uvicorn's setting `http`, which answers the predictions of `app`.

    `root` is the prefix of paths, as Ray Serve's `route_prefix`.
    """
    paths: dict[bytes, Target] = {p: (app, *found) for p, found in app.direct_paths().items()}
    if root:
        paths |= {root.encode() + path: found for path, found in paths.items()}
    return protocol_of(app, paths)


def protocol_of(home: Home, paths: Mapping[bytes, Target]) -> type["FastProtocol"]:
    """The protocol class that answers `paths`, which may change at any time."""
    return type("FastProtocol", (FastProtocol,), {"direct_home": home, "direct_paths": paths})


class FastProtocol(HttpToolsProtocol):
    """One connection. Requests are answered in their order, whichever way each takes."""

    direct_home: Home
    direct_paths: Mapping[bytes, Target]
    told: tuple[Any, bytes] = (None, b"")
    """uvicorn's own headers, which are the same for a second, and their bytes."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._found: Target | None = None
        self._asked: Direct | None = None
        self._pieces: list[bytes] = []
        self._read_bytes = 0
        self._unanswered = 0
        self._last = False
        self._begun_s: float | None = None
        self._seen_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._usable = self.limit_concurrency is None and not self.config.access_log

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._usable = self._usable and self.direct_home.loop is self.loop
        self._seen_s = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        self._drain()
        if self._found is not None:
            self._last = True  # it is being read: answer it, then close
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        self._drain()
        super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()  # who does not take answers asks no more

    def resume_writing(self) -> None:
        super().resume_writing()
        self.flow.resume_reading()

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._begun_s = self.loop.time()
        self._read_bytes = 0

    def on_headers_complete(self) -> None:
        found = self.direct_paths.get(self.url)
        if found is not None and self._usable and self._is_plain(found[0].body_bytes_max):
            self._found = found
            return
        self._drain()
        self._as_usual()

    def on_body(self, body: bytes) -> None:
        self._read_bytes += len(body)
        if self._found is None:
            super().on_body(body)
        else:
            self._pieces.append(body)

    def on_message_complete(self) -> None:
        self._begun_s = None
        if self._found is None:
            super().on_message_complete()
            return
        pieces, (asked, route, protocol) = self._pieces, self._found
        self._pieces, self._found = [], None
        self._drain()
        self._unanswered += 1
        self._asked = asked
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        asked.direct(route, protocol, dict(self.headers), body, self._write)

    def _drain(self) -> None:
        """Have answered what was asked, so that answers keep the order of requests."""
        if self._unanswered and self._asked is not None:
            self._asked.drain()

    def _is_plain(self, body_bytes_max: int) -> bool:
        """Whether a prediction can be answered here."""
        parser = self.parser
        if (
            parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
            or (self.cycle is not None and not self.cycle.response_complete)
        ):
            return False
        length = -1
        for name, value in self.headers:
            if name == b"content-length":
                # the parser has refused what is no number, and two that differ
                length = int(value) if len(value) < 10 else -1
            elif name in _ODD:
                return False
        return 0 <= length <= min(BODY_BYTES_MAX, body_bytes_max)

    def _as_usual(self) -> None:
        """Make up for what uvicorn does at a message's begin, and go on as it does."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the list that the scope has
        super().on_headers_complete()

    def _write(self, reply: Reply, request_id: bytes) -> bool:
        self._unanswered -= 1
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        told = [
            _status_line(reply.status),
            self._defaults(),
            b"x-request-id: ",
            request_id,
            b"\r\n",
        ]
        for name, value in reply.headers:
            told += (name, b": ", value, b"\r\n")
        if self._last:
            told.append(b"connection: close\r\n")
        told += (b"content-type: ", reply.kind, b"\r\ncontent-length: %d\r\n\r\n" % len(reply.body))
        told.append(reply.body)
        transport.write(b"".join(told))
        self.server_state.total_requests += 1
        self._seen_s = self.loop.time()
        if self._last:
            transport.close()
        return True

    def _defaults(self) -> bytes:
        headers, said = self.told
        if headers is not self.server_state.default_headers:
            headers = self.server_state.default_headers
            said = b"".join(b"%b: %b\r\n" % header for header in headers)
            type(self).told = headers, said
        return said

    def _watch(self) -> None:
        """Look at times: of the request that is being read, and of idleness."""
        self._timer = None
        if self.transport.is_closing():
            return
        now_s = self.loop.time()
        if self._begun_s is not None:
            if now_s - self._begun_s >= READ_S + self._read_bytes / READ_BYTES_S:
                self._give_up()
                return
        elif not self._busy() and now_s - self._seen_s >= self.timeout_keep_alive:
            self.transport.close()
            return
        self._timer = self.loop.call_later(min(READ_S, self.timeout_keep_alive) / 2, self._watch)

    def _busy(self) -> bool:
        cycle = self.cycle
        return self._unanswered > 0 or (cycle is not None and not cycle.response_complete)

    def _give_up(self) -> None:
        started = self.cycle is not None and self.cycle.response_started
        if not started and not self._unanswered:
            body = b'{"error":"the request was not all there after %d s"}' % READ_S
            self.transport.write(
                _status_line(408)
                + b"connection: close\r\ncontent-type: application/json\r\n"
                + b"content-length: %d\r\n\r\n" % len(body)
                + body
            )
        self.transport.close()


@cache
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, HTTPStatus(status).phrase.encode())
