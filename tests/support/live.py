"""Live traffic without replicas: parts of the journal for a small bundle.

store = open_store("memory://some-test")
publish_linear(store)
put_part(store, part_of(view, rows=100))
put_labels(store, labels_of(part))
"""

from dataclasses import replace

import numpy as np

from hapredict.data.schema import Schema
from hapredict.features.plan import count_bins
from hapredict.monitoring.view import View
from hapredict.registry.bundle import Bundle, Reference, score_bin
from hapredict.registry.catalog import CatalogState, Version, publish
from hapredict.sections import DAY_S
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
from tests.support.bundles import MODEL, START_S, plan_of, schema_of, spec_of, table_of

SCORE_EDGES = (0.25, 0.5, 0.75)
SCORE_LOSSES = (5 / 48, 11 / 48, 11 / 48, 5 / 48)
"""Means of p (1 - p) between these edges, for uniform scores."""


def bundle_of(
    number: int = 1,
    *,
    loss_mean: float = 1 / 6,
    schema: Schema | None = None,
    importance: dict[str, float] | None = None,
    **monitoring,
) -> Bundle:
    """A bundle without networks; the reference's scores are 400 rows a quarter.

    `loss_mean` is what uniform scores have that are true.
    """
    rules = {"window_rows": 50, "loss_window_labels": 10, **monitoring}
    spec = spec_of(monitoring=rules)
    schema = schema or schema_of()
    table = table_of(1600, seed=7, schema=schema)
    plan = plan_of(schema, table, spec)
    counts = count_bins(plan.bins(table), plan.bin_totals)
    return Bundle(
        digest=f"digest-{number}",
        spec=spec,
        schema=schema,
        plan=plan,
        reference=Reference(
            bins=tuple(counts.tolist()),
            score_edges=SCORE_EDGES,
            score_counts=(400, 400, 400, 400),
            loss_mean=loss_mean,
            loss_rows=20_000,
            loss_scale=1.0,
            rows=1600,
            score_losses=SCORE_LOSSES,
            score_loss_spreads=(0.2, 0.15, 0.15, 0.2),
            importance=importance or {},
        ),
        network_onnx=b"",
        source=b"",
        source_name="network.keras",
        golden=None,
        metrics={},
        card={},
    )


def view_of(number: int = 1, **changes) -> View:
    return View.of(number, bundle_of(number, **changes))


def state_of(*numbers: int, **changes) -> CatalogState:
    """A catalog in which these versions are published and the first is champion."""
    state = CatalogState(MODEL)
    for number in numbers or (1,):
        state = publish(state, Version(number, f"digest-{number}", "run", START_S, START_S))
    return replace(state, **changes)


def part_of(
    bundle: Bundle,
    seq: int = 1,
    *,
    source: str = "replica-a",
    rows: int = 60,
    day: float = 0.0,
    version: int = 1,
    scores: float | np.ndarray | None = None,
    other: int = 0,
    other_scores: float | None = None,
    seed: int | None = None,
    distance: float = 0.0,
) -> PredictionPart:
    """Rows of the reference's own kind, spread over an hour; `distance` is added to that column.

    Scores are uniform unless given.
    """
    seed = 1000 + seq if seed is None else seed
    chance = np.random.default_rng(seed)
    table = dict(table_of(rows, seed=seed, schema=bundle.schema))
    table["distance"] = table["distance"] + distance
    event_s = START_S + day * DAY_S + np.sort(chance.uniform(0, 3600, rows))
    found = chance.uniform(0, 1, rows) if scores is None else np.zeros(rows) + scores
    own = np.full(rows, np.nan) if other_scores is None else np.zeros(rows) + other_scores
    bucket_s = bundle.spec.monitoring.window_days * DAY_S / 24
    buckets = np.floor(event_s / bucket_s).astype(int)
    bins = bundle.plan.bins(table)
    windows = tuple(
        WindowCounts(
            bucket=int(bucket),
            version=version,
            rows=int((buckets == bucket).sum()),
            bins=count_bins(bins[buckets == bucket], bundle.plan.bin_totals),
            scores=np.bincount(
                score_bin(bundle.reference, found[buckets == bucket, None]),
                minlength=len(bundle.reference.score_counts),
            ),
        )
        for bucket in np.unique(buckets)
    )
    return PredictionPart(
        source=source,
        seq=seq,
        model=MODEL,
        ids=tuple(f"{source}-{seq}-{row}" for row in range(rows)),
        at_s=event_s,
        event_s=event_s,
        keys=(None,) * rows,
        versions=np.full(rows, version),
        scores=found[:, None],
        other_versions=np.full(rows, other),
        other_scores=own[:, None],
        table=table,
        windows=windows,
    )


def labels_of(
    part: PredictionPart, share: float = 1.0, *, days: float = 1.0, rate: float | None = None
) -> tuple[Label, ...]:
    """Labels of the first `share` of rows, `days` later.

    A label is "yes" with the chance that the score says, or with `rate`.
    """
    chance = np.random.default_rng(part.seq)
    yes = chance.random(part.rows) < (part.scores[:, 0] if rate is None else rate)
    return tuple(
        Label(part.ids[row], "yes" if yes[row] else "no", float(part.at_s[row]) + days * DAY_S)
        for row in range(int(share * part.rows))
    )


def put_part(store, part: PredictionPart, model: str = MODEL) -> None:
    store.put_new(part_path(predictions_prefix(model), part.source, part.seq), encode(part))


def put_labels(store, labels, seq: int = 1, source: str = "replica-a", model: str = MODEL) -> None:
    store.put_new(part_path(labels_prefix(model), source, seq), encode_labels(labels))
