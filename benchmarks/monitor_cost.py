"""What watching a model costs, in processor time of the monitor and of a replica.

    python benchmarks/monitor_cost.py

A model of 20 features with two replicas that report every 2 s, or 10, and twenty that ended long
before. Ten seconds of it: looks at the store, parts with 500 rows (a window) and with 250 labels,
the report after each, and the share of a snapshot. Counting is what a replica adds to the path of a
request. Medians of rounds of processor time.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from drift_data import NAME, SCHEMA, Stream, plan_of, spec_of

from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.monitoring import ray_monitor
from hapredict.monitoring.follow import Follower, snapshot_path
from hapredict.registry import bundle, catalog
from hapredict.registry.bundle import Golden, Reference, score_bin
from hapredict.registry.store import Store, open_store
from hapredict.serving.journal import (
    Label,
    PredictionPart,
    WindowCounts,
    encode,
    encode_labels,
    labels_prefix,
    part_path,
    predictions_prefix,
)

ROUNDS = 12
SECONDS = 10
REPLICAS, ENDED = 2, 20
REPORTS = (5, 1)
"""Of a replica in ten seconds: with `report_s` 2, and 10."""
ROWS, LABELS = 250, 125
"""A replica, in ten seconds."""


def publish(store: Store, rows: int = 50_000) -> tuple[FeaturePlan, Reference]:
    """A model whose network nobody runs."""
    spec = spec_of()
    table = Stream(0).table(rows)
    plan = plan_of(table, spec)
    bins = count_bins(plan.bins(table), plan.bin_totals)
    edges = tuple(np.linspace(0, 1, 21)[1:-1].tolist())
    reference = Reference(tuple(bins), edges, (rows // 20,) * 20, 0.25, rows, 1.0, rows)
    digest = bundle.publish(
        store,
        NAME,
        spec=spec,
        schema=SCHEMA,
        plan=plan,
        reference=reference,
        network_onnx=b"none",
        source=b"none",
        source_name="network.keras",
        golden=Golden({}, []),
        metrics={},
        card={},
    )
    version = catalog.Version(1, digest, "run", 0.0, 0.0)
    state = catalog.publish(catalog.CatalogState(NAME), version)
    catalog.Catalog(store, NAME).append(
        None, state, action="publish", reason="", at_s=0.0, event_s=0.0, actor="benchmark"
    )
    return plan, reference


class Traffic:
    """Parts of the journal, as replicas write them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.plan, self.reference = publish(store)
        self._stream = Stream(1)
        self._rng = np.random.default_rng(2)
        self._ids: list[str] = []
        self._seq: dict[str, int] = {}
        self.now_s = 0.0

    def rows(self, source: str, rows: int) -> None:
        """A part of predictions."""
        table = self._stream.table(rows)
        scores = self._rng.random((rows, 1))
        places = score_bin(self.reference, scores)
        seq = self._next(f"p{source}")
        at_s = np.full(rows, self.now_s)
        part = PredictionPart(
            source=source,
            seq=seq,
            ids=tuple(f"{source}-{seq}-{row}" for row in range(rows)),
            at_s=at_s,
            event_s=at_s,
            keys=(None,) * rows,
            versions=np.ones(rows, np.int64),
            scores=scores,
            other_versions=np.zeros(rows, np.int64),
            other_scores=np.full((rows, 1), np.nan),
            table=table,
            windows=(
                WindowCounts(
                    bucket=int(self.now_s // 3600),
                    version=1,
                    rows=rows,
                    bins=count_bins(self.plan.bins(table), self.plan.bin_totals),
                    scores=np.bincount(places, minlength=20),
                ),
            ),
            model=NAME,
        )
        self._ids += part.ids
        self.store.put_new(part_path(predictions_prefix(NAME), source, seq), encode(part, SCHEMA))

    def labels(self, source: str, rows: int) -> None:
        """A part of labels, of rows that were answered."""
        ids, self._ids = self._ids[:rows], self._ids[rows:]
        labels = [Label(i, int(self._rng.random() < 0.5), self.now_s) for i in ids]
        path = part_path(labels_prefix(NAME), source, self._next(f"l{source}"))
        self.store.put_new(path, encode_labels(labels))

    def report(self, reports: int) -> None:
        """Every replica reports once of so many times in ten seconds."""
        self.now_s += SECONDS / reports
        for replica in range(REPLICAS):
            self.rows(f"replica{replica}", ROWS // reports)
            self.labels(f"replica{replica}", LABELS // reports)

    def _next(self, name: str) -> int:
        self._seq[name] = self._seq.get(name, 0) + 1
        return self._seq[name]


def spent_ms(work: Callable[[], Any]) -> float:
    """Milliseconds of processor time."""
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


def measure(url: str, looks: int, reports: int) -> dict[str, float]:
    """Milliseconds a model in ten seconds, by what they go to."""
    store = open_store(url)
    traffic = Traffic(store)
    for ended in range(ENDED):
        traffic.rows(f"ended{ended}", 50)
        traffic.labels(f"ended{ended}", 25)
    follower = Follower(store, NAME)
    for _ in range(600):  # so long ago that they ended
        follower.step(everywhere=False)
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        spent = dict.fromkeys(("looking", "reading and folding", "report", "snapshot"), 0.0)
        for _ in range(reports):
            traffic.report(reports)
            spent["reading and folding"] += spent_ms(lambda: follower.step(everywhere=False))
            spent["report"] += spent_ms(follower.monitor.report)
            for _ in range(looks // reports - 1):
                spent["looking"] += spent_ms(lambda: follower.step(everywhere=False))
        every_s = ray_monitor.SNAPSHOT_S
        spent["snapshot"] = spent_ms(follower.save) * SECONDS / every_s
        for name, value in spent.items():
            found.setdefault(name, []).append(value)
    medians = {name: statistics.median(values) for name, values in found.items()}
    medians["all"] = statistics.median(map(sum, zip(*found.values(), strict=True)))
    medians["snapshot bytes"] = len(store.get(snapshot_path(NAME)))
    return medians


def counting_us(rows: int, rounds: int = 200) -> float:
    """Microseconds a row of counting rows for the monitor, so many in a tick of the recorder."""
    spec = spec_of()
    plan = plan_of(Stream(0).table(50_000), spec)
    edges = tuple(np.linspace(0, 1, 21)[1:-1].tolist())
    reference = Reference((0,), edges, (1,) * 20, 0.25, 1, 1.0, 1)
    table, scores = Stream(1).table(rows), np.random.default_rng(0).random((rows, 1))

    def count() -> None:
        """As `serving.scoring` counts, and as the journal packs it."""
        bins = count_bins(plan.bins(table), plan.bin_totals)
        places = np.bincount(score_bin(reference, scores), minlength=20)
        WindowCounts(bucket=0, version=1, rows=rows, bins=bins, scores=places).to_json()

    count()
    return statistics.median(1000 * spent_ms(count) for _ in range(rounds)) / rows


def main() -> None:
    """Print the table."""
    for rows in (1, 10, 50, 500):
        print(f"counting in the replica, {rows} rows a tick: {counting_us(rows):.2f} us a row")
    looks = round(SECONDS / ray_monitor.POLL_S)
    with tempfile.TemporaryDirectory() as folder:
        for reports in REPORTS:
            for url in (f"memory://monitor-cost-{reports}", f"{folder}/{reports}"):
                found = measure(url, looks, reports)
                kind = "memory" if "://" in url else "file"
                print(f"{kind}: {looks} looks and {reports} reports a replica in 10 s")
                for name, value in found.items():
                    print(f"  {name:<24}{value:10.2f}{'' if 'bytes' in name else ' ms'}")


if __name__ == "__main__":
    main()
