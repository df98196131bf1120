"""Prepared rows as files, and the training feed that reads them.

    <prefix>/<sha256>.rows     a shard: the training rows of one block of the data

A shard is a row of `.npy` arrays in one file, so `numpy.load` reads it without this code. Its name
is the hash of its bytes: shards of two preparations never mix, and a damaged one shows. Rows are
numbered through all shards, in the order of the set.

What fits in memory is read once (`Resident`); more is read window by window (`Streamed`). Both
follow the same plan, so they train to the same bits. Files are read into arrays rather than mapped:
mapped pages would count as memory of the worker, and each would hold a file open.
"""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from hapredict.errors import NotFound, StoreUnavailable
from hapredict.training.feed import Feed, Resident, Window, plan_windows, window_rows
from hapredict.training.network import Examples

_LEARNED = 3  # arrays, from the first, that training needs


class _Damaged(StoreUnavailable):
    """Prepared rows are not those that were written. The next run prepares them again."""


class Files(Protocol):
    """Named bytes that every node reaches; a registry's store is one."""

    def get(self, path: str) -> bytes:
        """The bytes of a file."""

    def put(self, path: str, data: bytes) -> None:
        """Create or replace a file: readers see all of it or nothing."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of prepared rows."""

    sha256: str
    rows: int
    bytes: int
    """Of the file."""

    @property
    def name(self) -> str:
        return f"{self.sha256}.rows"


@dataclass(frozen=True, slots=True)
class ShardSet:
    """All training rows of one preparation; a few kilobytes that any process may hold."""

    key: str
    """Of the preparation: the same key, the same rows in the same order."""
    prefix: str
    """Folder of the shards in `files`."""
    numbers: int
    """Columns of `Examples.numbers`; `categories` likewise."""
    categories: int
    has_ids: bool
    shards: tuple[Shard, ...]
    folder: str | None = None
    """The same folder as a path, where files are on a file system that every node reaches."""
    files: Files | None = None
    """Where the shards are, if there is no such path."""

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def row_bytes(self) -> int:
        """Of one row in memory."""
        return 4 * (self.numbers + self.categories + 1)

    @property
    def bytes(self) -> int:
        """Of all rows in memory."""
        return self.rows * self.row_bytes

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without where the files are."""
        return {
            "key": self.key,
            "numbers": self.numbers,
            "categories": self.categories,
            "has_ids": self.has_ids,
            "shards": [[shard.sha256, shard.rows, shard.bytes] for shard in self.shards],
        }

    @classmethod
    def from_json(
        cls, raw: Mapping[str, Any], prefix: str, folder: str | None, files: Files | None
    ) -> "ShardSet":
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        shards = tuple(Shard(sha256, rows, size) for sha256, rows, size in raw["shards"])
        return cls(**{**raw, "shards": shards}, prefix=prefix, folder=folder, files=files)


def put_shard(
    files: Files,
    prefix: str,
    examples: Examples,
    order: NDArray[np.float64],
    ids: NDArray[Any] | None = None,
) -> Shard:
    """Write rows as one shard: `order` [rows], and `ids` [rows] of str or None where rows have one.

    The same rows make the same file. Raises what `files.put` raises.
    """
    data = _encode(examples, order, ids)
    shard = Shard(hashlib.sha256(data).hexdigest(), examples.rows, len(data))
    files.put(f"{prefix}/{shard.name}", data)
    return shard


def find_damage(shard_set: ShardSet, shard: Shard) -> str:
    """What is wrong with a shard, in one sentence; "" if its bytes are those that were written.

    Raises StoreUnavailable where that cannot be told.
    """
    try:
        with _opened(shard_set, shard) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except _Damaged as error:
        return str(error)
    return (
        ""
        if digest == shard.sha256
        else _damaged(shard_set, shard, "its bytes are not those that were written")
    )


def open_feed(
    shard_set: ShardSet, memory_bytes: int, shuffle_rows: int, local_folder: Path | None = None
) -> Feed:
    """The feed of a worker: all rows in memory if they take at most `memory_bytes`, else streamed.

    The windows are the same either way. `shuffle_rows` comes from `memory.rows_shuffled`. Shards
    that are in no folder are copied to `local_folder` before they are streamed. Raises
    StoreUnavailable, also for a damaged shard.
    """
    if shard_set.bytes <= memory_bytes:
        names = RowNames(shard_set, ((0, shard_set.rows),))
        return Resident(load(shard_set), shuffle_rows, names)
    if shard_set.folder is None and local_folder is not None:
        shard_set = copy_to(shard_set, local_folder)
    return Streamed(shard_set, shuffle_rows)


def load(shard_set: ShardSet) -> Examples:
    """All rows in memory, in the order of the shards. Raises StoreUnavailable."""
    found = _blank(shard_set, shard_set.rows)
    at = 0
    for shard in shard_set.shards:
        with _opened(shard_set, shard) as file:
            _read(file, _spans(file), 0, shard.rows, found, at)
        at += shard.rows
    return found


def copy_to(shard_set: ShardSet, folder: Path) -> ShardSet:
    """The same set in `folder` of this machine, with what is not there yet fetched from `files`.

    Several processes of a machine may do this at once. Raises StoreUnavailable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for shard in shard_set.shards:
        target = folder / shard.name
        if target.is_file() and target.stat().st_size == shard.bytes:
            continue
        with _opened(shard_set, shard) as file:
            data = file.read()
        if hashlib.sha256(data).hexdigest() != shard.sha256:
            raise _Damaged(_damaged(shard_set, shard, "its bytes are not those that were written"))
        hidden = folder / f".{shard.name}-{os.getpid()}"
        hidden.write_bytes(data)
        hidden.replace(target)
    return replace(shard_set, folder=str(folder), files=None)


def name_row(shard_set: ShardSet, row: int) -> str:
    """What to call a row after the word "row": its id if it has one, else its place and its order.

    Raises StoreUnavailable.
    """
    for shard in shard_set.shards:
        if row < shard.rows:
            break
        row -= shard.rows
    else:
        raise IndexError(row)
    with _opened(shard_set, shard) as file:
        spans = _spans(file)
        if shard_set.has_ids:
            ends = np.zeros(shard.rows + 1, np.int64)
            _fill(file, spans[4], 0, ends[1:])
            text = np.zeros(int(ends[row + 1] - ends[row]), np.uint8)
            _fill(file, spans[5], int(ends[row]), text)
            if len(text):
                return repr(text.tobytes().decode())
        order = np.zeros(1, np.float64)
        _fill(file, spans[3], row, order)
    return f"{row} of shard {shard.sha256[:12]} (at {float(order[0])!r} in the order of rows)"


@dataclass(frozen=True, slots=True)
class RowNames:
    """Names of the rows of pieces, one piece after the other. Files are read when one is asked."""

    shard_set: ShardSet
    pieces: Sequence[tuple[int, int]]

    def __getitem__(self, row: int, /) -> str:
        for start, stop in self.pieces:
            if row < stop - start:
                return name_row(self.shard_set, start + row)
            row -= stop - start
        raise IndexError(row)


@dataclass(frozen=True, slots=True, eq=False)
class Streamed:
    """Rows read from files window by window; memory holds one window at a time."""

    shard_set: ShardSet
    shuffle_rows: int
    _known: dict[Shard, "tuple[_Span, ...]"] = field(default_factory=dict, repr=False)

    @property
    def rows(self) -> int:
        return self.shard_set.rows

    @property
    def window_rows(self) -> tuple[int, ...]:
        return window_rows(self.rows, self.shuffle_rows)

    def windows(self, seed: int, epoch: int) -> Iterator[Window]:
        """The windows of an epoch, each with arrays of its own. Raises StoreUnavailable."""
        for plan in plan_windows(self.rows, self.shuffle_rows, seed=seed, epoch=epoch):
            names = RowNames(self.shard_set, plan.pieces)
            yield Window(self.read(plan.pieces), plan.order, names)

    def read(self, pieces: Sequence[tuple[int, int]]) -> Examples:
        """The rows of pieces (start, stop), one piece after the other. Raises StoreUnavailable."""
        shards = self.shard_set.shards
        ends = np.cumsum([shard.rows for shard in shards])
        found = _blank(self.shard_set, sum(stop - start for start, stop in pieces))
        at = 0
        for start, stop in pieces:
            place = int(np.searchsorted(ends, start, side="right"))
            while start < stop:
                first = int(ends[place]) - shards[place].rows
                until = min(stop, int(ends[place]))
                shard = shards[place]
                with _opened(self.shard_set, shard) as file:
                    if shard not in self._known:
                        self._known[shard] = _spans(file)
                    _read(file, self._known[shard], start - first, until - first, found, at)
                at += until - start
                start, place = until, place + 1  # noqa: PLW2901 - what is left of the piece
        return found


@dataclass(frozen=True, slots=True)
class _Span:
    """Where an array lies in a file."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))


def _encode(examples: Examples, order: NDArray[np.float64], ids: NDArray[Any] | None) -> bytes:
    arrays: list[NDArray[Any]] = [
        np.ascontiguousarray(examples.numbers, "<f4"),
        np.ascontiguousarray(examples.categories, "<i4"),
        np.ascontiguousarray(examples.labels, "<f4"),
        np.ascontiguousarray(order, "<f8"),
    ]
    if ids is not None:
        texts = [(text or "").encode() for text in ids.tolist()]
        ends = np.cumsum([len(text) for text in texts], dtype="<i8")
        arrays += [ends, np.frombuffer(b"".join(texts), np.uint8)]
    file = io.BytesIO()
    for array in arrays:
        npy.write_array(file, array, (1, 0), allow_pickle=False)
    return file.getvalue()


def _spans(file: BinaryIO) -> tuple[_Span, ...]:
    """The arrays of a shard, from their headers alone."""
    spans = []
    end = file.seek(0, os.SEEK_END)
    at = file.seek(0)
    while at < end:
        try:
            npy.read_magic(file)
            shape, _, dtype = npy.read_array_header_1_0(file)
        except ValueError as error:
            raise _Damaged(f"its header is damaged: {error}") from error
        span = _Span(file.tell(), shape, dtype)
        at = file.seek(span.offset + span.row_bytes * shape[0])
        spans.append(span)
    if len(spans) <= _LEARNED or at != end:
        raise _Damaged("it is cut off or too long")
    return tuple(spans)


def _blank(shard_set: ShardSet, rows: int) -> Examples:
    return Examples(
        np.empty((rows, shard_set.numbers), np.float32),
        np.empty((rows, shard_set.categories), np.int32),
        np.empty(rows, np.float32),
    )


def _read(
    file: BinaryIO, spans: Sequence[_Span], start: int, stop: int, into: Examples, at: int
) -> None:
    """Rows `start` to `stop` of a shard become rows of `into` from `at` on."""
    arrays = (into.numbers, into.categories, into.labels)
    for span, array in zip(spans, arrays, strict=False):
        if span.shape[1:] != array.shape[1:] or stop > span.shape[0]:
            raise _Damaged(f"it holds an array {span.shape} where {array.shape[1:]} a row is due")
        _fill(file, span, start, array[at : at + stop - start])


def _fill(file: BinaryIO, span: _Span, start: int, array: NDArray[Any]) -> None:
    if not array.nbytes:
        return
    file.seek(span.offset + start * span.row_bytes)
    rest = array.data.cast("B")
    while rest:
        count = file.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            raise _Damaged("it is cut off")
        rest = rest[count:]


def _damaged(shard_set: ShardSet, shard: Shard, what: str) -> str:
    where = shard_set.folder or shard_set.prefix
    told = f"prepared rows {where}/{shard.name} ({shard.rows} rows): {what}"
    return f"{told}; start the run again, which prepares them again"


@contextlib.contextmanager
def _opened(shard_set: ShardSet, shard: Shard) -> Iterator[BinaryIO]:
    """The shard's bytes. Whatever goes wrong while they are open names the shard."""
    try:
        if shard_set.folder is not None:
            with (Path(shard_set.folder) / shard.name).open("rb", buffering=0) as file:
                yield file
        elif shard_set.files is not None:
            yield io.BytesIO(shard_set.files.get(f"{shard_set.prefix}/{shard.name}"))
    except (FileNotFoundError, NotFound) as error:
        raise _Damaged(_damaged(shard_set, shard, "is not there")) from error
    except OSError as error:
        told = f"prepared rows {shard.name} cannot be read: {error}; try again"
        raise StoreUnavailable(told) from error
    except _Damaged as error:
        if shard.name in str(error):
            raise
        raise _Damaged(_damaged(shard_set, shard, str(error))) from error
