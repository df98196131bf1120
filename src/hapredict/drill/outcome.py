"""What callers saw while something was broken on purpose, and what that proves.

All of it is sums over requests, so that the same figures come out of a stored drill. "Wrong" is an
answer with status 200 that no version of the model would have given; it counts as not answered.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

Z95 = 1.959963984540054
SLOW_S = 1.0
"""An answer slower than this, and than ten times the 99th percentile before, met the fault."""

Verdict = Literal["held", "not held", "not enough load to tell"]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: when it was sent (seconds since the drill began), and what came of it."""

    at_s: float
    took_s: float
    fault: str = ""
    """"" for a right answer; else what was wrong, in words."""
    wrong: bool = False
    """It was answered, and wrongly."""
    source: str = ""
    """The replica that answered."""

    @property
    def end_s(self) -> float:
        return self.at_s + self.took_s


@dataclass(frozen=True, slots=True)
class Phase:
    """Requests that were sent in one stretch of time."""

    requests: int = 0
    failed: int = 0
    wrong: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    worst_ms: float = 0.0

    @property
    def lost(self) -> int:
        """Requests without a right answer."""
        return self.failed + self.wrong


def phase(asked: Sequence[Asked]) -> Phase:
    """Sum up one stretch. Times are those of requests that were answered rightly."""
    took = np.array([one.took_s for one in asked if not one.fault])
    p50, p99, worst = (
        (np.quantile(took, 0.5), np.quantile(took, 0.99), took.max()) if len(took) else (0, 0, 0)
    )
    return Phase(
        requests=len(asked),
        failed=sum(bool(one.fault) and not one.wrong for one in asked),
        wrong=sum(one.wrong for one in asked),
        p50_ms=round(1e3 * float(p50), 3),
        p99_ms=round(1e3 * float(p99), 3),
        worst_ms=round(1e3 * float(worst), 3),
    )


def gap_s(asked: Sequence[Asked], start_s: float, end_s: float) -> float:
    """The longest time between `start_s` and `end_s` in which nobody got a right answer."""
    ends = sorted(one.end_s for one in asked if not one.fault and start_s <= one.end_s <= end_s)
    moments = [start_s, *ends, max(end_s, start_s)]
    return max(later - earlier for earlier, later in pairwise(moments))


def detect_s(asked: Sequence[Asked], inject_s: float, before: Phase) -> float:
    """Seconds after the blow for which requests still ran into what is broken.

    The sending time of the last request that failed or was slow; 0 if none did.
    """
    slow_s = max(SLOW_S, 10e-3 * before.p99_ms)
    met = [
        one.at_s - inject_s
        for one in asked
        if one.end_s >= inject_s and (one.fault or one.took_s > slow_s)
    ]
    return max(0.0, *met) if met else 0.0


def share_interval(right: int, requests: int) -> tuple[float, float]:
    """The share of requests that are answered rightly, as a 95 % interval (Wilson, 1927).

    "0 of 10,000 failed" is not certainty: it is at least 99.96 %.
    """
    if not requests:
        return 0.0, 1.0
    share = right / requests
    middle = share + Z95**2 / (2 * requests)
    spread = Z95 * math.sqrt(share * (1 - share) / requests + Z95**2 / (4 * requests**2))
    scale = 1 + Z95**2 / requests
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def requests_needed(objective: float) -> int:
    """Requests, none of them lost, that show `objective` percent with 95 % confidence."""
    return math.ceil(Z95**2 * objective / (100 - objective))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One fault, and what callers saw of it."""

    fault: str
    level: int
    says: str
    """What was done, with pid and node."""
    before: Phase
    during: Phase
    """From the blow until all was as before, or the drill gave up waiting."""
    after: Phase
    gap_s: float
    detect_s: float
    restore_s: float | None
    """Seconds until all was as before; None if it was not by the end."""
    restore_s_max: float
    lost_share_max: float = 0.0
    """The share of requests that this fault may cost."""
    faults: tuple[str, ...] = ()
    """The first lost requests, in words."""
    note: str = ""

    @property
    def requests(self) -> int:
        return self.before.requests + self.during.requests + self.after.requests

    @property
    def lost(self) -> int:
        """Requests without a right answer, since the blow."""
        return self.during.lost + self.after.lost

    def verdict(self, objective: float) -> Verdict:
        """Whether the level's promise held, for an objective in percent."""
        asked = self.during.requests + self.after.requests
        if self.before.lost:
            return "not enough load to tell"  # something else was broken already
        if self.lost > self.lost_share_max * asked:
            return "not held"
        if self.restore_s is None or self.restore_s > self.restore_s_max:
            return "not held"
        # with an allowance, the allowance is the objective
        needed = requests_needed(min(objective, 100 * (1 - self.lost_share_max)))
        return "held" if asked >= needed else "not enough load to tell"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "Outcome":
        phases = {name: Phase(**raw[name]) for name in ("before", "during", "after")}
        return Outcome(**{**raw, **phases, "faults": tuple(raw["faults"])})


@dataclass(frozen=True, slots=True)
class Drill:
    """All faults of one drill."""

    model: str
    level: int
    objective: float
    at_s: float
    """Wall time at which it began."""
    wall_s: float
    outcomes: tuple[Outcome, ...] = ()
    scaling: tuple["Scaled", ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
    """Faults of the level that could not be tried here, and why."""

    @property
    def requests(self) -> int:
        return sum(one.requests for one in self.outcomes)

    @property
    def lost(self) -> int:
        return sum(one.lost for one in self.outcomes)

    @property
    def interval(self) -> tuple[float, float]:
        """The share answered rightly, as a 95 % interval."""
        return share_interval(self.requests - self.lost, self.requests)

    @property
    def restore_mean_s(self) -> float | None:
        """Mean time to restore (MTTR); None while anything is not restored."""
        times = [one.restore_s for one in self.outcomes]
        known = [time_s for time_s in times if time_s is not None]
        return sum(known) / len(known) if known and len(known) == len(times) else None

    @property
    def verdict(self) -> Verdict:
        """Of the level: not held if one fault was not survived, else held if all were told."""
        said = {one.verdict(self.objective) for one in self.outcomes}
        if "not held" in said:
            return "not held"
        if not said or "not enough load to tell" in said or self.skipped:
            return "not enough load to tell"
        return "held"

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "requests": self.requests,
            "lost": self.lost,
            "interval": self.interval,
            "restore_mean_s": self.restore_mean_s,
            "verdict": self.verdict,
            "verdicts": {one.fault: one.verdict(self.objective) for one in self.outcomes},
        }

    @staticmethod
    def from_json(raw: dict[str, Any]) -> "Drill":
        return Drill(
            model=raw["model"],
            level=raw["level"],
            objective=raw["objective"],
            at_s=raw["at_s"],
            wall_s=raw["wall_s"],
            outcomes=tuple(Outcome.from_json(one) for one in raw["outcomes"]),
            scaling=tuple(Scaled(**one) for one in raw["scaling"]),
            skipped=dict(raw["skipped"]),
        )


@dataclass(frozen=True, slots=True)
class Scaled:
    """How much some replicas answer when callers do not wait."""

    replicas: int
    requests_per_s: float
    p99_ms: float


def failures_between_s(drills: Sequence[Drill]) -> float | None:
    """Mean time between failures that callers saw (MTBF) over drills; None while there was none.

    A fault of which callers noticed something counts as one failure.
    """
    seen = sum(one.lost > 0 for drill in drills for one in drill.outcomes)
    total_s = sum(drill.wall_s for drill in drills)
    return total_s / seen if seen else None


def budget_left(drills: Sequence[Drill], objective: float) -> float:
    """The share of the error budget that drills left: 1 is all of it, 0 and below is none."""
    requests = sum(drill.requests for drill in drills)
    if not requests:
        return 1.0
    lost = sum(drill.lost for drill in drills)
    return 1.0 - lost / requests / (1 - objective / 100)
