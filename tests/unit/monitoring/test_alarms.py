"""What alarms say, and in which order to look at them."""

from dataclasses import replace

import numpy as np
import pytest

from hapredict.features.plan import count_bins
from hapredict.monitoring.monitor import Monitor
from hapredict.monitoring.report import INCIDENTS
from hapredict.registry.bundle import pack_counts, score_bin
from hapredict.sections import DAY_S
from tests.support.bundles import MODEL, START_S
from tests.support.live import bundle_of, labels_of, part_of, state_of

BUNDLE = bundle_of(importance={"distance": 0.7, "收入": 0.2, "carrier": 0.1, "性别": 0.0})


def monitor_of(bundle=BUNDLE):
    monitor = Monitor(MODEL)
    monitor.on_catalog(state_of(1), {1: bundle}.__getitem__)
    return monitor


def put(bundle, part, **columns):
    """The part with other columns, and its counts as a replica would have made them."""
    table = {**part.table, **columns}
    bins = bundle.plan.bins(table)
    bucket_s = bundle.spec.monitoring.window_days * DAY_S / 24
    buckets = np.floor(part.event_s / bucket_s).astype(int)
    windows = tuple(
        replace(
            window,
            bins=count_bins(bins[buckets == window.bucket], bundle.plan.bin_totals),
            scores=np.bincount(
                score_bin(bundle.reference, part.scores[buckets == window.bucket]),
                minlength=len(bundle.reference.score_counts),
            ),
        )
        for window in part.windows
    )
    return replace(part, table=table, windows=windows)


def live(monitor, days, first=0, change=None, *, labels=None, bundle=BUNDLE, rows=200, **changes):
    """Days of traffic; `change` gives columns for a part, `labels` labels (default: honest)."""
    for day in range(first, first + days):
        part = part_of(bundle, day + 1, day=day, rows=rows, **changes)
        part = put(bundle, part, **(change(part) if change else {}))
        monitor.fold_predictions(part)
        found = labels(part) if labels else labels_of(part)
        monitor.fold_labels(part.source, part.seq, found)
    return monitor.report()


def blank(part):
    return {"distance": np.full(part.rows, np.nan)}


def strange(part):
    return {"carrier": np.array(["ZZ"] * part.rows, object)}


def test_a_column_that_comes_empty_is_an_incident_within_two_days():
    monitor = monitor_of()
    assert live(monitor, 10).alarms == ()
    report = live(monitor, 2, 10, blank)
    alarm = report.alarms[0]
    assert (alarm.kind, alarm.feature, alarm.rank) == ("missing values", "distance", 1)
    assert alarm.incident
    assert alarm.effect == pytest.approx(1, abs=0.05)
    assert alarm.since_s == pytest.approx(START_S + 10 * DAY_S, abs=DAY_S)
    assert alarm.moved[0].bin == "missing"
    assert "'distance' is missing in 100 % of" in alarm.reason


def test_values_that_nobody_learned_are_an_incident_of_their_own():
    monitor = monitor_of()
    live(monitor, 5)
    found = {alarm.kind: alarm for alarm in live(monitor, 2, 5, strange).alarms}
    assert found["unseen values"].feature == "carrier"
    assert "'carrier' has values that were never learned in 100 %" in found["unseen values"].reason
    assert "missing values" not in found


def test_an_incident_is_over_soon_after_its_repair():
    monitor = monitor_of()
    live(monitor, 5)
    live(monitor, 3, 5, blank)
    kinds = {alarm.kind for alarm in live(monitor, 4, 8).alarms}
    assert not kinds & INCIDENTS


def test_a_moved_feature_is_told_in_every_measure_and_with_what_it_matters():
    monitor = monitor_of()
    live(monitor, 5)
    (alarm,) = live(monitor, 5, 5, distance=1000.0).alarms
    assert (alarm.kind, alarm.feature) == ("feature drift", "distance")
    assert alarm.importance == 0.7
    assert alarm.psi > 0.2
    # the standard deviation is 866; a third of the values moved beyond what the bins can show
    assert 0.3 < alarm.wasserstein < 1000 / 866
    assert 1 <= len(alarm.moved) <= 3
    biggest = alarm.moved[0]
    assert abs(biggest.now - biggest.before) == max(abs(m.now - m.before) for m in alarm.moved)
    assert f"{biggest.bin} " in alarm.reason


def test_drift_that_does_no_harm_is_called_harmless_by_the_labels():
    monitor = monitor_of()
    live(monitor, 5)
    (alarm,) = live(monitor, 40, 5, distance=1000.0).alarms
    assert alarm.harm == "none"
    assert alarm.labels > 1000
    assert alarm.loss_measured == pytest.approx(1 / 6, abs=0.02)
    assert "the model did not become worse since" in alarm.reason


def test_drift_in_a_model_that_became_worse_is_called_harmful():
    monitor = monitor_of()
    live(monitor, 5)
    wrong = lambda part: labels_of(part, rate=0.5)  # noqa: E731 - a name for what labels are then
    report = live(monitor, 10, 5, distance=1000.0, labels=wrong)
    by_kind = {alarm.kind: alarm for alarm in report.alarms}
    assert by_kind["feature drift"].harm == "worse"
    assert by_kind["concept drift"].harm == "worse"
    assert report.alarms[0].kind == "concept drift"


def test_without_labels_nothing_is_called_harmless():
    """An estimate does not see what changed beyond the scores, and so cannot acquit."""
    monitor = monitor_of()
    silent = lambda part: ()  # noqa: E731
    live(monitor, 5, labels=silent)
    found = live(monitor, 30, 5, distance=1000.0, labels=silent)
    drift = {alarm.kind: alarm for alarm in found.alarms}["feature drift"]
    assert (drift.labels, drift.loss_measured) == (0, None)
    assert drift.loss_estimated == pytest.approx(1 / 6, abs=0.01)
    assert drift.harm == "unknown"
    assert "cannot be told yet (an estimated loss of 0.1" in drift.reason


def test_without_labels_drift_is_called_harmful_where_the_scores_expect_it():
    monitor = monitor_of()
    silent = lambda part: ()  # noqa: E731
    live(monitor, 5, labels=silent)
    found = live(monitor, 30, 5, distance=1000.0, labels=silent, scores=0.5)
    assert {alarm.kind: alarm for alarm in found.alarms}["feature drift"].harm == "worse"


def test_scores_that_became_unsure_raise_the_estimate_before_any_label():
    monitor = monitor_of()
    silent = lambda part: ()  # noqa: E731
    assert live(monitor, 8, labels=silent).alarms == ()
    report = live(monitor, 12, 8, labels=silent, scores=0.5)
    estimate = report.estimate
    assert estimate.loss == pytest.approx(11 / 48)
    assert estimate.low < estimate.loss < estimate.high
    assert estimate.baseline == pytest.approx(1 / 6)
    alarm = next(alarm for alarm in report.alarms if alarm.kind == "estimated loss")
    assert alarm.harm == "worse"
    assert "let expect a mean loss of 0.2" in alarm.reason


def test_labels_overrule_an_estimate_that_expected_the_worst():
    """Scores of 0.5 expect a loss of 0.25; rows that all turn out right have less."""
    monitor = monitor_of()
    live(monitor, 8)
    sure = lambda part: labels_of(part, rate=1.0)  # noqa: E731
    report = live(monitor, 20, 8, labels=sure, scores=0.7)
    alarm = next(alarm for alarm in report.alarms if alarm.kind == "estimated loss")
    assert alarm.harm == "none"
    assert alarm.loss_measured == pytest.approx(0.09, abs=0.03)


def test_broken_data_come_first_then_harm_and_then_what_matters_most():
    monitor = monitor_of()
    live(monitor, 5)

    def much(part):
        return {**strange(part), "收入": part.table["收入"] + 5000}

    alarms = live(monitor, 12, 5, much, distance=1000.0).alarms
    assert [alarm.rank for alarm in alarms] == list(range(1, len(alarms) + 1))
    assert alarms[0].kind == "unseen values"
    moved = [alarm for alarm in alarms if alarm.kind == "feature drift"]
    weights = [alarm.effect * alarm.importance for alarm in moved]
    assert len(moved) == 3
    assert weights == sorted(weights, reverse=True)
    assert moved[0].feature == "distance"


def test_without_a_measured_importance_all_features_count_alike():
    bundle = bundle_of()
    monitor = monitor_of(bundle)
    live(monitor, 5, bundle=bundle)
    (alarm,) = live(monitor, 5, 5, distance=1000.0, bundle=bundle).alarms
    assert alarm.importance == 1 / len(bundle.plan.features)


def test_hours_that_are_always_harder_are_no_news():
    """Scores near 0.5 at night, as the reference has them by the hour, and sure ones by day."""
    reference = BUNDLE.reference
    night = np.zeros((24, len(reference.score_counts)), np.int64)
    night[:12] = (40, 0, 0, 40)
    night[12:] = (0, 40, 40, 0)
    hourly = replace(
        reference,
        score_counts=tuple(night.sum(0).tolist()),
        score_hourly=pack_counts(night),
    )
    bundle = replace(BUNDLE, reference=hourly)
    monitor = monitor_of(bundle)
    for seq in range(1, 41):
        hour = (START_S + seq * DAY_S / 2) // 3600 % 24
        scores = 0.5 if hour >= 12 else 0.9
        part = put(bundle, part_of(bundle, seq, day=seq / 2, rows=500, scores=scores))
        monitor.fold_predictions(part)
    assert "estimated loss" not in {alarm.kind for alarm in monitor.report().alarms}
