import io
import json
from dataclasses import replace

import numpy as np
import pytest

from hapredict.errors import CorruptBundle
from hapredict.monitoring.monitor import Monitor
from hapredict.sections import DAY_S
from hapredict.serving.journal import Label, decode, encode
from tests.support.bundles import MODEL
from tests.support.live import bundle_of, labels_of, part_of, state_of

LEVELS = ("UA", "AA", "DL")


def sliced(number=1, baseline=1 / 6, rows=5000):
    bundle = bundle_of(number, slices=("carrier",))
    found = {"carrier": dict.fromkeys(LEVELS, (baseline, rows))}
    return replace(bundle, reference=replace(bundle.reference, slices=found))


ONE = sliced()


def monitor_of(bundles=None, state=None):
    monitor = Monitor(MODEL)
    monitor.on_catalog(state or state_of(1), (bundles or {1: ONE}).__getitem__)
    return monitor


def live(monitor, days, first=0, bad=(), delay_days=1.0, bundle=ONE):
    """Days of honest labels, but where the carrier is `bad`: there they are the other way round."""
    for day in range(first, first + days):
        part = part_of(bundle, day + 1, day=day, rows=200)
        monitor.fold_predictions(part)
        turned = np.isin(part.table["carrier"].astype(str), bad)
        labels = [
            replace(label, value={"yes": "no", "no": "yes"}[label.value]) if turned[row] else label
            for row, label in enumerate(labels_of(part, days=delay_days))
        ]
        monitor.fold_labels(part.source, part.seq, labels)
    return monitor.report()


def test_each_slice_has_its_rows_labels_and_loss():
    monitor = monitor_of()
    report = live(monitor, 10)
    parts = [part_of(ONE, day + 1, day=day, rows=200) for day in range(10)]
    for found, level in zip(report.slices, LEVELS, strict=True):
        rows = sum((part.table["carrier"] == level).sum() for part in parts)
        assert found.slice == f"carrier={level}"
        assert found.rows == found.labels == rows > 0
        assert found.loss == pytest.approx(1 / 6, abs=0.03)
        assert found.baseline == 1 / 6
    assert report.alarms == ()


def test_a_model_that_is_bad_for_one_value_only_is_told_so():
    monitor = monitor_of()
    live(monitor, 10)
    report = live(monitor, 10, 10, bad=("DL",))
    sliced_alarms = [alarm for alarm in report.alarms if alarm.slice]
    assert [alarm.slice for alarm in sliced_alarms] == ["carrier=DL"]
    (alarm,) = sliced_alarms
    assert (alarm.kind, alarm.harm) == ("concept drift", "worse")
    assert "mean loss of v1 where carrier=DL rose from 0.167 to 0." in alarm.reason


def test_a_slice_that_the_hold_out_hardly_knew_is_not_judged_by_it():
    monitor = monitor_of({1: sliced(rows=0)})
    report = live(monitor, 15, bad=("DL",))
    assert not [alarm for alarm in report.alarms if alarm.slice]


def test_a_slice_keeps_the_lower_baseline_of_an_earlier_champion():
    bundles = {1: sliced(1, baseline=0.1), 2: sliced(2, baseline=0.3), 3: sliced(3, baseline=0.05)}
    monitor = monitor_of(bundles)
    monitor.on_catalog(state_of(1, 2, champion=2), bundles.__getitem__)
    assert {found.baseline for found in monitor.report().slices} == {0.1}
    monitor.on_catalog(state_of(1, 2, 3, champion=3), bundles.__getitem__)
    assert {found.baseline for found in monitor.report().slices} == {0.05}
    again = Monitor.from_bytes(monitor.to_bytes())
    assert again.report() == monitor.report()


def test_labels_find_their_slice_across_champions_blocks_and_snapshots():
    """Rows of before wait with their slices, whoever is champion when their labels come."""
    plain = bundle_of(2)
    bundles = {1: ONE, 2: plain, 3: sliced(3)}
    monitor = monitor_of(bundles)
    old = part_of(ONE, 1, rows=100, other=3, other_scores=0.0)
    monitor.fold_predictions(old)
    monitor.on_catalog(state_of(1, 2, champion=2), bundles.__getitem__)
    monitor.fold_predictions(part_of(plain, 2, rows=100, version=2))
    monitor.on_catalog(state_of(1, 2, 3, champion=3), bundles.__getitem__)
    monitor = Monitor.from_bytes(monitor.to_bytes())
    monitor.fold_labels("replica-a", 1, labels_of(old, rate=0.0))
    for found in monitor.report().slices:
        level = found.slice.removeprefix("carrier=")
        assert found.labels == (old.table["carrier"] == level).sum() > 0
        assert found.loss == 0


def test_no_slices_cost_nothing():
    monitor = monitor_of({1: bundle_of(1)})
    part = part_of(ONE, 1, rows=50)
    monitor.fold_predictions(part)
    assert monitor.report().slices == ()
    assert monitor._join._blocks[0].groups.shape == (50, 0)


def test_the_report_says_how_long_labels_take():
    monitor = monitor_of()
    report = live(monitor, 10, delay_days=3.0)
    assert report.label_delay_p50_days == pytest.approx(3, rel=0.3)
    assert report.label_delay_p95_days == pytest.approx(3, rel=0.3)


def test_labels_that_stop_are_an_incident():
    monitor = monitor_of()
    live(monitor, 40)
    for day in range(40, 50):
        monitor.fold_predictions(part_of(ONE, day + 1, day=day, rows=200))
    (alarm,) = monitor.report().alarms
    assert (alarm.kind, alarm.incident) == ("label delay", True)
    monitor = Monitor.from_bytes(monitor.to_bytes())
    assert [alarm.kind for alarm in monitor.report().alarms] == ["label delay"]


def test_labels_that_come_too_late_are_seen_in_the_delay():
    bundle = bundle_of(1, label_delay_max_days=5)
    monitor = monitor_of({1: bundle})
    part = part_of(bundle, 1, rows=100)
    monitor.fold_predictions(part)
    late = [Label(name, "yes", float(part.at_s[0]) + 9 * DAY_S) for name in part.ids]
    monitor.fold_labels("replica-a", 1, late)
    report = monitor.report()
    assert report.labels_late == 100
    assert report.label_delay_p50_days == pytest.approx(5, rel=0.3)


def test_a_snapshot_of_an_older_format_is_refused_and_so_rebuilt():
    monitor = monitor_of()
    live(monitor, 2)
    with np.load(io.BytesIO(monitor.to_bytes()), allow_pickle=False) as archive:
        arrays = dict(archive)
    state = json.loads(arrays.pop("state").tobytes())
    file = io.BytesIO()
    old = json.dumps({**state, "format": 1}).encode()
    np.savez(file, state=np.frombuffer(old, np.uint8), **arrays)
    with pytest.raises(CorruptBundle, match="format 1, expected"):
        Monitor.from_bytes(file.getvalue())


def test_a_part_that_is_read_for_the_monitor_alone_has_what_slices_need():
    monitor = monitor_of()
    assert set(monitor.columns) == {"order", "carrier"}
    part = decode(encode(part_of(ONE, 1, rows=50)), columns=monitor.columns)
    monitor.fold_predictions(part)
    assert sum(found.rows for found in monitor.report().slices) > 0
