"""The sections of a spec about learning, in the order in which data flows.

Every field says its unit and why it is there; `hapredict schema` prints all of it as JSON Schema
for editors. An unknown key is an error, for a key that is silently ignored is a promise silently
broken.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

DAY_S = 86_400.0

Kind = Literal["number", "category", "text", "time", "id"]
Task = Literal["binary", "multiclass", "regression"]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataSpec(Section):
    """Where the rows are, and what their columns mean."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Parquet or CSV files, directories or globs. Relative paths start at hapredict's home."""
    target: str
    """The column to predict. It is never a feature."""
    task: Literal["auto", "binary", "multiclass", "regression"] = "auto"
    """`auto`: two values are binary; text, or at most 20 whole numbers, are multiclass; the rest is
    regression."""
    time: str | None = None
    """The column that says when a row happened. With it data are split by time, never at random,
    since a random split rewards a model for knowing the future."""
    id: str | None = None
    """A column that names the row. Never a feature; the default key of a canary's sticky split."""
    columns: dict[str, Kind] = Field(default_factory=dict)
    """Kinds of columns whose kind should not be inferred, such as a postcode stored as a number."""
    exclude: tuple[str, ...] = ()
    """Columns that are neither features nor target, such as what is known only afterwards."""
    missing_values: Literal["keep", "drop"] = "keep"
    """`keep`: a missing value is information and gets its own place. `drop`: rows with a missing
    feature are left out of training (and counted), as pandas' `dropna` would."""
    rows_without_target: Literal["drop", "fail"] = "drop"
    """`drop`: rows without a label are left out (and counted). `fail`: they are an error."""
    rows_min: int = Field(default=100, ge=10)
    """Rows; fewer usable rows than this are an error, since nothing can be learned or checked."""


class FeatureSpec(Section):
    """How columns become numbers."""

    bins_max: int = Field(default=32, ge=2, le=256)
    """Quantile bins a number column. They encode the number for the network and count it for the
    monitor, so the two can never differ."""
    unique_values_max: int = Field(default=16, ge=0, le=256)
    """Frequent single values (such as zero in an amount) that get an edge of their own besides."""
    levels_max: int = Field(default=1000, ge=2, le=100_000)
    """Levels kept a category column, the most frequent first; the others count as unseen."""


class WorkerRange(Section):
    """Elastic training: as many workers as there is room for."""

    min: int = Field(default=1, ge=1)
    """Workers without which training waits."""
    max: int = Field(ge=1)
    """Workers beyond which more are of no use."""

    @model_validator(mode="after")
    def _check(self) -> "WorkerRange":
        if self.max < self.min:
            message = f"min={self.min} must be <= max={self.max}"
            raise ValueError(message)
        return self


class TreesSpec(Section):
    """How boosted trees grow (family `trees`)."""

    rounds_max: int = Field(default=1000, ge=1)
    """Trees an output. The number with the lowest validation loss is kept."""
    rounds_patience: int = Field(default=50, ge=1)
    """Rounds without a lower validation loss after which no more trees are grown."""
    depth_max: int = Field(default=6, ge=1, le=16)
    """Questions from the root of a tree to its leaf."""
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    """Share of each tree's correction that is applied."""
    row_share: float = Field(default=0.8, gt=0, le=1)
    """Share of rows that a tree sees."""
    column_share: float = Field(default=0.8, gt=0, le=1)
    """Share of columns that a tree sees."""
    weight_min: float = Field(default=1, ge=0)
    """Least sum of second derivatives in a leaf: how many rows a rule must rest on."""
    l2: float = Field(default=1, ge=0)
    """Penalty on the squares of the leaves' values."""


class TrainingSpec(Section):
    """How a model is fitted."""

    family: str = "mlp"
    """A model family: a name that `hapredict families` lists, or `module:attribute`."""
    hidden: tuple[int, ...] = (128, 128)
    """Units a hidden layer of a network."""
    members: int = Field(default=8, ge=2, le=64)
    """Members of an `mlp_ensemble`; they share all weights but a few and vote."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Share of units switched off in a training step. `auto`: 0.3 for classes, 0 for regression."""
    weight_decay: float = Field(default=0.5, ge=0)
    """AdamW's decay of weights, a step of `learning_rate` at a time; it keeps a small data set from
    being learned by heart."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """AdamW's highest step; it falls to zero along a cosine. `auto`: 0.004 at 512 rows a step, and
    with the square root of the rows a step elsewhere."""
    batch_rows: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Rows a step over all workers together, so that the result does not depend on their number.
    `auto`: about a hundredth of the training rows, from 128 to 2,048."""
    epochs_max: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Passes over the data. The weights of the pass with the lowest validation loss are kept.
    `auto`: as many as make 2,500 steps, from 8 to 60."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products inside a network; weights, gradients and sums stay float32. `bfloat16` is
    about twice as fast where the processor knows it."""
    trees: TreesSpec = TreesSpec()
    quantiles: tuple[float, ...] = ()
    """Regression: the quantiles to forecast, growing, with 0.5 among them. The median is the
    score; all of them are answered beside it."""
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]] = "none"
    """Weight of each class's rows in the loss. `balanced`: all classes weigh the same. Scores are
    probabilities all the same: the export takes the weights out of them again."""
    calibration: Literal["temperature", "isotonic", "none"] = "temperature"
    """What turns a classifier's outputs into honest probabilities, fitted on rows that neither
    trained it nor chose its best pass. `isotonic` is for binary models with many rows."""
    calibration_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of the validation rows, the newest, that calibrate and choose no pass."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`gpu`: each worker reserves a GPU, and their gradients travel by NCCL. `auto`: GPUs if every
    worker can have one."""
    workers: Annotated[int, Field(ge=1)] | WorkerRange | Literal["auto"] = "auto"
    """Training processes. `auto`: one a node, with all its cores (or one a GPU); more on one node
    share it. `{min: 1, max: 4}`: as many as there is room for, more when nodes join."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """Ray CPUs that each worker reserves. How many threads it uses follows from `workers`."""
    worker_failures_max: int = Field(default=3, ge=0)
    """Deaths of workers that a run survives by resuming from its last checkpoint."""
    checkpoints_kept: int = Field(default=3, ge=2)
    """Newest checkpoints of a run that are kept: a damaged one falls back to the one before."""
    memory_bytes_max: Annotated[int, Field(ge=1 << 20)] | Literal["auto"] = "auto"
    """Bytes of prepared rows that a worker holds in memory; more are streamed from disk, in the
    same order. `auto`: a quarter of the node's memory, over the workers on it."""
    shuffle_rows: int = Field(default=1_000_000, ge=1000)
    """Rows that are shuffled among each other; data with more are shuffled in such windows, each
    of random pieces."""
    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of rows, next before the hold-out in time, that chooses the best pass."""
    holdout_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of rows, the newest, that no training sees and that gates judge by."""
    judged_rows_max: int = Field(default=200_000, ge=1000)
    """Rows of the validation and of the hold-out part that are looked at, spread evenly."""
    seed: int = 0
    """Starts every random choice, so that the same spec and data give the same weights."""
    parity_max: float = Field(default=1e-4, gt=0)
    """Largest difference of a score between the trained model and the exported artefact; above it
    the export is refused."""

    @field_validator("quantiles")
    @classmethod
    def _check_quantiles(cls, quantiles: tuple[float, ...]) -> tuple[float, ...]:
        grow = list(quantiles) == sorted(set(quantiles))
        if quantiles and not (grow and 0.5 in quantiles and 0 < quantiles[0] < quantiles[-1] < 1):
            message = (
                f"quantiles must grow between 0 and 1, 0.5 among them and two at least; "
                f"got {list(quantiles)}"
            )
            raise ValueError(message)
        return quantiles


class TuningSpec(Section):
    """How `hapredict tune` searches for better settings of `training`."""

    families: tuple[str, ...] = ()
    """Families to search in; none means `training.family`."""
    trials: int = Field(default=24, ge=1)
    """Settings to try. The first is the spec's own, so that the search can lose to it."""
    trials_at_once: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Trials side by side. `auto`: as many as the cluster has room for, at most one a core."""
    time_max_s: float | None = Field(default=None, gt=0)
    """Seconds of wall time after which no new trial begins."""
    latency_ms_max: float | None = Field(default=None, gt=0)
    """Milliseconds of one core that scoring one row may take (99th of 100); a slower model cannot
    win."""
    space: dict[str, tuple[bool | int | float | str | tuple[int, ...], ...]] = Field(
        default_factory=dict
    )
    """Choices for fields of `training` by name (`hidden`, `trees.depth_max`), instead of the
    family's own space; a single choice fixes the field."""
    seed: int = 0
    """Starts the search's random choices."""
