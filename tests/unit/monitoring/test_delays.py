import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.monitoring.delays import LABELS_MIN, LabelDelays
from hapredict.sections import DAY_S


def delays(**changes):
    settings_ = {
        "begin_s": 0.0,
        "unit_s": DAY_S,
        "delay_max_s": 60 * DAY_S,
        "tolerance": 0.1,
        "level": 13.0,
    }
    return LabelDelays(**{**settings_, **changes})


def live(found, first, days, typical=2.0, seed=0, rows=40, weekend=False, silent=False):
    """Days of rows whose labels take a while, most of them about `typical` days."""
    chance = np.random.default_rng((seed, first))
    for day in range(first, first + days):
        found.advance((day + 1) * DAY_S)
        if silent or (weekend and day % 7 in (5, 6)):
            continue
        took = typical * DAY_S * chance.lognormal(0, 0.3, rows)
        if weekend and day % 7 == 0:
            took += chance.uniform(0, 2, rows) * DAY_S
        # nothing that took longer than there have been rows can have come
        found.add(took[took < (day + 1) * DAY_S], (day + 1) * DAY_S)
    return found


@given(st.lists(st.floats(120, 300 * DAY_S), min_size=LABELS_MIN, max_size=200))
def test_quantiles_are_right_to_a_fourth(values):
    found = delays()
    found.add(values, 400 * DAY_S)
    for share in (0.5, 0.95):
        true = np.quantile(values, share, method="inverted_cdf")
        assert true / 1.3 <= found.quantile_s(share) <= true * 1.3


def test_too_few_labels_have_no_quantile():
    found = delays()
    found.add([DAY_S] * (LABELS_MIN - 1), DAY_S)
    assert found.quantile_s(0.5) is None
    found.add([DAY_S], DAY_S)
    assert found.quantile_s(0.5) == pytest.approx(DAY_S, rel=0.3)


def test_quantiles_follow_what_labels_take_now():
    found = live(delays(), 0, 60)
    live(found, 60, 40, typical=10.0)
    assert found.quantile_s(0.5) == pytest.approx(10 * DAY_S, rel=0.2)


@pytest.mark.parametrize("weekend", [False, True])
def test_labels_that_come_as_ever_raise_no_alarm(weekend):
    """Also not in the first weeks, when all labels that can have come are quick ones."""
    for seed in range(8):
        found = delays()
        for week in range(52):
            live(found, 7 * week, 7, typical=9.0, seed=seed, weekend=weekend)
            assert found.alarms == ()
        assert found.watching


def test_labels_that_take_longer_are_told_with_both_delays():
    found = live(delays(), 0, 100)
    assert found.watching
    assert found.alarms == ()
    live(found, 100, 35, typical=8.0)
    (alarm,) = found.alarms
    assert (alarm.kind, alarm.incident) == ("label delay", True)
    assert alarm.effect > 0.3
    assert "half of them come within" in alarm.reason
    assert alarm.moved[0].now != alarm.moved[0].before


def test_quick_labels_alone_are_a_change_too():
    """As when one of two sources of labels is lost."""
    found = live(delays(), 0, 100)
    live(found, 100, 35, typical=0.2)
    assert found.alarms


def test_labels_that_come_too_late_count_as_the_slowest():
    found = delays(delay_max_s=30 * DAY_S)
    chance = np.random.default_rng(1)
    for day in range(120):
        took = 2 * DAY_S * chance.lognormal(0, 0.3, 30)
        found.add(took, day * DAY_S, late=0 if day < 80 else 30)
    assert found.quantile_s(0.95) == pytest.approx(30 * DAY_S, rel=0.3)
    assert found.alarms


def test_labels_that_stop_are_told_and_come_back():
    found = live(delays(), 0, 100, weekend=True)
    live(found, 100, 5, silent=True)
    assert found.alarms == ()  # two days without are usual
    live(found, 105, 15, silent=True)
    (alarm,) = found.alarms
    assert alarm.since_s == pytest.approx(100 * DAY_S, abs=3 * DAY_S)
    assert "no label has come since 1970-04" in alarm.reason
    live(found, 120, 1)
    assert not [one for one in found.alarms if one.effect == 1.0]


def test_a_shop_that_was_closed_misses_no_labels():
    found = live(delays(), 0, 100)
    found.advance(200 * DAY_S)
    assert found.alarms == ()


@given(st.integers(0, 25))
@settings(max_examples=8)
def test_stopping_and_going_on_anywhere_ends_the_same(stop):
    straight, stopped = delays(), delays()
    for week in range(25):
        if week == stop:
            stopped = LabelDelays.from_json(json.loads(json.dumps(stopped.to_json())))
        for found in (straight, stopped):
            live(found, 7 * week, 7, typical=2.0 if week < 15 else 8.0)
    assert stopped.to_json() == straight.to_json()
    assert stopped.alarms == straight.alarms != ()
