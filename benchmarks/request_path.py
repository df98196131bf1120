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

from bench_model import Fitted, columns_of, fitted, publish, rows_of

from hapredict.data import schema as schemas
from hapredict.registry.store import open_store
from hapredict.serving.asgi import App
from hapredict.serving.replica import Replica

ROUNDS, CALLS = 15, 200


def main() -> None:
    """Print the table."""
    columns = columns_of()
    model = fitted(columns)
    replica, schema, plan, engine = _serve(model), model.schema, model.plan, model.engine
    rows = rows_of(columns)
    app = App(replica, clock=time.time)
    loop = asyncio.new_event_loop()
    for size in (1, 32, 256):
        batch = rows[:size]
        body = json.dumps({"instances": batch}).encode()
        table = schema.table(schemas.columns_of(batch))
        matrices = plan.apply(table)
        stages: dict[str, Callable[[], Any]] = {
            "engine call alone": lambda m=matrices: engine.scores(m),
            "plan: table to matrices": lambda t=table: plan.apply(t),
            "schema: rows to table": lambda b=batch: schema.table(schemas.columns_of(b)),
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


def _serve(model: Fitted) -> Replica:
    store = open_store("memory://bench")
    publish(store, model, 0.0)
    spool = Path(tempfile.mkdtemp(prefix="hapredict-bench-"))
    replica = Replica(store, "bench", "bench", spool, time.time, spec=model.spec)
    replica.refresh()
    return replica


if __name__ == "__main__":
    main()
