"""Real bundles without Keras: a linear model written as ONNX, published into any store.

store = open_store("memory://some-test")
publish_linear(store)                            # version 1, champion
publish_linear(store, weights={"distance": 2.0}) # version 2, published, not yet tried
change(store, catalog.shadow, 2, 10.0)           # what control would append
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hapredict.data.schema import Column, Schema, Table, rows_of, take
from hapredict.features.plan import FeaturePlan, count_bins
from hapredict.features.stats import TableStats
from hapredict.registry import bundle as bundles
from hapredict.registry import catalog
from hapredict.registry.bundle import Golden, Reference
from hapredict.registry.catalog import Catalog, CatalogState, Entry, Version
from hapredict.registry.store import Store
from hapredict.serving.engine import OnnxEngine
from hapredict.spec import Spec, build_spec

MODEL = "orders"
NUMBERS = ("收入", "distance")
CATEGORIES = ("性别", "carrier")
START_S = 1_700_000_000.0
"""Where the `at` column of `table_of` begins."""


def spec_of(model: str = MODEL, **sections: Any) -> Spec:
    """A small binary spec with time and id; `sections` such as `serving={...}` are put over it."""
    raw: dict[str, Any] = {
        "name": model,
        "data": {"sources": ["orders.csv"], "target": "late", "time": "at", "id": "order"},
    }
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section} if isinstance(section, Mapping) else section
    return build_spec(raw)


def schema_of(classes: Sequence[str] = ("no", "yes"), task: str = "binary") -> Schema:
    """Two numbers and two categories, two of them with names that are not ASCII."""
    return Schema(
        features=(
            *(Column(name, "number") for name in NUMBERS),
            *(Column(name, "category") for name in CATEGORIES),
        ),
        target="late",
        task=task,
        classes=tuple(classes),
        time="at",
        id="order",
    )


def columns_of(rows: int = 4, seed: int = 0) -> dict[str, list[Any]]:
    """Columns as a request would hold them, a few values missing, one level unseen now and then."""
    chance = np.random.default_rng(seed)
    income = chance.lognormal(9, 0.5, rows).tolist()
    return {
        "收入": [None if chance.random() < 0.05 else value for value in income],
        "distance": chance.integers(0, 3000, rows).astype(float).tolist(),
        "性别": chance.choice(["男", "女"], rows).tolist(),
        "carrier": [
            None if chance.random() < 0.05 else level
            for level in chance.choice(["UA", "AA", "DL", "B6"], rows).tolist()
        ],
        "at": [START_S + 60.0 * row for row in range(rows)],
        "order": [f"o{seed}-{row}" for row in range(rows)],
    }


def rows_as_json(rows: int = 4, seed: int = 0, *, extras: bool = True) -> list[dict[str, Any]]:
    """The rows of `columns_of`, one object a row; without `extras` neither time nor id."""
    columns = columns_of(rows, seed)
    names = [name for name in columns if extras or name not in ("at", "order")]
    return [{name: columns[name][row] for name in names} for row in range(rows)]


def table_of(rows: int = 4, seed: int = 0, schema: Schema | None = None) -> Table:
    """The table of `columns_of`."""
    return (schema or schema_of()).table(columns_of(rows, seed))


def plan_of(schema: Schema, table: Table, spec: Spec) -> FeaturePlan:
    """The plan of a table."""
    return FeaturePlan.from_stats(TableStats.of(table, schema), schema, spec.features)


def linear_network(
    plan: FeaturePlan,
    schema: Schema,
    weights: Mapping[str, float] | None = None,
    bias: float = 0.0,
    extras: Sequence[str] = (),
) -> bytes:
    """ONNX: sigmoid, softmax or identity of a weighted sum; the default weight is 1 a feature.

    A scaled number counts as it is; a category's levels count -1, 0 and 1 by turns. A bias of NaN
    makes a network whose every score is NaN. The extras, by name, are the first output's sum times
    1, 2, 3...
    """
    weights = weights or {}
    outputs = schema.outputs
    spread = np.linspace(-1, 1, outputs) if outputs > 1 else np.ones(1)
    nodes, inputs, terms = [], [], ["bias"]
    tensors = {"bias": (np.zeros(outputs) + bias).astype(np.float32)}
    if schema.numbers:
        column = np.array([weights.get(name, 1.0) for name in schema.numbers])
        column = np.concatenate([column, 0.1 * column])
        tensors["weights"] = (column[:, None] * spread).astype(np.float32)
        inputs.append(_input("numbers", TensorProto.FLOAT, 2 * len(schema.numbers)))
        nodes.append(helper.make_node("MatMul", ["numbers", "weights"], ["from_numbers"]))
        terms.append("from_numbers")
    if schema.categories:
        counts = plan.level_counts
        rows = np.concatenate(
            [
                weights.get(name, 1.0) * (np.arange(count) % 3 - 1.0)
                for name, count in zip(schema.categories, counts, strict=True)
            ]
        )
        tensors["levels"] = (rows[:, None] * spread).astype(np.float32)
        tensors["starts"] = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)
        tensors["columns"] = np.array([1], np.int64)
        inputs.append(_input("categories", TensorProto.INT32, len(schema.categories)))
        nodes += [
            helper.make_node("Add", ["categories", "starts"], ["places"]),
            helper.make_node("Gather", ["levels", "places"], ["looked_up"]),
            helper.make_node("ReduceSum", ["looked_up", "columns"], ["summed"], keepdims=0),
        ]
        terms.append("summed")
    last = {"binary": "Sigmoid", "multiclass": "Softmax", "regression": "Identity"}[schema.task]
    nodes += [
        helper.make_node("Sum", terms, ["logits"]),
        helper.make_node(last, ["logits"], ["scores"]),
    ]
    told = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", outputs])]
    if extras:
        tensors["first"] = np.array([0], np.int64)
        tensors["times"] = np.arange(1, len(extras) + 1, dtype=np.float32)
        nodes += [
            helper.make_node("Gather", ["logits", "first"], ["sum"], axis=1),
            helper.make_node("Mul", ["sum", "times"], ["extras"]),
        ]
        told.append(
            helper.make_tensor_value_info("extras", TensorProto.FLOAT, ["rows", len(extras)])
        )
    graph = helper.make_graph(
        nodes,
        "linear",
        inputs,
        told,
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if extras:
        helper.set_model_props(model, {"extras": json.dumps(list(extras))})
    return model.SerializeToString()


def publish_linear(
    store: Store,
    model: str = MODEL,
    *,
    spec: Spec | None = None,
    schema: Schema | None = None,
    table: Table | None = None,
    weights: Mapping[str, float] | None = None,
    bias: float = 0.0,
    extras: Sequence[str] = (),
    version: int | None = None,
    network: bytes | None = None,
    golden_off: float = 0.0,
    published_s: float = 0.0,
    trained_until_s: float = 0.0,
    list_it: bool = True,
) -> Version:
    """Publish a linear model; the first of a model becomes its champion.

    `table` is what plan and reference are made of (default: 200 rows of `table_of`). `version` is
    its number (default: the next). `network` replaces the ONNX bytes after the golden scores were
    made, `golden_off` is added to those: both make versions that a replica must refuse. Without
    `list_it` the bundle is stored and the catalog is left alone.
    """
    spec = spec or spec_of(model)
    schema = schema or schema_of()
    table = table if table is not None else table_of(200, seed=99, schema=schema)
    plan = plan_of(schema, table, spec)
    linear = linear_network(plan, schema, weights, bias, extras)
    engine = OnnxEngine(
        linear,
        numbers=2 * len(schema.numbers),
        categories=len(schema.categories),
        outputs=schema.outputs,
    )
    scores = engine.scores(plan.apply(table)).astype(np.float64)
    golden = take(table, np.arange(min(8, rows_of(table))))
    digest = bundles.publish(
        store,
        model,
        spec=spec,
        schema=schema,
        plan=plan,
        reference=_reference(plan, schema, table, np.nan_to_num(scores)),
        network_onnx=linear if network is None else network,
        source=b"not used by serving",
        source_name="network.keras",
        golden=Golden(
            {column.name: golden[column.name].tolist() for column in schema.features},
            (np.nan_to_num(scores[:8]) + golden_off).tolist(),
        ),
        metrics={"auc": 0.7},
        card={"rows": rows_of(table)},
    )
    book = Catalog(store, model)
    entry = book.latest()
    state = entry.state if entry is not None else CatalogState(model)
    number = version or max(state.versions, default=0) + 1
    made = Version(number, digest, f"run-{number}", published_s, trained_until_s, {"auc": 0.7})
    if list_it:
        _append(book, entry, catalog.publish(state, made), "publish", published_s)
    return made


def change(
    store: Store, transition: Callable[..., CatalogState], *values: Any, model: str = MODEL
) -> Entry:
    """Append what a transition of `registry.catalog` makes of the latest state."""
    book = Catalog(store, model)
    entry = book.latest()
    assert entry is not None
    state = transition(entry.state, *values)
    return _append(book, entry, state, transition.__name__, state.stage_since_s)


def _append(
    book: Catalog, entry: Entry | None, state: CatalogState, action: str, now_s: float
) -> Entry:
    return book.append(
        entry, state, action=action, reason="a test", at_s=now_s, event_s=now_s, actor="test"
    )


def _input(name: str, kind: int, width: int) -> Any:
    return helper.make_tensor_value_info(name, kind, ["rows", width])


def _reference(
    plan: FeaturePlan, schema: Schema, table: Table, scores: NDArray[np.float64]
) -> Reference:
    rows = rows_of(table)
    counts = count_bins(plan.bins(table), plan.bin_totals)
    shown = scores[:, 0] if scores.shape[1] == 1 else scores.max(axis=1)
    edges = np.unique(np.quantile(shown, np.linspace(0.1, 0.9, 9)))
    score_counts = np.bincount(
        np.searchsorted(edges, shown, side="right"), minlength=len(edges) + 1
    )
    loss = float((scores * (1 - scores)).mean()) if schema.task != "regression" else 0.1
    return Reference(
        bins=tuple(counts.tolist()),
        score_edges=tuple(edges.tolist()),
        score_counts=tuple(score_counts.tolist()),
        loss_mean=min(1.0, max(0.0, loss)),
        loss_rows=rows,
        loss_scale=1.0,
        rows=rows,
    )
