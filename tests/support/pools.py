"""A pool without Ray: its app on a store, and models that are copies of one small bundle."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from hapredict.registry.catalog import Catalog, CatalogState, publish
from hapredict.registry.store import Store
from hapredict.serving.members import join
from hapredict.serving.pool_app import PoolApp
from hapredict.serving.pooled import Tenants
from hapredict.serving.scaling import LoadMeter
from tests.support.bundles import publish_linear, spec_of

POOL = "small_ones"
NOW_S = 1e9


def add_model(store, model, *, pool=POOL, spec=None, **linear):
    """Publish a linear model and put it into the pool."""
    spec = spec or spec_of(model)
    publish_linear(store, model, spec=spec, **linear)
    join(store, pool, spec)


def copy_model(store: Store, model, name, *, spec=None, pool=POOL):
    """Publish the champion of `model` once more, under another name, and put it into the pool."""
    state = Catalog(store, model).latest().state
    version = state.versions[state.champion]
    prefix = f"bundles/{model}/{version.digest}"
    # the manifest comes last: with it the bundle is whole
    for path in sorted(store.list(prefix), key=lambda path: path.endswith("manifest.json")):
        store.put_once(
            f"bundles/{name}/{version.digest}{path.removeprefix(prefix)}", store.get(path)
        )
    Catalog(store, name).append(
        None,
        publish(CatalogState(name), version),
        action="publish",
        reason="a copy",
        at_s=NOW_S,
        event_s=NOW_S,
        actor="test",
    )
    join(store, pool, spec or spec_of(name))


def pool_of(
    store, spool, *, memory_bytes=1 << 40, clock=time.time, pool=POOL, poll_s=0.05, threads=2
):
    """The app of a pool."""
    numbers = itertools.count(1)
    meter = LoadMeter(clock, time.process_time)
    return PoolApp(
        lambda told: Tenants(
            pool,
            store,
            lambda: f"r{next(numbers)}",
            spool,
            memory_bytes=memory_bytes,
            poll_s=poll_s,
            clock=clock,
            steady=time.monotonic,
            meter=meter,
            threads=ThreadPoolExecutor(threads),
            told=told,
        ),
        clock=clock,
        meter=meter,
        tick_s=0.01,
    )


@asynccontextmanager
async def running(app):
    """The app with its upkeep, as under a server."""
    import asyncio

    task = asyncio.create_task(app.run())
    await asyncio.sleep(0)
    try:
        yield app
    finally:
        await app.close()
        await task
