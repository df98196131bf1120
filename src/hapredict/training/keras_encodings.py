"""How columns come into a network: numbers as places within bins, codes as units or vectors.

Each layer writes itself into an ONNX graph with `to_onnx(graph, inputs) -> str`, by the same
arithmetic (see `onnx_graph.Graph`).
"""

from typing import Any

import keras
import numpy as np
from keras import layers, ops

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

    All bins of a number are divided by the fourth root of how many they are. A step moves the
    weights of all bins at once, so that finely cut numbers would learn faster than others and
    learn their noise (measured: docs/benchmarks.md, "Model quality").
    """

    def __init__(self, edges: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.edges = [[float(edge) for edge in column] for column in edges]
        column, low, inverse, floor, ceiling, first = [], [], [], [], [], []
        for place, exact in enumerate(self.edges):
            # edges that differ by less than a float32 can hold would divide by zero
            kept = np.unique(np.asarray(exact, dtype=np.float32))
            if len(kept) < 2:
                kept = np.array([kept[0], kept[0] + max(1.0, abs(kept[0]))], dtype=np.float32)
            last = len(kept) - 2
            first.append(kept[0])
            size = (last + 1) ** -0.25
            for t in range(last + 1):
                column.append(place)
                low.append(kept[t])
                inverse.append(size / (kept[t + 1] - kept[t]))
                floor.append(-_OUTER_MAX * size if t == 0 else 0.0)
                ceiling.append((1 + _OUTER_MAX if t == last else 1.0) * size)
        self.column = np.asarray(column, dtype=np.int32)
        self.low, self.inverse, self.floor, self.ceiling, self.first = (
            np.asarray(part, dtype=np.float32) for part in (low, inverse, floor, ceiling, first)
        )
        # numbers and flags are bins too: from 0, one wide, cut at their own limits
        count = len(self.edges)
        self._low = _ended(self.low, count, 0, 0)
        self._inverse = _ended(self.inverse, count, 1, 1)
        self._floor = _ended(self.floor, count, -_VALUE_MAX, 0)
        self._ceiling = _ended(self.ceiling, count, _VALUE_MAX, 1)
        chosen = np.concatenate([self.column, count + np.arange(2 * count)])
        self._choice = np.eye(3 * count, dtype=np.float32)[:, chosen]

    def call(self, numbers: Any) -> Any:
        count = len(self.edges)
        values, missing = numbers[:, :count], numbers[:, count:]
        values = values * (1.0 - missing)
        # at the first edge all bins are 0
        filled = values + missing * self.first
        together = ops.concatenate([filled, values, missing], axis=1)
        # a product with ones and zeros, for it copies columns many times faster than a gather
        spread = ops.matmul(together, self._choice)
        bins = (spread - self._low) * self._inverse
        return ops.minimum(ops.maximum(bins, self._floor), self._ceiling)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], len(self.column) + input_shape[1])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "edges": self.edges}

    def to_onnx(self, graph: Any, inputs: list[str]) -> str:
        """The same arithmetic in the same order.

        A missing number comes as 0, so its first edge is just added to it. Columns are copied by a
        product here too: ONNX Runtime's gather takes ten times as long.
        """
        filled, values, missing = np.split(self._choice, 3)
        copies = np.concatenate([filled + values, missing + filled * self.first[:, None]])
        x = graph.node("MatMul", [inputs[0], graph.floats(copies)])
        x = graph.node("Sub", [x, graph.floats(self._low)])
        x = graph.node("Mul", [x, graph.floats(self._inverse)])
        x = graph.node("Max", [x, graph.floats(self._floor)])
        return str(graph.node("Min", [x, graph.floats(self._ceiling)]))


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
            # a product copies columns many times faster than ONNX Runtime's gather
            copies = np.eye(len(self.levels), dtype=np.float32)[:, self.column]
            codes = graph.node("Cast", [inputs[0]], to=graph.FLOAT)
            chosen = graph.node("MatMul", [codes, graph.floats(copies)])
            equal = graph.node("Equal", [chosen, graph.floats(self.code)])
            parts.append(graph.node("Cast", [equal], to=graph.FLOAT))
        for place, table in zip(self.embedded, self.tables, strict=True):
            code = graph.node("Gather", [inputs[0], graph.integer(place)], axis=1)
            parts.append(graph.node("Gather", [graph.floats(table), code], axis=0))
        return str(graph.node("Concat", parts, axis=1))


def embedding_width(known: int) -> int:
    """Learned values a code, for a category with this many known levels."""
    return min(_EMBEDDING_MAX, max(1, round(1.6 * known**0.56)))


@keras.saving.register_keras_serializable(package=_PACKAGE)
class LevelEffects(layers.Layer):
    """What each level adds to each output, summed over the categories.

    [rows, k] int32 to [rows, outputs] float32. All levels start at 0: one that no training row
    has adds nothing.
    """

    def __init__(self, levels: Any, outputs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = [int(codes) for codes in levels]
        self.outputs = outputs
        # all levels share one table; a category's own begin here
        self.first = np.cumsum([0, *self.levels[:-1]]).astype(np.int32)

    def build(self, input_shape: Any) -> None:
        self.table = self.add_weight(
            name="table", shape=(sum(self.levels), self.outputs), initializer="zeros"
        )
        self.bias = self.add_weight(name="bias", shape=(self.outputs,), initializer="zeros")
        super().build(input_shape)

    def call(self, categories: Any) -> Any:
        return ops.sum(ops.take(self.table, categories + self.first, axis=0), axis=1) + self.bias

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], self.outputs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "levels": self.levels, "outputs": self.outputs}

    def to_onnx(self, graph: Any, inputs: list[str]) -> str:
        """One look-up for all categories."""
        places = graph.node("Add", [inputs[0], graph.integers(self.first, np.int32)])
        effects = graph.node("Gather", [graph.floats(self.table), places], axis=0)
        total = graph.node("ReduceSum", [effects, graph.integers([1])], keepdims=0)
        return str(graph.node("Add", [total, graph.floats(self.bias)]))


def _ended(bins: Any, count: int, number: float, flag: float) -> Any:
    """What holds for each bin, then for each number, then for each missing flag."""
    return np.concatenate([bins, np.repeat([number, flag], count)]).astype(np.float32)
