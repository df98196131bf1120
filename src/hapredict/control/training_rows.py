"""Which rows a training learns from: old enough for their labels, not too many of one sender, and
from a window of time that is worth learning from.

Of live rows those go that are younger than the label delay: what is labelled of them already are
the quick answers, which differ from the others. Files are taken as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hapredict.control.labelled import Labelled
from hapredict.data.schema import Schema
from hapredict.data.values import lenient_texts
from hapredict.errors import GateRefused
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec

WINDOW_SHARES = (0.5, 0.25, 0.125)
"""Shares of the time before the tested period that a back-test tries instead of all of it."""
PERIODS = 2
"""Periods, one after the other, that a back-test predicts; each is as long as the hold-out."""
BACK_TEST_ROWS_MIN = 5_000
"""Rows without which windows are not compared: the shortest would be too short to learn from."""
GAIN_MIN = 0.01
"""Share of its loss that a shorter window must save on average: all rows forget nothing."""


@dataclass(frozen=True, slots=True)
class Window:
    """The newest rows to learn from."""

    days: float | None
    """None: all rows."""
    reason: str


def check_source(rules: ControlSpec, schema: Schema) -> None:
    """Raises GateRefused if `control.source_column` names no column that live rows have."""
    name = rules.source_column
    known = {column.name for column in schema.features} | {schema.id} - {None}
    if name is not None and name not in known:
        message = (
            f"control.source_column: {name!r} is no feature and not the id, so live rows do not "
            f"keep it; known are {', '.join(sorted(map(str, known)))}"
        )
        raise GateRefused(message)


def mature(live: Labelled, now_s: float | None, delay_days: float | None) -> Labelled:
    """The rows that are older than the label delay; all where nobody knows it."""
    if now_s is None or delay_days is None:
        return live
    return live.where(live.event_s <= now_s - delay_days * DAY_S)


def capped(live: Labelled, column: str | None, most: int) -> Labelled:
    """At most `most` rows of each value in a column, spread evenly over those it has, in order.

    Rows without a value count as one sender.
    """
    if column is None or column not in live.table:
        return live
    values = lenient_texts(live.table[column])[0]
    _, sender = np.unique([text or "" for text in values.tolist()], return_inverse=True)
    kept = np.zeros(len(live.labels), bool)
    for one in range(int(sender.max(initial=-1)) + 1):
        rows = np.flatnonzero(sender == one)
        kept[rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]] = (
            True
        )
    return live.where(kept)


def rows_of_one_sender_max(rules: ControlSpec, rows: int) -> int:
    """How many live rows of one sender are learned from, of `rows` in all."""
    return max(1, int(rules.source_share_max * rows))


def periods(first_s: float, held_s: float, last_s: float) -> list[tuple[float, float]]:
    """What a back-test predicts: stretches before the hold-out, as long as it, the oldest first.

    `first_s`, `held_s`, `last_s`: the first row, the first of the hold-out, the last. None where
    history is not at least twice as long as what is predicted.
    """
    length_s = last_s - held_s
    starts = [held_s - step * length_s for step in range(PERIODS, 0, -1)]
    if length_s <= 0 or held_s - first_s < 2 * PERIODS * length_s:
        return []
    return [(start, start + length_s) for start in starts]


def windows_to_try(
    first_s: float, tried: Sequence[tuple[float, float]]
) -> tuple[float | None, ...]:
    """Days of each window, None for all; none is shorter than what it predicts."""
    if not tried:
        return (None,)
    begin_s, end_s = tried[0]
    days = [float(begin_s - first_s) * share / DAY_S for share in WINDOW_SHARES]
    return (None, *(found for found in days if found * DAY_S >= end_s - begin_s))


def choose_window(losses: Mapping[float | None, Sequence[float]]) -> Window:
    """The window with the lowest mean loss, if it beats all rows in each period; else all rows.

    `losses`: of each window (days; None is all) one a period. A window whose losses are not all
    finite numbers is not chosen.
    """
    everything = np.asarray(losses.get(None, ()), np.float64)
    if not len(everything) or not np.isfinite(everything).all():
        return Window(None, "all rows: the back-test says nothing")
    best, lowest = None, float(everything.mean()) * (1 - GAIN_MIN)
    for days, found in losses.items():
        each = np.asarray(found, np.float64)
        if days is None or len(each) != len(everything) or not np.isfinite(each).all():
            continue
        if (each < everything).all() and each.mean() < lowest:
            best, lowest = days, float(each.mean())
    compared = f"loss {everything.mean():.4g} with all rows"
    if best is None:
        return Window(None, f"all rows: no shorter window beats them ({compared})")
    return Window(
        best,
        f"the newest {best:.3g} days: loss {lowest:.4g} in the back-test, {compared}",
    )


def told(rules: ControlSpec, asked: int, grown: int, kept: int) -> str:
    """What became of live rows, for the run's record; "" where none were left out.

    asked: labelled rows; grown: those that are old enough; kept: those below the cap.
    """
    parts = []
    if grown < asked:
        parts.append(f"{asked - grown:,} are younger than the label delay")
    if kept < grown:
        parts.append(
            f"{grown - kept:,} are beyond {rules.source_share_max:.0%} of one "
            f"{rules.source_column!r}"
        )
    return f"of {asked:,} live rows left out: {'; '.join(parts)}" if parts else ""
