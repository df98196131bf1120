"""The spec: one YAML file a model, checked whole before anything is done.

The sections stand in the order in which data flows. Every field says its unit and why it is
there; `hapredict schema` prints all of it as JSON Schema for editors. An unknown key is an
error, for a key that is silently ignored is a promise silently broken.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hapredict.errors import Problem, SpecError

DAY_S = 86_400.0

Kind = Literal["number", "category", "text", "time", "id"]
Task = Literal["binary", "multiclass", "regression"]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )


class DataSpec(_Section):
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


class FeatureSpec(_Section):
    """How columns become numbers."""

    bins_max: int = Field(default=32, ge=2, le=256)
    """Quantile bins a number column. They encode the number for the network and count it for the
    monitor, so the two can never differ."""
    unique_values_max: int = Field(default=16, ge=0, le=256)
    """Frequent single values (such as zero in an amount) that get an edge of their own besides."""
    levels_max: int = Field(default=1000, ge=2, le=100_000)
    """Levels kept a category column, the most frequent first; the others count as unseen."""


class TrainingSpec(_Section):
    """How a network is fitted."""

    family: str = "mlp"
    """A model family: a name that `hapredict families` lists, or `module:attribute`."""
    hidden: tuple[int, ...] = (128, 128)
    """Units a hidden layer."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of units switched off in a training step."""
    weight_decay: float = Field(default=0.02, ge=0)
    """AdamW's decay of weights; it keeps a small data set from being learned by heart."""
    learning_rate: float = Field(default=2e-3, gt=0)
    """AdamW's highest step; it falls to zero along a cosine."""
    batch_rows: int = Field(default=512, ge=1)
    """Rows a step over all workers together, so that the result does not depend on their number."""
    epochs_max: int = Field(default=20, ge=1)
    """Passes over the data. The weights of the pass with the lowest validation loss are kept."""
    workers: int = Field(default=1, ge=1)
    """Training processes. One a node with all its cores is fastest; more on one node share it."""
    cpus_per_worker: float = Field(default=1, gt=0)
    """Ray CPUs that each worker reserves."""
    worker_failures_max: int = Field(default=3, ge=0)
    """Deaths of workers that a run survives by resuming from its last checkpoint."""
    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of rows, next before the hold-out in time, that chooses the best pass."""
    holdout_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of rows, the newest, that no training sees and that gates judge by."""
    seed: int = 0
    """Starts every random choice, so that the same spec and data give the same weights."""
    parity_max: float = Field(default=1e-4, gt=0)
    """Largest difference of a score between Keras and the exported artefact; above it the export is
    refused."""


class ServingSpec(_Section):
    """How predictions are answered."""

    min_replicas: int = Field(default=2, ge=1)
    """Replicas that always run. Two, so that the death of one is not an outage."""
    max_replicas: int = Field(default=4, ge=1)
    """Replicas at the busiest time."""
    target_ongoing_requests: float = Field(default=16, gt=0)
    """Requests in progress a replica that autoscaling aims at."""
    max_ongoing_requests: int = Field(default=256, ge=1)
    """Requests in progress a replica accepts; beyond it the answer is 503 with Retry-After."""
    num_cpus: float = Field(default=1, ge=0)
    """Ray CPUs that each replica reserves."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Binary models: a score at or above it is decided `true`."""
    sticky_key: str | None = None
    """The column whose value decides who gets the canary, so that one customer always sees one
    model. Without it: `data.id`, or else each row by itself."""
    rows_max: int = Field(default=1000, ge=1)
    """Rows a request."""
    body_bytes_max: int = Field(default=1 << 20, ge=1024)
    """Bytes a request's body; a longer one is answered 413."""
    versions_kept: int = Field(default=3, ge=2)
    """Versions that stay loaded in each replica; rolling back to one of them takes no load."""
    catalog_poll_s: float = Field(default=0.5, gt=0)
    """Seconds between two looks at the catalog: how long a promotion takes to reach a replica."""

    @model_validator(mode="after")
    def _check(self) -> "ServingSpec":
        if self.max_replicas < self.min_replicas:
            message = (
                f"min_replicas={self.min_replicas} must be <= max_replicas={self.max_replicas}"
            )
            raise ValueError(message)
        return self


class MonitoringSpec(_Section):
    """What is counted about live traffic, and when it counts as drift."""

    clock: Literal["wall", "event"] = "wall"
    """`wall`: a prediction happens when it is asked for. `event`: it happens at its row's
    `data.time`, and every window, cooldown and deadline runs on that clock."""
    report_s: float = Field(default=2, gt=0)
    """Seconds of wall time between two reports of a replica to the journal."""
    window_rows: int = Field(default=500, ge=50)
    """Rows that close a window of the drift detectors."""
    window_days: float = Field(default=1, gt=0)
    """Days that close a window with fewer rows, as long as it has any."""
    loss_window_labels: int = Field(default=50, ge=10)
    """Labels that close a window of the loss detector."""
    false_alarm_days: float = Field(default=90, gt=0)
    """At most one false alarm in so many days, per detector."""
    drift_tolerance: float = Field(default=0.02, ge=0, lt=1)
    """Total variation between live and reference shares that is nobody's concern. Never less than
    the reference's own sampling error."""
    loss_tolerance: float = Field(default=0.01, ge=0, lt=1)
    """Rise of the live loss (in [0, 1]) over its baseline that is nobody's concern."""
    label_delay_max_days: float = Field(default=60, gt=0)
    """Labels that arrive later than this after their prediction are stored but not joined."""

    @property
    def false_alarm_windows(self) -> float:
        """Windows in `false_alarm_days` if each lasts `window_days`."""
        return max(2.0, self.false_alarm_days / self.window_days)


class ControlSpec(_Section):
    """When to retrain, and how a challenger becomes champion."""

    tick_s: float = Field(default=2, gt=0)
    """Seconds of wall time between two decisions."""
    lease_s: float = Field(default=15, gt=0)
    """Seconds of wall time after which a silent controller may be replaced."""
    age_max_days: float = Field(default=30, gt=0)
    """A champion older than this is challenged even if nothing drifts."""
    cooldown_days: float = Field(default=7, ge=0)
    """Days between two trainings, so that noise cannot keep the trainer busy."""
    labels_min: int = Field(default=500, ge=0)
    """New labels without which retraining has nothing to learn."""
    trainings_failed_max: int = Field(default=3, ge=1)
    """Failed trainings in a row after which the loop pauses and says so."""
    shadow_days: float = Field(default=3, ge=0)
    """Days a challenger answers nobody and is only compared."""
    shadow_labels_min: int = Field(default=200, ge=1)
    """Labels without which shadow says: not enough data."""
    canary_shares: tuple[float, ...] = (0.1, 0.5)
    """Shares of keys that the challenger answers, step by step."""
    canary_step_days: float = Field(default=1, ge=0)
    """Days a canary step lasts at least."""
    evidence_min: float = Field(default=20, gt=1)
    """Evidence (an e-value on paired live losses) that settles better or worse at any moment. The
    chance of promoting a model that is no better is at most 1/evidence_min."""
    deadline_days: float = Field(default=14, gt=0)
    """Days after which a challenger without decisive evidence is judged by `deadline_rule`."""
    deadline_rule: Literal["if_not_worse", "strict"] = "if_not_worse"
    """`if_not_worse`: promote unless significantly worse. `strict`: promote on evidence only."""
    watch_days: float = Field(default=7, ge=0)
    """Days after a promotion in which the previous champion runs along and may be restored."""

    @field_validator("canary_shares")
    @classmethod
    def _check_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
            message = f"canary_shares must grow, each between 0 and 1; got {list(shares)}"
            raise ValueError(message)
        return shares


class AvailabilitySpec(_Section):
    """What the model must survive."""

    level: Literal[1, 2, 3, 4] = 1
    """1 any process, 2 any worker node, 3 the head node, 4 a zone or a whole cluster."""
    objective: float = Field(default=99.95, gt=0, lt=100)
    """Percent of requests answered, a month."""


class Spec(_Section):
    """All that hapredict is told about one model."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    """The model's name: small letters, digits and underscores. It is part of every URL."""
    store: str | None = None
    """Where everything that must survive is kept: `file://`, `s3://`, `gs://`, `az://`, or a path
    relative to hapredict's home. Without it: `store` in hapredict's home."""
    data: DataSpec
    features: FeatureSpec = FeatureSpec()
    training: TrainingSpec = TrainingSpec()
    serving: ServingSpec = ServingSpec()
    monitoring: MonitoringSpec = MonitoringSpec()
    control: ControlSpec = ControlSpec()
    availability: AvailabilitySpec = AvailabilitySpec()

    @model_validator(mode="after")
    def _check(self) -> "Spec":
        data = self.data
        special = [name for name in (data.target, data.time, data.id) if name is not None]
        if len(set(special)) != len(special):
            message = "data.target, data.time and data.id must be three different columns"
            raise ValueError(message)
        if data.target in data.exclude:
            message = f"data.exclude names the target {data.target!r}; a target cannot be left out"
            raise ValueError(message)
        if self.monitoring.clock == "event" and data.time is None:
            message = "monitoring.clock is 'event', which needs data.time to name the time column"
            raise ValueError(message)
        if self.availability.level >= 2 and self.serving.min_replicas < 2:
            message = (
                f"availability.level {self.availability.level} needs serving.min_replicas >= 2: "
                "one replica cannot outlive its node"
            )
            raise ValueError(message)
        return self


def parse_spec(text: str, where: str = "spec") -> Spec:
    """The spec in a YAML text. Raises SpecError that lists every fault with its path."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError((Problem(where, f"is not YAML: {error}"),)) from error
    if not isinstance(raw, Mapping):
        raise SpecError((Problem(where, f"must be a mapping of keys; got {type(raw).__name__}"),))
    return build_spec(raw)


def build_spec(raw: Mapping[str, Any]) -> Spec:
    """The spec in a mapping. Raises SpecError that lists every fault with its path."""
    try:
        return Spec.model_validate(raw)
    except ValidationError as error:
        raise SpecError(tuple(_problem(fault) for fault in error.errors())) from None


def spec_schema() -> dict[str, Any]:
    """The spec as JSON Schema, with each field's sentence, for editors and other tools."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Spec.model_json_schema(),
        "title": "hapredict spec",
    }


def _problem(fault: Any) -> Problem:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        guess = difflib.get_close_matches(str(fault["loc"][-1]), _known_keys(fault["loc"][:-1]), 1)
        return Problem(path, "no such key" + (f"; did you mean {guess[0]!r}?" if guess else ""))
    if fault["type"] == "missing":
        return Problem(path, "is required")
    message = fault["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(fault["input"], Mapping) else f" (got {fault['input']!r})"
    return Problem(path, f"{message}{shown}")


def _known_keys(loc: tuple[Any, ...]) -> list[str]:
    section: Any = Spec
    for part in loc:
        field = getattr(section, "model_fields", {}).get(part)
        if field is None:
            return []
        section = field.annotation
    return list(getattr(section, "model_fields", {}))
