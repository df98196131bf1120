"""Fits one network, alone or as one of several workers that add up their gradients.

An epoch is one compiled call over data that stays in memory. A step's gradients and loss travel in
one flat vector, and each row's loss is divided by the rows of the *global* batch: the result does
not depend on the number of workers. Gradients are made dense, because Keras' Adam takes duplicate
rows of a sparse gradient for separate ones and so learns embeddings at a wrong rate.

Chance is a function of the seed, the epoch and the step, and the state after each epoch is
complete: a fit that resumes ends in the same bits as one that never stopped.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from math import ceil, isfinite
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from hapredict.errors import TrainingFailed
from hapredict.spec import TrainingSpec
from hapredict.training.fitted import (
    EpochReport,
    Fitted,
    State,
    pack_arrays,
    unpack_arrays,
    without_checkpoint,
)
from hapredict.training.keras_families import build, model_inputs
from hapredict.training.network import Examples, NetworkShape

__all__ = ["EpochReport", "Fitted", "fit", "join_workers", "plan_batches", "use_threads"]

Reduce: TypeAlias = Callable[[Any], Any]
"""From this worker's vector to the sum of all workers' vectors, inside a compiled function."""

_EPSILON = 1e-6
"""Adam's, ten times Keras' default: rounding in gradients near zero then stays rounding."""
_VALIDATION_ROWS = 8192
_SEEDS_A_STEP = 64
"""Keys of chance set aside for one step of one worker, more than a network has random layers."""
_NOT_THE_TASK = {"workers", "cpus_per_worker", "worker_failures_max", "parity_max"}


def fit(
    shape: NetworkShape,
    spec: TrainingSpec,
    train: Examples,
    validation: Examples,
    *,
    reduce: Reduce | None = None,
    rank: int = 0,
    workers: int = 1,
    resume: bytes | None = None,
    on_epoch: Callable[[EpochReport], None],
) -> Fitted:
    """The weights of the epoch with the lowest validation loss, out of `spec.epochs_max`.

    Each of `workers` calls this with the same arguments but its own `rank` and a `reduce` that adds
    up their vectors. `on_epoch` gets a report after each epoch, with a checkpoint on rank 0;
    `resume` is such a checkpoint. Raises TrainingFailed if there is nothing to learn from, if the
    loss stops being a finite number, or if the checkpoint belongs to another task.
    """
    if not train.rows or not validation.rows:
        raise TrainingFailed(
            f"{train.rows} rows to train on and {validation.rows} to validate on; "
            "at least one of each is needed"
        )
    tf.config.experimental.enable_op_determinism()
    model = build(shape, spec)
    _refuse_batch_statistics(model, workers)
    steps = ceil(train.rows / spec.batch_rows)
    optimizer = _optimizer(spec, spec.epochs_max * steps)
    optimizer.build(model.trainable_variables)
    run = _task_hash(shape, spec, train, validation)
    state = State(run, 0, 0, float("inf"), (), (), (), ())
    if resume is not None:
        state = State.from_bytes(resume)
        _restore(model, optimizer, state, run)
    epoch_of = _compiled_epoch(model, optimizer, shape, reduce, workers)
    loss_of = _compiled_loss(model, shape)
    data, judged = _tensors(shape, train), _tensors(shape, validation)
    for epoch in range(state.epoch + 1, spec.epochs_max + 1):
        started_s = time.perf_counter()
        batches = plan_batches(
            train.rows, spec.batch_rows, seed=spec.seed, epoch=epoch, rank=rank, workers=workers
        )
        loss = float(epoch_of(data, batches, _chance(spec.seed, epoch, rank, steps, workers)))
        validation_loss = float(loss_of(*judged))
        if not (isfinite(loss) and isfinite(validation_loss)):
            raise TrainingFailed(
                f"the loss of epoch {epoch} is {loss}, on validation rows {validation_loss}; "
                f"lower training.learning_rate (now {spec.learning_rate:g})"
            )
        rate = train.rows / (time.perf_counter() - started_s)
        report = EpochReport(epoch, loss, validation_loss, rate, None, spec.epochs_max)
        state = _advanced(state, report, model, optimizer)
        saved = state.to_bytes() if rank == 0 else None
        on_epoch(EpochReport(epoch, loss, validation_loss, rate, saved, spec.epochs_max))
    return state.fitted()


def plan_batches(
    rows: int, batch_rows: int, *, seed: int, epoch: int, rank: int, workers: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """Which rows a worker takes in each step of an epoch.

    Answers index [steps, local] int32, weight [steps, local] float32 and rows [steps] float32. The
    rows, shuffled by seed and epoch, are cut into equal batches of at most `batch_rows`, and each
    batch into `workers` parts; what is missing in the last ones is filled with weight 0. A row's
    weight is 1 / rows of its batch over all workers, so that each row counts once.
    """
    steps = ceil(rows / batch_rows)
    batch = ceil(rows / steps)
    local = ceil(batch / workers)
    order = np.full(steps * batch, -1, dtype=np.int64)
    order[:rows] = np.random.default_rng([seed, epoch]).permutation(rows)
    index = np.full((steps, workers * local), -1, dtype=np.int64)
    index[:, :batch] = order.reshape(steps, batch)
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


def use_threads(threads: int) -> None:
    """Limits TensorFlow to this many threads. Works only before its first operation."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    # one more, so that waiting for the other workers does not stop the work that remains
    tf.config.threading.set_inter_op_parallelism_threads(2)


def join_workers(workers: int) -> Reduce:
    """Joins the workers that TF_CONFIG lists, and answers how to add up their vectors.

    Blocks until all of them have joined. A worker that dies leaves the others waiting, so whoever
    started them must end them.
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
            communication_hint="auto",
            timeout_seconds=0.0,
        )

    return add_up


def _optimizer(spec: TrainingSpec, steps: int) -> Any:
    optimizer = keras.optimizers.AdamW(
        learning_rate=keras.optimizers.schedules.CosineDecay(spec.learning_rate, steps),
        weight_decay=spec.weight_decay,
        epsilon=_EPSILON,
    )
    # decay keeps slopes small; an offset has no reason to be small
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def _row_losses(shape: NetworkShape, labels: Any, logits: Any) -> Any:
    if shape.task == "binary":
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits[:, 0])
    if shape.task == "multiclass":
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.cast(labels, tf.int32), logits=logits
        )
    return tf.square(logits[:, 0] - labels)


def _compiled_epoch(
    model: keras.Model, optimizer: Any, shape: NetworkShape, reduce: Reduce | None, workers: int
) -> Any:
    variables = model.trainable_variables
    sizes = [int(np.prod(variable.shape)) for variable in variables]
    seeds = _seed_states(model)

    @tf.function
    def epoch(data: Any, batches: Any, chance: Any) -> Any:
        (numbers, categories, labels), (index, weights, rows) = data, batches
        total = tf.zeros(())
        for step in tf.range(tf.shape(index)[0]):
            for place, seed in enumerate(seeds):
                seed.assign(chance[step] + tf.constant([place, 0], dtype=chance.dtype))
            chosen = index[step]
            inputs = model_inputs(shape, tf.gather(numbers, chosen), tf.gather(categories, chosen))
            with tf.GradientTape() as tape:
                logits = model(inputs, training=True)
                row_losses = _row_losses(shape, tf.gather(labels, chosen), logits)
                loss = tf.reduce_sum(row_losses * weights[step])
                for penalty in model.losses:  # of a user's family; each worker adds its part
                    loss += penalty / workers
            found = tape.gradient(
                loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            flat = [tf.reshape(tf.convert_to_tensor(gradient), [-1]) for gradient in found]
            vector = tf.concat([*flat, tf.reshape(loss, [1])], axis=0)
            if reduce is not None:
                vector = tf.ensure_shape(reduce(vector), [sum(sizes) + 1])
            parts = tf.split(vector, [*sizes, 1])
            gradients = [
                tf.reshape(part, variable.shape)
                for part, variable in zip(parts[:-1], variables, strict=True)
            ]
            optimizer.apply(gradients, variables)
            total += parts[-1][0] * rows[step]
        return total / tf.reduce_sum(rows)

    return epoch


def _compiled_loss(model: keras.Model, shape: NetworkShape) -> Any:
    @tf.function
    def mean_loss(numbers: Any, categories: Any, labels: Any) -> Any:
        total, rows = tf.zeros(()), tf.shape(labels)[0]
        for start in tf.range(0, rows, _VALIDATION_ROWS):
            part = slice(start, start + _VALIDATION_ROWS)
            inputs = model_inputs(shape, numbers[part], categories[part])
            logits = model(inputs, training=False)
            total += tf.reduce_sum(_row_losses(shape, labels[part], logits))
        return total / tf.cast(rows, tf.float32)

    return mean_loss


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


def _seed_states(model: keras.Model) -> list[Any]:
    """The states of the network's random layers, in the order of its layers."""
    known = {id(weight) for weight in model.weights}
    return [v for v in model.non_trainable_variables if id(v) not in known and v.shape == (2,)]


def _chance(seed: int, epoch: int, rank: int, steps: int, workers: int) -> NDArray[np.int64]:
    """Keys of chance [steps, 2], different in each step of each worker."""
    step = (epoch - 1) * steps + np.arange(steps, dtype=np.int64)
    counter = (step * workers + rank) * _SEEDS_A_STEP
    return np.stack([np.full(steps, seed * 1_000_003), counter], axis=1) & 0x7FFF_FFFF


def _advanced(state: State, report: EpochReport, model: keras.Model, optimizer: Any) -> State:
    weights = _copies(model.weights)
    better = report.validation_loss < state.best_loss
    return State(
        run=state.run,
        epoch=report.epoch,
        best_epoch=report.epoch if better else state.best_epoch,
        best_loss=report.validation_loss if better else state.best_loss,
        history=(*state.history, without_checkpoint(report)),
        weights=weights,
        optimizer=_copies(optimizer.variables),
        best=weights if better else state.best,
    )


def _copies(variables: list[Any]) -> tuple[NDArray[Any], ...]:
    return tuple(np.array(variable.value.numpy()) for variable in variables)


def _restore(model: keras.Model, optimizer: Any, state: State, run: str) -> None:
    if state.run != run:
        raise TrainingFailed(
            "the checkpoint belongs to a training with another shape, spec or number of rows; "
            "start this one under a new run name"
        )
    load_weights(model, pack_arrays(state.weights))
    for variable, value in zip(optimizer.variables, state.optimizer, strict=True):
        variable.assign(value)


def _task_hash(
    shape: NetworkShape, spec: TrainingSpec, train: Examples, validation: Examples
) -> str:
    told = {
        "shape": shape.to_json(),
        "spec": spec.model_dump(mode="json", exclude=_NOT_THE_TASK),
        "rows": [train.rows, validation.rows],
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _refuse_batch_statistics(model: keras.Model, workers: int) -> None:
    if workers > 1 and any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers
    ):
        raise TrainingFailed(
            "batch normalisation keeps statistics that workers do not share; use layer "
            "normalisation, or set training.workers to 1"
        )
