"""What is done to a model's raw outputs so that they are what a caller asked for.

A classifier's logits become probabilities: the weights of the classes are taken out again, and a
rising function makes them honest. A regression gets back the units of its target and answers
nothing far beyond the labels it saw; quantiles are put in order. No finish changes who ranks above
whom. This file is the arithmetic in NumPy; `onnx_graph` writes the same into the artefact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hapredict.training.network import NetworkShape

Floats = NDArray[np.float64]

_EXPONENT_MAX = 700.0
"""Beyond, the exponential is no finite number, and the score is 0 anyway."""


@dataclass(frozen=True, slots=True)
class Finish:
    """A rising function on a classifier's logits; the default leaves them alone.

    A line (`slope`, `offset`), or straight pieces between `knots` for a binary model, which run on
    with slope 1 beyond the outermost. Raises ValueError if it does not rise.
    """

    slope: float = 1.0
    """What logits are multiplied by: the inverse of a temperature."""
    offset: float = 0.0
    """What is added then; a binary model's only."""
    knots: tuple[tuple[float, float], ...] = ()
    """Logit and calibrated logit; both grow. There are two at least, or none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "knots", tuple((float(x), float(y)) for x, y in self.knots))
        numbers = (self.slope, self.offset, *(value for knot in self.knots for value in knot))
        if not all(map(isfinite, numbers)) or not self.slope > 0:
            message = f"a finish needs finite numbers and a slope above 0; got {self}"
            raise ValueError(message)
        if self.knots and (self.slope, self.offset) != (1, 0):
            message = f"a finish is a line or has knots, not both; got {self}"
            raise ValueError(message)
        if len(self.knots) == 1 or any(
            not (a[0] < b[0] and a[1] < b[1]) for a, b in pairwise(self.knots)
        ):
            message = f"two knots at least must grow in both directions; got {self.knots}"
            raise ValueError(message)

    @property
    def kind(self) -> str:
        """`isotonic`, `temperature` or `none`."""
        if self.knots:
            return "isotonic"
        return "none" if (self.slope, self.offset) == (1, 0) else "temperature"

    def calibrated(self, shape: NetworkShape, logits: NDArray[Any]) -> Floats:
        """A classifier's logits without class weights and after the function, as they came."""
        values = np.asarray(logits, np.float64) - weight_offsets(shape)
        if not self.knots:
            return values * self.slope + self.offset
        low, high, slopes, start = pieces(self.knots)
        parts = np.clip(values - self.places, low, high) * slopes
        return np.asarray(start + parts.sum(-1, keepdims=True))

    @property
    def places(self) -> Floats:
        """[pieces]: the logit where each straight piece is 0 (see `pieces`)."""
        x = [knot[0] for knot in self.knots]
        return np.array([x[0], *x])

    def scores(self, shape: NetworkShape, logits: NDArray[Any]) -> Floats:
        """Scores [rows, outputs] of logits [rows, outputs]; of quantiles the median, [rows, 1].

        Probabilities, or values in the units of the target.
        """
        if shape.quantiles:
            middle = shape.quantiles.index(0.5)
            return self.quantiles(shape, logits)[:, middle : middle + 1]
        return self._answers(shape, logits)

    def uncertainty(self, shape: NetworkShape, members: NDArray[Any]) -> Floats:
        """How far members are apart, [rows, 1], for their logits [rows, members, outputs].

        The standard deviation of the positive class's probability, of the probability of the class
        with the highest score, or of the value (of quantiles: the median) in the target's units.
        """
        found: Floats = self._answers(shape, members).std(axis=1)
        if shape.task == "regression":
            middle = shape.quantiles.index(0.5) if shape.quantiles else 0
            return found[:, middle : middle + 1]
        best = self.scores(shape, np.mean(members, axis=1)).argmax(axis=1)
        return np.asarray(np.take_along_axis(found, best[:, None], axis=1))

    def _answers(self, shape: NetworkShape, logits: NDArray[Any]) -> Floats:
        """What each logit [..., outputs] comes to: a probability or a value."""
        if shape.task == "regression":
            return _values(shape, logits)
        found = self.calibrated(shape, logits)
        if shape.task == "binary":
            return np.asarray(1 / (1 + np.exp(np.minimum(-found, _EXPONENT_MAX))))
        powers = np.exp(found - found.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    def quantiles(self, shape: NetworkShape, logits: NDArray[Any]) -> Floats:
        """The quantiles [rows, q] in the units of the target, in order; [rows, 0] without any."""
        if not shape.quantiles:
            return np.zeros((len(logits), 0))
        return np.sort(_values(shape, logits), axis=1)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "kind": self.kind,
            "slope": self.slope,
            "offset": self.offset,
            "knots": [list(knot) for knot in self.knots],
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Finish":
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(raw["slope"], raw["offset"], tuple((x, y) for x, y in raw["knots"]))


def weight_offsets(shape: NetworkShape) -> Floats:
    """[outputs]: what class weights added to each logit: the logarithm of the weight.

    A loss that weighs a class w times as much teaches odds that are w times as high. Binary: the
    difference of the two.
    """
    if not shape.class_weights:
        return np.zeros(shape.outputs)
    logs = np.log(np.asarray(shape.class_weights, np.float64))
    return logs[1:] - logs[:1] if shape.task == "binary" else logs


def pieces(knots: tuple[tuple[float, float], ...]) -> tuple[Floats, Floats, Floats, float]:
    """Low and high end, slope [pieces] of the straight pieces, and the function at the first knot.

    The function is the start plus each slope times (logit - place) cut to its ends, so that rising
    pieces make a rising sum whatever is rounded. The first piece leads down from the first knot.
    """
    x, y = np.array(knots).T
    infinite = np.array([np.inf])
    low = np.concatenate([-infinite, np.zeros(len(x))])
    high = np.concatenate([[0.0], np.diff(x), infinite])
    slopes = np.concatenate([[1.0], np.diff(y) / np.diff(x), [1.0]])
    return low, high, slopes, float(y[0])


def _values(shape: NetworkShape, logits: NDArray[Any]) -> Floats:
    values = np.asarray(logits, np.float64) * shape.label_scale + shape.label_mean
    return np.clip(values, shape.label_low, shape.label_high)
