"""Columns that arrive as arrays of numbers: read whole, without a step of Python a value.

The strict door of `values.py` for tensors: what it would refuse is left to it, value by value, for
it knows the sentences. An array has no None, so a NaN among floats is a missing value here.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.values import strict_category, strict_id, strict_number, strict_time

Reader = tuple[str, Callable[[Any], Any], Callable[[Any], Any]]
"""A column's name, and how one value and a whole array of it are read."""

_KINDS: Mapping[Any, str] = {
    strict_number: "iuf",
    strict_category: "biuf",
    strict_time: "iuf",
    strict_id: "iu",
}
"""Kinds of arrays whose values the strict reader takes, all but infinite and far ones."""
_FLOATS = (strict_number, strict_time)


def table_of_arrays(
    columns: Mapping[str, Any],
    readers: Iterable[Reader],
    never_missing: AbstractSet[str | None],
    optional: AbstractSet[str | None],
) -> dict[str, NDArray[Any]] | None:
    """The table of columns of which some are arrays; None if none is, or anything is odd.

    Columns that are lists are read value by value. `never_missing` and `optional` are names: of
    columns that must have every value, and of columns that may be left out.
    """
    if not any(isinstance(values, np.ndarray) for values in columns.values()):
        return None
    readers = list(readers)
    table = _numbers_at_once(columns, [name for name, read, _ in readers if read is strict_number])
    for name, strict, lenient in readers:
        if name in table:
            continue
        values = columns.get(name)
        if values is None:
            if name in optional:
                continue
            return None
        if isinstance(values, np.ndarray) and values.dtype.kind in _KINDS[strict]:
            table[name], bad = lenient(values)
            if bad.any():
                return None
        else:
            try:
                read = [strict(value) for value in list_of(values)]
            except (TypeError, ValueError):
                return None
            table[name] = np.array(read, dtype=np.float64 if strict in _FLOATS else object)
        if name in never_missing and np.isnan(table[name]).any():
            return None
    shapes = {column.shape for column in table.values()}
    return table if len(shapes) == 1 and len(shapes.pop()) == 1 else None


def _numbers_at_once(columns: Mapping[str, Any], names: list[str]) -> dict[str, NDArray[Any]]:
    """The number columns if they are arrays of one length without an infinity; else none of them.

    A call of NumPy a column would cost more than the numbers of a few rows.
    """
    arrays = [columns.get(name) for name in names]
    kinds = {values.dtype.kind if isinstance(values, np.ndarray) else "" for values in arrays}
    if not kinds <= {"i", "u", "f"} or len({values.shape for values in arrays}) != 1:  # type: ignore[union-attr]
        return {}
    block = np.array(arrays, dtype=np.float64)
    if block.ndim != 2 or np.isinf(block).any():
        return {}
    return dict(zip(names, block, strict=True))


def list_of(values: Any) -> Any:
    """An array's values as Python's own, None for NaN; anything else as it is."""
    if not hasattr(values, "tolist"):
        return values
    plain = values.tolist()
    if getattr(values, "ndim", 1) == 1:
        return [None if value != value else value for value in plain]  # noqa: PLR0124 - only NaN differs from itself
    return plain
