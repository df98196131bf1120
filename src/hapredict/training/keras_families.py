"""Model families: from a network's shape to a Keras model.

A family is a function of the shape and the spec. Its model takes `numbers` and `categories` (the
ones that the shape has, by these names) and answers `logits` [rows, outputs]. Layers that Keras
brings are exported as they are; a layer of one's own joins the export with a method
`to_onnx(graph, inputs) -> str` (see `keras_export.Graph`).
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import layers, ops

from hapredict.errors import TrainingFailed
from hapredict.plugins import Plugins
from hapredict.spec import TrainingSpec
from hapredict.training.network import NetworkShape

Family: TypeAlias = Callable[[NetworkShape, TrainingSpec], keras.Model]

FAMILIES: Plugins[Family] = Plugins("model family")

_PACKAGE = "hapredict"
_VALUE_MAX = 8.0
"""Scaled values are cut here, so that one absurd amount cannot drown a row."""
_OUTER_MAX = 1.0
"""How far the outermost pieces run on beyond their edge, in widths of the piece."""
_ONE_HOT_LEVELS_MAX = 9
"""Categories with more known levels are embedded (research: RealMLP's rule)."""
_EMBEDDING_MAX = 16


@keras.saving.register_keras_serializable(package=_PACKAGE)
class PiecewiseLinear(layers.Layer):
    """Numbers as positions within bins, beside the numbers themselves and their missing flags.

    [rows, 2n] to [rows, sum(bins) + 2n]. Bin t of a number with edges e answers
    (x - e[t]) / (e[t + 1] - e[t]), cut to [0, 1]; the first and the last bin run on outwards for
    one more width. Bins of a missing number are 0. A network can so bend a number at each edge,
    which standardised inputs alone do not offer (Gorishniy et al., 2022).
    """

    def __init__(self, edges: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.edges = [[float(edge) for edge in column] for column in edges]
        column, low, inverse, floor, ceiling = [], [], [], [], []
        for place, exact in enumerate(self.edges):
            # edges that differ by less than a float32 can hold would divide by zero
            kept = np.unique(np.asarray(exact, dtype=np.float32))
            if len(kept) < 2:
                kept = np.array([kept[0], kept[0] + max(1.0, abs(kept[0]))], dtype=np.float32)
            last = len(kept) - 2
            for t in range(last + 1):
                column.append(place)
                low.append(kept[t])
                inverse.append(1 / (kept[t + 1] - kept[t]))
                floor.append(-_OUTER_MAX if t == 0 else 0.0)
                ceiling.append(1 + _OUTER_MAX if t == last else 1.0)
        self.column = np.asarray(column, dtype=np.int32)
        self.low, self.inverse, self.floor, self.ceiling = (
            np.asarray(part, dtype=np.float32) for part in (low, inverse, floor, ceiling)
        )

    def call(self, numbers: Any) -> Any:
        count = len(self.edges)
        values, missing = numbers[:, :count], numbers[:, count:]
        present = 1.0 - missing
        bins = (ops.take(values, self.column, axis=1) - self.low) * self.inverse
        bins = ops.minimum(ops.maximum(bins, self.floor), self.ceiling)
        bins = bins * ops.take(present, self.column, axis=1)
        values = ops.clip(values, -_VALUE_MAX, _VALUE_MAX) * present
        return ops.concatenate([bins, values, missing], axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], len(self.column) + input_shape[1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "edges": self.edges}

    def to_onnx(self, graph: Any, inputs: list[str]) -> str:
        """The same arithmetic in the same order."""
        count = len(self.edges)
        values = graph.node("Gather", [inputs[0], graph.integers(range(count))], axis=1)
        missing = graph.node("Gather", [inputs[0], graph.integers(range(count, 2 * count))], axis=1)
        present = graph.node("Sub", [graph.floats([1.0]), missing])
        column = graph.integers(self.column)
        bins = graph.node("Gather", [values, column], axis=1)
        bins = graph.node("Sub", [bins, graph.floats(self.low)])
        bins = graph.node("Mul", [bins, graph.floats(self.inverse)])
        bins = graph.node("Max", [bins, graph.floats(self.floor)])
        bins = graph.node("Min", [bins, graph.floats(self.ceiling)])
        bins = graph.node("Mul", [bins, graph.node("Gather", [present, column], axis=1)])
        limits = [graph.scalar(-_VALUE_MAX), graph.scalar(_VALUE_MAX)]
        values = graph.node("Mul", [graph.node("Clip", [values, *limits]), present])
        return str(graph.node("Concat", [bins, values, missing], axis=1))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class CategoryCodes(layers.Layer):
    """Codes as vectors: one unit a code for small categories, a learned vector for others.

    [rows, k] int32 to [rows, width] float32. A category with at most 9 known levels (11 codes,
    with missing and unseen) is one-hot. One with more gets min(16, round(1.6 * known ** 0.56))
    learned values a code, a common rule of thumb.
    """

    def __init__(self, levels: Any, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = [int(codes) for codes in levels]
        self.seed = seed
        self.one_hot = [p for p, c in enumerate(self.levels) if c - 2 <= _ONE_HOT_LEVELS_MAX]
        self.embedded = [p for p in range(len(self.levels)) if p not in self.one_hot]
        self.tables: list[Any] = []
        # column and code of each one-hot unit
        self.column = np.repeat(self.one_hot, [self.levels[p] for p in self.one_hot])
        self.column = self.column.astype(np.int32)
        codes = [np.arange(self.levels[p]) for p in self.one_hot]
        self.code = np.concatenate([*codes, np.zeros(0)]).astype(np.int32)

    def build(self, input_shape: Any) -> None:
        self.tables = [
            self.add_weight(
                name=f"table_{place}",
                shape=(self.levels[place], embedding_width(self.levels[place] - 2)),
                initializer=keras.initializers.RandomUniform(-0.05, 0.05, seed=self.seed + place),
            )
            for place in self.embedded
        ]
        super().build(input_shape)

    def call(self, categories: Any) -> Any:
        parts = []
        if self.one_hot:
            chosen = ops.take(categories, self.column, axis=1)
            parts.append(ops.cast(ops.equal(chosen, self.code), self.compute_dtype))
        for place, table in zip(self.embedded, self.tables, strict=True):
            parts.append(ops.take(table, categories[:, place], axis=0))
        return ops.concatenate(parts, axis=1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        widths = [embedding_width(self.levels[place] - 2) for place in self.embedded]
        return (input_shape[0], len(self.column) + sum(widths))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "levels": self.levels, "seed": self.seed}

    def to_onnx(self, graph: Any, inputs: list[str]) -> str:
        """One comparison for all one-hot units, one look-up a learned table."""
        parts = []
        if self.one_hot:
            chosen = graph.node("Gather", [inputs[0], graph.integers(self.column)], axis=1)
            equal = graph.node("Equal", [chosen, graph.integers(self.code, np.int32)])
            parts.append(graph.node("Cast", [equal], to=graph.FLOAT))
        for place, table in zip(self.embedded, self.tables, strict=True):
            code = graph.node("Gather", [inputs[0], graph.integer(place)], axis=1)
            parts.append(graph.node("Gather", [graph.floats(table), code], axis=0))
        return str(graph.node("Concat", parts, axis=1))


def embedding_width(known: int) -> int:
    """Learned values a code, for a category with this many known levels."""
    return min(_EMBEDDING_MAX, max(1, round(1.6 * known**0.56)))


@FAMILIES.register("mlp")
def mlp(shape: NetworkShape, spec: TrainingSpec) -> keras.Model:
    """Piecewise-linear numbers and encoded categories through dense layers with ReLU and dropout.

    No hidden layer (`training.hidden: []`) makes it an additive model.
    """
    inputs, encoded = {}, []
    if shape.edges:
        inputs["numbers"] = keras.Input((2 * len(shape.edges),), dtype="float32", name="numbers")
        encoded.append(PiecewiseLinear(shape.edges, name="bins")(inputs["numbers"]))
    if shape.levels:
        inputs["categories"] = keras.Input((len(shape.levels),), dtype="int32", name="categories")
        codes = CategoryCodes(shape.levels, seed=spec.seed, name="codes")
        encoded.append(codes(inputs["categories"]))
    x = layers.Concatenate(name="encoded")(encoded) if len(encoded) > 1 else encoded[0]
    for place, units in enumerate(spec.hidden):
        seed = spec.seed + 1_000 * (place + 1)
        x = layers.Dense(
            units,
            activation="relu",
            kernel_initializer=keras.initializers.HeUniform(seed=seed),
            name=f"hidden_{place}",
        )(x)
        if spec.dropout:
            x = layers.Dropout(spec.dropout, seed=seed + 1, name=f"dropout_{place}")(x)
    last = keras.initializers.GlorotUniform(seed=spec.seed + 999)
    logits = layers.Dense(shape.outputs, kernel_initializer=last, name="logits")(x)
    return keras.Model(inputs, logits, name="mlp")


def build(shape: NetworkShape, spec: TrainingSpec) -> keras.Model:
    """The spec's family built for a shape. The same shape and spec give the same first weights.

    Raises UnknownName for a family that does not exist, TrainingFailed if its model has other
    inputs or outputs than the shape.
    """
    # a family of a user may leave seeds out; workers must still start from equal weights
    keras.utils.set_random_seed(spec.seed)
    model = FAMILIES.find(spec.family)(shape, spec)
    names = tuple(sorted(tensor.name for tensor in model.inputs))
    output = model.outputs[0].shape if len(model.outputs) == 1 else None
    if names != tuple(sorted(shape.inputs)) or output != (None, shape.outputs):
        raise TrainingFailed(
            f"family {spec.family!r} built inputs {names} and output {output}; expected inputs "
            f"{shape.inputs} and one output {(None, shape.outputs)}"
        )
    return model


def model_inputs(shape: NetworkShape, numbers: Any, categories: Any) -> dict[str, Any]:
    """The inputs that a model of this shape takes, by name."""
    given = {"numbers": numbers, "categories": categories}
    return {name: given[name] for name in shape.inputs}
