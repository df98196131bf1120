"""What the ways into a model cost: HTTP, HTTP with bytes, gRPC and Python handles.

    python benchmarks/serve_ways.py [--seconds 4] [--rounds 3]

One cluster with one replica, 16 callers in one process beside it, which never pause. Ways take
turns; figures are medians over rounds. Processor time is that of the cluster, all of its processes,
without what it uses at rest; the callers' own is left out, for a caller may be written in anything.
"""

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import grpc  # noqa: E402
from bench_model import columns_of, fitted, publish, rows_of  # noqa: E402
from ray import serve  # noqa: E402
from serve_measure import Tree, spent_us  # noqa: E402

from hapredict.control import ray_embedded  # noqa: E402
from hapredict.control.ray_apply import apply  # noqa: E402
from hapredict.control.specs import store_url, write_spec  # noqa: E402
from hapredict.drill.ray_load import Line  # noqa: E402
from hapredict.registry.store import open_store  # noqa: E402
from hapredict.serving.protocols import WIRE_PROTOCOLS  # noqa: E402
from hapredict.spec import build_spec  # noqa: E402
from tests.support.grpc_calls import request_of, stub  # noqa: E402

CALLERS = 16
SIZES = (1, 32, 256)
REST_S = 4.0

Ask = Callable[[], Awaitable[Any]]


def main() -> None:
    """Measure and print the table."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--seconds", type=float, default=4.0)
    words.add_argument("--rounds", type=int, default=3)
    asked = words.parse_args()
    home = Path(tempfile.mkdtemp(prefix="bench-ways-"))
    try:
        _measure(home, asked.seconds, asked.rounds)
    finally:
        ray_embedded.disconnect()
        ray_embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


def _measure(home: Path, seconds: float, rounds: int) -> None:
    columns = columns_of()
    model = fitted(columns)
    raw = model.spec.model_dump(mode="json")
    raw["serving"].update(min_replicas=1, max_replicas=1)
    spec = build_spec(raw)
    store = open_store(store_url(spec, home))
    publish(store, model, time.time())
    write_spec(store, spec)
    cluster = ray_embedded.start(home, serve_port=0, grpc_port=0)
    ray_embedded.connect(home)
    apply(spec, home, lambda *_: None, wait_s=180)
    tree = Tree(ray_embedded.find(home).pid)
    before = tree.cpu_ns()
    time.sleep(REST_S)
    rest_us_s = spent_us(before, tree.cpu_ns()) / REST_S
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for _ in range(rounds):
        for size in SIZES:
            cut = {name: column[:size].tolist() for name, column in columns.items()}
            for name, caller in _ways(cluster, spec.name, cut, rows_of(columns)[:size]).items():
                figures = asyncio.run(_load(caller, seconds, tree, rest_us_s))
                found.setdefault((name, size), []).append(figures)
    print("| way | rows | requests/s | p50 ms | CPU us a request |\n|---|---|---|---|---|")
    for (name, size), each in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        rate, p50_ms, cpu_us = (statistics.median(column) for column in zip(*each, strict=True))
        print(f"| {name} | {size} | {rate:,.0f} | {p50_ms:.2f} | {cpu_us:,.0f} |")


def _ways(
    cluster: Any, name: str, columns: dict[str, Any], rows: list[dict[str, Any]]
) -> dict[str, Callable[[], Awaitable[Ask]]]:
    """What makes a caller of each way."""
    host, port = cluster.serve_url.removeprefix("http://").split(":")

    def http(protocol_name: str) -> Callable[[], Awaitable[Ask]]:
        protocol = WIRE_PROTOCOLS.find(protocol_name)
        sent = protocol.encode_request(columns)
        heads = [f"POST /{name}{protocol.path.format(model=name)} HTTP/1.1", f"Host: {host}"]
        heads += [f"{key.decode()}: {value.decode()}" for key, value in sent.headers]
        heads += [f"Content-Length: {len(sent.body)}", "", ""]
        request = "\r\n".join(heads).encode() + sent.body

        async def make() -> Ask:
            loop = asyncio.get_running_loop()
            _, line = await loop.create_connection(Line, host, int(port))

            async def ask() -> None:
                status, body = await line.ask(request)
                if status != 200:
                    raise SystemExit(f"answered {status}: {body[:200]!r}")

            return ask

        return make

    async def messages() -> Ask:
        call = stub(grpc.aio.insecure_channel(cluster.grpc_address), "ModelInfer")
        message = request_of(columns, name, raw=True)

        async def ask() -> None:
            await call(message, timeout=30)

        return ask

    async def handle() -> Ask:
        app = serve.get_app_handle(name)

        async def ask() -> None:
            await app.predict.remote(rows)

        return ask

    return {
        "HTTP, rows": http("instances"),
        "HTTP, tensors as bytes": http("v2_binary"),
        "gRPC, tensors as bytes": messages,
        "Python handle": handle,
    }


async def _load(
    make: Callable[[], Awaitable[Ask]], seconds: float, tree: Tree, rest_us_s: float
) -> tuple[float, float, float]:
    """Requests a second, median ms, and processor time a request of the cluster in us."""
    callers = [await make() for _ in range(CALLERS)]
    for ask in callers:
        await ask()
    took_s: list[float] = []
    until_s = time.perf_counter() + seconds

    async def work(ask: Ask) -> None:
        while (began_s := time.perf_counter()) < until_s:
            await ask()
            took_s.append(time.perf_counter() - began_s)

    before, began_s = tree.cpu_ns(), time.perf_counter()
    await asyncio.gather(*map(work, callers))
    wall_s = time.perf_counter() - began_s
    spent = spent_us(before, tree.cpu_ns()) - rest_us_s * wall_s
    count = len(took_s)
    return count / wall_s, 1000 * statistics.median(took_s), spent / count


if __name__ == "__main__":
    main()
