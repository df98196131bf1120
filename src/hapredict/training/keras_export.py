"""What a Keras network hands to the export: its nodes, its logits and its `.keras` file.

Layers are written node by node from the Keras model. A layer of one's own joins with a method
`to_onnx(graph, inputs) -> str` (see `onnx_graph.Graph`). A layer without an ONNX form is refused by
name.
"""

import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import keras
import numpy as np
from numpy.typing import NDArray

from hapredict.errors import GateRefused
from hapredict.sections import TrainingSpec
from hapredict.training.keras_families import build, model_inputs
from hapredict.training.keras_fit import load_weights
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.onnx_graph import Graph, plain_array

_CALL_ROWS = 4096
_ACTIVATIONS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "softplus": "Softplus",
    "softsign": "Softsign",
    "elu": "Elu",
    "selu": "Selu",
}


def graph_logits(graph: Graph, shape: NetworkShape, spec: TrainingSpec, weights: bytes) -> str:
    """Adds the network with these weights; the name of its logits [rows, outputs].

    Logits [rows, members, outputs] become `graph.members`, and their mean is what counts. Raises
    GateRefused, with the layer's name, if a layer has no ONNX form.
    """
    model = _model(shape, spec, weights)
    logits = _walk(graph, model, {id(tensor): tensor.name for tensor in model.inputs})
    if not _votes(model):
        return logits
    graph.members = logits
    return graph.node("ReduceMean", [logits], axes=[1], keepdims=0)


def logits(
    shape: NetworkShape, spec: TrainingSpec, weights: bytes, examples: Examples
) -> NDArray[np.float64]:
    """Keras' own logits [rows, outputs]: the mean of the members' where they vote."""
    found = member_logits(shape, spec, weights, examples)
    return found.mean(axis=1) if found.ndim == 3 else found


def member_logits(
    shape: NetworkShape, spec: TrainingSpec, weights: bytes, examples: Examples
) -> NDArray[np.float64]:
    """Keras' own logits as the network answers them, [rows, members, outputs] where members vote.

    An exporter without this function has no members.
    """
    return model_logits(_model(shape, spec, weights), shape, examples)


def source(shape: NetworkShape, spec: TrainingSpec, weights: bytes) -> bytes:
    """The network as a `.keras` file, which loads in Keras' safe mode. Equal weights, equal bytes.

    Raises GateRefused if what was saved does not load again as the same network.
    """
    model = _model(shape, spec, weights)
    raw = _keras_bytes(model)
    again = load_source(raw).get_weights()
    if not all(map(np.array_equal, again, model.get_weights())):
        raise GateRefused("the network's .keras file loads with other weights than were saved")
    return raw


def model_logits(
    model: keras.Model, shape: NetworkShape, examples: Examples
) -> NDArray[np.float64]:
    """A model's logits, as it answers them, in double precision."""
    parts = []
    for start in range(0, max(1, examples.rows), _CALL_ROWS):
        part = examples.take(slice(start, start + _CALL_ROWS))
        inputs = model_inputs(shape, part.numbers, part.categories)
        parts.append(plain_array(model(inputs, training=False)))
    return np.concatenate(parts)


def load_source(raw: bytes) -> keras.Model:
    """The network in a `.keras` file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        path.write_bytes(raw)
        return keras.saving.load_model(path, compile=False, safe_mode=True)


def _model(shape: NetworkShape, spec: TrainingSpec, weights: bytes) -> keras.Model:
    # a network that was trained in half precision is exported and judged in full
    model = build(shape, spec.model_copy(update={"precision": "float32"}))
    load_weights(model, weights)
    return model


def _votes(model: keras.Model) -> bool:
    return len(model.outputs[0].shape) == 3


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
    gain = 1 / np.sqrt(plain_array(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        gain = gain * plain_array(layer.gamma)
    offset = -plain_array(layer.moving_mean) * gain
    if layer.center:
        offset = offset + plain_array(layer.beta)
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
