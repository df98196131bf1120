"""Which rows a training learns from."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.labelled import Labelled
from hapredict.control.training_rows import (
    GAIN_MIN,
    PERIODS,
    capped,
    check_source,
    choose_window,
    mature,
    periods,
    rows_of_one_sender_max,
    told,
    windows_to_try,
)
from hapredict.errors import GateRefused
from hapredict.sections import DAY_S
from hapredict.sections_live import ControlSpec
from hapredict.training.split import parts_of
from tests.support.bundles import schema_of

senders = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=60)


def live(values, times=None):
    rows = len(values)
    moments = np.arange(rows) * DAY_S if times is None else np.asarray(times, float)
    return Labelled({"carrier": np.array(values, object)}, np.zeros(rows), moments)


class TestLiveRows:
    def test_rows_younger_than_the_label_delay_are_left_out(self):
        rows = live(list("abcde"))
        assert mature(rows, 4 * DAY_S, 2).event_s.tolist() == [0, DAY_S, 2 * DAY_S]
        assert mature(rows, 4 * DAY_S, 0) is not rows
        assert len(mature(rows, 4 * DAY_S, 0).labels) == 5

    @pytest.mark.parametrize(("now_s", "delay"), [(None, 2.0), (4 * DAY_S, None)])
    def test_without_a_clock_or_a_known_delay_all_are_taken(self, now_s, delay):
        assert len(mature(live(list("abcde")), now_s, delay).labels) == 5

    @given(senders, st.integers(1, 20))
    def test_no_sender_has_more_rows_than_the_cap_and_nobody_else_loses_any(self, values, most):
        rows = live(values)
        kept = capped(rows, "carrier", most)
        found = kept.table["carrier"].tolist()
        for sender in {*values}:
            assert found.count(sender) == min(most, values.count(sender))
        assert (np.diff(kept.event_s) > 0).all()
        if len(found) < len(values):
            assert told(ControlSpec(source_column="carrier"), len(values), len(values), len(found))

    def test_of_a_sender_that_floods_rows_are_taken_from_all_its_time(self):
        kept = capped(live(["a"] * 101), "carrier", 3)
        assert (kept.event_s / DAY_S).tolist() == [0, 50, 100]

    def test_without_a_column_all_are_taken(self):
        assert len(capped(live(list("aaaa")), None, 1).labels) == 4

    def test_the_cap_is_a_share_of_all_rows_and_never_nothing(self):
        rules = ControlSpec(source_share_max=0.05)
        assert rows_of_one_sender_max(rules, 1000) == 50
        assert rows_of_one_sender_max(rules, 3) == 1

    def test_a_column_that_live_rows_do_not_keep_is_refused(self):
        check_source(ControlSpec(), schema_of())
        check_source(ControlSpec(source_column="carrier"), schema_of())
        with pytest.raises(GateRefused, match="'client' is no feature"):
            check_source(ControlSpec(source_column="client"), schema_of())

    def test_what_was_left_out_is_told_with_its_reason(self):
        rules = ControlSpec(source_column="carrier", source_share_max=0.1)
        assert told(rules, 1000, 900, 850) == (
            "of 1,000 live rows left out: 100 are younger than the label delay; "
            "50 are beyond 10% of one 'carrier'"
        )
        assert told(rules, 10, 10, 10) == ""


class TestWindow:
    @given(st.floats(0, 1e9), st.floats(1e3, 1e8), st.floats(0.02, 0.19))
    def test_a_back_test_predicts_what_lies_before_the_hold_out_and_from_enough(
        self, first_s, length_s, share
    ):
        last_s, held_s = first_s + length_s, first_s + length_s * (1 - share)
        found = periods(first_s, held_s, last_s)
        assert len(found) == PERIODS
        assert found[-1][1] == pytest.approx(held_s)
        assert all(one[1] == pytest.approx(two[0]) for one, two in itertools.pairwise(found))
        days = windows_to_try(first_s, found)
        assert days[0] is None
        assert all(found[0][0] - one * DAY_S >= first_s - 1 for one in days[1:])
        assert all(one * DAY_S >= (found[0][1] - found[0][0]) * 0.999 for one in days[1:])

    def test_short_history_is_not_tested(self):
        assert periods(0.0, 100.0, 200.0) == []
        assert periods(0.0, 100.0, 100.0) == []
        assert windows_to_try(0.0, []) == (None,)

    def test_the_newest_rows_alone_are_taken_where_they_teach_more_each_time(self):
        found = choose_window({None: [0.5, 0.6], 90.0: [0.4, 0.5], 45.0: [0.42, 0.55]})
        assert found.days == 90.0
        assert found.reason == (
            "the newest 90 days: loss 0.45 in the back-test, loss 0.55 with all rows"
        )

    @pytest.mark.parametrize(
        "losses",
        [
            {None: [0.5, 0.6], 90.0: [0.1, 0.61]},
            {None: [0.5, 0.6], 90.0: [0.499, 0.599]},
            {None: [0.5, 0.6], 90.0: [0.1, math.inf]},
            {None: [0.5, 0.6], 90.0: [0.1]},
            {None: [0.5, 0.6], 90.0: [math.nan, math.nan]},
            {None: [math.inf, 0.6], 90.0: [0.1, 0.1]},
            {None: [0.5, 0.6]},
            {},
        ],
    )
    def test_otherwise_all_rows_are(self, losses):
        found = choose_window(losses)
        assert found.days is None
        assert found.reason.startswith("all rows")

    @given(
        st.dictionaries(
            st.none() | st.floats(1, 999), st.lists(st.floats(0.01, 9), min_size=2, max_size=2)
        )
    )
    def test_what_is_chosen_was_better_each_time_and_on_average(self, losses):
        found = choose_window(losses)
        if found.days is not None:
            mine, everything = losses[found.days], losses[None]
            assert all(a < b for a, b in zip(mine, everything, strict=True))
            assert sum(mine) <= sum(everything) * (1 - GAIN_MIN) * 1.0001


@given(
    st.lists(st.floats(0, 100), min_size=1, max_size=60),
    st.floats(10, 50),
    st.floats(51, 90),
    st.floats(0, 60),
)
def test_nobody_learns_from_rows_within_the_gap_before_the_hold_out(order, begin, held, purge):
    times = np.array(order)
    part = parts_of(times, (begin, held), purge)
    assert (times[part == 2] >= held).all()
    assert (times[(part == 0) | (part == 1)] < held - purge).all()
    assert ((part == 2) == (times >= held)).all()
    if not purge:
        assert (part < 3).all()
