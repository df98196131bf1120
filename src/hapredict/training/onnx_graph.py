"""An ONNX graph under construction, and what every family's graph ends in.

The graph is written node by node, so that its inputs, its arithmetic and its bytes are ours: equal
weights give equal bytes. Exporters add the nodes that lead to logits; from there on all families
are alike, and probabilities or the units of the target are part of the graph.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hapredict.training.extras import EXTRAS, UNCERTAINTY, quantile_names
from hapredict.training.finish import Finish, pieces, weight_offsets
from hapredict.training.network import NetworkShape

TREES = "ai.onnx.ml"
"""The domain of ONNX's operators for trees."""

_OPSETS = {"": 17, TREES: 3}
_IR_VERSION = 9
"""Older than the newest on purpose: every ONNX Runtime of the last years reads it."""
_LARGEST = float(np.finfo(np.float32).max)


class Graph:
    """An ONNX graph under construction; values go by name."""

    FLOAT = onnx.TensorProto.FLOAT

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.members = ""
        """The logits of each member [rows, members, outputs], of a model whose members vote."""

    def node(self, operator: str, inputs: list[str], *, domain: str = "", **attributes: Any) -> str:
        """Adds a node with one output and answers its name. `domain` is "" or `TREES`."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def constant(self, array: NDArray[Any]) -> str:
        """Adds a constant and answers its name."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def floats(self, values: Any) -> str:
        """A float32 constant of the values' own shape."""
        return self.constant(plain_array(values).astype(np.float32))

    def scalar(self, value: float) -> str:
        """A float32 constant without axes."""
        return self.constant(np.array(value, dtype=np.float32).reshape(()))

    def integers(self, values: Iterable[int], kind: Any = np.int64) -> str:
        """A constant of whole numbers with one axis."""
        return self.constant(np.array(list(values), dtype=kind))

    def integer(self, value: int) -> str:
        """An int64 constant without axes."""
        return self.constant(np.array(value, dtype=np.int64).reshape(()))


def plain_array(values: Any) -> NDArray[np.float64]:
    """Numbers, arrays, and a framework's variables and tensors as one kind of array."""
    values = getattr(values, "value", values)
    return np.asarray(values.numpy() if hasattr(values, "numpy") else values, dtype=np.float64)


def to_model(graph: Graph, logits: str, shape: NetworkShape, finish: Finish) -> bytes:
    """The whole model, from `numbers` and `categories` to `scores`, and `extras` if there are any.

    `logits` names a value [rows, shape.outputs]. Equal graphs give equal bytes. Raises onnx' own
    errors if the graph is not sound.
    """
    scores, extras, names = add_scores(graph, logits, shape, finish)
    columns = {
        "numbers": (onnx.TensorProto.FLOAT, 2 * len(shape.edges)),
        "categories": (onnx.TensorProto.INT32, len(shape.levels)),
    }
    outputs = [(_rename(graph, scores, "scores"), 1 if shape.quantiles else shape.outputs)]
    if names:
        outputs.append((_rename(graph, extras, EXTRAS), len(names)))
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "network",
            [_told(name, *columns[name]) for name in shape.inputs],
            [_told(name, Graph.FLOAT, width) for name, width in outputs],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid(*used) for used in _opsets(graph)],
        ir_version=_IR_VERSION,
        producer_name="hapredict",
    )
    if names:
        helper.set_model_props(made, {EXTRAS: json.dumps(names)})
    onnx.checker.check_model(made, full_check=True)
    return bytes(made.SerializeToString(deterministic=True))


def add_scores(
    graph: Graph, logits: str, shape: NetworkShape, finish: Finish
) -> tuple[str, str, tuple[str, ...]]:
    """Adds what turns logits into scores, as `finish` does it.

    Answers the name of the scores, and the name of the extras [rows, m] with the names of their
    columns, which are "" and none of a model that says nothing beside its scores.
    """
    answers = _answers(graph, logits, shape, finish)
    scores, extras, names = answers, [], list[str]()
    if shape.quantiles:
        # each quantile is learned by itself, so that two of them may cross; a row's are sorted
        width = graph.integers([len(shape.quantiles)])
        ordered = graph.node("TopK", [answers, width], axis=1, largest=0, sorted=1)
        graph.nodes[-1].output.append(f"{ordered}_places")
        scores = graph.node("Gather", [ordered, _middle(graph, shape)], axis=1)
        extras.append(ordered)
        names += quantile_names(shape.quantiles)
    if graph.members:
        extras.append(_uncertainty(graph, scores, shape, finish))
        names.append(UNCERTAINTY)
    value = graph.node("Concat", extras, axis=1) if len(extras) > 1 else "".join(extras)
    return scores, value, tuple(names)


def _answers(graph: Graph, logits: str, shape: NetworkShape, finish: Finish) -> str:
    """A probability or a value for each logit [..., outputs]."""
    if shape.task == "binary":
        # ONNX Runtime's Sigmoid is a fraction of polynomials: below a score of 1e-5 it is off by
        # more than a percent, and no longer rises with the logit
        odds = graph.node("Exp", [_calibrated(graph, logits, shape, finish, -1)])
        return graph.node("Reciprocal", [graph.node("Add", [odds, graph.floats([1.0])])])
    if shape.task == "multiclass":
        return graph.node("Softmax", [_calibrated(graph, logits, shape, finish, 1)], axis=-1)
    scaled = graph.node("Mul", [logits, graph.floats([shape.label_scale])])
    values = graph.node("Add", [scaled, graph.floats([shape.label_mean])])
    if np.isinf([shape.label_low, shape.label_high]).all():
        return values
    limits = np.clip([shape.label_low, shape.label_high], -_LARGEST, _LARGEST)
    return graph.node("Clip", [values, *map(graph.scalar, limits)])


def _uncertainty(graph: Graph, scores: str, shape: NetworkShape, finish: Finish) -> str:
    answers = _answers(graph, graph.members, shape, finish)
    middle = graph.node("ReduceMean", [answers], axes=[1], keepdims=1)
    apart = graph.node("Sub", [answers, middle])
    squares = graph.node("ReduceMean", [graph.node("Mul", [apart, apart])], axes=[1], keepdims=0)
    spread = graph.node("Sqrt", [squares])
    if shape.quantiles:
        return graph.node("Gather", [spread, _middle(graph, shape)], axis=1)
    if shape.task != "multiclass":
        return spread
    best = graph.node("ArgMax", [scores], axis=1, keepdims=1)
    return graph.node("GatherElements", [spread, best], axis=1)


def _middle(graph: Graph, shape: NetworkShape) -> str:
    return graph.integers([shape.quantiles.index(0.5)])


def _calibrated(graph: Graph, logits: str, shape: NetworkShape, finish: Finish, sign: int) -> str:
    """Logits after `finish`, times the sign."""
    taken_off = weight_offsets(shape)
    if finish.knots:
        low, high, slopes, start = pieces(finish.knots)
        value = graph.node("Sub", [logits, graph.floats(finish.places + taken_off)])
        value = graph.node("Max", [value, graph.floats(np.maximum(low, -_LARGEST))])
        value = graph.node("Min", [value, graph.floats(np.minimum(high, _LARGEST))])
        value = graph.node("MatMul", [value, graph.floats(sign * slopes[:, None])])
        return graph.node("Add", [value, graph.floats([sign * start])])
    value = logits
    slope = sign * finish.slope
    if slope == -1:
        value = graph.node("Neg", [value])
    elif slope != 1:
        value = graph.node("Mul", [value, graph.floats([slope])])
    added = sign * finish.offset - slope * taken_off
    if np.any(added != 0):
        value = graph.node("Add", [value, graph.floats(added)])
    return value


def _rename(graph: Graph, value: str, name: str) -> str:
    """Gives an output the name that replicas use; the node that makes it stays the only one."""
    for node in graph.nodes:
        for names in (node.input, node.output):
            for place, found in enumerate(names):
                if found == value:
                    names[place] = name
    return name


def _told(name: str, kind: int, width: int) -> Any:
    return helper.make_tensor_value_info(name, kind, ["rows", width])


def _opsets(graph: Graph) -> list[tuple[str, int]]:
    used = {node.domain for node in graph.nodes}
    return [
        (domain, version) for domain, version in _OPSETS.items() if not domain or domain in used
    ]
