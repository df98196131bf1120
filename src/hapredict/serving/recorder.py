"""The recorder: answered rows and labels on their way into the journal.

A row takes three steps. `add` keeps it in memory and costs the request nothing. `tick`, every
50 ms or so, completes what was added (comparisons, counts) and appends it to the spool on the
local disk, from where the death of the process cannot take it. `report`, every
`monitoring.report_s`, turns each file of the spool into one part of the journal. While the store
does not answer, rows wait on the disk; memory holds at most `rows_max` rows, and at most one file
while it is being shipped.

Labels take one step: `add_labels` returns when they are in the store.
"""

import threading
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hapredict.data.schema import Schema
from hapredict.errors import Conflict, CorruptBundle, HapredictError, StoreUnavailable
from hapredict.registry.store import Store, encode_json
from hapredict.serving.health import NOTHING, Counted, HealthLog, counts_of
from hapredict.serving.journal import (
    Label,
    PredictionPart,
    encode,
    encode_labels,
    labels_prefix,
    merge,
    pack,
    part_path,
    predictions_prefix,
    unpack,
)
from hapredict.serving.risk import Rule, risk_path, warnings_of
from hapredict.serving.scoring import Answer, Fault, part_of
from hapredict.serving.spool import Sealed, Spool

_ROWS_A_RECORD = 2000
COMPARED_ROWS_MAX = 2000
"""While more rows wait than come in 50 ms of a busy replica, comparisons are left out: whoever is
only compared must not take the processor from those who wait for an answer."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recorder did so far, and what keeps it from doing more."""

    rows: int
    """Rows in the spool or in the journal already."""
    rows_waiting: int
    """Rows in memory, which a crash would take."""
    rows_dropped: int
    """Rows that were answered and could not be kept."""
    rows_unpaired: int
    """Rows for which the version in shadow was not asked, as too many waited."""
    parts: int
    parts_waiting: int
    trouble: str
    """Why the last step failed; "" if it did not."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a source is, so that the same process can go on under its name."""

    source: str
    calls: int = 1
    part: int = 1
    labels: tuple[int, int] = (0, 1)
    """How often the source of labels began anew, and the number of its next part."""
    health: Counted = NOTHING


class Recorder:
    """The rows of one source. Safe to use from several threads."""

    def __init__(
        self,
        store: Store,
        model: str,
        source: str,
        directory: Path,
        *,
        fault: Fault,
        health: HealthLog | None = None,
        rows_max: int = 200_000,
        first: int = 1,
    ) -> None:
        """Own `source` in the spool `directory`, which other models must not share.

        `first` is the number of its first part. Raises OSError if the directory cannot be written.
        """
        self._store = store
        self._model = model
        self._source = source
        self._fault = fault
        self._health = health
        self._rows_max = rows_max
        self._spool = Spool(directory, source, first=first)
        self._added: deque[Answer] = deque()
        self._packed: deque[tuple[bytes, int]] = deque()
        self._counting = threading.Lock()  # held for additions only, also by requests
        self._spooling = threading.Lock()
        self._shipping = threading.Lock()
        self._refused: Counter[str] = Counter()
        self._waiting = 0
        self._rows = 0
        self._dropped = 0
        self._unpaired = 0
        self._parts = 0
        self._disk_trouble = ""
        self._store_trouble = ""

    def add(self, answer: Answer) -> None:
        """Keep the rows of an answer. Beyond `rows_max` in memory they are dropped, and counted."""
        rows = len(answer.ids)
        with self._counting:
            if self._waiting + rows > self._rows_max:
                self._dropped += rows
                return
            self._waiting += rows
        self._added.append(answer)

    def refuse(self, reason: str, rows: int) -> None:
        """Count rows that were refused; the next report tells. Reasons are few, and bounded."""
        with self._counting:
            self._refused[reason] += rows

    def tick(self) -> None:
        """Append what was added to the spool. What the disk refuses is tried again next time."""
        with self._spooling:
            while self._added:
                self._pack()
            try:
                while self._packed:
                    record, rows = self._packed[0]
                    self._spool.append(record)
                    self._packed.popleft()
                    self._count(rows, dropped=False)
                self._disk_trouble = ""
            except OSError as error:
                self._disk_trouble = f"the spool cannot be written: {error}"

    def report(self, schema: Schema | None, rules: Sequence[Rule] = ()) -> None:
        """Ship what is in the spool, and what dead replicas left in the same directory.

        What `rules` warn of is in the store before the rows are. Without a schema nothing serves
        and the rules are not known: all of it stays on the disk. Trouble of the store or the disk
        leaves the rest for the next report; `state` tells.
        """
        self.tick()
        if schema is None:
            return
        with self._shipping:
            try:
                with self._spooling:
                    self._append_refused()
                    self._spool.seal()
                    files = self._spool.sealed()
                for file in files:
                    self._ship(file, schema, rules)
                self._spool.adopt(lambda file: self._ship(file, schema, rules))
                self._store_trouble = ""
            except (HapredictError, OSError) as error:
                self._store_trouble = str(error)

    def state(self) -> Recorded:
        """Counts and trouble at this moment."""
        try:
            parts_waiting = self._spool.waiting
        except OSError:
            parts_waiting = 0
        return Recorded(
            rows=self._rows,
            rows_waiting=self._waiting,
            rows_dropped=self._dropped,
            rows_unpaired=self._unpaired,
            parts=self._parts,
            parts_waiting=parts_waiting,
            trouble=self._disk_trouble or self._store_trouble,
        )

    @property
    def next_part(self) -> int:
        """The number of the next part of this source."""
        return self._spool.next_part

    @property
    def waits(self) -> bool:
        """Whether anything is not in the store yet."""
        state = self.state()
        return bool(state.parts_waiting or state.rows_waiting)

    def close(self, schema: Schema | None, rules: Sequence[Rule] = ()) -> None:
        """Report once more and let others adopt what could not be shipped."""
        self.report(schema, rules)
        with self._shipping, self._spooling:
            self._spool.close()

    def _append_refused(self) -> None:
        """Put what was refused into the spool, as a part without rows. Raises OSError."""
        with self._counting:
            refused, self._refused = self._refused, Counter()
        if not refused:
            return
        try:
            self._spool.append(pack(refusals(self._source, self._model, refused)))
        except OSError:
            with self._counting:
                self._refused.update(refused)
            raise

    def _pack(self) -> None:
        """Turn the oldest answers into a record, as far as they come from the same routes."""
        answers = [self._added.popleft()]
        rows = len(answers[0].ids)
        while self._added and rows < _ROWS_A_RECORD:
            if self._added[0].routes is not answers[0].routes:
                break
            answers.append(self._added.popleft())
            rows += len(answers[-1].ids)
        compare = self._waiting <= COMPARED_ROWS_MAX
        if not compare and answers[0].routes.compares:
            self._unpaired += rows
        try:
            part = part_of(answers, self._source, self._fault, compare=compare)
            self._packed.append((pack(part), rows))
        except Exception as error:  # rows that cannot be recorded must not stop all others
            self._fault(f"{rows} rows could not be recorded: {type(error).__name__}: {error}")
            self._count(rows, dropped=True)
            return
        self._watch(answers, part, compare=compare)

    def _watch(self, answers: Sequence[Answer], part: PredictionPart, *, compare: bool) -> None:
        """Count what the rows say of two versions that are compared."""
        routes = answers[0].routes
        if self._health is None or not routes.compares:
            return
        try:
            asked = np.repeat(
                [compare and not one.pinned for one in answers], [len(one.ids) for one in answers]
            )
            self._health.count(routes, counts_of(part, routes, asked))
        except Exception as error:  # rows are recorded already, and recording must go on
            self._fault(f"{part.rows} rows were not counted: {type(error).__name__}: {error}")

    def _count(self, rows: int, *, dropped: bool) -> None:
        with self._counting:
            self._waiting -= rows
            if dropped:
                self._dropped += rows
            else:
                self._rows += rows

    def _ship(self, file: Sealed, schema: Schema | None, rules: Sequence[Rule]) -> None:
        parts = []
        for record in file.records():
            try:
                parts.append(unpack(record))
            except CorruptBundle as error:
                self._fault(f"{file.path.name}: a record was left out: {error}")
        part = merge(parts, source=file.source, seq=file.seq, model=self._model)
        self._warn(part, rules)
        path = part_path(predictions_prefix(self._model), file.source, file.seq)
        with suppress(Conflict):  # only this file gets that name: an earlier attempt arrived
            self._store.put_new(path, encode(part, schema))
        file.delete()
        self._parts += 1

    def _warn(self, part: PredictionPart, rules: Sequence[Rule]) -> None:
        try:
            found = warnings_of(part, rules)
        except Exception as error:  # a rule that fails must not keep rows from the journal
            self._fault(f"a rule of alerts failed: {type(error).__name__}: {error}")
            return
        if found:
            path = risk_path(self._model, part.source, part.seq)
            with suppress(Conflict):
                self._store.put_new(path, encode_json({"warnings": found}))


def refusals(source: str, model: str, refused: Mapping[str, int]) -> PredictionPart:
    """A part that holds no row, and says how many were refused."""
    part = merge((), source=source, seq=0, model=model)
    return replace(part, refused=dict(refused))


class _Group:
    """Labels of one caller, waiting to be committed."""

    __slots__ = ("done", "error", "labels")

    def __init__(self, labels: Sequence[Label]) -> None:
        self.labels = labels
        self.done = False
        self.error: HapredictError | None = None


class LabelWriter:
    """Labels of one source. Callers that come together are committed together."""

    def __init__(
        self, store: Store, model: str, source: str, *, at: tuple[int, int] = (0, 1)
    ) -> None:
        """`at` is where a writer of this source ended that was closed before."""
        self._store = store
        self._model = model
        self._source = source
        self._begun, self._seq = at
        self._waiting: deque[_Group] = deque()
        self._committing = threading.Lock()
        self.written = 0
        """Labels that are durable."""

    @property
    def at(self) -> tuple[int, int]:
        """How often the source began anew, and the number of its next part."""
        return self._begun, self._seq

    def add(self, labels: Sequence[Label]) -> None:
        """Return when the labels are durable.

        Raises StoreUnavailable if they may not be; send them again then, for a label that arrives
        twice counts once.
        """
        group = _Group(labels)
        self._waiting.append(group)
        with self._committing:
            if not group.done:
                self._commit()
        if group.error is not None:
            raise StoreUnavailable(str(group.error)) from group.error

    def _commit(self) -> None:
        groups = []
        while self._waiting:
            groups.append(self._waiting.popleft())
        data = encode_labels([label for group in groups for label in group.labels])
        try:
            self._put(data)
            self.written += sum(len(group.labels) for group in groups)
        except HapredictError as error:
            for group in groups:
                group.error = error
        finally:
            for group in groups:
                group.done = True

    def _put(self, data: bytes) -> None:
        source = f"{self._source}-{self._begun}" if self._begun else self._source
        path = part_path(labels_prefix(self._model), source, self._seq)
        try:
            self._store.put_once(path, data)
        except HapredictError:
            # It may have arrived, be read and be cleared away: nobody may use its name again.
            self._begun += 1
            self._seq = 1
            raise
        self._seq += 1
