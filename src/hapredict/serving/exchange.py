"""One HTTP request and its answer, in ASGI's terms: headers, bodies, routes."""

import itertools
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np

from hapredict.errors import BadRequest, UnknownName
from hapredict.serving.answers import Answered, Headers
from hapredict.serving.replies import Reply, json_reply

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

GONE_STATUS = 499
"""Counted for a caller who went away before the answer; nobody sees it."""

_MILLISECONDS = re.compile(rb"-?[0-9]{1,12}(\.[0-9]{1,20})?([eE]-[0-9]{1,3})?")
"""A number as programs write it: small ones come with an exponent."""
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Gone(Exception):
    """The caller hung up."""


class Call(msgspec.Struct, frozen=True):
    """One request: what handlers need of it. `start_s` is when it began."""

    headers: Mapping[bytes, bytes]
    receive: Receive
    version: int | None
    root: str
    start_s: float

    def deadline_s(self) -> float | None:
        """When the caller stops waiting, by X-Deadline-Ms. Raises BadRequest if it is no number."""
        return read_deadline_s(self.headers, self.start_s)


Handler = Callable[[Call], Awaitable[Reply]]
Handlers = Mapping[str, Handler]
"""Who answers which method."""


@dataclass(frozen=True, slots=True)
class Route:
    """A path with its placeholders, and who answers which method."""

    template: str
    handlers: Handlers

    @property
    def allowed(self) -> str:
        """The value of an Allow header."""
        more = ("HEAD", "OPTIONS") if "GET" in self.handlers else ("OPTIONS",)
        return ", ".join((*self.handlers, *more))


def read_wait_s(sent: bytes) -> float:
    """How long a caller waits, from X-Deadline-Ms. Raises BadRequest if it is no number."""
    if not _MILLISECONDS.fullmatch(sent):
        raise BadRequest("X-Deadline-Ms must be a number of milliseconds from now")
    return float(sent) / 1000


def read_deadline_s(headers: Mapping[bytes, bytes], start_s: float) -> float | None:
    """When the caller of a request that began at `start_s` stops waiting. Raises BadRequest."""
    sent = headers.get(b"x-deadline-ms")
    return None if sent is None else start_s + read_wait_s(sent)


def read_version(sent: str) -> int:
    """The number of a version that a caller asks for. Raises UnknownName if it is no number."""
    if not (sent.isascii() and sent.isdigit()):
        raise UnknownName("version", sent[:100], ("whole numbers",))
    return int(sent[:18])


def pattern_of(template: str) -> re.Pattern[str]:
    """What matches a path with any model and any version."""
    pattern = re.escape(template)
    for name in ("model", "version"):
        pattern = pattern.replace(re.escape("{" + name + "}"), f"(?P<{name}>[^/:]+)")
    return re.compile(pattern)


def fixed(value: Any) -> Handler:
    """A handler that always says the same."""
    reply = json_reply(value)

    async def handler(_call: Call) -> Reply:
        return reply

    return handler


def counted(prefix: str) -> Callable[[], str]:
    """Makes names that begin alike and that none has twice."""
    numbers = itertools.count(1)
    return lambda: f"{prefix}-{next(numbers):x}"


def sent_request_id(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The caller's X-Request-Id, if it can stand in a header and in a log line."""
    sent = headers.get(b"x-request-id")
    return sent if sent is not None and _REQUEST_ID.fullmatch(sent) else None


async def read_body(call: Call, bytes_max: int) -> bytes | bytearray:
    """The whole body, which is never held beyond `bytes_max`.

    Raises BadRequest (413) for a longer one, (415) for one that is encoded; Gone.
    """
    headers = call.headers
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        name = encoding[:40].decode("latin-1")
        raise BadRequest(f"the content encoding {name!r} is not read here; send it as it is", 415)
    length = headers.get(b"content-length", b"").strip()
    if length.isdigit() and (len(length) > 15 or int(length) > bytes_max):
        raise too_long(bytes_max)
    message = await call.receive()
    body: bytes | bytearray = message.get("body", b"")
    while message.get("more_body"):
        if len(body) > bytes_max:
            raise too_long(bytes_max)
        message = await call.receive()
        if isinstance(body, bytes):
            body = bytearray(body)
        body += message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise Gone
    if len(body) > bytes_max:
        raise too_long(bytes_max)
    return body


async def write(send: Send, reply: Reply, request_id: bytes, *, head: bool) -> None:
    """Send a reply; for HEAD without its body."""
    headers = [(b"x-request-id", request_id), *reply.headers]
    if reply.status != 204:
        headers += [
            (b"content-type", reply.kind),
            (b"content-length", b"%d" % len(reply.body)),
        ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else reply.body})


def version_header(answer: Answered) -> Headers:
    """X-Model-Version: the version that answered; all of them, by a comma, if there are several."""
    versions = answer.versions
    first = int(versions[0])
    if len(versions) == 1 or (versions == first).all():
        return _one_version(first)
    listed = ",".join(map(str, np.unique(versions).tolist()))
    return ((b"x-model-version", listed.encode()),)


def too_long(bytes_max: int) -> BadRequest:
    """The error for a longer request."""
    return BadRequest(f"the body is longer than {bytes_max} bytes; send fewer rows at once", 413)


@cache
def _one_version(version: int) -> Headers:
    return ((b"x-model-version", b"%d" % version),)
