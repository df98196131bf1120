"""What batch prediction costs a row, stage by stage, and how fast a whole one is on Ray.

    make bench

Made-up rows of 8 numbers, 6 categories and an id in Parquet files; the network has the default
shape. Stages: one process, one thread, CPU time a row of each stage of a part, medians over parts;
the floor is the engine alone. Whole: `predict_files` on a Ray cluster of this machine, with 1 and
2 scoring processes; CPU time is that which the receipts tell, of the scoring processes alone.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from pyarrow import parquet

from hapredict.data.arrow import table_of_arrow
from hapredict.registry.catalog import Catalog
from hapredict.registry.store import Store, open_store
from hapredict.serving.batch import decide, slices
from hapredict.serving.batch_plan import Part, parts_of
from hapredict.serving.decisions import Rule
from hapredict.serving.engine import Loaded, load_version
from hapredict.serving.ray_batch import Asked, predict_files
from hapredict.serving.ray_batch_part import Made, look_at, output_of, plain, read
from hapredict.spec import Spec, build_spec

NAME = "bench"
ROWS, FILES, CPUS = 1_572_864, 6, 2
ROUNDS = 3
NUMBERS = tuple(f"n{place}" for place in range(8))
CATEGORIES = tuple(f"c{place}" for place in range(6))
STAGES = ("read", "table", "plan", "engine", "decide", "write")


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory(prefix="hapredict-bench-") as name:
        folder = Path(name)
        # a process of its own: this one stays without the libraries that train
        maker = Path(__file__).with_name("bench_model.py")
        subprocess.run([sys.executable, str(maker), name], check=True, stderr=subprocess.DEVNULL)
        _write(folder / "data")
        store = open_store(str(folder / "store"))
        data = {"sources": ["data"], "target": "y", "id": "order"}
        spec = build_spec({"name": NAME, "data": data})
        _stages(store, spec, folder)
        ray.init(
            num_cpus=CPUS,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            _temp_dir=f"{folder}/ray",
        )
        try:
            _whole(store, spec, folder)
        finally:
            ray.shutdown()


def _stages(store: Store, spec: Spec, folder: Path) -> None:
    entry = Catalog(store, NAME).latest()
    loaded = load_version(store, NAME, entry.state.versions[1])
    parts = parts_of([look_at(str(file)) for file in sorted((folder / "data").iterdir())])
    times = [_part(loaded, spec, part, open_store(str(folder / "out"))) for part in parts]
    found = {stage: statistics.median(part[stage] for part in times[1:]) for stage in STAGES}
    total = sum(found.values())
    print(f"stages of a part of {parts[0].pieces[0].rows:,} rows, one thread")
    for stage, took in found.items():
        print(f"  {stage:8} {took:6.2f} us of CPU time a row   {took / total:4.0%}", end="")
        print(f"   {took / found['engine']:5.2f} x the engine")
    print(f"  in all   {total:6.2f} us of CPU time a row          {total / found['engine']:5.2f} x")


def _part(loaded: Loaded, spec: Spec, part: Part, output: Store) -> dict[str, float]:
    """CPU us a row of each stage."""
    spent = dict.fromkeys(STAGES, 0.0)

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        began_s = time.process_time()
        result = work()
        spent[stage] += time.process_time() - began_s
        return result

    made, kept = Made(), ("order",)
    for piece in part.pieces:
        stretches = read(piece, (*NUMBERS, *CATEGORIES, *kept), spec.data)
        while (rows := timed("read", lambda s=stretches: next(s, None))) is not None:
            table, bad = timed("table", lambda r=rows: table_of_arrow(loaded.schema, r, plain))
            matrices = timed("plan", lambda t=table: [loaded.plan.apply(s) for s in slices(t)])
            found = timed("engine", lambda m=matrices: [loaded.engine.scores(one) for one in m])

            def decided(rows: pa.Table = rows, found: Any = found, piece: Any = piece) -> pa.Table:
                answers = decide(loaded, np.concatenate(found), None, Rule())
                return output_of(loaded, rows, kept, answers, piece)

            answers = timed("decide", decided)
            timed("write", lambda a=answers, b=bad: made.add(a, int(b.sum())))
    timed("write", lambda: output.put(f"part-{part.place}.parquet", made.finished()))
    return {stage: seconds / made.rows * 1e6 for stage, seconds in spent.items()}


def _whole(store: Store, spec: Spec, folder: Path) -> None:
    print(f"\nwhole: {ROWS:,} rows in {FILES} files, a Ray cluster of {CPUS} CPUs")
    for actors in (1, 2):
        found = []
        for each in range(ROUNDS + 1):
            began_s = time.perf_counter()
            asked = Asked("data", f"out-{actors}-{each}", actors=actors)
            moments = []
            done = predict_files(store, spec, asked, folder, moments.append)
            wall_s = time.perf_counter() - began_s
            # the pool is there when each process has answered a part
            first, last = moments[actors], moments[-1]
            steady = (last.rows - first.rows) / (last.seconds - first.seconds)
            pool = done.summary["cpu_s"] / ROWS * 1e6
            found.append((ROWS / wall_s, steady, pool))
        rates = [statistics.median(column) for column in zip(*found[1:], strict=True)]
        print(f"  {actors} processes: {rates[0]:9,.0f} rows/s in all", end="")
        print(f"   {rates[1]:9,.0f} rows/s once all processes are there", end="")
        print(f"   {rates[2]:5.2f} us of CPU time a row in the processes")


def _write(folder: Path) -> None:
    chance = np.random.default_rng(0)
    folder.mkdir()
    for place, rows in enumerate(np.array_split(np.arange(ROWS), FILES)):
        count = len(rows)
        columns: dict[str, Any] = {name: chance.normal(size=count).round(4) for name in NUMBERS}
        columns |= {name: chance.choice(list("abcdefgh"), count) for name in CATEGORIES}
        columns["order"] = [f"o{row}" for row in rows]
        parquet.write_table(pa.table(columns), folder / f"{place}.parquet", row_group_size=131_072)


if __name__ == "__main__":
    main()
