"""One value or one array of values, in the form that all later stages rely on.

The same logical value gets the same form whichever door it comes through: `strict_*` read one
value of a live request and refuse what is doubtful; `lenient_*` read a whole array of a file and
turn what cannot be read into a missing value. Whatever the strict door takes, the lenient door
reads to the same form.

    number    float64, NaN is missing
    category  str or None; `true`/`false` for booleans, `1` for 1 and 1.0, `1.5` for 1.5
    time      float64 seconds since 1970-01-01 UTC, NaN is missing; a text without zone is UTC
    id        str or None
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

TEXT_MAX = 1000
"""Characters of a category or id; a longer text is a document, not a label."""
TIME_MIN_S = -62_135_596_800.0
"""The first second of the year 1."""
TIME_MAX_S = 253_402_300_800.0
"""The first second after the year 9999; seconds beyond it are milliseconds by mistake."""

_NUMBER_TYPES = frozenset((float, int, type(None)))
# Missing markers of pandas, told by name so that plain files need not import pandas.
_MISSING_TYPES = frozenset(("NAType", "NaTType"))
# str() of a longer int is refused by Python itself.
_INT_BITS_MAX = 3300


class UnreadableValue(ValueError):
    """A value that its column's kind does not allow; its sentence follows a field's name."""


def describe(value: Any) -> str:
    """What came, in words for an error: "the text 'abc'", "true", "a list"."""
    if value is None:
        return "null"
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = value if len(value) <= 40 else value[:40] + "..."
        return f"the text {shown!r}"
    if isinstance(value, (float, np.floating)):
        return f"the number {float(value)!r}"
    if isinstance(value, (int, np.integer)):
        whole = int(value)
        return f"the number {whole}" if whole.bit_length() < 200 else "a very long number"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"


def is_missing(value: Any) -> bool:
    """Whether a value of a file is missing: None, NaN, pandas' NA or NaT, NumPy's NaT."""
    if value is None:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(value != value)  # noqa: PLR0124 - only NaN differs from itself
    if isinstance(value, Decimal):
        return value.is_nan()
    if isinstance(value, np.datetime64):
        return bool(np.isnat(value))
    return type(value).__name__ in _MISSING_TYPES


def strict_number(value: Any) -> float:
    """A number of a live request; NaN for None. Raises UnreadableValue that says what is wrong."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise UnreadableValue(f"must be a number or null; got {describe(value)}")
    try:
        number = float(value)
    except OverflowError:
        raise UnreadableValue(f"is too large for a number; got {describe(value)}") from None
    if not math.isfinite(number):
        raise UnreadableValue("is not a finite number; send null if it is unknown")
    return number


def strict_category(value: Any) -> str | None:
    """The one text of a category, or None. Raises UnreadableValue that says what is wrong."""
    if value is None:
        return None
    if isinstance(value, (float, np.floating)) and not math.isfinite(value):
        raise UnreadableValue("is not a finite number; send null if it is unknown")
    if not isinstance(value, (str, bool, np.bool_, int, np.integer, float, np.floating)):
        raise UnreadableValue(
            f"must be a text, a number, true, false or null; got {describe(value)}"
        )
    return canonical_text(value)


def strict_id(value: Any) -> str | None:
    """The text of an id. Raises UnreadableValue that says what is wrong."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, np.integer)):
        raise UnreadableValue(f"must be a text, a whole number or null; got {describe(value)}")
    return canonical_text(value)


def strict_time(value: Any) -> float:
    """Seconds since 1970 UTC; NaN for None. Raises UnreadableValue that says what is wrong."""
    if value is None:
        return math.nan
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return _in_range(strict_number(value))
    if isinstance(value, str):
        try:
            return _seconds(datetime.fromisoformat(value))
        except ValueError:
            pass
    raise UnreadableValue(
        "must be a time such as '2026-03-01T09:30:00Z', seconds since 1970 or null; "
        f"got {describe(value)}"
    )


def canonical_text(value: Any) -> str:
    """The one text of a category's value. Raises UnreadableValue that says what is wrong."""
    if isinstance(value, str):
        text = str(value)
    elif isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    elif isinstance(value, (int, np.integer)):
        whole = int(value)
        if whole.bit_length() > _INT_BITS_MAX:
            raise UnreadableValue(f"is too long; at most {TEXT_MAX} characters can be a category")
        text = str(whole)
    elif isinstance(value, (float, np.floating, Decimal)):
        number = float(value)
        if not math.isfinite(number):
            raise UnreadableValue("is not a finite number; send null if it is unknown")
        text = str(int(value)) if number.is_integer() and value == int(value) else repr(number)
    elif isinstance(value, np.datetime64):
        text = str(np.datetime_as_string(value, unit="us"))
    elif isinstance(value, (date, time)):
        text = value.isoformat()
    elif isinstance(value, bytes):
        text = value.decode()
    else:
        raise UnreadableValue(
            f"must be a text, a number, true, false or null; got {describe(value)}"
        )
    if len(text) > TEXT_MAX:
        raise UnreadableValue(
            f"is too long ({len(text)} characters); at most {TEXT_MAX} can be a category"
        )
    if not text.isascii():
        _check_unicode(text)
    return text


def array_of(values: NDArray[Any] | Sequence[Any]) -> NDArray[Any]:
    """A column as an array; lists become object arrays, so that nothing is converted unasked."""
    if hasattr(values, "__array__"):
        array = np.asarray(values)
        return array.astype(object) if array.dtype.kind in "UT" else array
    return np.fromiter(values, dtype=object, count=len(values))


def lenient_numbers(values: NDArray[Any] | Sequence[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """float64 [rows], NaN where missing, and bool [rows], true where a value could not be read.

    Booleans are 1 and 0, and texts such as '12.5' are read; infinities cannot be.
    """
    array = array_of(values)
    if array.dtype.kind in "biuf":
        numbers = array.astype(np.float64)
        bad = np.isinf(numbers)
        numbers[bad] = np.nan
        return numbers, bad
    if array.dtype == object and _NUMBER_TYPES.issuperset(map(type, array)):
        try:
            return lenient_numbers(array.astype(np.float64))
        except OverflowError:
            pass  # one by one below, to find which
    return _each(array, _lenient_number, np.float64, np.nan)


def lenient_texts(values: NDArray[Any] | Sequence[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Object [rows] of str or None, and bool [rows], true where a value could not be read."""
    array = array_of(values)
    if array.dtype.kind in "biuf":
        # A file repeats few values often: each is put into words once.
        unique, inverse = np.unique(array, return_inverse=True)
        texts, bad = _each(unique, _lenient_text, object, None)
        return texts[inverse], bad[inverse]
    return _each(array, _lenient_text, object, None)


def lenient_times(values: NDArray[Any] | Sequence[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """float64 [rows] seconds, NaN where missing, and bool [rows], true where unreadable."""
    array = array_of(values)
    if array.dtype.kind == "M":
        missing = np.isnat(array)
        micros = array.astype("datetime64[us]").astype(np.int64)
        seconds = micros / 1e6
        far = np.abs(micros) > 2**53  # a float no longer holds these microseconds exactly
        seconds[far] = [int(value) / 10**6 for value in micros[far]]
        bad = ~missing & ~((seconds >= TIME_MIN_S) & (seconds < TIME_MAX_S))
        seconds[missing | bad] = np.nan
        return seconds, bad
    if array.dtype.kind in "iuf":
        seconds, bad = lenient_numbers(array)
        out = (seconds < TIME_MIN_S) | (seconds >= TIME_MAX_S)
        seconds[out] = np.nan
        return seconds, bad | out
    return _each(array, _lenient_time, np.float64, np.nan)


def _each(
    array: NDArray[Any], read: Callable[[Any], Any], dtype: Any, missing: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    result = np.full(len(array), missing, dtype=dtype)
    bad = np.zeros(len(array), dtype=bool)
    for row, value in enumerate(array):
        try:
            result[row] = read(value)
        except (ValueError, OverflowError):
            bad[row] = True
    return result, bad


def _lenient_number(value: Any) -> float:
    if is_missing(value):
        return math.nan
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return math.nan
        if "_" in text:
            raise UnreadableValue(text)
        number = float(text)
        if math.isinf(number):
            raise UnreadableValue(text)
        return number
    if isinstance(value, (bool, np.bool_, Decimal)):
        value = float(value)
    return strict_number(value)


def _lenient_text(value: Any) -> str | None:
    if type(value) is str and len(value) <= TEXT_MAX and value.isascii():
        return value
    return None if is_missing(value) else canonical_text(value)


def _lenient_time(value: Any) -> float:
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return math.nan
    if isinstance(value, datetime):
        return _seconds(value)
    if isinstance(value, date):
        return _seconds(datetime.combine(value, time()))
    return strict_time(value)


def _seconds(moment: datetime) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return _in_range(moment.timestamp())


def _in_range(seconds: float) -> float:
    if not TIME_MIN_S <= seconds < TIME_MAX_S:
        raise UnreadableValue(
            f"is no time between the years 1 and 9999 (got {seconds!r}); "
            "send seconds since 1970, not milliseconds"
        )
    return seconds


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnreadableValue("is no valid Unicode text (it holds half of a character)") from None
