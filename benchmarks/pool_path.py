"""What a pool costs in its process: requests by who is asked, loads, memory, rest. No network.

    python benchmarks/pool_path.py [COUNT [FOLDER]]

All models are copies of one small linear model on a store in FOLDER, or a temporary one; in
/dev/shm it does not measure the disk. Requests come four a turn of
the event loop on the fast data plane. Alone stands for the same model without a pool. One count a
process: what a process has held before would be told as the next one's.
"""

import asyncio
import bisect
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from uvicorn.server import ServerState

from benchmarks.hot_path import Wire
from hapredict.registry.store import open_store
from hapredict.serving.asgi import App
from hapredict.serving.fast_http import protocol_for, protocol_of
from hapredict.serving.replica import Replica
from tests.support.bundles import MODEL, rows_as_json, spec_of
from tests.support.pools import POOL, add_model, copy_model, pool_of, running
from tests.support.serving import ask

TURNS, ROUNDS, SIZE = 200, 5, 4
REST_S = 3.0
BODY = json.dumps({"instances": rows_as_json(1)}).encode()


class _Line(Wire):
    """A connection that stays open."""

    def close(self) -> None:
        """Not before the process ends."""


async def main(count: int, folder: Path) -> None:
    """Print one line of a table."""
    store = open_store(str(folder / "store"))
    add_model(store, MODEL)
    spool = folder / "spool"
    replica = Replica(store, MODEL, "alone", spool / "alone", time.time, spec=spec_of())
    replica.refresh()
    alone = App(replica, clock=time.time)
    upkeep = asyncio.create_task(alone.run())
    await asyncio.sleep(0)
    names = [f"m{number}" for number in range(count)]
    for name in names:
        copy_model(store, MODEL, name)
    app = pool_of(store, spool / "pool", poll_s=0.5)
    async with running(app):
        await ask(app, "POST", f"/v1/models/{MODEL}:predict", BODY)  # imports and caches
        told = await _loaded(app, names)
        lone_lines = _connections(protocol_for(alone, f"/{MODEL}"), alone)
        lines = _connections(protocol_of(app, app.paths), app)
        lone = _request(f"/{MODEL}", MODEL)
        requests = [_request(f"/{POOL}", name) for name in names]
        weights = list(itertools.accumulate(1 / (place + 1) for place in range(count)))
        chance = random.Random(1)
        ways: dict[str, tuple[list[Any], Callable[[], bytes]]] = {
            "alone": (lone_lines, lambda: lone),
            "same": (lines, lambda: requests[0]),
            "uniform": (lines, lambda: chance.choice(requests)),
            "zipf": (
                lines,
                lambda: requests[bisect.bisect(weights, chance.random() * weights[-1])],
            ),
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, (those, choose) in ways.items():
                found[way].append(await _driven(those, choose))
        us = {way: statistics.median(each) for way, each in found.items()}
        await asyncio.sleep(REST_S)
        began_s = time.process_time()
        await asyncio.sleep(REST_S)
        rest = 1000 * (time.process_time() - began_s) / REST_S
        shown = " | ".join(f"{us[way]:.0f} ({us[way] / us['alone']:.2f})" for way in ways)
        poll_s = app.detail()["catalog_poll_s"]
        print(f"| {count} | {shown} | {told} | {rest:.0f} | {poll_s:.1f} |")
    await alone.close()
    await upkeep


async def _loaded(app: Any, names: list[str]) -> str:
    process = psutil.Process()
    held, began_s, took_s = process.memory_full_info().uss, time.process_time(), []
    for name in names:
        start_s = time.perf_counter()
        got = await ask(app, "POST", f"/v1/models/{name}:predict", BODY)
        took_s.append(time.perf_counter() - start_s)
        if got.status != 200:
            raise SystemExit(got.body.decode())
    cpu_ms = 1000 * (time.process_time() - began_s) / len(names)
    each_mb = (process.memory_full_info().uss - held) / len(names) / 1e6
    detail = app.detail()
    estimate_mb = detail["memory_bytes"] / detail["loaded"] / 1e6
    p99_ms = 1000 * sorted(took_s)[int(0.99 * len(took_s))]
    p50_ms = 1000 * statistics.median(took_s)
    return f"{p50_ms:.1f}, {p99_ms:.1f} | {cpu_ms:.1f} | {each_mb:.2f} ({estimate_mb:.2f})"


async def _driven(lines: list[Any], choose: Callable[[], bytes]) -> float:
    """Processor time of the process a request, in us."""
    sent = [[choose() for _ in lines] for _ in range(TURNS)]
    began_s = time.process_time()
    for turn in sent:
        for line, data in zip(lines, turn, strict=True):
            line.data_received(data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    return 1e6 * (time.process_time() - began_s) / TURNS / len(lines)


def _connections(kind: Any, app: Any) -> list[Any]:
    config = uvicorn.Config(app, access_log=False, log_config=None)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"x" * 29), (b"server", b"uvicorn")]
    made = [kind(config, state, {}) for _ in range(SIZE)]
    for one in made:
        one.connection_made(_Line())
    return made


def _request(root: str, name: str) -> bytes:
    head = f"POST {root}/v1/models/{name}:predict HTTP/1.1\r\nhost: x\r\n"
    return f"{head}content-length: {len(BODY)}\r\n\r\n".encode() + BODY


if __name__ == "__main__":
    asked = [*sys.argv[1:], "100"][0]
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as made_here:
        asyncio.run(main(int(asked), Path(made_here)))
