"""Dense layers of our own: over several inputs at once, and what members of an ensemble share.

Each writes itself into an ONNX graph with `to_onnx(graph, inputs) -> str`, by the same arithmetic
(see `onnx_graph.Graph`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

_PACKAGE = "hapredict"
_SCALES_APART = 0.5
"""Standard deviation of the members' first scales around 1."""


@keras.saving.register_keras_serializable(package=_PACKAGE)
class JoinedDense(layers.Layer):
    """A dense layer with ReLU over one or more inputs [rows, width], as if they were one.

    They are multiplied apart, so that nothing is copied, and so that no gradient is computed for
    an input that nothing learned goes into: encoded numbers are most of a table's width.
    """

    def __init__(self, units: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units, self.seed = units, seed

    def build(self, input_shape: Any) -> None:
        self.widths = [int(shape[-1]) for shape in _listed(input_shape)]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(sum(self.widths), self.units),
            initializer=keras.initializers.HeUniform(seed=self.seed),
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        return ops.relu(_product(_tensors(inputs), self.kernel, self.widths) + self.bias)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (_listed(input_shape)[0][0], self.units)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units, "seed": self.seed}

    def to_onnx(self, graph: Any, inputs: list[str]) -> str:
        """One product, over the inputs side by side."""
        joined = inputs[0] if len(inputs) == 1 else graph.node("Concat", inputs, axis=1)
        x = graph.node("Gemm", [joined, graph.floats(self.kernel), graph.floats(self.bias)])
        return str(graph.node("Relu", [x]))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Dropout(layers.Layer):
    """Dropout with a random byte a unit, where Keras' own draws a float: four times as cheap.

    The share is rounded to 1/256.
    """

    def __init__(self, rate: float, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self._below = min(255, max(1, round(rate * 256)))
        self._chance = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        shape = tf.shape(inputs)
        words = tf.random.stateless_uniform(
            (tf.reduce_prod(shape) // 4 + 1,),
            tf.cast(self._chance.next(), tf.int32),
            minval=None,
            maxval=None,
            dtype=tf.int32,
        )
        dice = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[: tf.reduce_prod(shape)]
        kept = tf.cast(tf.reshape(dice, shape) >= self._below, inputs.dtype)
        return inputs * (kept * (256 / (256 - self._below)))

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}

    def to_onnx(self, graph: Any, inputs: list[str]) -> str:  # noqa: ARG002 - each layer's form
        """Nothing: it drops units in training only."""
        return inputs[0]


@keras.saving.register_keras_serializable(package=_PACKAGE)
class MemberDense(layers.Layer):
    """A dense layer with ReLU that members share, each behind scales of its own on the inputs.

    One or more inputs [rows, width] to [rows * members, units], a row's members side by side. A
    scale is 1 and a learned bias, which starts at random, so that members differ from the first
    step on. TabM-mini (Gorishniy et al., 2024) starts from random signs; members that far apart
    need wider layers than ours to share (docs/benchmarks.md, "Model quality"). A member's scales
    are multiplied into the weights and not into the rows: one product [rows, width] x [width,
    members * units] serves all members, and an export holds the products ready.
    """

    def __init__(self, members: int, units: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members, self.units, self.seed = members, units, seed

    def build(self, input_shape: Any) -> None:
        self.widths = [int(shape[-1]) for shape in _listed(input_shape)]
        width = sum(self.widths)
        # called a bias because it must not decay: members would grow alike
        self.scales_bias = self.add_weight(
            name="scales_bias",
            shape=(width, self.members),
            initializer=keras.initializers.RandomNormal(0.0, _SCALES_APART, seed=self.seed),
        )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(width, self.units),
            initializer=keras.initializers.HeUniform(seed=self.seed + 1),
        )
        self.bias = self.add_weight(name="bias", shape=(self.units,), initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        kernel = ops.reshape(
            (1.0 + ops.expand_dims(self.scales_bias, 2)) * ops.expand_dims(self.kernel, 1),
            (sum(self.widths), self.members * self.units),
        )
        x = _product(_tensors(inputs), kernel, self.widths)
        return ops.relu(ops.reshape(x, (-1, self.units)) + self.bias)

    def compute_output_shape(self, input_shape: Any) -> Any:  # noqa: ARG002 - Keras names it
        return (None, self.units)

    def get_config(self) -> dict[str, Any]:
        own = {"members": self.members, "units": self.units, "seed": self.seed}
        return {**super().get_config(), **own}

    def to_onnx(self, graph: Any, inputs: list[str]) -> str:
        """One product with all members' weights, side by side."""
        scales, kernel = 1 + np.asarray(self.scales_bias), np.asarray(self.kernel)
        weights = (scales[:, :, None] * kernel[:, None, :]).reshape(len(kernel), -1)
        offset = np.tile(np.asarray(self.bias), self.members)
        joined = inputs[0] if len(inputs) == 1 else graph.node("Concat", inputs, axis=1)
        x = graph.node("Gemm", [joined, graph.floats(weights), graph.floats(offset)])
        x = graph.node("Reshape", [graph.node("Relu", [x]), graph.integers([-1, self.units])])
        return str(x)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class MemberHeads(layers.Layer):
    """Each member's own last layer: [rows * members, units] to [rows, members, outputs]."""

    def __init__(self, members: int, outputs: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.members, self.outputs, self.seed = members, outputs, seed

    def build(self, input_shape: Any) -> None:
        self.units = int(input_shape[-1])
        bound = (6 / (self.units + self.outputs)) ** 0.5  # Glorot's, of one member's head
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.members, self.units, self.outputs),
            initializer=keras.initializers.RandomUniform(-bound, bound, seed=self.seed),
        )
        self.bias = self.add_weight(
            name="bias", shape=(self.members, self.outputs), initializer="zeros"
        )
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        x = ops.reshape(inputs, (-1, self.members, self.units))
        if self.outputs == 1:  # several times faster than many small products
            return ops.sum(x * self.kernel[:, :, 0], axis=2, keepdims=True) + self.bias
        return ops.einsum("rmu,muo->rmo", x, self.kernel) + self.bias

    def compute_output_shape(self, input_shape: Any) -> Any:  # noqa: ARG002 - Keras names it
        return (None, self.members, self.outputs)

    def get_config(self) -> dict[str, Any]:
        own = {"members": self.members, "outputs": self.outputs, "seed": self.seed}
        return {**super().get_config(), **own}

    def to_onnx(self, graph: Any, inputs: list[str]) -> str:
        """One product a member, over all rows at once."""
        x = graph.node("Reshape", [inputs[0], graph.integers([-1, self.members, self.units])])
        x = graph.node("Transpose", [x], perm=[1, 0, 2])
        x = graph.node("MatMul", [x, graph.floats(self.kernel)])
        x = graph.node("Transpose", [x], perm=[1, 0, 2])
        return str(graph.node("Add", [x, graph.floats(self.bias)]))


def _product(parts: Sequence[Any], kernel: Any, widths: Sequence[int]) -> Any:
    """The product of inputs side by side with a kernel, each with its own rows of it."""
    if len(parts) == 1:
        return ops.matmul(parts[0], kernel)
    rows = ops.split(ops.convert_to_tensor(kernel), np.cumsum(widths[:-1]).tolist())
    return functools.reduce(ops.add, map(ops.matmul, parts, rows))


def _tensors(inputs: Any) -> list[Any]:
    return list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]


def _listed(shapes: Any) -> list[Any]:
    """One shape or several, as a list of shapes."""
    return list(shapes) if isinstance(shapes[0], (list, tuple)) else [shapes]
