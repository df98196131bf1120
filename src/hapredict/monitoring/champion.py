"""One champion under watch: its reference, its detectors, and the sentences of its alarms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hapredict.data.schema import Schema
from hapredict.monitoring.betting import LossDetector, loss_bound
from hapredict.monitoring.evidence import Change, DriftDetector
from hapredict.monitoring.report import Alarm, FeatureDrift
from hapredict.monitoring.seasons import MatchedShares, total_variation
from hapredict.monitoring.windows import Window, Windows
from hapredict.registry.bundle import Bundle, Reference, unpack_counts
from hapredict.sections import DAY_S
from hapredict.sections_live import MonitoringSpec
from hapredict.serving.journal import WindowCounts

_BINS_TOLD = 3


@dataclass(frozen=True, slots=True)
class View:
    """What the monitor needs of one version: a bundle without its networks."""

    number: int
    schema: Schema
    reference: Reference
    rules: MonitoringSpec
    features: tuple[str, ...]
    bin_labels: tuple[tuple[str, ...], ...]
    """A readable name for each bin of each feature."""

    @staticmethod
    def of(number: int, bundle: Bundle) -> "View":
        """The view of the version `number` that `bundle` holds."""
        plan = bundle.plan
        return View(
            number=number,
            schema=bundle.schema,
            reference=bundle.reference,
            rules=bundle.spec.monitoring,
            features=tuple(plan.features),
            bin_labels=tuple(tuple(plan.bin_labels(name)) for name in plan.features),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "schema": self.schema.to_json(),
            "reference": self.reference.to_json(),
            "rules": self.rules.model_dump(mode="json"),
            "features": self.features,
            "bin_labels": self.bin_labels,
        }

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> "View":
        return View(
            number=raw["number"],
            schema=Schema.from_json(raw["schema"]),
            reference=Reference.from_json(raw["reference"]),
            rules=MonitoringSpec.model_validate(raw["rules"]),
            features=tuple(raw["features"]),
            bin_labels=tuple(tuple(labels) for labels in raw["bin_labels"]),
        )


class Champion:
    """The windows and detectors of the version that serves.

    `earlier` is the champion before it, whose loss baseline it inherits if that is lower: a model
    that was trained and tested in a bad week must not make the monitor deaf. Losses of a
    regression compare only on the same scale.
    """

    def __init__(self, view: View, earlier: "Champion | None" = None) -> None:
        self.view = view
        own = (view.reference.loss_mean, view.reference.loss_rows)
        self._set_baseline(own if earlier is None else earlier.lower_baseline(view, own))
        rules, reference = view.rules, view.reference
        self.windows = Windows(
            view.number,
            window_rows=rules.window_rows,
            window_s=rules.window_days * DAY_S,
            bins=len(reference.bins),
            scores=len(reference.score_counts),
        )
        ends = np.cumsum([len(labels) for labels in view.bin_labels])[:-1]
        counts = np.split(np.array(reference.bins, np.int64), ends) if view.features else []
        numbers = len(view.schema.numbers)
        self.inputs = _detector(
            counts,
            reference.hourly,
            reference.usual,
            [place < numbers for place in range(len(counts))],
            rules,
        )
        self.scores = _detector(
            [reference.score_counts], reference.score_hourly, reference.score_usual, [True], rules
        )

    def lower_baseline(self, view: View, own: tuple[float, int]) -> tuple[float, int]:
        """The stricter of this champion's baseline and a successor's `own`, as (mean, rows)."""
        alike = view.schema.task == self.view.schema.task and (
            view.schema.task != "regression"
            or view.reference.loss_scale == self.view.reference.loss_scale
        )
        if not alike:
            return own
        # by what would be tolerated: a lucky mean of few rows is no lower baseline
        tolerance = view.rules.loss_tolerance
        return min(own, self.baseline, key=lambda one: loss_bound(one[0], one[1], tolerance))

    def add_counts(self, counts: tuple[WindowCounts, ...], watermark_s: float) -> None:
        """Fold the counts of one part; windows that they close reach the detectors."""
        for window in self.windows.add(counts, watermark_s):
            self._fold(window)

    def drift(self) -> Iterator[FeatureDrift]:
        """How far each feature, and last the score, is from the reference."""
        named = [(self.inputs, self.view.features), (self.scores, ("score",))]
        for detector, names in named:
            effects, evidence = detector.effects, detector.log_evidence
            for place, name in enumerate(names):
                yield FeatureDrift(
                    feature=name,
                    effect=float(effects[place]),
                    log_evidence=float(evidence[place]),
                    windows=detector.windows,
                )

    def alarms(self) -> Iterator[Alarm]:
        """The alarms that stand, the most harmful kind first."""
        change = self.losses.change
        if change is not None:
            yield self._loss_alarm(change)
        for change in self.scores.changes.values():
            yield Alarm(
                kind="score drift",
                feature="",
                at_s=change.at_s,
                since_s=change.since_s,
                effect=float(total_variation(change.live, change.expected)),
                log_evidence=float(self.scores.log_evidence[0]),
                reason=self._moved("the scores", self.scores, 0, change, self._score_labels()),
            )
        for place, change in self.inputs.changes.items():
            name = self.view.features[place]
            yield Alarm(
                kind="feature drift",
                feature=name,
                at_s=change.at_s,
                since_s=change.since_s,
                effect=float(total_variation(change.live, change.expected)),
                log_evidence=float(self.inputs.log_evidence[place]),
                reason=self._moved(
                    repr(name), self.inputs, place, change, self.view.bin_labels[place]
                ),
            )

    def to_json(self) -> dict[str, Any]:
        """All but the view of the version."""
        return {
            "baseline": self.baseline,
            "windows": self.windows.to_json(),
            "inputs": self.inputs.to_json(),
            "scores": self.scores.to_json(),
            "losses": self.losses.to_json(),
        }

    @staticmethod
    def from_json(view: View, raw: Mapping[str, Any]) -> "Champion":
        """The champion that `to_json` wrote, with the view of its version."""
        found = Champion(view)
        found._set_baseline((raw["baseline"][0], raw["baseline"][1]))
        found.windows.restore(raw["windows"])
        found.inputs.restore(raw["inputs"])
        found.scores.restore(raw["scores"])
        found.losses.restore(raw["losses"])
        return found

    def _set_baseline(self, baseline: tuple[float, int]) -> None:
        rules = self.view.rules
        self.baseline = baseline
        self.losses = LossDetector(
            loss_bound(*baseline, rules.loss_tolerance),
            rules.false_alarm_windows,
            rules.loss_window_labels,
            rules.window_days * DAY_S,
        )

    def _fold(self, window: Window) -> None:
        for detector, counts in ((self.inputs, window.bins), (self.scores, window.scores)):
            detector.update(
                counts,
                start_s=window.start_s,
                end_s=window.end_s,
                weight=window.weight,
                hours=window.hours,
            )

    def _loss_alarm(self, change: Change) -> Alarm:
        baseline, live = self.baseline[0], float(change.live[0])
        return Alarm(
            kind="concept drift",
            feature="",
            at_s=change.at_s,
            since_s=change.since_s,
            effect=live - baseline,
            log_evidence=self.losses.log_evidence,
            reason=(
                f"the mean loss of v{self.view.number} rose from {baseline:.3f} to {live:.3f} over "
                f"{change.rows} labels since {_day(change.since_s)} "
                f"(up to {self.losses.bound:.3f} is tolerated)"
            ),
        )

    def _moved(
        self,
        what: str,
        detector: DriftDetector,
        place: int,
        change: Change,
        labels: tuple[str, ...],
    ) -> str:
        reference = change.expected
        gap = np.abs(change.live - reference)
        told = ", ".join(
            f"{labels[i]} {'rose' if change.live[i] > reference[i] else 'fell'} from "
            f"{_percent(reference[i])} to {_percent(change.live[i])}"
            for i in np.argsort(-gap, kind="stable")[:_BINS_TOLD]
            if gap[i] > 0.1 * gap.max()
        )
        return (
            f"{what} moved by {_percent(0.5 * gap.sum())} over {change.rows} rows since "
            f"{_day(change.since_s)} ({_percent(detector.tolerance[place])} is tolerated): {told}"
        )

    def _score_labels(self) -> tuple[str, ...]:
        edges = [f"{edge:.3g}" for edge in self.view.reference.score_edges]
        if not edges:
            return ("any score",)
        between = (f"{low} to {high}" for low, high in pairwise(edges))
        return (f"below {edges[0]}", *between, f"{edges[-1]} and above")


def _detector(
    counts: Sequence[ArrayLike],
    hourly: str,
    usual: tuple[float, ...],
    ordered: Sequence[bool],
    rules: MonitoringSpec,
) -> DriftDetector:
    by_hour = unpack_counts(hourly if rules.seasons else "", sum(map(np.size, counts)))
    return DriftDetector(
        MatchedShares(counts, by_hour),
        np.maximum(rules.drift_tolerance, usual or 0.0),
        rules.false_alarm_windows,
        ordered=ordered,
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def _day(at_s: float) -> str:
    try:
        return f"{datetime.fromtimestamp(at_s, tz=UTC):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):  # a caller's event time far outside any calendar
        return f"second {at_s:g}"
