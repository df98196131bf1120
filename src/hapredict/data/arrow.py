"""Columns of Arrow read into a table, without a step of Python a value where that can be.

The lenient door of `values.py` for what Parquet and CSV readers give: numbers are read whole, and
of texts each different one once. What is neither is left to the value-by-value reader.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, types

from hapredict.data.schema import Schema, Table
from hapredict.data.values import (
    TEXT_MAX,
    array_of,
    lenient_numbers,
    lenient_texts,
    lenient_times,
)
from hapredict.errors import DataError, Problem

Plain = Callable[[pa.ChunkedArray], NDArray[Any]]
"""Makes an array that `hapredict.data.values` reads of a column of any kind."""


def table_of_arrow(schema: Schema, rows: pa.Table, plain: Plain) -> tuple[Table, NDArray[np.bool_]]:
    """The features of a file's rows, and bool [rows]: true where a value could not be read.

    As `Schema.frame` tells it; time and id are looked at if they are there, and not returned.
    Raises DataError if a feature's column is not there.
    """
    names = set(rows.column_names)
    absent = [column.name for column in schema.features if column.name not in names]
    if absent:
        raise DataError(tuple(Problem(name, "no such column") for name in absent))
    table: dict[str, NDArray[Any]] = {}
    unreadable = np.zeros(rows.num_rows, bool)
    for name in schema.numbers:
        table[name], bad = _numbers(rows[name], plain)
        unreadable |= bad
    for name in schema.categories:
        table[name], bad = _texts(rows[name], plain)
        unreadable |= bad
    if schema.time in names:
        unreadable |= lenient_times(plain(rows[schema.time]))[1]
    if schema.id in names:
        unreadable |= _bad_ids(rows[schema.id], plain)
    return table, unreadable


def _numbers(column: pa.ChunkedArray, plain: Plain) -> tuple[NDArray[Any], NDArray[Any]]:
    kind = column.type
    if types.is_integer(kind) or types.is_boolean(kind) or _is_float(kind):
        return lenient_numbers(column.cast(pa.float64(), safe=False).to_numpy())
    return lenient_numbers(plain(column))


def _texts(column: pa.ChunkedArray, plain: Plain) -> tuple[NDArray[Any], NDArray[Any]]:
    kind = column.type
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not (
        _is_text(inner) or types.is_integer(inner) or types.is_boolean(inner) or _is_float(inner)
    ):
        return lenient_texts(plain(column))
    whole = (
        column.unify_dictionaries().combine_chunks()
        if types.is_dictionary(kind)
        else (column.combine_chunks().dictionary_encode())
    )
    texts, bad = lenient_texts(array_of([*whole.dictionary.to_pylist(), None]))
    places = whole.indices.cast(pa.int64()).fill_null(len(texts) - 1).to_numpy()
    return texts[places], bad[places]


def _bad_ids(column: pa.ChunkedArray, plain: Plain) -> NDArray[np.bool_]:
    if types.is_integer(column.type):
        return np.zeros(len(column), bool)
    if _is_text(column.type):
        lengths = compute.utf8_length(column)
        bad: NDArray[np.bool_] = compute.greater(lengths, TEXT_MAX).fill_null(False).to_numpy()
        return bad
    return lenient_texts(plain(column))[1]


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _is_float(kind: pa.DataType) -> bool:
    return bool(types.is_float32(kind) or types.is_float64(kind))
