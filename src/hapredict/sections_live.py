"""The sections of a spec about what is live: serving, monitoring, control, availability.

Every field says its unit and why it is there, as in `sections.py`.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from hapredict.sections import Section
from hapredict.sections_policy import FreezeWindow, GuardsSpec, TriggersSpec


class ServingSpec(Section):
    """How predictions are answered."""

    min_replicas: int = Field(default=2, ge=1)
    """Replicas that always run. Two, so that the death of one is not an outage."""
    max_replicas: int = Field(default=4, ge=1)
    """Replicas at the busiest time."""
    target_ongoing_requests: float = Field(default=16, gt=0)
    """Requests in progress a replica that autoscaling aims at."""
    target_utilization: float = Field(default=0.7, gt=0, le=1)
    """Share of its processor a replica that autoscaling aims at; the target that asks for more
    replicas counts."""
    upscale_delay_s: float = Field(default=10, ge=0)
    """Seconds for which more replicas must be wanted before they are started."""
    downscale_delay_s: float = Field(default=300, ge=0)
    """Seconds for which fewer replicas must be wanted before some are stopped."""
    look_back_period_s: float = Field(default=10, gt=0)
    """Seconds over which the load is averaged."""
    max_ongoing_requests: int = Field(default=256, ge=1)
    """Requests in progress a replica accepts; beyond it the answer is 503 with Retry-After."""
    num_cpus: float = Field(default=1, ge=0)
    """Ray CPUs that each replica reserves."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Binary models: a score at or above it is decided positive. Without it: 0.5, or what `costs`
    say."""
    costs: dict[str, dict[str, float]] = Field(default_factory=dict)
    """What each decision costs, by the true class and then by the class decided: `{"1": {"0": 50},
    "0": {"1": 2}}`; what is not named costs nothing. The decision with the lowest expected cost is
    taken. It needs calibrated scores."""
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
    pool: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")] | None = None
    """Models that name the same pool share its replicas, and a monitor, a controller and a learner:
    for many small models. Each is loaded when it is first asked. Replicas, processors, delays,
    `data_plane`, `catalog_poll_s` and `pool_memory_mb` are then the pool's: what one model says
    holds for all, and two may not say different things."""
    pool_memory_mb: int = Field(default=1024, ge=16)
    """Megabytes of models that a replica of the pool keeps loaded; beyond it those that were asked
    longest ago go. The process itself takes some 200 MB more."""
    data_plane: Literal["fast", "standard"] = "fast"
    """`fast`: plain predictions over HTTP go from the parser straight to the model. `standard`: all
    requests go through ASGI and Ray Serve's request path. The answers are the same."""
    latency_ms_max: float = Field(default=100, gt=0)
    """Milliseconds of processor time that one row may take of a version that is to be compared or
    to serve; a slower one is refused before it gets a request. A thousand times what is usual: it
    is there for mistakes. Not asked of the champion, for a slow one is better than none."""
    access_log: Literal["off", "errors", "all"] = "errors"
    """Which requests each replica writes a JSON line about, in `logs/` of its node's home: none,
    those that were refused or failed (status 400 and above), or all. No line has a value of a row.
    """
    access_log_bytes_max: int = Field(default=64 << 20, ge=1 << 16)
    """Bytes of a replica's access log, in two files; the older one goes when both are full."""

    @model_validator(mode="after")
    def _check(self) -> "ServingSpec":
        if self.max_replicas < self.min_replicas:
            message = (
                f"min_replicas={self.min_replicas} must be <= max_replicas={self.max_replicas}"
            )
            raise ValueError(message)
        if self.costs and self.threshold is not None:
            message = "threshold and costs both say how to decide; leave one of them out"
            raise ValueError(message)
        return self


class MonitoringSpec(Section):
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
    """At most one false alarm in so many days among all features, one about the scores and one
    about the loss."""
    drift_tolerance: float = Field(default=0.02, ge=0, lt=1)
    """Total variation between live and reference shares that is nobody's concern. Never less than
    the reference's own sampling error, nor than what is usual between its own stretches of time."""
    seasons: bool = True
    """Compare live rows with the reference's rows of the same hour of day and of week (UTC), as far
    as those differ. Turn it off where `data.time` is not the time at which predictions are asked
    for. It needs `data.time`."""
    loss_tolerance: float = Field(default=0.01, ge=0, lt=1)
    """Rise of the live loss (in [0, 1]) over its baseline that is nobody's concern."""
    rate_tolerance: float = Field(default=0.02, ge=0, lt=1)
    """Rise of the share of missing values, of unseen ones or of refused rows that is nobody's
    concern."""
    slices: tuple[str, ...] = ()
    """Category columns, such as `origin`, for whose values losses are watched each by itself: a
    model that is bad for one airport only is not seen in the mean. They are those of the model's
    bundle: a change holds from the next training on."""
    slice_values_max: int = Field(default=10, ge=1, le=100)
    """Values of each such column, the most frequent ones; the others are not watched apart."""
    label_delay_tolerance: float = Field(default=0.1, ge=0, lt=1)
    """Total variation of how long labels take that is nobody's concern."""
    label_delay_max_days: float = Field(default=60, gt=0)
    """Labels that arrive later than this after their prediction are stored but not joined."""
    rows_in_memory: int = Field(default=2_000_000, ge=1000)
    """Rows that wait for their labels in the monitor's memory, at some 50 bytes each; older ones
    wait in files, and their labels are joined some seconds later."""
    inference_share: float = Field(default=1.0, gt=0, le=1)
    """Share of keys whose rows are kept in the inference table, the same on all replicas. Below 1
    training learns from no more than these."""
    compact_s: float = Field(default=300, gt=0)
    """Seconds of wall time between two moves of rows and labels from the journal into the table."""
    retention_days: float = Field(default=365, gt=0)
    """Days of wall time after their arrival that rows and labels stay in the table."""

    @property
    def false_alarm_windows(self) -> float:
        """Windows in `false_alarm_days` if each lasts `window_days`."""
        return max(2.0, self.false_alarm_days / self.window_days)


class ControlSpec(Section):
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
    triggers: TriggersSpec = TriggersSpec()
    trainings_per_month_max: int = Field(default=10, ge=1)
    """Trainings in 30 days that begin without somebody's wish."""
    freeze: tuple[FreezeWindow, ...] = ()
    """When nothing is trained and nothing promoted: `{from: Fri 18:00, until: Mon 06:00}` each
    week, or with dates once, on the model's clock. A rollback is always allowed."""
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
    guards: GuardsSpec = GuardsSpec()
    training_window: Literal["auto", "all"] | Annotated[float, Field(gt=0)] = "auto"
    """Days before the validation rows that a training learns from. `all`: all rows. `auto`: all,
    unless a back-test on the last periods shows that the newest alone teach more."""
    purge_days: float = Field(default=0, ge=0)
    """Days before the hold-out whose rows are left out of training: as long as a label of one row
    says something about the next ones."""
    source_column: str | None = None
    """The column that says who sent a row, such as a client or a sensor. Live rows of no single
    value of it may make up more than `source_share_max`, so that none can teach the model alone."""
    source_share_max: float = Field(default=0.05, gt=0, le=1)
    """Share of all rows that are learned from; see `source_column`. Of a value with more, rows
    spread evenly over its time are taken, and the others counted."""
    golden: str | None = None
    """A file of labelled rows that somebody vouches for, as in `data.sources`. On it no challenger
    may do harm. Keep it out of the training data."""
    label_odds_max: float = Field(default=4, gt=1)
    """How many times as high, or as low, as the champion's the odds of a class may be in the
    training rows (how many standard deviations away the mean of a regression); beyond it the labels
    are suspect and no model of them is used."""

    @field_validator("canary_shares")
    @classmethod
    def _check_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share < 1 for share in shares) or list(shares) != sorted(set(shares)):
            message = f"canary_shares must grow, each between 0 and 1; got {list(shares)}"
            raise ValueError(message)
        return shares


class AvailabilitySpec(Section):
    """What the model must survive."""

    level: Literal[1, 2, 3, 4] = 1
    """1 any process, 2 any worker node, 3 the head node, 4 a zone or a whole cluster."""
    objective: float = Field(default=99.95, gt=0, lt=100)
    """Percent of requests answered, a month."""
