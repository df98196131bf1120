"""Predictions that wait for labels, as sorted arrays: 25 bytes a row and 8 more a score.

A row whose own id is known (`data.id`) takes 12 bytes more. A block becomes a file when memory is
short, and is looked through again when labels for it may have come.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hapredict.errors import CorruptBundle
from hapredict.serving.journal import PredictionPart

NOBODY = np.uint64(0)
"""Stands for a row without an id of its own."""


class Files(Protocol):
    """Where blocks lie that memory has no room for. Each call may raise StoreUnavailable."""

    def put(self, path: str, data: bytes) -> None: ...

    def get(self, path: str) -> bytes: ...


@dataclass(slots=True)
class Block:
    """Rows sorted by `key`, the hash of the prediction id; all arrays are [rows], or
    [rows, width].

    `rows` holds the hashes of rows' own ids in ascending order, of equal ones the earliest event
    first, and `places` says where each of them is; both are empty where no row has an id.
    """

    key: NDArray[np.uint64]
    version: NDArray[np.int32]
    other: NDArray[np.int32]
    event_s: NDArray[np.float64]
    scores: NDArray[np.float32]
    other_scores: NDArray[np.float32]
    labelled: NDArray[np.bool_]
    groups: NDArray[np.int16]
    """[rows, columns]: slices that the row belongs to, filled with -1."""
    rows: NDArray[np.uint64]
    places: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.key)

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where each prediction is, [keys]; -1 for none."""
        at = np.minimum(np.searchsorted(self.key, keys), len(self.key) - 1)
        return np.where(self.key[at] == keys, at, -1)

    def find_rows(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where the earliest prediction of each row is, [keys]; -1 for none."""
        if not len(self.rows):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self.rows, keys), len(self.rows) - 1)
        return np.where(self.rows[at] == keys, self.places[at], -1)

    def to_bytes(self) -> bytes:
        """The block as numpy's npz."""
        file = io.BytesIO()
        np.savez(file, **{field.name: getattr(self, field.name) for field in fields(Block)})
        return file.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "Block":
        """The block that `to_bytes` wrote. Raises CorruptBundle if the bytes are none."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                return Block(**{field.name: archive[field.name] for field in fields(Block)})
        except Exception as error:  # zipfile and numpy each fail in their own ways
            raise CorruptBundle(f"these bytes are no rows that wait: {error}") from error


def prediction_keys(ids: Iterable[str]) -> NDArray[np.uint64]:
    """64-bit hashes of prediction ids."""
    return _hashes(ids, b"")


def row_keys(ids: Iterable[str | None]) -> NDArray[np.uint64]:
    """64-bit hashes of rows' own ids, NOBODY for None; never those of prediction ids."""
    texts = list(ids)
    keys = _hashes((text or "" for text in texts), b"row")
    keys[[text is None for text in texts]] = NOBODY
    return keys


def block_of(
    part: PredictionPart,
    keys: NDArray[np.uint64],
    rows: NDArray[np.uint64],
    groups: NDArray[np.int16] | None = None,
) -> Block:
    """The rows of a part, of which none has a label yet; `rows` may be empty."""
    groups = np.zeros((len(keys), 0), np.int16) if groups is None else groups
    order = np.argsort(keys, kind="stable")
    # a row that does not say when it happened happened when it was asked for
    event_s = np.where(np.isfinite(part.event_s), part.event_s, part.at_s)
    return _indexed(
        Block(
            key=keys[order],
            version=part.versions[order].astype(np.int32),
            other=part.other_versions[order].astype(np.int32),
            event_s=event_s[order],
            scores=part.scores[order].astype(np.float32),
            other_scores=part.other_scores[order].astype(np.float32),
            labelled=np.zeros(len(order), bool),
            groups=groups[order],
            rows=rows,
            places=np.zeros(0, np.int32),
        ),
        rows[order] if len(rows) else rows,
    )


def merged(older: Block, newer: Block) -> Block:
    """The rows of both; of two predictions with one id, the first is the one that labels find."""
    width = max(older.scores.shape[1], newer.scores.shape[1])
    columns = max(older.groups.shape[1], newer.groups.shape[1])
    pair = [
        replace(
            b,
            scores=_wide(b.scores, width),
            other_scores=_wide(b.other_scores, width),
            groups=_wide_groups(b.groups, columns),
        )
        for b in (older, newer)
    ]
    order = np.argsort(np.concatenate([b.key for b in pair]), kind="stable")
    joined = {
        field.name: np.concatenate([getattr(b, field.name) for b in pair])[order]
        for field in fields(Block)
        if field.name not in ("rows", "places")
    }
    rows = np.concatenate([_rows(b) for b in pair])[order]
    return _indexed(Block(**joined, rows=rows, places=np.zeros(0, np.int32)), rows)


def only(block: Block, kept: NDArray[np.bool_]) -> Block:
    """The rows of a mask."""
    if kept.all():
        return block
    columns = {
        field.name: getattr(block, field.name)[kept]
        for field in fields(Block)
        if field.name not in ("rows", "places")
    }
    rows = _rows(block)[kept]
    return _indexed(Block(**columns, rows=rows, places=np.zeros(0, np.int32)), rows)


def stacked(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Rows of scores below each other, NaN where one is narrower than the widest."""
    found = np.full((len(rows), max(map(len, rows))), np.nan)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def stacked_groups(rows: Sequence[NDArray[np.int16]]) -> NDArray[np.int16]:
    """Slices of rows below each other, filled with -1."""
    columns = max(map(len, rows))
    return np.concatenate([_wide_groups(row[None, :], columns) for row in rows])


def _indexed(block: Block, rows: NDArray[np.uint64]) -> Block:
    """The block with an index over `rows`, which are in the order of its keys."""
    if not rows.any():
        return replace(block, rows=np.zeros(0, np.uint64), places=np.zeros(0, np.int32))
    order = np.lexsort((block.event_s, rows)).astype(np.int32)
    order = order[np.searchsorted(rows[order], NOBODY, side="right") :]
    return replace(block, rows=rows[order], places=order)


def _rows(block: Block) -> NDArray[np.uint64]:
    """Each row's own id in the order of the keys, NOBODY where it has none."""
    rows = np.zeros(len(block), np.uint64)
    rows[block.places] = block.rows
    return rows


def _wide(scores: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return np.pad(scores, ((0, 0), (0, width - scores.shape[1])), constant_values=np.nan)


def _wide_groups(groups: NDArray[np.int16], columns: int) -> NDArray[np.int16]:
    return np.pad(groups, ((0, 0), (0, columns - groups.shape[1])), constant_values=-1)


def _hashes(ids: Iterable[str], person: bytes) -> NDArray[np.uint64]:
    # an id may hold half a surrogate pair, which JSON can carry and UTF-8 cannot
    digests = [
        blake2b(i.encode("utf-8", "surrogatepass"), digest_size=8, person=person).digest()
        for i in ids
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def as_arrays(blocks: Sequence[Block]) -> dict[str, NDArray[Any]]:
    """The blocks' arrays by names that `from_arrays` knows."""
    return {
        f"{number}.{field.name}": getattr(block, field.name)
        for number, block in enumerate(blocks)
        for field in fields(Block)
    }


def from_arrays(count: int, arrays: Any) -> list[Block]:
    """The blocks that `as_arrays` named; older ones have no index over rows."""
    none = {"rows": np.zeros(0, np.uint64), "places": np.zeros(0, np.int32)}
    return [
        Block(
            **{
                field.name: arrays.get(f"{number}.{field.name}", none.get(field.name))
                for field in fields(Block)
            }
        )
        for number in range(count)
    ]
