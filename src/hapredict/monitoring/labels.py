"""Late labels meet their predictions, by prediction id.

Predictions wait for their labels for weeks and there are many of them, so each is kept as
25 bytes and 8 more a score: a 64-bit hash of its id, two versions, two rows of scores, a time
and a mark. They lie in sorted blocks of growing size (a log-structured merge), so that adding a
part and finding a label both cost little. Ids can share a hash: with ten million predictions kept
and ten million labels a day, one label in about 500 years meets the wrong prediction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.serving.journal import Label, PredictionPart

WAITING_MAX = 1_000_000
"""Labels that may wait for their predictions. Beyond it the oldest are given up: ids that nobody
predicted must not fill the memory."""

KEPT_DELAYS = 1.25
"""How long a prediction is kept, in longest label delays: a label that comes a little too late is
then called late, not unmatched."""

_FORGET_STEP = 0.02
"""Shortest time between two rounds of forgetting, in longest label delays."""


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Predictions whose labels became known, in the order in which they did.

    `values` are the labels as callers sent them. `other_versions` is 0 where only one version
    scored the row. Scores are [rows, width], NaN where a version has fewer outputs.
    """

    values: tuple[Any, ...]
    event_s: NDArray[np.float64]
    versions: NDArray[np.int64]
    scores: NDArray[np.float64]
    other_versions: NDArray[np.int64]
    other_scores: NDArray[np.float64]


@dataclass(slots=True)
class _Block:
    key: NDArray[np.uint64]
    version: NDArray[np.int32]
    other: NDArray[np.int32]
    event_s: NDArray[np.float64]
    scores: NDArray[np.float32]
    other_scores: NDArray[np.float32]
    labelled: NDArray[np.bool_]


class LabelJoin:
    """Predictions that wait for labels, and labels that wait for predictions.

    The first label of a prediction counts; any further one is counted in `repeated` and otherwise
    ignored, whatever its value. A label without a visible prediction waits: replicas report rows
    and labels separately, so either may arrive first.
    """

    def __init__(self) -> None:
        self.repeated = 0
        self.unmatched = 0
        self.late = 0
        self._blocks: list[_Block] = []
        self._waiting: dict[int, tuple[Any, float]] = {}
        self._forgot_s: float | None = None

    @property
    def waiting(self) -> int:
        """Labels that wait for their prediction."""
        return len(self._waiting)

    @property
    def predictions(self) -> int:
        """Predictions that are kept, labelled or not."""
        return sum(len(block.key) for block in self._blocks)

    def add_predictions(self, part: PredictionPart, delay_max_s: float) -> Joined:
        """Keep a part's rows; the result are those whose labels were waiting."""
        if not part.rows:
            return _nothing()
        keys = _keys(part.ids)
        order = np.argsort(keys, kind="stable")
        # a row that does not say when it happened happened when it was asked for
        event_s = np.where(np.isfinite(part.event_s), part.event_s, part.at_s)
        self._blocks.append(
            _Block(
                key=keys[order],
                version=part.versions[order].astype(np.int32),
                other=part.other_versions[order].astype(np.int32),
                event_s=event_s[order],
                scores=part.scores[order].astype(np.float32),
                other_scores=part.other_scores[order].astype(np.float32),
                labelled=np.zeros(len(order), bool),
            )
        )
        while len(self._blocks) > 1 and len(self._blocks[-2].key) <= 2 * len(self._blocks[-1].key):
            newer = self._blocks.pop()
            self._blocks.append(_merged(self._blocks.pop(), newer))
        if not self._waiting:
            return _nothing()
        there = [key for key in dict.fromkeys(keys.tolist()) if key in self._waiting]
        return self._join([(key, *self._waiting.pop(key)) for key in there], delay_max_s)

    def add_labels(
        self, labels: Sequence[Label], known_s: Sequence[float], delay_max_s: float
    ) -> Joined:
        """Labels and when each became known; the result are those whose prediction is visible."""
        keys = _keys(label.id for label in labels).tolist()
        triples = zip(keys, (label.value for label in labels), known_s, strict=True)
        return self._join(list(triples), delay_max_s)

    def forget(self, watermark_s: float, delay_max_s: float) -> None:
        """Give up what is older than the longest label delay. Cheap; call it as often as you like.

        The moments at which it works follow from the watermark alone.
        """
        if self._forgot_s is None:
            self._forgot_s = watermark_s
        if watermark_s - self._forgot_s < _FORGET_STEP * delay_max_s:
            return
        self._forgot_s = watermark_s
        oldest_s = watermark_s - KEPT_DELAYS * delay_max_s
        kept = [_only(block, block.event_s >= oldest_s) for block in self._blocks]
        self._blocks = [block for block in kept if len(block.key)]
        late = [key for key, (_, at_s) in self._waiting.items() if at_s < watermark_s - delay_max_s]
        for key in late:
            del self._waiting[key]
        self.unmatched += len(late)

    def _join(self, labels: list[tuple[int, Any, float]], delay_max_s: float) -> Joined:
        keys = np.array([key for key, _, _ in labels], np.uint64)
        places = self._find(keys)
        found: list[tuple[Any, _Block, int]] = []
        for (key, value, known_s), (block_number, row) in zip(labels, places, strict=True):
            if block_number < 0:
                self._wait(key, value, known_s)
                continue
            block = self._blocks[block_number]
            if block.labelled[row]:
                self.repeated += 1
                continue
            block.labelled[row] = True
            if known_s - block.event_s[row] > delay_max_s:
                self.late += 1
                continue
            found.append((value, block, row))
        if not found:
            return _nothing()
        return Joined(
            values=tuple(value for value, _, _ in found),
            event_s=np.array([block.event_s[row] for _, block, row in found]),
            versions=np.array([block.version[row] for _, block, row in found], np.int64),
            scores=_stacked([block.scores[row] for _, block, row in found]),
            other_versions=np.array([block.other[row] for _, block, row in found], np.int64),
            other_scores=_stacked([block.other_scores[row] for _, block, row in found]),
        )

    def _find(self, keys: NDArray[np.uint64]) -> list[tuple[int, int]]:
        blocks, rows = np.full(len(keys), -1), np.zeros(len(keys), np.int64)
        for number, block in enumerate(self._blocks):
            row = np.minimum(np.searchsorted(block.key, keys), len(block.key) - 1)
            hit = (blocks < 0) & (block.key[row] == keys)
            blocks[hit], rows[hit] = number, row[hit]
        return list(zip(blocks.tolist(), rows.tolist(), strict=True))

    def _wait(self, key: int, value: Any, known_s: float) -> None:
        if key in self._waiting:
            self.repeated += 1
            return
        self._waiting[key] = (value, known_s)
        if len(self._waiting) > WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]
            self.unmatched += 1

    def to_json(self) -> dict[str, Any]:
        """Counters and waiting labels; `arrays` has the predictions."""
        return {
            "repeated": self.repeated,
            "unmatched": self.unmatched,
            "late": self.late,
            "forgot_s": self._forgot_s,
            "waiting": [[key, value, at_s] for key, (value, at_s) in self._waiting.items()],
            "blocks": len(self._blocks),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The kept predictions, by names that `from_json` knows."""
        return {
            f"{number}.{field.name}": getattr(block, field.name)
            for number, block in enumerate(self._blocks)
            for field in fields(_Block)
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "LabelJoin":
        """The join that `to_json` and `arrays` describe."""
        found = LabelJoin()
        found.repeated, found.unmatched, found.late = raw["repeated"], raw["unmatched"], raw["late"]
        found._forgot_s = raw["forgot_s"]
        found._waiting = {key: (value, at_s) for key, value, at_s in raw["waiting"]}
        found._blocks = [
            _Block(**{field.name: arrays[f"{number}.{field.name}"] for field in fields(_Block)})
            for number in range(raw["blocks"])
        ]
        return found


def _keys(ids: Iterable[str]) -> NDArray[np.uint64]:
    # an id may hold half a surrogate pair, which JSON can carry and UTF-8 cannot
    digests = [blake2b(i.encode("utf-8", "surrogatepass"), digest_size=8).digest() for i in ids]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _stacked(rows: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    stacked = np.full((len(rows), max(map(len, rows))), np.nan)
    for place, row in enumerate(rows):
        stacked[place, : len(row)] = row
    return stacked


def _wide(scores: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    return np.pad(scores, ((0, 0), (0, width - scores.shape[1])), constant_values=np.nan)


def _merged(older: _Block, newer: _Block) -> _Block:
    width = max(older.scores.shape[1], newer.scores.shape[1])
    for block in (older, newer):
        block.scores = _wide(block.scores, width)
        block.other_scores = _wide(block.other_scores, width)
    # stable: of two predictions with one id, the first is the one that labels find
    order = np.argsort(np.concatenate([older.key, newer.key]), kind="stable")
    return _Block(
        **{
            field.name: np.concatenate([getattr(older, field.name), getattr(newer, field.name)])[
                order
            ]
            for field in fields(_Block)
        }
    )


def _only(block: _Block, kept: NDArray[np.bool_]) -> _Block:
    if kept.all():
        return block
    return _Block(**{field.name: getattr(block, field.name)[kept] for field in fields(_Block)})


def _nothing() -> Joined:
    none = np.zeros(0, np.int64)
    return Joined((), np.zeros(0), none, np.zeros((0, 0)), none, np.zeros((0, 0)))
