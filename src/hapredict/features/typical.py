"""A typical row: of each feature a value from the middle of what the model learned from.

Made of the plan and of how many rows fell into each of its bins, so it needs no data. It stands in
documentation as an example, and in explanations for "nothing special".
"""

from collections.abc import Sequence

import numpy as np

from hapredict.features.plan import FeaturePlan, NumberPlan

Typical = dict[str, float | str | None]
"""A value by feature, as `Schema.table` takes it; None where the feature never had one."""


def typical(plan: FeaturePlan, bins: Sequence[int]) -> Typical:
    """Numbers: a value in the bin of the median. Categories: the most frequent level.

    `bins` are rows by bin, flat in the order of `plan.bin_totals`. Rows without a value are left
    out.
    """
    found: Typical = {}
    start = 0
    for part, total in zip(plan.numbers, plan.bin_totals, strict=False):
        found[part.name] = _median(part, bins[start + 1 : start + total])
        start += total
    for category in plan.categories:
        found[category.name] = category.levels[0] if category.levels else None
    return found


def _median(part: NumberPlan, counts: Sequence[int]) -> float | None:
    ends = np.cumsum(counts)
    if not len(ends) or not ends[-1]:
        return None
    place = int(np.searchsorted(ends, ends[-1] / 2))
    # Where a bin begins there is a value, be the rest of it wide or only that value's own.
    low = max(part.cuts[place - 1], part.low) if place else part.low
    high = part.cuts[place] if place < len(part.cuts) else part.high
    for digits in range(1, 17):  # as few as stay in the bin: 700.0 is easier to read than 697.5
        short = float(f"{low:.{digits}g}")
        if low <= short < high:
            return short
    return low
