import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import Overloaded, TimedOut
from hapredict.serving.admission import RETRY_AFTER_MAX_S, Admission


def _served(rate: float, *, requests: int = 2000, limit: int = 10) -> Admission:
    """An admission that has completed `requests`, one at a time, `rate` a second."""
    admission = Admission(limit)
    for number in range(requests):
        admission.enter(number / rate)
        admission.leave((number + 1) / rate)
    return admission


def test_work_is_taken_up_to_the_limit_and_refused_beyond_it():
    admission = Admission(3)
    for _ in range(3):
        admission.enter(0.0)
    assert admission.full
    with pytest.raises(Overloaded, match="3 requests in progress"):
        admission.enter(0.0)
    assert admission.ongoing == 3
    admission.leave(0.1)
    admission.enter(0.1)


def test_a_refusal_before_the_body_is_read_says_the_same():
    admission = Admission(1)
    admission.check()
    admission.enter(0.0)
    with pytest.raises(Overloaded):
        admission.check()


def test_raising_the_limit_takes_effect_at_once():
    admission = Admission(1)
    admission.enter(0.0)
    admission.limit_ongoing = 2
    admission.enter(0.0)


@given(rate=st.floats(0.1, 10_000))
def test_the_measured_rate_is_the_rate_of_service(rate):
    assert _served(rate, requests=50).rate == pytest.approx(rate, rel=1e-6)


def test_the_rate_follows_a_replica_that_became_slower():
    admission, now_s = _served(1000), 2.0
    for _ in range(100):
        admission.enter(now_s)
        now_s += 1.0
        admission.leave(now_s)
    assert admission.rate == pytest.approx(1.0, rel=0.01)


def test_a_quiet_hour_does_not_make_a_replica_look_slow():
    admission = _served(1000)
    before = admission.rate
    admission.enter(3600.0)
    admission.leave(3600.001)
    assert admission.rate == pytest.approx(before, rel=0.01)


def test_requests_that_end_together_count_each():
    admission, now_s = Admission(10), 0.0
    for _ in range(200):
        for _ in range(5):
            admission.enter(now_s)
        now_s += 0.01
        for _ in range(5):
            admission.leave(now_s)
    assert admission.rate == pytest.approx(500, rel=0.01)


def test_retry_after_is_the_time_in_which_present_work_is_done():
    admission = _served(2.0, limit=8)
    for _ in range(8):
        admission.enter(1000.0)
    with pytest.raises(Overloaded) as caught:
        admission.enter(1000.0)
    assert caught.value.retry_after_s == pytest.approx(4.0, rel=0.01)


@given(rate=st.floats(0.001, 10_000), ongoing=st.integers(0, 50))
def test_retry_after_lies_between_one_second_and_its_limit(rate, ongoing):
    admission = _served(rate, requests=3, limit=100)
    for _ in range(ongoing):
        admission.enter(0.0)
    assert 1.0 <= admission.retry_after_s() <= RETRY_AFTER_MAX_S


def test_before_anything_was_measured_callers_come_back_in_a_second():
    assert Admission(1).retry_after_s() == 1.0


def test_a_deadline_that_is_over_is_refused_at_once():
    admission = Admission(5)
    with pytest.raises(TimedOut, match="too late"):
        admission.enter(10.0, deadline_s=10.0)
    assert admission.ongoing == 0


def test_a_deadline_that_the_queue_cannot_meet_is_refused():
    admission = _served(10.0, limit=100)
    for _ in range(5):  # half a second of work
        admission.enter(1000.0)
    with pytest.raises(TimedOut, match="5 requests are ahead and the caller waits 400 ms"):
        admission.enter(1000.0, deadline_s=1000.4)
    admission.enter(1000.0, deadline_s=1000.6)


def test_a_clock_that_is_set_back_does_no_lasting_harm():
    admission = _served(100.0)
    admission.enter(1000.0)
    admission.leave(0.0)
    assert admission.ongoing == 0
    assert admission.rate == pytest.approx(100.0, rel=0.02)
