"""Grows boosted trees with XGBoost, alone or as one of several workers that add up their sums.

An epoch is a block of ten rounds: often enough to be seen and to resume from, and seldom enough
to cost nothing. Each block starts XGBoost's chance anew, from the seed and the number of the round,
because no saved model holds it: a fit that resumes ends in the same bytes as one that never
stopped. It finds what a new `xgboost.Booster` over the saved one finds, block after block.

XGBoost reads a feed's rows part by part and keeps the numbers of their bins: in memory if the rows
are there too, else in files of its own, which it reads again each round.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.errors import TrainingFailed
from hapredict.sections import TrainingSpec
from hapredict.training.feed import Feed, Resident, Window
from hapredict.training.fitted import EpochReport, Fitted, State, unpack_arrays, without_checkpoint
from hapredict.training.network import Examples, NetworkShape

Floats = NDArray[np.float32]

ROUNDS_AN_EPOCH = 10
PART_ROWS = 131_072
"""Rows that are handed to XGBoost at once."""
_LARGEST = 1e30
"""XGBoost takes no infinite numbers, nor some that are close to it."""


def fit(
    shape: NetworkShape,
    spec: TrainingSpec,
    train: Feed,
    validation: Examples,
    *,
    reduce: object = None,  # noqa: ARG001 - XGBoost's communicator adds up
    rank: int = 0,
    workers: int = 1,
    micro_batches: int = 1,  # noqa: ARG001 - trees see all rows at once, whatever the workers
    resume: bytes | None = None,
    on_epoch: Callable[[EpochReport], None],
    threads: int = 1,
    clock: Callable[[], float] | None = None,
) -> Fitted:
    """The trees of the round with the lowest validation loss, out of `spec.trees.rounds_max`.

    Ends `spec.trees.rounds_patience` rounds after the best one. `on_epoch` gets a report after each
    ten rounds, with their last loss, their lowest validation loss and, on rank 0, a checkpoint;
    `resume` is such a checkpoint. Each of `workers` calls this inside XGBoost's communicator with
    the same arguments but its own `rank`, and learns from every so many-th row. `clock` tells
    seconds; without it reports say 0 rows a second. The same arguments give the same bytes, but
    another number of workers finds other bins and so other trees.

    Raises TrainingFailed if XGBoost is not installed, if there is nothing to learn from, if a label
    or a value cannot be learned from, or if the checkpoint belongs to another task.
    """
    xgboost = library()
    state = State.begin(_task(shape, spec, train), train.rows, validation.rows, resume)
    if (joined := xgboost.collective.get_world_size()) != workers:
        raise TrainingFailed(f"{workers} workers are to grow trees, and {joined} have joined")
    with xgboost.config_context(verbosity=0), TemporaryDirectory() as folder:
        side = _Side(xgboost, shape, rank, workers, threads, folder)
        # what holds the folder's files is gone when the call returns
        state = _grow(side, spec, train, validation, state, on_epoch, clock)
    return state.fitted()


def library() -> Any:
    """XGBoost. Raises TrainingFailed, saying how to install it, if it is missing."""
    try:
        import xgboost
    except ImportError as error:
        raise TrainingFailed(
            f"family 'trees' needs XGBoost, which cannot be imported ({error}); "
            "install hapredict[trees] on every node"
        ) from error
    return xgboost


def parameters(shape: NetworkShape, spec: TrainingSpec, threads: int = 1) -> dict[str, Any]:
    """XGBoost's parameters for a task, by its own names."""
    objective: dict[str, Any] = {"objective": "reg:squarederror", "eval_metric": "rmse"}
    if shape.task == "binary":
        objective = {"objective": "binary:logistic", "eval_metric": "logloss"}
    elif shape.task == "multiclass":
        objective = {"objective": "multi:softprob", "eval_metric": "mlogloss"}
        objective["num_class"] = shape.outputs
    elif shape.quantiles:
        objective = {"objective": "reg:quantileerror", "eval_metric": "quantile"}
        objective["quantile_alpha"] = list(shape.quantiles)
    trees = spec.trees
    return {
        **objective,
        "tree_method": "hist",
        "max_depth": trees.depth_max,
        "learning_rate": trees.learning_rate,
        "subsample": trees.row_share,
        "colsample_bytree": trees.column_share,
        "min_child_weight": trees.weight_min,
        "reg_lambda": trees.l2,
        "seed": spec.seed,
        "seed_per_iteration": True,
        "nthread": threads,
    }


def columns(examples: Examples) -> Floats:
    """What trees ask about, [rows, n + k]: numbers, NaN where missing, then codes as they are.

    The most frequent levels have the lowest codes, so one question parts the rare from the common.
    """
    numbers = examples.numbers.shape[1] // 2
    flags = examples.numbers[:, numbers:] > 0.5
    values = np.where(flags, np.float32(np.nan), examples.numbers[:, :numbers])
    return np.concatenate([values, examples.categories.astype(np.float32)], axis=1)


def trees_of(weights: bytes) -> bytes:
    """XGBoost's UBJSON from the weights of a `Fitted`. Raises TrainingFailed if there is none."""
    arrays = unpack_arrays(weights)
    if len(arrays) != 1 or arrays[0].dtype != np.uint8:
        raise TrainingFailed(f"{len(weights)} bytes of weights are no trees")
    return arrays[0].tobytes()


@dataclass(frozen=True, slots=True)
class _Side:
    """Where trees grow: one worker among others."""

    xgboost: Any
    shape: NetworkShape
    rank: int
    workers: int
    threads: int
    folder: str
    """For bins that do not stay in memory."""


def _grow(
    side: _Side,
    spec: TrainingSpec,
    train: Feed,
    validation: Examples,
    state: State,
    on_epoch: Callable[[EpochReport], None],
    clock: Callable[[], float] | None,
) -> State:
    grower = _Grower(side, spec, _matrix(side, train, spec.seed), _judged(side, validation), state)
    while not grower.ended:
        started_s, before = clock() if clock else 0.0, grower.rounds
        loss, validation_loss = grower.grow_block()
        taken_s = clock() - started_s if clock else 0.0
        rate = train.rows * (grower.rounds - before) / taken_s if taken_s > 0 else 0.0
        report = EpochReport(
            epoch=state.epoch + 1,
            loss=loss,
            validation_loss=validation_loss,
            rows_per_s=rate,
            epochs=ceil(spec.trees.rounds_max / ROUNDS_AN_EPOCH),
        )
        state = grower.state(state, report)
        on_epoch(replace(report, checkpoint=state.to_bytes()) if side.rank == 0 else report)
    return state


class _Grower:
    """XGBoost's model while it grows."""

    def __init__(
        self, side: _Side, spec: TrainingSpec, rows: Any, judged: Any, state: State
    ) -> None:
        self._rows, self._judged, self._trees = rows, judged, spec.trees
        self._squared = side.shape.task == "regression" and not side.shape.quantiles
        told = parameters(side.shape, spec, side.threads)
        grown = {"model_file": bytearray(state.weights[0])} if state.weights else {}
        self._booster = side.xgboost.Booster(told, [rows, judged], **grown)
        self.rounds = int(self._booster.num_boosted_rounds())
        self._best_round = int(state.optimizer[0]) if state.optimizer else 0
        self._best_loss = state.best_loss

    @property
    def ended(self) -> bool:
        patience = self._trees.rounds_patience
        return self.rounds >= self._trees.rounds_max or self.rounds - self._best_round >= patience

    def grow_block(self) -> tuple[float, float]:
        """Grows ten rounds, or fewer at the end; answers the last loss and the lowest on judged."""
        self._start_chance()
        lowest = inf
        for _ in range(ROUNDS_AN_EPOCH):
            self._booster.update(self._rows, self.rounds)
            self.rounds += 1
            found = self._loss(self._judged)
            lowest = min(lowest, found)
            if found < self._best_loss:
                self._best_loss, self._best_round = found, self.rounds
            if self.ended:
                break
        return self._loss(self._rows), lowest

    def state(self, before: State, report: EpochReport) -> State:
        """What resumes here, after a block that began at `before`."""
        better = self._best_loss < before.best_loss
        return State(
            run=before.run,
            epoch=report.epoch,
            best_epoch=report.epoch if better else before.best_epoch,
            best_loss=self._best_loss,
            history=(*before.history, without_checkpoint(report)),
            weights=(_saved(self._booster),),
            optimizer=(np.array(self._best_round),),
            best=(_saved(self._booster[: self._best_round]),) if better else before.best,
        )

    def _start_chance(self) -> None:
        # columns are drawn by a generator that lives as long as the tree method and that no saved
        # model holds; to name another method in between is what begins it anew
        for method in ("approx", "hist"):
            self._booster.set_param({"tree_method": method})
            self._booster.save_config()

    def _loss(self, rows: Any) -> float:
        told = self._booster.eval_set([(rows, "rows")], self.rounds - 1)
        loss = float(told.rpartition(":")[2])
        if not isfinite(loss):
            raise TrainingFailed(
                f"the loss of round {self.rounds} is {loss}; lower training.trees.learning_rate "
                f"(now {self._trees.learning_rate:g})"
            )
        return loss**2 if self._squared else loss


def _saved(booster: Any) -> NDArray[np.uint8]:
    return np.frombuffer(bytes(booster.save_raw("ubj")), dtype=np.uint8)


def _matrix(side: _Side, train: Feed, seed: int) -> Any:
    """The rows of one worker in bins, from the windows of the first epoch.

    What does not fit in memory as rows lies in the folder as bins; the trees are the same.
    """
    xgboost: Any = side.xgboost
    shape = side.shape

    class Rows(xgboost.DataIter):  # type: ignore[misc]
        def __init__(self, **where: str) -> None:
            self._parts: Iterator[Examples] = iter(())
            self._checked = False
            super().__init__(**where)

        def reset(self) -> None:
            self._parts = self._read()

        def next(self, input_data: Callable[..., None]) -> bool:
            part = next(self._parts, None)
            if part is None:
                return False
            labels, weights = _labels_of(shape, part)
            input_data(data=columns(part), label=labels, weight=weights)
            return True

        def _read(self) -> Iterator[Examples]:
            for window in train.windows(seed, 1):
                if not self._checked:
                    _check_rows(shape, window)
                mine = window.rows[side.rank :: side.workers]
                for start in range(0, len(mine), PART_ROWS):
                    yield window.examples.take(mine[start : start + PART_ROWS])
            self._checked = True

    if isinstance(train, Resident):
        return xgboost.QuantileDMatrix(Rows(), nthread=side.threads)
    stored = Rows(cache_prefix=f"{side.folder}/rows")
    return xgboost.ExtMemQuantileDMatrix(stored, nthread=side.threads)


def _judged(side: _Side, validation: Examples) -> Any:
    """One worker's share of the validation rows; all of them if they are too few to share."""
    _check_rows(side.shape, Window(validation, np.arange(validation.rows)))
    share = slice(side.rank, None, side.workers) if validation.rows >= side.workers else slice(None)
    mine = validation.take(share)
    labels, weights = _labels_of(side.shape, mine)
    return side.xgboost.DMatrix(columns(mine), labels, weight=weights, nthread=side.threads)


def _labels_of(shape: NetworkShape, examples: Examples) -> tuple[Floats, Floats | None]:
    """Labels as trees learn them, and the weights of their rows."""
    labels = examples.labels
    if shape.task == "regression":
        wide = labels.astype(np.float64)
        return ((wide - shape.label_mean) / shape.label_scale).astype(np.float32), None
    if not shape.class_weights:
        return labels, None
    return labels, np.array(shape.class_weights, np.float32)[labels.astype(np.int64)]


def _check_rows(shape: NetworkShape, window: Window) -> None:
    """Raises TrainingFailed for the first row that nothing can be learned from.

    Each worker looks at all rows, and not at its own alone: all must stop for the same one.
    """
    for start in range(0, len(window.rows), PART_ROWS):
        places = window.rows[start : start + PART_ROWS]
        part = window.examples.take(places)
        if shape.task == "regression":
            wanted, good = "a finite number", np.isfinite(_labels_of(shape, part)[0])
        else:
            classes = 2 if shape.task == "binary" else shape.outputs
            wanted, good = f"a class from 0 to {classes - 1}", np.isin(part.labels, range(classes))
        large = (np.abs(columns(part)) > _LARGEST).any(axis=1)
        if good.all() and not large.any():
            continue
        bad = int(np.argmax(large | ~good))
        label = f"{window.name(int(places[bad]))} has the label {part.labels[bad]:g}"
        if good[bad]:
            raise TrainingFailed(f"{label} and a number beyond {_LARGEST:g} or infinite")
        raise TrainingFailed(f"{label}; expected {wanted}")


def _task(shape: NetworkShape, spec: TrainingSpec, train: Feed) -> dict[str, Any]:
    """All that decides which trees grow, beside the numbers of rows."""
    return {
        "trees": spec.trees.model_dump(mode="json"),
        "seed": spec.seed,
        "shape": shape.to_json(),
        "windows": list(train.window_rows),
    }
