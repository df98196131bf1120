"""Reading Parquet and CSV by Ray Data, and adding up over its blocks.

The files are read once, in parallel, and stay in the object store; each later pass sends a function
to the blocks and brings back what it returns. A block arrives there as columns: numpy arrays by
name, with pandas as the door between.
"""

import functools
import logging
import operator
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from pyarrow import csv
from pyarrow.parquet import read_schema

from hapredict.data.rows import Survey
from hapredict.data.schema import Schema, infer_schema
from hapredict.data.values import lenient_numbers, lenient_texts, lenient_times
from hapredict.errors import DataError, HapredictError, Problem
from hapredict.sections import DataSpec

Columns = Mapping[str, NDArray[Any]]
T = TypeVar("T")

ENDINGS = (".parquet", ".csv")
PIECE_BYTES = 64 << 20
"""Of a CSV file whose size is not known, in which the kinds of its columns must show."""
BLOCK_BYTES = 8 << 20
"""Of files for one block: each costs a task a pass."""
PANDAS_INDEX = re.compile(r"__index_level_\d+__")


def find_files(spec: DataSpec, home: Path) -> tuple[str, ...]:
    """The files that `data.sources` names, sorted; relative paths and globs start at `home`.

    A directory means all files below it but those that, or whose folder, begin with "." or "_":
    what programs leave beside data. As in a shell, `*` matches no "." at the start of a name.
    URLs (`s3://...`) are passed on as they are. Raises DataError for a source without files, and
    for a file that is neither Parquet nor CSV or is empty.
    """
    files: list[str] = []
    problems = []
    for source in spec.sources:
        if "://" in source:
            files.append(source)
            continue
        found = _local_files(home, source)
        if not found:
            problems.append(Problem("data.sources", f"{source!r} matches no file below {home}"))
        for file in found:
            if file.suffix not in ENDINGS:
                problems.append(Problem(str(file), "is neither .parquet nor .csv"))
            elif not file.stat().st_size:
                what = "is empty (0 bytes), without even a header; write it again, or remove it"
                problems.append(Problem(str(file), what))
        files += map(str, found)
    if problems:
        raise DataError(tuple(problems))
    return tuple(sorted(dict.fromkeys(files)))


def _local_files(home: Path, source: str) -> list[Path]:
    path = home / source
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for ending in ENDINGS for file in path.rglob(f"*{ending}")]
        return sorted(
            file
            for file in found
            if file.is_file() and not _is_hidden(file.relative_to(path), (".", "_"))
        )
    # only the source is a pattern: a bracket in the name of home is a bracket
    parts = Path(source).parts
    first = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), None)
    if first is None:
        return []
    root, pattern = home.joinpath(*parts[:first]), Path(*parts[first:])
    try:
        matched = [file for file in root.glob(str(pattern)) if file.is_file()]
    except ValueError as error:
        raise DataError((Problem("data.sources", f"{source!r} is no pattern: {error}"),)) from None
    marks = () if _is_hidden(pattern, (".",)) else (".",)
    return sorted(file for file in matched if not _is_hidden(file.relative_to(root), marks))


def _is_hidden(path: Path, marks: tuple[str, ...]) -> bool:
    return any(part.startswith(marks) for part in path.parts)


def open_dataset(files: Sequence[str], spec: DataSpec) -> ray.data.Dataset:
    """The rows of all files as blocks in the object store.

    Each file may have its own order and kinds of columns. Raises DataError that names the files
    that cannot be read.
    """
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    options = csv_options(spec)
    sets = []
    try:
        sets += [
            ray.data.read_parquet(group, override_num_blocks=_blocks(group))
            for group in _alike(files)
        ]
        sets += [
            ray.data.read_csv(
                [name],
                convert_options=options,
                read_options=_whole(name),
                override_num_blocks=_blocks([name]),
            )
            for name in files
            if name.endswith(".csv")
        ]
        return functools.reduce(lambda a, b: a.union(b), sets).materialize()
    except (OSError, ValueError, pa.ArrowException, ray.exceptions.RayError) as error:
        faults = [(name, _csv_fault(name, options)) for name in files if _is_local_csv(name)]
        problems = tuple(Problem(name, fault) for name, fault in faults if fault)
        told = str(getattr(error, "cause", None) or error).strip() or repr(error)
        raise DataError(problems or f"the files cannot be read: {told.splitlines()[0]}") from error


def csv_options(spec: DataSpec) -> csv.ConvertOptions:
    """How columns of a CSV file are read: text stays text, and an empty one is missing."""
    # inference would take the zeros off "00123"
    named = {name for name, kind in spec.columns.items() if kind not in {"number", "time"}}
    texts = dict.fromkeys(named | ({spec.id} if spec.id is not None else set()), pa.string())
    return csv.ConvertOptions(column_types=texts, strings_can_be_null=True)


def _alike(files: Sequence[str]) -> list[list[str]]:
    """Parquet files in groups with the same columns: a reader expects in all what is in one."""
    groups: dict[Any, list[str]] = {}
    problems = []
    for name in files:
        if name.endswith(".csv"):
            continue
        columns: tuple[Any, ...] = ()
        if "://" not in name:
            try:
                columns = tuple((field.name, str(field.type)) for field in read_schema(name))
            except (OSError, pa.ArrowException) as error:
                problems.append(Problem(name, f"is not Parquet: {error}"))
        groups.setdefault(columns, []).append(name)
    if problems:
        raise DataError(tuple(problems))
    return list(groups.values())


def _blocks(files: Sequence[str]) -> int | None:
    """Blocks for local files, which Ray would cut to bits; None leaves remote ones to Ray."""
    if any("://" in name for name in files):
        return None
    return max(1, sum(Path(name).stat().st_size for name in files) // BLOCK_BYTES)


def _is_local_csv(name: str) -> bool:
    return name.endswith(".csv") and "://" not in name


def _whole(name: str) -> csv.ReadOptions:
    """Kinds are inferred from one piece, which a later piece would have to fit: read one piece."""
    size = Path(name).stat().st_size if _is_local_csv(name) else PIECE_BYTES
    return csv.ReadOptions(use_threads=False, block_size=min(max(size, 1 << 20), 2**31 - 1))


def _csv_fault(name: str, options: csv.ConvertOptions) -> str:
    """What is wrong with a CSV file; Ray does not pass on what the reader said."""
    try:
        reader = csv.open_csv(name, read_options=_whole(name), convert_options=options)
        for _ in reader:
            pass
    except (OSError, pa.ArrowException) as error:
        return str(error)
    names = reader.schema.names
    twice = sorted({column for column in names if names.count(column) > 1})
    return f"has more than one column named {', '.join(map(repr, twice))}" if twice else ""


def with_rows(dataset: ray.data.Dataset, columns: Columns) -> ray.data.Dataset:
    """The data set and, after its blocks, rows given as columns."""
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return dataset.union(ray.data.from_arrow(pa.table(arrays))).materialize()


def of_blocks(dataset: ray.data.Dataset, work: Callable[[Columns], T]) -> list[T]:
    """What `work` returns for each block that has rows, in the same order each time.

    An error that hapredict raised inside `work` is raised here as itself.
    """

    # an error travels as a result: Ray wraps what is raised, and drops what caused it
    def run(frame: pd.DataFrame) -> dict[str, list[bytes]]:
        if not len(frame):
            return {"result": []}
        try:
            found: Any = work(columns_of_frame(frame))
        except HapredictError as error:
            found = error
        return {"result": [pickle.dumps(found)]}

    rows = dataset.map_batches(run, batch_format="pandas", batch_size=None).take_all()
    results = [pickle.loads(row["result"]) for row in rows]  # noqa: S301 - our own, from our own task
    for result in results:
        if isinstance(result, HapredictError):
            raise result
    return results


def add_up(dataset: ray.data.Dataset, summarise: Callable[[Columns], T]) -> T:
    """The sum of what `summarise` says of each block. Raises DataError if there are no rows."""
    parts: list[Any] = of_blocks(dataset, summarise)
    if not parts:
        raise DataError("the data have no rows")
    total: T = functools.reduce(operator.add, parts)
    return total


def survey(dataset: ray.data.Dataset, spec: DataSpec) -> tuple[Survey, Schema]:
    """What the blocks hold, and the schema of it. Raises DataError that lists every fault."""
    target = spec.target
    found: Survey = add_up(dataset, lambda columns: Survey.of(columns, target))
    classes = None if found.many_classes else found.classes
    return found, infer_schema(spec, found.sample, classes)


def chance_of_rows(columns: Columns) -> NDArray[np.float64]:
    """float64 [rows] in [0, 1) by the hash of each row's content, columns in the order given.

    For data without a time: the split does not depend on the order of files, and equal rows never
    fall on both sides of it, even where one file has whole numbers and the other has not.
    """
    total = np.zeros(len(next(iter(columns.values()), ())), np.uint64)
    for values in columns.values():
        total = total * np.uint64(0x9E3779B97F4A7C15) + _hashes(values)
    chances = pd.util.hash_array(total).astype(np.float64) / 2.0**64
    return np.minimum(chances, np.nextafter(1.0, 0.0))


def _hashes(values: NDArray[Any]) -> NDArray[np.uint64]:
    """uint64 [rows]: equal values have equal hashes, in whatever array: "1" is 1 is 1.0."""
    if values.dtype.kind in "biuf":
        return _number_hashes(values.astype(np.float64))
    if values.dtype.kind == "M":
        return _number_hashes(lenient_times(values)[0])
    try:
        codes, unique = pd.factorize(values)
    except TypeError:  # lists and the like cannot be looked up
        codes, unique = pd.factorize(np.array([str(value) for value in values], object))
    numbers, bad = lenient_numbers(unique)
    hashes = _number_hashes(np.append(numbers, np.nan))  # code -1, missing, is the last one
    texts = [text or "" for text in lenient_texts(unique[bad])[0]]
    hashes[:-1][bad] = pd.util.hash_array(np.array(texts, dtype=object), categorize=False)
    return hashes[codes]


def _number_hashes(numbers: NDArray[np.float64]) -> NDArray[np.uint64]:
    plain = np.where(np.isnan(numbers), np.nan, numbers + 0.0)  # one NaN, one zero
    hashes: NDArray[np.uint64] = pd.util.hash_array(plain)
    return hashes.copy()


def columns_of_frame(frame: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """The frame as arrays by name, in forms that `hapredict.data.values` reads."""
    columns = {}
    for name in frame.columns:
        if PANDAS_INDEX.fullmatch(str(name)):
            continue  # row numbers that pandas wrote beside the data
        values = frame[name]
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            values = values.dt.tz_convert("UTC").dt.tz_localize(None)
        elif isinstance(values.dtype, pd.CategoricalDtype):
            values = values.astype(object)
        elif values.dtype.kind == "m":
            values = values.dt.total_seconds()
        columns[str(name)] = values.to_numpy()
    return columns
