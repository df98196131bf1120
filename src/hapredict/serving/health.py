"""What replicas count about versions while two are compared, so that a broken one shows at once.

Each replica keeps its counts in `health/<model>/<version on trial>/<source>.json`; sums over the
sources of one trial are what control looks at. Counts need no labels and no statistics.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class VersionHealth:
    """Counts about one version. They add up over replicas."""

    rows: int = 0
    """Rows that it scored."""
    faults: int = 0
    """Times that it failed: an error, or a score that is not a number."""
    lowest: float = math.inf
    highest: float = -math.inf
    """Of all its scores; infinite before the first."""
    probes: int = 0
    """Times that it was timed beside the other version, on the same rows."""
    probe_ms: float = 0.0
    """Milliseconds of all probes together, for 16 rows each."""

    def __add__(self, other: "VersionHealth") -> "VersionHealth":
        return VersionHealth(
            self.rows + other.rows,
            self.faults + other.faults,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            self.probes + other.probes,
            self.probe_ms + other.probe_ms,
        )

    @property
    def constant(self) -> bool:
        """Whether all rows had one and the same score."""
        return self.rows > 0 and self.lowest == self.highest

    @property
    def fault_share(self) -> float:
        """Failures among all attempts; 0 without any."""
        return self.faults / (self.rows + self.faults) if self.faults else 0.0

    @property
    def mean_ms(self) -> float | None:
        """Milliseconds for 16 rows; None before the first probe."""
        return self.probe_ms / self.probes if self.probes else None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; no score yet is None."""
        found = asdict(self)
        return {
            name: None if found[name] in (math.inf, -math.inf) else found[name] for name in found
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "VersionHealth":
        """What `to_json` wrote."""
        blank = VersionHealth()
        return VersionHealth(
            **{
                name: getattr(blank, name) if value is None else value
                for name, value in raw.items()
            }
        )


def total(counts: Iterable[Mapping[int, VersionHealth]]) -> dict[int, VersionHealth]:
    """The sum over replicas, by version."""
    found: dict[int, VersionHealth] = {}
    for one in counts:
        for number, health in one.items():
            found[number] = found.get(number, VersionHealth()) + health
    return found


def health_prefix(model: str, trial: int) -> str:
    """Where replicas count while version `trial` is challenger or watched champion."""
    return f"health/{model}/{trial}"
