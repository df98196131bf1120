"""Turns a fitted network into what replicas load: an ONNX graph that answers scores.

The graph is written node by node from the Keras model, so that its inputs, its arithmetic and its
bytes are ours: equal weights give equal bytes. Units of the target and probabilities are part of
the graph. Nothing leaves here unproven: the graph runs on ONNX Runtime against Keras, over the
sample and over rows made to break it.
"""

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import keras
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hapredict.errors import GateRefused
from hapredict.spec import TrainingSpec
from hapredict.training.keras_families import build, model_inputs
from hapredict.training.keras_fit import load_weights
from hapredict.training.network import Examples, NetworkShape

_OPSET = 17
_IR_VERSION = 9
"""Older than the newest on purpose: every ONNX Runtime of the last years reads it."""
_ROWS_MAX = 20_000
_HARD_ROWS = 64
_EXTREME = 1e6
_ACTIVATIONS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "elu": "Elu",
    "selu": "Selu",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """A network in the form that replicas load, and the proof that it is the same network."""

    onnx: bytes
    """Inputs `numbers` and `categories`, as the shape has them; output `scores` [rows, outputs]."""
    keras: bytes
    """The model as a `.keras` file, which loads in Keras' safe mode."""
    parity: float
    """Largest difference of a score between the two; of a regression in units of label_scale."""
    rows: int
    """Rows that were compared."""


class Graph:
    """An ONNX graph under construction; values go by name."""

    FLOAT = onnx.TensorProto.FLOAT

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Adds a node with one output and answers its name."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, array: NDArray[Any]) -> str:
        """Adds a constant and answers its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def floats(self, values: Any) -> str:
        """A float32 constant of the values' own shape."""
        return self.constant(np.asarray(_plain(values), dtype=np.float32))

    def scalar(self, value: float) -> str:
        """A float32 constant without axes."""
        return self.constant(np.array(value, dtype=np.float32).reshape(()))

    def integers(self, values: Iterable[int], kind: Any = np.int64) -> str:
        """A constant of whole numbers with one axis."""
        return self.constant(np.array(list(values), dtype=kind))

    def integer(self, value: int) -> str:
        """An int64 constant without axes."""
        return self.constant(np.array(value, dtype=np.int64).reshape(()))


def export(shape: NetworkShape, spec: TrainingSpec, weights: bytes, sample: Examples) -> Exported:
    """The network with these weights as ONNX and as a `.keras` file, compared on a sample.

    Raises GateRefused if a layer has no ONNX form, if the graph's inputs are not the shape's, or if
    a score differs by more than `spec.parity_max` on the sample's first 20,000 rows or on rows with
    missing, unseen and extreme values.
    """
    model = build(shape, spec)
    load_weights(model, weights)
    network = to_onnx(model, shape)
    rows = _with_hard_rows(shape, sample.take(slice(0, _ROWS_MAX)))
    expected = keras_scores(model, shape, rows)
    parity = _parity(shape, expected, onnx_scores(network, shape, rows))
    saved = _keras_bytes(model)
    loaded = keras_scores(_load_keras(saved), shape, rows)
    parity = max(parity, _parity(shape, expected, loaded))
    if not parity <= spec.parity_max:
        raise GateRefused(
            f"the exported network differs from Keras by {parity:.2e} in a score, over "
            f"{rows.rows} rows; training.parity_max allows {spec.parity_max:.2e}"
        )
    return Exported(network, saved, parity, rows.rows)


def keras_scores(model: keras.Model, shape: NetworkShape, examples: Examples) -> NDArray[Any]:
    """Keras' scores, float64 [rows, outputs]: probabilities, or values in the target's units."""
    parts = []
    for start in range(0, examples.rows, 4096):
        part = examples.take(slice(start, start + 4096))
        inputs = model_inputs(shape, part.numbers, part.categories)
        parts.append(_plain(model(inputs, training=False)))
    logits = np.concatenate(parts)
    if shape.task == "regression":
        return logits * shape.label_scale + shape.label_mean
    if shape.task == "multiclass":
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))


def onnx_scores(network: bytes, shape: NetworkShape, examples: Examples) -> NDArray[Any]:
    """ONNX Runtime's scores, float32 [rows, outputs]. Raises GateRefused if inputs differ."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    names = tuple(value.name for value in session.get_inputs())
    outputs = [value.name for value in session.get_outputs()]
    if names != shape.inputs or outputs != ["scores"]:
        raise GateRefused(
            f"the exported network takes {names} and answers {outputs}; a replica gives "
            f"{shape.inputs} and reads ['scores']"
        )
    inputs = model_inputs(shape, examples.numbers, examples.categories)
    return np.asarray(session.run(["scores"], inputs)[0])


def to_onnx(model: keras.Model, shape: NetworkShape) -> bytes:
    """The model's graph with scores on top. Equal weights give equal bytes.

    Raises GateRefused, with the layer's name, if a layer has no ONNX form.
    """
    graph = Graph()
    names = {id(tensor): tensor.name for tensor in model.inputs}
    logits = _walk(graph, model, names)
    _add_scores(graph, logits, shape)
    widths = {"numbers": 2 * len(shape.edges), "categories": len(shape.levels)}
    kinds = {"numbers": onnx.TensorProto.FLOAT, "categories": onnx.TensorProto.INT32}
    inputs = [
        helper.make_tensor_value_info(name, kinds[name], ["rows", widths[name]])
        for name in shape.inputs
    ]
    scores = helper.make_tensor_value_info("scores", Graph.FLOAT, ["rows", shape.outputs])
    made = helper.make_model(
        helper.make_graph(graph.nodes, "network", inputs, [scores], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="hapredict",
    )
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def _walk(graph: Graph, model: Any, names: dict[int, str]) -> str:
    """Adds the nodes of a functional model; `names` holds the names of its inputs."""
    layers = getattr(model, "_nodes_by_depth", None)
    if layers is None:
        raise GateRefused(f"model {model.name!r} is no functional model, so it has no graph")
    for depth in sorted(layers, reverse=True):
        for node in layers[depth]:
            if node.is_input:
                continue
            inputs = [names[id(tensor)] for tensor in node.input_tensors]
            operation = node.operation
            if hasattr(operation, "to_onnx"):
                output = operation.to_onnx(graph, inputs)
            elif isinstance(operation, keras.Model):
                inner = zip(operation.inputs, inputs, strict=True)
                output = _walk(graph, operation, {id(tensor): name for tensor, name in inner})
            else:
                output = _layer(graph, operation, inputs)
            names[id(node.outputs[0])] = output
    return names[id(model.outputs[0])]


def _layer(graph: Graph, layer: Any, inputs: list[str]) -> str:
    for kind, write in _LAYERS.items():
        if isinstance(layer, kind):
            return write(graph, layer, inputs)
    known = ", ".join(sorted(kind.__name__ for kind in _LAYERS))
    raise GateRefused(
        f"layer {layer.name!r} ({type(layer).__name__}) has no ONNX form; use one of {known}, or "
        "give the layer a method to_onnx(graph, inputs)"
    )


def _activated(graph: Graph, function: Any, value: str) -> str:
    name = getattr(function, "__name__", str(function))
    if name == "linear":
        return value
    if name == "softmax":
        return graph.node("Softmax", [value], axis=-1)
    if name == "silu":
        return graph.node("Mul", [value, graph.node("Sigmoid", [value])])
    if name not in _ACTIVATIONS:
        known = ", ".join(sorted([*_ACTIVATIONS, "linear", "silu", "softmax"]))
        raise GateRefused(f"activation {name!r} has no ONNX form; use one of {known}")
    return graph.node(_ACTIVATIONS[name], [value])


def _dense(graph: Graph, layer: Any, inputs: list[str]) -> str:
    operands = [inputs[0], graph.floats(layer.kernel)]
    if layer.use_bias:
        operands.append(graph.floats(layer.bias))
    return _activated(graph, layer.activation, graph.node("Gemm", operands))


def _embedding(graph: Graph, layer: Any, inputs: list[str]) -> str:
    return graph.node("Gather", [graph.floats(layer.embeddings), inputs[0]], axis=0)


def _layer_normalization(graph: Graph, layer: Any, inputs: list[str]) -> str:
    width = int(layer.input.shape[-1])
    gamma = graph.floats(layer.gamma if layer.gamma is not None else np.ones(width))
    beta = graph.floats(layer.beta if layer.beta is not None else np.zeros(width))
    return graph.node(
        "LayerNormalization", [inputs[0], gamma, beta], axis=-1, epsilon=float(layer.epsilon)
    )


def _batch_normalization(graph: Graph, layer: Any, inputs: list[str]) -> str:
    gain = 1 / np.sqrt(_plain(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        gain = gain * _plain(layer.gamma)
    offset = -_plain(layer.moving_mean) * gain
    if layer.center:
        offset = offset + _plain(layer.beta)
    scaled = graph.node("Mul", [inputs[0], graph.floats(gain)])
    return graph.node("Add", [scaled, graph.floats(offset)])


def _flatten(graph: Graph, layer: Any, inputs: list[str]) -> str:
    return graph.node("Reshape", [inputs[0], graph.integers([-1, int(layer.output.shape[-1])])])


def _concatenate(graph: Graph, layer: Any, inputs: list[str]) -> str:
    return graph.node("Concat", inputs, axis=int(layer.axis))


def _folded(operator: str) -> Callable[[Graph, Any, list[str]], str]:
    def write(graph: Graph, _: Any, inputs: list[str]) -> str:
        value = inputs[0]
        for other in inputs[1:]:
            value = graph.node(operator, [value, other])
        return value

    return write


def _plain(values: Any) -> NDArray[Any]:
    """Variables, tensors and lists as one kind of array, in double precision."""
    values = getattr(values, "value", values)
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values, dtype=np.float64)


def _nothing(_graph: Graph, _layer: Any, inputs: list[str]) -> str:
    return inputs[0]


def _relu(graph: Graph, layer: Any, inputs: list[str]) -> str:
    if layer.max_value is not None or layer.negative_slope or layer.threshold:
        raise GateRefused(f"layer {layer.name!r} is a bent ReLU, which has no ONNX form here")
    return graph.node("Relu", inputs)


_LAYERS: dict[Any, Callable[[Graph, Any, list[str]], str]] = {
    keras.layers.Dense: _dense,
    keras.layers.Embedding: _embedding,
    keras.layers.Activation: lambda g, layer, x: _activated(g, layer.activation, x[0]),
    keras.layers.ReLU: _relu,
    keras.layers.LayerNormalization: _layer_normalization,
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Flatten: _flatten,
    keras.layers.Concatenate: _concatenate,
    keras.layers.Add: _folded("Add"),
    keras.layers.Multiply: _folded("Mul"),
    keras.layers.Dropout: _nothing,
    keras.layers.GaussianNoise: _nothing,
}


def _add_scores(graph: Graph, logits: str, shape: NetworkShape) -> None:
    if shape.task == "binary":
        last = helper.make_node("Sigmoid", [logits], ["scores"])
    elif shape.task == "multiclass":
        last = helper.make_node("Softmax", [logits], ["scores"], axis=1)
    else:
        scaled = graph.node("Mul", [logits, graph.floats([shape.label_scale])])
        last = helper.make_node("Add", [scaled, graph.floats([shape.label_mean])], ["scores"])
    graph.nodes.append(last)


def _parity(shape: NetworkShape, expected: NDArray[Any], got: NDArray[Any]) -> float:
    if got.shape != expected.shape:
        raise GateRefused(f"the exported scores are {got.shape}; expected {expected.shape}")
    # far from all labels, float32 holds a regression's value only to a share of it
    size = np.maximum(1.0, np.abs(expected - shape.label_mean) / shape.label_scale)
    return float(np.max(np.abs(expected - got) / size, initial=0.0)) / shape.label_scale


def _with_hard_rows(shape: NetworkShape, sample: Examples) -> Examples:
    """The sample, and rows in which one thing after the other is missing, unseen or extreme."""
    chance = np.random.default_rng(0)
    count = len(shape.edges)
    values = chance.normal(size=(_HARD_ROWS, count)).astype(np.float32)
    missing = np.zeros((_HARD_ROWS, count), dtype=np.float32)
    codes = chance.integers(
        0, np.array(shape.levels, dtype=np.int64), (_HARD_ROWS, len(shape.levels))
    )
    kinds = np.arange(_HARD_ROWS) % 8
    values[kinds == 1] *= 1e3
    values[kinds == 2] = _EXTREME
    values[kinds == 3] = -_EXTREME
    missing[kinds == 4] = 1
    for row in np.flatnonzero(kinds == 5):
        values[row] = [edges[row % len(edges)] for edges in shape.edges]
    missing[kinds == 6] = chance.integers(0, 2, (int(np.sum(kinds == 6)), count))
    values[missing == 1] = 0
    codes[kinds == 4] = 0
    codes[kinds == 2] = 1
    codes[kinds == 3] = np.array(shape.levels, dtype=np.int64) - 1
    return Examples(
        np.concatenate([sample.numbers, np.concatenate([values, missing], axis=1)]),
        np.concatenate([sample.categories, codes.astype(np.int32)]),
        np.concatenate([sample.labels, np.zeros(_HARD_ROWS, dtype=np.float32)]),
    )


def _keras_bytes(model: keras.Model) -> bytes:
    """The model as a `.keras` file without the time of its making, so that equal models are equal.

    A `.keras` file is a ZIP archive of two JSON files and the weights.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        model.save(path)
        with ZipFile(path) as archive:
            members = {name: archive.read(name) for name in sorted(archive.namelist())}
    version = f'{{"keras_version": "{keras.__version__}", "date_saved": ""}}'
    members["metadata.json"] = version.encode()
    buffer = BytesIO()
    with ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(ZipInfo(name), content)
    return buffer.getvalue()


def _load_keras(raw: bytes) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        path.write_bytes(raw)
        return keras.saving.load_model(path, compile=False, safe_mode=True)
