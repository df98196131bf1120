"""Where a number column's bins part, and how it is scaled; told from its histogram alone."""

import math

import numpy as np
from numpy.typing import NDArray

from hapredict.features.stats import NumberStats

TAIL = 0.01
"""Share of values at each end that scaling counts as if they lay at the 1st or 99th percentile:
one absurd value must not squeeze all others into one point."""


def centre_and_scale(stats: NumberStats) -> tuple[float, float]:
    """A mean and a standard deviation of the values, with the tails pulled in; scale > 0.

    If the middle of the data is a single value, the tails are what there is to scale by. A column
    without spread has scale 1.
    """
    if not stats.count:
        return 0.0, 1.0
    values = _representatives(stats)
    counts = np.array(stats.histogram.counts, dtype=np.int64)
    ends = np.cumsum(counts)
    low = values[np.searchsorted(ends, TAIL * stats.count, side="right")]
    high = values[np.searchsorted(ends, (1 - TAIL) * stats.count, side="left")]
    mean, scale = _moments(np.clip(values, low, high), counts)
    if scale <= 0:
        mean, scale = _moments(values, counts)
    return mean, scale if scale > 0 else 1.0


def cuts_of(stats: NumberStats, bins_max: int, unique_values_max: int) -> tuple[float, ...]:
    """Growing values that part the bins: quantiles, and frequent single values' own places.

    `bins_max` bins would hold equal shares. A value (or a bucket of the histogram, where values
    share buckets) that alone holds such a share gets a bin of its own; at most
    `unique_values_max` do, the most frequent first.
    """
    lower, counts = stats.histogram.lower, stats.histogram.counts
    if not stats.count:
        return ()
    ends = np.cumsum(np.array(counts, dtype=np.int64))
    ranks = np.arange(1, bins_max) * stats.count  # in units of 1/bins_max of a row
    quantiles = np.searchsorted(ends * bins_max, ranks, side="right")
    cuts = {float(lower[place]) for place in quantiles if place > 0}
    frequent = [place for place, count in enumerate(counts) if count * bins_max >= stats.count]
    frequent.sort(key=lambda place: (-counts[place], place))
    for place in frequent[:unique_values_max]:
        cuts.add(float(lower[place]))
        # The next value's place ends this one's; beyond the last the next float does.
        after = place + 1
        upper = stats.histogram.upper[place]
        cuts.add(float(lower[after] if after < len(lower) else math.nextafter(upper, math.inf)))
    return tuple(sorted(cut for cut in cuts if math.isfinite(cut)))


def bends_of(
    stats: NumberStats, cuts: tuple[float, ...], unique_values_max: int
) -> tuple[float, ...]:
    """More places where a network may bend a number, beyond what the monitor counts by.

    Equal shares say nothing about an amount that is mostly zero: all its cuts lie at the zero. So
    `unique_values_max` bins more would hold equal shares of the rows beside the single values'
    own bins, and as many equal shares of the values, each taken once.
    """
    lower = stats.histogram.lower
    counts = np.array(stats.histogram.counts, dtype=np.int64)
    if len(counts) < 2 or not unique_values_max:
        return ()
    inner = np.searchsorted(np.array(cuts), lower, side="right")
    # an interval of one value is that value's own bin
    alone = np.bincount(inner, minlength=len(cuts) + 1)[inner] == 1
    found: set[float] = set()
    for weight in (np.where(alone, 0, counts), np.ones_like(counts)):
        ends = np.cumsum(weight)
        if ends[-1]:
            ranks = np.arange(1, unique_values_max) * ends[-1]
            places = np.searchsorted(ends * unique_values_max, ranks, side="right")
            found.update(lower[places].tolist())
    return tuple(sorted(found - set(cuts)))


def _representatives(stats: NumberStats) -> NDArray[np.float64]:
    """One value for each bucket: the value itself where there is one, else the middle."""
    middle = stats.histogram.lower / 2 + stats.histogram.upper / 2
    exact = stats.histogram.lower if stats.histogram.drop == 0 else middle
    return np.clip(exact, stats.minimum, stats.maximum)


def _moments(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float]:
    # Values are brought below 1 by a power of two, so that no square overflows or rounds away;
    # fsum makes the result the same on every processor.
    largest = float(np.max(np.abs(values)))
    if largest == 0:
        return 0.0, 0.0
    power = math.frexp(largest)[1]
    small = np.ldexp(values, -power)
    total = int(counts.sum())
    mean = math.fsum((small * counts).tolist()) / total
    mean = min(max(mean, float(small.min())), float(small.max()))
    variance = math.fsum(((small - mean) ** 2 * counts).tolist()) / total
    deviation = min(math.sqrt(variance), float(np.max(np.abs(small))))
    return math.ldexp(mean, power), math.ldexp(deviation, power)
