"""One model's state at a moment: which versions there are, and who serves how."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

Stage = Literal["empty", "steady", "shadow", "canary", "watch"]
"""`empty`: nothing published. `steady`: the champion serves. `shadow`: a challenger only scores.
`canary`: it answers a share. `watch`: it was promoted, and the previous champion runs along."""


@dataclass(frozen=True, slots=True)
class Version:
    """One published model. A metric that is not finite is left out, for it says nothing."""

    number: int
    digest: str
    """Of the bundle."""
    run: str
    """The training run that made it."""
    published_s: float
    """Seconds on the model's clock (`monitoring.clock`)."""
    trained_until_s: float
    """The newest row that training saw, in seconds on the model's clock."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    trigger: str = ""
    """What began its training, such as "age"; "" in entries of older programs."""

    def __post_init__(self) -> None:
        finite = {name: float(x) for name, x in self.metrics.items() if math.isfinite(x)}
        object.__setattr__(self, "metrics", finite)


@dataclass(frozen=True, slots=True)
class CatalogState:
    """Who serves a model and how, at one moment. All times are seconds on the model's clock."""

    model: str
    term: int = 0
    """Of the controller that wrote it last; it never falls."""
    stage: Stage = "empty"
    champion: int | None = None
    challenger: int | None = None
    previous: int | None = None
    """The champion before a promotion: what a rollback restores."""
    share: float = 0.0
    """Of keys that the challenger answers; above 0 in stage `canary` only."""
    stage_since_s: float = 0.0
    """When the stage, or the canary's step, began."""
    versions: Mapping[int, Version] = field(default_factory=dict)
    paused: str = ""
    """Why the loop does nothing by itself; "" if it runs."""
    frozen: str = ""
    """Why no training starts by itself after a rollback; "" if one may."""
    incident: str = ""
    """What is wrong with the newest data, so that nothing is trained or promoted; "" if nothing."""
    cleared_s: float | None = None
    """When somebody last cleared an incident: alarms raised before do not count again."""
    last_training_s: float | None = None
    trainings_s: tuple[float, ...] = ()
    """When each training of the last 30 days began."""
    failed_trainings: int = 0
    """In a row."""
    refused: Mapping[int, str] = field(default_factory=dict)
    """Versions that must not serve, and why."""
    training: str = ""
    """The run in progress, or ""."""
    training_trigger: str = ""
    """What began the last run."""
    labels_at_training: int = 0
    """Labels joined when the last training began."""

    def to_json(self) -> dict[str, Any]:
        """As JSON values. Numbers of versions are text where they are keys, as JSON wants it."""
        found = asdict(self)
        found["versions"] = [asdict(self.versions[number]) for number in sorted(self.versions)]
        found["trainings_s"] = list(self.trainings_s)
        found["refused"] = {str(number): why for number, why in self.refused.items()}
        return found

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "CatalogState":
        """What `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        versions = [Version(**version) for version in raw["versions"]]
        refused = {int(number): str(why) for number, why in raw["refused"].items()}
        if raw["stage"] not in get_args(Stage):
            message = f"stage {raw['stage']!r}, expected one of {', '.join(get_args(Stage))}"
            raise ValueError(message)
        changed = {
            "versions": {v.number: v for v in versions},
            "refused": refused,
            "trainings_s": tuple(raw.get("trainings_s", ())),
        }
        return cls(**{**raw, **changed})
