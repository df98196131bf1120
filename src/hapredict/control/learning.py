"""From a fitted network to a model that may be published: gates, reference and golden rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.data.schema import Schema, Table, rows_of
from hapredict.registry import bundle
from hapredict.registry.bundle import Golden, Reference, score_bin
from hapredict.registry.store import Store
from hapredict.sections_live import ServingSpec
from hapredict.serving.decisions import cost_metrics
from hapredict.serving.engine import Loaded, OnnxEngine
from hapredict.spec import Spec
from hapredict.training.export import Exported
from hapredict.training.extras import quantiles_among
from hapredict.training.metrics import (
    Verdict,
    constant_scores,
    evaluate,
    loss_scale,
    losses,
    no_harm,
    sanity,
)
from hapredict.training.prepared import Prepared

ROWS_MIN = 50
"""Hold-out rows without which no gate speaks."""
SCORE_BINS = 20
GOLDEN_ROWS = 16
_TOLD = ("holdout_rows", "parity", "bytes", "latency_us")


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A published bundle and what was found about its model."""

    digest: str
    verdict: Verdict
    metrics: Mapping[str, float]
    """Of the hold-out."""
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
) -> Judged:
    """Score the hold-out by the artefact, judge it against the champion, and publish the bundle.

    It is published whatever the verdict: the verdict says whether it may be used. `card` says
    where the version comes from. Raises GateRefused for an artefact that cannot be loaded, and
    StoreUnavailable.
    """
    schema, plan, held = prepared.schema, prepared.plan, prepared.held
    engine = OnnxEngine(
        exported.onnx,
        numbers=2 * len(schema.numbers),
        categories=len(schema.categories),
        outputs=schema.outputs,
    )
    scores, extras = engine.answer(plan.apply(prepared.held_table))
    before = champion.reference if champion else None
    live = reference(schema, prepared.bins, prepared.counts.used, held.labels, scores, before)
    champion_scores = champion.scores(prepared.held_table) if champion else None
    verdict = judge(schema, prepared.labels, held.labels, scores, champion_scores, live.loss_scale)
    told = {"holdout_rows": held.rows, **exported.report}
    metrics = measure(schema, spec.serving, held.labels, scores, extras, engine.extras)
    metrics |= {name: told[name] for name in _TOLD if name in told}
    few = golden_rows(schema, prepared.held_table)
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
        golden=golden(few, engine.scores(plan.apply(few))),
        metrics=metrics,
        card=card(verdict),
    )
    return Judged(digest, verdict, metrics, scores, champion_scores)


def judge(
    schema: Schema,
    training_labels: NDArray[Any],
    labels: NDArray[Any],
    scores: NDArray[Any],
    champion_scores: NDArray[Any] | None,
    scale: float,
) -> Verdict:
    """The offline gates on the hold-out: better than a constant, and no worse than the champion.

    labels [rows], scores [rows, outputs]; `champion_scores` is None while there is no champion.
    """
    constant = constant_scores(schema.task, training_labels, len(labels), schema.outputs)
    sane = sanity(schema.task, labels, scores, constant, rows_min=ROWS_MIN)
    if champion_scores is None:
        return sane
    # worse than no model is no model to serve, even where the champion is worse still
    if sane.failed:
        return sane
    return no_harm(schema.task, labels, champion_scores, scores, scale, rows_min=ROWS_MIN)


def measure(
    schema: Schema,
    serving: ServingSpec,
    labels: NDArray[Any],
    scores: NDArray[Any],
    extras: NDArray[Any] | None,
    extra_names: Sequence[str],
) -> dict[str, float]:
    """The metrics of the hold-out: of scores, of quantiles among the extras, and of decisions.

    labels [rows], scores [rows, outputs], extras [rows, m] or None.
    """
    quantiles = {}
    if extras is not None:
        columns = quantiles_among(extra_names).items()
        quantiles = {float(level): extras[:, place] for level, place in columns}
    return {
        **evaluate(schema.task, labels, scores, quantiles),
        **cost_metrics(serving, schema, labels, scores),
    }


def reference(
    schema: Schema,
    bins: NDArray[np.int64],
    rows: int,
    labels: NDArray[Any],
    scores: NDArray[Any],
    before: Reference | None,
) -> Reference:
    """What the monitor compares live traffic with.

    `bins` count all `rows` learned from; labels [held] and scores [held, outputs] are of rows that
    training did not see. The loss baseline only falls from version to version: one that rose with
    each bad week would make the monitor deaf.
    """
    scale = before.loss_scale if before is not None else loss_scale(schema.task, labels)
    mean = float(losses(schema.task, labels, scores, scale).mean())
    single = scores[:, 0] if scores.shape[1] == 1 else scores.max(axis=1)
    shares = np.linspace(0, 1, SCORE_BINS + 1)[1:-1]
    edges = tuple(map(float, np.unique(np.quantile(single.astype(np.float64), shares))))
    blank = Reference(
        bins=tuple(map(int, bins)),
        score_edges=edges,
        score_counts=(0,) * (len(edges) + 1),
        loss_mean=mean if before is None else min(mean, before.loss_mean),
        loss_rows=len(labels),
        loss_scale=scale,
        rows=rows,
    )
    counts = np.bincount(score_bin(blank, scores), minlength=len(edges) + 1)
    return Reference.from_json({**blank.to_json(), "score_counts": list(map(int, counts))})


def golden_rows(schema: Schema, table: Table) -> Table:
    """A few rows spread over `table`, that every replica must score as training did."""
    rows = rows_of(table)
    picked = np.unique(np.linspace(0, rows - 1, min(GOLDEN_ROWS, rows)).astype(int))
    names = [column.name for column in schema.features]
    return {name: table[name][picked] for name in names}


def golden(table: Table, scores: NDArray[Any]) -> Golden:
    """Golden rows as they are stored, with their scores [rows, outputs]."""
    rows: Mapping[str, Any] = {name: column.tolist() for name, column in table.items()}
    return Golden(rows=rows, scores=np.asarray(scores, np.float64).tolist())
