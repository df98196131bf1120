"""From a request's body to its reply, the same way whatever carried it here.

Admission, reading, judging, batching and encoding happen here once: the fast data plane, the ASGI
app and Python handles differ in how bytes or rows arrive and leave, and in nothing else.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Generic, Protocol, TypeVar

from hapredict.data.schema import Schema, Table
from hapredict.errors import SchemaMismatch, TimedOut
from hapredict.sections_live import ServingSpec
from hapredict.serving.admission import Admission
from hapredict.serving.answers import Answered, Part, Request
from hapredict.serving.batching import Batcher, Waiting
from hapredict.serving.exchange import version_header
from hapredict.serving.metrics import Metrics
from hapredict.serving.protocols import WireProtocol
from hapredict.serving.reader import Reader
from hapredict.serving.repeats import Repeats, read_key
from hapredict.serving.replies import Reply
from hapredict.serving.v2 import JSON_LENGTH
from hapredict.spec import Spec

log = logging.getLogger(__name__)

PROBE = b"x-hapredict-probe"
"""The header of requests that look whether answers are right: they are answered as all others are,
and are nobody's traffic. Drills send it."""

T = TypeVar("T")

Replied = Callable[[Reply | Exception], None]
"""Takes the reply to one request, or why there is none. Raises nothing."""


class Predicts(Protocol):
    """What answering needs of a replica; see `replica.Replica` for the promises."""

    @property
    def spec(self) -> Spec: ...
    @property
    def schema(self) -> Schema: ...
    def predict(
        self,
        table: Table,
        *,
        version: int | None = None,
        named: Sequence[tuple[int, int, str]] = (),
    ) -> Answered: ...
    def refused(self, column: str, rows: int) -> None: ...
    def after(self, answer: Any) -> None: ...


class Answering:
    """Asks one replica's model. All methods run in one event loop."""

    def __init__(self, replica: Predicts, *, clock: Callable[[], float], metrics: Metrics) -> None:
        self._replica = replica
        self._clock = clock
        self._metrics = metrics
        self._admission = Admission(ServingSpec().max_ongoing_requests)
        self._batcher = Batcher(replica.predict, self._after, clock=clock, later=_later)
        self._repeats = Repeats()
        self._reader: Reader | None = None
        self.drain = self._batcher.drain
        self.written = self._batcher.written

    def settings(self) -> ServingSpec:
        """The settings of now, for a request that may come in.

        Raises TemporaryError if the replica is not ready, Overloaded if it is full.
        """
        serving = self._replica.spec.serving
        self._admission.limit_ongoing = serving.max_ongoing_requests
        self._admission.check()
        return serving

    def ask(
        self,
        protocol: type[WireProtocol],
        body: bytes | bytearray,
        headers: Mapping[bytes, bytes],
        replied: Replied,
        *,
        version: int | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """Calls `replied` once, later in this turn or in another, unless it raises.

        `headers` go by their names in lower case. One with a key that was answered here gets that
        answer again. A reply with a `part` is owed one `written`. Raises HapredictError for what is
        refused before the model is asked.
        """
        key = read_key(headers)
        if not key:
            self._ask(protocol, body, headers, replied, "", version, deadline_s)
            return
        if deadline_s is not None and self._clock() >= deadline_s:
            raise TimedOut("nobody waits for the answer any more")
        of_all = f"{protocol.path} {version} {headers.get(JSON_LENGTH)!r} ".encode()
        asked = blake2b(of_all + body, digest_size=16).digest()
        first = self._repeats.first(key, asked, replied)
        if first is None:
            return
        try:
            self._ask(protocol, body, headers, first, key, version, deadline_s)
        except BaseException:
            self._repeats.forget(key)
            raise

    def _ask(
        self,
        protocol: type[WireProtocol],
        body: bytes | bytearray,
        headers: Mapping[bytes, bytes],
        replied: Replied,
        key: str,
        version: int | None,
        deadline_s: float | None,
    ) -> None:
        rows_max = self._replica.spec.serving.rows_max

        def read() -> tuple[Waiting, Request]:
            if protocol.by_rows and JSON_LENGTH not in headers:
                reader = self._reader_of_now()
                lines = reader.lines(body, rows_max)
                if lines is not None:
                    waiting = Waiting(len(lines), done, lines=lines, reader=reader)
                    return waiting, Request({}, len(lines))
            request = protocol.decode_request(body, rows_max, headers)
            return Waiting(request.rows, done, table=self._table(request)), request

        def done(part: Part | Exception) -> None:
            self._admission.leave(self._clock())
            if isinstance(part, Exception):
                replied(part)
                return
            try:
                encoded = protocol.encode_response(part, request)
                told = version_header(part) + encoded.headers
                reply = Reply(200, encoded.body, encoded.kind, told, part)
            except Exception as error:  # its neighbours in the batch are still to be answered
                self.written(part)
                replied(error)
                return
            replied(reply)

        request = self._submit(read, version, deadline_s, key, probe=PROBE in headers)

    async def reply(
        self,
        protocol: type[WireProtocol],
        body: bytes | bytearray,
        headers: Mapping[bytes, bytes],
        *,
        version: int | None,
        deadline_s: float | None,
    ) -> Reply:
        """As `ask`, awaited."""
        future: _Future[Reply] = _Future()
        self.ask(protocol, body, headers, future.take, version=version, deadline_s=deadline_s)
        return await future.value(self._unwanted)

    async def part(
        self, read: Callable[[ServingSpec], Request], start_s: float
    ) -> tuple[Part, Request]:
        """The answer to what `read` has read, of a call that began at `start_s`.

        The caller owes one `written`. Raises what `read` raises, BadRequest, UnknownName or
        TemporaryError.
        """
        request = read(self.settings())
        deadline_s = None if request.wait_s is None else start_s + request.wait_s
        future: _Future[Part] = _Future()

        def done(part: Part | Exception) -> None:
            self._admission.leave(self._clock())
            future.take(part)

        def judge() -> tuple[Waiting, Request]:
            return Waiting(request.rows, done, table=self._table(request)), request

        self._submit(judge, request.version, deadline_s, request.key)
        return await future.value(self.written), request

    def _submit(
        self,
        read: Callable[[], tuple[Waiting, Request]],
        version: int | None,
        deadline_s: float | None,
        key: str,
        *,
        probe: bool = False,
    ) -> Request:
        """Admit what `read` reads; whoever waits leaves again when it is done."""
        self._admission.enter(self._clock(), deadline_s)
        try:
            waiting, request = read()
        except BaseException:
            self._admission.leave(self._clock())
            raise
        waiting.version, waiting.deadline_s, waiting.key = version, deadline_s, key
        waiting.probe = probe
        self._batcher.submit(waiting)
        return request

    def _table(self, request: Request) -> Table:
        try:
            return self._replica.schema.table(request.columns, time_required=self._time_required())
        except SchemaMismatch as error:
            self._replica.refused(_column_at_fault(error, self._replica.schema), request.rows)
            raise

    def _reader_of_now(self) -> Reader:
        schema, time_required = self._replica.schema, self._time_required()
        reader = self._reader
        if (
            reader is None
            or reader.schema is not schema
            or reader.time_required is not time_required
        ):
            reader = self._reader = Reader(schema, time_required=time_required)
        return reader

    def _time_required(self) -> bool:
        return self._replica.spec.monitoring.clock == "event"

    def _unwanted(self, reply: Reply) -> None:
        if reply.part is not None:
            self.written(reply.part)

    def _after(self, answer: Any) -> None:
        try:
            self._metrics.rows(answer.versions)
            self._replica.after(answer)
        except Exception:  # the answer is out; recording it must not harm the next one
            log.exception("an answer could not be recorded")


class _Future(Generic[T]):
    """Turns a callback into something to await; what arrives too late is given back."""

    def __init__(self) -> None:
        self._future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._late: Callable[[T], None] | None = None

    def take(self, value: T | Exception) -> None:
        if self._future.done():  # its caller went away
            if self._late is not None and not isinstance(value, Exception):
                self._late(value)
        elif isinstance(value, Exception):
            self._future.set_exception(value)
        else:
            self._future.set_result(value)

    async def value(self, late: Callable[[T], None]) -> T:
        """What `take` gets; raised if it is an exception. `late` gets what nobody awaits."""
        self._late = late
        try:
            return await self._future
        except asyncio.CancelledError:
            if not self._future.cancelled() and self._future.exception() is None:
                late(self._future.result())
            raise


def _later(work: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_soon(work)


def _column_at_fault(error: SchemaMismatch, schema: Schema) -> str:
    # "rows[3].distance" is about distance; names that nobody knows must not fill any memory
    name = error.problems[0].where if error.problems else ""
    name = name.partition("].")[2] or name
    known = {column.name for column in schema.features} | {schema.time, schema.id}
    return name if name in known else "unknown fields"
