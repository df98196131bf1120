"""A request that is sent again under its key is one prediction, and answered alike."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapredict.errors import BadRequest, TemporaryError
from hapredict.serving.asgi import App
from hapredict.serving.ids import with_keys
from hapredict.serving.repeats import KEY, KEY_MAX, Repeats, key_among, read_key
from hapredict.serving.replies import Reply
from tests.support.bundles import rows_as_json
from tests.support.serving import Clock, FakeReplica, ask, together

PREDICT = "/v1/models/orders:predict"
KEYED = {"Idempotency-Key": "order-4711"}


@pytest.fixture
def replica():
    return FakeReplica()


@pytest.fixture
def app(replica):
    return App(replica, clock=Clock())


def rows(count=1):
    return {"instances": rows_as_json(count)}


def send(app, *requests):
    """Requests of rows and a key, one after the other."""

    async def all_of_them():
        return [
            await ask(app, "POST", PREDICT, rows(count), headers={"Idempotency-Key": key})
            for count, key in requests
        ]

    return asyncio.run(all_of_them())


def ids(got):
    return [row["prediction_id"] for row in got.json["predictions"]]


def test_the_key_is_the_id_of_a_row_and_begins_those_of_several(app):
    one, three = send(app, (1, "order-4711"), (3, '"quoted"'))
    assert ids(one) == ["order-4711"]
    assert ids(three) == ["quoted-0", "quoted-1", "quoted-2"]


def test_who_asks_again_gets_the_same_and_nothing_is_asked_or_recorded_anew(app, replica):
    first, again = send(app, (2, "k"), (2, "k"))
    assert again.body == first.body
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (
        None,
        "true",
    )
    assert again.headers["x-model-version"] == first.headers["x-model-version"]
    assert replica.calls == 1
    assert replica.log.count("after k-0") == 1


def test_two_at_once_are_one_prediction(app, replica):
    asked = [ask(app, "POST", PREDICT, rows(), headers=KEYED) for _ in range(3)]
    got = together(*asked)
    assert [one.status for one in got] == [200] * 3
    assert len({one.body for one in got}) == 1
    assert (replica.calls, replica.log.count("after order-4711")) == (1, 1)


def test_a_key_that_was_another_requests_is_refused(app):
    first, other = send(app, (1, "k"), (2, "k"))
    assert (first.status, other.status) == (200, 409)
    assert "'k' was sent with another request" in other.json["error"]


def test_a_version_asked_for_is_another_request(app):
    async def both():
        await ask(app, "POST", PREDICT, rows(), headers=KEYED)
        path = "/v1/models/orders/versions/2:predict"
        return await ask(app, "POST", path, rows(), headers=KEYED)

    assert asyncio.run(both()).status == 409


def test_what_failed_is_asked_anew(app, replica):
    replica.faults["predict"] = TemporaryError("away")
    (failed,) = send(app, (1, "k"))
    replica.faults.clear()
    (again,) = send(app, (1, "k"))
    assert (failed.status, again.status) == (503, 200)
    assert "idempotent-replayed" not in again.headers


def test_nobody_is_told_again_who_waits_no_more(app):
    send(app, (1, "order-4711"))
    late = {**KEYED, "X-Deadline-Ms": "-1"}
    assert asyncio.run(ask(app, "POST", PREDICT, rows(), headers=late)).status == 504


def test_what_was_refused_is_judged_anew(app):
    async def both():
        bad = await ask(app, "POST", PREDICT, {"instances": [{"x": 1}]}, headers=KEYED)
        return bad, await ask(app, "POST", PREDICT, rows(), headers=KEYED)

    bad, good = asyncio.run(both())
    assert (bad.status, good.status) == (422, 200)


def test_neighbours_of_one_call_keep_their_own_ids(app, replica):
    plain = ask(app, "POST", PREDICT, rows(2))
    keyed = ask(app, "POST", PREDICT, rows(2), headers=KEYED)
    first, second = together(plain, keyed)
    assert replica.calls == 1
    assert ids(first) == ["call1-0", "call1-1"]
    assert ids(second) == ["order-4711-0", "order-4711-1"]


@pytest.mark.parametrize("key", ["", "a b", "x" * (KEY_MAX + 1), "schlüssel", "a\tb"])
def test_a_key_that_can_be_no_id_is_refused(app, key):
    got = asyncio.run(ask(app, "POST", PREDICT, rows(), headers={"Idempotency-Key": key}))
    assert got.status == 400
    assert "1 to 190 visible ASCII characters" in got.json["error"]


def test_keys_come_in_metadata_too():
    assert key_among([("other", "x"), ("idempotency-key", "k")]) == "k"
    assert key_among([]) == ""
    with pytest.raises(BadRequest):
        key_among([("idempotency-key", b"\xff")])


def test_feedback_takes_the_key(app, replica):
    send(app, (1, "k"))
    body = {"prediction_id": "k", "label": "yes"}
    got = asyncio.run(ask(app, "POST", "/v1/models/orders:feedback", body))
    assert got.status == 200
    assert replica.labels[0].id == "k"


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=3, max_size=190))
def test_any_visible_key_is_taken_as_it_is_or_without_its_quotes(key):
    told = read_key({KEY: key.encode()})
    assert told == (key[1:-1] if key[0] == key[-1] == '"' else key)


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=6))
def test_ids_of_others_stay(requests):
    named, start = [], 0
    for place, (count, keyed) in enumerate(requests):
        if keyed:
            named.append((start, start + count, f"key{place}"))
        start += count
    own = tuple(f"own-{row}" for row in range(start))
    mixed = with_keys(own, named)
    assert len(set(mixed)) == len(mixed) == start
    theirs = {row for first, last, _ in named for row in range(first, last)}
    assert [i for i in range(start) if mixed[i] != own[i]] == sorted(theirs)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3000)), max_size=60),
    st.integers(1, 8),
)
def test_it_remembers_the_last_and_no_more_than_it_may(requests, replies_max):
    repeats, told = Repeats(replies_max=replies_max, bytes_max=6000), []
    for number, (key, size) in enumerate(requests):
        name = f"k{key}"
        first = repeats.first(name, b"same", told.append)
        if first is not None:
            first(Reply(200, b"x" * size))
        assert len(told) == number + 1
        assert len(repeats._known) <= replies_max
        assert sum(len(known.reply.body) for known in repeats._known.values()) <= 6000


def test_bodies_are_json_of_the_same_bytes(app):
    """What is compared is the request as it was sent."""
    body = json.dumps(rows())

    async def both():
        return [
            await ask(app, "POST", PREDICT, text.encode(), headers=KEYED)
            for text in (body, body + " ")
        ]

    assert [got.status for got in asyncio.run(both())] == [200, 409]
