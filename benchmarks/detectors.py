"""How often detectors alarm without a reason, and how soon with one: ours, rules, and river's.

    python benchmarks/detectors.py [--peers PYTHON] [--seeds 20] [--rows 1000000]

Ours are the product's own classes with the defaults of a spec: the plan's bins, the reference that
a training would keep, windows, detectors. Rows are those of `drift_data.py`, 10,000 an hour. The
rules are what dashboards do with windows of 1,000 and 5,000 rows. River's detectors watch each
value of each numeric feature, or each loss; they run in an environment of their own, whose Python
is PYTHON (`make bench-drift`).
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from drift_data import CATEGORIES, HOUR_S, NUMBERS, SCHEMA, Stream, plan_of, spec_of, tables
from numpy.typing import NDArray
from scipy.stats import ks_2samp, norm, wasserstein_distance

from hapredict.control.learning import reference
from hapredict.data.schema import Table, concat
from hapredict.features.clock import Clock, Clocked
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.monitoring.betting import LossDetector, PairedEvidence, loss_bound
from hapredict.monitoring.champion import Champion, View
from hapredict.registry.bundle import Reference
from hapredict.sections import DAY_S
from hapredict.serving.journal import WindowCounts

REFERENCE_ROWS = 50_000
WEEK_ROWS = 1_680_000
"""The reference of the stream with a cycle: a week of its hours."""
QUIET_ROWS = 20_000
"""Rows before a shift."""
WINDOWS = (1000, 5000)
PEERS = Path(__file__).with_name("drift_peers.py")


def reference_of(stream: Stream, rows: int) -> tuple[FeaturePlan, Reference, Table]:
    """What a training on these rows keeps for the monitor; and 50,000 of them for the rules."""
    first = stream.table(REFERENCE_ROWS)
    plan = plan_of(first, spec_of())
    totals = plan.bin_totals
    clock = Clock.of(0.0, rows / 10_000 * HOUR_S, rows, sum(totals))
    parts: list[Clocked] = []
    bins = np.zeros(sum(totals), np.int64)

    def count(table: Table) -> None:
        found = plan.bins(table)
        bins[:] += count_bins(found, totals)
        parts.append(clock.count(table["at"], found, totals))

    count(first)
    for table in tables(stream, rows - REFERENCE_ROWS):
        count(table)
    scores = np.random.default_rng(0).random((1000, 1))
    told = reference(
        SCHEMA,
        bins,
        rows,
        np.zeros(1000),
        scores,
        None,
        bin_totals=totals,
        clocked=Clocked.sum(parts),
    )
    return plan, told, first


class Watched:
    """The product's champion, fed as the monitor feeds it."""

    def __init__(self, plan: FeaturePlan, told: Reference) -> None:
        self.plan = plan
        labels = tuple(tuple(plan.bin_labels(name)) for name in plan.features)
        rules = spec_of().monitoring
        self.champion = Champion(View(1, SCHEMA, told, rules, plan.features, labels))
        self._scores = np.zeros(len(told.score_counts), np.int64)
        self.rows = 0

    def add(self, table: Table, part: int = 50) -> Iterator[None]:
        """Fold rows, some at a time, as replicas report them."""
        bins = self.plan.bins(table)
        hours = (table["at"] // HOUR_S).astype(np.int64)
        for first in range(0, len(bins), part):
            rows = slice(first, first + part)
            counts = tuple(
                WindowCounts(
                    bucket=hour,
                    version=1,
                    rows=int((hours[rows] == hour).sum()),
                    bins=count_bins(bins[rows][hours[rows] == hour], self.plan.bin_totals),
                    scores=self._scores,
                )
                for hour in np.unique(hours[rows]).tolist()
            )
            self.champion.add_counts(counts, float(table["at"][rows].max()))
            self.rows += len(bins[rows])
            yield

    @property
    def alarms(self) -> set[int]:
        """The features whose alarm stands."""
        return set(self.champion.inputs.changes)


def our_false_alarms(plan: FeaturePlan, told: Reference, stream: Stream, rows: int) -> int:
    """Alarms over rows without drift."""
    watched, raised = Watched(plan, told), 0
    for table in tables(stream, rows):
        before = watched.alarms
        for _ in watched.add(table, part=500):
            now = watched.alarms
            raised += len(now - before)
            before = now
    return raised


def our_delay(plan: FeaturePlan, told: Reference, seed: int, shift: float, rows: int) -> float:
    """Rows from a shift of the first feature until its alarm."""
    watched = Watched(plan, told)
    stream = Stream(seed)
    for _ in watched.add(stream.table(QUIET_ROWS)):
        pass
    stream.shift = shift
    for table in tables(stream, rows):
        for _ in watched.add(table):
            if 0 in watched.alarms:
                return watched.rows - QUIET_ROWS
    return float("inf")


Rule = Callable[[NDArray[Any], NDArray[Any], bool], float]


def shares_of(values: NDArray[Any], edges: NDArray[Any]) -> NDArray[np.float64]:
    """Shares of values between edges, none of them zero."""
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return np.asarray((counts + 0.5) / (len(values) + 0.5 * len(counts)))


def psi(before: NDArray[Any], live: NDArray[Any], text: bool) -> float:
    """The population stability index over ten quantile bins, or over levels."""
    edges = np.unique(before)[1:] if text else np.unique(np.quantile(before, np.arange(1, 10) / 10))
    p, q = shares_of(before, edges), shares_of(live, edges)
    return float(((q - p) * np.log(q / p)).sum())


def by_test(before: NDArray[Any], live: NDArray[Any], text: bool) -> float:
    """1 where a test at 0.05 finds a difference: Kolmogorov-Smirnov, or chi-squared for levels."""
    if not text:
        return float(ks_2samp(before, live, method="asymp").pvalue < 0.05)
    edges = np.unique(before)[1:]
    p, q = shares_of(before, edges), shares_of(live, edges)
    statistic = len(live) * ((q - p) ** 2 / p).sum()
    cube = 2 / (9 * len(edges))  # Wilson and Hilferty's normal approximation
    score = ((statistic / len(edges)) ** (1 / 3) - (1 - cube)) / np.sqrt(cube)
    return float(norm.sf(score) < 0.05)


def by_distance(before: NDArray[Any], live: NDArray[Any], text: bool) -> float:
    """Wasserstein's distance in standard deviations, or Jensen and Shannon's for levels."""
    if not text:
        return float(wasserstein_distance(before, live) / before.std())
    edges = np.unique(before)[1:]
    p, q = shares_of(before, edges), shares_of(live, edges)
    m = (p + q) / 2
    apart = 0.5 * (p * np.log2(p / m)).sum() + 0.5 * (q * np.log2(q / m)).sum()
    return float(np.sqrt(apart))


RULES: dict[str, tuple[Rule, float]] = {
    "PSI > 0.1": (psi, 0.1),
    "KS or chi-squared, p < 0.05": (by_test, 0.5),
    "Wasserstein or JS > 0.1": (by_distance, 0.1),
}


def rule_windows(
    rule: str, before: Table, live: Table, window: int, columns: tuple[str, ...]
) -> list[bool]:
    """Of each window, whether the rule alarms about any of the columns."""
    value, limit = RULES[rule]
    found = []
    for first in range(0, len(live["at"]) - window + 1, window):
        rows = slice(first, first + window)
        found.append(
            any(
                value(before[name][:5000], live[name][rows], name in CATEGORIES) > limit
                for name in columns
            )
        )
    return found


def rule_delay(rule: str, before: Table, live: Table, window: int) -> float:
    """Rows until the rule alarms about the first feature."""
    found = rule_windows(rule, before, live, window, NUMBERS[:1])
    return (found.index(True) + 1) * window if any(found) else float("inf")


def losses_until(rate: float, labels: int, seed: int, quiet: int = 0) -> tuple[int, float]:
    """Alarms of the loss detector over `quiet` labels at 10 % errors, and then labels until one."""
    rules = spec_of().monitoring
    watched = LossDetector(
        loss_bound(0.1, 20_000, rules.loss_tolerance),
        rules.false_alarm_windows,
        rules.loss_window_labels,
        rules.window_days * DAY_S,
    )
    chance = np.random.default_rng(seed)
    step, raised, stood = rules.loss_window_labels, 0, False
    for first in range(0, quiet + labels, step):
        error = 0.1 if first < quiet else rate
        at_s = (first + np.arange(step)) * HOUR_S / 1000
        watched.add(chance.random(step) < error, at_s)
        stands = watched.change is not None
        if first < quiet:
            raised += stands and not stood
        elif stands:
            return raised, first + step - quiet
        stood = stands
    return raised, float("inf")


def promoted(runs: int, looks: int = 40, every: int = 250) -> tuple[float, float]:
    """Shares of equal challengers that are promoted, by our evidence and by a z-test."""
    ours = tested = 0
    level = np.log(20.0)  # control.evidence_min
    for seed in range(runs):
        chance = np.random.default_rng(seed)
        evidence, low_sum = PairedEvidence(), np.zeros(0)
        promoted_by = [False, False]
        for _ in range(looks):
            side = chance.random(every)
            low, high = (side < 0.05).astype(float), ((side >= 0.05) & (side < 0.1)).astype(float)
            evidence.add(low, high)
            low_sum = np.append(low_sum, low - high)
            z = low_sum.mean() / max(low_sum.std() / np.sqrt(len(low_sum)), 1e-9)
            promoted_by[0] |= evidence.log_better > level
            promoted_by[1] |= bool(z > norm.isf(0.05))
        ours += promoted_by[0]
        tested += promoted_by[1]
    return ours / runs, tested / runs


def peers(python: str, data: dict[str, NDArray[Any]], *arguments: str) -> str:
    """What the script of the peers prints about arrays."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "data.npz", **data)
        command = [python, str(PEERS), str(Path(folder) / "data.npz"), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def numbers_of(table: Table) -> NDArray[np.float64]:
    """[numeric features, rows]"""
    return np.stack([table[name] for name in NUMBERS])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--peers", help="the Python that has river")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--peer-rows", type=int, default=100_000)
    chosen = parser.parse_args()

    def say(line: str) -> None:
        sys.stdout.write(line)
        sys.stdout.flush()

    say(f"False alarms in {chosen.rows:,} rows of 20 features\n")
    quiet = reference_of(Stream(100), REFERENCE_ROWS)
    cycle = reference_of(Stream(101, cycle=0.3), WEEK_ROWS)
    later = 7 * DAY_S
    streams: dict[str, Callable[[], Stream]] = {
        "no drift": lambda: Stream(200),
        "daily cycle": lambda: Stream(201, cycle=0.3, start_s=later),
    }
    for (name, make), (plan, told, before) in zip(streams.items(), (quiet, cycle), strict=True):
        ours = our_false_alarms(plan, told, make(), chosen.rows)
        say(f"  {name:<12} ours {ours}\n")
        stream = make()
        few = concat([stream.table(10_000) for _ in range(chosen.peer_rows // 10_000)])
        for rule in RULES:
            for window in WINDOWS:
                found = rule_windows(rule, before, few, window, NUMBERS + CATEGORIES)
                say(f"  {name:<12} {rule}, {window} rows: {sum(found)} of {len(found)} windows\n")
        if chosen.peers:
            say(peers(chosen.peers, {"values": numbers_of(few)}, "alarms", name))

    say("Delay in rows, median (90th percentile), one feature of 20 shifted\n")
    plan, told, before = quiet
    for shift, rows in ((0.1, 60_000), (0.25, 40_000), (0.5, 20_000), (1.0, 10_000)):
        found = [our_delay(plan, told, seed, shift, rows) for seed in range(chosen.seeds)]
        say(f"  +{shift} ours {np.median(found):.0f} ({np.quantile(found, 0.9):.0f})\n")
        live = [Stream(seed, shift=shift).table(rows) for seed in range(chosen.seeds)]
        for rule in RULES:
            for window in WINDOWS:
                found = [rule_delay(rule, before, table, window) for table in live]
                say(f"  +{shift} {rule}, {window} rows: {np.median(found):.0f}\n")
        if chosen.peers:
            moved = np.stack(
                [
                    np.append(Stream(1000 + seed).table(QUIET_ROWS)[NUMBERS[0]], table[NUMBERS[0]])
                    for seed, table in enumerate(live)
                ]
            )
            say(peers(chosen.peers, {"values": moved}, "delay", f"+{shift}", str(QUIET_ROWS)))

    say("Loss, 10 % errors before\n")
    say(f"  false alarms in 1,000,000 labels: ours {losses_until(0.1, 0, 7, 1_000_000)[0]}\n")
    for rate in (0.12, 0.15, 0.2, 0.3):
        found = [losses_until(rate, 60_000, seed, 3000)[1] for seed in range(chosen.seeds)]
        say(f"  10 -> {rate:.0%} ours {np.median(found):.0f} ({np.quantile(found, 0.9):.0f})\n")
        if chosen.peers:
            errors = [
                np.random.default_rng(seed).random(63_000)
                < np.where(np.arange(63_000) < 3000, 0.1, rate)
                for seed in range(chosen.seeds)
            ]
            data = {"values": np.stack(errors).astype(float)}
            say(peers(chosen.peers, data, "loss", f"10 -> {rate:.0%}", "3000"))

    ours, tested = promoted(400)
    say(f"Equal challengers promoted, looks every 250 labels: {ours:.1%}, z-test {tested:.1%}\n")


if __name__ == "__main__":
    main()
