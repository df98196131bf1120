"""Micro-batching: one model call for all requests that arrived in one turn of the event loop.

No timer and no added wait: a request that is alone is answered alone. What is grouped is what
would have queued anyway. Holding requests for the rest of the turn also makes the queue visible
to admission, which otherwise never sees more than the one request at work.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from hapredict.data.schema import Table, concat
from hapredict.errors import TimedOut, UnknownName
from hapredict.serving.answers import Answered, Part, Shared
from hapredict.serving.reader import Line, Reader

Predict = Callable[..., Any]
"""`predict(table, version=..., named=...) -> Answer`, as a Replica has it."""
Done = Callable[[Part | Exception], None]
"""Takes the answer to one request, or why there is none. Raises nothing."""


class Waiting(msgspec.Struct, eq=False):
    """One request that waits for the model: a table, or the lines that `reader` read.

    `key`, if there is one, names its predictions. A `probe` is answered and not recorded.
    """

    rows: int
    done: Done
    table: Table | None = None
    lines: Sequence[Line] = ()
    reader: Reader | None = None
    version: int | None = None
    deadline_s: float | None = None
    key: str = ""
    probe: bool = False

    def goes_with(self, other: "Waiting") -> bool:
        """Whether both can be answered by one call."""
        if self.version != other.version or self.reader is not other.reader:
            return False
        if self.probe != other.probe:
            return False
        if self.table is None or other.table is None:
            return self.table is other.table
        return self.table.keys() == other.table.keys()


class Batcher:
    """Groups requests of one turn of the event loop into calls of at most `rows_max` rows.

    `predict` and `after` are the replica's; `after` runs once a call, when all of its requests
    are written, so that recording never delays an answer. `later` runs a function in the event
    loop's next turn. All methods run in the event loop.
    """

    def __init__(
        self,
        predict: Predict,
        after: Callable[[Any], None],
        *,
        clock: Callable[[], float],
        later: Callable[[Callable[[], None]], object],
        rows_max: int = 1024,
    ) -> None:
        self._predict = predict
        self._after = after
        self._clock = clock
        self._later = later
        self._rows_max = rows_max
        self._waiting: list[Waiting] = []

    def submit(self, item: Waiting) -> None:
        """Calls `item.done` once, in this turn's end or later.

        With a Part, for which the caller then owes one `written`; with TimedOut if the deadline
        passed before the model was asked; or with what the replica raises for these rows.
        """
        if not self._waiting:
            self._later(self._flush)
        self._waiting.append(item)

    def written(self, part: Part) -> None:
        """The answer to one request is written, or will never be."""
        shared = part.shared
        shared.unwritten -= 1
        if shared.unwritten == 0 and not shared.probe:
            self._after(shared.answer)

    def drain(self) -> None:
        """Answers all that waits, now."""
        while self._waiting:
            self._answer(self._taken())

    def _flush(self) -> None:
        if not self._waiting:  # drained meanwhile
            return
        batch = self._taken()
        if self._waiting:  # next turn, so that one long queue holds up neither writing nor reading
            self._later(self._flush)
        self._answer(batch)

    def _taken(self) -> list[Waiting]:
        """The first request and those that go with it, taken from those that wait."""
        first, *others = self._waiting
        batch, rest, rows = [first], [], first.rows
        for item in others:
            if rows + item.rows <= self._rows_max and item.goes_with(first):
                batch.append(item)
                rows += item.rows
            else:
                rest.append(item)
        self._waiting = rest
        return batch

    def _answer(self, batch: list[Waiting]) -> None:
        batch = [item for item in batch if self._in_time(item)]
        if not batch:
            return
        try:
            answer: Answered = self._predict(
                _table(batch), version=batch[0].version, named=_named(batch)
            )
        except Exception as error:
            if len(batch) == 1 or isinstance(error, UnknownName):
                for item in batch:
                    item.done(error)
            else:  # one request must not spoil its neighbours' answers
                for item in batch:
                    self._answer([item])
            return
        shared = Shared(answer, len(batch), probe=batch[0].probe)
        start = 0
        for item in batch:
            stop = start + item.rows
            item.done(Part(shared, start, stop))
            start = stop

    def _in_time(self, item: Waiting) -> bool:
        if item.deadline_s is None or self._clock() < item.deadline_s:
            return True
        item.done(TimedOut("the caller's deadline passed before its turn came"))
        return False


def _named(batch: list[Waiting]) -> list[tuple[int, int, str]]:
    """Which rows have a caller's key: from, to, key."""
    named, start = [], 0
    for item in batch:
        if item.key:
            named.append((start, start + item.rows, item.key))
        start += item.rows
    return named


def _table(batch: list[Waiting]) -> Table:
    reader = batch[0].reader
    if reader is not None:
        if len(batch) == 1:
            return reader.table(batch[0].lines)
        return reader.table([line for item in batch for line in item.lines])
    tables = [item.table for item in batch if item.table is not None]
    return tables[0] if len(tables) == 1 else concat(tables)
