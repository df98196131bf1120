"""What the offline gates need of the world: the golden set's rows, and times side by side."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hapredict.control.gates import Judged
from hapredict.data.ray_dataset import find_files, of_blocks, open_dataset
from hapredict.data.schema import Schema, Table, concat
from hapredict.errors import DataError, Problem
from hapredict.sections import DataSpec
from hapredict.sections_live import ControlSpec
from hapredict.training.ray_rows import usable_rows

Score = Callable[[Table], Any]
"""Scores [rows, outputs] of a table."""
TIMINGS = 20


def timed_ms(scores: Sequence[Score], rows: Table, clock: Callable[[], float]) -> list[float]:
    """Milliseconds that each takes for the rows at its fastest.

    They take turns, so that whatever else the machine does slows down all of them.
    """
    fastest = [float("inf")] * len(scores)
    for _ in range(TIMINGS):
        for place, score in enumerate(scores):
            began_s = clock()
            score(rows)
            fastest[place] = min(fastest[place], 1000 * (clock() - began_s))
    return fastest


def golden_files(rules: ControlSpec, data: DataSpec, home: Path) -> tuple[str, ...]:
    """The files of `control.golden`; none without one. Raises DataError if they are missing."""
    if rules.golden is None:
        return ()
    return find_files(data.model_copy(update={"sources": (rules.golden,)}), home)


def golden_set(
    rules: ControlSpec, data: DataSpec, home: Path, schema: Schema, mine: Score, champion: Score
) -> Judged | None:
    """The rows of `control.golden` as both score them; None without one.

    Raises DataError if the file is missing, cannot be read or has no usable row.
    """
    files = golden_files(rules, data, home)
    if not files:
        return None
    told = data.model_copy(update={"rows_without_target": "drop"})
    parts = of_blocks(open_dataset(files, told), lambda block: usable_rows(block, schema, told)[:2])
    table = concat([part for part, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    if not len(labels):
        raise DataError((Problem("control.golden", f"{rules.golden!r} has no usable row"),))
    return Judged(labels, mine(table), champion(table))
