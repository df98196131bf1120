"""Batch prediction by Ray Data: Parquet or CSV in, Parquet out, scored by the bundle that serves.

The files are read as training reads them, and each scoring process loads the version once. The
output folder says itself whether it is whole: `_hapredict.json` in it has `"complete": true` as
soon as the last file is written.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray.data
from pyarrow import fs
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink, WriteResult
from ray.exceptions import RayError

from hapredict.data.ray_dataset import columns_of_frame, find_files, of_blocks, open_dataset
from hapredict.data.schema import Schema
from hapredict.errors import (
    ClusterUnavailable,
    Conflict,
    DataError,
    GateRefused,
    NotFound,
    Problem,
    StoreUnavailable,
)
from hapredict.registry.catalog import Catalog, Version
from hapredict.registry.store import Store, open_store
from hapredict.serving.batch import (
    UNREADABLE,
    Predicted,
    answer_columns,
    chosen_version,
    names_of,
    score_names,
)
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import load_version
from hapredict.spec import Spec

CALL_ROWS = 16_384
"""Rows a call of the network; more need memory and are no faster."""
SUMMARY = "_hapredict.json"
"""Readers of Parquet folders skip names that begin with `_`."""


def predict_files(
    store: Store,
    spec: Spec,
    source: str,
    output: str,
    home: Path,
    *,
    version: int | None = None,
    overwrite: bool = False,
    actors: int = 2,
) -> Predicted:
    """Answer all rows of `source` (file, folder, glob or URL) into the folder or URL `output`.

    The champion answers, or `version`. Relative paths start at `home`. Columns: the model's id and
    time as they came, if all rows have them, then those of `batch.names_of`; rows in the order of
    `source`. `overwrite` replaces what an earlier batch prediction wrote, and nothing else. At most
    `actors` processes score, with a CPU each.

    Raises DataError, Conflict if `output` holds something, NotFound, UnknownName, GateRefused if
    the version must not answer, StoreUnavailable, ClusterUnavailable.
    """
    began_s = time.monotonic()
    entry = Catalog(store, spec.name).latest()
    if entry is None:
        raise NotFound(f"model {spec.name!r} has no version yet")
    chosen = chosen_version(entry.state, version)
    loaded = load_version(store, spec.name, chosen)
    schema = loaded.schema
    names_of(schema, loaded.engine.extras)  # refuses an id or a time with the name of an answer
    files = find_files(spec.data.model_copy(update={"sources": (source,)}), home)
    folder = output if "://" in output else str((home / output).absolute())
    about = {"model": spec.name, "version": chosen.number, "digest": chosen.digest}
    sink = _Folder(folder, about, score_names(schema))
    sink.check(overwrite=overwrite)
    dataset = open_dataset(files, spec.data)
    kept = _kept(dataset, schema)
    sink.claim()
    answers = dataset.map_batches(
        _Scorer,
        fn_constructor_args=(store.url, spec.name, chosen, kept, Rule.of(spec.serving)),
        batch_size=None,
        batch_format="pandas",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
    )
    try:
        answers.write_datasink(sink)
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise ClusterUnavailable(f"the prediction into {folder} broke off: {last}") from error
    return Predicted(
        model=spec.name,
        version=chosen.number,
        rows=sink.rows,
        unreadable=sink.unreadable,
        seconds=time.monotonic() - began_s,
        output=folder,
    )


def _kept(dataset: ray.data.Dataset, schema: Schema) -> tuple[str, ...]:
    """Which of id and time all rows have. Raises DataError unless they have all features."""
    found = [set(names) for names in of_blocks(dataset, list)]
    if not found:
        raise DataError("the files have no rows")
    in_all = set.intersection(*found)
    absent = [column.name for column in schema.features if column.name not in in_all]
    if absent:
        what = "no such column, or not in all files; the model needs it"
        raise DataError(tuple(Problem(name, what) for name in absent))
    return tuple(name for name in (schema.id, schema.time) if name is not None and name in in_all)


class _Scorer:
    """One process with one version in it."""

    def __init__(
        self, url: str, model: str, version: Version, kept: tuple[str, ...], rule: Rule
    ) -> None:
        self._loaded = load_version(open_store(url), model, version)
        self._kept = kept
        self._rule = rule

    def __call__(self, frame: pd.DataFrame) -> Iterator[pa.Table]:
        needed = [column.name for column in self._loaded.schema.features]
        for start in range(0, len(frame), CALL_ROWS):
            part = frame.iloc[start : start + CALL_ROWS]
            # id and time count too: one that cannot be read is said, as in live requests
            columns = columns_of_frame(part[[*needed, *self._kept]])
            answers = answer_columns(self._loaded, columns, self._rule)
            yield pa.table(
                {
                    **{name: pa.array(part[name], from_pandas=True) for name in self._kept},
                    **{name: pa.array(values) for name, values in answers.items()},
                }
            )


class _Folder(Datasink[tuple[str, int, int, int]]):
    """The output: one file a task, named by its place.

    So a task that has to run again overwrites what it wrote before.
    """

    def __init__(self, folder: str, about: dict[str, Any], scores: Sequence[str]) -> None:
        self.rows = 0
        self.unreadable = 0
        self._folder = folder
        self._about = about
        self._scores = scores

    def check(self, *, overwrite: bool) -> None:
        """Raises Conflict if the folder holds something that may not go."""
        found = self._names()
        if found and SUMMARY not in found:
            raise Conflict(
                f"{self._folder} holds {len(found)} files that no batch prediction wrote; name "
                "another folder"
            )
        if found and not overwrite:
            raise Conflict(
                f"{self._folder} holds an earlier batch prediction; name another folder, or "
                "overwrite it"
            )

    def claim(self) -> None:
        """Make the folder ours, and empty."""
        self._sum_up(complete=False)
        with self._opened() as (filesystem, path):
            for name in self._names() - {SUMMARY}:
                filesystem.delete_file(f"{path}/{name}")

    def write(self, blocks: Iterable[Block], ctx: Any) -> tuple[str, int, int, int]:
        """Write one task's rows, and say what they are.

        The file's name, its rows, how many of them are unreadable, and how many have a score that
        is not a number.
        """
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows]
        if not tables:
            return "", 0, 0, 0
        table = pa.concat_tables(tables, promote_options="permissive")
        name = f"{ctx.task_idx:06d}.parquet"
        with (
            self._opened() as (filesystem, path),
            filesystem.open_output_stream(f"{path}/{name}") as stream,
        ):
            pq.write_table(table.drop_columns([UNREADABLE]), stream)
        scores = np.stack([table[name].to_numpy() for name in self._scores])
        wrong = ~np.isfinite(scores).all(axis=0)
        return name, table.num_rows, int(table[UNREADABLE].to_numpy().sum()), int(wrong.sum())

    def on_write_complete(self, write_result: WriteResult[tuple[str, int, int, int]]) -> None:
        """Count what the tasks wrote, and say that it is whole."""
        written = {name for name, *_ in write_result.write_returns if name}
        lost = written - self._names()
        if lost:
            raise StoreUnavailable(
                f"{len(lost)} of {len(written)} files were written to {self._folder} of other "
                "nodes; the output must be a folder that all nodes share, or a URL"
            )
        counts = [part[1:] for part in write_result.write_returns]
        self.rows, self.unreadable, wrong = (sum(column) for column in zip(*counts, strict=True))
        if wrong:
            raise GateRefused(f"{wrong:,} of {self.rows:,} rows got a score that is not a number")
        self._sum_up(complete=True, rows=self.rows, unreadable=self.unreadable)

    def _names(self) -> set[str]:
        with self._opened() as (filesystem, path):
            selector = fs.FileSelector(path, allow_not_found=True)
            return {info.base_name for info in filesystem.get_file_info(selector)}

    def _sum_up(self, **facts: Any) -> None:
        with self._opened() as (filesystem, path):
            filesystem.create_dir(path)
            with filesystem.open_output_stream(f"{path}/{SUMMARY}") as stream:
                stream.write(json.dumps({**self._about, **facts}, indent=1).encode())

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[Any, str]]:
        try:
            yield fs.FileSystem.from_uri(self._folder)
        except (OSError, pa.ArrowException) as error:
            raise StoreUnavailable(f"{self._folder} cannot be used: {error}") from error
