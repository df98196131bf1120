"""The inference table: what was answered, and what became known, as Parquet that anybody can read.

    inference/<model>/day=2013-03-01/part-20261124-00000042.parquet   rows, by the day of the event
    labels/<model>/day=2026-11-24/part-20261124-00000042.parquet      labels, by the day of arrival

A file's name says the newest day on which something in it arrived, and the batch that wrote it, or
the first and the last batch where several files were put together. A file whose batches are among
those of another file of the same day does not count: it is about to be deleted.

Labels are not joined to rows: they come late, and whoever reads knows which he wants. The first
label of a prediction, by `arrived_at`, is the one that monitoring and training go by.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from hapredict.data.schema import Schema, Table
from hapredict.data.values import canonical_text
from hapredict.errors import CorruptBundle
from hapredict.registry.store import Store
from hapredict.sections import DAY_S
from hapredict.serving.columns import matrix_of, text_column
from hapredict.serving.journal import Label, columns_of

FEATURE = "f_"
"""Stands before the name of a column of the model, so that it is none of the table's own."""

_NAME = re.compile(
    r"^(?P<folder>.+/day=\d{4,5}-\d\d-\d\d)/part-(?P<day>\d{8})-(?P<first>\d{8})(-(?P<last>\d{8}))?"
    r"\.parquet$"
)
_MOMENT = pa.timestamp("us", "UTC")
_DAY_MAX = (date.max - date(1970, 1, 1)).days


def rows_prefix(model: str) -> str:
    """Where rows are."""
    return f"inference/{model}"


def label_rows_prefix(model: str) -> str:
    """Where labels are."""
    return f"labels/{model}"


@dataclass(frozen=True, slots=True)
class File:
    """One file of a table."""

    path: str
    folder: str
    day: str
    """The newest day on which something in it arrived, as 20261124."""
    first: int
    last: int

    @staticmethod
    def of(path: str) -> "File | None":
        """The file with this path; None if it is none of the table's."""
        match = _NAME.match(path)
        if match is None:
            return None
        first = int(match["first"])
        return File(path, match["folder"], match["day"], first, int(match["last"] or first))

    @staticmethod
    def named(folder: str, day: str, first: int, last: int) -> "File":
        """The file of these batches."""
        batches = f"{first:08d}" if first == last else f"{first:08d}-{last:08d}"
        return File(f"{folder}/part-{day}-{batches}.parquet", folder, day, first, last)

    def covers(self, other: "File") -> bool:
        """Whether all of the other file is in this one too."""
        mine, theirs = (self.first, self.last), (other.first, other.last)
        return (
            self.folder == other.folder
            and mine != theirs
            and self.first <= other.first <= (other.last) <= self.last
        )


def standing(paths: Iterable[str]) -> tuple[list[File], list[File]]:
    """The files that count, and those that others cover; both sorted by path."""
    counted: list[File] = []
    covered: list[File] = []
    found = [file for file in map(File.of, paths) if file is not None]
    # widest first, so that each file is compared with those which may cover it
    for file in sorted(found, key=lambda f: (f.folder, f.first, -f.last)):
        holder = counted[-1] if counted else None
        (covered if holder is not None and holder.covers(file) else counted).append(file)
    return (
        sorted(counted, key=lambda f: (f.folder, f.first)),
        sorted(covered, key=lambda f: f.path),
    )


def files(store: Store, prefix: str) -> list[str]:
    """The paths of a table's files, each row in exactly one of them. Raises StoreUnavailable."""
    return [file.path for file in standing(store.list(prefix))[0]]


def rows_of_part(data: bytes, source: str, seq: int, share: float, id_column: str | None) -> Any:
    """A journal part of predictions as Arrow rows of the table, with `day_` and `at_day_`.

    Of the keys only `share` is kept. Raises CorruptBundle if the bytes are not a part.
    """
    try:
        part = parquet.read_table(pa.BufferReader(data), use_threads=False)
        columns = {name: part.column(name).combine_chunks() for name in part.column_names}
        at_s = columns["at_s"].to_numpy(zero_copy_only=False)
        event_s = columns["event_s"].to_numpy(zero_copy_only=False)
        event_s = np.where(np.isfinite(event_s), event_s, at_s)
        scores = matrix_of(part.column("scores"))
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise CorruptBundle(f"these bytes are not a part of the journal: {error}") from error
    single = (~np.isnan(scores)).sum(axis=1) == 1
    score = (
        np.where(single, scores[:, 0], np.nan) if scores.shape[1] else np.full(len(at_s), np.nan)
    )
    rows = len(at_s)
    named = {
        (FEATURE + name[2:] if name.startswith("f:") else name[2:]): column
        for name, column in columns.items()
        if name[:2] in ("f:", "x:")
    }
    own = named.pop(FEATURE + id_column, None) if id_column is not None else None
    table = pa.table(
        {
            "prediction_id": columns["prediction_id"],
            "id": pa.nulls(rows, pa.string()) if own is None else own,
            "event_time": _moments(event_s),
            "answered_at": _moments(at_s),
            "version": columns["version"],
            "other_version": columns["other_version"],
            "score": pa.array(score, pa.float64(), from_pandas=True),
            "scores": columns["scores"],
            "other_scores": columns["other_scores"],
            "decision": columns.get("decision", pa.nulls(rows, pa.string())),
            "key": columns["key"],
            **named,
            "source": pa.array([source] * rows, pa.string()),
            "seq": pa.array(np.full(rows, seq), pa.int64()),
            "day_": pa.array(_days(event_s), pa.int64()),
            "at_day_": pa.array(_days(at_s), pa.int64()),
        }
    )
    if share < 1:
        keys = columns["key"].to_pylist()
        ids = columns["prediction_id"].to_pylist()
        table = table.filter(pa.array(_sampled(keys, ids, share), pa.bool_()))
    return table


def rows_of_labels(labels: Sequence[Label], source: str, seq: int) -> Any:
    """A journal part of labels as Arrow rows of the table, with `day_` and `at_day_`."""
    arrived = np.array([label.at_s for label in labels], np.float64)
    known = np.array(
        [np.nan if label.event_s is None else label.event_s for label in labels], np.float64
    )
    return pa.table(
        {
            "prediction_id": text_column([None if one.of_row else one.id for one in labels]),
            "id": text_column([one.id if one.of_row else None for one in labels]),
            "label": text_column([_text(one.value) for one in labels]),
            "arrived_at": _moments(arrived),
            "known_at": _moments(known),
            "source": pa.array([source] * len(labels), pa.string()),
            "seq": pa.array(np.full(len(labels), seq), pa.int64()),
            "day_": pa.array(_days(arrived), pa.int64()),
            "at_day_": pa.array(_days(arrived), pa.int64()),
        }
    )


def by_day(prefix: str, batch: int, tables: Sequence[Any]) -> dict[File, bytes]:
    """The files of one batch: the same bytes for the same parts."""
    if not tables:
        return {}
    table = _concat(tables)
    days = table.column("day_").to_numpy()
    at_days = table.column("at_day_").to_numpy()
    plain = table.drop_columns(["day_", "at_day_"])
    found = {}
    for day in np.unique(days).tolist():
        mask = days == day
        newest = f"{_date(int(at_days[mask].max())):%Y%m%d}"
        file = File.named(f"{prefix}/day={_date(day).isoformat()}", newest, batch, batch)
        found[file] = _bytes(plain.filter(pa.array(mask)))
    return found


def together(several: Sequence[File], data: Sequence[bytes]) -> tuple[File, bytes]:
    """Files of one day as one. Raises CorruptBundle."""
    file = File.named(
        several[0].folder,
        max(one.day for one in several),
        min(one.first for one in several),
        max(one.last for one in several),
    )
    return file, _bytes(_concat([read(one) for one in data]))


def read(data: bytes) -> Any:
    """The Arrow table in a file's bytes. Raises CorruptBundle."""
    try:
        return parquet.read_table(pa.BufferReader(data), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise CorruptBundle(f"these bytes are not a file of the table: {error}") from error


def features_of(rows: Any, schema: Schema) -> Table:
    """The schema's columns of the table's rows, missing where the table has none."""
    found: dict[str, NDArray[Any]] = {}
    for name, is_text in columns_of(schema).items():
        held = "id" if name == schema.id else FEATURE + name
        if held in rows.column_names:
            column = rows.column(held)
            if is_text:
                found[name] = np.array(column.to_pylist(), dtype=object)
            else:
                found[name] = column.cast(pa.float64()).to_numpy().astype(np.float64)
        else:
            missing: Any = None if is_text else np.nan
            found[name] = np.full(rows.num_rows, missing, object if is_text else np.float64)
    return found


def is_over(file: File, now_s: float, kept_days: float) -> bool:
    """Whether all that is in a file arrived longer ago than is kept."""
    newest = datetime.strptime(file.day, "%Y%m%d").replace(tzinfo=UTC).timestamp() + DAY_S
    return newest + kept_days * DAY_S < now_s


def _concat(tables: Sequence[Any]) -> Any:
    return pa.concat_tables(tables, promote_options="permissive")


def _bytes(table: Any) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _moments(seconds: NDArray[np.float64]) -> Any:
    held = np.isfinite(seconds)
    whole = np.where(held, np.round(seconds * 1e6), 0).astype(np.int64)
    return pa.array(whole, pa.int64(), mask=~held).cast(_MOMENT)


def seconds_of(moments: Any) -> NDArray[np.float64]:
    """The seconds that a column of moments was made from, NaN where there is none."""
    whole = moments.cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.asarray(whole / 1e6)


def _days(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    days = np.floor(np.nan_to_num(seconds) / DAY_S)
    return np.clip(days, -700_000, _DAY_MAX).astype(np.int64)


def _date(day: int) -> date:
    return date(1970, 1, 1) + timedelta(days=day)


def _text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else canonical_text(value)


def _sampled(keys: Sequence[str | None], ids: Sequence[str], share: float) -> list[bool]:
    limit = int(share * 2**64)
    return [
        int.from_bytes(blake2b((key or id_).encode(), digest_size=8).digest(), "big") < limit
        for key, id_ in zip(keys, ids, strict=True)
    ]


Positions = Mapping[str, Mapping[str, int]]
"""The last part of each source, for "predictions" and for "labels"."""
