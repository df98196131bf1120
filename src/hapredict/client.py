"""A client for people's own programs: predictions, labels and readiness over HTTP, without Ray.

    with Client("http://ingress:8000/orders", "orders") as client:
        first, *_ = client.predict([{"distance": 700, "carrier": "UA"}])
        client.feedback([Feedback(first.prediction_id, "yes")])

Predictions and labels may be sent twice without harm, so what fails for a time is tried again: at
once with the next ingress node, and after all of them with a growing, jittered pause.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import msgspec

from hapredict.data.schema import Schema
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
from hapredict.serving.answers import Prediction, Reply
from hapredict.serving.feedback import Feedback, encode_feedback
from hapredict.serving.protocols import V1Rows

__all__ = ["Client", "Feedback", "Model", "Prediction"]

PAUSE_MAX_S = 10.0
"""The longest pause between two rounds that the client itself chooses."""

_TEMPORARY: dict[str, type[TemporaryError]] = {
    kind.__name__: kind
    for kind in (TemporaryError, StoreUnavailable, Conflict, ClusterUnavailable, TimedOut)
}
_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Model:
    """What the service says about its model. `versions` can be asked for by number."""

    name: str
    version: int
    versions: tuple[int, ...]
    schema: Schema


class Client:
    """Asks one model at one or several ingress nodes. Safe to use from several threads."""

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        *,
        timeout_s: float = 10.0,
        rounds_max: int = 4,
        pause_s: float = 0.1,
        headers: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        chance: random.Random | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`url` is where the app is mounted, or several such places for fail-over.

        A request asks every node once a round, for `timeout_s` each, and gives up after
        `rounds_max` rounds. Before the next round it pauses up to `pause_s`, doubled each time,
        and at least as long as a Retry-After says. `headers` go with every request.
        """
        urls = (url,) if isinstance(url, str) else tuple(url)
        if not urls:
            raise ValueError("a client needs at least one URL")
        self._model = model
        self._urls = tuple(each.rstrip("/") for each in urls)
        self._first = 0
        self._rounds_max = rounds_max
        self._pause_s = pause_s
        self._deadline = {"x-deadline-ms": f"{timeout_s * 1000:.0f}"}
        self._sleep = sleep
        self._chance = chance or random.Random()
        self._http = httpx.Client(timeout=timeout_s, headers=headers, transport=transport)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], *, version: int | None = None
    ) -> tuple[Prediction, ...]:
        """One prediction a row; `version` asks one loaded version instead of who serves.

        None and NaN are missing values. Raises BadRequest (SchemaMismatch with the faulty fields),
        UnknownName, or a TemporaryError when no node answered in all rounds.
        """
        path = V1Rows.path if version is None else V1Rows.versioned_path
        body = msgspec.json.encode({"instances": rows}, enc_hook=_plain)
        answer = self._ask("POST", path.format(model=self._model, version=version), body)
        return self._read(answer).predictions

    def feedback(self, labels: Iterable[Feedback | Mapping[str, Any]]) -> int:
        """Say what was observed. The labels are durable when this returns their number.

        A mapping holds `prediction_id`, `label` and perhaps `at`, the time of the observation.

        Raises BadRequest, or a TemporaryError; then they may or may not have been taken, and may
        be sent again.
        """
        body = encode_feedback(labels, enc_hook=_plain)
        answer = self._ask("POST", f"/v1/models/{self._model}:feedback", body)
        count = _value(answer).get("acknowledged")
        if not isinstance(count, int):
            raise _nonsense(answer)
        return count

    def model(self) -> Model:
        """The model's schema and versions. Raises UnknownName or a TemporaryError."""
        answer = self._ask("GET", f"/v1/models/{self._model}")
        value = _value(answer)
        if not value.get("ready"):
            raise TemporaryError(f"model {self._model!r} has no version in service yet")
        try:
            return Model(
                value["name"],
                value["model_version"],
                tuple(int(each["version"]) for each in value["model_version_status"]),
                Schema.from_json(value["schema"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _nonsense(answer) from error

    def ready(self) -> bool:
        """Whether any node would answer predictions now. It is asked once, without retries."""
        for url in self._urls:
            try:
                if self._http.get(f"{url}/v2/models/{self._model}/ready").status_code == 200:
                    return True
            except httpx.TransportError:
                continue
        return False

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: bytes | None = None) -> httpx.Response:
        trouble, least_s = TemporaryError("no node was asked"), 0.0
        for attempt in range(self._rounds_max):
            if attempt:
                # jitter over the whole pause: who failed together must not return together
                top_s = min(PAUSE_MAX_S, self._pause_s * 2 ** (attempt - 1))
                self._sleep(least_s + self._chance.uniform(0, top_s))
            least_s = 0.0
            for turn in range(len(self._urls)):
                node = (self._first + turn) % len(self._urls)
                try:
                    answer = self._send(method, self._urls[node] + path, body)
                except TemporaryError as error:
                    trouble = error
                    continue
                refusal = error_of(answer) if answer.status_code != 200 else None
                if isinstance(refusal, TemporaryError):
                    trouble, least_s = refusal, max(least_s, _retry_after_s(answer))
                    continue
                self._first = node  # the node that answered is asked first from now on
                if refusal is not None:
                    raise refusal
                return answer
        raise trouble

    def _send(self, method: str, url: str, body: bytes | None) -> httpx.Response:
        headers = self._deadline if body is None else _JSON | self._deadline
        try:
            return self._http.request(method, url, content=body, headers=headers)
        except httpx.TimeoutException as error:
            raise TimedOut(f"{url} did not answer in time: {_said(error)}") from error
        except httpx.TransportError as error:
            raise ClusterUnavailable(f"{url} cannot be reached: {_said(error)}") from error

    def _read(self, answer: httpx.Response) -> Reply:
        try:
            return V1Rows.decode_response(answer.content)
        except BadRequest as error:
            raise _nonsense(answer) from error


def error_of(answer: httpx.Response) -> HapredictError:
    """The error that a refusal stands for, as the server raised it, with its fields."""
    status = answer.status_code
    try:
        value = _value(answer)
    except ClusterUnavailable:
        value = {}  # a proxy on the way answered, not the app
    message = str(value.get("error") or f"{answer.url} answered {status}")
    if status == 404:
        return _unknown(value, message)
    if status in (429, 503):
        kind = _TEMPORARY.get(str(value.get("type")))
        return Overloaded(message, _retry_after_s(answer)) if kind is None else kind(message)
    if status == 504:
        return TimedOut(message)
    if status in (408, 502):
        return ClusterUnavailable(message)
    if 400 <= status < 500:
        return _refused(value, message, status)
    request_id = answer.headers.get("x-request-id", "")
    return HapredictError(f"{answer.url} answered {status}: {message} (request {request_id})")


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


def _retry_after_s(answer: httpx.Response) -> float:
    sent = answer.headers.get("retry-after", "")
    return min(float(sent), 60.0) if sent.isascii() and sent.isdigit() else 0.0


def _value(answer: httpx.Response) -> dict[str, Any]:
    try:
        return msgspec.json.decode(answer.content, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise _nonsense(answer) from error


def _nonsense(answer: httpx.Response) -> ClusterUnavailable:
    return ClusterUnavailable(f"{answer.url} answered something that hapredict would not say")


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _plain(value: Any) -> Any:
    """JSON for values of numpy and of pandas, whose missing markers are null."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    for form in ("item", "isoformat"):
        if hasattr(value, form):
            return getattr(value, form)()
    raise TypeError(f"a row holds a {type(value).__name__}, which has no form in JSON")
