"""Late labels meet their predictions, by prediction id or by the row's own id.

Predictions wait for their labels for weeks and there are many of them. They lie in sorted blocks
of growing size (a log-structured merge), so that adding a part and finding a label both cost
little. Ids are known by 64-bit hashes: with ten million predictions kept and ten million labels a
day, one label in about 500 years meets the wrong prediction.

Memory holds `rows_max` predictions. What is more, the oldest, goes into files (`spill`); a label
that finds nothing in memory waits, and is looked for in the files when there is time (`look`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.errors import CorruptBundle, NotFound
from hapredict.monitoring.label_blocks import (
    Block,
    Files,
    as_arrays,
    block_of,
    from_arrays,
    merged,
    only,
    prediction_keys,
    row_keys,
    stacked,
    stacked_groups,
)
from hapredict.serving.journal import Label, PredictionPart

WAITING_MAX = 1_000_000
"""Labels that may wait for their predictions. Beyond it the oldest are given up: ids that nobody
predicted must not fill the memory."""

KEPT_DELAYS = 1.25
"""How long a prediction is kept, in longest label delays: a label that comes a little too late is
then called late, not unmatched."""

_FORGET_STEP = 0.02
"""Shortest time between two rounds of forgetting, in longest label delays."""

_BLOCKS_OF_MEMORY = 4
"""The largest block holds one of so many parts of `rows_max`: what one file takes to read."""


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Predictions whose labels became known, in the order in which they did.

    `values` are the labels as callers sent them. `other_versions` is 0 where only one version
    scored the row. Scores are [rows, width], NaN where a version has fewer outputs. `delay_s` is
    how long each label took, and `groups` [rows, columns] holds the slices of its row.
    """

    values: tuple[Any, ...]
    event_s: NDArray[np.float64]
    versions: NDArray[np.int64]
    scores: NDArray[np.float64]
    other_versions: NDArray[np.int64]
    other_scores: NDArray[np.float64]
    delay_s: NDArray[np.float64]
    groups: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Spilled:
    """A file of rows: its name, how many they are, and the newest event among them."""

    name: str
    rows: int
    last_s: float


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A label whose prediction is not known yet; `sought` in the files that there are."""

    value: Any
    known_s: float
    of_row: bool
    sought: bool = False


class LabelJoin:
    """Predictions that wait for labels, and labels that wait for predictions.

    The first label of a prediction counts; any further one is counted in `repeated` and otherwise
    ignored, whatever its value. A label by a row's own id is that of the row's earliest prediction
    at hand. A label without a visible prediction waits: replicas report rows and labels
    separately, so either may arrive first.
    """

    def __init__(self, rows_max: int = 2_000_000) -> None:
        self.rows_max = rows_max
        """Predictions in memory after `spill`."""
        self.repeated = 0
        self.unmatched = 0
        self.late = 0
        self.lost = 0
        """Predictions whose file was gone or damaged."""
        self._blocks: list[Block] = []
        self._spilled: list[Spilled] = []
        self._waiting: dict[int, _Waiting] = {}
        self._forgot_s: float | None = None

    @property
    def waiting(self) -> int:
        """Labels that wait for their prediction."""
        return len(self._waiting)

    @property
    def predictions(self) -> int:
        """Predictions in memory, labelled or not."""
        return sum(map(len, self._blocks))

    @property
    def spilled(self) -> tuple[Spilled, ...]:
        """The files, oldest first."""
        return tuple(self._spilled)

    @property
    def unsought(self) -> int:
        """Labels that wait and have not been looked for in the files."""
        if not self._spilled:
            return 0
        return sum(not label.sought for label in self._waiting.values())

    def add_predictions(
        self,
        part: PredictionPart,
        delay_max_s: float,
        rows: Sequence[str | None] = (),
        groups: NDArray[np.int16] | None = None,
    ) -> Joined:
        """Keep a part's rows, with their own ids and slices [rows, columns] if they have any.

        The result are those whose labels were waiting.
        """
        if not part.rows:
            return _nothing()
        keys = prediction_keys(part.ids)
        own = row_keys(rows)
        self._blocks.append(block_of(part, keys, own, groups))
        largest = self.rows_max // _BLOCKS_OF_MEMORY
        while len(self._blocks) > 1:
            older, newer = self._blocks[-2:]
            if len(older) > 2 * len(newer) or len(older) + len(newer) > largest:
                break
            self._blocks[-2:] = [merged(older, newer)]
        if not self._waiting:
            return _nothing()
        names = dict.fromkeys([*keys.tolist(), *own.tolist()])
        there = {key: self._waiting.pop(key) for key in names if key in self._waiting}
        return self._join(there, delay_max_s)

    def add_labels(
        self, labels: Sequence[Label], known_s: Sequence[float], delay_max_s: float
    ) -> Joined:
        """Labels and when each became known; the result are those whose prediction is visible."""
        by_prediction = prediction_keys(label.id for label in labels)
        by_row = row_keys(label.id for label in labels)
        fresh: dict[int, _Waiting] = {}
        for place, (label, moment_s) in enumerate(zip(labels, known_s, strict=True)):
            key = int((by_row if label.of_row else by_prediction)[place])
            if key in fresh:
                self.repeated += 1
            else:
                fresh[key] = _Waiting(label.value, moment_s, label.of_row)
        return self._join(fresh, delay_max_s)

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
        kept = [only(block, block.event_s >= oldest_s) for block in self._blocks]
        self._blocks = [block for block in kept if len(block)]
        self._spilled = [file for file in self._spilled if file.last_s >= oldest_s]
        early_s = watermark_s - delay_max_s
        late = [key for key, label in self._waiting.items() if label.known_s < early_s]
        for key in late:
            del self._waiting[key]
        self.unmatched += len(late)

    def spill(self, files: Files, folder: str) -> int:
        """Write the oldest rows into `folder` until memory holds `rows_max`; how many files.

        A file is named after its content. Raises StoreUnavailable, and is then as before.
        """
        count = 0
        while self.predictions > self.rows_max:
            block = self._blocks[0]
            name = _write(files, folder, block)
            self._spilled.append(Spilled(name, len(block), float(block.event_s.max())))
            del self._blocks[0]
            count += 1
        return count

    def look(self, files: Files, folder: str, delay_max_s: float) -> tuple[Joined, ...]:
        """Look for waiting labels in the files; the result are those that were found.

        One file is in memory at a time, and each label is looked for once. Raises
        StoreUnavailable, and is then as before.
        """
        labels = {key: label for key, label in self._waiting.items() if not label.sought}
        found, spilled, repeated, late, lost = [], [], 0, 0, 0
        for file in self._spilled:
            kept = file
            if labels:
                try:
                    block = Block.from_bytes(files.get(file.name))
                except (NotFound, CorruptBundle):
                    lost += file.rows
                    continue
                met = _meet([block], labels, delay_max_s)
                if len(met.missing) < len(labels):
                    kept = replace(file, name=_write(files, folder, block))
                labels = met.missing
                repeated, late = repeated + met.repeated, late + met.late
                found.append(met.joined)
            spilled.append(kept)
        self._spilled = spilled
        for key, label in list(self._waiting.items()):
            if key in labels:
                self._waiting[key] = replace(label, sought=True)
            elif not label.sought:
                del self._waiting[key]
        self.repeated, self.late = self.repeated + repeated, self.late + late
        self.lost += lost
        return tuple(found)

    def _join(self, labels: Mapping[int, _Waiting], delay_max_s: float) -> Joined:
        met = _meet(self._blocks, labels, delay_max_s)
        self.repeated += met.repeated
        self.late += met.late
        for key, label in met.missing.items():
            self._wait(key, label)
        return met.joined

    def _wait(self, key: int, label: _Waiting) -> None:
        if key in self._waiting:
            self.repeated += 1
            return
        self._waiting[key] = label
        if len(self._waiting) > WAITING_MAX:
            del self._waiting[next(iter(self._waiting))]
            self.unmatched += 1

    def to_json(self) -> dict[str, Any]:
        """Counters and waiting labels; `arrays` has the predictions in memory."""
        return {
            "repeated": self.repeated,
            "unmatched": self.unmatched,
            "late": self.late,
            "lost": self.lost,
            "forgot_s": self._forgot_s,
            "waiting": [
                [key, label.value, label.known_s, label.of_row, label.sought]
                for key, label in self._waiting.items()
            ],
            "blocks": len(self._blocks),
            "spilled": [[file.name, file.rows, file.last_s] for file in self._spilled],
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The predictions in memory, by names that `from_json` knows."""
        return as_arrays(self._blocks)

    @staticmethod
    def from_json(raw: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "LabelJoin":
        """The join that `to_json` and `arrays` describe."""
        found = LabelJoin()
        found.repeated, found.unmatched, found.late = raw["repeated"], raw["unmatched"], raw["late"]
        found.lost = raw.get("lost", 0)
        found._forgot_s = raw["forgot_s"]
        for key, *label in raw["waiting"]:
            found._waiting[key] = _Waiting(*label)
        found._blocks = from_arrays(raw["blocks"], arrays)
        found._spilled = [Spilled(*file) for file in raw.get("spilled", [])]
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Met:
    """What became of some labels in some blocks."""

    joined: Joined
    missing: dict[int, _Waiting]
    repeated: int
    late: int


def _meet(blocks: Sequence[Block], labels: Mapping[int, _Waiting], delay_max_s: float) -> _Met:
    """Mark the predictions that the labels are about, each once."""
    keys = np.fromiter(labels, np.uint64, len(labels))
    of_row = np.fromiter((label.of_row for label in labels.values()), bool, len(labels))
    numbers, places = np.full(len(keys), -1), np.zeros(len(keys), np.int64)
    event_s = np.full(len(keys), np.inf)
    for number, block in enumerate(blocks):
        at = block.find(keys)
        if of_row.any():
            at = np.where(of_row, block.find_rows(keys), at)
        better = (at >= 0) & ((numbers < 0) | (of_row & (block.event_s[at] < event_s)))
        numbers[better], places[better] = number, at[better]
        event_s[better] = block.event_s[at][better]
    found: list[tuple[_Waiting, Block, int]] = []
    missing: dict[int, _Waiting] = {}
    repeated = late = 0
    for (key, label), number, place in zip(
        labels.items(), numbers.tolist(), places.tolist(), strict=True
    ):
        if number < 0:
            missing[key] = label
            continue
        block = blocks[number]
        if block.labelled[place]:
            repeated += 1
            continue
        block.labelled[place] = True
        if label.known_s - block.event_s[place] > delay_max_s:
            late += 1
        else:
            found.append((label, block, place))
    return _Met(_joined(found), missing, repeated, late)


def _joined(found: Sequence[tuple[_Waiting, Block, int]]) -> Joined:
    if not found:
        return _nothing()
    return Joined(
        values=tuple(label.value for label, _, _ in found),
        event_s=np.array([block.event_s[row] for _, block, row in found]),
        versions=np.array([block.version[row] for _, block, row in found], np.int64),
        scores=stacked([block.scores[row] for _, block, row in found]),
        other_versions=np.array([block.other[row] for _, block, row in found], np.int64),
        other_scores=stacked([block.other_scores[row] for _, block, row in found]),
        delay_s=np.array([label.known_s - block.event_s[row] for label, block, row in found]),
        groups=stacked_groups([block.groups[row] for _, block, row in found]),
    )


def _write(files: Files, folder: str, block: Block) -> str:
    data = block.to_bytes()
    name = f"{folder}/{sha256(data).hexdigest()[:32]}.npz"
    files.put(name, data)
    return name


def _nothing() -> Joined:
    none = np.zeros(0, np.int64)
    no_scores, no_groups = np.zeros((0, 0)), np.zeros((0, 0), np.int16)
    return Joined((), np.zeros(0), none, no_scores, none, no_scores, np.zeros(0), no_groups)
