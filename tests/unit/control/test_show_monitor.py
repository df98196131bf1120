"""What people see of the monitor: alarms first to be understood, then to be counted."""

import json
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.show_monitor import alarms_text, bar, monitor_json, status_text
from hapredict.monitoring.report import (
    Alarm,
    AlarmKind,
    Estimate,
    Harm,
    MonitorReport,
    Moved,
    SliceLoss,
)
from tests.support.control import at

WORDS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=8)
SHARES = st.floats(0, 1)
ALARMS = st.builds(
    Alarm,
    kind=st.sampled_from(get_args(AlarmKind)),
    feature=st.just("") | WORDS,
    at_s=st.just(at(5)),
    since_s=st.just(at(3)),
    effect=SHARES,
    log_evidence=st.floats(0, 100),
    reason=WORDS,
    slice=st.just("") | WORDS,
    moved=st.lists(st.builds(Moved, WORDS, SHARES, SHARES), max_size=3).map(tuple),
    rank=st.integers(1, 9),
    importance=SHARES,
    harm=st.sampled_from(get_args(Harm)),
)
BROKEN = Alarm(
    "missing values",
    "distance",
    at(5),
    at(3),
    0.3,
    40.0,
    "'distance' is missing in 31 % of 900 rows",
    moved=(Moved("missing", 0.001, 0.31),),
    rank=1,
    importance=0.4,
)
REPORT = MonitorReport(
    "flights",
    watermark_s=at(5),
    rows=1000,
    rows_refused={"distance": 3},
    label_delay_p50_days=1.25,
    label_delay_p95_days=4.0,
    estimate=Estimate(0.12, 0.11, 0.13, 0.1, 900, at(3)),
    slices=(
        SliceLoss("origin=JFK", 500, 400, 0.2, 0.1, 1.0),
        SliceLoss("origin=EWR", 10, 0, None, 0.1, 0.0),
    ),
    alarms=(BROKEN,),
    version=3,
)


@given(st.lists(ALARMS, max_size=3))
def test_every_alarm_is_shown_with_what_it_is_about_since_when_and_why(alarms):
    told = monitor_json(MonitorReport("m", alarms=tuple(alarms)))
    shown = "\n".join(alarms_text(told["alarms"]))
    for alarm in alarms:
        assert f"{alarm.rank}. {alarm.kind.upper()}" in shown
        assert alarm.reason in shown
        assert alarm.feature in shown
        for moved in alarm.moved:
            assert moved.bin in shown
    assert ("2013-03-04" in shown) == bool(alarms)
    again = json.loads(json.dumps(told, allow_nan=False))
    assert "\n".join(alarms_text(again["alarms"])) == shown


def test_no_alarm_is_said_in_words():
    assert alarms_text([]) == ["alarms: none"]


def test_a_status_is_understood_at_a_glance():
    shown = status_text({"model": "flights", "monitor": monitor_json(REPORT)})
    assert "1. MISSING VALUES  distance  since 2013-03-04 00:00  broken data" in shown
    assert "importance 40%" in shown
    assert "its effect on the model is not known yet" in shown
    assert "half within 1.25 days, 95 % within 4" in shown
    assert "0.1200 (0.1100 to 0.1300; 0.1000 on the hold-out)" in shown
    assert "origin=JFK" in shown
    before, now = (line for line in shown.split("\n") if "before " in line or "now " in line)
    assert before.count("█") < now.count("█")
    assert before.index("·") == now.index("█")


def test_a_monitor_that_does_not_answer_is_shown_with_its_trouble():
    assert "trouble: gone" in status_text({"model": "flights", "monitor": {"trouble": "gone"}})
    assert status_text({"model": "flights"}) == "model: flights"


def test_an_alarm_that_tells_the_models_state_itself_is_not_told_twice():
    alarm = Alarm(
        "feature drift", "a", 1.0, 0.0, 0.1, 9.0, "a moved; the model became worse since", rank=1
    )
    shown = "\n".join(alarms_text(monitor_json(MonitorReport("m", alarms=(alarm,)))["alarms"]))
    assert shown.count("became worse") == 1


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_never_has_a_shorter_bar(one, other):
    low, high = sorted((one, other))
    assert bar(low).count("█") <= bar(high).count("█")
    assert len(bar(low).split(" ")[0]) == len(bar(high).split(" ")[0])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_everything_have_bars(share):
    assert bar(share).count("█") == (24 if share else 0)
