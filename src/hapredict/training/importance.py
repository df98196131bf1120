"""What the scores hang on: how far they move when a column no longer fits its row."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Table, rows_of, take

ROWS_MAX = 2000
_ROWS_MIN = 100
_CELLS_MAX = 40_000_000
"""Values that are turned into matrices at most: with very many features fewer rows must do."""


def importance_of(
    score: Callable[[Table], NDArray[Any]], table: Table, features: Sequence[str], seed: int
) -> dict[str, float]:
    """Each feature's share in what the scores hang on; they sum to 1.

    A feature's values change places among the rows of `table` [rows], which leaves all columns as
    they are and tears them apart; counted is the mean distance between scores before and after.
    It asks for no label, so it says what the model uses, be that wise or not, and features that
    tell the same story share. Equal where there is no row or no score moves. `score` gives
    [rows, outputs] for a table. Source: Breiman, "Random forests" (2001), with scores for errors.
    """
    rows = rows_of(table)
    wanted = min(ROWS_MAX, max(_ROWS_MIN, _CELLS_MAX // max(len(features), 1) ** 2))
    chance = np.random.default_rng(seed)
    moved = np.zeros(len(features))
    if rows:
        picked = np.sort(chance.choice(rows, min(rows, wanted), replace=False))
        few = take(table, picked)
        before = np.asarray(score(few), np.float64)
        for place, name in enumerate(features):
            torn = {**few, name: few[name][chance.permutation(len(picked))]}
            moved[place] = float(np.abs(np.asarray(score(torn), np.float64) - before).mean())
    total = float(moved.sum())
    if not np.isfinite(total) or total <= 0:
        moved, total = np.ones(len(features)), float(len(features))
    return dict(zip(features, (moved / total).tolist(), strict=True)) if len(features) else {}
