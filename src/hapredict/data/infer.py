"""What the columns of a file are: kinds, task and classes, and whether a model can learn from them.

Everything wrong is collected and reported at once, each problem with its column and a way out.
"""

import difflib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.values import (
    array_of,
    describe,
    is_missing,
    lenient_numbers,
    lenient_texts,
    lenient_times,
)
from hapredict.errors import DataError, Problem
from hapredict.sections import DataSpec, Kind, Task

WHOLE_CLASSES_MAX = 20
"""Whole numbers with at most so many values are classes; more of them are an amount."""
CLASSES_MAX = 1000
"""Classes of a multiclass target; more are an id or a free text by mistake."""
TEXT_LENGTH_MEAN = 30
"""Characters above which mostly unique texts are documents, not categories."""

_WHOLE = re.compile(r"-?\d+")
# Han and kana are written without spaces: each sign is a word of its own when names are compared.
_SIGN = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SIGN}]|[^\W_{_SIGN}]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_NEGATIVE = frozenset(
    ("0", "false", "f", "no", "n", "negative", "off", "none", "never", "否", "无", "假", "没有")
)


@dataclass(frozen=True, slots=True)
class Findings:
    """What a sample says about a data set."""

    features: tuple[tuple[str, Kind], ...]
    task: Task
    classes: tuple[str, ...]


def infer(
    spec: DataSpec,
    sample: Mapping[str, NDArray[Any] | Sequence[Any]],
    classes: Mapping[str, int] | None,
) -> Findings:
    """Kinds, task and classes. `classes` counts canonical target values over all rows, if known.

    Raises DataError that lists every problem with its column.
    """
    columns = {name: array_of(values) for name, values in sample.items()}
    problems = _names_not_there(spec, columns)
    features: list[tuple[str, Kind]] = []
    aside = {spec.target, spec.time, spec.id, *spec.exclude}
    for name, values in columns.items():
        if name in aside:
            continue
        declared = spec.columns.get(name)
        trouble = ""
        kind = declared
        if declared is None:
            kind = kind_of(values)
            if kind is None:
                trouble = (
                    "holds no value in the sample; name it in data.exclude, or give its kind in "
                    "data.columns if values come later"
                )
            elif kind in ("number", "category") and leaks(name, spec.target):
                trouble = (
                    f"looks like the target {spec.target!r} itself, known only afterwards; name "
                    "it in data.exclude, or in data.columns if it is known when a prediction is "
                    "asked for"
                )
        elif declared == "number":
            trouble = _nothing_readable(values, *lenient_numbers(values), "a number")
        if trouble:
            problems.append(Problem(name, trouble))
        elif kind in ("number", "category"):
            features.append((name, kind))
    if spec.time in columns:
        values = columns[spec.time]
        trouble = _nothing_readable(values, *lenient_times(values), "a time")
        if kind_of(values) is None:
            trouble = "is data.time, and holds no value"
        if trouble:
            problems.append(Problem(spec.time, trouble))
    if not features and not problems:
        problems.append(
            Problem("", "no column can be a feature; data.columns may declare kinds of columns")
        )
    task: Task = "regression"
    labels: tuple[str, ...] = ()
    if spec.target in columns:
        target = _target(spec, columns[spec.target], classes)
        task, labels = target.task, target.classes
        problems.extend(Problem(spec.target, what) for what in target.problems)
    if problems:
        raise DataError(tuple(problems))
    return Findings(tuple(features), task, labels)


def kind_of(values: NDArray[Any]) -> Kind | None:
    """The kind of a column, told from its values; None if it holds none."""
    kind = values.dtype.kind
    if kind in "iuf":
        return "number" if np.any(values == values) else None  # noqa: PLR0124 - NaN differs
    if kind == "b":
        return "category"
    if kind == "M":
        return "time" if not np.isnat(values).all() else None
    present = [value for value in values if not is_missing(value)]
    if not present:
        return None
    if all(isinstance(value, (bool, np.bool_)) for value in present):
        return "category"
    if all(_is_number(value) for value in present):
        return "number"
    if all(isinstance(value, date) or _is_time(value) for value in present):
        return "time"
    texts = [value for value in present if isinstance(value, str)]
    if texts:
        unique = len(set(texts)) / len(texts)
        length = sum(map(len, texts)) / len(texts)
        if unique > 0.5 and length > TEXT_LENGTH_MEAN:
            return "text"
    return "category"


def leaks(feature: str, target: str) -> bool:
    """Whether a feature's name holds the target's name, word for word: `late_flag` holds `late`.

    Names are compared in small letters, word by word, so `latest` does not hold `late`. A target
    of one letter is held by its own name only, since a letter alone tells nothing.
    """
    words, wanted = _words(feature), _words(target)
    if not wanted:
        return False
    if "".join(words) == "".join(wanted):
        return True
    if len("".join(wanted)) == 1:
        return False
    size = len(wanted)
    return any(words[start : start + size] == wanted for start in range(len(words) - size + 1))


@dataclass(slots=True)
class _Target:
    task: Task
    classes: tuple[str, ...] = ()
    problems: list[str] = field(default_factory=list)


def _target(spec: DataSpec, values: NDArray[Any], counts: Mapping[str, int] | None) -> _Target:
    if counts is None:
        texts, _ = lenient_texts(values)
        counts = Counter(text for text in texts if text is not None)
    seen = [text for text, count in counts.items() if count > 0]
    if not seen:
        return _Target("regression", problems=["holds no value, so there is nothing to learn"])
    kind = spec.columns.get(spec.target) or kind_of(values)
    # Without any value in the sample, the texts of the count are all there is to go by.
    numeric = kind == "number" if kind else all(_as_number(text) is not None for text in seen)
    task = spec.task if spec.task != "auto" else _task_of(seen, numeric)
    found = _Target(task)
    if len(seen) == 1:
        found.problems.append(
            f"has only one value ({seen[0]!r}); a model needs at least two to tell apart"
        )
    elif task == "regression":
        trouble = _nothing_readable(values, *lenient_numbers(values), "a number")
        if not numeric and trouble:
            found.problems.append(f"{trouble}; data.task: multiclass predicts texts")
    elif task == "binary" and len(seen) != 2:
        found.problems.append(
            f"has {len(seen)} values where data.task: binary needs two: {_some(seen)}"
        )
    elif len(seen) > CLASSES_MAX:
        found.problems.append(
            f"has {len(seen)} different values; at most {CLASSES_MAX} classes can be learned. "
            "Is it an id or a free text?"
        )
    elif task == "binary":
        found.classes = _negative_first(seen)
    else:
        found.classes = _in_order(seen)
    return found


def _task_of(seen: Sequence[str], numeric: bool) -> Task:
    if len(seen) == 2:
        return "binary"
    whole = all(_WHOLE.fullmatch(text) for text in seen)
    if not numeric or (whole and len(seen) <= WHOLE_CLASSES_MAX):
        return "multiclass"
    return "regression"


def _negative_first(seen: Sequence[str]) -> tuple[str, ...]:
    pair = _in_order(seen)
    negative = [text.casefold() in _NEGATIVE for text in pair]
    numeric = all(_as_number(text) is not None for text in pair)
    return pair[::-1] if negative == [False, True] and not numeric else pair


def _in_order(seen: Sequence[str]) -> tuple[str, ...]:
    numbers = [_as_number(text) for text in seen]
    if any(number is None for number in numbers):
        return tuple(sorted(seen))
    return tuple(sorted(seen, key=lambda text: (_as_number(text), text)))


def _as_number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating, Decimal)) and not isinstance(
        value, bool
    )


def _is_time(value: Any) -> bool:
    # A bare number such as 20130101 is a code more often than a date.
    if not isinstance(value, str) or "-" not in value:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _nothing_readable(
    values: NDArray[Any], read: NDArray[Any], bad: NDArray[Any], what: str
) -> str:
    if not bad.any() or not np.isnan(read).all():
        return ""
    return f"holds no value that can be read as {what}, such as {describe(values[bad.argmax()])}"


def _names_not_there(spec: DataSpec, columns: Mapping[str, Any]) -> list[Problem]:
    named: dict[str, str] = {}
    for name, where in (
        (spec.target, "data.target"),
        (spec.time, "data.time"),
        (spec.id, "data.id"),
        *((name, "data.columns") for name in spec.columns),
        # A misspelt exclusion would let the column in that was to stay out.
        *((name, "data.exclude") for name in spec.exclude),
    ):
        if name is not None and name not in columns:
            named.setdefault(name, where)
    problems = []
    for name, where in named.items():
        guess = difflib.get_close_matches(name, list(columns), 1)
        hint = f"did you mean {guess[0]!r}?" if guess else f"the data have {_some(list(columns))}"
        problems.append(Problem(name, f"{where} names it, but there is no such column; {hint}"))
    return problems


def _words(name: str) -> list[str]:
    return _WORD.findall(_CAMEL.sub("_", name).casefold())


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")
