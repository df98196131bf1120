"""When rows happened: counts of bins by the hour, and in stretches of time.

The monitor compares the rows of an hour with the reference's rows of that hour, and calls a
difference usual that the reference's own stretches of time have. Both are counted while the rows
are prepared, block by block; counts add up. Hours are those of UTC.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hapredict.features.plan import count_bins

HOUR_S = 3600.0
DAY_HOURS = 24
WEEK_HOURS = 168
"""Hours of the week, in UTC, from Thursday's midnight on, as the epoch began."""

_DAYS_MIN = 3
_WEEKS_MIN = 3
"""How often an hour must have been seen before a reference may tell it apart: one storm on a Monday
is no season."""
_STRETCH_HOURS = (1, 2, 4, 8, 24, 48, 96, 168)
_STRETCH_ROWS = 2000
"""Rows that a stretch should have, so that its shares are more than luck."""
_STRETCHES_MAX = 1000
_COUNTS_MAX = 4_000_000
"""Counts of stretches that are kept, 32 MB."""


def hour_of_week(at_s: ArrayLike) -> NDArray[np.int64]:
    """The hour of the week, 0 to 167, of times in seconds since the epoch."""
    return np.asarray(np.floor(np.asarray(at_s, np.float64) / HOUR_S) % WEEK_HOURS, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Clocked:
    """Counts of the same rows by the hour, and of some stretches of time by themselves."""

    hourly: NDArray[np.int64]
    """[24, all bins] by hour of day, [168, all bins] by hour of week, or [0, all bins] where too
    little time was seen to tell hours apart."""
    stretch: NDArray[np.int64]
    """[stretches], growing: which."""
    counts: NDArray[np.int64]
    """[stretches, all bins]"""
    hours: NDArray[np.int64]
    """[stretches, 168]: rows by hour of week."""

    @staticmethod
    def sum(parts: Iterable["Clocked"]) -> "Clocked":
        """Of parts that one clock counted, at least one."""
        found = list(parts)
        stretch, places = np.unique(
            np.concatenate([part.stretch for part in found]), return_inverse=True
        )
        joined = {}
        for name in ("counts", "hours"):
            blocks = np.concatenate([getattr(part, name) for part in found])
            joined[name] = np.zeros((len(stretch), blocks.shape[1]), np.int64)
            np.add.at(joined[name], places, blocks)
        return Clocked(sum(part.hourly for part in found), stretch, **joined)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Clock:
    """How rows of one reference are counted by time."""

    groups: int
    """Hours that are told apart: 168 of the week, 24 of the day, or none."""
    stretch_s: float
    stride: int
    """Of so many stretches one is counted."""

    @staticmethod
    def of(first_s: float, last_s: float, rows: int, bins: int) -> "Clock":
        """The clock for so many rows between two times, with so many bins in all.

        Stretches are as short as rows allow, and spread over all hours of the week.
        """
        span_s = max(last_s - first_s, HOUR_S)
        days = span_s / (DAY_HOURS * HOUR_S)
        groups = WEEK_HOURS if days >= 7 * _WEEKS_MIN else DAY_HOURS if days >= _DAYS_MIN else 0
        lengths = [hours * HOUR_S for hours in _STRETCH_HOURS]
        enough = (length for length in lengths if rows * length >= _STRETCH_ROWS * span_s)
        stretch_s = next(enough, lengths[-1])
        most = max(min(_STRETCHES_MAX, _COUNTS_MAX // max(bins, 1)), 1)
        stride = max(1, -(-int(span_s / stretch_s) // most))
        while gcd(stride, WEEK_HOURS) > 1:
            stride += 1
        return Clock(groups, stretch_s, stride)

    def count(
        self, at_s: NDArray[np.float64], bins: NDArray[np.int32], bin_totals: tuple[int, ...]
    ) -> Clocked:
        """Count bins [rows, features] of rows at times [rows] in seconds since the epoch."""
        hour = hour_of_week(at_s)
        hourly = np.zeros((self.groups, sum(bin_totals)), np.int64)
        if self.groups:
            for group, rows in _by(hour % self.groups):
                hourly[group] = count_bins(bins[rows], bin_totals)
        which = np.floor(at_s / self.stretch_s).astype(np.int64)
        kept = np.flatnonzero(which % self.stride == 0)
        found = [(stretch, kept[rows]) for stretch, rows in _by(which[kept])]
        counts = [count_bins(bins[rows], bin_totals) for _, rows in found]
        hours = [np.bincount(hour[rows], minlength=WEEK_HOURS) for _, rows in found]
        return Clocked(
            hourly,
            np.array([stretch for stretch, _ in found], np.int64),
            np.array(counts, np.int64).reshape(len(found), sum(bin_totals)),
            np.array(hours, np.int64).reshape(len(found), WEEK_HOURS),
        )


def _by(group: NDArray[np.int64]) -> Iterable[tuple[int, NDArray[np.int64]]]:
    """Each group and the places of its members."""
    order = np.argsort(group, kind="stable")
    found, starts = np.unique(group[order], return_index=True)
    return zip(found.tolist(), np.split(order, starts[1:]), strict=True) if len(order) else ()
