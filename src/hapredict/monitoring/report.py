"""What the monitor knows, as one value that crosses processes and becomes JSON.

Times are seconds since the epoch on the model's clock (`monitoring.clock`), losses and effects
lie in [0, 1], and evidence is a natural logarithm: 3 is odds of 20, 7 of 1000.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

AlarmKind = Literal["feature drift", "score drift", "concept drift"]


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
    """Total variation of bins, or rise of the mean loss."""
    log_evidence: float
    reason: str
    """One sentence with the figures."""


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
                "alarms": tuple(Alarm(**alarm) for alarm in raw["alarms"]),
                "paired": tuple(Paired(**pair) for pair in raw["paired"]),
                "drift": tuple(FeatureDrift(**drift) for drift in raw["drift"]),
                "labels_by_version": {int(k): n for k, n in raw["labels_by_version"].items()},
                "loss_by_version": {int(k): loss for k, loss in raw["loss_by_version"].items()},
                "positions": {kind: dict(seqs) for kind, seqs in raw["positions"].items()},
            }
        )
