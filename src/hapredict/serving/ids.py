"""Prediction ids: ours say the day and the call, a caller's are the key that he sent."""

from collections.abc import Sequence
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hapredict.sections import DAY_S


def ids_of_rows(
    event_s: NDArray[np.float64] | None,
    now_s: float,
    stem: str,
    rows: int,
    named: Sequence[tuple[int, int, str]] = (),
) -> tuple[str, ...]:
    """An id a row: of the day of `event_s`, [rows], or of `now_s`, with `stem` and the place.

    `named` rows go by a caller's key, as in `with_keys`.
    """
    if event_s is None:
        start = f"{_day(now_s // DAY_S)}-{stem}-"
        ids = tuple([start + str(row) for row in range(rows)])
    else:
        days = (event_s // DAY_S).tolist()
        ids = tuple([f"{_day(day)}-{stem}-{row}" for row, day in enumerate(days)])
    return with_keys(ids, named) if named else ids


def with_keys(ids: tuple[str, ...], named: Sequence[tuple[int, int, str]]) -> tuple[str, ...]:
    """The ids, with those of `named` rows, from and to, replaced by a caller's key.

    It is the id of one row as it is, and with the place in the request those of several.
    """
    mixed = list(ids)
    for start, stop, key in named:
        rows = stop - start
        mixed[start:stop] = [key] if rows == 1 else [f"{key}-{row}" for row in range(rows)]
    return tuple(mixed)


@lru_cache(maxsize=1024)
def _day(day: float) -> str:
    return (date(1970, 1, 1) + timedelta(days=day)).strftime("%Y%m%d")
