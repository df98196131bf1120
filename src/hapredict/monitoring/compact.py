"""Parts of the journal move into the inference table, each exactly once, whatever dies when.

    compaction/<model>/plans/00000042.json   which parts batch 42 is made of; created by one writer
    compaction/<model>/done/00000042.json    all files of batch 42 are in the table
    compaction/<model>/cleared.json          parts up to here may be gone from the journal

A plan is written before the first file and names its parts, so whoever finds it unfinished makes
the same files again under the same names, and the store says which of them are there. A part is
deleted from the journal when the table has it and the monitor has folded it and said so in its
snapshot. Files of a day are put together when there are many: the new one first, then the old ones
go; which files count is in their names at any moment (`table.standing`).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hapredict.errors import Conflict, CorruptBundle, NotFound
from hapredict.monitoring import table
from hapredict.monitoring.table import File, Positions
from hapredict.registry.store import Store, decode_json, encode_json
from hapredict.serving.journal import (
    decode_labels,
    labels_prefix,
    part_path,
    predictions_prefix,
    unread,
)

BYTES_MAX = 16 << 20
"""Bytes of a batch's parts: it is in memory as a whole."""
PARTS_MAX = 2000
"""Parts of a batch."""
TOGETHER_MIN = 16
"""Files of one kind and day that are put together."""
TOGETHER_BYTES_MAX = 64 << 20
"""Bytes of files that are put together: they are in memory as a whole."""
PLANS_KEPT = 100

NOTHING: Positions = {"predictions": {}, "labels": {}}


def saved_path(model: str) -> str:
    """Where the monitor says up to which parts its last snapshot goes."""
    return f"monitor/{model}/positions.json"


def cleared(store: Store, model: str) -> Positions:
    """Parts up to these may be gone from the journal. Raises StoreUnavailable."""
    return _positions(store, f"compaction/{model}/cleared.json")


def compacted(store: Store, model: str) -> Positions:
    """Parts up to these are in the table. Raises StoreUnavailable."""
    done = _last(store, f"compaction/{model}/done")
    return _positions(store, f"compaction/{model}/plans/{done:08d}.json") if done else NOTHING


@dataclass(frozen=True, slots=True)
class Moved:
    """What one round came to."""

    parts: int
    """Parts that are in the table now and were not."""
    full: bool
    """There may be more."""


class Compactor:
    """One model's way from the journal into the table. For one thread at a time."""

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._model = model
        self._folder = f"compaction/{model}"
        self._prefixes = {
            "predictions": predictions_prefix(model),
            "labels": labels_prefix(model),
        }

    def move(self, share: float, id_column: str | None) -> Moved:
        """Finish what was begun, or else move the parts that are new: one batch.

        `share` of keys is kept; `id_column` names the rows' own ids. Raises StoreUnavailable.
        """
        planned, done = _last(self._store, f"{self._folder}/plans"), self._done()
        before = self._plan(done)
        if planned <= done:
            plan, full = self._next(before)
            if plan is None:
                return Moved(0, full=False)
            planned = done + 1
            raw = {"positions": plan, "share": share, "id_column": id_column}
            with suppress(Conflict):  # somebody else's plan is as good
                self._store.put_new(self._path("plans", planned), encode_json(raw))
        else:
            full = True
        raw = decode_json(self._store.get(self._path("plans", planned)), "a plan of compaction")
        parts = self._write(planned, before, raw)
        with suppress(Conflict):
            self._store.put_new(self._path("done", planned), b"{}")
        for number in range(max(1, planned - PLANS_KEPT - 5), planned - PLANS_KEPT):
            self._store.delete(self._path("done", number))
            self._store.delete(self._path("plans", number))
        return Moved(parts, full)

    def clear(self) -> int:
        """Delete parts that nobody needs any more; how many. Raises StoreUnavailable."""
        done = compacted(self._store, self._model)
        saved = _positions(self._store, saved_path(self._model))
        floor = {
            kind: {
                source: min(seq, done[kind].get(source, 0))
                for source, seq in saved[kind].items()
                if done[kind].get(source, 0)
            }
            for kind in self._prefixes
        }
        gone = [
            path
            for kind, prefix in self._prefixes.items()
            for path in self._store.list(prefix)
            if path <= part_path(prefix, source := path.split("/")[-2], floor[kind].get(source, 0))
        ]
        if gone:
            self._store.put(f"{self._folder}/cleared.json", encode_json({"positions": floor}))
        for path in gone:
            self._store.delete(path)
        return len(gone)

    def tidy(self, now_s: float, kept_days: float) -> int:
        """Put small files together and delete what is too old; how many files went.

        Raises StoreUnavailable.
        """
        count = 0
        for prefix in (table.rows_prefix(self._model), table.label_rows_prefix(self._model)):
            counted, gone = table.standing(self._store.list(prefix))
            old = [file for file in counted if table.is_over(file, now_s, kept_days)]
            for file in (*gone, *old):
                self._store.delete(file.path)
                count += 1
            groups: dict[tuple[str, bool], list[File]] = {}
            for file in counted:
                if file not in old:
                    kind = (file.folder, file.first == file.last)
                    groups.setdefault(kind, []).append(file)
            for group in groups.values():
                if len(group) >= TOGETHER_MIN:
                    count += self._together(group)
        return count

    def _together(self, group: Sequence[File]) -> int:
        taken: list[File] = []
        data: list[bytes] = []
        for file in sorted(group, key=lambda f: f.first):
            data.append(self._store.get(file.path))
            taken.append(file)
            if sum(map(len, data)) > TOGETHER_BYTES_MAX:
                break
        if len(taken) < 2:
            return 0
        try:
            whole, content = table.together(taken, data)
        except CorruptBundle:  # it stays as it is, for whoever can mend it
            return 0
        with suppress(Conflict):
            self._store.put_new(whole.path, content)
        for file in taken:
            self._store.delete(file.path)
        return len(taken) - 1

    def _next(self, before: Positions) -> tuple[Positions | None, bool]:
        """The parts of the next batch; None if there are none. Whether it is full."""
        after = {kind: dict(before[kind]) for kind in self._prefixes}
        parts = size = 0
        for kind, prefix in self._prefixes.items():
            for source, seq, path in unread(self._store, prefix, before[kind]):
                if parts >= PARTS_MAX or size >= BYTES_MAX:
                    return after, True
                size += len(self._store.get(path))
                after[kind][source] = seq
                parts += 1
        return (after if parts else None), False

    def _write(self, batch: int, before: Positions, raw: Any) -> int:
        tables: dict[str, list[Any]] = {"predictions": [], "labels": []}
        for kind, prefix in self._prefixes.items():
            for source, last in sorted(raw["positions"][kind].items()):
                for seq in range(before[kind].get(source, 0) + 1, last + 1):
                    with suppress(CorruptBundle):  # the monitor tells of it
                        data = self._store.get(part_path(prefix, source, seq))
                        rows = (
                            table.rows_of_labels(decode_labels(data), source, seq)
                            if kind == "labels"
                            else table.rows_of_part(
                                data, source, seq, raw["share"], raw["id_column"]
                            )
                        )
                        tables[kind].append(rows)
        for kind, prefix in (
            ("predictions", table.rows_prefix(self._model)),
            ("labels", table.label_rows_prefix(self._model)),
        ):
            for file, data in table.by_day(prefix, batch, tables[kind]).items():
                with suppress(Conflict):
                    self._store.put_new(file.path, data)
        return sum(map(len, tables.values()))

    def _done(self) -> int:
        return _last(self._store, f"{self._folder}/done")

    def _plan(self, number: int) -> Positions:
        return _positions(self._store, self._path("plans", number)) if number else NOTHING

    def _path(self, kind: str, number: int) -> str:
        return f"{self._folder}/{kind}/{number:08d}.json"


def _last(store: Store, folder: str) -> int:
    paths = store.list(folder)
    return int(paths[-1].rpartition("/")[2].removesuffix(".json")) if paths else 0


def _positions(store: Store, path: str) -> Positions:
    try:
        raw = decode_json(store.get(path), path)["positions"]
    except NotFound:
        return NOTHING
    return {kind: {source: int(seq) for source, seq in raw[kind].items()} for kind in NOTHING}
