"""What a prediction costs in a replica, stage by stage, on the fast data plane.

    python benchmarks/hot_path.py

One process and no network: connections of the fast plane are fed bytes, as many requests of one row
a turn of the event loop as the columns say. Each stage is also run by itself, on the same requests;
what they leave of the whole lies between them: bookkeeping, the event loop, and caches that the
stage before has filled with its own. Stages take turns, so that a busy moment of the machine hits
all alike; figures are medians over rounds of processor time a request.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from bench_model import columns_of, fitted, publish, rows_of
from uvicorn.server import ServerState

from hapredict.registry.catalog import Catalog, shadow
from hapredict.registry.catalog import publish as listed
from hapredict.registry.store import Store, open_store
from hapredict.serving import fast_http
from hapredict.serving.access import AccessLog
from hapredict.serving.answers import Part, Request, Shared
from hapredict.serving.asgi import App
from hapredict.serving.engine import load_version
from hapredict.serving.exchange import version_header
from hapredict.serving.protocols import V1Rows
from hapredict.serving.reader import Reader
from hapredict.serving.replica import Replica
from hapredict.serving.replies import Reply

ROUNDS, TURNS = 9, 300
SWITCHES, TURNS_A_SWITCH = 200, 20
SIZES = (1, 4, 16)
VERSIONS = 100
HEADS = (
    "host: 127.0.0.1:8000",
    "content-type: application/json",
    "x-forwarded-for: 127.0.0.1",
)
"""What a client and HAProxy send beside the length."""


class Wire:
    """A transport that lets go of what is written to it."""

    def write(self, data: bytes) -> None:
        """Nothing is kept."""

    def is_closing(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """It stays open."""

    def get_extra_info(self, _name: str) -> None:
        """Nothing is known."""


class Nobody:
    """An app that takes requests and does nothing with them."""

    def __init__(self, app: App) -> None:
        self.body_bytes_max = app.body_bytes_max
        self.direct_paths = app.direct_paths
        self.loop = asyncio.get_running_loop()

    def direct(self, *_: Any) -> None:
        """Nothing."""

    def drain(self) -> None:
        """Nothing."""


def connections(app: Any, count: int) -> list[Any]:
    """Connections of an app that nobody is at the other end of."""
    config = uvicorn.Config(app, access_log=False, log_config=None)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"x" * 29), (b"server", b"uvicorn")]
    kind = fast_http.protocol_for(app, "/bench")
    made = [kind(config, state, {}) for _ in range(count)]
    for one in made:
        one.connection_made(Wire())
    return made


def arrive(those: list[Any], sent: list[bytes]) -> Callable[[], None]:
    """Feeds each connection its request."""

    def feed() -> None:
        for line, data in zip(those, sent, strict=True):
            line._unanswered = 0  # noqa: SLF001
            line.data_received(data)

    return feed


def _requests(bodies: list[bytes], size: int) -> list[bytes]:
    head = "\r\n".join(("POST /bench/v1/models/bench:predict HTTP/1.1", *HEADS)).encode()
    return [head + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body for body in bodies[:size]]


async def _whole(feed: Callable[[], None], replica: Replica, size: int) -> float:
    """All of a request, in us of processor time, with its record."""
    began = time.process_time()
    for _ in range(TURNS):
        feed()
        await asyncio.sleep(0)
    replica.tick()
    return (time.process_time() - began) / TURNS / size * 1e6


async def main() -> None:
    """Print the table."""
    columns = columns_of()
    model = fitted(columns)
    store = open_store("memory://bench")
    publish(store, model, 0.0)
    spool = Path(tempfile.mkdtemp(prefix="hapredict-bench-"))
    replica = Replica(store, "bench", "bench", spool, time.time, spec=model.spec)
    replica.refresh()
    app = App(replica, clock=time.time, tick_s=3600)  # what it does every 50 ms is done here
    upkeep = asyncio.create_task(app.run())
    await asyncio.sleep(0)
    rows = rows_of(columns)
    bodies = [json.dumps({"instances": [row]}, separators=(",", ":")).encode() for row in rows[:64]]
    found = {size: await _measure(app, replica, bodies, size) for size in SIZES}
    print("| us a request | " + " | ".join(f"{size} a turn" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for name in found[SIZES[0]]:
        print(f"| {name} | " + " | ".join(f"{found[size][name]:.1f}" for size in SIZES) + " |")
    alone = replica._routes  # noqa: SLF001
    catalog = Catalog(store, "bench")
    latest = catalog.latest()
    if latest is None:
        raise SystemExit("nothing was published")
    second = replace(latest.state.versions[1], number=2)  # the same network: it costs as much
    state = shadow(listed(latest.state, second), 2, 1.0)
    catalog.append(
        latest, state, action="shadow", reason="", at_s=1.0, event_s=1.0, actor="a benchmark"
    )
    replica.refresh()
    await _switched(app, replica, bodies, alone, replica._routes)  # noqa: SLF001
    await app.close()
    await upkeep
    _loads(store)


async def _switched(
    app: App, replica: Replica, bodies: list[bytes], alone: Any, shadowed: Any
) -> None:
    """Print what the access log, counts for Prometheus and a version in shadow add to a request.

    Time of the thread that answers, which here also writes the log and the record.
    """
    folder = Path(tempfile.mkdtemp(prefix="hapredict-bench-"))
    logs = {
        name: AccessLog("bench", folder / name, errors_only=name == "errors", bytes_max=64 << 20)
        for name in ("errors", "all")
    }
    ways = ("no access log", *logs, "no access log, no counts", "a version in shadow")
    metrics = app._metrics  # noqa: SLF001
    found: dict[str, list[float]] = {name: [] for name in ways}
    for size in SIZES:
        lines = connections(app, size)
        sent = _requests(bodies, size)
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(SWITCHES):
            for name in ways:
                access = app._access = logs.get(name)  # noqa: SLF001
                replica._routes = shadowed if name.endswith("shadow") else alone  # noqa: SLF001
                for method in ("request", "rows"):
                    vars(metrics).pop(method, None)
                    if name.endswith("no counts"):
                        setattr(metrics, method, lambda *_: None)
                feed, began = arrive(lines, sent), time.thread_time()
                for _ in range(TURNS_A_SWITCH):
                    feed()
                    await asyncio.sleep(0)
                if access is not None:
                    access.write()
                replica.tick()
                times[name].append(time.thread_time() - began)
        for name, took in times.items():
            pairs = zip(took, times["no access log"], strict=True)
            found[name].append(statistics.median(one / other for one, other in pairs))
    print("| x all of a request | " + " | ".join(f"{size} a turn" for size in SIZES) + " |")
    print("|---|" + "---|" * len(SIZES))
    for name, ratios in found.items():
        print(f"| {name} | " + " | ".join(f"{ratio:.3f}" for ratio in ratios) + " |")


def _loads(store: Store) -> None:
    """Print what a loaded version takes, warmed and compared with its golden scores."""
    latest = Catalog(store, "bench").latest()
    if latest is None:
        raise SystemExit("nothing was published")
    version, process = latest.state.versions[1], psutil.Process()
    held = [load_version(store, "bench", version)]
    before, began = process.memory_full_info().uss, time.process_time()
    held += [load_version(store, "bench", version) for _ in range(VERSIONS)]
    took_ms = 1000 * (time.process_time() - began) / VERSIONS
    each_mb = (process.memory_full_info().uss - before) / VERSIONS / 1e6
    print(f"a loaded version: {each_mb:.1f} MB, {took_ms:.1f} ms of processor time to load")


async def _measure(app: App, replica: Replica, bodies: list[bytes], size: int) -> dict[str, float]:
    sent = _requests(bodies, size)
    lines = connections(app, size)
    deaf = connections(Nobody(app), size)
    reader = Reader(replica.schema, time_required=False)
    read = [reader.lines(body, 1000) for body in bodies[:size]]
    table = reader.table([line for one in read for line in one or ()])
    loaded = replica._routes.champion  # noqa: SLF001 - the stages lie within
    matrices = loaded.plan.apply(table)
    answer = replica.predict(table)

    def parts() -> list[Part]:
        shared = Shared(answer, size)
        return [Part(shared, place, place + 1) for place in range(size)]

    def encode() -> None:
        for part in parts():
            V1Rows.encode_response(part, Request({}, 1))
            version_header(part)

    reply = Reply(200, b"x" * 220, headers=version_header(parts()[0]))

    def write() -> None:
        for line in lines:
            line._unanswered += 1  # noqa: SLF001
            line._write(reply, b"bench-1")  # noqa: SLF001

    stages: dict[str, Callable[[], Any]] = {
        "HTTP: bytes to headers and body": arrive(deaf, sent),
        "reader: body to lines": lambda: [reader.lines(body, 1000) for body in bodies[:size]],
        "reader: lines to table": lambda: reader.table([x for one in read for x in one or ()]),
        "plan: table to matrices": lambda: loaded.plan.apply(table),
        "engine: matrices to scores": lambda: loaded.engine.answer(matrices),
        "replica: routes, ids, versions": lambda: replica.predict(table),
        "protocol: answer to body": encode,
        "HTTP: reply to bytes": write,
        "recorder: for the journal and drift": lambda: replica.after(answer),
    }
    whole: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(ROUNDS):
        for name, stage in stages.items():
            began = time.process_time()
            for _ in range(TURNS):
                stage()
            if name.startswith("recorder"):
                replica.tick()
            times[name].append((time.process_time() - began) / TURNS / size * 1e6)
        whole.append(await _whole(arrive(lines, sent), replica, size))
    took = {name: statistics.median(each) for name, each in times.items()}
    inside = took["plan: table to matrices"] + took["engine: matrices to scores"]
    took["replica: routes, ids, versions"] -= inside
    total = statistics.median(whole)
    return {
        **took,
        "between them: admission, batching, metrics": total - sum(took.values()),
        "**all**": total,
    }


if __name__ == "__main__":
    asyncio.run(main())
