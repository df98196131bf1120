"""What a model says beside its scores, by name.

Extras are the second output of the artefact, [rows, m] float32; the names of their columns stand in
its metadata. `uncertainty` says how far a model's members are apart, `q0.1` is a quantile.
"""

import json
from collections.abc import Sequence
from typing import Any

EXTRAS = "extras"
"""The second output's name, and the key of its columns' names in the model's metadata."""
UNCERTAINTY = "uncertainty"

_QUANTILE = "q"


def quantile_names(quantiles: Sequence[float]) -> tuple[str, ...]:
    """What the columns of quantiles are called: `q0.1`."""
    return tuple(f"{_QUANTILE}{quantile:g}" for quantile in quantiles)


def quantiles_among(names: Sequence[str]) -> dict[str, int]:
    """Column by quantile, such as {"0.1": 0, "0.5": 1}; empty without quantiles."""
    return {
        name.removeprefix(_QUANTILE): place
        for place, name in enumerate(names)
        if name.startswith(_QUANTILE)
    }


def extra_names(session: Any) -> tuple[str, ...]:
    """The names of the extras of a model that ONNX Runtime has loaded; none of most models."""
    told = session.get_modelmeta().custom_metadata_map.get(EXTRAS, "[]")
    return tuple(json.loads(told))
