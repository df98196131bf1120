"""Freeze windows: read from people's words, and the same after a trip through JSON."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import SpecError
from hapredict.sections_policy import FreezeWindow
from hapredict.spec import build_spec, parse_spec

SPEC = """
name: flights
data: {sources: [flights.csv], target: late}
control:
  freeze:
    - {from: Fri 18:00, until: Mon 06:00}
    - {from: 2026-12-20, until: 2027-01-02T12:00:00}
"""
moments = st.integers(0, 4_000_000_000).map(lambda second: datetime.fromtimestamp(second, UTC))


def window(begin: str, until: str) -> FreezeWindow:
    return FreezeWindow.model_validate({"from": begin, "until": until})


def test_windows_are_read_from_yaml_and_survive_the_store():
    spec = parse_spec(SPEC)
    assert [str(one) for one in spec.control.freeze] == [
        "Fri 18:00 to Mon 06:00",
        "2026-12-20 to 2027-01-02T12:00:00",
    ]
    assert build_spec(spec.model_dump(mode="json")) == spec


@given(moments)
def test_a_window_of_the_week_holds_from_its_day_and_hour_to_the_others(moment):
    hours = moment.weekday() * 24 + moment.hour
    weekend = window("Fri 18:00", "Mon 06:00")
    night = window("Tuesday 22:30", "Wed 24:00")
    assert weekend.holds_at(moment.timestamp()) == (hours >= 4 * 24 + 18 or hours < 6)
    minutes = hours * 60 + moment.minute
    assert night.holds_at(moment.timestamp()) == ((24 + 22) * 60 + 30 <= minutes < 3 * 24 * 60)


@given(moments, st.timedeltas(timedelta(minutes=1), timedelta(days=90)))
def test_a_window_with_dates_holds_once(begin, length):
    once = window(begin.isoformat(), (begin + length).isoformat())
    start_s, end_s = begin.timestamp(), (begin + length).timestamp()
    assert once.holds_at(start_s)
    assert not once.holds_at(end_s)
    assert not once.holds_at(start_s - 1)


@pytest.mark.parametrize(
    ("begin", "until", "told"),
    [
        ("Fri 18:00", "2026-12-20", "mixes a day of the week with a date"),
        ("Fri", "Mon 06:00", "'Fri' is no time of the week"),
        ("Fri 25:00", "Mon 06:00", "'Fri 25:00' is no time of the week"),
        ("2026-12-20", "2026-12-19", "ends before it begins"),
        ("Fri 18:00", "Fri 18:00", "ends before it begins"),
        ("tomorrow", "Mon 06:00", "'tomorrow' is no moment"),
    ],
)
def test_what_is_no_window_is_told_with_its_path(begin, until, told):
    raw = {
        "name": "flights",
        "data": {"sources": ["flights.csv"], "target": "late"},
        "control": {"freeze": [{"from": begin, "until": until}]},
    }
    with pytest.raises(SpecError, match=told) as caught:
        build_spec(raw)
    assert "control.freeze.0" in str(caught.value)
