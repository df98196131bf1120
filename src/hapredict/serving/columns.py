"""Arrays as Arrow columns and back: the forms in which the journal keeps texts and scores."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def values_column(values: NDArray[Any]) -> Any:
    """Numbers (NaN is missing) or texts (None is missing) as a column."""
    if values.dtype == object:
        return text_column(values)
    return pa.array(values, pa.float64(), from_pandas=True)


def text_column(values: Iterable[str | None]) -> Any:
    """Texts as a column; None is missing."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:  # half a surrogate pair: valid JSON, invalid UTF-8
        replaced = [v if v is None else v.encode("utf-8", "replace").decode() for v in values]
        return pa.array(replaced, pa.string())


def lists_column(scores: NDArray[np.float64], missing: NDArray[np.bool_] | None) -> Any:
    """[rows, width] scores as lists without their NaN; None where `missing`."""
    held = ~np.isnan(scores)
    offsets = np.zeros(len(scores) + 1, np.int32)
    np.cumsum(held.sum(axis=1), out=offsets[1:])
    mask = None if missing is None else pa.array(missing, pa.bool_())
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(scores[held], pa.float64()), mask=mask
    )


def matrix_of(lists: Any) -> NDArray[np.float64]:
    """The scores that `lists_column` wrote, [rows, width of the widest], NaN on the right."""
    lists = lists.combine_chunks()
    lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    matrix = np.full((len(lengths), int(lengths.max(initial=0))), np.nan)
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = lists.flatten().to_numpy(
        zero_copy_only=False
    )
    return matrix
