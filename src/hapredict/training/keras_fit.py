"""Fits one network, alone or as one of several workers that add up their gradients.

An epoch is one compiled call a window of rows. Each row's loss is divided by the rows of the
*global* batch: the result does not depend on the number of workers. Chance is a function of the
seed, the epoch and the step, and the state after each epoch is complete: a fit that resumes ends in
the same bits as one that never stopped.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from math import ceil, isfinite
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from hapredict.errors import TrainingFailed
from hapredict.sections import TrainingSpec
from hapredict.training.feed import Feed, Window
from hapredict.training.fitted import (
    EpochReport,
    Fitted,
    State,
    pack_arrays,
    unpack_arrays,
    without_checkpoint,
)
from hapredict.training.keras_families import build
from hapredict.training.keras_step import Reduce, Stepper
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.rules import explodes, mean_shares, settle, what_to_learn

__all__ = ["EpochReport", "Fitted", "cut_batches", "fit", "join_workers", "use_threads"]

_SEEDS_A_STEP = 64
"""Keys of chance set aside for one step of one worker, more than a network has random layers."""
_BLAMED_MAX = 3
_ABSURD = 100.0
"""Scaled values beyond this are worth a look when a loss breaks."""


def fit(
    shape: NetworkShape,
    spec: TrainingSpec,
    train: Feed,
    validation: Examples,
    *,
    reduce: Reduce | None = None,
    rank: int = 0,
    workers: int = 1,
    micro_batches: int = 1,
    resume: bytes | None = None,
    on_epoch: Callable[[EpochReport], None],
) -> Fitted:
    """The weights of the epoch with the lowest validation loss, out of `spec.epochs_max`.

    They are those of its last step, or their mean over about an epoch (`rules.mean_shares`),
    whichever has the lower loss.

    Each of `workers` calls this with the same arguments but its own `rank` and a `reduce` that adds
    up their vectors. A worker takes its part of a batch in `micro_batches` parts one after the
    other, which needs less memory. `on_epoch` gets a report after each epoch, with a checkpoint on
    rank 0; `resume` is such a checkpoint.

    A loss that is no longer a finite number, or explodes, ends the fit at once: with the best
    weights until then and a note that names the step, or, in the first epoch, with TrainingFailed.
    Raises TrainingFailed too if there is nothing to learn from, or if the checkpoint belongs to
    another task.
    """
    spec = settle(spec, train.rows)
    task = {"shape": shape.to_json(), "spec": what_to_learn(spec), "state": Stepper.KEEPS}
    state = State.begin(task, train.rows, validation.rows, resume)
    tf.config.experimental.enable_op_determinism()
    # a GPU would round float32 to 10 bits, and an export could not be compared with it
    tf.config.experimental.enable_tensor_float_32_execution(False)
    epochs, rate = int(spec.epochs_max), float(spec.learning_rate)
    model = build(shape, spec)
    stepper = Stepper(
        model, shape, spec, reduce=reduce, workers=workers, micro_batches=micro_batches
    )
    steps = sum(ceil(rows / int(spec.batch_rows)) for rows in train.window_rows)
    if state.epoch:
        load_weights(model, pack_arrays(state.weights))
        stepper.restore(state.optimizer)
    data = _Data(shape)
    judged = _tensors(shape, validation)
    judged_weights = tf.constant(_class_weights(shape, validation.labels))
    for epoch in range(state.epoch + 1, epochs + 1):
        started_s = time.perf_counter()
        done = (epoch - 1) * steps
        total = 0.0
        for window in train.windows(spec.seed, epoch):
            index, weight, rows = cut_batches(
                window.rows, int(spec.batch_rows), rank=rank, workers=workers
            )
            weight *= _class_weights(shape, window.examples.labels)[index]
            numbers = done + np.arange(len(rows), dtype=np.int64)
            chance = _chance(spec.seed, numbers, rank, workers)
            rates = rate * (1 + np.cos(np.pi * numbers / (epochs * steps))) / 2
            shares = mean_shares(numbers, steps)
            losses = stepper.run(data.of(window), (index, weight), chance, rates, shares, done)
            fault = np.flatnonzero(~np.isfinite(losses))
            if len(fault):
                step = int(fault[0])
                blamed = _blamed(shape, window, index[step])
                why = (
                    f"the loss is {losses[step]} at step {(done + step) % steps + 1} of epoch "
                    f"{epoch}{blamed}; lower training.learning_rate (now {rate:g}) or mend the rows"
                )
                return _stopped(state, why)
            total += float(losses @ rows)
            done += len(rows)
        loss = total / train.rows
        validation_loss, found = stepper.judged(judged, judged_weights)
        if not isfinite(validation_loss) or explodes(loss, [line.loss for line in state.history]):
            why = (
                f"the loss of epoch {epoch} is {loss:.3g}, on validation rows "
                f"{validation_loss:.3g}: it explodes; lower training.learning_rate "
                f"(now {rate:g})"
            )
            return _stopped(state, why)
        speed = train.rows / (time.perf_counter() - started_s)
        report = EpochReport(epoch, loss, validation_loss, speed, None, epochs)
        state = _advanced(state, report, stepper, found)
        saved = state.to_bytes() if rank == 0 else None
        on_epoch(EpochReport(epoch, loss, validation_loss, speed, saved, epochs))
    return state.fitted()


def cut_batches(
    order: NDArray[np.int64], batch_rows: int, *, rank: int, workers: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Which rows of `order` [rows] a worker takes in each step.

    Answers index [steps, local] int32, weight [steps, local] float32 and rows [steps] float32. The
    rows are cut into equal batches of at most `batch_rows`, and each batch into `workers` parts;
    what is missing in the last ones is filled with weight 0. A row's weight is 1 / rows of its
    batch over all workers, so that each row counts once.
    """
    steps = ceil(len(order) / batch_rows)
    batch = ceil(len(order) / steps)
    local = ceil(batch / workers)
    filled = np.full(steps * batch, -1, dtype=np.int64)
    filled[: len(order)] = order
    index = np.full((steps, workers * local), -1, dtype=np.int64)
    index[:, :batch] = filled.reshape(steps, batch)
    present = index >= 0
    count = present.sum(axis=1).astype(np.float32)
    weight = present.astype(np.float32) / count[:, None]
    mine = slice(rank * local, (rank + 1) * local)
    return np.maximum(index[:, mine], 0).astype(np.int32), weight[:, mine], count


def load_weights(model: keras.Model, weights: bytes) -> None:
    """Sets a model's weights to those of a `Fitted`. Raises TrainingFailed if they do not fit."""
    arrays = unpack_arrays(weights)
    expected = [tuple(weight.shape) for weight in model.weights]
    if [array.shape for array in arrays] != expected:
        raise TrainingFailed(
            f"weights of shapes {[array.shape for array in arrays]} do not fit; "
            f"the model has {expected}"
        )
    model.set_weights(list(arrays))


def use_threads(threads: int, workers: int = 1) -> None:
    """Limits TensorFlow to this many threads. Works only before its first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # two operations at once would share one core's cache; but one waits for the other workers
    tf.config.threading.set_inter_op_parallelism_threads(1 if workers == 1 else 2)


def join_workers(workers: int, hint: str = "auto") -> Reduce:
    """Joins the workers that TF_CONFIG lists, and answers how to add up their vectors.

    `hint` is how vectors travel: "auto", or "nccl" between GPUs. Blocks until all of them have
    joined. A worker that dies leaves the others waiting, so whoever started them must end them.
    """
    if "TF_CONFIG" not in os.environ:
        raise TrainingFailed("TF_CONFIG is not set, so the other workers are unknown")
    # only for the collective server that it starts: Keras 3 cannot train under the strategy itself
    tf.distribute.MultiWorkerMirroredStrategy()

    def add_up(vector: Any) -> Any:
        return tf.raw_ops.CollectiveReduceV2(
            input=vector,
            group_size=workers,
            group_key=7,
            instance_key=1,
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            communication_hint=hint,
            timeout_seconds=0.0,
        )

    return add_up


class _Data:
    """The tensors of a window; rows that stay in memory are brought there once."""

    def __init__(self, shape: NetworkShape) -> None:
        self._shape = shape
        self._examples: Examples | None = None
        self._tensors: tuple[Any, Any, Any] | None = None

    def of(self, window: Window) -> tuple[Any, Any, Any]:
        if self._tensors is None or window.examples is not self._examples:
            self._tensors = None  # the old ones go before the new ones come
            self._tensors = _tensors(self._shape, window.examples)
            self._examples = window.examples
        return self._tensors


def _tensors(shape: NetworkShape, examples: Examples) -> tuple[Any, Any, Any]:
    labels = examples.labels
    if shape.task == "regression":
        wide = examples.labels.astype(np.float64)
        labels = ((wide - shape.label_mean) / shape.label_scale).astype(np.float32)
    return (
        tf.constant(examples.numbers, tf.float32),
        tf.constant(examples.categories, tf.int32),
        tf.constant(labels, tf.float32),
    )


def _class_weights(shape: NetworkShape, labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The weight of each row by its class, [rows]."""
    if not shape.class_weights:
        return np.ones(len(labels), dtype=np.float32)
    return np.asarray(shape.class_weights, dtype=np.float32)[labels.astype(np.int64)]


def _chance(seed: int, steps: NDArray[np.int64], rank: int, workers: int) -> NDArray[np.int64]:
    """Keys of chance [steps, 2], different in each step of each worker."""
    counter = (steps * workers + rank) * _SEEDS_A_STEP
    return np.stack([np.full(len(steps), seed * 1_000_003), counter], axis=1) & 0x7FFF_FFFF


def _advanced(
    state: State, report: EpochReport, stepper: Stepper, found: tuple[NDArray[Any], ...]
) -> State:
    better = report.validation_loss < state.best_loss
    return State(
        run=state.run,
        epoch=report.epoch,
        best_epoch=report.epoch if better else state.best_epoch,
        best_loss=report.validation_loss if better else state.best_loss,
        history=(*state.history, without_checkpoint(report)),
        weights=stepper.weights(),
        optimizer=stepper.memory(),
        best=found if better else state.best,
    )


def _stopped(state: State, why: str) -> Fitted:
    """The best weights so far, with the note why there are no better ones."""
    if not state.best_epoch:
        raise TrainingFailed(why)
    return replace(state.fitted(), notes=(f"{why}; the weights of epoch {state.best_epoch} stay",))


def _blamed(shape: NetworkShape, window: Window, batch: NDArray[np.int32]) -> str:
    """The rows of a batch that stand out so far that they may be what broke it."""
    examples = window.examples.take(batch)
    labels = examples.labels.astype(np.float64)
    if shape.task == "regression":
        labels = (labels - shape.label_mean) / shape.label_scale
    values = np.concatenate([examples.numbers.astype(np.float64), labels[:, None]], axis=1)
    with np.errstate(invalid="ignore"):
        worst = np.where(np.isfinite(values), np.abs(values), np.inf).max(axis=1)
    places = [place for place in np.argsort(-worst)[:_BLAMED_MAX] if worst[place] > _ABSURD]
    if not places:
        return ""
    named = [
        f"{window.name(int(batch[place]))} (label {examples.labels[place]:g}, largest scaled "
        f"value {worst[place]:.3g})"
        for place in places
    ]
    return f", with {' and '.join(named)} in its batch"
