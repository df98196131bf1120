"""What a network must fit: the widths of its inputs, the meaning of its outputs, and its examples.

The shape is made from the feature plan and the schema and is all that a model family needs to
know. Labels of a regression are standardised for training; the shape holds how, so that the
export can fold the units of the target back in.
"""

import itertools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hapredict.errors import TrainingFailed
from hapredict.sections import Task, TrainingSpec

if TYPE_CHECKING:  # a training worker takes a ready shape and needs neither
    from hapredict.data.schema import Schema
    from hapredict.features.plan import FeaturePlan


@dataclass(frozen=True, slots=True)
class NetworkShape:
    """The inputs and outputs of a network.

    Inputs: `numbers` [rows, 2 * len(edges)] float32, scaled values and then missing flags, and
    `categories` [rows, len(levels)] int32 codes below `levels`. Output: `logits` [rows, outputs],
    or [rows, members, outputs] of a network whose members vote: the loss is the mean of theirs, and
    what counts is the mean of their logits. Raises ValueError if the parts do not belong together.
    """

    edges: tuple[tuple[float, ...], ...]
    """Bin edges of each number in scaled units; they grow, and there are two at least."""
    levels: tuple[int, ...]
    """Codes of each category: 0 missing, 1 unseen, then the known levels."""
    outputs: int
    task: Task
    names: tuple[str, ...]
    """Features: the numbers, then the categories."""
    label_mean: float = 0.0
    """What is taken off a regression's label before training; 0 for other tasks."""
    label_scale: float = 1.0
    """What a regression's label is divided by before training; 1 for other tasks."""
    label_low: float = float("-inf")
    """A regression answers nothing below; infinite where nothing is known."""
    label_high: float = float("inf")
    """A regression answers nothing above."""
    quantiles: tuple[float, ...] = ()
    """Of a regression that forecasts quantiles: one output each."""
    class_weights: tuple[float, ...] = ()
    """Weight of each class's rows in the loss, by index; none means that all weigh 1."""

    def __post_init__(self) -> None:
        if len(self.names) != len(self.edges) + len(self.levels) or not self.names:
            message = (
                f"{len(self.edges)} numbers and {len(self.levels)} categories need as many "
                f"names, and one at least; got {len(self.names)}"
            )
            raise ValueError(message)
        for name, edges in zip(self.names, self.edges, strict=False):
            if len(edges) < 2 or any(b <= a for a, b in itertools.pairwise(edges)):
                message = f"the edges of {name!r} must grow and be two at least; got {edges}"
                raise ValueError(message)
        single = self.task != "multiclass" and not self.quantiles
        if self.outputs < 1 or (single and self.outputs != 1):
            raise ValueError(f"a {self.task} network cannot have {self.outputs} outputs")
        if self.quantiles and (self.task != "regression" or len(self.quantiles) != self.outputs):
            raise ValueError(
                f"{self.quantiles} cannot be the quantiles of this {self.task} network"
            )
        classes = {"binary": 2, "multiclass": self.outputs}.get(self.task, 0)
        if self.class_weights and len(self.class_weights) != classes:
            raise ValueError(f"{classes} classes cannot have weights {self.class_weights}")
        if not self.label_scale > 0:
            raise ValueError(f"label_scale must be above 0; got {self.label_scale}")

    @classmethod
    def of(
        cls,
        plan: "FeaturePlan",
        schema: "Schema",
        labels: NDArray[np.floating[Any]] | None = None,
        spec: TrainingSpec | None = None,
    ) -> "NetworkShape":
        """The shape for a plan, a schema and what the spec asks of the outputs.

        `labels` [rows] are the training labels. A regression is standardised by their mean and
        standard deviation and answers a tenth beyond their range at most; classes are weighed by
        them. Raises TrainingFailed if the spec's quantiles or class weights do not fit the task.
        """
        spec = spec or TrainingSpec()
        wide = np.zeros(0) if labels is None else np.asarray(labels, dtype=np.float64)
        mean, scale, low, high = 0.0, 1.0, float("-inf"), float("inf")
        if schema.task == "regression" and len(wide):
            mean, scale = float(wide.mean()), float(wide.std()) or 1.0
            low, high = float(wide.min()), float(wide.max())
            low, high = low - (high - low) / 10, high + (high - low) / 10
        if spec.quantiles and schema.task != "regression":
            raise TrainingFailed(
                f"training.quantiles is for a regression, and {schema.target!r} makes a "
                f"{schema.task} model; leave it out"
            )
        return cls(
            edges=tuple(tuple(float(edge) for edge in edges) for edges in plan.edges_scaled),
            levels=tuple(plan.level_counts),
            outputs=len(spec.quantiles) or schema.outputs,
            task=schema.task,
            names=tuple(schema.numbers) + tuple(schema.categories),
            label_mean=mean,
            label_scale=scale,
            label_low=low,
            label_high=high,
            quantiles=spec.quantiles,
            class_weights=_class_weights(schema, wide, spec),
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the network's inputs, in order: those of `numbers`, `categories` it has."""
        present = (("numbers", self.edges), ("categories", self.levels))
        return tuple(name for name, columns in present if columns)

    def to_json(self) -> dict[str, Any]:
        """The shape as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "NetworkShape":
        """The shape that `to_json` wrote."""
        return cls(
            **{
                **raw,
                "edges": tuple(tuple(edges) for edges in raw["edges"]),
                "levels": tuple(raw["levels"]),
                "names": tuple(raw["names"]),
                "quantiles": tuple(raw["quantiles"]),
                "class_weights": tuple(raw["class_weights"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Examples:
    """Rows to learn from or to judge by. Raises ValueError if the lengths differ."""

    numbers: NDArray[np.float32]
    """[rows, 2n]: scaled values, 0 where missing, and then missing flags."""
    categories: NDArray[np.int32]
    """[rows, k]: codes."""
    labels: NDArray[np.float32]
    """[rows]: 0 or 1, the index of a class, or the value in the units of the target."""

    def __post_init__(self) -> None:
        lengths = (len(self.numbers), len(self.categories), len(self.labels))
        if len(set(lengths)) != 1:
            message = f"numbers, categories and labels must have equal lengths; got {lengths}"
            raise ValueError(message)

    @property
    def rows(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[Any] | slice) -> "Examples":
        """The rows that `index` names: positions, a mask or a slice."""
        return Examples(self.numbers[index], self.categories[index], self.labels[index])


def _class_weights(
    schema: "Schema", labels: NDArray[np.float64], spec: TrainingSpec
) -> tuple[float, ...]:
    """By index; scaled so that a row weighs 1 on average."""
    asked = spec.class_weights
    if asked == "none":
        return ()
    if schema.task == "regression":
        raise TrainingFailed(
            f"training.class_weights is for classes, and {schema.target!r} makes a regression; "
            "leave it out"
        )
    counts = np.bincount(labels.astype(np.int64), minlength=len(schema.classes)).astype(float)
    if asked == "balanced":
        weights = 1 / np.maximum(counts, 1)
    else:
        unknown = sorted(set(asked) - set(schema.classes))
        if unknown:
            raise TrainingFailed(
                f"training.class_weights names {unknown}; {schema.target!r} has the classes "
                f"{list(schema.classes)}"
            )
        weights = np.array([asked.get(name, 1.0) for name in schema.classes])
    mean = float((weights * counts).sum() / max(1.0, counts.sum()))
    return tuple(float(weight / mean) for weight in weights)
