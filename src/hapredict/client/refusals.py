"""What an answer that is no success means: the error as the server raised it."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from hapredict.errors import (
    BadRequest,
    ClusterUnavailable,
    Conflict,
    HapredictError,
    NotFound,
    Overloaded,
    Problem,
    SchemaMismatch,
    StoreUnavailable,
    TemporaryError,
    TimedOut,
    UnknownName,
)

_TEMPORARY: dict[str, type[TemporaryError]] = {
    kind.__name__: kind
    for kind in (TemporaryError, StoreUnavailable, Conflict, ClusterUnavailable, TimedOut)
}


class Answer(Protocol):
    """An HTTP answer, as httpx has it; `headers` may be asked by names in lower case."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...
    @property
    def url(self) -> Any: ...


def error_of(answer: Answer) -> HapredictError:
    """The error that a refusal stands for, as the server raised it, with its fields."""
    status = answer.status_code
    try:
        value = value_of(answer)
    except ClusterUnavailable:
        value = {}  # a proxy on the way answered, not the app
    message = str(value.get("error") or f"{answer.url} answered {status}")
    if status == 404:
        return _unknown(value, message)
    if status in (429, 503):
        kind = _TEMPORARY.get(str(value.get("type")))
        return Overloaded(message, retry_after_s(answer)) if kind is None else kind(message)
    if status == 504:
        return TimedOut(message)
    if status in (408, 502):
        return ClusterUnavailable(message)
    if 400 <= status < 500:
        return _refused(value, message, status)
    request_id = answer.headers.get("x-request-id", "")
    return HapredictError(f"{answer.url} answered {status}: {message} (request {request_id})")


def retry_after_s(answer: Answer) -> float:
    """Seconds that the server asks to be left alone, at most a minute; 0 if it does not."""
    sent = answer.headers.get("retry-after", "")
    return min(float(sent), 60.0) if sent.isascii() and sent.isdigit() else 0.0


def value_of(answer: Answer) -> dict[str, Any]:
    """The JSON object in an answer. Raises ClusterUnavailable if there is none."""
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise nonsense(answer) from error


def nonsense(answer: Answer) -> ClusterUnavailable:
    """The error for an answer that came from somebody else."""
    return ClusterUnavailable(f"{answer.url} answered something that hapredict would not say")


def _unknown(value: Mapping[str, Any], message: str) -> HapredictError:
    match value.get("unknown"):
        case {"kind": str(kind), "name": str(name), "known": list(known)}:
            return UnknownName(kind, name, tuple(map(str, known)))
        case _:
            return NotFound(message)


def _refused(value: Mapping[str, Any], message: str, status: int) -> BadRequest:
    fields = value.get("fields")
    problems = tuple(
        Problem(str(field.get("field", "")), str(field.get("problem", "")))
        for field in (fields if isinstance(fields, list) else ())
        if isinstance(field, Mapping)
    )
    return SchemaMismatch(problems, status) if problems else BadRequest(message, status)
