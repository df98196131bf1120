"""The monitor follows the journal: unread parts, in the order in which things happened.

Sources write at the same time, and a monitor that was away finds much at once. Parts are then
folded by the wall time of their last row, labels between predictions, as if it had been there all
along: else one source would run weeks ahead of another, and predictions would be given up before
their labels are read.
"""

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from hapredict.errors import CorruptBundle, NotFound
from hapredict.monitoring.monitor import Monitor
from hapredict.registry.bundle import Bundle, load
from hapredict.registry.catalog import Catalog, CatalogState
from hapredict.registry.store import Store
from hapredict.serving.journal import (
    decode,
    decode_labels,
    labels_prefix,
    part_path,
    predictions_prefix,
    unread,
)

KINDS = ("predictions", "labels")
"""Of parts; of two parts of the same time, predictions go first."""


def snapshot_path(model: str) -> str:
    """Where a monitor's state lies in the store."""
    return f"monitor/{model}/state.npz"


class Follower:
    """Brings a monitor up to date with a store, and writes its state there.

    It starts from the last snapshot. Without one, or with one that cannot be read, it starts from
    nothing and reads the whole journal. Raises StoreUnavailable.
    """

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._catalog = Catalog(store, model)
        self._prefixes = (predictions_prefix(model), labels_prefix(model))
        self._sequence: int | None = None
        self._read: dict[str, tuple[float, Any]] = {}
        self._unreadable: list[str] = []
        self.monitor = Monitor(model)
        self.unsaved = 0
        """Parts that the last snapshot does not know."""
        try:
            self.monitor = Monitor.from_bytes(store.get(snapshot_path(model)))
        except NotFound:
            pass
        except CorruptBundle as error:
            self._unreadable.append(f"{snapshot_path(model)}: {error}")

    @property
    def sequence(self) -> int | None:
        """The catalog's entry that the monitor knows; None before the first champion."""
        return self._sequence

    @property
    def detail(self) -> str:
        """What was passed over because its bytes are damaged; "" if nothing was."""
        if not self._unreadable:
            return ""
        return f"{len(self._unreadable)} damaged files passed over, last {self._unreadable[-1]}"

    def save(self) -> None:
        """Write a snapshot. Raises StoreUnavailable."""
        self._store.put(snapshot_path(self.monitor.model), self.monitor.to_bytes())
        self.unsaved = 0

    def step(self, parts_max: int = 1000) -> int:
        """Look at the catalog, then fold at most so many parts; returns how many were folded.

        Before there is a champion nothing is folded, since nothing could be counted. Raises
        StoreUnavailable; what was folded until then stays folded.
        """
        entry = self._catalog.latest()
        if entry is None or entry.state.champion is None:
            return 0
        if entry.sequence != self._sequence:
            self.monitor.on_catalog(entry.state, self._bundle_of(entry.state))
            self._sequence = entry.sequence
        positions = self.monitor.positions
        waiting: dict[tuple[int, str], deque[tuple[int, str]]] = {}
        for rank, prefix in enumerate(self._prefixes):
            for source, seq, path in unread(self._store, prefix, positions[KINDS[rank]]):
                waiting.setdefault((rank, source), deque()).append((seq, path))
        heads: list[tuple[float, int, str, int, Any]] = []
        for (rank, source), paths in waiting.items():
            self._read_next(rank, source, paths, heads)
        folded = 0
        while heads and folded < parts_max:
            _, rank, source, seq, part = heapq.heappop(heads)
            self._read.pop(part_path(self._prefixes[rank], source, seq), None)
            self.unsaved += 1
            if KINDS[rank] == "predictions":
                self.monitor.fold_predictions(part)
            else:
                self.monitor.fold_labels(source, seq, part)
            folded += 1
            self._read_next(rank, source, waiting[rank, source], heads)
        return folded

    def _read_next(
        self,
        rank: int,
        source: str,
        paths: deque[tuple[int, str]],
        heads: list[tuple[float, int, str, int, Any]],
    ) -> None:
        """Put the next readable part of a source among `heads`."""
        while paths:
            seq, path = paths.popleft()
            try:
                at_s, part = self._part(rank, path)
            except CorruptBundle as error:
                # parts never change, so waiting would not mend it and would stop the source
                self._unreadable.append(f"{path}: {error}")
                self.monitor.pass_over(KINDS[rank], source, seq)
                self.unsaved += 1
            except NotFound:
                return
            else:
                heapq.heappush(heads, (at_s, rank, source, seq, part))
                return

    def _part(self, rank: int, path: str) -> tuple[float, Any]:
        """A part and the wall time of its last row; kept until folded, should a step break off.

        Without that a store that fails now and then would stop a monitor of many sources, whose
        every step begins with one read a source.
        """
        if path not in self._read:
            data = self._store.get(path)
            if KINDS[rank] == "predictions":
                part = decode(data)
                self._read[path] = (float(part.at_s.max(initial=0.0)), part)
            else:
                labels = decode_labels(data)
                self._read[path] = (max((label.at_s for label in labels), default=0.0), labels)
        return self._read[path]

    def _bundle_of(self, state: CatalogState) -> Callable[[int], Bundle]:
        def bundle_of(number: int) -> Bundle:
            return load(self._store, state.model, state.versions[number].digest)

        return bundle_of
