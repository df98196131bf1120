"""One controller at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import Conflict, CorruptBundle, LeaseLost, StoreUnavailable
from hapredict.registry.lease import Beat, Lease, Seen, Term, look_again
from hapredict.registry.store import open_store

LEASE_S = 15.0


@pytest.fixture
def store(tmp_path):
    return open_store(f"memory://{tmp_path}")


@pytest.fixture
def lease(store):
    return lambda owner: Lease(store, "m", owner, LEASE_S)


def test_the_first_owner_gets_the_first_term_at_once(lease):
    first = lease("a")
    assert first.look(100.0) is None
    assert first.take(100.0) == first.term == Term(1, "a", 100.0, LEASE_S)
    first.check(100.0)


def test_while_it_is_held_nobody_else_gets_it_and_is_told_by_whom(lease):
    first, second = lease("host-1"), lease("host-2")
    first.take(100.0)
    for now_s in (101.0, 114.0):
        with pytest.raises(Conflict, match=r"controlled by host-1 \(term 1\)"):
            second.take(now_s)


def test_a_beat_prolongs_it(lease):
    first, second = lease("a"), lease("b")
    first.take(100.0)
    for now_s in range(105, 200, 5):
        first.beat(float(now_s))
        with pytest.raises(Conflict):
            second.take(float(now_s))
        first.check(float(now_s))


def test_a_silent_owner_is_followed_when_its_lease_ends(lease):
    first, second = lease("a"), lease("b")
    first.take(100.0)
    first.beat(105.0)
    with pytest.raises(Conflict, match=r"ends in 0.1 s"):
        second.take(119.9)
    assert second.take(120.0).number == 2


def test_an_owner_that_was_followed_is_told_by_beat_and_by_check(lease):
    first, second = lease("a"), lease("b")
    first.take(100.0)
    second.take(115.0)
    for act in (first.beat, first.check):
        with pytest.raises(LeaseLost, match="term 1 is over"):
            act(101.0)
    second.beat(116.0)
    second.check(116.0)


def test_an_owner_that_forgot_to_beat_must_not_act(lease):
    first = lease("a")
    first.take(100.0)
    first.check(114.9)
    with pytest.raises(LeaseLost, match=r"no beat for 15.0 s"):
        first.check(115.0)


def test_a_late_beat_renews_what_nobody_took(lease):
    first = lease("a")
    first.take(100.0)
    first.beat(200.0)
    first.check(201.0)


def test_who_holds_no_term_can_neither_beat_nor_act(lease):
    for act in (lease("a").beat, lease("a").check):
        with pytest.raises(LeaseLost, match="take one first"):
            act(100.0)


def test_a_restarted_host_waits_for_its_former_self(lease):
    lease("host-1, start 1").take(100.0)
    again = lease("host-1, start 2")
    with pytest.raises(Conflict):
        again.take(101.0)
    assert again.take(115.0).number == 2


def test_a_released_term_is_followed_at_once(lease):
    first, second = lease("a"), lease("b")
    first.take(100.0)
    first.release()
    with pytest.raises(LeaseLost):
        first.check(100.0)
    assert second.take(100.0).number == 2
    first.release()
    second.check(100.0)


def test_an_heir_need_not_wait_for_those_that_are_known_to_be_gone(lease):
    lease("pool.p.controller-1").take(100.0)
    with pytest.raises(Conflict):
        lease("stranger").take(101.0)
    with pytest.raises(Conflict):
        lease("pool.q.controller-1").take(101.0, heir_of="pool.q.")
    heir = lease("pool.p.controller-2")
    assert heir.take(101.0, heir_of="pool.p.").number == 2
    assert heir.take(102.0, heir_of="pool.p.").number == 2


def test_who_released_may_take_again(lease):
    first = lease("a")
    first.take(100.0)
    first.release()
    assert first.take(101.0).number == 2


def test_taking_what_one_holds_changes_nothing(lease, store):
    first = lease("a")
    term = first.take(100.0)
    assert first.take(110.0) == term
    assert store.list("lease/m") == ["lease/m/00000001.json"]


def test_a_term_whose_answer_got_lost_is_found_by_its_owner(lease, store, monkeypatch):
    real_put_new = store.put_new

    def put_new(path, data):
        real_put_new(path, data)
        raise StoreUnavailable(path)

    monkeypatch.setattr(store, "put_new", put_new)
    first = lease("a")
    with pytest.raises(StoreUnavailable):
        first.take(100.0)
    assert first.take(101.0) == Term(1, "a", 100.0, LEASE_S)


def test_of_racing_owners_one_gets_each_term(lease):
    lease("the last one").take(0.0)
    start = threading.Barrier(6)

    def take(number):
        owner = lease(f"racer {number}")
        start.wait()
        try:
            return owner.take(100.0)
        except Conflict:
            return None

    with ThreadPoolExecutor(6) as pool:
        terms = [term for term in pool.map(take, range(6)) if term]
    assert [term.number for term in terms] == [2]


def test_the_lease_of_the_holder_counts_not_that_of_the_contender(store):
    Lease(store, "m", "patient", 60.0).take(100.0)
    with pytest.raises(Conflict, match=r"ends in 40.0 s"):
        Lease(store, "m", "hasty", 1.0).take(120.0)


def test_terms_of_two_models_are_apart(store):
    Lease(store, "m", "a", LEASE_S).take(100.0)
    assert Lease(store, "n", "a", LEASE_S).take(100.0).number == 1


def test_an_owner_with_a_fast_clock_does_not_outlive_its_lease(lease):
    lease("an hour ahead").take(3700.0)
    contender = lease("b")
    with pytest.raises(Conflict):
        contender.take(100.0)
    with pytest.raises(Conflict):
        contender.take(114.0)
    assert contender.take(115.0).number == 2


def test_an_owner_with_a_fast_clock_that_beats_keeps_it(lease):
    first, contender = lease("an hour ahead"), lease("b")
    first.take(3700.0)
    for now_s in range(100, 200, 5):
        first.beat(3600.0 + now_s)
        with pytest.raises(Conflict):
            contender.take(float(now_s))


def test_a_file_that_is_no_term_is_named(lease, store):
    store.put("lease/m/00000001.json", b'{"owner":"a"}')
    with pytest.raises(CorruptBundle, match=r"lease/m/00000001.json: expected at_s, lease_s"):
        lease("b").take(100.0)


times = st.floats(0, 1e9)


@given(at_s=times, since_s=times, lease_s=st.floats(0.1, 1e4), now_s=times)
def test_a_term_is_free_a_lease_after_the_last_sign_of_life(at_s, since_s, lease_s, now_s):
    seen = Seen(Term(1, "a", 0.0, lease_s), Beat(at_s), since_s)
    free_s = now_s + seen.free_in_s(now_s)
    assert free_s <= at_s + lease_s + 1e-3
    assert free_s <= since_s + lease_s + 1e-3
    assert free_s >= min(at_s, since_s) + lease_s - 1e-3


def test_only_a_new_beat_is_a_sign_of_life():
    term = Term(1, "a", 0.0, LEASE_S)
    first = look_again(None, term, Beat(0.0), 10.0)
    assert look_again(first, term, Beat(0.0), 20.0) is first
    assert look_again(first, term, Beat(5.0), 20.0).since_s == 20.0
    assert look_again(first, Term(2, "b", 0.0, LEASE_S), Beat(0.0), 20.0).since_s == 20.0


def test_look_tells_who_controls_without_taking(lease, store):
    lease("a").take(100.0)
    watcher = lease("status")
    assert watcher.look(101.0).term.owner == "a"
    assert watcher.term is None
    assert store.list("lease/m") == ["lease/m/00000001.json"]
