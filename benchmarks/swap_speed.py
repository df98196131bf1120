"""How soon a promotion and a rollback reach all replicas, under load.

    python benchmarks/swap_speed.py [--replicas 4] [--swaps 100]

A cluster of its own with everything at its defaults but the number of replicas, two versions, and
callers that never pause. A change is over when the last answer by the former version has been
read. Each answer has three rows and says by which version each was answered; outside a canary they
must be the same one.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench_model import columns_of, fitted, publish, rows_of  # noqa: E402

from hapredict.control import ray_embedded  # noqa: E402
from hapredict.control.ray_apply import apply  # noqa: E402
from hapredict.control.specs import store_url, write_spec  # noqa: E402
from hapredict.registry import catalog as transitions  # noqa: E402
from hapredict.registry.catalog import Catalog, CatalogState  # noqa: E402
from hapredict.registry.store import open_store  # noqa: E402
from hapredict.spec import build_spec  # noqa: E402
from tests.support.bundles import change  # noqa: E402
from tests.support.load import Load  # noqa: E402

REST_S = 1.5
"""Between two changes; the poll of the catalog is every 0.5 s, so changes meet it at any moment."""


class _Row(msgspec.Struct):
    model_version: int


class _Answer(msgspec.Struct):
    predictions: list[_Row]


class Watch:
    """When each version was last seen to answer."""

    def __init__(self) -> None:
        self.last_s: dict[int, float] = {}
        self.first_s: dict[int, float] = {}
        self.mixed = 0
        self._lock = threading.Lock()
        self._decode = msgspec.json.Decoder(_Answer).decode

    def check(self, body: bytes) -> str:
        """Note one answer."""
        versions = {row.model_version for row in self._decode(body).predictions}
        now_s = time.time()
        with self._lock:
            self.mixed += len(versions) > 1
            for version in versions:
                self.last_s[version] = now_s
                self.first_s.setdefault(version, now_s)
        return ""

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self.last_s.clear()
            self.first_s.clear()


def main() -> None:
    """Measure and print."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--replicas", type=int, default=4)
    words.add_argument("--swaps", type=int, default=100)
    words.add_argument("--callers", type=int, default=8)
    asked = words.parse_args()
    home = Path(tempfile.mkdtemp(prefix="bench-swap-"))
    try:
        _measure(home, asked.replicas, asked.swaps, asked.callers)
    finally:
        ray_embedded.disconnect()
        ray_embedded.stop(home)
        shutil.rmtree(home, ignore_errors=True)


def _measure(home: Path, replicas: int, swaps: int, callers: int) -> None:
    columns = columns_of()
    model = fitted(columns)
    raw = model.spec.model_dump(mode="json")
    raw["serving"].update(min_replicas=replicas, max_replicas=replicas, num_cpus=0.1)
    spec = build_spec(raw)
    store = open_store(store_url(spec, home))
    publish(store, model, time.time())
    write_spec(store, spec)
    ray_embedded.start(home, serve_port=0)
    ray_embedded.connect(home)
    applied = apply(spec, home, lambda *_: None, wait_s=180)

    def move(transition: Callable[..., CatalogState], *values: Any) -> float:
        change(store, transition, *values, model=spec.name)
        return time.time()

    move(transitions.pause, "measured")
    # the same bundle under another number: what is measured is the change, not the model
    first = Catalog(store, spec.name).entries()[0].state.versions[1]
    move(transitions.publish, replace(first, number=2))
    watch = Watch()
    body = {"instances": rows_of(columns)[:3]}
    url = f"{applied.url}/v1/models/{spec.name}:predict"
    took: dict[str, list[float]] = {"promote": [], "roll back": []}
    with Load(url, body, callers=callers, pause_s=0.0, check=watch.check) as load:
        time.sleep(3)
        for number in range(swaps):
            name = list(took)[number % 2]
            if name == "promote":
                move(transitions.shadow, 2, time.time())
                time.sleep(REST_S)
                former, transition = 1, transitions.promote
            else:
                former, transition = 2, transitions.roll_back
            watch.forget()
            at_s = move(transition, time.time())
            time.sleep(REST_S + 0.137 * (number % 4))
            took[name].append(max(0.0, watch.last_s.get(former, at_s) - at_s))
    print(f"{replicas} replicas, {callers} callers, {load.answered:,} requests of 3 rows")
    for name, seconds in took.items():
        listed = sorted(seconds)
        places = {"median": 0.5, "p99": 0.99, "longest": 1.0}
        told = ", ".join(
            f"{word} {listed[min(len(listed) - 1, int(share * len(listed)))]:.2f} s"
            for word, share in places.items()
        )
        print(f"{name:10} {len(listed)} times: last answer by the former version after {told}")
    print(f"failed {len(load.faults)}, answers of two versions {watch.mixed}")
    for fault in load.faults[:5]:
        print(" ", fault)


if __name__ == "__main__":
    main()
