"""How good the families' answers are on real tables, beside a plain network and boosted trees.

    python benchmarks/quality.py [--tables flights,adult] [--families mlp] [--seeds 3]

Every model of a table sees the same rows. Passes, rounds and settings are chosen on the validation
rows; the test rows are looked at once a model, at the end. Families run with the defaults of the
spec. `plain` is the network that a textbook would build: standardised numbers and one-hot
categories, fitted by the same recipe. `trees` has the defaults of `TreesSpec`; `tuned trees` the
best on validation of a fixed list of settings. Intervals are of the mean over seeds (95 %, Student
t); they hold what initial weights and order do, not what other rows would.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from datasets import NAMES, Prepared, prepare
from keras import layers, ops

from hapredict.sections import TrainingSpec, TreesSpec
from hapredict.training.feed import Resident
from hapredict.training.keras_encodings import LevelEffects
from hapredict.training.keras_families import build, model_inputs
from hapredict.training.keras_fit import fit, load_weights, use_threads
from hapredict.training.metrics import evaluate
from hapredict.training.network import Examples, NetworkShape

PLAIN = "plain"
NETWORKS = {
    PLAIN: "quality:plain",
    "linear": "linear",
    "mlp": "mlp",
    "mlp_ensemble": "mlp_ensemble",
}
TUNED = "tuned trees"
MODELS = (PLAIN, "linear", "mlp", "mlp_ensemble", "trees", TUNED)
_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Two-sided 95 % of Student's t, by the number of seeds."""
SEARCH = tuple(
    TreesSpec(
        rounds_max=3000,
        learning_rate=rate,
        depth_max=depth,
        row_share=rows,
        column_share=columns,
        weight_min=weight,
    )
    for rate, depth, rows, columns, weight in (
        (0.05, 6, 0.8, 0.8, 1),
        (0.05, 4, 0.8, 0.8, 1),
        (0.05, 8, 0.8, 0.5, 20),
        (0.05, 6, 0.8, 0.5, 20),
        (0.05, 4, 1.0, 0.5, 5),
        (0.03, 10, 0.8, 0.5, 50),
        (0.05, 3, 0.8, 0.8, 1),
        (0.02, 5, 0.8, 0.5, 5),
    )
)
"""What `tuned trees` chooses from."""


def plain(shape: NetworkShape, spec: TrainingSpec) -> keras.Model:
    """Standardised numbers and one-hot categories through dense layers; the baseline."""
    inputs: dict[str, Any] = {}
    parts = []
    if shape.edges:
        inputs["numbers"] = keras.Input((2 * len(shape.edges),), name="numbers")
        parts.append(layers.Dense(spec.hidden[0])(inputs["numbers"]))
    if shape.levels:
        # a one-hot unit times a weight is a look-up of that weight
        inputs["categories"] = keras.Input((len(shape.levels),), dtype="int32", name="categories")
        table = LevelEffects(shape.levels, spec.hidden[0])
        parts.append(table(inputs["categories"]))
        width = (6 / (2 * len(shape.edges) + sum(shape.levels))) ** 0.5
        chance = np.random.default_rng(spec.seed)
        table.table.assign(chance.uniform(-width, width, table.table.shape))
    share: Any = spec.dropout  # `auto` as the families have it
    if share == "auto":
        share = 0.0 if shape.task == "regression" else 0.3
    x = ops.relu(layers.Add()(parts) if len(parts) > 1 else parts[0])
    for units in spec.hidden[1:]:
        x = layers.Dropout(share)(x)
        x = layers.Dense(units, activation="relu", kernel_initializer="he_uniform")(x)
    x = layers.Dropout(share)(x)
    return keras.Model(inputs, layers.Dense(shape.outputs)(x))


def network_scores(data: Prepared, spec: TrainingSpec) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Scores of the validation and of the test rows, [rows, outputs] each, and what it took."""
    started_s = time.process_time()
    fitted = fit(
        data.shape,
        spec,
        Resident(data.train, spec.shuffle_rows),
        data.validation,
        on_epoch=lambda _: None,
    )
    took = time.process_time() - started_s
    model = build(data.shape, spec)
    load_weights(model, fitted.weights)
    found = [_scores(model, data.shape, rows) for rows in (data.validation, data.test)]
    return found, {"cpu_s": took, "passes": fitted.epochs, "best": fitted.best_epoch}


def _scores(model: keras.Model, shape: NetworkShape, rows: Examples) -> np.ndarray:
    parts = []
    for start in range(0, rows.rows, 8192):
        part = rows.take(slice(start, start + 8192))
        logits = np.asarray(model(model_inputs(shape, part.numbers, part.categories)))
        parts.append(logits.mean(axis=1) if logits.ndim == 3 else logits)
    logits = np.concatenate(parts).astype(np.float64)
    if shape.task == "binary":
        return 1 / (1 + np.exp(-logits))
    values = logits * shape.label_scale + shape.label_mean
    return np.clip(values, shape.label_low, shape.label_high)


def tree_scores(
    data: Prepared, trees: TreesSpec, seed: int, unordered: bool
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """As `network_scores`. `unordered`: levels are split as sets, not by how frequent they are."""
    import xgboost

    started_s = time.process_time()
    binary = data.shape.task == "binary"
    count, kinds = len(data.shape.edges), len(data.shape.levels)

    def matrix(rows: Examples, ref: Any = None) -> Any:
        values = rows.numbers[:, :count].copy()
        values[rows.numbers[:, count:] == 1] = np.nan
        return xgboost.QuantileDMatrix(
            np.concatenate([values, rows.categories.astype(np.float32)], axis=1),
            rows.labels,
            feature_types=["q"] * count + ["c" if unordered else "q"] * kinds,
            enable_categorical=True,
            ref=ref,
        )

    train = matrix(data.train)
    parts = [matrix(rows, train) for rows in (data.validation, data.test)]
    booster = xgboost.train(
        {
            "objective": "binary:logistic" if binary else "reg:squarederror",
            "eta": trees.learning_rate,
            "max_depth": trees.depth_max,
            "subsample": trees.row_share,
            "colsample_bytree": trees.column_share,
            "min_child_weight": trees.weight_min,
            "lambda": trees.l2,
            "seed": seed,
            "nthread": 1,
        },
        train,
        trees.rounds_max,
        evals=[(parts[0], "validation")],
        early_stopping_rounds=trees.rounds_patience,
        verbose_eval=False,
    )
    rounds = (0, booster.best_iteration + 1)
    found = [
        booster.predict(part, iteration_range=rounds).astype(np.float64)[:, None] for part in parts
    ]
    return found, {"cpu_s": time.process_time() - started_s, "passes": rounds[1]}


def judge(data: Prepared, found: Sequence[np.ndarray]) -> dict[str, float]:
    """The figure of the table (AUC or RMSE) on validation and test, and the test's log loss."""
    name = "auc" if data.shape.task == "binary" else "rmse"
    told = [
        evaluate(data.schema.task, rows.labels, scores)
        for rows, scores in zip((data.validation, data.test), found, strict=True)
    ]
    return {
        "validation": told[0][name],
        "validation_loss": told[0].get("logloss", told[0].get("rmse", 0.0)),
        "test": told[1][name],
        "test_logloss": told[1].get("logloss", 0.0),
    }


def run(data: Prepared, model: str, seeds: int, note: Callable[..., None]) -> list[float]:
    """The test figure of each seed."""
    if model in NETWORKS:
        spec = TrainingSpec(family=NETWORKS[model])
        runs = [
            (lambda s=seed: network_scores(data, spec.model_copy(update={"seed": s})))
            for seed in range(seeds)
        ]
    else:
        trees, unordered = TreesSpec(rounds_max=3000), False
        if model == TUNED:
            trees, unordered = _search(data, note)
        runs = [(lambda s=seed: tree_scores(data, trees, s, unordered)) for seed in range(seeds)]
    figures = []
    for seed, once in enumerate(runs):
        found, took = once()
        told = judge(data, found)
        note(table=data.name, model=model, seed=seed, **told, **took)
        figures.append(told["test"])
    return figures


def _search(data: Prepared, note: Callable[..., None]) -> tuple[TreesSpec, bool]:
    best: tuple[float, TreesSpec, bool] | None = None
    for unordered in (False, True) if data.shape.levels else (False,):
        for trees in SEARCH:
            found, took = tree_scores(data, trees, 0, unordered)
            told = judge(data, found)
            loss = told["validation_loss"]
            del told["test"], told["test_logloss"]  # not to be chosen by
            settings = json.dumps(trees.model_dump() | {"unordered": unordered})
            note(table=data.name, model="search", settings=settings, **told, **took)
            if best is None or loss < best[0]:
                best = (loss, trees, unordered)
    if best is None:
        raise ValueError("nothing to search in")
    return best[1:]


def main() -> None:
    """Fit what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tables", default=",".join(NAMES), help="default: %(default)s")
    parser.add_argument("--families", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--log", type=Path, help="a file of one JSON line a model fitted")
    options = parser.parse_args()
    use_threads(1)

    def note(**told: Any) -> None:
        if options.log:
            with options.log.open("a") as file:
                file.write(json.dumps(told) + "\n")

    models = options.families.split(",")
    print("| table, figure | " + " | ".join(models) + " |")
    print("|---" * (1 + len(models)) + "|")
    for name in options.tables.split(","):
        data = prepare(name)
        cells = [_cell(data, run(data, model, options.seeds, note)) for model in models]
        figure = "AUC" if data.shape.task == "binary" else "RMSE"
        print(f"| {name}, {figure} | " + " | ".join(cells) + " |", flush=True)


def _cell(data: Prepared, figures: Sequence[float]) -> str:
    mean, digits = float(np.mean(figures)), 4 if data.shape.task == "binary" else 2
    text = f"{mean:.{digits}f}"
    if len(figures) > 1:
        half = _STUDENT.get(len(figures), 1.96) * np.std(figures, ddof=1) / len(figures) ** 0.5
        text += f" ± {half:.{digits}f}"
    return text


if __name__ == "__main__":
    main()
