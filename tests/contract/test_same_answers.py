"""One request, several ways in: over HTTP, gRPC and from Python the same is said and recorded."""

import asyncio
from dataclasses import fields

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapredict.errors import HapredictError
from hapredict.registry import catalog
from hapredict.registry.store import open_store
from hapredict.serving.asgi import App
from hapredict.serving.journal import decode, merge, predictions_prefix, unread
from hapredict.serving.members import join
from hapredict.serving.protocols import WIRE_PROTOCOLS
from hapredict.serving.replica import Replica
from tests.support.bundles import (
    CATEGORIES,
    MODEL,
    NUMBERS,
    START_S,
    change,
    columns_of,
    publish_linear,
    schema_of,
    spec_of,
)
from tests.support.grpc_calls import predictions_in, request_of, serving, stub
from tests.support.pools import POOL, pool_of
from tests.support.serving import ask

OVER_HTTP = {"rows": "instances", "columns": "inputs", "tensors": "v2", "bytes": "v2_binary"}
"""Wire protocols by the ways in that speak them."""
POOLED = ("pool", "pool python", "pool raw")
"""Ways to the same model in a pool: one of each kind."""
WAYS = (*OVER_HTTP, "python", "messages", "raw", *POOLED)
OVER_GRPC = ("messages", "raw", "pool raw")
STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: (400, 413, 422),
    grpc.StatusCode.NOT_FOUND: (404,),
}
"""Which status over HTTP a status of gRPC stands for."""

TASKS = {"binary": ("no", "yes"), "multiclass": ("a", "ß", "客服"), "regression": ()}
numbers = st.none() | st.floats(-1e6, 1e6) | st.integers(-1000, 1000)
levels = st.none() | st.sampled_from(["UA", "AA", "男", "unseen"]) | st.booleans()
moments = st.floats(START_S, START_S + 1e6)
ids = st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@st.composite
def columns(draw):
    """Columns that fit the schema."""
    rows = draw(st.integers(1, 4))
    kinds = {**dict.fromkeys(NUMBERS, numbers), **dict.fromkeys(CATEGORIES, levels)}
    kinds |= {"at": moments, "order": ids}
    return {
        name: draw(st.lists(kind, min_size=rows, max_size=rows)) for name, kind in kinds.items()
    }


class Doors:
    """The same replica once a way in, each with a store of its own; `runner` is their event loop.

    What they answer depends on what they were asked before, so each is asked the same.
    """

    def __init__(self, name, runner, schema, extras, spool):
        self.runner, self.spool = runner, spool
        self.stores = {way: open_store(f"memory://{name}-{way}") for way in WAYS}
        self.apps = {way: self._app(way, schema, extras) for way in WAYS}
        self.channels = {}

    def _app(self, way, schema, extras):
        store = self.stores[way]
        spec = spec_of(serving={"rows_max": 5})
        publish_linear(store, spec=spec, schema=schema, extras=extras)
        publish_linear(store, spec=spec, schema=schema, weights={"distance": 3.0})
        change(store, catalog.shadow, 2, 10.0)
        change(store, catalog.share, 0.5, 20.0)
        if way in POOLED:
            join(store, POOL, spec)
            return pool_of(store, self.spool / way, clock=lambda: 1e9)
        replica = Replica(store, MODEL, "r1", self.spool / way, lambda: 1e9, spec=spec)
        replica.refresh()
        return App(replica, clock=lambda: 1e9)

    def ask(self, columns, version=None):
        """What each way says: predictions, or the error's sentence and its status over HTTP."""

        async def all_ways():
            return {way: await self._ask(way, columns, version) for way in WAYS}

        return self.runner.run(all_ways())

    async def _ask(self, way, columns, version):
        app = self.apps[way]
        if way in ("python", "pool python"):
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values())]  # noqa: B905
            named = (MODEL,) if way in POOLED else ()
            try:
                said = await app.predict_rows(*named, rows, version=version)
            except HapredictError as error:
                return str(error), getattr(error, "status", 404)
            await asyncio.sleep(0)
            return said
        if way not in OVER_GRPC:
            protocol = WIRE_PROTOCOLS.find(OVER_HTTP.get(way, "instances"))
            path = protocol.path if version is None else protocol.versioned_path
            path = path.format(model=MODEL, version=version)
            sent = protocol.encode_request(columns)
            headers = {name.decode(): value.decode() for name, value in sent.headers}
            got = await ask(app, "POST", path, sent.body, headers=headers)
            if got.status != 200:
                return got.json["error"], got.status
            told = {name.encode(): value.encode() for name, value in got.headers.items()}
            return _present(protocol.decode_response(got.body, told).predictions)
        sent = {} if version is None else {"model_version": str(version)}
        message = request_of(columns, MODEL, raw=way.endswith("raw"), **sent)
        try:
            return predictions_in(await stub(self.channels[way], "ModelInfer")(message, timeout=30))
        except grpc.aio.AioRpcError as error:
            return error.details(), STATUS[error.code()]

    def recorded(self):
        """What each way has in its journal."""
        found = {}
        for way, app in self.apps.items():
            holder = app.tenant(MODEL) if way in POOLED else app
            holder.replica.report()
            store = self.stores[way]
            paths = [path for _, _, path in unread(store, predictions_prefix(MODEL), {})]
            parts = [decode(store.get(path)) for path in paths]
            found[way] = merge(parts, source="all", seq=1, model=MODEL)
        return found


def _present(rows):
    names = [field.name for field in fields(rows[0])]
    told = [{name: getattr(row, name) for name in names} for row in rows]
    return [{name: value for name, value in row.items() if value is not None} for row in told]


@pytest.fixture(params=TASKS, scope="module")
def doors(request, tmp_path_factory):
    schema = schema_of(TASKS[request.param], request.param)
    extras = ("q0.1", "q0.9", "uncertainty") if request.param == "regression" else ()
    with asyncio.Runner() as runner:
        doors = Doors(
            f"doors-{request.param}", runner, schema, extras, tmp_path_factory.mktemp("spool")
        )
        served = {way: serving(doors.apps[way]) for way in OVER_GRPC}

        async def enter():
            return {way: await one.__aenter__() for way, one in served.items()}

        async def leave():
            for one in served.values():
                await one.__aexit__(None, None, None)

        doors.channels = runner.run(enter())
        yield doors
        runner.run(leave())


@settings(max_examples=15)
@given(columns=columns(), version=st.sampled_from([None, 1, 2]))
def test_each_way_answers_the_same(doors, columns, version):
    said = doors.ask(columns, version)
    assert {row["model_version"] for row in said["rows"]} <= {1, 2}
    for way in WAYS:
        assert said[way] == said["rows"], way


@settings(max_examples=15)
@given(data=st.data())
def test_each_way_refuses_with_the_same_sentence(doors, data):
    columns, faults = (
        columns_of(3, seed=data.draw(st.integers(0, 9))),
        data.draw(st.sets(st.sampled_from(list(FAULTS)), min_size=1)),
    )
    for fault in sorted(faults):
        FAULTS[fault](columns)
    version = data.draw(st.sampled_from([None, 99])) if faults != {"many rows"} else None
    said = doors.ask(columns, version)
    sentence, status = said["rows"]
    for way in WAYS:
        other, others = said[way]
        assert other == sentence, way
        assert status == others if isinstance(others, int) else status in others, way


FAULTS = {
    "an unknown column": lambda columns: columns.update(distanze=[1.0] * len(columns["order"])),
    "a missing column": lambda columns: columns.pop("carrier", None),
    "a text for a number": lambda columns: columns.update(收入=["x"] * len(columns["order"])),
    "no time": lambda columns: columns.update(at=[1e15] * len(columns["order"])),
    "many rows": lambda columns: columns.update(
        {name: (6 * values)[:6] for name, values in columns.items()}
    ),
}
"""What spoils columns; each way can say it."""


def test_an_unknown_version_is_told_the_same(doors):
    said = doors.ask(columns_of(2), 99)
    for way in WAYS:
        assert said[way][0] == said["rows"][0]
    assert "99" in said["rows"][0]


def test_each_way_records_the_same(doors):
    for seed in range(4):
        doors.ask(columns_of(5, seed=seed))
    found = doors.recorded()
    one = found["rows"]
    assert one.rows >= 20
    for way in WAYS:
        other = found[way]
        assert (other.ids, other.keys) == (one.ids, one.keys), way
        for name in ("at_s", "event_s", "versions", "scores", "other_versions", "other_scores"):
            np.testing.assert_array_equal(getattr(other, name), getattr(one, name), way)
        for name, column in one.table.items():
            np.testing.assert_array_equal(other.table[name], column, way)
