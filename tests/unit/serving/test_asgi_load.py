"""The app when much happens at once, and what it does besides answering."""

import asyncio
import json
import logging
import threading

import pytest

from hapredict.errors import StoreUnavailable, TemporaryError
from hapredict.serving.asgi import App
from hapredict.serving.upkeep import upkeep_of
from tests.support.bundles import columns_of, rows_as_json, spec_of
from tests.support.serving import Clock, FakeReplica, ask, together

PREDICT = "/v1/models/orders:predict"
FAST = spec_of(serving={"catalog_poll_s": 1e-3}, monitoring={"report_s": 1e-3})


def _predict(app, rows, **options):
    return ask(app, "POST", PREDICT, {"instances": rows}, **options)


def _ids(got):
    return [row["prediction_id"] for row in got.json["predictions"]]


def test_requests_of_one_turn_share_one_call_and_each_gets_its_own_rows():
    replica = FakeReplica()
    app = App(replica, clock=Clock())
    got = together(*(_predict(app, rows_as_json(rows, seed=rows)) for rows in (1, 3, 2)))
    assert [_ids(each) for each in got] == [
        ["call1-0"],
        ["call1-1", "call1-2", "call1-3"],
        ["call1-4", "call1-5"],
    ]
    scores = [row["score"] for each in got for row in each.json["predictions"]]
    alone = asyncio.run(_predict(App(FakeReplica(), clock=Clock()), rows_as_json(6)))
    assert scores == [row["score"] for row in alone.json["predictions"]]
    assert replica.log == ["predict", "after call1-0"]


def test_what_cannot_be_grouped_is_answered_by_itself():
    replica = FakeReplica()
    app = App(replica, clock=Clock())
    pinned = ask(
        app, "POST", "/v1/models/orders/versions/2:predict", {"instances": rows_as_json(1)}
    )
    columns = {name: [value] for name, value in rows_as_json(1)[0].items()}
    bare = ask(app, "POST", "/v1/models/orders:predict", {"inputs": columns})
    first, second, third, fourth = together(
        _predict(app, rows_as_json(1)), pinned, bare, _predict(app, rows_as_json(1))
    )
    assert _ids(first) + _ids(fourth) == ["call1-0", "call1-1"]
    assert second.headers["x-model-version"] == "2"
    assert third.status == 200
    assert (
        sorted(replica.log) == ["after call1-0", "after call2-0", "after call3-0"] + ["predict"] * 3
    )


def test_a_group_is_no_larger_than_one_call_should_be():
    replica = FakeReplica()
    app = App(replica, clock=Clock())
    rows = rows_as_json(600)
    got = together(*(_predict(app, rows) for _ in range(3)))
    assert {each.status for each in got} == {200}
    assert replica.calls == 3


def test_a_request_that_breaks_the_model_does_not_break_its_neighbours():
    class Picky(FakeReplica):
        def predict(self, table, *, version=None, named=()):
            if 666.0 in table["distance"]:
                raise TemporaryError("a score that is not a number")
            return super().predict(table, version=version, named=named)

    app = App(Picky(), clock=Clock())
    bad = [{**rows_as_json(1)[0], "distance": 666}]
    got = together(*(_predict(app, rows) for rows in (rows_as_json(1), bad, rows_as_json(2))))
    assert [each.status for each in got] == [200, 503, 200]


def test_a_request_that_was_given_up_does_not_hold_back_the_records_of_others():
    replica = FakeReplica()
    app = App(replica, clock=Clock())

    async def scenario():
        given_up = asyncio.create_task(_predict(app, rows_as_json(1)))
        kept = asyncio.create_task(_predict(app, rows_as_json(1)))
        await asyncio.sleep(0)  # both wait for the model now
        given_up.cancel()
        return await kept

    assert asyncio.run(scenario()).status == 200
    assert replica.log == ["predict", "after call1-0"]


def test_beyond_the_limit_requests_are_refused_with_a_time_to_come_back():
    replica = FakeReplica(spec_of(serving={"max_ongoing_requests": 2}))
    app = App(replica, clock=Clock())
    got = together(*(_predict(app, rows_as_json(1)) for _ in range(4)), ask(app, "GET", "/livez"))
    assert [each.status for each in got] == [200, 200, 503, 503, 200]
    assert int(got[2].headers["retry-after"]) >= 1
    assert "2 requests in progress" in got[2].json["error"]
    text = asyncio.run(ask(app, "GET", "/metrics")).body.decode()
    assert 'hapredict_shed_total{model="orders",reason="ongoing"} 2.0' in text
    assert asyncio.run(_predict(app, rows_as_json(1))).status == 200


def test_a_deadline_that_is_over_is_refused_without_work():
    replica = FakeReplica()
    app = App(replica, clock=Clock())
    got = asyncio.run(_predict(app, rows_as_json(1), headers={"X-Deadline-Ms": "0"}))
    assert got.status == 504
    assert not replica.calls
    got = asyncio.run(_predict(app, rows_as_json(1), headers={"X-Deadline-Ms": "50"}))
    assert got.status == 200
    for wrong in ("soon", "nan", "1e3", ""):
        got = asyncio.run(_predict(app, rows_as_json(1), headers={"X-Deadline-Ms": wrong}))
        assert got.status == 400


def test_a_deadline_that_passes_in_the_queue_is_refused_without_work():
    clock, replica = Clock(), FakeReplica()
    app = App(replica, clock=clock)

    async def scenario():
        request = asyncio.create_task(
            _predict(app, rows_as_json(1), headers={"X-Deadline-Ms": "50"})
        )
        await asyncio.sleep(0)
        clock.now_s += 0.1
        return await request

    assert asyncio.run(scenario()).status == 504
    assert not replica.calls


def test_a_slow_disk_does_not_delay_predictions():
    replica = FakeReplica()
    free = threading.Event()
    replica.feedback = lambda _labels: free.wait(5)
    app = App(replica, clock=Clock())

    async def scenario():
        label = {"prediction_id": "p", "label": 1}
        waiting = asyncio.create_task(ask(app, "POST", "/v1/models/orders:feedback", label))
        answered = await _predict(app, rows_as_json(1))
        was_waiting = not waiting.done()
        free.set()
        return answered, was_waiting, await waiting

    answered, was_waiting, acknowledged = asyncio.run(scenario())
    assert (answered.status, was_waiting, acknowledged.status) == (200, True, 200)


async def _until(happened, *, turns=2000):
    for _ in range(turns):
        if happened():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never happened")


def test_a_server_that_speaks_lifespan_starts_and_ends_the_upkeep():
    replica = FakeReplica(FAST)
    app = App(replica, clock=Clock(), tick_s=0.001)

    async def scenario():
        inbox, sent = asyncio.Queue(), []

        async def send(message):
            sent.append(message["type"])

        life = asyncio.create_task(app({"type": "lifespan"}, inbox.get, send))
        await inbox.put({"type": "lifespan.startup"})
        await _until(lambda: min(map(replica.log.count, ("refresh", "tick", "report"))) > 1)
        assert sent == ["lifespan.startup.complete"]
        await inbox.put({"type": "lifespan.shutdown"})
        await life
        return sent, await ask(app, "GET", "/readyz")

    sent, ready = asyncio.run(scenario())
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert replica.log[-3:] == ["tick", "report", "close"]
    assert ready.status == 503
    assert ready.json["reasons"] == ["the replica is shutting down"]


def test_running_twice_runs_once_and_closing_twice_closes_once():
    replica = FakeReplica(FAST)
    app = App(replica, clock=Clock())

    async def scenario():
        runs = [asyncio.create_task(app.run()) for _ in range(2)]
        await _until(lambda: replica.log.count("report") > 1)
        await asyncio.gather(app.close(), app.close())
        await asyncio.gather(*runs)

    asyncio.run(scenario())
    assert replica.log.count("close") == 1


def test_an_app_that_never_ran_can_be_closed():
    replica = FakeReplica()
    asyncio.run(App(replica, clock=Clock()).close())
    assert replica.log == ["tick", "report", "close"]


def test_loops_outlive_failures_and_say_each_once(caplog):
    replica = FakeReplica(FAST)
    replica.faults["refresh"] = StoreUnavailable("no answer")
    replica.faults["report"] = OSError("disk full")
    upkeep = upkeep_of(replica, tick_s=0.001)

    async def scenario():
        running = asyncio.create_task(upkeep.run())
        await _until(lambda: min(map(replica.log.count, ("refresh", "tick", "report"))) > 3)
        replica.faults["report"] = OSError("disk gone")
        seen = replica.log.count("report")
        await _until(lambda: replica.log.count("report") > seen + 2)
        replica.faults.clear()
        seen = replica.log.count("report")
        await _until(lambda: replica.log.count("report") > seen + 2)
        await upkeep.close()
        await running

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    messages = [record.getMessage() for record in caplog.records]
    assert sorted(messages) == [
        "refresh failed, and will be tried again: StoreUnavailable: no answer",
        "refresh works again",
        "report failed, and will be tried again: OSError: disk full",
        "report failed, and will be tried again: OSError: disk gone",
        "report works again",
    ]


def test_a_failing_end_still_closes_the_replica():
    replica = FakeReplica()
    replica.faults.update(tick=OSError("disk full"), report=StoreUnavailable("away"))
    asyncio.run(App(replica, clock=Clock()).close())
    assert replica.log == ["tick", "report", "close"]


def test_other_scopes_are_refused():
    app = App(FakeReplica(), clock=Clock())
    with pytest.raises(ValueError, match="not websocket"):
        asyncio.run(app({"type": "websocket"}, None, None))


def test_a_large_request_is_answered_whole():
    app = App(FakeReplica(), clock=Clock())
    body = json.dumps({"inputs": columns_of(1000)}).encode()
    got = asyncio.run(ask(app, "POST", PREDICT, body))
    assert len(set(_ids(got))) == 1000
