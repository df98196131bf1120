"""What the monitor knows, as one value that crosses processes and becomes JSON.

Times are seconds since the epoch on the model's clock (`monitoring.clock`), losses and effects
lie in [0, 1], and evidence is a natural logarithm: 3 is odds of 20, 7 of 1000.

What an older program wrote is read too: fields that it did not know have defaults.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

AlarmKind = Literal[
    "feature drift",
    "score drift",
    "concept drift",
    "missing values",
    "unseen values",
    "schema breaks",
    "label delay",
    "estimated loss",
]

Harm = Literal["unknown", "none", "worse"]
"""Whether the model became worse by more than is tolerated; "none" says that it did not."""

INCIDENTS: frozenset[AlarmKind] = frozenset(
    {"missing values", "unseen values", "schema breaks", "label delay"}
)
"""Kinds that speak of broken data: what is learned from such rows is not worth having."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One bin that changed its share of the rows."""

    bin: str
    """Its readable name: "missing", "JFK", "3.5 to 7"."""
    before: float
    """Its share in the reference."""
    now: float


@dataclass(frozen=True, slots=True)
class Alarm:
    """One change that is larger than its tolerance and too well founded to be chance."""

    kind: AlarmKind
    feature: str
    """The feature that moved; "" where the alarm is not about one feature."""
    at_s: float
    """When the evidence crossed its threshold."""
    since_s: float
    """Start of the stretch that the evidence speaks about."""
    effect: float
    """Total variation of bins, rise of the mean loss, or rise of a rate."""
    log_evidence: float
    reason: str
    """One sentence with the figures."""
    slice: str = ""
    """The rows that it is about, such as "origin=JFK"; "" for all."""
    psi: float | None = None
    """Population stability index of the bins, for those who are used to it."""
    wasserstein: float | None = None
    """How far values moved, as far as the bins tell: of a number in standard deviations of what was
    learned from, of scores in their own units. None for a category."""
    moved: tuple[Moved, ...] = ()
    """The bins that moved most, the largest first."""
    rank: int = 0
    """1 is what to look at first: broken data, then harm, then kind, then effect times importance.
    0: not ranked."""
    importance: float = 0.0
    """The feature's share in what the scores hang on; over all features it sums to 1. 0 where the
    alarm is not about one feature."""
    harm: Harm = "unknown"
    """By the labels of the same stretch. While they do not decide, the estimate may say "worse",
    and never "none": it does not see what changed beyond the scores."""
    labels: int = 0
    """Labels that `harm` and `loss_measured` rest on."""
    loss_measured: float | None = None
    """Mean loss of the champion's rows since `since_s`."""
    loss_estimated: float | None = None
    """The same for all rows, without labels: see `Estimate`."""

    @property
    def incident(self) -> bool:
        """Whether it speaks of broken data."""
        return self.kind in INCIDENTS


@dataclass(frozen=True, slots=True)
class Paired:
    """Two versions compared on the labelled rows that both of them scored."""

    low: int
    high: int
    """Version numbers, `low` < `high`."""
    labels: int
    log_better: float
    """Log of the evidence that `high` has the lower loss."""
    log_worse: float
    """Log of the evidence that `high` has the higher loss."""
    low_loss: float
    high_loss: float
    """Mean losses over these labels."""


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """How far one feature, or the score, is from the champion's reference now."""

    feature: str
    """The feature's name; "score" stands last and for the scores."""
    effect: float
    """Total variation between the last windows and the reference."""
    log_evidence: float
    windows: int
    """Windows folded since the champion took over."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The mean loss that the champion's scores let expect, without labels.

    It holds as long as the scores mean what they meant on the hold-out: no concept drift. Then
    the mean loss of these rows, once their labels are known, lies from `low` to `high` in 95 of
    100 cases.
    """

    loss: float
    low: float
    high: float
    baseline: float
    """The same estimate for the hold-out rows."""
    rows: int
    since_s: float
    """Event time of the first window that it is about."""


@dataclass(frozen=True, slots=True)
class SliceLoss:
    """How the champion does on the rows of one slice."""

    slice: str
    """Such as "origin=JFK"."""
    rows: int
    labels: int
    loss: float | None
    """Mean loss of its labelled rows; None without any."""
    baseline: float
    """Mean loss of its rows in the hold-out, or of all rows where the hold-out had too few."""
    log_evidence: float


@dataclass(frozen=True, slots=True)
class MonitorReport:
    """Everything that control, `hapredict status` and the console see of live traffic."""

    model: str
    watermark_s: float | None = None
    """The latest event seen; None before the first."""
    rows: int = 0
    labels_joined: int = 0
    labels_pending: int = 0
    """Labels whose prediction is not visible yet."""
    labels_unmatched: int = 0
    """Labels whose prediction did not appear within the longest label delay."""
    labels_repeated: int = 0
    labels_late: int = 0
    """Labels that came later than the longest label delay after their prediction."""
    version: int | None = None
    """The champion that alarms and drift are about; None while nothing serves."""
    alarms: tuple[Alarm, ...] = ()
    paired: tuple[Paired, ...] = ()
    drift: tuple[FeatureDrift, ...] = ()
    labels_by_version: Mapping[int, int] = field(default_factory=dict)
    loss_by_version: Mapping[int, float] = field(default_factory=dict)
    positions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Last part folded: {"predictions": {source: seq}, "labels": {source: seq}}."""
    labels_unreadable: int = 0
    """Labels whose value the model does not know: no class or number of its."""
    rows_late: int = 0
    """Rows that came after their window had closed and were counted in the next."""
    rows_foreign: int = 0
    """Rows counted with another version's plan than the champion's, and so left out of windows."""
    rows_refused: Mapping[str, int] = field(default_factory=dict)
    """Rows that were not answered since they did not fit the schema, by reason."""
    label_delay_p50_days: float | None = None
    """Half of the labels came within so many days of their row; None before enough came."""
    label_delay_p95_days: float | None = None
    estimate: Estimate | None = None
    """None where the champion's reference does not say what to expect."""
    slices: tuple[SliceLoss, ...] = ()
    """Of `monitoring.slices`."""
    detail: str = ""
    """What keeps the monitor from being up to date; "" when nothing does."""

    def pair(self, one: int, other: int) -> Paired | None:
        """The comparison of two versions, in either order; None if there is none."""
        wanted = (min(one, other), max(one, other))
        return next((pair for pair in self.paired if (pair.low, pair.high) == wanted), None)

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` gives the same report back."""
        return {
            **asdict(self),
            "alarms": [asdict(alarm) for alarm in self.alarms],
            "paired": [asdict(pair) for pair in self.paired],
            "drift": [asdict(drift) for drift in self.drift],
            "slices": [asdict(found) for found in self.slices],
            "rows_refused": dict(self.rows_refused),
            "labels_by_version": {str(k): n for k, n in self.labels_by_version.items()},
            "loss_by_version": {str(k): loss for k, loss in self.loss_by_version.items()},
            "positions": {kind: dict(seqs) for kind, seqs in self.positions.items()},
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "MonitorReport":
        """The report that `to_json` wrote."""
        return MonitorReport(
            **{
                **raw,
                "alarms": tuple(_alarm(alarm) for alarm in raw["alarms"]),
                "paired": tuple(Paired(**pair) for pair in raw["paired"]),
                "drift": tuple(FeatureDrift(**drift) for drift in raw["drift"]),
                "labels_by_version": {int(k): n for k, n in raw["labels_by_version"].items()},
                "loss_by_version": {int(k): loss for k, loss in raw["loss_by_version"].items()},
                "positions": {kind: dict(seqs) for kind, seqs in raw["positions"].items()},
                "rows_refused": dict(raw.get("rows_refused", {})),
                "estimate": Estimate(**raw["estimate"]) if raw.get("estimate") else None,
                "slices": tuple(SliceLoss(**found) for found in raw.get("slices", ())),
            }
        )


def _alarm(raw: Mapping[str, Any]) -> Alarm:
    return Alarm(**{**raw, "moved": tuple(Moved(**bin_) for bin_ in raw.get("moved", ()))})
