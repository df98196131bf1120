"""What `hapredict apply` does: a spec becomes a model that is trained, served, watched and led.

Everything is written to the store first and done by detached actors; whoever applies may leave at
any moment and the rest happens all the same. Applying the same spec again changes nothing.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import serve

from hapredict.control import runs
from hapredict.control.ray_embedded import DEFAULT_GRPC_PORT, DEFAULT_PORT, find
from hapredict.control.ray_placing import enter, former_places, former_pool, lead, serve_there
from hapredict.control.ray_pool_control import controller_reason
from hapredict.control.ray_status import check_data
from hapredict.control.specs import read_spec, remember, store_url, url_path, write_spec
from hapredict.errors import (
    Conflict,
    GateRefused,
    NotFound,
    TimedOut,
    TrainingFailed,
)
from hapredict.registry.bundle import load
from hapredict.registry.catalog import Catalog, Entry, resume
from hapredict.registry.store import Store, open_store
from hapredict.serving.decisions import check_costs
from hapredict.serving.ray_serve import start_serve
from hapredict.serving.risk import check_rules
from hapredict.spec import Spec

LOOK_S = 0.2

Tell = Callable[[str, runs.Record | None], None]
"""Hears what is going on: a sentence, and the run if there is one."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply came to."""

    model: str
    url: str
    """Where the model answers."""
    entry: Entry
    """The catalog's latest entry."""
    changed: bool
    """Whether the spec differs from the one before."""
    record: runs.Record | None = None
    """The training that was waited for."""


def ingress(home: Path) -> tuple[str, int, int]:
    """Address at which Serve listens, and its ports for HTTP and gRPC."""
    try:
        found = find(home)
    except NotFound:
        host = os.environ.get("HAPREDICT_HTTP_HOST", "0.0.0.0")  # noqa: S104
        return host, DEFAULT_PORT, DEFAULT_GRPC_PORT
    return "127.0.0.1", found.serve_port, found.grpc_port


def apply(spec: Spec, home: Path, tell: Tell, *, wait_s: float) -> Applied:
    """Make it so. Returns when the model answers on every replica.

    Raises DataError before anything is stored or started if the data cannot be learned from,
    SpecError if the model does not go with the others of its pool or its alerts name what it does
    not have, GateRefused if the spec's costs do not fit its classes; TrainingFailed or GateRefused
    if no first model came of them, TimedOut after `wait_s` (everything goes on without us),
    ClusterUnavailable, StoreUnavailable.
    """
    deadline_s = time.monotonic() + wait_s
    url = store_url(spec, home)
    store = open_store(url)
    catalog = Catalog(store, spec.name)
    before = catalog.latest()
    if before is None or before.state.champion is None or _reads_other_data(store, spec):
        tell("reading the data", None)
        check_data(spec, home)
    elif spec.serving.costs or spec.alerts.rules:
        champion = before.state.versions[before.state.champion]
        schema = load(store, spec.name, champion.digest).schema
        check_costs(spec.serving, schema)
        check_rules(spec.alerts, schema)
    known, former = former_pool(store, spec.name)
    settings = enter(store, spec, home)
    number, changed = write_spec(store, spec)
    remember(home, spec.name, url)
    before = _begin_again(catalog)
    if changed and number > 1 and before is not None and before.state.champion is not None:
        _retrain_if_learning_changed(store, spec, before)
    tell(f"spec {number} is stored in {url}", None)
    lead(store, spec, home, former, known=known)
    host, port, grpc_port = ingress(home)
    start_serve(port, grpc_port, host)
    serve_there(store, spec, settings, home, lambda what: tell(what, None), changed=changed)
    record = _first_model(store, catalog, spec, number, tell, deadline_s, before)
    _replicas_ready(spec, settings.min_replicas, deadline_s)
    for place in former_places(store, spec.name, home):
        tell(f"it still answers at {place} too; `hapredict retire {spec.name}` ends that", None)
    entry = catalog.latest()
    if entry is None:
        raise NotFound(f"the catalog of {spec.name!r} disappeared from {url}")
    shown = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104
    url = f"http://{shown}:{port}/{url_path(spec)}"
    return Applied(spec.name, url, entry, changed, record)


def _retrain_if_learning_changed(store: Store, spec: Spec, entry: Entry) -> None:
    champion = entry.state.champion
    if champion is None:
        return
    old = load(store, spec.name, entry.state.versions[champion].digest).spec
    changed = [
        section
        for section in ("data", "features", "training")
        if getattr(old, section) != getattr(spec, section)
    ]
    if changed:
        runs.request_retrain(store, spec.name, f"the spec changed in {', '.join(changed)}")


def _reads_other_data(store: Store, spec: Spec) -> bool:
    try:
        return read_spec(store, spec.name).data != spec.data
    except NotFound:
        return True


def _begin_again(catalog: Catalog) -> Entry | None:
    """The latest entry; before the first model, one in which earlier failures are forgotten.

    Whoever applies again after them has changed something, or wants to know.
    """
    while True:
        entry = catalog.latest()
        if entry is None or entry.state.champion is not None or not entry.state.paused:
            return entry
        with contextlib.suppress(Conflict):
            return catalog.append(
                entry,
                resume(entry.state),
                action="Resume",
                reason="the spec was applied again",
                at_s=time.time(),
                event_s=entry.event_s,
                actor="apply",
            )


def _first_model(
    store: Store,
    catalog: Catalog,
    spec: Spec,
    number: int,
    tell: Tell,
    deadline_s: float,
    before: Entry | None,
) -> runs.Record | None:
    """Wait for a champion; the record of the run that made it, if there was none before."""
    seen, run = 0, ""
    if before is not None:
        if before.state.champion is not None:
            tell(f"v{before.state.champion} is champion", None)
            return None
        seen, run = before.sequence, before.state.training
    while True:
        for entry in catalog.entries(seen):
            seen = entry.sequence
            state = entry.state
            if state.champion is not None:
                record = runs.noted(store, spec.name, run) if run else None
                tell(f"v{state.champion} is champion", record)
                return record
            # a run of an earlier spec says nothing about this one
            if entry.action == "RejectRun" and runs.asked(store, spec.name, run).spec == number:
                refused = runs.noted(store, spec.name, run)
                kind = TrainingFailed if refused is None or refused.verdict is None else GateRefused
                raise kind(entry.reason)
            if state.paused:
                raise TrainingFailed(f"control of {spec.name!r} is paused: {state.paused}")
            run = state.training or run
        record = runs.noted(store, spec.name, run) if run else None
        tell(record.detail if record else controller_reason(store, spec.name), record)
        _wait(deadline_s, f"the first model of {spec.name!r} is not there yet; it goes on alone")


def _replicas_ready(spec: Spec, replicas: int, deadline_s: float) -> None:
    pool = spec.serving.pool
    handle: Any = serve.get_app_handle(pool or spec.name)
    ready: set[int] = set()
    while len(ready) < replicas:
        asked = handle.detail.remote() if pool is None else handle.detail.remote(spec.name)
        detail = asked.result(timeout_s=30)
        if detail["ready"]:
            ready.add(detail["pid"])
        _wait(deadline_s, f"the replicas of {spec.name!r} have not loaded the model yet")


def _wait(deadline_s: float, what: str) -> None:
    if time.monotonic() > deadline_s:
        raise TimedOut(what)
    time.sleep(LOOK_S)
