import json

from hypothesis import given
from hypothesis import strategies as st

from hapredict.monitoring.report import Alarm, FeatureDrift, MonitorReport, Paired

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
WHOLE = st.integers(0, 10**9)
REPORTS = st.builds(
    MonitorReport,
    model=st.text(),
    watermark_s=st.none() | FLOATS,
    rows=WHOLE,
    version=st.none() | WHOLE,
    alarms=st.lists(
        st.builds(
            Alarm,
            kind=st.sampled_from(["feature drift", "score drift", "concept drift"]),
            feature=st.text(),
            at_s=FLOATS,
            since_s=FLOATS,
            effect=FLOATS,
            log_evidence=FLOATS,
            reason=st.text(),
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
