"""Request bodies: from bytes to plain lists, and what to say when that fails.

Nothing here knows a model. The one place that judges values is `Schema.table`; here is only
judged whether a body is JSON and has the outline that a protocol asks for.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

from hapredict.data.schema import columns_of
from hapredict.errors import BadRequest, Problem, SchemaMismatch

PROBLEMS_MAX = 20
"""Problems told at once. The first few show the pattern; a thousand would be a reply of its own."""

# A string (with the colon that makes it a key), or a literal that JSON does not have. The string's
# closing quote is optional and its inside possessive, so that a scan is linear on any input.
_TOKEN = re.compile(
    rb'"(?P<text>(?:[^"\\]|\\.)*+)"?(?P<colon>\s*+:)?|(?P<literal>-?(?:NaN|nan|Infinity|inf)\b)',
    re.DOTALL,
)
_DECODER = msgspec.json.Decoder()


def parse_json(body: bytes | bytearray) -> Any:
    """The value in a JSON body. Raises BadRequest, whatever the bytes are."""
    try:
        return _DECODER.decode(body)
    except RecursionError:
        raise BadRequest("the body is nested too deeply to be a request") from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: {error.reason}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise _not_json(bytes(body), error) from None


def parse_object(body: bytes | bytearray) -> dict[str, Any]:
    """The object in a JSON body. Raises BadRequest."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise BadRequest(f"the body must be a JSON object; got {json_type(value)}")
    return value


def json_type(value: Any) -> str:
    """What JSON calls the type of `value`, for messages."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    return names.get(type(value)) or ("an object" if isinstance(value, Mapping) else "a list")


def columns_from(rows: Sequence[Any]) -> Mapping[str, list[Any]]:
    """Rows turned into columns for `Schema.table`.

    Raises SchemaMismatch (400) that names the rows that are not objects.
    """
    problems = tuple(
        Problem(f"rows[{i}]", f"must be an object of fields and values; got {json_type(row)}")
        for i, row in enumerate(rows)
        if not isinstance(row, Mapping)
    )
    if problems:
        raise SchemaMismatch(problems[:PROBLEMS_MAX], 400)
    if len(rows) == 1:
        return {name: [value] for name, value in rows[0].items()}
    return columns_of(rows)


def check_lengths(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> int:
    """Rows in `columns`. Raises SchemaMismatch (400) if they are not equally long."""
    lengths = {name: len(values) for name, values in columns.items()}
    usual, _ = Counter(lengths.values()).most_common(1)[0]
    problems = [
        Problem(name[:100], f"has {length} values where the other columns have {usual}")
        for name, length in lengths.items()
        if length != usual
    ]
    if problems:
        raise SchemaMismatch(tuple(problems[:PROBLEMS_MAX]), 400)
    return usual


def check_rows(rows: int, rows_max: int, what: str = "rows") -> None:
    """Raises BadRequest: 400 for no rows, 413 for more than `rows_max`."""
    if rows == 0:
        raise BadRequest(f"there are no {what} in the request; send at least one")
    if rows > rows_max:
        message = f"there are {rows} {what} in the request; at most {rows_max} fit into one"
        raise BadRequest(message, 413)


def unknown_fields(value: Mapping[str, Any], known: Sequence[str]) -> tuple[Problem, ...]:
    """One problem for each key of `value` that is not `known`."""
    listed = ", ".join(known)
    return tuple(
        Problem(name[:100], f"no such field here; known: {listed}")
        for name in value
        if name not in known
    )[:PROBLEMS_MAX]


def _not_json(body: bytes, error: Exception) -> BadRequest:
    if not body.strip():
        return BadRequest("the body is empty; send a JSON object")
    found = _not_a_number(body)
    if found is not None:
        literal, field = found
        what = f"{literal} is not JSON; send null"
        return SchemaMismatch((Problem(field, what),), 400)
    return BadRequest(f"the body is not JSON: {str(error).removeprefix('JSON is malformed: ')}")


def _not_a_number(body: bytes) -> tuple[str, str] | None:
    """The first literal such as NaN outside of strings, and the field that it stands in."""
    field = name = b""
    awaits_name = False
    for token in _TOKEN.finditer(body):
        if token["literal"]:
            # In the Open Inference Protocol values stand under `data`, beside the tensor's name.
            place = name if field == b"data" and name else field
            return token["literal"].decode(), _text(place)
        if token["colon"]:
            field = token["text"]
            awaits_name = field == b"name"
        elif awaits_name:
            name, awaits_name = token["text"], False
    return None


def _text(raw: bytes) -> str:
    try:
        return str(_DECODER.decode(b'"' + raw + b'"'))
    except ValueError:
        return raw.decode("utf-8", "replace")
