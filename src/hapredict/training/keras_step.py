"""One epoch as one compiled call: all weights are one vector, all gradients another.

A step cuts the network's weights from the vector, so that the gradient arrives as one vector, is
added up over the workers in one go, and is applied in one fused operation. It is dense: Keras' own
Adam takes duplicate rows of a sparse gradient for separate ones and so learns embeddings at a wrong
rate.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from hapredict.errors import TrainingFailed
from hapredict.sections import TrainingSpec
from hapredict.training.keras_families import model_inputs
from hapredict.training.network import NetworkShape

Reduce: TypeAlias = Callable[[Any], Any]
"""From this worker's vector to the sum of all workers' vectors, inside a compiled function."""

_BETA_1, _BETA_2 = 0.9, 0.999
_EPSILON = 1e-6
"""Adam's, ten times Keras' default: rounding in gradients near zero then stays rounding."""
_VALIDATION_ROWS = 8192


class Stepper:
    """A network under training: its weights as one vector, AdamW's two moments, and a mean.

    The mean is that of the weights over the last steps. Training goes on from the weights; what is
    kept of a pass are the weights or their mean, whichever does better on the rows that judge. A
    network with statistics of its own has no mean: they belong to its last weights.
    """

    KEEPS = "adamw-mean"
    """Names what `memory` answers, so that a checkpoint of another kind is refused."""

    def __init__(
        self,
        model: keras.Model,
        shape: NetworkShape,
        spec: TrainingSpec,
        *,
        reduce: Reduce | None,
        workers: int,
        micro_batches: int,
    ) -> None:
        """Raises TrainingFailed for a network that this way of training would get wrong."""
        _refuse(model, workers)
        self.model = model
        self._shape = shape
        self._spec = spec
        self._reduce = reduce
        self._workers = workers
        self._micro_batches = micro_batches
        self._variables = list(model.trainable_variables)
        self._shapes = [tuple(variable.shape) for variable in self._variables]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._seeds = _seed_states(model)
        first = [np.asarray(variable.value.numpy()).ravel() for variable in self._variables]
        self._theta = tf.Variable(np.concatenate(first), name="theta")
        self._moments = [tf.Variable(tf.zeros_like(self._theta)) for _ in range(2)]
        self._mean = tf.Variable(self._theta, name="mean")
        self._averages = len(model.non_trainable_variables) == len(self._seeds)
        # decay keeps slopes small; an offset has no reason to be small
        decays = [0.0 if "bias" in variable.name else 1.0 for variable in self._variables]
        self._decay = tf.constant(np.repeat(decays, self._sizes).astype(np.float32))
        self._epoch = tf.function(self._run)
        self._loss = tf.function(self._mean_loss, reduce_retracing=True)

    def run(
        self,
        data: Sequence[Any],
        batches: tuple[NDArray[Any], NDArray[Any]],
        chance: NDArray[np.int64],
        rates: NDArray[np.float64],
        shares: NDArray[np.float64],
        first_step: int,
    ) -> NDArray[np.float32]:
        """Trains on a window and answers the loss of each step, float32 [steps].

        `data` are numbers, categories and labels, `batches` index and weight [steps, local],
        `chance` [steps, 2], `rates` [steps], `shares` [steps] of each step's weights in the mean;
        `first_step` counts the steps done before.
        """
        steps = first_step + 1 + np.arange(len(rates))
        shares = shares if self._averages else np.ones_like(shares)
        return np.asarray(
            self._epoch(
                *data,
                *batches,
                chance,
                rates.astype(np.float32),
                shares.astype(np.float32),
                (_BETA_1**steps).astype(np.float32),
                (_BETA_2**steps).astype(np.float32),
            )
        )

    def judged(self, data: Sequence[Any], weights: Any) -> tuple[float, tuple[NDArray[Any], ...]]:
        """The mean loss of rows, and the weights that have it: the last ones or their mean.

        The lower loss counts, or one that is no number. Members' logits are averaged.
        """
        kept = [self._theta, self._mean] if self._averages else [self._theta]
        losses = [float(self._loss(each.read_value(), *data, weights)) for each in kept]
        lowest = int(np.argmin(losses))  # the place of one that is no number, if there is one
        return losses[lowest], self._copies(kept[lowest])

    def weights(self) -> tuple[NDArray[Any], ...]:
        """Copies of the model's weights, in the order of `model.weights`."""
        return self._copies(self._theta)

    def memory(self) -> tuple[NDArray[Any], ...]:
        """Copies of AdamW's moments and of the mean weights: what a fit needs beside `weights`."""
        return tuple(np.array(kept.numpy()) for kept in (*self._moments, self._mean))

    def restore(self, memory: Sequence[NDArray[Any]]) -> None:
        """Takes the model's weights as they are now, and what `memory` answered."""
        flat = [np.asarray(variable.value.numpy()).ravel() for variable in self._variables]
        self._theta.assign(np.concatenate(flat))
        for variable, value in zip((*self._moments, self._mean), memory, strict=True):
            variable.assign(value)

    def _copies(self, theta: Any) -> tuple[NDArray[Any], ...]:
        parts = dict(zip(map(id, self._variables), self._parts(theta.numpy()), strict=True))
        return tuple(
            np.array(parts[id(v)] if id(v) in parts else v.value.numpy())
            for v in self.model.weights
        )

    def _parts(self, theta: Any) -> list[Any]:
        ends = np.cumsum(self._sizes)[:-1]
        return [
            part.reshape(s) for part, s in zip(np.split(theta, ends), self._shapes, strict=True)
        ]

    def _run(
        self,
        numbers: Any,
        categories: Any,
        labels: Any,
        index: Any,
        weights: Any,
        chance: Any,
        rates: Any,
        shares: Any,
        powers_1: Any,
        powers_2: Any,
    ) -> Any:
        steps = tf.shape(index)[0]
        losses = tf.TensorArray(tf.float32, size=steps, element_shape=())
        for step in tf.range(steps):
            theta = self._theta.read_value()
            vector = self._summed_gradient(
                theta,
                (numbers, categories, labels),
                index[step],
                weights[step],
                chance[step],
            )
            if self._reduce is not None:
                vector = tf.ensure_shape(self._reduce(vector), vector.shape)
            rate = rates[step]
            if self._spec.weight_decay:
                # only now: before, the network's weights are slices of the same memory
                with tf.control_dependencies([vector]):
                    kept = 1.0 - self._decay * (rate * self._spec.weight_decay)
                    self._theta.assign(theta * kept)
            tf.raw_ops.ResourceApplyAdam(
                var=self._theta.handle,
                m=self._moments[0].handle,
                v=self._moments[1].handle,
                beta1_power=powers_1[step],
                beta2_power=powers_2[step],
                lr=rate,
                beta1=_BETA_1,
                beta2=_BETA_2,
                epsilon=_EPSILON,
                grad=vector[:-1],
            )
            tf.raw_ops.ResourceApplyGradientDescent(  # in place, in one go
                var=self._mean.handle,
                alpha=shares[step],
                delta=self._mean.read_value() - self._theta.read_value(),
            )
            losses = losses.write(step, vector[-1])
        return losses.stack()

    def _summed_gradient(self, theta: Any, data: Any, index: Any, weights: Any, chance: Any) -> Any:
        """The gradient of a worker's rows and, at its end, their part of the loss."""
        if self._micro_batches == 1:
            return self._gradient(theta, data, index, weights, chance)
        rows = tf.shape(index)[0]
        each = (rows + self._micro_batches - 1) // self._micro_batches
        total = tf.zeros([sum(self._sizes) + 1])
        for micro in tf.range(self._micro_batches):
            part = slice(micro * each, (micro + 1) * each)
            shift = tf.cast(micro * len(self._seeds), chance.dtype)
            total += self._gradient(
                theta, data, index[part], weights[part], chance + tf.stack([shift, 0 * shift])
            )
        return total

    def _gradient(self, theta: Any, data: Any, index: Any, weights: Any, chance: Any) -> Any:
        shape, (numbers, categories, labels) = self._shape, data
        inputs = model_inputs(shape, tf.gather(numbers, index), tf.gather(categories, index))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(theta)
            parts = [
                tf.reshape(part, shape)
                for part, shape in zip(tf.split(theta, self._sizes), self._shapes, strict=True)
            ]
            state = self._state(chance)
            logits, state, penalties = self.model.stateless_call(
                parts, state, inputs, training=True, return_losses=True
            )
            row_losses = _row_losses(shape, tf.gather(labels, index), logits)
            loss = tf.reduce_sum(row_losses * weights)
            for penalty in penalties:  # of a user's family; each worker adds its part
                loss += penalty / (self._workers * self._micro_batches)
        self._keep(state)
        gradient = tape.gradient(loss, theta)
        return tf.concat([gradient, tf.reshape(loss, [1])], axis=0)

    def _state(self, chance: Any) -> list[Any]:
        """The values of the variables that are not trained: seeds are set, others go on."""
        places = {id(seed): place for place, seed in enumerate(self._seeds)}
        return [
            tf.cast(chance + tf.constant([0, places[id(v)]], chance.dtype), v.dtype)
            if id(v) in places
            else v.value
            for v in self.model.non_trainable_variables
        ]

    def _keep(self, state: Sequence[Any]) -> None:
        seeds = set(map(id, self._seeds))
        for variable, value in zip(self.model.non_trainable_variables, state, strict=True):
            if id(variable) not in seeds:
                variable.assign(value)

    def _mean_loss(
        self, theta: Any, numbers: Any, categories: Any, labels: Any, weights: Any
    ) -> Any:
        shape = self._shape
        parts = [
            tf.reshape(part, shape)
            for part, shape in zip(tf.split(theta, self._sizes), self._shapes, strict=True)
        ]
        state = [v.value for v in self.model.non_trainable_variables]
        total, rows = tf.zeros(()), tf.shape(labels)[0]
        for start in tf.range(0, rows, _VALIDATION_ROWS):
            some = slice(start, start + _VALIDATION_ROWS)
            inputs = model_inputs(shape, numbers[some], categories[some])
            logits, _ = self.model.stateless_call(parts, state, inputs, training=False)
            if len(logits.shape) == 3:
                logits = tf.reduce_mean(logits, axis=1)
            total += tf.reduce_sum(_row_losses(shape, labels[some], logits) * weights[some])
        return total / tf.reduce_sum(weights)


def _row_losses(shape: NetworkShape, labels: Any, logits: Any) -> Any:
    """The loss of each row; of members, the mean of their losses."""
    if len(logits.shape) == 3:
        members = logits.shape[1]
        flat = _row_losses(
            shape, tf.repeat(labels, members), tf.reshape(logits, [-1, logits.shape[2]])
        )
        return tf.reduce_mean(tf.reshape(flat, [-1, members]), axis=1)
    if shape.task == "binary":
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits[:, 0])
    if shape.task == "multiclass":
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.cast(labels, tf.int32), logits=logits
        )
    if shape.quantiles:  # the pinball loss (Koenker and Bassett, 1978)
        above = labels[:, None] - logits
        levels = tf.constant(shape.quantiles, tf.float32)
        return tf.reduce_mean(tf.maximum(levels * above, (levels - 1) * above), axis=1)
    return tf.square(logits[:, 0] - labels)


def _seed_states(model: keras.Model) -> list[Any]:
    """The states of the network's random layers, in the order of its layers."""
    known = {id(weight) for weight in model.weights}
    return [v for v in model.non_trainable_variables if id(v) not in known and v.shape == (2,)]


def _refuse(model: keras.Model, workers: int) -> None:
    if workers > 1 and any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers
    ):
        raise TrainingFailed(
            "batch normalisation keeps statistics that workers do not share; use layer "
            "normalisation, or set training.workers to 1"
        )
    if not model.trainable_variables:
        raise TrainingFailed(f"model {model.name!r} has nothing to train")
    bound = [v.path for v in model.trainable_variables if getattr(v, "constraint", None)]
    if bound:
        raise TrainingFailed(
            f"constraints on {', '.join(bound)} would not be kept; use a penalty instead"
        )
