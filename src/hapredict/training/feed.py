"""In which order rows are learned from, however many there are and wherever they lie.

Rows are shuffled in windows. Data that fit in one window are shuffled whole. Larger data are cut
into pieces of neighbours; the pieces are shuffled, as many as fill a window are read, and the rows
in it are shuffled among each other. What fits in memory and what is streamed from disk follow the
same plan, so they train to the same bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hapredict.training.network import Examples

PIECE_ROWS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class WindowPlan:
    """Which rows a window holds, and in which order they are learned from."""

    pieces: tuple[tuple[int, int], ...]
    """Where each piece starts and stops among all rows."""
    order: NDArray[np.int64]
    """[rows of the window]: positions among the pieces' rows, one piece after the other."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """[rows of the window]: positions among all rows, in the order of learning."""
        return np.concatenate([np.arange(*piece) for piece in self.pieces])[self.order]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Rows to learn from, in order."""

    examples: Examples
    """The same object from window to window where all rows are in memory."""
    rows: NDArray[np.int64]
    """[rows of the window]: positions in `examples`, in the order of learning."""
    names: "Names | None" = None
    """What the data call a row of `examples`, where they have a name for it."""

    def name(self, row: int) -> str:
        """A row of `examples` in words: by its name, or else by its place."""
        return f"row {row if self.names is None else self.names[row]}"


class Names(Protocol):
    """Names of rows, looked up when a row is to blame; an array is one."""

    def __getitem__(self, row: int, /) -> Any:
        """What follows the word "row" in a sentence."""


class Feed(Protocol):
    """Training rows, window by window."""

    @property
    def rows(self) -> int:
        """All rows."""

    @property
    def window_rows(self) -> tuple[int, ...]:
        """Rows of each window; the same in every epoch."""

    def windows(self, seed: int, epoch: int) -> Iterator[Window]:
        """The windows of an epoch; the same seed and epoch give the same."""


def window_rows(rows: int, shuffle_rows: int) -> tuple[int, ...]:
    """Rows of each window: equally many pieces, as few windows as `shuffle_rows` allows."""
    count = ceil(rows / shuffle_rows)
    if count <= 1:
        return (rows,)
    pieces = ceil(rows / PIECE_ROWS)
    each = ceil(pieces / count) * PIECE_ROWS
    full = rows // each
    rest = rows - full * each
    return (each,) * full + ((rest,) if rest else ())


def plan_windows(rows: int, shuffle_rows: int, *, seed: int, epoch: int) -> Iterator[WindowPlan]:
    """The windows of an epoch over `rows` rows. Together they hold each row once."""
    sizes = window_rows(rows, shuffle_rows)
    chance = np.random.default_rng([seed, epoch])
    if len(sizes) == 1:
        yield WindowPlan(((0, rows),), chance.permutation(rows))
        return
    starts = chance.permutation(ceil(rows / PIECE_ROWS)) * PIECE_ROWS
    queue = [(int(start), min(int(start) + PIECE_ROWS, rows)) for start in starts]
    for size in sizes:
        chosen: list[tuple[int, int]] = []
        missing = size
        while missing:
            start, stop = queue.pop(0)
            # the one short piece shifts the others: a piece may be parted between two windows
            if stop - start > missing:
                queue.insert(0, (start + missing, stop))
                stop = start + missing
            chosen.append((start, stop))
            missing -= stop - start
        yield WindowPlan(tuple(chosen), chance.permutation(size))


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """All rows in memory."""

    examples: Examples
    shuffle_rows: int
    names: Names | None = None

    @property
    def rows(self) -> int:
        return self.examples.rows

    @property
    def window_rows(self) -> tuple[int, ...]:
        return window_rows(self.rows, self.shuffle_rows)

    def windows(self, seed: int, epoch: int) -> Iterator[Window]:
        """The windows of an epoch, all over the same arrays."""
        for plan in plan_windows(self.rows, self.shuffle_rows, seed=seed, epoch=epoch):
            yield Window(self.examples, plan.rows, self.names)
