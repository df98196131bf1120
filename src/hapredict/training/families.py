"""Model families by name: what they are, who fits them, and where a search for better looks.

A family of kind `network` is a function from the shape and the spec to a Keras model (`build`
names it); one of kind `trees` is grown by XGBoost. Each kind has one module that fits
(`fit(shape, spec, train, validation, ...)`) and one that exports; they are named here and imported
by whoever runs them, so that this table costs nothing to read.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hapredict.errors import UnknownName
from hapredict.plugins import Plugins

Choices = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """One way to learn from a table."""

    kind: Literal["network", "trees"]
    about: str
    """One sentence for `hapredict families`."""
    build: str = ""
    """Of a network: `module:attribute` of the function that builds it."""
    space: Mapping[str, Choices] = field(default_factory=dict)
    """Fields of `training` that are worth a search, by dotted name, and what to try."""

    @property
    def fitter(self) -> str:
        """The module whose `fit` fits this family."""
        return f"hapredict.training.{_FITTERS[self.kind]}"

    @property
    def exporter(self) -> str:
        """The module that turns a fitted model of this family into an ONNX graph."""
        return f"hapredict.training.{_EXPORTERS[self.kind]}"


_FITTERS = {"network": "keras_fit", "trees": "trees_fit"}
_EXPORTERS = {"network": "keras_export", "trees": "trees_export"}
_FAMILIES_FILE = "hapredict.training.keras_families"

FAMILIES: Plugins[Family] = Plugins("model family")

_OPTIMISER: Mapping[str, Choices] = {
    "learning_rate": (1e-3, 2e-3, 4e-3, 8e-3),
    "batch_rows": (128, 256, 512, 1024),
    "weight_decay": (0.02, 0.3, 0.5, 1.0),
}
_LAYERS: Mapping[str, Choices] = {
    "hidden": ((64, 64), (128, 128), (256, 256), (128, 128, 128), (256, 256, 256)),
    "dropout": (0.0, 0.1, 0.3, 0.5),
}

FAMILIES.register("linear")(
    Family(
        kind="network",
        about="An additive model: each feature bends by itself, and their effects add up.",
        build=f"{_FAMILIES_FILE}:linear",
        space=_OPTIMISER,
    )
)
FAMILIES.register("mlp")(
    Family(
        kind="network",
        about="Dense layers over piecewise-linear numbers and learned categories; the default.",
        build=f"{_FAMILIES_FILE}:mlp",
        space={**_OPTIMISER, **_LAYERS},
    )
)
FAMILIES.register("mlp_ensemble")(
    Family(
        kind="network",
        about="Members that share an mlp but a few weights, vote, and say how sure they are.",
        build=f"{_FAMILIES_FILE}:mlp_ensemble",
        space={**_OPTIMISER, **_LAYERS, "members": (8, 16)},
    )
)
FAMILIES.register("trees")(
    Family(
        kind="trees",
        about="Gradient-boosted trees by XGBoost; needs the extra `trees`.",
        space={
            "trees.depth_max": (3, 4, 6, 8, 10),
            "trees.learning_rate": (0.02, 0.05, 0.1, 0.2),
            "trees.row_share": (0.6, 0.8, 1.0),
            "trees.column_share": (0.5, 0.8, 1.0),
            "trees.weight_min": (1, 5, 20, 100),
            "trees.l2": (0.1, 1, 10),
        },
    )
)


def find_family(name: str) -> Family:
    """The family called `name`; `module:attribute` is a user's own function that builds a network.

    Raises UnknownName. The user's module is not imported here.
    """
    if ":" in name:
        return Family("network", "A family of your own.", name, {**_OPTIMISER, **_LAYERS})
    if name not in set(FAMILIES):
        raise UnknownName("model family", name, tuple(FAMILIES))
    return FAMILIES.find(name)
