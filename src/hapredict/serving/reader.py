"""The rows of a request without any oddity, read straight into the types of a schema.

Most requests are well formed. A decoder made for the schema reads those several times as fast as
one that takes any JSON, and builds no mapping a row. Whatever it does not take it leaves to the
careful way, `WireProtocol.decode_request` and `Schema.table`, which finds the words for what is
wrong; so what is fast here needs no error messages of its own, and both ways give the same table.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table
from hapredict.data.values import strict_category, strict_id, strict_time

Line = tuple[Any, ...]
"""A row's values: numbers, then categories, then the time and the id if the schema has them."""
_GOOD_MAX = 50_000


class Reader:
    """Reads bodies `{"instances": [{...}, ...]}` for one schema."""

    def __init__(self, schema: Schema, *, time_required: bool) -> None:
        """`time_required`: a row without a time, where the schema has one, is left alone."""
        self.schema = schema
        self.time_required = time_required
        numbers = len(schema.numbers)
        self._texts = slice(numbers, numbers + len(schema.categories))
        fields: list[Any] = [(name, float | None) for name in schema.numbers]
        fields += [(name, str | float | int | bool | None) for name in schema.categories]
        self._time = self._id = -1
        if schema.time is not None:
            self._time = len(fields)
            kind = str | float | int
            fields.append((schema.time, kind) if time_required else (schema.time, kind | None))
        if schema.id is not None:
            self._id = len(fields)
            fields.append((schema.id, str | int | None))
        optional = {schema.id} if time_required else {schema.id, schema.time}
        self._decode = _decoder(fields, optional)
        self._extras = self._time >= 0 or self._id >= 0
        self._good: set[str | None] = {None}
        """Texts that were found to be categories; most values of most rows are among them."""

    def lines(self, body: bytes | bytearray, rows_max: int) -> list[Line] | None:
        """The rows of a body, 1 to `rows_max`; None for one that needs the careful way."""
        if self._decode is None:
            return None
        try:
            rows = self._decode(body).instances
            if not 0 < len(rows) <= rows_max:
                return None
            good, texts = self._good, self._texts
            lines = [astuple(row) for row in rows]
            for place, line in enumerate(lines):
                if self._extras or not good.issuperset(line[texts]):
                    lines[place] = self._judged(line)
        except (ValueError, RecursionError):  # msgspec's errors are among them
            return None
        return lines

    def table(self, lines: Sequence[Line]) -> Table:
        """The table that `Schema.table` makes of these rows, with the columns of time and id."""
        schema, count = self.schema, len(self.schema.numbers)
        table: dict[str, NDArray[Any]] = {}
        if count:
            block = np.array([line[:count] for line in lines], np.float64)  # None becomes NaN
            table.update(zip(schema.numbers, block.T, strict=True))
        columns = list(zip(*lines, strict=True))
        for name, values in zip(schema.categories, columns[self._texts], strict=True):
            table[name] = np.array(values, object)
        if schema.time is not None:
            table[schema.time] = np.array(columns[self._time], np.float64)
        if schema.id is not None:
            table[schema.id] = np.array(columns[self._id], object)
        return table

    def _judged(self, line: Line) -> Line:
        """The line in the forms that tables have. Raises ValueError for a value of no form."""
        values = list(line)
        if len(self._good) > _GOOD_MAX:
            self._good.clear()
        for place in range(self._texts.start, self._texts.stop):
            values[place] = text = strict_category(values[place])
            self._good.add(text)
        if self._time >= 0:
            values[self._time] = strict_time(values[self._time])
        if self._id >= 0:
            values[self._id] = strict_id(values[self._id])
        return tuple(values)


def _decoder(fields: Sequence[tuple[str, Any]], optional: set[str | None]) -> Any:
    """Decodes a body to its rows; None where a field has a name that msgspec does not take."""
    # a field's own name may be no name in Python
    names = {f"f{place}": name for place, (name, _) in enumerate(fields)}
    typed = [
        (own, kind, None) if name in optional else (own, kind)
        for own, (name, kind) in zip(names, fields, strict=True)
    ]
    strict: Any = {"forbid_unknown_fields": True, "gc": False}
    try:
        row = msgspec.defstruct("Row", typed, rename=names, kw_only=True, **strict)
        body = msgspec.defstruct("Body", [("instances", list[row])], **strict)  # type: ignore[valid-type]
        return msgspec.json.Decoder(body).decode
    except ValueError:
        return None
