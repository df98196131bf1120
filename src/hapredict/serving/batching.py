"""Micro-batching: one model call for all requests that arrived in one turn of the event loop.

No timer and no added wait: a request that is alone is answered alone. What is grouped is what
would have queued anyway. Holding requests for the rest of the turn also makes the queue visible
to admission, which otherwise never sees more than the one request at work.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, concat
from hapredict.errors import TimedOut, UnknownName
from hapredict.serving.answers import Answered
from hapredict.serving.decisions import Rule

Predict = Callable[..., Any]
"""`predict(table, version=...) -> Answer`, as a Replica has it."""


class _Call(msgspec.Struct):
    """One answer of the replica and how many requests still have to be written from it."""

    answer: Answered
    unwritten: int


class Part(msgspec.Struct, frozen=True, eq=False):
    """The rows of one request in an answer; it is `Answered`."""

    model: str
    schema: Schema
    rule: Rule
    ids: Sequence[str]
    versions: NDArray[np.int64]
    served_by: Sequence[str]
    scores: NDArray[np.float32]
    extras: NDArray[np.float32] | None
    extra_names: tuple[str, ...]
    call: _Call


class _Waiting(msgspec.Struct, eq=False):
    table: Table
    rows: int
    version: int | None
    deadline_s: float | None
    future: "asyncio.Future[Part]"


class Batcher:
    """Groups tables of one turn of the event loop into calls of at most `rows_max` rows.

    `predict` and `after` are the replica's. `after` runs once a call, when all of its requests
    are written, so that recording never delays an answer. All methods run in the event loop.
    """

    def __init__(
        self,
        predict: Predict,
        after: Callable[[Any], None],
        *,
        clock: Callable[[], float],
        rows_max: int = 1024,
    ) -> None:
        self._predict = predict
        self._after = after
        self._clock = clock
        self._rows_max = rows_max
        self._waiting: list[_Waiting] = []

    async def predict(
        self, table: Table, rows: int, version: int | None, deadline_s: float | None
    ) -> Part:
        """The answer for `table`, [rows] each. The caller owes one `written(part)`.

        Raises TimedOut if `deadline_s` passed before the model was asked, and whatever the
        replica raises for this table.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Part] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append(_Waiting(table, rows, version, deadline_s, future))
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.written(future.result())  # nobody else will
            raise

    def written(self, part: Part) -> None:
        """The answer to one request is written, or will never be."""
        call = part.call
        call.unwritten -= 1
        if call.unwritten == 0:
            self._after(call.answer)

    def _flush(self) -> None:
        first, *others = self._waiting
        batch, rest, rows = [first], [], first.rows
        for item in others:
            fits = rows + item.rows <= self._rows_max
            if fits and item.version == first.version and item.table.keys() == first.table.keys():
                batch.append(item)
                rows += item.rows
            else:
                rest.append(item)
        self._waiting = rest
        if rest:  # next turn, so that one long queue holds up neither writing nor reading
            asyncio.get_running_loop().call_soon(self._flush)
        self._answer(batch)

    def _answer(self, batch: list[_Waiting]) -> None:
        batch = [item for item in batch if not item.future.done() and self._in_time(item)]
        if not batch:
            return
        try:
            table = batch[0].table if len(batch) == 1 else concat([item.table for item in batch])
            answer: Answered = self._predict(table, version=batch[0].version)
        except Exception as error:
            if len(batch) == 1 or isinstance(error, UnknownName):
                for item in batch:
                    item.future.set_exception(error)
            else:  # one request must not spoil its neighbours' answers
                for item in batch:
                    self._answer([item])
            return
        call = _Call(answer, len(batch))
        start = 0
        for item in batch:
            stop = start + item.rows
            item.future.set_result(_part(answer, start, stop, call))
            start = stop

    def _in_time(self, item: _Waiting) -> bool:
        if item.deadline_s is None or self._clock() < item.deadline_s:
            return True
        item.future.set_exception(TimedOut("the caller's deadline passed before its turn came"))
        return False


def _part(answer: Answered, start: int, stop: int, call: _Call) -> Part:
    if stop - start == len(answer.ids):
        return Part(
            answer.model,
            answer.schema,
            answer.rule,
            answer.ids,
            answer.versions,
            answer.served_by,
            answer.scores,
            answer.extras,
            answer.extra_names,
            call,
        )
    rows = slice(start, stop)
    return Part(
        answer.model,
        answer.schema,
        answer.rule,
        answer.ids[rows],
        answer.versions[rows],
        answer.served_by[rows],
        answer.scores[rows],
        None if answer.extras is None else answer.extras[rows],
        answer.extra_names,
        call,
    )
