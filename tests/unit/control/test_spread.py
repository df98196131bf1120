"""Replicas lie on several nodes, so that the loss of one is no outage."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hapredict.control.spread import (
    LOOKS,
    Move,
    Place,
    Settled,
    next_move,
)

NODES = ["n1", "n2", "n3"]


def placed(*nodes):
    return [Place(f"r{number}", node) for number, node in enumerate(nodes)]


def test_two_replicas_on_one_node_part_when_another_node_has_room():
    move = next_move(placed("n2", "n2"), {"n1": 4, "n2": 4}, 2, {"n1": "10.0.0.1"})
    assert move is not None
    assert move.source == "r0"
    assert "2 of 2 replicas are on node n2 and 0 on 10.0.0.1" in move.reason


def test_nobody_moves_while_a_replica_is_missing():
    assert next_move(placed("n2", "n2"), {"n1": 4}, 3, {}) is None


def test_nobody_moves_where_there_is_no_room():
    assert next_move(placed("n2", "n2"), {"n1": 0, "n2": 9}, 2, {}) is None


def test_a_single_replica_stays_where_it_is():
    assert next_move(placed("n2"), {"n1": 4}, 1, {}) is None


@given(
    st.lists(st.sampled_from(NODES), min_size=2, max_size=12),
    st.dictionaries(st.sampled_from(NODES), st.integers(0, 12)),
)
def test_moves_end_and_leave_no_node_with_two_more_than_one_that_has_room(nodes, room):
    places = placed(*nodes)
    room = dict(room)
    for _ in range(20):
        move = next_move(places, room, len(places), {})
        if move is None:
            break
        held = Counter(place.node for place in places)
        free = [node for node, more in room.items() if more > 0]
        goal = min(free, key=lambda node: held[node])
        room[goal] -= 1
        places = [Place(p.source, goal) if p.source == move.source else p for p in places]
    else:
        raise AssertionError("it goes on for ever")
    held = Counter(place.node for place in places)
    assert all(max(held.values()) - held[node] < 2 for node, more in room.items() if more > 0)


def test_a_move_is_believed_when_it_was_proposed_often_enough():
    settled, move = Settled(), Move("r0", "why")
    assert [settled.told(move) for _ in range(LOOKS)] == [None] * (LOOKS - 1) + [move]
    assert settled.told(move) is None


def test_a_look_that_says_otherwise_begins_anew():
    settled, move = Settled(), Move("r0", "why")
    for _ in range(LOOKS - 1):
        settled.told(move)
    settled.told(None)
    assert settled.told(move) is None
