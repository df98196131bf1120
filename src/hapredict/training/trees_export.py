"""Writes XGBoost's trees as one node of an ONNX graph.

Each tree becomes rows of the tables of a TreeEnsembleRegressor: same questions, same order, and the
thresholds to the bit, since a row at a threshold must go the same way in both.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.errors import GateRefused
from hapredict.sections import TrainingSpec
from hapredict.training.network import Examples, NetworkShape
from hapredict.training.onnx_graph import TREES, Graph
from hapredict.training.trees_fit import columns, library, trees_of

_PROBABILITY_MIN = np.float32(1e-6)
"""XGBoost's own limit, where all labels are the same."""
_LEAF = -1
"""XGBoost's left child of a leaf."""


def graph_logits(
    graph: Graph,
    shape: NetworkShape,
    spec: TrainingSpec,  # noqa: ARG001 - as of every exporter
    weights: bytes,
) -> str:
    """Adds the trees to the graph and answers the name of their logits [rows, outputs].

    Raises TrainingFailed if the weights are no trees or XGBoost is not installed, and GateRefused
    if they are trees for another task.
    """
    return graph.node(
        "TreeEnsembleRegressor",
        [_columns(graph, shape)],
        domain=TREES,
        aggregate_function="SUM",
        post_transform="NONE",
        n_targets=shape.outputs,
        **_tables(shape, _model(weights)),
    )


def logits(
    shape: NetworkShape,
    spec: TrainingSpec,  # noqa: ARG001 - as of every exporter
    weights: bytes,
    examples: Examples,
) -> NDArray[np.float64]:
    """XGBoost's own logits, [rows, outputs]. Raises TrainingFailed."""
    xgboost = library()
    with xgboost.config_context(verbosity=0):
        booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(trees_of(weights)))
        rows = xgboost.DMatrix(columns(examples), nthread=1)
        found = booster.predict(rows, output_margin=True)
    return np.asarray(found, np.float64).reshape(examples.rows, shape.outputs)


def source(
    shape: NetworkShape,  # noqa: ARG001 - as of every exporter
    spec: TrainingSpec,  # noqa: ARG001
    weights: bytes,
) -> bytes:
    """The trees as XGBoost's UBJSON, which `xgboost.Booster` loads. Raises TrainingFailed."""
    return trees_of(weights)


def _columns(graph: Graph, shape: NetworkShape) -> str:
    """Adds what `trees_fit.columns` does."""
    parts = []
    count = len(shape.edges)
    if count:
        values = graph.node("Gather", ["numbers", graph.integers(range(count))], axis=1)
        flags = graph.node("Gather", ["numbers", graph.integers(range(count, 2 * count))], axis=1)
        missing = graph.node("Greater", [flags, graph.scalar(0.5)])
        parts.append(graph.node("Where", [missing, graph.scalar(np.nan), values]))
    if shape.levels:
        parts.append(graph.node("Cast", ["categories"], to=Graph.FLOAT))
    return graph.node("Concat", parts, axis=1) if len(parts) > 1 else parts[0]


def _model(weights: bytes) -> dict[str, Any]:
    xgboost = library()
    booster = xgboost.Booster(model_file=bytearray(trees_of(weights)))
    # as text: each float is written with as many digits as tell it from its neighbours
    found: dict[str, Any] = json.loads(bytes(booster.save_raw("json")))["learner"]
    return found


def _tables(shape: NetworkShape, learner: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a TreeEnsembleRegressor, which lists the nodes of all trees."""
    told = learner["learner_model_param"]
    width = len(shape.edges) + len(shape.levels)
    outputs = max(1, int(told["num_class"]), int(told["num_target"]))
    if (int(told["num_feature"]), outputs) != (width, shape.outputs):
        raise GateRefused(
            f"the trees take {told['num_feature']} columns and give {outputs} outputs; "
            f"the shape has {width} and {shape.outputs}"
        )
    model = learner["gradient_booster"]["model"]
    trees = model["trees"]
    numbers = np.arange(len(trees))
    sizes = [len(tree["left_children"]) for tree in trees]

    def joined(name: str, kind: Any) -> NDArray[Any]:
        return np.concatenate([np.asarray(tree[name], kind) for tree in trees])

    left = joined("left_children", np.int64)
    leaf = left == _LEAF
    values = joined("split_conditions", np.float64).astype(np.float32)
    tree = np.repeat(numbers, sizes)
    node = np.concatenate([np.arange(size) for size in sizes])
    output = np.repeat(np.asarray(model["tree_info"], np.int64), sizes)
    modes = np.where(leaf, "LEAF", "BRANCH_LT")
    return {
        "nodes_treeids": tree.tolist(),
        "nodes_nodeids": node.tolist(),
        "nodes_modes": modes.tolist(),
        "nodes_featureids": np.where(leaf, 0, joined("split_indices", np.int64)).tolist(),
        "nodes_values": np.where(leaf, np.float32(0), values).tolist(),
        "nodes_truenodeids": np.where(leaf, 0, left).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, joined("right_children", np.int64)).tolist(),
        "nodes_missing_value_tracks_true": joined("default_left", np.int64).tolist(),
        "target_treeids": tree[leaf].tolist(),
        "target_nodeids": node[leaf].tolist(),
        "target_ids": output[leaf].tolist(),
        "target_weights": values[leaf].tolist(),
        "base_values": _base_values(shape, told["base_score"]),
    }


def _base_values(shape: NetworkShape, told: str) -> list[float]:
    """What the trees of each output are added to; XGBoost tells a list, as text.

    Of a binary model it is a probability, which XGBoost turns to a logit in this arithmetic.
    """
    found = np.array(json.loads(told), np.float32)
    if shape.task == "binary":
        one = np.float32(1)
        likely = np.clip(found, _PROBABILITY_MIN, one - _PROBABILITY_MIN)
        found = -np.log(one / likely - one)
    return [float(value) for value in np.broadcast_to(found, shape.outputs)]
