"""A pool on both data planes: the same answers, in their order, whichever model is asked."""

import asyncio
import json

import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hapredict.registry import catalog
from hapredict.registry.store import open_store
from hapredict.serving.fast_http import protocol_of
from hapredict.serving.journal import decode, predictions_prefix, unread
from tests.support.bundles import change, publish_linear, rows_as_json
from tests.support.planes import Caller, listening
from tests.support.pools import POOL, add_model, pool_of

MODELS = ("a", "b", "c")
GOOD = json.dumps({"instances": rows_as_json(2)}).encode()
MODEL_BYTES = 400_000


@pytest.fixture
def store(request):
    store = open_store(f"memory://{request.node.name}")
    for place, model in enumerate(MODELS):
        add_model(store, model, weights={"distance": float(place)})
    return store


def post(path, body=GOOD):
    head = f"POST /{POOL}{path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def below_root(app):
    async def mounted(scope, receive, send):
        if scope["type"] == "http":
            scope["root_path"] = f"/{POOL}"
        await app(scope, receive, send)

    return mounted


def said(store, spool, plane, requests, **options):
    """What the pool answers to requests that come together."""

    async def main():
        app = pool_of(store, spool, **options)
        http = protocol_of(app, app.paths) if plane == "fast" else HttpToolsProtocol
        async with listening(below_root(app), http) as (port, _server):
            caller = await Caller.at(port)
            await caller.send([b"".join(requests)])
            got = await caller.hear(len(requests))
            await caller.leave()
        return [(reply.status, reply.json if reply.status == 200 else reply.body) for reply in got]

    return asyncio.run(main())


def paths(model):
    return (
        f"/v1/models/{model}:predict",
        f"/{model}/v1/models/{model}:predict",
        f"/v2/models/{model}/infer",
        f"/v1/models/{model}/versions/1:predict",
    )


def seen(answers):
    """Answers without their ids, which tell when each model was loaded."""
    told = []
    for status, body in answers:
        if isinstance(body, dict):
            for row in body.get("predictions", ()):
                del row["prediction_id"]
        told.append((status, body))
    return told


def test_both_planes_answer_the_same_and_in_order(store, tmp_path):
    requests = [post(path) for _ in range(2) for model in MODELS for path in paths(model)]
    requests += [post("/v1/models/nobody:predict"), post(paths("a")[0], b"{")]
    fast, standard = (
        seen(said(store, tmp_path / plane, plane, requests)) for plane in ("fast", "standard")
    )
    assert fast == standard
    assert [status for status, _ in fast].count(200) == 18  # all but v2's rows, "nobody" and "{"
    named = [body["model_name"] for status, body in fast if status == 200]
    assert named == [model for _ in range(2) for model in MODELS for _ in range(3)]


def test_a_model_that_goes_between_head_and_body_is_asked_for_again(store, tmp_path):
    async def main():
        app = pool_of(store, tmp_path)
        async with listening(below_root(app), protocol_of(app, app.paths)) as (port, _server):
            caller = await Caller.at(port)
            await caller.send([post(paths("a")[0])])
            await caller.hear(1)
            request = post(paths("a")[0])
            await caller.send([request[:-10]])
            await asyncio.sleep(0.05)
            app._tenants.tenancy.drop("a")
            await caller.send([request[-10:]])
            assert [reply.status for reply in await caller.hear(2)] == [200, 503]
            await caller.send([request])
            assert (await caller.hear(3))[-1].status == 200
            await caller.leave()

    asyncio.run(main())


def test_rows_of_models_that_come_and_go_are_recorded_once_under_one_source(store, tmp_path):
    requests = [post(paths(model)[0]) for _ in range(4) for model in MODELS]
    answers = said(store, tmp_path, "fast", requests, memory_bytes=MODEL_BYTES)
    assert {status for status, _ in answers} == {200}
    for model in MODELS:
        ids = {
            row["prediction_id"]
            for _, body in answers
            if body["model_name"] == model
            for row in body["predictions"]
        }
        parts = list(unread(store, predictions_prefix(model), {}))
        recorded = [one for _, _, path in parts for one in decode(store.get(path)).ids]
        assert sorted(recorded) == sorted(ids)
        assert len(ids) == 8
        assert len({source for source, _, _ in parts}) == 1


def test_an_unknown_name_costs_no_look_at_the_store_each_time(store, tmp_path):
    looks = []
    listed = type(store).list

    class Counted(type(store)):
        def list(self, prefix, after=None):
            looks.append(prefix)
            return listed(self, prefix, after)

    counted = Counted(store.url, store._inner)
    requests = [post(f"/v1/models/nobody_{place}:predict") for place in range(200)]
    answers = said(counted, tmp_path, "standard", requests)
    assert {status for status, _ in answers} == {404}
    assert len(looks) <= 10
    assert b"known: a, b, c" in answers[0][1]


def test_a_promotion_and_a_new_spec_reach_a_loaded_model(store, tmp_path):
    async def main():
        from hapredict.serving.members import join
        from tests.support.bundles import spec_of
        from tests.support.pools import running
        from tests.support.serving import ask

        async def answered():
            got = await ask(app, "POST", paths("a")[0], GOOD)
            assert got.status == 200
            return got.json["model_version"], {row["decision"] for row in got.json["predictions"]}

        async def until(wanted):
            for _ in range(1000):
                if wanted(await answered()):
                    return
                await asyncio.sleep(0.01)
            raise AssertionError(await answered())

        app = pool_of(store, tmp_path)
        async with running(app):
            assert (await answered())[0] == 1
            publish_linear(store, "a", weights={"distance": 3.0})
            change(store, catalog.shadow, 2, 10.0, model="a")
            change(store, catalog.promote, 20.0, model="a")
            await until(lambda said: said[0] == 2)
            join(store, POOL, spec_of("a", serving={"threshold": 0.0}))
            await until(lambda said: said[1] == {"yes"})
            join(store, POOL, spec_of("a", serving={"threshold": 1.0}))
            await until(lambda said: said[1] == {"no"})

    asyncio.run(main())
