"""What it costs to prepare rows, to find them prepared, and to read them in the order of learning.

    make bench

Preparing: made-up Parquet files (8 numbers, 6 categories, a time, an id) on a small Ray cluster of
this machine; processor time is that of the caller and of all tasks. Reading: batches of shuffled
rows from memory and from files, in turn; the floor is numpy's own indexing with a permutation of
all rows. Figures are medians over rounds.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
from pyarrow import parquet

from hapredict.data.ray_dataset import find_files, open_dataset
from hapredict.registry.store import open_store
from hapredict.spec import build_spec
from hapredict.training.feed import Feed, Resident
from hapredict.training.network import Examples
from hapredict.training.prepared import Prepared, Recipe, folder_of
from hapredict.training.ray_feed import Ahead
from hapredict.training.ray_inputs import code_version, file_hashes
from hapredict.training.ray_prepare import find_prepared, prepare, read_rows
from hapredict.training.shards import Streamed, load

ROWS, FILES, CPUS = 400_000, 8, 2
PREPARED_ROUNDS, READ_ROUNDS = 3, 7
BATCH_ROWS, WINDOW_ROWS = 1024, 50_000


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory(prefix="hapredict-bench-") as folder:
        ray.init(
            num_cpus=CPUS,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            _temp_dir=f"{folder}/ray",
        )
        try:
            prepared = _preparing(Path(folder))
            _reading(prepared)
        finally:
            ray.shutdown()


def _preparing(folder: Path) -> Prepared:
    _write(folder / "data")
    spec = build_spec(
        {
            "name": "bench",
            "data": {"sources": [str(folder / "data")], "target": "y", "time": "at", "id": "order"},
        }
    )
    recipe = Recipe.of(spec.data, spec.features, spec.training)
    first, second = [], []
    for each in range(PREPARED_ROUNDS + 1):
        store = open_store(str(folder / f"store-{each}"))
        # the first round starts the workers, and is not counted
        for found in (first, second):
            began_s, began_cpu_s = time.perf_counter(), _cpu_s()
            prepared = _run(store, recipe, folder)
            found.append((time.perf_counter() - began_s, _cpu_s() - began_cpu_s))
    (wall_s, cpu_s), (again_s, again_cpu_s) = (
        [statistics.median(column) for column in zip(*found[1:], strict=True)]
        for found in (first, second)
    )
    print(f"preparing {ROWS:,} rows ({prepared.train.row_bytes} bytes each when prepared)")
    print(f"  first run    {ROWS / cpu_s:10,.0f} rows a CPU-second   {wall_s:6.2f} s")
    print(
        f"  second run   {ROWS / again_cpu_s:10,.0f} rows a CPU-second   {again_s:6.2f} s", end=""
    )
    print(f"   {again_s / wall_s:.1%} of the time, {again_cpu_s / cpu_s:.1%} of the CPU time")
    return prepared


def _run(store: Any, recipe: Recipe, home: Path) -> Prepared:
    """What a run does before it trains."""
    files = find_files(recipe.data, home)
    key = recipe.key(files=file_hashes(files, store, "bench"), code=code_version())
    folder = store.url.removeprefix("file://") + "/" + folder_of("bench", key)
    found = find_prepared(store, "bench", key, folder)
    if found is None:
        rows = read_rows(open_dataset(files, recipe.data), recipe)
        found = prepare(rows, recipe, store, "bench", key, folder)
    return found


def _reading(prepared: Prepared) -> None:
    examples = load(prepared.train)
    ways: dict[str, Callable[[int], Iterator[Examples]]] = {
        "numpy indexing, all rows": lambda epoch: _indexed(examples, epoch),
        "in memory, one window": _batches(Resident(examples, examples.rows)),
        "in memory, windows": _batches(Resident(examples, WINDOW_ROWS)),
        "from files, windows": _batches(Streamed(prepared.train, WINDOW_ROWS)),
        "from files, read ahead": _batches(Ahead(Streamed(prepared.train, WINDOW_ROWS))),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for epoch in range(READ_ROUNDS):
        for name, way in ways.items():
            began_s = time.process_time()
            seen = sum(batch.rows for batch in way(epoch))
            times[name].append(time.process_time() - began_s)
            if seen != examples.rows:
                raise SystemExit(f"{name}: {seen} rows of {examples.rows}")
    floor_s = statistics.median(times["numpy indexing, all rows"])
    print(f"\nreading {examples.rows:,} rows in shuffled batches of {BATCH_ROWS:,},", end="")
    print(f" windows of {Resident(examples, WINDOW_ROWS).window_rows[0]:,}")
    for name, took in times.items():
        median = statistics.median(took)
        print(f"  {name:26} {examples.rows / median:12,.0f} rows a CPU-second", end="")
        print(f"   {median / floor_s:5.2f} x the floor's CPU time")


def _indexed(examples: Examples, epoch: int) -> Iterator[Examples]:
    order = np.random.default_rng(epoch).permutation(examples.rows)
    for start in range(0, examples.rows, BATCH_ROWS):
        yield examples.take(order[start : start + BATCH_ROWS])


def _batches(feed: Feed) -> Callable[[int], Iterator[Examples]]:
    def batches(epoch: int) -> Iterator[Examples]:
        for window in feed.windows(0, epoch):
            for start in range(0, len(window.rows), BATCH_ROWS):
                yield window.examples.take(window.rows[start : start + BATCH_ROWS])

    return batches


def _cpu_s() -> float:
    """Of this process and of Ray's workers."""
    total = time.process_time()
    for process in psutil.Process().children(recursive=True):
        try:
            if (process.cmdline() or [""])[0].startswith("ray::"):
                spent = process.cpu_times()
                total += spent.user + spent.system
        except psutil.Error:  # ended since it was listed
            continue
    return total


def _write(folder: Path) -> None:
    chance = np.random.default_rng(0)
    folder.mkdir()
    moments = np.sort(chance.random(ROWS)) * 86_400 * 365 + 1.7e9
    for place, rows in enumerate(np.array_split(np.arange(ROWS), FILES)):
        count = len(rows)
        columns: dict[str, Any] = {f"n{i}": chance.normal(size=count) for i in range(8)}
        columns |= {f"c{i}": chance.choice(list("abcdefghijkl"), count) for i in range(6)}
        columns |= {
            "at": (moments[rows] * 1e6).astype("datetime64[us]"),
            "order": [f"o{row}" for row in rows],
            "y": (columns["n0"] + chance.normal(size=count) > 0).astype(int),
        }
        file = folder / f"{place}.parquet"
        parquet.write_table(pa.table(columns), file)
        # old enough that its hash may be remembered
        os.utime(file, (1.7e9, 1.7e9))


if __name__ == "__main__":
    main()
