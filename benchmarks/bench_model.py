"""The model of the serving benchmarks: a network of the default shape on made-up rows.

    python benchmarks/bench_model.py FOLDER

8 numbers and 6 categories; speed does not depend on what they mean. Written to FOLDER it is all
that a server needs: `spec.json` and a store with the published model for hapredict, `network.onnx`
and `encoder.json` for the others, and `rows.json` and `scores.json` to ask with and to check by.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.control.learning import golden, golden_rows, reference
from hapredict.data.schema import Column, Schema, Table, take
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.features.stats import TableStats
from hapredict.registry import bundle
from hapredict.registry.catalog import Catalog, CatalogState, Version
from hapredict.registry.catalog import publish as published
from hapredict.registry.store import Store, open_store
from hapredict.serving.engine import OnnxEngine
from hapredict.spec import Spec, build_spec
from hapredict.training.export import Exported, export
from hapredict.training.feed import Resident
from hapredict.training.keras_fit import fit
from hapredict.training.network import Examples, NetworkShape

NAME = "bench"
ROWS, TRAINED, VALIDATED = 4000, 3200, 3600
NUMBERS = tuple(f"n{place}" for place in range(8))
CATEGORIES = tuple(f"c{place}" for place in range(6))


@dataclass(frozen=True)
class Fitted:
    """The model, and the rows it comes from."""

    spec: Spec
    schema: Schema
    plan: FeaturePlan
    table: Table
    labels: NDArray[np.float64]
    exported: Exported
    engine: OnnxEngine


def columns_of() -> dict[str, Any]:
    """The made-up rows as columns: numbers of four decimals and one of eight letters."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {name: rng.normal(size=ROWS).round(4) for name in NUMBERS}
    letters = {name: rng.choice(list("abcdefgh"), ROWS).astype(object) for name in CATEGORIES}
    return columns | letters


def rows_of(columns: dict[str, Any]) -> list[dict[str, Any]]:
    """The same as one object a row."""
    listed = [column.tolist() for column in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*listed, strict=True)]


def fitted(columns: dict[str, Any]) -> Fitted:
    """One pass of training over made-up labels, and its export."""
    noise = np.random.default_rng(1).normal(size=ROWS)
    labels = (columns["n0"] + noise > 0).astype(np.float64)
    schema = Schema(
        tuple(Column(name, "number") for name in NUMBERS)
        + tuple(Column(name, "category") for name in CATEGORIES),
        target="y",
        task="binary",
        classes=("0", "1"),
    )
    spec = build_spec({"name": NAME, "data": {"sources": ["none"], "target": "y"}})
    table, _ = schema.frame(columns)
    plan = FeaturePlan.from_stats(TableStats.of(table, schema), schema, spec.features)
    matrices = plan.apply(table)
    examples = Examples(matrices.numbers, matrices.categories, labels.astype(np.float32))
    parts = ((0, TRAINED), (TRAINED, VALIDATED), (VALIDATED, None))
    train, validation, held = (examples.take(slice(*part)) for part in parts)
    shape = NetworkShape.of(plan, schema, train.labels)
    training = spec.training.model_copy(update={"epochs_max": 1})
    feed = Resident(train, training.shuffle_rows)
    found = fit(shape, training, feed, validation, on_epoch=lambda _: None)
    exported = export(shape, training, found.weights, held, validation)
    engine = OnnxEngine(
        exported.onnx, numbers=2 * len(NUMBERS), categories=len(CATEGORIES), outputs=1
    )
    return Fitted(spec, schema, plan, table, labels, exported, engine)


def publish(store: Store, model: Fitted, now_s: float) -> None:
    """Make it version 1 and champion in an empty store."""
    schema, plan = model.schema, model.plan
    held_table = take(model.table, np.arange(VALIDATED, ROWS))
    scores = model.engine.scores(plan.apply(held_table))
    bins = count_bins(plan.bins(model.table), plan.bin_totals)
    few = golden_rows(schema, held_table)
    digest = bundle.publish(
        store,
        NAME,
        spec=model.spec,
        schema=schema,
        plan=plan,
        reference=reference(schema, bins, ROWS, model.labels[VALIDATED:], scores, None),
        network_onnx=model.exported.onnx,
        source=model.exported.source,
        source_name=model.exported.source_name,
        golden=golden(few, model.engine.scores(plan.apply(few))),
        metrics={},
        card={},
    )
    state = published(CatalogState(NAME), Version(1, digest, "run-1", now_s, now_s))
    Catalog(store, NAME).append(
        None, state, action="Install", reason="benchmark", at_s=now_s, event_s=now_s, actor=NAME
    )


def write(folder: Path) -> None:
    """Write what the module's first lines list."""
    columns = columns_of()
    model = fitted(columns)
    publish(open_store((folder / "store").absolute().as_uri()), model, time.time())
    (folder / "network.onnx").write_bytes(model.exported.onnx)
    plan = model.plan
    encoder = {
        "numbers": [[part.name, part.mean, part.scale] for part in plan.numbers],
        "categories": [[part.name, list(part.levels)] for part in plan.categories],
    }
    scores = model.engine.scores(plan.apply(model.table))[:, 0].tolist()
    files = {
        "spec": model.spec.model_dump(mode="json"),
        "encoder": encoder,
        "rows": rows_of(columns),
        "scores": scores,
    }
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
