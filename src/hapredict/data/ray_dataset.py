"""Reading Parquet and CSV by Ray Data, and adding up over its blocks.

The files are read once, in parallel, and stay in the object store; each later pass sends a function
to the blocks and brings back what it returns. A block arrives there as columns: numpy arrays by
name, with pandas as the door between.
"""

import functools
import logging
import operator
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from pyarrow import csv

from hapredict.errors import DataError, HapredictError, Problem
from hapredict.spec import DataSpec

Columns = Mapping[str, NDArray[Any]]
T = TypeVar("T")

ENDINGS = (".parquet", ".csv")


def find_files(spec: DataSpec, home: Path) -> tuple[str, ...]:
    """The files that `data.sources` names, sorted; relative paths and globs start at `home`.

    URLs (`s3://...`) are passed on as they are. Raises DataError for a source without files and
    for a file that is neither Parquet nor CSV.
    """
    files: list[str] = []
    problems = []
    for source in spec.sources:
        if "://" in source:
            files.append(source)
            continue
        found = _local_files(home / source)
        if not found:
            problems.append(Problem("data.sources", f"{source!r} matches no file below {home}"))
        odd = [file for file in found if file.suffix not in ENDINGS]
        problems += [Problem(str(file), "is neither .parquet nor .csv") for file in odd]
        files += map(str, found)
    if problems:
        raise DataError(tuple(problems))
    return tuple(sorted(dict.fromkeys(files)))


def _local_files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for ending in ENDINGS for file in path.rglob(f"*{ending}"))
    if path.is_file():
        return [path]
    parts = path.parts
    first = next((i for i, part in enumerate(parts) if any(c in part for c in "*?[")), None)
    if first is None:
        return []
    matched = Path(*parts[:first]).glob(str(Path(*parts[first:])))
    return sorted(file for file in matched if file.is_file())


def open_dataset(files: Sequence[str], spec: DataSpec) -> ray.data.Dataset:
    """The rows of all files as blocks in the object store.

    Raises DataError if a file cannot be read.
    """
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    # text stays text: inference would take the zeros off "00123"
    texts = {
        name: pa.string() for name, kind in spec.columns.items() if kind not in {"number", "time"}
    }
    options = csv.ConvertOptions(column_types=texts, strings_can_be_null=True)
    sets = []
    tables = [name for name in files if not name.endswith(".csv")]
    if tables:
        sets.append(ray.data.read_parquet(tables))
    # one reader a file: each may have its own order and kinds of columns
    sets += [
        ray.data.read_csv([name], convert_options=options)
        for name in files
        if name.endswith(".csv")
    ]
    try:
        return _ours(lambda: functools.reduce(lambda a, b: a.union(b), sets).materialize())
    except (OSError, ValueError, pa.ArrowException, ray.exceptions.RayError) as error:
        text = str(error).strip().splitlines()
        raise DataError(f"the files cannot be read: {text[-1] if text else error!r}") from error


def with_rows(dataset: ray.data.Dataset, columns: Columns) -> ray.data.Dataset:
    """The data set and, after its blocks, rows given as columns."""
    arrays = {name: pa.array(values, from_pandas=True) for name, values in columns.items()}
    return dataset.union(ray.data.from_arrow(pa.table(arrays))).materialize()


def of_blocks(dataset: ray.data.Dataset, work: Callable[[Columns], T]) -> list[T]:
    """What `work` returns for each block that has rows, in the order of the data.

    An error that hapredict raised inside `work` is raised here as itself.
    """

    def run(frame: pd.DataFrame) -> dict[str, list[bytes]]:
        return {"result": [pickle.dumps(work(_columns(frame)))]} if len(frame) else {"result": []}

    results = _ours(
        lambda: dataset.map_batches(run, batch_format="pandas", batch_size=None).take_all()
    )
    return [pickle.loads(row["result"]) for row in results]  # noqa: S301 - our own, from our own task


def add_up(dataset: ray.data.Dataset, summarise: Callable[[Columns], T]) -> T:
    """The sum of what `summarise` says of each block. Raises DataError if there are no rows."""
    parts: list[Any] = of_blocks(dataset, summarise)
    if not parts:
        raise DataError("the data have no rows")
    total: T = functools.reduce(operator.add, parts)
    return total


def chance_of_rows(columns: Columns) -> NDArray[np.float64]:
    """float64 [rows] in [0, 1) by the hash of each row's content.

    For data without a time: the split does not depend on the order of files, and equal rows never
    fall on both sides of it.
    """
    hashes = pd.util.hash_pandas_object(pd.DataFrame(dict(columns)), index=False)
    chances: NDArray[np.float64] = hashes.to_numpy().astype(np.float64) / 2.0**64
    return np.minimum(chances, np.nextafter(1.0, 0.0))


def _columns(frame: pd.DataFrame) -> dict[str, NDArray[Any]]:
    columns = {}
    for name in frame.columns:
        values = frame[name]
        if isinstance(values.dtype, pd.DatetimeTZDtype):
            values = values.dt.tz_convert("UTC").dt.tz_localize(None)
        elif isinstance(values.dtype, pd.CategoricalDtype):
            values = values.astype(object)
        columns[str(name)] = values.to_numpy()
    return columns


def _ours(call: Callable[[], T]) -> T:
    """The call; an error of ours that Ray wrapped on its way is unwrapped."""
    try:
        return call()
    except Exception as error:
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, HapredictError):
                raise link from None
            link = getattr(link, "cause", None) or link.__cause__
        raise
