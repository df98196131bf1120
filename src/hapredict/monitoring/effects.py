"""How large a change of counts is, in the measures that people know, and which bins moved.

Detectors decide by total variation; these figures are for reading.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from hapredict.features.plan import FIRST_LEVEL, FeaturePlan
from hapredict.monitoring.report import Moved

BINS_TOLD = 3


def moved_bins(labels: Sequence[str], before: ArrayLike, now: ArrayLike) -> tuple[Moved, ...]:
    """The bins whose shares changed most, the largest change first; at most three.

    Bins that changed by less than a tenth of the largest change are left out.
    """
    old, new = np.asarray(before, np.float64), np.asarray(now, np.float64)
    gap = np.abs(new - old)
    return tuple(
        Moved(labels[place], float(old[place]), float(new[place]))
        for place in np.argsort(-gap, kind="stable")[:BINS_TOLD].tolist()
        if gap[place] > 0.1 * gap.max()
    )


def population_stability(before: ArrayLike, now: ArrayLike, rows: int) -> float:
    """The population stability index of shares [bins], `now` those of `rows` rows.

    A bin without a live row counts as half a row, since the index would be infinite; and so does
    one that the reference never saw.
    """
    old, new = np.asarray(before, np.float64), np.asarray(now, np.float64)
    least = 0.5 / max(rows, 1)
    old, new = np.maximum(old, least), np.maximum(new, least)
    return float(((new - old) * np.log(new / old)).sum())


def wasserstein(places: ArrayLike, before: ArrayLike, now: ArrayLike) -> float | None:
    """How far values moved from one set of shares to another, in the units of `places`.

    `places` [n] says where the values of the last n bins are; the bins before them, such as that of
    missing values, are left out. None where no share is left.
    """
    where = np.asarray(places, np.float64)
    if not len(where):
        return None
    old = np.asarray(before, np.float64)[-len(where) :]
    new = np.asarray(now, np.float64)[-len(where) :]
    if not old.sum() > 0 or not new.sum() > 0:
        return None
    gap = np.cumsum(new / new.sum() - old / old.sum())[:-1]
    return float((np.abs(gap) * np.diff(where)).sum())


def places_of(plan: FeaturePlan) -> tuple[tuple[float, ...], ...]:
    """For each feature where its intervals lie, in its standard deviations; () for a category.

    It is the middle of the interval, as far as values were seen.
    """
    found: list[tuple[float, ...]] = []
    for part in plan.numbers:
        if not part.cuts:
            found.append((0.0,))
            continue
        ends = np.array([min(part.low, part.cuts[0]), *part.cuts, max(part.high, part.cuts[-1])])
        middles = (ends[:-1] + ends[1:]) / 2
        found.append(tuple(((middles - part.mean) / part.scale).tolist()))
    return (*found, *(() for _ in plan.categories))


def score_places(edges: Sequence[float]) -> tuple[float, ...]:
    """Where the bins of scores lie, in units of the score."""
    if not edges:
        return (0.0,)
    middles = ((low + high) / 2 for low, high in pairwise(edges))
    return (edges[0], *middles, edges[-1])


def unusual_bins(bin_labels: Sequence[Sequence[str]]) -> list[tuple[int, int | None]]:
    """For each feature the flat places of its bins of missing and of unseen values.

    `bin_labels` names each bin of each feature; a number has no bin of unseen values.
    """
    found, start = [], 0
    for labels in bin_labels:
        unseen = len(labels) >= FIRST_LEVEL and labels[1] == "unseen"
        found.append((start, start + 1 if unseen else None))
        start += len(labels)
    return found
