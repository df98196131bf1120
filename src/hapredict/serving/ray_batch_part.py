"""One part of a batch prediction: read, scored and written by one process, a stretch at a time.

The process holds one version of the model, the stretch in hand and the file that it writes; no row
goes through Ray. It is a file of an edge since it waits for disks and the network, and reads odd
columns by pandas.
"""

import hashlib
import json
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from pyarrow import csv, fs

from hapredict.data.arrow import table_of_arrow
from hapredict.data.ray_dataset import columns_of_frame, csv_options
from hapredict.errors import ClusterUnavailable, DataError, GateRefused, HapredictError, Problem
from hapredict.registry.catalog import Version
from hapredict.registry.store import encode_json, open_store
from hapredict.sections import DataSpec
from hapredict.serving.batch import answer_table, score_names
from hapredict.serving.batch_plan import File, Part, Piece, Receipt
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import Loaded, load_version

READ_ROWS = 16_384
"""Rows that are read at a time."""
GROUP_ROWS = 131_072
"""Rows of a row group of the output."""
TRIES = 4
"""Times that a part is begun again by processes that were started again."""
_BUFFER_BYTES = 1 << 20
_HEADER_BYTES = 1 << 20
_BLOCK_BYTES_MAX = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Work:
    """What a process must know to score any part. Pickles small."""

    store: str
    """URL of the model's store."""
    output: str
    """URL of the folder."""
    model: str
    version: Version
    rule: Rule
    data: DataSpec
    wanted: tuple[str, ...]
    """Columns to read."""
    kept: tuple[str, ...]
    """Those of them to put into the output as they came."""


class Scorer:
    """A process of the pool: `__call__` for Ray Data, `score` for one part."""

    def __init__(self, work: Work) -> None:
        pa.set_cpu_count(1)
        pa.set_io_thread_count(1)
        self._work = work
        self._loaded = load_version(open_store(work.store), work.model, work.version)
        self._output = open_store(work.output)

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, list[bytes]]:
        """The receipts of parts, pickled; in the place of one a HapredictError, if it is that."""
        found: list[bytes] = []
        here = ray.get_runtime_context()
        for part, name, receipt in zip(batch["part"], batch["file"], batch["receipt"], strict=True):
            try:
                if here.was_current_actor_reconstructed:
                    self.begin_again(str(receipt), here.get_job_id())
                told: Any = self.score(
                    Part.from_json(json.loads(str(part))), str(name), str(receipt)
                )
            except HapredictError as error:  # Ray wraps what is raised, and drops what caused it
                told = error
            found.append(pickle.dumps(told))
        return {"told": found}

    def begin_again(self, path: str, run: str) -> None:
        """Count that a process which was started again begins the part with this receipt.

        Ray Data starts processes again for ever, and a part that is too large for the memory would
        kill each of them. Raises ClusterUnavailable once that has gone on for long enough.
        """
        folder = f"{path.removesuffix('.json')}.tries-{run}"
        tries = len(self._output.list(folder))
        if tries >= TRIES:
            raise ClusterUnavailable(
                f"the processes that scored {path} died {tries} times, perhaps for want of memory; "
                "the same call again goes on where it stopped"
            )
        self._output.put(f"{folder}/{tries}", b"{}")

    def score(self, part: Part, name: str, path: str) -> Receipt:
        """Write the part's answers to `name`, and then that they are there to `path`.

        Raises DataError if the input cannot be read or was changed since it was looked at,
        GateRefused if a score is not a number, StoreUnavailable.
        """
        began_s = time.process_time()
        made = Made()
        for piece in part.pieces:
            for rows in read(piece, self._work.wanted, self._work.data):
                made.add(*answers_of(self._loaded, rows, self._work.kept, self._work.rule, piece))
        data = made.finished()
        if data:
            self._output.put(name, data)
        receipt = Receipt(
            place=part.place,
            name=name if data else "",
            rows=made.rows,
            unreadable=made.unreadable,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            cpu_s=time.process_time() - began_s,
        )
        told = {field: getattr(receipt, field) for field in Receipt.__slots__}
        self._output.put(path, encode_json(told))
        return receipt


def answers_of(
    loaded: Loaded, rows: pa.Table, kept: Sequence[str], rule: Rule, piece: Piece
) -> tuple[pa.Table, int]:
    """The output's rows for rows of the input, and how many had a value that cannot be read.

    Raises GateRefused if a score is not a number.
    """
    table, unreadable = table_of_arrow(loaded.schema, rows, plain)
    answers = answer_table(loaded, table, rule)
    return output_of(loaded, rows, kept, answers, piece), int(unreadable.sum())


def output_of(
    loaded: Loaded,
    rows: pa.Table,
    kept: Sequence[str],
    answers: Mapping[str, NDArray[Any]],
    piece: Piece,
) -> pa.Table:
    """The columns that are kept, and the answers. Raises GateRefused as `answers_of`."""
    finite = [np.isfinite(answers[name]) for name in score_names(loaded.schema)]
    wrong = int((~np.logical_and.reduce(finite)).sum())
    if wrong:
        raise GateRefused(
            f"{wrong:,} of {rows.num_rows:,} rows of {piece.file} got a score that is not a number"
        )
    columns = {name: rows[name] for name in kept} | {
        name: pa.array(values) for name, values in answers.items()
    }
    return pa.table(columns)


class Made:
    """A file of the output as it grows: at most GROUP_ROWS and a stretch are not encoded yet."""

    def __init__(self) -> None:
        self.rows = 0
        self.unreadable = 0
        """Rows with a value that could not be read."""
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._sink = pa.BufferOutputStream()
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table, unreadable: int) -> None:
        """Rows for the file; they may be written later. Raises DataError if they do not fit."""
        self.rows += rows.num_rows
        self.unreadable += unreadable
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= GROUP_ROWS:
            self._encode()

    def finished(self) -> bytes:
        """The file; nothing if it has no rows."""
        if not self.rows:
            return b""
        self._encode()
        if self._writer is not None:
            self._writer.close()
        return bytes(self._sink.getvalue())

    def _encode(self) -> None:
        if not self._waiting_rows:
            return
        try:
            table = pa.concat_tables(self._waiting, promote_options="permissive")
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._sink, table.schema)
            self._writer.write_table(table.cast(self._writer.schema))
        except pa.ArrowException as error:
            raise DataError(
                f"a column that is kept has different kinds in different files: {error}"
            ) from error
        self._waiting, self._waiting_rows = [], 0


def look_at(name: str) -> File:
    """What is known of a file without reading its rows. Raises DataError if that is nothing."""
    try:
        filesystem, path = opened(name)
        info = filesystem.get_file_info(path)
        about = (name, int(info.size or 0), int(info.mtime_ns or 0))
        with filesystem.open_input_file(path) as stream:
            if name.endswith(".csv"):
                options = csv.ReadOptions(use_threads=False, block_size=_HEADER_BYTES)
                columns = csv.open_csv(stream, read_options=options).schema.names
                return File(*about, tuple(columns), None)
            meta = pq.read_metadata(stream)
        sizes = (
            (meta.row_group(place).num_rows, meta.row_group(place).total_byte_size)
            for place in range(meta.num_row_groups)
        )
        return File(*about, tuple(meta.schema.to_arrow_schema().names), tuple(sizes))
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(name, error) from error


def read(piece: Piece, wanted: Sequence[str], data: DataSpec) -> Iterator[pa.Table]:
    """The rows of a piece, READ_ROWS at a time, with the columns that are `wanted`.

    A row group is read page by page; a CSV file is read whole, since its kinds show in all of it.
    Raises DataError if the file cannot be read, or is not what it was when it was looked at.
    """
    try:
        filesystem, path = opened(piece.file)
        info = filesystem.get_file_info(path)
        if (int(info.size or 0), int(info.mtime_ns or 0)) != (piece.file_bytes, piece.changed_ns):
            raise DataError(
                (Problem(piece.file, "was changed while it was being read; start over"),)
            )
        with filesystem.open_input_file(path) as stream:
            if piece.end:
                yield from _read_groups(stream, piece, wanted)
            else:
                size = min(max(piece.file_bytes, 1 << 20), _BLOCK_BYTES_MAX)
                options = csv.ReadOptions(use_threads=False, block_size=size)
                rows = csv.read_csv(stream, options, convert_options=csv_options(data))
                rows = rows.select(list(wanted))
                for start in range(0, rows.num_rows, READ_ROWS):
                    yield rows.slice(start, READ_ROWS)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise _unreadable(piece.file, error) from error


def _read_groups(stream: Any, piece: Piece, wanted: Sequence[str]) -> Iterator[pa.Table]:
    file = pq.ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    groups = list(range(piece.first, piece.end))
    found = file.iter_batches(READ_ROWS, row_groups=groups, columns=list(wanted), use_threads=False)
    for batch in found:
        yield pa.Table.from_batches([batch]).select(list(wanted))


def opened(name: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URL, and the path in it."""
    if "://" not in name:
        return fs.LocalFileSystem(), name
    filesystem, path = fs.FileSystem.from_uri(name)
    return filesystem, path


def plain(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column in a form that `hapredict.data.values` reads, by way of pandas, as in training."""
    return columns_of_frame(pa.table({"column": column}).to_pandas())["column"]


def _unreadable(name: str, error: Exception) -> DataError:
    lines = str(error).strip().splitlines() or [repr(error)]
    kind = "CSV" if name.endswith(".csv") else "Parquet"
    return DataError((Problem(name, f"cannot be read as {kind}: {lines[0]}"),))
