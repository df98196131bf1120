"""Replies over HTTP: what a handler returns, and which status code an error has."""

import math
from typing import Any

import msgspec

from hapredict.errors import (
    BadRequest,
    HapredictError,
    NotFound,
    Overloaded,
    StoreUnavailable,
    TemporaryError,
    TimedOut,
    UnknownName,
)
from hapredict.serving.answers import JSON, Headers, Part

_encode = msgspec.json.Encoder().encode


class Reply(msgspec.Struct, frozen=True):
    """One HTTP answer. `part` is the prediction in it, to be recorded once it is written."""

    status: int
    body: bytes
    kind: bytes = JSON
    headers: Headers = ()
    part: Part | None = None


def json_reply(value: Any, status: int = 200, headers: Headers = ()) -> Reply:
    """A reply that holds `value` as JSON."""
    return Reply(status, _encode(value), JSON, headers)


def status_of(error: HapredictError) -> int | None:
    """The status code for an error; None for those that no request can be blamed for."""
    if isinstance(error, BadRequest):
        return error.status
    if isinstance(error, UnknownName | NotFound):
        return 404
    if isinstance(error, TimedOut):
        return 504
    return 503 if isinstance(error, TemporaryError) else None


def shed_reason(error: HapredictError) -> str | None:
    """Why good work was refused, for the metrics; None if it was not."""
    if isinstance(error, Overloaded):
        return "ongoing"
    if isinstance(error, TimedOut):
        return "deadline"
    if isinstance(error, StoreUnavailable):
        return "store"
    return "not_ready" if isinstance(error, TemporaryError) else None


def without_memory(error: Exception) -> Exception:
    """What a request is answered with whose memory there was not: another replica may have it."""
    if not isinstance(error, MemoryError):
        return error
    found = TemporaryError("this replica has no memory left; another may answer")
    found.__cause__ = error
    return found


def is_memory(error: Exception) -> bool:
    """Whether an error came of memory that was not there, in Python or in ONNX Runtime."""
    cause = error.__cause__
    return isinstance(cause, MemoryError) or "bad_alloc" in str(cause)


def error_reply(error: HapredictError, status: int, headers: Headers = ()) -> Reply:
    """A reply with the error's sentence, its fields where it has some, and when to try again."""
    value: dict[str, Any] = {"error": str(error), "type": type(error).__name__}
    if isinstance(error, BadRequest) and error.problems:
        value["fields"] = [{"field": p.where, "problem": p.what} for p in error.problems]
    if isinstance(error, UnknownName):
        kind, name, known = error.args
        value["unknown"] = {"kind": kind, "name": name, "known": known}
    if status in (429, 503):
        wait_s = error.retry_after_s if isinstance(error, Overloaded) else 1.0
        headers = (*headers, (b"retry-after", str(max(1, math.ceil(wait_s))).encode()))
    return json_reply(value, status, headers)


def internal_error(request_id: str) -> Reply:
    """The reply to a fault of ours; the traceback is in the log under the same id."""
    return json_reply({"error": "internal error", "request_id": request_id}, 500)


def wrong_method(method: str, allowed: str) -> Reply:
    """405, and what is allowed instead."""
    message = f"{method} is not possible here; possible: {allowed}"
    return json_reply({"error": message}, 405, ((b"allow", allowed.encode()),))
