"""What shares to expect at which hour: references matched to hour of day and day of week.

At three in the morning other people buy other things. Live rows of one hour are therefore compared
with the reference's rows of that hour, in UTC, as far as the reference tells hours apart: an
hour's shares are drawn towards those of its hour of day, and these towards those of all rows, the
more the fewer rows there are and the less hours were seen to differ (the moments of a Dirichlet
prior). A feature without a season so keeps its pooled reference, and loses nothing.

What a reference's own stretches of time differ from it by, beyond the luck of few rows, is news to
nobody: `usual_gaps` measures it.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hapredict.features.clock import DAY_HOURS, WEEK_HOURS

Floats = NDArray[np.float64]

_CHANCE = 3.0
"""Standard deviations of chance that hours must differ by before they count as different."""
_STRETCHES_MIN = 8
"""Stretches of time below which nothing is said about what is usual."""
_USUAL = 0.99
_MARGIN = 1.1


def total_variation(live: ArrayLike, reference: ArrayLike) -> Floats:
    """Half the sum of the differences of shares, over the last axis: the share that moved."""
    gap = np.abs(np.asarray(live, np.float64) - np.asarray(reference, np.float64))
    return np.asarray(0.5 * gap.sum(-1))


def sampling_error(shares: Floats, rows: ArrayLike) -> Floats:
    """The expected total variation between `shares` [..., bins] and a sample of `rows` [...]."""
    spread = np.sqrt(2 * shares * (1 - shares) / np.pi).sum(-1)
    return np.asarray(0.5 * spread / np.sqrt(np.maximum(rows, 1)))


def reference_error(shares: Floats, rows: ArrayLike) -> Floats:
    """How far a reference of `rows` [...] may by bad luck be from the truth, as total variation.

    Twice its expected error, or with few bins, where luck varies more, three standard deviations
    above it.
    """
    expected = sampling_error(shares, rows)
    return np.asarray(np.maximum(2 * expected, expected + 3 * _sampling_spread(shares, rows)))


class MatchedShares:
    """The shares that each feature should have, at any mixture of hours.

    `counts` are the reference's rows in each bin, feature by feature. `hourly` are the same rows by
    hour of day [24, all bins] or of week [168, all bins]; without it all hours are alike. Features
    have different numbers of bins: arrays [features, bins] are padded with bins that hold nothing.
    """

    def __init__(
        self, counts: Sequence[ArrayLike], hourly: NDArray[np.int64] | None = None
    ) -> None:
        pooled = [np.asarray(bins, np.float64) for bins in counts]
        self.bins = tuple(len(bins) for bins in pooled)
        self.features = len(pooled)
        self.held = np.zeros((self.features, max(self.bins, default=1)), bool)
        self.shares = np.zeros(self.held.shape)
        for row, bins in enumerate(pooled):
            self.held[row, : len(bins)] = True
            # half a row more a bin: a bin that the reference never saw must not be impossible
            self.shares[row, : len(bins)] = (bins + 0.5) / (bins.sum() + 0.5 * len(bins))
        self.rows = np.array([bins.sum() for bins in pooled])
        self._seasonal = np.zeros(0, np.int64)
        if hourly is not None and len(hourly):
            self._tell_hours_apart(hourly)

    @property
    def seasonal(self) -> tuple[int, ...]:
        """The features that are not alike at all hours."""
        return tuple(self._seasonal.tolist())

    def padded(self, counts: ArrayLike) -> Floats:
        """Flat counts [..., all bins] as [..., features, bins]."""
        flat = np.asarray(counts, np.float64)
        live = np.zeros((*flat.shape[:-1], *self.held.shape))
        live[..., self.held] = flat
        return live

    def at(self, hours: ArrayLike | None) -> tuple[Floats, Floats]:
        """Shares [features, bins] to expect of rows [168] by hour of week, and the rows [features]
        of a reference that would be known as well.
        """
        if hours is None or not len(self._seasonal):
            return self.shares, self.rows
        places, weights = _weights(hours, len(self._hourly))
        if not len(places):
            return self.shares, self.rows
        shares, rows = self.shares.copy(), self.rows.copy()
        shares[self._seasonal] = np.tensordot(weights, self._hourly[places], 1)
        # hours err each for itself, and together as all rows do
        error = weights**2 @ self._error[places]
        rows[self._seasonal] = 1 / (1 / np.maximum(rows[self._seasonal], 1) + error)
        return shares, rows

    def own_part(self, hours: ArrayLike) -> Floats:
        """How much of `at` [features] is made by the rows [168] themselves, if it knows them."""
        rows = np.asarray(hours, np.float64)
        part = np.minimum(rows.sum() / np.maximum(self.rows, 1), 1)
        if len(self._seasonal):
            count = len(self._hourly)
            places, weights = _weights(hours, count)
            own = rows.reshape(-1, count).sum(0)[places]
            part[self._seasonal] = (weights * own) @ self._a_row[places]
        return np.asarray(part)

    def _tell_hours_apart(self, hourly: NDArray[np.int64]) -> None:
        flat = self.padded(hourly)
        pooled = 1 / np.maximum(self.rows, 1)
        shares, error, a_row = self.shares[None], pooled[None], pooled[None]
        for groups in (DAY_HOURS, WEEK_HOURS)[: 1 + (len(hourly) == WEEK_HOURS)]:
            counts = flat.reshape(-1, groups, *self.shares.shape).sum(0)
            above = np.arange(groups) % len(shares)
            rows = counts.sum(2)
            pull, own_error = _pull(counts, shares[above], a_row[above])
            own = counts / np.maximum(rows, 1)[:, :, None]
            shares = pull[:, :, None] * shares[above] + (1 - pull)[:, :, None] * own
            error = own_error + pull**2 * error[above]
            a_row = (1 - pull) / np.maximum(rows, 1) + pull * a_row[above]
        found = np.flatnonzero((a_row != pooled).any(0))
        self._seasonal = found
        self._hourly = shares[:, found]
        self._error = np.maximum(error - pooled, 0)[:, found]
        self._a_row = a_row[:, found]


def usual_gaps(
    expected: MatchedShares, stretches: NDArray[np.int64], hours: NDArray[np.int64]
) -> Floats:
    """What total variation [features] of a stretch of time is usual in the reference.

    `stretches` are counts [stretches, all bins] of parts of the reference, and `hours` their rows
    [stretches, 168] by hour of week. The 99th percentile of their distance to what was to be
    expected of their hours, less what luck may make of so few rows, and a tenth more. 0 where
    there are too few stretches to tell.
    """
    found = []
    for counts, rows in zip(stretches, hours, strict=True):
        live = expected.padded(counts)
        held = live.sum(1)
        if not held.all():
            continue
        shares, known = expected.at(rows)
        gap = total_variation(live / held[:, None], shares)
        # a stretch is near a reference that contains it
        gap /= 1 - np.minimum(expected.own_part(rows), 0.9)
        together = 1 / (1 / held + 1 / np.maximum(known, 1))
        luck = sampling_error(shares, together) + 2.33 * _sampling_spread(shares, together)
        found.append(np.sqrt(np.maximum(gap**2 - luck**2, 0)))
    if len(found) < _STRETCHES_MIN:
        return np.zeros(expected.features)
    return np.asarray(np.minimum(_MARGIN * np.quantile(found, _USUAL, axis=0), 1.0))


def _weights(hours: ArrayLike, count: int) -> tuple[NDArray[np.int64], Floats]:
    """The hours that have rows, of `count` in a day or week, and each one's share."""
    rows = np.asarray(hours, np.float64).reshape(-1, count).sum(0)
    places = np.flatnonzero(rows)
    return places, rows[places] / max(float(rows.sum()), 1e-12)


def _sampling_spread(shares: Floats, rows: ArrayLike) -> Floats:
    """The standard deviation of the total variation that `sampling_error` expects, about."""
    variance = 0.5 * (1 - 2 / np.pi) * (shares * (1 - shares)).sum(-1) / np.maximum(rows, 1)
    return np.asarray(np.sqrt(variance))


def _pull(counts: Floats, above: Floats, a_row: Floats) -> tuple[Floats, Floats]:
    """How far each group [groups, features] of counts is drawn to the shares `above` it.

    `a_row` [groups, features] is how much of these is made by one row of the group. The result is 1
    where groups differ by no more than chance. With it comes the error that a group's own rows
    leave, in units of that of one row.
    """
    rows = counts.sum(2)
    own = counts / np.maximum(rows, 1)[:, :, None]
    squares = (above**2).sum(2)
    spread = 1 - squares
    differ = (rows * ((own - above) ** 2).sum(2)).sum(0)
    by_chance = (spread * (1 - rows * a_row) * (rows > 0)).sum(0)
    traces = squares - 2 * (above**3).sum(2) + squares**2
    by_luck = np.sqrt((2 * traces * (rows > 0)).sum(0))
    excess = np.where(differ - by_chance > _CHANCE * by_luck, differ - by_chance, 0.0)
    strength = excess / np.maximum((spread * np.maximum(rows - 1, 0)).sum(0), 1e-12)
    strength = np.minimum(strength, 0.999)  # else a bin that an hour never saw were impossible
    rest = strength * rows + 1 - strength
    return (1 - strength) / rest, strength / rest
