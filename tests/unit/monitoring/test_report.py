import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.monitoring.report import (
    INCIDENTS,
    Alarm,
    AlarmKind,
    Estimate,
    FeatureDrift,
    Harm,
    MonitorReport,
    Moved,
    Paired,
    SliceLoss,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(0, 10**9)
MAYBE = st.none() | FLOATS
REPORTS = st.builds(
    MonitorReport,
    model=st.text(),
    watermark_s=st.none() | FLOATS,
    rows=WHOLE,
    version=st.none() | WHOLE,
    alarms=st.lists(
        st.builds(
            Alarm,
            kind=st.sampled_from(get_args(AlarmKind)),
            feature=st.text(),
            at_s=FLOATS,
            since_s=FLOATS,
            effect=FLOATS,
            log_evidence=FLOATS,
            reason=st.text(),
            slice=st.text(),
            psi=MAYBE,
            wasserstein=MAYBE,
            moved=st.lists(st.builds(Moved, st.text(), FLOATS, FLOATS), max_size=2).map(tuple),
            rank=WHOLE,
            importance=FLOATS,
            harm=st.sampled_from(get_args(Harm)),
            labels=WHOLE,
            loss_measured=MAYBE,
            loss_estimated=MAYBE,
        ),
        max_size=2,
    ).map(tuple),
    paired=st.lists(
        st.builds(Paired, WHOLE, WHOLE, WHOLE, FLOATS, FLOATS, FLOATS, FLOATS), max_size=2
    ).map(tuple),
    drift=st.lists(st.builds(FeatureDrift, st.text(), FLOATS, FLOATS, WHOLE), max_size=2).map(
        tuple
    ),
    labels_by_version=st.dictionaries(WHOLE, WHOLE, max_size=3),
    loss_by_version=st.dictionaries(WHOLE, FLOATS, max_size=3),
    positions=st.fixed_dictionaries(
        {
            "predictions": st.dictionaries(st.text(), WHOLE, max_size=2),
            "labels": st.dictionaries(st.text(), WHOLE, max_size=2),
        }
    ),
    rows_refused=st.dictionaries(st.text(), WHOLE, max_size=2),
    label_delay_p50_days=MAYBE,
    label_delay_p95_days=MAYBE,
    estimate=st.none() | st.builds(Estimate, FLOATS, FLOATS, FLOATS, FLOATS, WHOLE, FLOATS),
    slices=st.lists(
        st.builds(SliceLoss, st.text(), WHOLE, WHOLE, MAYBE, FLOATS, FLOATS), max_size=2
    ).map(tuple),
    detail=st.text(),
)


@given(REPORTS)
def test_a_report_comes_back_from_json_as_it_was(report):
    text = json.dumps(report.to_json(), allow_nan=False)
    assert MonitorReport.from_json(json.loads(text)) == report


def test_a_pair_is_found_in_either_order():
    pair = Paired(2, 5, 10, 0.1, -0.1, 0.2, 0.1)
    report = MonitorReport("orders", paired=(pair,))
    assert report.pair(2, 5) is pair
    assert report.pair(5, 2) is pair
    assert report.pair(2, 3) is None


def test_a_report_of_an_older_program_is_read():
    alarm = {
        "kind": "feature drift",
        "feature": "amount",
        "at_s": 2.0,
        "since_s": 1.0,
        "effect": 0.2,
        "log_evidence": 9.0,
        "reason": "it moved",
    }
    raw = MonitorReport("orders").to_json()
    new = ("rows_refused", "label_delay_p50_days", "label_delay_p95_days", "estimate", "slices")
    old = {name: value for name, value in raw.items() if name not in new}
    found = MonitorReport.from_json({**old, "alarms": [alarm]})
    assert found == MonitorReport("orders", alarms=(Alarm(**alarm),))
    assert found.alarms[0].harm == "unknown"


@pytest.mark.parametrize("kind", get_args(AlarmKind))
def test_broken_data_are_an_incident_and_drift_is_none(kind):
    alarm = Alarm(kind, "", 1.0, 0.0, 0.1, 9.0, "because")
    assert alarm.incident == (kind in INCIDENTS)
    assert alarm.incident != kind.endswith(("drift", "loss"))
