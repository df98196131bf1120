"""From an exported model to a bundle in the store and a verdict: the same live and in a replay."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.control.gates import Beside, Judged, judge, label_metrics, slices_of
from hapredict.control.hold_out import with_hold_out
from hapredict.control.learning import golden, golden_rows, measure, reference
from hapredict.data.schema import Table
from hapredict.registry import bundle
from hapredict.registry.store import Store
from hapredict.serving.engine import Loaded, OnnxEngine
from hapredict.spec import Spec
from hapredict.training.export import Exported
from hapredict.training.metrics import Verdict
from hapredict.training.prepared import Prepared

_TOLD = ("parity", "bytes", "latency_us")

Score = Callable[[Table], Any]
"""Scores [rows, outputs] of a table."""


@dataclass(frozen=True, slots=True)
class Aside:
    """What else the gates may look at. By default nothing: a replay has no clock and no files."""

    label_delay_days: float | None = None
    """Days within which 95 of 100 labels came."""
    champion_metrics: Mapping[str, float] | None = None
    """Those of the champion's version."""
    timed_ms: Callable[[Score, Score, Table], tuple[float, float]] | None = None
    """Milliseconds that challenger and champion take for the same rows."""
    golden_set: Callable[[Score, Score], Judged | None] | None = None
    """The rows of `control.golden` as challenger and champion score them."""


@dataclass(frozen=True, slots=True, eq=False)
class Published:
    """A published bundle and what was found about its model."""

    digest: str
    verdict: Verdict
    metrics: Mapping[str, float]
    """Of the hold-out, and of the labels that were learned from."""
    scores: NDArray[np.float32]
    """[held rows, outputs]: what the artefact says of the hold-out, `champion_scores` likewise."""
    champion_scores: NDArray[np.float32] | None


def judge_and_publish(
    store: Store,
    model: str,
    spec: Spec,
    prepared: Prepared,
    exported: Exported,
    champion: Loaded | None,
    card: Callable[[Verdict], Mapping[str, Any]],
    aside: Aside | None = None,
) -> Published:
    """Score the hold-out by the artefact, judge it against the champion, and publish the bundle.

    It is published whatever the verdict: the verdict says whether it may be used. `card` says
    where the version comes from. Raises GateRefused for an artefact that cannot be loaded, what
    `aside` raises, and StoreUnavailable.
    """
    aside = aside or Aside()
    schema, plan = prepared.schema, prepared.plan
    held, table = prepared.held, prepared.held_table
    engine = OnnxEngine(
        exported.onnx,
        numbers=2 * len(schema.numbers),
        categories=len(schema.categories),
        outputs=schema.outputs,
    )

    def mine(rows: Table) -> Any:
        return engine.scores(plan.apply(rows))

    scores, extras = engine.answer(plan.apply(table))
    held_s = None if schema.time is None else table[schema.time]
    live = reference(
        schema,
        prepared.bins,
        prepared.counts.used,
        held.labels,
        scores,
        champion.reference if champion else None,
        bin_totals=plan.bin_totals,
        clocked=prepared.clocked,
        held_s=held_s,
    )
    live = with_hold_out(
        live,
        schema,
        spec.monitoring,
        plan,
        table,
        held.labels,
        scores,
        mine,
        spec.training.seed,
    )
    learned = {
        "training_rows": float(prepared.train.rows or len(prepared.labels)),
        **label_metrics(schema, prepared.labels),
    }
    few = golden_rows(schema, table)
    champion_scores = took_ms = champion_ms = trusted = None
    if champion is not None:
        champion_scores = champion.scores(table)
        if aside.timed_ms is not None:
            took_ms, champion_ms = aside.timed_ms(mine, champion.scores, few)
        if aside.golden_set is not None:
            trusted = aside.golden_set(mine, champion.scores)
    verdict = judge(
        schema,
        spec.control,
        prepared.labels,
        Judged(
            held.labels, scores, champion_scores, held_s, slices_of(spec.monitoring, plan, table)
        ),
        live.loss_scale,
        Beside(learned, aside.champion_metrics or {}, aside.label_delay_days, took_ms, champion_ms),
        trusted,
    )
    metrics = {
        **measure(schema, spec.serving, held.labels, scores, extras, engine.extras),
        "holdout_rows": held.rows,
        **learned,
        **{name: exported.report[name] for name in _TOLD if name in exported.report},
    }
    digest = bundle.publish(
        store,
        model,
        spec=spec,
        schema=schema,
        plan=plan,
        reference=live,
        network_onnx=exported.onnx,
        source=exported.source,
        source_name=exported.source_name,
        golden=golden(few, mine(few)),
        metrics=metrics,
        card=card(verdict),
    )
    return Published(digest, verdict, metrics, scores, champion_scores)
