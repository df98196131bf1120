"""One champion under watch: its reference, its detectors, and the alarms that they raise."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hapredict.monitoring.betting import LossDetector, loss_bound
from hapredict.monitoring.effects import score_places, unusual_bins
from hapredict.monitoring.evidence import DriftDetector
from hapredict.monitoring.history import History
from hapredict.monitoring.rates import RateDetector
from hapredict.monitoring.report import Alarm, AlarmKind, Estimate, FeatureDrift
from hapredict.monitoring.seasons import Floats, MatchedShares
from hapredict.monitoring.sentences import (
    estimate_alarm,
    loss_alarm,
    moved_alarm,
    ranked,
    rate_alarm,
    score_labels,
    with_worth,
)
from hapredict.monitoring.slices import SliceCodes, Slices
from hapredict.monitoring.view import View
from hapredict.monitoring.windows import Window, Windows
from hapredict.monitoring.worth import Expected, measured
from hapredict.registry.bundle import unpack_counts
from hapredict.sections import DAY_S
from hapredict.sections_live import MonitoringSpec
from hapredict.serving.journal import WindowCounts

ESTIMATE_WINDOWS = 7
"""Newest stretches of `window_days` that the reported estimate is about: a week of days."""


class Champion:
    """The windows and detectors of the version that serves.

    `earlier` is the champion before it, whose loss baseline it inherits if that is lower: a model
    that was trained and tested in a bad week must not make the monitor deaf. Losses of a
    regression compare only on the same scale.
    """

    def __init__(
        self,
        view: View,
        earlier: "Champion | None" = None,
        codes: SliceCodes | None = None,
    ) -> None:
        codes = codes or SliceCodes()
        self.view = view
        own = (view.reference.loss_mean, view.reference.loss_rows)
        self._set_baseline(own if earlier is None else earlier.lower_baseline(view, own))
        alike = earlier is not None and earlier.alike(view)
        self.slices: Slices = Slices(view, codes, earlier.slices if alike and earlier else None)
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
        self._matched = _matched(counts, reference.hourly, rules)
        self._matched_scores = _matched([reference.score_counts], reference.score_hourly, rules)
        self.inputs = _detector(
            self._matched,
            reference.usual,
            [place < numbers for place in range(len(counts))],
            rules,
        )
        self.scores = _detector(self._matched_scores, reference.score_usual, [True], rules)
        level = rules.false_alarm_windows
        self._watched = _rates_of(view)
        self._rate_places = np.array([place for _, _, place in self._watched], np.int64)
        self.rates = RateDetector(
            np.array(reference.bins, np.int64)[self._rate_places],
            np.full(len(self._watched), reference.rows),
            rules.rate_tolerance,
            level,
        )
        self.expected = Expected.of(reference)
        expected = self.expected.baseline if self.expected else 0.0
        self.expected_losses = LossDetector(
            loss_bound(expected, reference.loss_rows, rules.loss_tolerance),
            level,
            rules.window_rows,
            rules.window_days * DAY_S,
        )
        self.history = History(len(reference.score_counts), rules.window_days * DAY_S)

    def lower_baseline(self, view: View, own: tuple[float, int]) -> tuple[float, int]:
        """The stricter of this champion's baseline and a successor's `own`, as (mean, rows)."""
        if not self.alike(view):
            return own
        # by what would be tolerated: a lucky mean of few rows is no lower baseline
        tolerance = view.rules.loss_tolerance
        return min(own, self.baseline, key=lambda one: loss_bound(one[0], one[1], tolerance))

    def alike(self, view: View) -> bool:
        """Whether losses of both can be compared."""
        return view.schema.task == self.view.schema.task and (
            view.schema.task != "regression"
            or view.reference.loss_scale == self.view.reference.loss_scale
        )

    def add_counts(self, counts: tuple[WindowCounts, ...], watermark_s: float) -> None:
        """Fold the counts of one part; windows that they close reach the detectors."""
        for window in self.windows.add(counts, watermark_s):
            self._fold(window)

    def add_losses(self, losses: Floats, event_s: Floats, groups: NDArray[np.int16]) -> None:
        """Fold losses [labels] of predictions made at `event_s`, with slices [labels, columns]."""
        self.losses.add(losses, event_s)
        self.history.add_losses(losses, event_s)
        self.slices.add_losses(groups, losses, event_s)

    @property
    def estimate(self) -> Estimate | None:
        """What the newest scores let expect; None where nobody knows."""
        if self.expected is None:
            return None
        return self.expected.estimate(self.history.newest(ESTIMATE_WINDOWS))

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

    def alarms(self, others: Iterable[Alarm] = ()) -> tuple[Alarm, ...]:
        """The alarms that stand, with `others`, in the order in which to look at them."""
        found = (*self._found(), *self.slices.alarms(), *others)
        return ranked(with_worth(self._worth(alarm)) for alarm in found)

    def _found(self) -> Iterator[Alarm]:
        view = self.view
        if (change := self.losses.change) is not None:
            yield loss_alarm(
                change,
                self.baseline[0],
                self.losses.bound,
                version=view.number,
                log_evidence=self.losses.log_evidence,
            )
        if self.expected is not None and (change := self.expected_losses.change) is not None:
            yield estimate_alarm(
                change,
                self.expected.baseline,
                self.expected_losses.bound,
                version=view.number,
                log_evidence=self.expected_losses.log_evidence,
            )
        for place, change in self.rates.changes.items():
            kind, feature, _ = self._watched[place]
            yield rate_alarm(
                kind,
                change,
                float(self.rates.reference[place]),
                float(self.rates.bound[place]),
                feature=feature,
                importance=view.importance(feature),
                log_evidence=float(self.rates.log_evidence[place]),
            )
        for change in self.scores.changes.values():
            edges = view.reference.score_edges
            yield moved_alarm(
                "score drift",
                change,
                labels=score_labels(edges),
                places=score_places(edges),
                tolerance=float(self.scores.tolerance[0]),
                log_evidence=float(self.scores.log_evidence[0]),
            )
        for place, change in self.inputs.changes.items():
            yield moved_alarm(
                "feature drift",
                change,
                feature=view.features[place],
                importance=view.importance(view.features[place]),
                labels=view.bin_labels[place],
                places=view.places[place],
                tolerance=float(self.inputs.tolerance[place]),
                log_evidence=float(self.inputs.log_evidence[place]),
            )

    def _worth(self, alarm: Alarm) -> Alarm:
        """The alarm with what the model was worth over the same stretch."""
        if alarm.kind == "concept drift":
            return alarm
        since = self.history.since(alarm.since_s)
        seen = measured(since)
        told = self.expected.band(since.scores) if self.expected else None
        harm = alarm.harm
        # an estimate cannot acquit: it is blind to what changed beyond the scores
        if told is not None and told.harm(self.expected_losses.bound) == "worse":
            harm = "worse"
        if seen is not None and (by_labels := seen.harm(self.losses.bound)) != "unknown":
            harm = by_labels
        return replace(
            alarm,
            harm=harm,
            labels=seen.count if seen else 0,
            loss_measured=seen.loss if seen else None,
            loss_estimated=told.loss if told else alarm.loss_estimated,
        )

    def to_json(self) -> dict[str, Any]:
        """All but the view of the version."""
        return {
            "baseline": self.baseline,
            "windows": self.windows.to_json(),
            "inputs": self.inputs.to_json(),
            "scores": self.scores.to_json(),
            "losses": self.losses.to_json(),
            "rates": self.rates.to_json(),
            "expected_losses": self.expected_losses.to_json(),
            "history": self.history.to_json(),
            "slices": self.slices.to_json(),
        }

    @staticmethod
    def from_json(view: View, codes: SliceCodes, raw: Mapping[str, Any]) -> "Champion":
        """The champion that `to_json` wrote, with the view of its version."""
        found = Champion(view, codes=codes)
        found._set_baseline((raw["baseline"][0], raw["baseline"][1]))
        found.windows.restore(raw["windows"])
        found.inputs.restore(raw["inputs"])
        found.scores.restore(raw["scores"])
        found.losses.restore(raw["losses"])
        found.rates.restore(raw["rates"])
        found.expected_losses.restore(raw["expected_losses"])
        found.history.restore(raw["history"])
        found.slices = Slices.from_json(view, codes, raw["slices"])
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
        shares, _ = self._matched.at(window.hours)
        self.rates.update(
            window.bins[self._rate_places],
            window.rows,
            start_s=window.start_s,
            end_s=window.end_s,
            weight=window.weight,
            usual=shares[self._matched.held][self._rate_places],
        )
        self.history.add_scores(window.scores, window.start_s)
        if self.expected is not None:
            of_hours, _ = self._matched_scores.at(window.hours)
            usual = float(of_hours[0] @ self.expected.losses)
            # hours that are always harder are no news
            losses = self.expected.losses * min(1.0, self.expected.baseline / max(usual, 1e-9))
            # the bins' order is no order in time: spread evenly, no part of a window is special
            told = np.repeat(losses, window.scores)
            spread = np.random.default_rng(0).permutation(len(told))
            self.expected_losses.add(told[spread], np.full(len(told), window.start_s))


def _matched(counts: Sequence[ArrayLike], hourly: str, rules: MonitoringSpec) -> MatchedShares:
    by_hour = unpack_counts(hourly if rules.seasons else "", sum(map(np.size, counts)))
    return MatchedShares(counts, by_hour)


def _detector(
    expected: MatchedShares,
    usual: tuple[float, ...],
    ordered: Sequence[bool],
    rules: MonitoringSpec,
) -> DriftDetector:
    return DriftDetector(
        expected,
        np.maximum(rules.drift_tolerance, usual or 0.0),
        rules.false_alarm_windows,
        ordered=ordered,
    )


def _rates_of(view: View) -> list[tuple[AlarmKind, str, int]]:
    """What is watched for rising: kind, feature and flat place of its bin."""
    found: list[tuple[AlarmKind, str, int]] = []
    places = unusual_bins(view.bin_labels)
    for feature, (missing, unseen) in zip(view.features, places, strict=True):
        found.append(("missing values", feature, missing))
        if unseen is not None:
            found.append(("unseen values", feature, unseen))
    return found
