"""The training window in practice: a back-test with a few small fits of trees, off the learner.

Each window is fitted on the same sample of rows and judged on the periods before the hold-out,
which itself is never looked at. The fits are the product's own, of its cheapest family, with few
rounds: what is chosen is how far back to look, not a model.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import ray

from hapredict.control.training_rows import (
    BACK_TEST_ROWS_MIN,
    Window,
    choose_window,
    periods,
    windows_to_try,
)
from hapredict.data.schema import Schema, concat
from hapredict.errors import HapredictError, TrainingFailed
from hapredict.features.plan import FeaturePlan
from hapredict.features.stats import TableStats
from hapredict.sections import DAY_S, FeatureSpec, TrainingSpec, TreesSpec
from hapredict.training.feed import Resident
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.prepared import Recipe
from hapredict.training.ray_prepare import Rows, cut_rows, rows_since
from hapredict.training.ray_rows import Block
from hapredict.training.trees_fit import fit

SAMPLE_ROWS = 40_000
"""Rows of all history that take part in a back-test, spread evenly."""
WINDOW_ROWS_MIN = 500
"""Rows without which a window, or a period, says nothing."""
ROUNDS = 60


def within_window(
    rows: Rows, recipe: Recipe, setting: float | str, seed: int
) -> tuple[Rows, Window]:
    """The rows to learn and to judge from, by `control.training_window`, and why."""
    window = _window(rows, recipe, setting, seed)
    if window.days is None:
        return rows, window
    bounds = cut_rows(rows, recipe)
    return rows_since(rows, bounds[0] - window.days * DAY_S, bounds), window


def _window(rows: Rows, recipe: Recipe, setting: float | str, seed: int) -> Window:
    if rows.schema.time is None:
        return Window(None, "all rows: the data have no time")
    if not isinstance(setting, str):
        return Window(setting, f"the newest {setting:g} days, as the spec says")
    if setting == "all" or rows.counts.used < BACK_TEST_ROWS_MIN:
        return Window(None, "all rows")
    _, held_s = cut_rows(rows, recipe)
    tried = periods(rows.orders.first, held_s, rows.orders.last)
    days = windows_to_try(float(rows.orders.first), tried)
    if len(days) < 2:
        return Window(None, "all rows: history is too short for a back-test")
    share = min(1.0, SAMPLE_ROWS / rows.counts.used)
    sample = [_sample.remote(block, share, held_s) for block in rows.blocks]
    losses = ray.get(
        _back_test.options(num_cpus=1).remote(
            rows.schema, recipe.features, tried, days, seed, *sample
        )
    )
    if isinstance(losses, HapredictError):
        return Window(None, f"all rows: no back-test ({losses})")
    return choose_window(dict(zip(days, losses, strict=True)))


@ray.remote
def _sample(block: Block | None, share: float, until_s: float) -> Block | None:
    """An even share of the block's rows from before the hold-out."""
    if block is None:
        return None
    places = np.flatnonzero(block.order < until_s)
    ends = np.floor((np.arange(len(places)) + 1) * share)
    return block.take(places[ends > np.floor(np.arange(len(places)) * share)])


@ray.remote
def _back_test(
    schema: Schema,
    features: FeatureSpec,
    tried: Sequence[tuple[float, float]],
    days: Sequence[float | None],
    seed: int,
    *blocks: Block | None,
) -> list[list[float]] | HapredictError:
    """Of each window the loss in each period; infinite where it has too few rows."""
    sample = [block for block in blocks if block is not None and len(block.order)]
    table = concat([block.table() for block in sample])
    order = np.concatenate([block.order for block in sample])
    labels = np.concatenate([block.labels for block in sample]).astype(np.float32)
    plan = FeaturePlan.from_stats(TableStats.of(table, schema), schema, features)
    matrices = plan.apply(table)
    examples = Examples(matrices.numbers, matrices.categories, labels)
    trees = TreesSpec(rounds_max=ROUNDS, rounds_patience=ROUNDS, learning_rate=0.15)
    spec = TrainingSpec(family="trees", trees=trees, seed=seed)
    try:
        return [
            [_loss(schema, plan, spec, examples, order, window, one) for one in tried]
            for window in days
        ]
    except TrainingFailed as error:
        return error


def _loss(
    schema: Schema,
    plan: FeaturePlan,
    spec: TrainingSpec,
    examples: Examples,
    order: np.ndarray,
    days: float | None,
    period: tuple[float, float],
) -> float:
    begin_s, end_s = period
    since_s = -math.inf if days is None else begin_s - days * DAY_S
    learned = np.flatnonzero((order >= since_s) & (order < begin_s))
    judged = np.flatnonzero((order >= begin_s) & (order < end_s))
    if min(len(learned), len(judged)) < WINDOW_ROWS_MIN:
        return math.inf
    train = examples.take(learned)
    shape = NetworkShape.of(plan, schema, train.labels, spec)
    if schema.task == "regression":
        # one scale for all windows, or their losses could not be compared
        shape = replace(
            shape,
            label_mean=float(examples.labels.mean(dtype=np.float64)),
            label_scale=float(examples.labels.std(dtype=np.float64)) or 1.0,
        )
    fitted = fit(
        shape, spec, Resident(train, len(learned)), examples.take(judged), on_epoch=lambda _: None
    )
    return min(report.validation_loss for report in fitted.history)
