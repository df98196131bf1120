"""The journal: the files through which serving tells monitoring and learning what happened.

A replica is one `source`: a name that no other process start ever has. It writes two dense
sequences of files, each created once and never changed:

    journal/<model>/predictions/<source>/00000001.parquet    rows that were answered
    journal/<model>/labels/<source>/00000001.json            what became known afterwards

Because a name is created once, a writer that does not know whether its last attempt arrived
simply tries again; because a sequence is dense, a reader that keeps one number a source reads
every file exactly once. Prediction parts also carry counts per bin, so that a monitor can add
up windows without touching rows.
"""

import base64
import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import ipc, parquet

from hapredict.data.schema import Schema, Table
from hapredict.errors import CorruptBundle
from hapredict.registry.store import decode_json, encode_json
from hapredict.serving.columns import lists_column, matrix_of, text_column, values_column

NO_VERSION = 0
"""Stands in `other_versions` where a row was scored by one version only; versions start at 1."""

_OWN = (
    *("prediction_id", "at_s", "event_s", "key"),
    *("version", "scores", "other_version", "other_scores"),
)
"""Columns of a part beside those of its table, which begin with _FEATURE."""
_FEATURE = "f:"
_METADATA = b"hapredict"
_FAULTS = (pa.ArrowException, OSError, KeyError, ValueError, TypeError, zlib.error)


@dataclass(frozen=True, slots=True, eq=False)
class WindowCounts:
    """How many rows fell into each bin, in one bucket of event time.

    `bucket` is floor(event_s / bucket_s). `version` is the champion whose plan made `bins`
    (flat [sum(plan.bin_totals)] int64) and whose reference made `scores`
    ([len(reference.score_counts)] int64).
    """

    bucket: int
    version: int
    rows: int
    bins: NDArray[np.int64]
    scores: NDArray[np.int64]

    def __add__(self, other: "WindowCounts") -> "WindowCounts":
        if (self.bucket, self.version) != (other.bucket, other.version):
            raise ValueError("counts of different windows do not add up")
        return WindowCounts(
            self.bucket,
            self.version,
            self.rows + other.rows,
            self.bins + other.bins,
            self.scores + other.scores,
        )

    def to_json(self) -> dict[str, Any]:
        packed = zlib.compress(self.bins.astype("<i4").tobytes(), 1)
        return {
            "bucket": self.bucket,
            "version": self.version,
            "rows": self.rows,
            "bins": base64.b64encode(packed).decode("ascii"),
            "scores": self.scores.tolist(),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "WindowCounts":
        packed = zlib.decompress(base64.b64decode(value["bins"]))
        return WindowCounts(
            bucket=int(value["bucket"]),
            version=int(value["version"]),
            rows=int(value["rows"]),
            bins=np.frombuffer(packed, dtype="<i4").astype(np.int64),
            scores=np.asarray(value["scores"], dtype=np.int64),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PredictionPart:
    """Rows that one source answered, in the order in which it answered them.

    `scores` is [rows, width] float64 in the class order of each row's own version; a version with
    fewer outputs than the widest is padded with NaN on the right. `other_versions` is [rows] int64,
    NO_VERSION where nobody else scored the row, and `other_scores` is all NaN there.
    `at_s` is wall time, `event_s` the model's clock, both in seconds since the epoch. `keys` holds
    the sticky key, None where a row has none.
    """

    source: str
    seq: int
    ids: tuple[str, ...]
    at_s: NDArray[np.float64]
    event_s: NDArray[np.float64]
    keys: tuple[str | None, ...]
    versions: NDArray[np.int64]
    scores: NDArray[np.float64]
    other_versions: NDArray[np.int64]
    other_scores: NDArray[np.float64]
    table: Table
    windows: tuple[WindowCounts, ...]
    model: str = ""

    @property
    def rows(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Label:
    """What became known about one prediction.

    `value` is JSON as the caller sent it. `at_s` is the wall time of its arrival, `event_s` the
    time at which it became known on the model's clock, if the caller said so.
    """

    id: str
    value: Any
    at_s: float
    event_s: float | None = None


class Listing(Protocol):
    """What `unread` needs of a store."""

    def children(self, prefix: str) -> list[str]: ...

    def list(self, prefix: str, after: str | None = None) -> "list[str]": ...


def predictions_prefix(model: str) -> str:
    """Where the prediction parts of `model` are."""
    return f"journal/{model}/predictions"


def labels_prefix(model: str) -> str:
    """Where the label parts of `model` are."""
    return f"journal/{model}/labels"


def part_path(prefix: str, source: str, seq: int) -> str:
    """The path of one part below `predictions_prefix` or `labels_prefix`."""
    suffix = "json" if prefix.endswith("/labels") else "parquet"
    return f"{prefix}/{source}/{seq:08d}.{suffix}"


def unread(store: Listing, prefix: str, positions: Mapping[str, int]) -> list[tuple[str, int, str]]:
    """The parts after `positions` as (source, seq, path), by source and then by seq.

    Dense: a source stops before its first missing seq, so that a part which appears late is never
    jumped over. `positions` holds the last seq read of each source. Raises StoreUnavailable.
    """
    found: list[tuple[str, int, str]] = []
    for source in sorted(store.children(prefix)):
        seq = positions.get(source, 0)
        after = part_path(prefix, source, seq) if seq else None
        for path in store.list(f"{prefix}/{source}", after=after):
            if path != part_path(prefix, source, seq + 1):
                break
            seq += 1
            found.append((source, seq, path))
    return found


def add_windows(windows: Iterable[WindowCounts]) -> tuple[WindowCounts, ...]:
    """The sum of counts, one a (bucket, version), in that order."""
    sums: dict[tuple[int, int], WindowCounts] = {}
    for window in windows:
        name = (window.bucket, window.version)
        sums[name] = sums[name] + window if name in sums else window
    return tuple(sums[name] for name in sorted(sums))


def merge(parts: Sequence[PredictionPart], *, source: str, seq: int, model: str) -> PredictionPart:
    """One part of the rows of all `parts`, in order; counts of the same window are added."""
    return PredictionPart(
        source=source,
        seq=seq,
        model=model,
        ids=tuple(name for part in parts for name in part.ids),
        at_s=_joined([part.at_s for part in parts], np.float64),
        event_s=_joined([part.event_s for part in parts], np.float64),
        keys=tuple(key for part in parts for key in part.keys),
        versions=_joined([part.versions for part in parts], np.int64),
        scores=stack([part.scores for part in parts]),
        other_versions=_joined([part.other_versions for part in parts], np.int64),
        other_scores=stack([part.other_scores for part in parts]),
        table=join_tables([part.table for part in parts], [part.rows for part in parts]),
        windows=add_windows(window for part in parts for window in part.windows),
    )


def join_tables(tables: Sequence[Table], rows: Sequence[int]) -> Table:
    """Tables of so many rows below each other.

    A column that only some of them have is missing (NaN or None) in the rows of the others.
    """
    samples = {name: values for table in tables for name, values in table.items()}
    return {
        name: np.concatenate(
            [
                table[name] if name in table else _gap(sample, count)
                for table, count in zip(tables, rows, strict=True)
            ]
        )
        for name, sample in samples.items()
    }


def stack(blocks: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """[rows, width] blocks below each other, the narrower ones padded with NaN on the right."""
    width = max((block.shape[1] for block in blocks), default=0)
    stacked = np.full((sum(len(block) for block in blocks), width), np.nan)
    row = 0
    for block in blocks:
        stacked[row : row + len(block), : block.shape[1]] = block
        row += len(block)
    return stacked


def encode(part: PredictionPart, schema: Schema | None = None) -> bytes:
    """The part as Parquet, which any reader of Parquet understands.

    With a schema every one of its columns is written, filled with missing values where the part
    does not have it, so that all parts of a model look alike.
    """
    sink = pa.BufferOutputStream()
    parquet.write_table(_arrow(part, schema), sink, compression="zstd")
    return bytes(sink.getvalue())


def decode(
    data: bytes, schema: Schema | None = None, *, columns: Collection[str] | None = None
) -> PredictionPart:
    """The part in `data`; with a schema, its table has exactly the columns of the schema.

    With `columns` only these of the table are read: most of the cost of a part is its table.
    Raises CorruptBundle if the bytes are not a part.
    """
    try:
        names = None if columns is None else [*_OWN, *(_FEATURE + name for name in columns)]
        file = parquet.ParquetFile(pa.BufferReader(data))
        return _part(file.read(names, use_threads=False), schema)
    except _FAULTS as error:
        raise CorruptBundle(f"these bytes are not a part of the journal: {error}") from error


def pack(part: PredictionPart) -> bytes:
    """The part as an Arrow stream: larger than Parquet, and ten times cheaper to write."""
    table = _arrow(part, None)
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def unpack(data: bytes) -> PredictionPart:
    """What `pack` packed. Raises CorruptBundle if the bytes are not a packed part."""
    try:
        return _part(ipc.open_stream(pa.BufferReader(data)).read_all(), None)
    except _FAULTS as error:
        raise CorruptBundle(f"these bytes are not a packed part: {error}") from error


def encode_labels(labels: Sequence[Label]) -> bytes:
    """Labels as JSON. Raises ValueError for a value that JSON cannot hold, such as NaN."""
    rows = [{"id": label.id, "value": label.value, "at_s": label.at_s} for label in labels]
    for row, label in zip(rows, labels, strict=True):
        if label.event_s is not None:
            row["event_s"] = label.event_s
    return encode_json({"labels": rows})


def decode_labels(data: bytes) -> tuple[Label, ...]:
    """The labels in `data`. Raises CorruptBundle if the bytes are not a label part."""
    try:
        return tuple(
            Label(
                id=str(row["id"]),
                value=row["value"],
                at_s=float(row["at_s"]),
                event_s=None if row.get("event_s") is None else float(row["event_s"]),
            )
            for row in decode_json(data, "labels of the journal")["labels"]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptBundle(f"these bytes are not labels of the journal: {error}") from error


def _joined(blocks: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype)


def _gap(sample: NDArray[Any], rows: int) -> NDArray[Any]:
    return np.full(rows, None if sample.dtype == object else np.nan, sample.dtype)


def _columns(schema: Schema) -> dict[str, bool]:
    """Each column of the schema and whether it is text."""
    columns = {column.name: column.kind != "number" for column in schema.features}
    if schema.time is not None:
        columns[schema.time] = False
    if schema.id is not None:
        columns[schema.id] = True
    return columns


def _arrow(part: PredictionPart, schema: Schema | None) -> Any:
    alone = part.other_versions == NO_VERSION
    columns: dict[str, Any] = {
        "prediction_id": pa.array(part.ids, pa.string()),
        "at_s": pa.array(part.at_s, pa.float64()),
        "event_s": pa.array(part.event_s, pa.float64()),
        "key": text_column(part.keys),
        "version": pa.array(part.versions, pa.int64()),
        "scores": lists_column(part.scores, None),
        "other_version": pa.array(part.other_versions, pa.int64(), mask=alone),
        "other_scores": lists_column(part.other_scores, alone),
    }
    for name, is_text in (_columns(schema) if schema is not None else {}).items():
        columns[_FEATURE + name] = pa.nulls(part.rows, pa.string() if is_text else pa.float64())
    for name, values in part.table.items():
        columns[_FEATURE + name] = values_column(values)
    metadata = {
        "source": part.source,
        "seq": part.seq,
        "model": part.model,
        "windows": [window.to_json() for window in part.windows],
    }
    return pa.table(columns).replace_schema_metadata({_METADATA: json.dumps(metadata)})


def _part(table: Any, schema: Schema | None) -> PredictionPart:
    metadata = json.loads(table.schema.metadata[_METADATA])
    columns = {name: table.column(name) for name in table.column_names}
    held = {
        name.removeprefix(_FEATURE): column.to_numpy()
        for name, column in columns.items()
        if name.startswith(_FEATURE)
    }
    if schema is not None:
        blank = {False: np.zeros(0, np.float64), True: np.zeros(0, object)}
        held = {
            name: held.get(name, _gap(blank[is_text], table.num_rows))
            for name, is_text in _columns(schema).items()
        }
    return PredictionPart(
        source=metadata["source"],
        seq=metadata["seq"],
        model=metadata["model"],
        ids=tuple(columns["prediction_id"].to_pylist()),
        at_s=columns["at_s"].to_numpy(),
        event_s=columns["event_s"].to_numpy(),
        keys=tuple(columns["key"].to_pylist()),
        versions=columns["version"].to_numpy(),
        scores=matrix_of(columns["scores"]),
        other_versions=columns["other_version"].fill_null(NO_VERSION).to_numpy(),
        other_scores=matrix_of(columns["other_scores"]),
        table=held,
        windows=tuple(WindowCounts.from_json(window) for window in metadata["windows"]),
    )
