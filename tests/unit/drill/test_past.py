"""Past rows become the traffic they were: each asked for once, in its day, in the order of time."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from hapredict.drill.past import HOUR_S, Day, Row, plan
from hapredict.sections import DAY_S

START_S = 1_362_096_000.0  # 2013-03-01

ROWS = st.lists(
    st.builds(
        lambda minutes, origin, carrier: (START_S + 60.0 * minutes, origin, carrier),
        st.integers(-3 * 24 * 60, 3 * 24 * 60),
        st.sampled_from(["JFK", "EWR", None]),
        st.sampled_from(["UA", "东航"]),
    ),
    max_size=40,
).map(
    lambda found: [
        Row({"origin": origin, "carrier": carrier, "id": place}, place % 2, event_s)
        for place, (event_s, origin, carrier) in enumerate(found)
    ]
)
GROUPS = st.sampled_from([(), ("origin",), ("origin", "carrier"), ("nowhere",)])


@given(ROWS, GROUPS)
def test_each_row_is_in_exactly_one_request(rows, group):
    days = plan(rows, group)
    asked = [row for day in days for request in day.requests for row in request]
    assert Counter(row.fields["id"] for row in asked) == Counter(range(len(rows)))
    assert all(row is rows[row.fields["id"]] for row in asked)
    assert sum(day.rows for day in days) == len(rows)


@given(ROWS, GROUPS)
def test_rows_of_a_request_share_their_hour_and_their_group_and_no_two_requests_do(rows, group):
    for day in plan(rows, group):
        shared = []
        for request in day.requests:
            (same,) = {
                (row.event_s // HOUR_S, *(row.fields.get(name) for name in group))
                for row in request
            }
            shared.append(same)
        assert len(set(shared)) == len(shared)


@given(ROWS, GROUPS)
def test_days_requests_and_rows_follow_each_other_in_time(rows, group):
    days = plan(rows, group)
    assert all(one.start_s < two.start_s for one, two in pairwise(days))
    for day in days:
        assert day.start_s % DAY_S == 0
        assert day.rows > 0
        for request in day.requests:
            assert all(day.start_s <= row.event_s < day.start_s + DAY_S for row in request)
            assert all(one.event_s <= two.event_s for one, two in pairwise(request))
        firsts = [request[0].event_s for request in day.requests]
        assert firsts == sorted(firsts)


@given(ROWS, GROUPS, st.randoms())
def test_the_order_in_which_rows_are_told_changes_no_day(rows, group, random):
    def shape(days):
        return [(day.date, day.rows, len(day.requests)) for day in days]

    mixed = random.sample(rows, len(rows))
    assert shape(plan(mixed, group)) == shape(plan(rows, group))
    assert shape(plan(iter(mixed), group)) == shape(plan(rows, group))


def test_a_day_has_a_date_and_a_month_in_utc():
    day = Day(START_S, ())
    assert (day.date, day.month, day.rows) == ("2013-03-01", "2013-03", 0)
    assert plan([], ("origin",)) == []


def test_the_last_second_of_a_day_and_the_next_are_two_days():
    rows = [Row({}, 0, START_S - 1), Row({}, 0, START_S), Row({}, 0, START_S + DAY_S - 0.001)]
    assert [(day.date, day.rows) for day in plan(rows, ())] == [
        ("2013-02-28", 1),
        ("2013-03-01", 2),
    ]
