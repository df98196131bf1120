"""A pandas frame as requests of some rows each, and their answers as one frame again.

pandas is imported when a frame is there, never before: programs without frames go without it.
"""

import heapq
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hapredict.client.values import plain
from hapredict.data.values import UnreadableValue, canonical_text
from hapredict.errors import (
    BadRequest,
    ClusterUnavailable,
    HapredictError,
    Problem,
    SchemaMismatch,
)
from hapredict.serving.answers import Prediction

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_ROW = re.compile(r"\Arows\[(\d+)\]")
_PLAIN = frozenset((bool, int, float, str, type(None)))


class Pieces:
    """The rows of a frame, piece by piece, each a range of positions, and what was answered.

    A piece that is too long for a server is cut in two, and so are those that follow.
    """

    def __init__(self, frame: "DataFrame", rows_max: int) -> None:
        """Raises ValueError for `rows_max` below 1 and for columns that name no fields."""
        if rows_max < 1:
            message = f"a request has at least one row; got rows_a_request={rows_max}"
            raise ValueError(message)
        names = list(frame.columns)
        wrong = [name for name in names if not isinstance(name, str) or names.count(name) > 1]
        if wrong:
            message = f"columns must be texts, the names of fields, each once; got {wrong[0]!r}"
            raise ValueError(message)
        self._frame = frame
        self._rows_max = rows_max
        self._next = 0
        self._again: list[tuple[int, int]] = []
        self._answers: dict[int, Sequence[Prediction]] = {}

    def take(self) -> range | None:
        """The next rows to ask for; None if there are none at the moment."""
        if self._again:
            start, stop = heapq.heappop(self._again)
            if stop - start > self._rows_max:
                heapq.heappush(self._again, (start + self._rows_max, stop))
        else:
            start, stop = self._next, len(self._frame)
            self._next = min(stop, start + self._rows_max)
        stop = min(stop, start + self._rows_max)
        return range(start, stop) if start < stop else None

    def columns(self, piece: range) -> dict[str, Sequence[Any] | NDArray[Any]]:
        """The values of a piece by field, None or NaN where one is missing.

        Raises TypeError or SchemaMismatch for values that no column can have.
        """
        part = self._frame.iloc[piece.start : piece.stop]
        columns = {name: column_of(name, part[name]) for name in part.columns}
        problems = [problem for name, values in columns.items() for problem in _odd(name, values)]
        if problems:
            raise SchemaMismatch(tuple(problems[:20]))
        return columns

    def answered(self, piece: range, said: Sequence[Prediction]) -> None:
        """Take a piece's answer. Raises ClusterUnavailable if it is not one of a row each."""
        if len(said) != len(piece):
            error = ClusterUnavailable(f"{len(piece)} rows were asked and {len(said)} answered")
            self.failed(piece, error)
        self._answers[piece.start] = said

    def failed(self, piece: range, error: Exception) -> None:
        """Ask for a piece again, in two, if it was too long; otherwise raise with its rows."""
        if isinstance(error, BadRequest) and error.status == 413 and len(piece) > 1:
            self._rows_max = min(self._rows_max, (len(piece) + 1) // 2)
            heapq.heappush(self._again, (piece.start, piece.stop))
            return
        if isinstance(error, SchemaMismatch):
            error = _moved(error, piece.start)
        if isinstance(error, HapredictError):
            error.rows = (piece.start, piece.stop)
        error.add_note(f"in frame.iloc[{piece.start}:{piece.stop}]")
        raise error

    def frame(self) -> "DataFrame":
        """All answers in the order of the frame's rows, under its index."""
        rows = [row for start in sorted(self._answers) for row in self._answers[start]]
        return answers_frame(rows, self._frame.index)


def column_of(name: str, column: "Series[Any]") -> Sequence[Any] | NDArray[Any]:
    """A column's values: an array of numbers or booleans, NaN where one is missing, or a list.

    In a list None is missing, moments are texts, and the rest is as JSON has it. Raises TypeError
    for values that have no form in a request.
    """
    import pandas as pd

    dtype: Any = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        levels = _listed(name, dtype.categories)
        return [levels[code] if code >= 0 else None for code in column.cat.codes.tolist()]
    stored: Any = getattr(dtype, "numpy_dtype", dtype)
    kind = getattr(stored, "kind", "O")
    if kind == "f":
        width = np.dtype(f"f{min(8, getattr(stored, 'itemsize', 8))}")
        return np.asarray(column.to_numpy(dtype=width, na_value=np.nan))
    if kind in "biu" and isinstance(stored, np.dtype) and not column.isna().any():
        return np.asarray(column.to_numpy(dtype=stored))
    return _listed(name, column)


def answers_frame(rows: Sequence[Prediction], index: Any) -> "DataFrame":
    """One row a prediction, as `Client.predict_frame` promises."""
    import pandas as pd

    def texts(values: list[Any]) -> Any:
        return pd.Series(values, index=index, dtype="str")

    def numbers(values: list[Any]) -> Any:
        return pd.Series(values, index=index, dtype="float64")  # None becomes NaN

    table = {"prediction_id": texts([row.prediction_id for row in rows])}
    scores = [row.score for row in rows]
    named = [score for score in scores if isinstance(score, dict)]
    for each in dict.fromkeys(each for score in named for each in score):
        table[f"score_{each}"] = numbers([score.get(each) for score in named])
    if not named:
        table["score"] = numbers(scores)
    decisions = [row.decision for row in rows]
    are_numbers = bool(rows) and isinstance(decisions[0], float)
    table["decision"] = numbers(decisions) if are_numbers else texts(decisions)
    versions = [row.model_version for row in rows]
    table["model_version"] = pd.Series(versions, index=index, dtype="int64")
    table["served_by"] = texts([row.served_by for row in rows])
    if any(row.uncertainty is not None for row in rows):
        table["uncertainty"] = numbers([row.uncertainty for row in rows])
    quantiles = [row.quantiles or {} for row in rows]
    for level in dict.fromkeys(level for said in quantiles for level in said):
        table[f"q{level}"] = numbers([said.get(level) for said in quantiles])
    return pd.DataFrame(table, index=index)


def _listed(name: str, values: Any) -> list[Any]:
    """Values of any kind as a request's JSON has them. Raises TypeError with the column's name."""
    try:
        found = msgspec.to_builtins(values.astype(object).tolist(), enc_hook=plain)
    except TypeError as error:
        message = f"column {name!r}: {error}"
        raise TypeError(message) from None
    # JSON has no NaN either: a row that holds one is sent with null
    plainly = [None if type(value) is float and value != value else value for value in found]  # noqa: PLR0124
    wrong = next((value for value in plainly if type(value) not in _PLAIN), None)
    if wrong is not None:
        message = f"column {name!r}: a row holds a {type(wrong).__name__}, which is no single value"
        raise TypeError(message)
    return plainly


def _odd(name: str, values: Sequence[Any] | NDArray[Any]) -> list[Problem]:
    """Values that cannot be said in a tensor, by their rows."""
    if isinstance(values, np.ndarray) or {bool, str}.isdisjoint(map(type, values)):
        return []
    found = []
    for row, value in enumerate(values):
        try:
            if value is not None:
                canonical_text(value)
        except UnreadableValue as error:
            found.append(Problem(f"rows[{row}].{name}", str(error)))
    return found


def _moved(error: SchemaMismatch, start: int) -> SchemaMismatch:
    """The error with rows counted from the frame's first instead of the piece's."""
    problems = tuple(
        Problem(_ROW.sub(lambda row: f"rows[{start + int(row[1])}]", each.where), each.what)
        for each in error.problems
    )
    moved = SchemaMismatch(problems, error.status)
    for note in getattr(error, "__notes__", ()):
        moved.add_note(note)
    return moved
