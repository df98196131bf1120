import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import CorruptBundle, NotFound, StoreUnavailable
from hapredict.monitoring.monitor import Monitor
from hapredict.sections import DAY_S
from hapredict.serving.journal import Label
from tests.support.bundles import MODEL, START_S, schema_of
from tests.support.live import bundle_of, labels_of, part_of, state_of

ONE, TWO = bundle_of(1), bundle_of(2, loss_mean=0.3)
BUNDLES = {1: ONE, 2: TWO}


def monitor_of(state=None, bundles=BUNDLES):
    monitor = Monitor(MODEL)
    monitor.on_catalog(state or state_of(1), bundles.__getitem__)
    return monitor


def days(count, source="replica-a", first=0, **changes):
    """(part, labels) of each of `count` days."""
    parts = [
        part_of(ONE, seq=day + 1, day=first + day, source=source, **changes) for day in range(count)
    ]
    return [(part, labels_of(part)) for part in parts]


def fold(monitor, traffic):
    for part, labels in traffic:
        monitor.fold_predictions(part)
        monitor.fold_labels(part.source, part.seq, labels)
    return monitor.report()


def test_a_monitor_that_saw_nothing_reports_nothing():
    report = Monitor(MODEL).report()
    assert (report.model, report.version, report.watermark_s) == (MODEL, None, None)
    assert report.rows == report.labels_joined == 0
    assert report.alarms == report.paired == report.drift == ()


def test_traffic_like_the_reference_is_counted_and_raises_no_alarm():
    report = fold(monitor_of(), days(20))
    assert report.rows == report.labels_joined == 20 * 60
    assert report.alarms == ()
    assert report.watermark_s == pytest.approx(START_S + 19 * DAY_S, abs=DAY_S)
    assert report.labels_by_version == {1: 1200}
    assert report.loss_by_version[1] == pytest.approx(1 / 6, abs=0.02)
    assert [drift.feature for drift in report.drift][-1] == "score"
    assert all(drift.windows == 20 for drift in report.drift)
    assert report.positions == {"predictions": {"replica-a": 20}, "labels": {"replica-a": 20}}


def test_a_feature_that_moved_is_named_with_its_bins_and_its_date():
    monitor = monitor_of()
    fold(monitor, days(20))
    for seq in range(21, 31):
        monitor.fold_predictions(part_of(ONE, seq=seq, day=seq - 1, distance=2000.0))
    (alarm,) = [alarm for alarm in monitor.report().alarms if not alarm.incident]
    assert (alarm.kind, alarm.feature) == ("feature drift", "distance")
    assert alarm.effect > 0.3
    assert START_S + 18 * DAY_S <= alarm.since_s < alarm.at_s
    assert "'distance' moved by" in alarm.reason
    assert "since 2023-12-0" in alarm.reason
    assert " rose from " in alarm.reason
    assert " % to " in alarm.reason


def test_scores_that_moved_are_reported():
    report = fold(monitor_of(), days(12, scores=0.9))
    (alarm,) = [alarm for alarm in report.alarms if alarm.kind == "score drift"]
    assert "0.75 and above rose from 25 % to 100 %" in alarm.reason
    assert report.drift[-1].effect == pytest.approx(0.75, abs=0.01)


def test_a_champion_whose_loss_rose_is_reported_with_both_losses():
    monitor = monitor_of()
    traffic = [(part, labels_of(part, rate=0.5)) for part, _ in days(15, scores=0.1)]
    report = fold(monitor, traffic)
    (alarm,) = [alarm for alarm in report.alarms if alarm.kind == "concept drift"]
    assert alarm.effect == pytest.approx(0.41 - 1 / 6, abs=0.05)
    assert "mean loss of v1 rose from 0.167 to 0." in alarm.reason
    assert report.alarms[0] is alarm


def test_rows_that_the_champion_only_shadowed_count_for_its_loss():
    monitor = monitor_of(state_of(1, 2, champion=2, previous=1, stage="watch"))
    part = part_of(ONE, rows=100, version=1, scores=0.0, other=2, other_scores=1.0)
    monitor.fold_predictions(part)
    monitor.fold_labels("replica-a", 1, labels_of(part, rate=0.0))
    report = monitor.report()
    assert report.labels_by_version == {1: 100, 2: 100}
    assert report.loss_by_version == {1: 0, 2: 1}
    assert [alarm.kind for alarm in report.alarms] == ["concept drift"]


def test_two_versions_are_compared_whichever_of_them_answered():
    monitor = monitor_of(state_of(1, 2, challenger=2, stage="canary", share=0.5))
    for seq in range(1, 9):
        answered, other = (1, 2) if seq % 2 else (2, 1)
        scores = {1: 0.5, 2: 0.1}
        part = part_of(
            ONE,
            seq,
            version=answered,
            scores=scores[answered],
            other=other,
            other_scores=scores[other],
        )
        monitor.fold_predictions(part)
        monitor.fold_labels("replica-a", seq, labels_of(part, rate=0.0))
    (pair,) = monitor.report().paired
    assert (pair.low, pair.high, pair.labels) == (1, 2, 480)
    assert pair.low_loss == pytest.approx(0.25)
    assert pair.high_loss == pytest.approx(0.01)
    assert pair.log_better > 20
    assert pair.log_worse < 0


def test_labels_that_mean_nothing_are_counted_and_left_out():
    monitor = monitor_of()
    part = part_of(ONE)
    monitor.fold_predictions(part)
    odd = [Label(part.ids[0], "maybe", 0.0), Label(part.ids[1], None, 0.0)]
    monitor.fold_labels("replica-a", 1, odd)
    report = monitor.report()
    assert (report.labels_unreadable, report.labels_joined) == (2, 0)
    assert report.labels_by_version == {}


def test_labels_may_come_before_their_predictions():
    part = part_of(ONE)
    late, early = monitor_of(), monitor_of()
    fold(late, [(part, labels_of(part))])
    early.fold_labels("replica-a", 1, labels_of(part))
    assert early.report().labels_pending == 60
    early.fold_predictions(part)
    assert early.report() == late.report()


def test_on_the_event_clock_a_label_without_a_time_became_known_at_the_watermark():
    bundles = {1: bundle_of(1, clock="event", label_delay_max_days=2)}
    monitor = monitor_of(bundles=bundles)
    part = part_of(ONE)
    monitor.fold_predictions(part)
    # years of wall time later, on the event clock at once
    labels = [replace(label, at_s=label.at_s + 1e9) for label in labels_of(part)]
    monitor.fold_labels("replica-a", 1, labels)
    assert monitor.report().labels_joined == 60


def test_a_part_that_comes_twice_is_folded_once():
    monitor = monitor_of()
    traffic = days(5)
    once = fold(monitor, traffic)
    assert not monitor.fold_predictions(traffic[2][0])
    assert not monitor.fold_labels("replica-a", 3, traffic[2][1])
    assert monitor.report() == once


def test_a_gap_in_a_source_is_an_error_and_changes_nothing():
    monitor = monitor_of()
    fold(monitor, days(2))
    before = monitor.report()
    with pytest.raises(ValueError, match="part 5 came, expected part 3"):
        monitor.fold_predictions(part_of(ONE, seq=5))
    with pytest.raises(ValueError, match="part 4 came, expected part 3"):
        monitor.fold_labels("replica-a", 4, ())
    assert monitor.report() == before


def test_counts_of_an_earlier_champion_are_left_out_and_counted():
    monitor = monitor_of(state_of(1, 2, champion=2, previous=1))
    fold(monitor, days(3))
    report = monitor.report()
    assert (report.rows_foreign, report.version) == (180, 2)
    assert all(drift.windows == 0 for drift in report.drift)


def test_a_new_champion_starts_with_fresh_detectors_and_comparisons():
    monitor = monitor_of(state_of(1, 2, challenger=2, stage="shadow"))
    fold(monitor, days(12, scores=0.9, other=2, other_scores=0.5))
    assert monitor.report().alarms
    assert monitor.report().paired
    monitor.on_catalog(state_of(1, 2, champion=2, previous=1), BUNDLES.__getitem__)
    report = monitor.report()
    assert (report.version, report.alarms, report.paired) == (2, (), ())
    assert report.labels_joined == 720


def test_a_baseline_never_rises_from_one_champion_to_the_next():
    monitor = monitor_of()
    assert monitor._champion.baseline == (1 / 6, 20_000)
    monitor.on_catalog(state_of(1, 2, champion=2), BUNDLES.__getitem__)
    assert monitor._champion.baseline[0] == 1 / 6
    lower = {**BUNDLES, 3: bundle_of(3, loss_mean=0.05)}
    monitor.on_catalog(state_of(1, 2, 3, champion=3), lower.__getitem__)
    assert monitor._champion.baseline[0] == 0.05


def test_a_challenger_that_cannot_be_loaded_does_not_stop_the_monitor():
    def bundle_of_number(number):
        if number == 2:
            raise NotFound("gone")
        return ONE

    monitor = Monitor(MODEL)
    monitor.on_catalog(state_of(1, 2, challenger=2), bundle_of_number)
    assert monitor.report().version == 1


def test_trouble_with_the_store_leaves_the_monitor_as_it_was():
    def unavailable(_number):
        raise StoreUnavailable("down")

    monitor = monitor_of()
    with pytest.raises(StoreUnavailable):
        monitor.on_catalog(state_of(1, 2, champion=2), unavailable)
    assert monitor.report().version == 1
    monitor.on_catalog(state_of(1, 2, champion=2), BUNDLES.__getitem__)
    assert monitor.report().version == 2


def test_other_tasks_have_losses_too():
    classes = schema_of(("red", "green", "blue"), task="multiclass")
    numbers = schema_of((), task="regression")
    for schema, scores, value, loss in [
        (classes, [[0.0, 1.0, 0.0]], "green", 0.0),
        (classes, [[0.5, 0.5, 0.0]], "blue", 0.75),
        (numbers, [[3.0]], 3.25, 0.25),
    ]:
        bundle = bundle_of(1, schema=schema)
        monitor = monitor_of(bundles={1: bundle})
        part = part_of(bundle, rows=1)
        scored = np.array(scores)
        part = replace(part, scores=scored, other_scores=np.full(scored.shape, np.nan))
        monitor.fold_predictions(part)
        monitor.fold_labels("replica-a", 1, [Label(part.ids[0], value, START_S)])
        assert monitor.report().loss_by_version[1] == pytest.approx(loss)


TRAFFIC = [
    (part, labels_of(part, rate=rate))
    for part, rate in [
        (part_of(ONE, seq=day + 1, day=day, rows=40, other=2, other_scores=0.4, distance=by), rate)
        for day, (by, rate) in enumerate([(0, None)] * 6 + [(2000, 0.9)] * 6)
    ]
]
FOLDS = [
    *(("predictions", day) for day in range(4)),
    *(("labels", day) for day in range(8)),
    *(("predictions", day) for day in range(4, 12)),
    *(("labels", day) for day in range(8, 12)),
]


def take(monitor, step):
    kind, day = step
    part, labels = TRAFFIC[day]
    if kind == "predictions":
        monitor.fold_predictions(part)
    else:
        monitor.fold_labels("replica-a", day + 1, labels)


@given(st.sets(st.integers(0, len(FOLDS)), max_size=4))
@settings(max_examples=8)
def test_stopping_and_going_on_anywhere_gives_the_same_report(stops):
    straight = monitor_of(state_of(1, 2, challenger=2, stage="shadow"))
    stopped = monitor_of(state_of(1, 2, challenger=2, stage="shadow"))
    for place, step in enumerate(FOLDS):
        if place in stops:
            stopped = Monitor.from_bytes(stopped.to_bytes())
        take(straight, step)
        take(stopped, step)
    assert stopped.report() == straight.report()
    assert {alarm.kind for alarm in straight.report().alarms} >= {"feature drift", "concept drift"}
    assert straight.report().paired[0].labels == 480


def test_a_state_holds_no_pickle_and_damage_is_noticed():
    data = monitor_of().to_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        assert "state" in archive
    for damaged in (b"", b"nonsense", data[: len(data) // 2]):
        with pytest.raises(CorruptBundle):
            Monitor.from_bytes(damaged)
