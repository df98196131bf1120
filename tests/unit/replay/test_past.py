"""A past is in order, tells nothing before it was known, and says what it lacks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import DataError, SpecError
from hapredict.replay.past import Past
from hapredict.sections import DAY_S
from tests.support.pasts import START_S, columns_of_past, past_of, spec_of_past

PAST = past_of(days=20)
DATA = spec_of_past().data


def test_rows_are_in_the_order_of_their_time_however_the_files_had_them():
    columns = columns_of_past(days=5)
    mixed = np.random.default_rng(1).permutation(len(columns["at"]))
    past = Past.of({name: values[mixed] for name, values in columns.items()}, DATA)
    assert np.all(np.diff(past.event_s) >= 0)
    assert past.digest() == Past.of(columns, DATA).digest()


@given(days=st.floats(0, 25), delay=st.floats(0, 5))
def test_nothing_is_known_before_its_label_has_come(days, delay):
    now_s = START_S + days * DAY_S
    known = PAST.known(now_s, delay * DAY_S)
    assert np.all(PAST.event_s[known] + delay * DAY_S <= now_s)
    later = PAST.known(now_s + DAY_S, delay * DAY_S)
    assert set(known) <= set(later)


@given(step=st.floats(0.3, 9), start=st.floats(0.1, 0.5))
def test_steps_follow_each_other_and_hold_each_row_once(step, start):
    times = PAST.times(f"{start}", step_days=step, delay_days=0)
    rows = [row for begin, end in times for row in range(len(PAST))[PAST.between(begin, end)]]
    first = int(np.searchsorted(PAST.event_s, times.start_s))
    assert rows == list(range(first, len(PAST) - (len(PAST) - first - len(rows))))
    assert len(PAST) - first - len(rows) <= 1  # the last moment may be the end itself


def test_a_share_of_the_rows_is_drawn_by_its_seed():
    columns = columns_of_past(days=20)
    half, same, other = (Past.of(columns, DATA, share=0.5, seed=seed) for seed in (1, 1, 2))
    assert 0.4 * len(PAST) < len(half) < 0.6 * len(PAST)
    assert half.digest() == same.digest() != other.digest()


def test_rows_are_told_by_what_they_hold():
    longer, other = past_of(days=20, turns=15), past_of(days=20, seed=1)
    early = np.flatnonzero(PAST.event_s < START_S + 15 * DAY_S)
    assert longer.digest(early) == PAST.digest(early)
    assert longer.digest() != PAST.digest()
    assert other.digest(early) != PAST.digest(early)
    assert PAST.digest(early[1:]) != PAST.digest(early)


def test_a_row_without_a_label_is_asked_for_and_not_learned_from():
    columns = columns_of_past(days=10)
    columns["bad"] = columns["bad"].astype(float)
    columns["bad"][:50] = np.nan
    past = Past.of(columns, DATA)
    assert len(past) == len(columns["bad"])
    assert past.learnable.sum() == len(past) - 50


def test_a_lesson_knows_the_classes_that_occur_in_it():
    columns = columns_of_past(days=10)
    kinds = np.array(["never", "once", "often"], object)
    columns["bad"] = kinds[np.where(np.arange(len(columns["at"])) < 100, 2, columns["bad"])]
    past = Past.of(columns, spec_of_past(data={"task": "multiclass"}).data)
    schema, _, labels, _ = past.lesson(np.arange(100, 300))
    assert schema.classes == ("never", "once")
    assert [schema.classes[int(label)] for label in labels] == list(columns["bad"][100:300])
    assert past.value(0) == "often"


def test_a_date_and_a_share_say_where_to_begin():
    assert PAST.times("2025-01-06", step_days=1, delay_days=1).start_s == START_S + 5 * DAY_S
    assert PAST.times("0.5", step_days=1, delay_days=1).start_s == START_S + 9 * DAY_S


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("2025-01-20", "begin earlier"),
        ("2025-01-01", "no label was known on 2025-01-01"),
        ("2030-01-01", "the rows are from 2025-01-01 to 2025-01-20"),
    ],
)
def test_too_little_history_is_said_with_what_there_is(start, words):
    with pytest.raises(DataError, match="too little history") as error:
        PAST.times(start, step_days=1, delay_days=1)
    assert words in str(error.value)


def test_a_start_that_is_no_date_is_wrong_use():
    with pytest.raises(SpecError, match="neither a date"):
        PAST.times("in May", step_days=1, delay_days=1)


def test_without_a_time_column_there_is_no_past():
    with pytest.raises(SpecError, match=r"data\.time"):
        Past.of(columns_of_past(days=5), DATA.model_copy(update={"time": None}))


def test_without_labels_there_is_nothing_to_compare():
    columns = columns_of_past(days=5)
    columns["at"][columns["bad"] == 1] = np.nan
    columns["bad"] = np.where(columns["bad"] == 1, "yes", None)
    columns["bad"][:2] = "no", None
    columns["at"][0] = np.nan
    with pytest.raises(DataError, match="no row has a label"):
        Past.of(columns, DATA)
