"""What one request costs inside a replica, stage by stage, against the bare model call.

    make bench

One process, one thread, no network. A network of the default shape is fitted on made-up rows of 8
numbers and 6 categories (speed does not depend on what they mean), exported, published to a store
in memory and served by a real `Replica` behind the real ASGI app. Stages take turns, so that a busy
moment of the machine hits all alike; the figure is the median over rounds of CPU time a request,
and its ratio to the engine call alone, which is the floor.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hapredict.control.learning import golden, golden_rows, reference
from hapredict.data.schema import Column, Schema, columns_of, take
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.features.stats import TableStats
from hapredict.registry import bundle
from hapredict.registry.catalog import Catalog, CatalogState, Version, publish
from hapredict.registry.store import open_store
from hapredict.serving.asgi import App
from hapredict.serving.engine import OnnxEngine
from hapredict.serving.replica import Replica
from hapredict.spec import build_spec
from hapredict.training.export import export
from hapredict.training.feed import Resident
from hapredict.training.keras_fit import fit
from hapredict.training.network import Examples, NetworkShape

ROUNDS, CALLS = 15, 200
NUMBERS = tuple(f"n{place}" for place in range(8))
CATEGORIES = tuple(f"c{place}" for place in range(6))


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    rows = 4000
    columns: dict[str, Any] = {name: rng.normal(size=rows) for name in NUMBERS}
    columns |= {name: rng.choice(list("abcdefgh"), rows).astype(object) for name in CATEGORIES}
    labels = (columns["n0"] + rng.normal(size=rows) > 0).astype(np.float64)
    replica, schema, plan, engine = _serve(columns, labels)
    app = App(replica, clock=time.time)
    loop = asyncio.new_event_loop()
    for size in (1, 32, 256):
        batch = [{name: columns[name][row] for name in columns} for row in range(size)]
        body = json.dumps({"instances": batch}).encode()
        table = schema.table(columns_of(batch))
        matrices = plan.apply(table)
        stages: dict[str, Callable[[], Any]] = {
            "engine call alone": lambda m=matrices: engine.scores(m),
            "plan: table to matrices": lambda t=table: plan.apply(t),
            "schema: rows to table": lambda b=batch: schema.table(columns_of(b)),
            "replica: table to answer": lambda t=table: replica.predict(t),
            "event loop: doing nothing": lambda: loop.run_until_complete(asyncio.sleep(0)),
            "app: bytes to bytes": lambda b=body: loop.run_until_complete(_ask(app, b)),
        }
        times = {name: [] for name in stages}
        for _ in range(ROUNDS):
            for name, stage in stages.items():
                began = time.process_time()
                for _ in range(CALLS):
                    stage()
                times[name].append((time.process_time() - began) / CALLS * 1e6)
        floor = statistics.median(times["engine call alone"])
        print(f"\n{size} row(s) a request")
        for name, took in times.items():
            median = statistics.median(took)
            print(f"  {name:28} {median:8.1f} us  {median / floor:5.2f} x the engine call")
    print("\nThe app's figure includes the line above it, which a server pays anyway.")


async def _ask(app: App, body: bytes) -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/models/bench:predict",
        "headers": [(b"content-type", b"application/json")],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise SystemExit(f"the app answered {message['status']}")

    await app(scope, receive, send)


def _serve(columns: dict[str, Any], labels: Any) -> tuple[Replica, Schema, FeaturePlan, OnnxEngine]:
    schema = Schema(
        tuple(Column(name, "number") for name in NUMBERS)
        + tuple(Column(name, "category") for name in CATEGORIES),
        target="y",
        task="binary",
        classes=("0", "1"),
    )
    spec = build_spec({"name": "bench", "data": {"sources": ["none"], "target": "y"}})
    table, _ = schema.frame(columns)
    plan = FeaturePlan.from_stats(TableStats.of(table, schema), schema, spec.features)
    matrices = plan.apply(table)
    examples = Examples(matrices.numbers, matrices.categories, labels.astype(np.float32))
    train, validation, held = (
        examples.take(slice(*part)) for part in ((0, 3200), (3200, 3600), (3600, None))
    )
    held_table = take(table, np.arange(3600, len(labels)))
    shape = NetworkShape.of(plan, schema, train.labels)
    training = spec.training.model_copy(update={"epochs_max": 1})
    feed = Resident(train, training.shuffle_rows)
    fitted = fit(shape, training, feed, validation, on_epoch=lambda _: None)
    exported = export(shape, training, fitted.weights, held, validation)
    engine = OnnxEngine(exported.onnx, numbers=16, categories=6, outputs=1)
    scores = engine.scores(plan.apply(held_table))
    bins = count_bins(plan.bins(table), plan.bin_totals)
    few = golden_rows(schema, held_table)
    store = open_store("memory://bench")
    digest = bundle.publish(
        store,
        "bench",
        spec=spec,
        schema=schema,
        plan=plan,
        reference=reference(schema, bins, len(labels), held.labels, scores, None),
        network_onnx=exported.onnx,
        source=exported.source,
        source_name=exported.source_name,
        golden=golden(few, engine.scores(plan.apply(few))),
        metrics={},
        card={},
    )
    state = publish(CatalogState("bench"), Version(1, digest, "run-1", 0.0, 0.0))
    Catalog(store, "bench").append(
        None, state, action="Install", reason="benchmark", at_s=0.0, event_s=0.0, actor="benchmark"
    )
    spool = Path(tempfile.mkdtemp(prefix="hapredict-bench-"))
    replica = Replica(store, "bench", "bench", spool, time.time, spec=spec)
    replica.refresh()
    return replica, schema, plan, engine


if __name__ == "__main__":
    main()
