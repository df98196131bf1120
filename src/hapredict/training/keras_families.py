"""Model families: from a network's shape to a Keras model.

A family is a function of the shape and the spec. Its model takes `numbers` and `categories` (the
ones that the shape has, by these names) and answers `logits` [rows, outputs], or [rows, members,
outputs] if its members vote. Layers that Keras brings are exported as they are; a layer of one's
own joins the export with a method `to_onnx(graph, inputs) -> str` (see `onnx_graph.Graph`).
"""

from importlib import import_module
from typing import Any

import keras
from keras import layers

from hapredict.errors import TrainingFailed
from hapredict.sections import TrainingSpec
from hapredict.training.families import find_family
from hapredict.training.keras_encodings import CategoryCodes, LevelEffects, PiecewiseLinear
from hapredict.training.keras_layers import Dropout, JoinedDense, MemberDense, MemberHeads
from hapredict.training.network import NetworkShape

_DROPOUT = 0.3
"""Of a classifier, where the spec says `auto`."""

__all__ = ["build", "linear", "mlp", "mlp_ensemble", "model_inputs"]


def linear(shape: NetworkShape, spec: TrainingSpec) -> keras.Model:
    """An additive model: each number bends at its edges, each level has an effect of its own."""
    inputs, effects = _inputs(shape), []
    if shape.edges:
        bins = PiecewiseLinear(shape.edges, name="bins")(inputs["numbers"])
        first = keras.initializers.GlorotUniform(seed=spec.seed + 999)
        effects.append(layers.Dense(shape.outputs, kernel_initializer=first, name="bends")(bins))
    if shape.levels:
        table = LevelEffects(shape.levels, shape.outputs, name="levels")
        effects.append(table(inputs["categories"]))
    logits = layers.Add(name="logits")(effects) if len(effects) > 1 else effects[0]
    return keras.Model(inputs, logits, name="linear")


def mlp(shape: NetworkShape, spec: TrainingSpec) -> keras.Model:
    """Piecewise-linear numbers and encoded categories through dense layers with ReLU and dropout.

    No hidden layer (`training.hidden: []`) makes it an additive model.
    """
    inputs = _inputs(shape)
    encoded = _encoded(shape, spec, inputs)
    if spec.hidden:
        seed = spec.seed + 1_000
        first = JoinedDense(spec.hidden[0], seed=seed, dtype=_policy(spec), name="hidden_0")
        x = _dropped(first(encoded), shape, spec, seed + 1, "dropout_0")
    else:
        x = layers.Concatenate(name="encoded")(encoded) if len(encoded) > 1 else encoded[0]
    x = _hidden(x, shape, spec, 1)
    last = keras.initializers.GlorotUniform(seed=spec.seed + 999)
    logits = layers.Dense(shape.outputs, kernel_initializer=last, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="mlp")


def mlp_ensemble(shape: NetworkShape, spec: TrainingSpec) -> keras.Model:
    """`members` networks in one: an `mlp` that they share but for the first scales and the heads.

    TabM-mini (Gorishniy et al., 2024): almost as cheap to store as one network, and nearly as good
    as so many apart. Raises TrainingFailed without a hidden layer, where nothing is left to share.
    """
    if not spec.hidden:
        raise TrainingFailed(
            "family 'mlp_ensemble' needs a hidden layer; training.hidden is empty. Give it one, "
            "such as [128, 128], or use the family 'linear'"
        )
    inputs = _inputs(shape)
    x = MemberDense(
        spec.members,
        spec.hidden[0],
        seed=spec.seed + 1_000,
        dtype=_policy(spec),
        name="hidden_0",
    )(_encoded(shape, spec, inputs))
    x = _dropped(x, shape, spec, spec.seed + 1_002, "dropout_0")
    x = _hidden(x, shape, spec, 1)
    heads = MemberHeads(
        spec.members, shape.outputs, seed=spec.seed + 999, dtype="float32", name="logits"
    )
    return keras.Model(inputs, heads(x), name="mlp_ensemble")


def build(shape: NetworkShape, spec: TrainingSpec) -> keras.Model:
    """The spec's family built for a shape. The same shape and spec give the same first weights.

    Raises UnknownName for a family that does not exist, TrainingFailed for one that is no network
    or whose model has other inputs or outputs than the shape.
    """
    # a family of a user may leave seeds out; workers must still start from equal weights
    keras.utils.set_random_seed(spec.seed)
    module, _, attribute = find_family(spec.family).build.partition(":")
    if not module:
        raise TrainingFailed(f"family {spec.family!r} is no network, so Keras cannot build it")
    model = getattr(import_module(module), attribute)(shape, spec)
    names = tuple(sorted(tensor.name for tensor in model.inputs))
    output = model.outputs[0].shape if len(model.outputs) == 1 else None
    fits = (
        output is not None
        and len(output) in {2, 3}
        and output[0] is None
        and output[-1] == shape.outputs
        and None not in output[1:]
    )
    if names != tuple(sorted(shape.inputs)) or not fits:
        raise TrainingFailed(
            f"family {spec.family!r} built inputs {names} and output {output}; expected inputs "
            f"{shape.inputs} and one output {(None, shape.outputs)}, or "
            f"{(None, 'members', shape.outputs)}"
        )
    return model


def model_inputs(shape: NetworkShape, numbers: Any, categories: Any) -> dict[str, Any]:
    """The inputs that a model of this shape takes, by name."""
    given = {"numbers": numbers, "categories": categories}
    return {name: given[name] for name in shape.inputs}


def _inputs(shape: NetworkShape) -> dict[str, Any]:
    widths = {"numbers": 2 * len(shape.edges), "categories": len(shape.levels)}
    kinds = {"numbers": "float32", "categories": "int32"}
    return {
        name: keras.Input((widths[name],), dtype=kinds[name], name=name) for name in shape.inputs
    }


def _encoded(shape: NetworkShape, spec: TrainingSpec, inputs: dict[str, Any]) -> list[Any]:
    """Encoded numbers and encoded categories, those that the shape has.

    Encodings stay float32 in every precision: bfloat16 cannot tell neighbouring values apart.
    """
    encoded = []
    if shape.edges:
        bins = PiecewiseLinear(shape.edges, dtype="float32", name="bins")
        encoded.append(bins(inputs["numbers"]))
    if shape.levels:
        codes = CategoryCodes(shape.levels, seed=spec.seed, dtype="float32", name="codes")
        encoded.append(codes(inputs["categories"]))
    return encoded


def _hidden(x: Any, shape: NetworkShape, spec: TrainingSpec, first: int) -> Any:
    """The hidden layers from the one at place `first` on."""
    for place, units in list(enumerate(spec.hidden))[first:]:
        seed = spec.seed + 1_000 * (place + 1)
        x = layers.Dense(
            units,
            activation="relu",
            kernel_initializer=keras.initializers.HeUniform(seed=seed),
            dtype=_policy(spec),
            name=f"hidden_{place}",
        )(x)
        x = _dropped(x, shape, spec, seed + 1, f"dropout_{place}")
    return x


def _dropped(x: Any, shape: NetworkShape, spec: TrainingSpec, seed: int, name: str) -> Any:
    """The dropout behind a hidden layer; `auto` has none in a regression, where it only blurs."""
    share: Any = spec.dropout
    if share == "auto":
        share = 0.0 if shape.task == "regression" else _DROPOUT
    return Dropout(share, seed=seed, dtype=_policy(spec), name=name)(x) if share else x


def _policy(spec: TrainingSpec) -> Any:
    """In which precision products are computed; weights are float32 in each."""
    mixed = spec.precision == "bfloat16"
    return keras.dtype_policies.DTypePolicy("mixed_bfloat16" if mixed else "float32")
