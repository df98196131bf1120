"""Many models in one pool replica, beside one model in a deployment of its own.

    python benchmarks/pool.py [--models 1,100,1000] [--seconds 3] [--memory-mb 4000]

All models are copies of the network of `bench_model.py` under names of their own. Processor time is
that of one process, from the kernel; the load comes from this process, over 16 connections that
stay open, one row a request. Prints one line of JSON a measurement, and a table at the end.
"""

import argparse
import asyncio
import bisect
import itertools
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import serve

from benchmarks.bench_model import NAME, columns_of, fitted, publish, rows_of
from hapredict.control import ray_embedded
from hapredict.control.ray_apply import apply
from hapredict.control.ray_pool_control import controller_status
from hapredict.control.specs import store_url, write_spec
from hapredict.drill.ray_load import Line
from hapredict.errors import Conflict
from hapredict.monitoring.ray_pool_monitor import monitor_of
from hapredict.registry import catalog
from hapredict.registry.catalog import Catalog, CatalogState, Version
from hapredict.registry.store import Store, encode_json, open_store
from hapredict.serving.members import join, member_path
from hapredict.spec import Spec, build_spec

POOL = "bench_pool"
CALLERS = 16
REST_S = 15.0
PROMOTED = 5


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the cluster is to end with this
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", default="1,100,1000")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--settle", type=float, default=30.0)
    parser.add_argument("--memory-mb", type=int, default=4000)
    options = parser.parse_args()
    counts = [int(count) for count in options.models.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        try:
            rows = Bench(home, options).run(counts)
        finally:
            ray_embedded.disconnect()
            ray_embedded.stop(home)
    names = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        print("| " + " | ".join(str(row.get(name, "")) for name in names) + " |")


class Bench:
    """One cluster, the model alone, and the pool as it grows."""

    def __init__(self, home: Path, options: Any) -> None:
        self.home, self.options = home, options
        columns = columns_of()
        self.model = fitted(columns)
        self.bodies = [json.dumps({"instances": [row]}).encode() for row in rows_of(columns)[:500]]
        self.names: list[str] = []

    def run(self, counts: list[int]) -> list[dict[str, Any]]:
        alone = self.spec(NAME)
        store = self.store_of(alone)
        publish(store, self.model, time.time())
        write_spec(store, alone)
        cluster = ray_embedded.start(self.home, num_cpus=8, serve_port=0, grpc_port=0)
        ray_embedded.connect(self.home)
        self.at = cluster.serve_url.removeprefix("http://").split(":")
        apply(alone, self.home, lambda *_: None, wait_s=180)
        detail = serve.get_app_handle(NAME).detail.remote().result(timeout_s=30)
        rows = [self.measured("alone", detail["pid"], [NAME], lambda name: f"/{name}")]
        rows[0] |= self.resting(store, NAME, None, detail["pid"], 5)
        print(json.dumps(rows[0]), flush=True)
        return rows + [self.pooled(store, count) for count in counts]

    def pooled(self, store: Store, count: int) -> dict[str, Any]:
        """The pool with so many models, all of them loaded."""
        began = len(self.names)
        self.names += [f"m{number}" for number in range(began, count)]
        added = self.names[began:]
        for name in added:
            self.copy(store, name)
        if not began:
            apply(self.spec("m0", pool=True), self.home, lambda *_: None, wait_s=180)
        handle = serve.get_app_handle(POOL)
        pid = handle.detail.remote().result(timeout_s=30)["pid"]
        before = _pss(pid)
        cold = asyncio.run(self.first_answers(added))
        after = _pss(pid)
        row = {"what": f"pool of {count}", "loads": len(added)}
        if len(added) > 1:
            row["cold p50 ms"] = f"{1000 * statistics.median(cold):.1f}"
            row["cold p99 ms"] = f"{1000 * sorted(cold)[int(0.99 * len(cold))]:.1f}"
            row["PSS a model MB"] = f"{(after - before) / len(added) / 1e6:.2f}"
            told = handle.detail.remote().result(timeout_s=30)
            row["estimate MB"] = f"{told['memory_bytes'] / told['loaded'] / 1e6:.2f}"
        row |= self.measured(row["what"], pid, self.names, lambda _name: f"/{POOL}")
        print(json.dumps(row), flush=True)
        row |= self.promotions(store)
        row |= self.resting(store, "m0", POOL, pid, min(self.options.settle, 5 + count / 20))
        told = handle.detail.remote().result(timeout_s=30)
        row |= {"loaded": told["loaded"], "poll s": f"{told['catalog_poll_s']:.2f}"}
        print(json.dumps(row), flush=True)
        return row

    def measured(
        self, what: str, pid: int, names: list[str], root: Callable[[str], str]
    ) -> dict[str, Any]:
        """Processor time a request, by who is asked."""
        found: dict[str, Any] = {"what": what}
        chance = random.Random(1)
        weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(len(names))))
        picks: dict[str, Callable[[], str]] = {"same": lambda: names[0]}
        if len(names) > 1:
            picks["uniform"] = lambda: chance.choice(names)
            picks["zipf"] = lambda: names[bisect.bisect(weights, chance.random() * weights[-1])]
        for pick, choose in picks.items():
            figures = [
                asyncio.run(self.load(self.requests(choose, root), self.options.seconds, pid))
                for _ in range(3)
            ]
            rates, spent, p99 = zip(*figures, strict=True)
            found[f"{pick} us"] = f"{statistics.median(spent):.0f}"
            found[f"{pick} req/s"] = f"{statistics.median(rates):.0f}"
            found[f"{pick} p99 ms"] = f"{statistics.median(p99):.1f}"
            print(json.dumps({"what": what, "pick": pick, "figures": figures}), flush=True)
        return found

    def resting(
        self, store: Store, model: str, pool: str | None, pid: int, settle_s: float
    ) -> dict[str, Any]:
        """Processor time of each process while nobody asks, in ms a second."""
        watcher = ray.get(monitor_of(model, pool).ping.remote(), timeout=30)
        leader = controller_status(store, model)["pid"]
        time.sleep(settle_s)
        who = {"replica": pid, "monitor": watcher, "controller": leader}
        before = {name: _cpu_s(number) for name, number in who.items()}
        time.sleep(REST_S)
        return {
            f"{name} idle ms/s": f"{1000 * (_cpu_s(number) - before[name]) / REST_S:.1f}"
            for name, number in who.items()
        } | {f"{name} MB": f"{_pss(number) / 1e6:.0f}" for name, number in who.items()}

    def promotions(self, store: Store) -> dict[str, Any]:
        """From the catalog's entry to the first answer by the new version."""
        took = []
        for name in random.Random(2).sample(self.names, min(PROMOTED, len(self.names))):
            book = Catalog(store, name)
            _append(book, self.second)
            _append(book, lambda state: catalog.shadow(state, max(state.versions), time.time()))
            wanted = _append(book, lambda state: catalog.promote(state, time.time())).champion
            began_s = time.perf_counter()
            asyncio.run(self.until_version(name, wanted))
            took.append(time.perf_counter() - began_s)
        return {"promotion s": f"{statistics.median(took):.2f}", "worst": f"{max(took):.2f}"}

    def second(self, state: CatalogState) -> CatalogState:
        now_s, first = time.time(), state.versions[state.champion]
        number = max(state.versions) + 1
        return catalog.publish(state, Version(number, first.digest, "run", now_s, now_s))

    async def until_version(self, name: str, wanted: int | None) -> None:
        line = await self.line()
        request = self.request(f"/{POOL}", name, self.bodies[0])
        while True:
            status, body = await line.ask(request)
            if status == 200 and json.loads(body)["model_version"] == wanted:
                line.transport.close()
                return
            await asyncio.sleep(0.005)

    async def first_answers(self, names: list[str]) -> list[float]:
        """How long each model's first answer took, one after the other."""
        line, took = await self.line(), []
        for name in names:
            began_s = time.perf_counter()
            status, body = await line.ask(self.request(f"/{POOL}", name, self.bodies[0]))
            took.append(time.perf_counter() - began_s)
            if status != 200:
                raise SystemExit(f"{name} answered {status}: {body[:300]!r}")
        line.transport.close()
        return took

    async def load(
        self, requests: Iterator[bytes], seconds: float, pid: int
    ) -> tuple[float, float, float]:
        """Requests a second, us of the process a request, and the 99th percentile in ms."""
        lines = [await self.line() for _ in range(CALLERS)]
        took: list[float] = []
        until_s = time.perf_counter() + seconds

        async def work(line: Line) -> None:
            while (began_s := time.perf_counter()) < until_s:
                status, body = await line.ask(next(requests))
                if status != 200:
                    raise SystemExit(f"answered {status}: {body[:300]!r}")
                took.append(time.perf_counter() - began_s)

        before, began_s = _cpu_s(pid), time.perf_counter()
        await asyncio.gather(*map(work, lines))
        wall_s = time.perf_counter() - began_s
        spent_s = _cpu_s(pid) - before
        for line in lines:
            line.transport.close()
        p99 = sorted(took)[int(0.99 * len(took))]
        return len(took) / wall_s, 1e6 * spent_s / len(took), 1000 * p99

    def requests(self, choose: Callable[[], str], root: Callable[[str], str]) -> Iterator[bytes]:
        for body in itertools.cycle(self.bodies):
            name = choose()
            yield self.request(root(name), name, body)

    def request(self, root: str, name: str, body: bytes) -> bytes:
        head = f"POST {root}/v1/models/{name}:predict HTTP/1.1\r\nHost: {self.at[0]}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def line(self) -> Line:
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(Line, self.at[0], int(self.at[1]))
        return line

    def spec(self, name: str, *, pool: bool = False) -> Spec:
        raw = self.model.spec.model_dump(mode="json", exclude_unset=True)
        serving: dict[str, Any] = {"min_replicas": 1, "max_replicas": 1}
        if pool:
            serving |= {"pool": POOL, "pool_memory_mb": self.options.memory_mb}
        return build_spec({**raw, "name": name, "serving": serving})

    def store_of(self, spec: Spec) -> Store:
        return open_store(store_url(spec, self.home))

    def copy(self, store: Store, name: str) -> None:
        """The model once more: its files as links, and what `apply` would write."""
        state = Catalog(store, NAME).latest().state
        version = state.versions[state.champion]
        source = self.home / "store" / "bundles" / NAME / version.digest
        target = self.home / "store" / "bundles" / name / version.digest
        target.mkdir(parents=True)
        for file in source.iterdir():
            os.link(file, target / file.name)
        Catalog(store, name).append(
            None,
            catalog.publish(CatalogState(name), version),
            action="Install",
            reason="benchmark",
            at_s=time.time(),
            event_s=time.time(),
            actor=NAME,
        )
        spec = self.spec(name, pool=True)
        write_spec(store, spec)
        if name == "m0":
            join(store, POOL, spec)
        else:  # what `join` does, without reading what all others say
            raw = {**spec.model_dump(mode="json"), "serving": {"pool": POOL}}
            store.put(member_path(POOL, name), encode_json({"spec": raw}))


def _append(book: Catalog, change: Callable[[CatalogState], CatalogState]) -> CatalogState:
    while True:
        entry = book.latest()
        state = change(entry.state)
        try:
            book.append(
                entry,
                state,
                action="benchmark",
                reason="",
                at_s=time.time(),
                event_s=time.time(),
                actor=NAME,
            )
        except Conflict:  # the controller was faster
            state = None
        if state is not None:
            return state


def _cpu_s(pid: int) -> float:
    spent = psutil.Process(pid).cpu_times()
    return spent.user + spent.system


def _pss(pid: int) -> int:
    return int(psutil.Process(pid).memory_full_info().pss)


if __name__ == "__main__":
    main()
